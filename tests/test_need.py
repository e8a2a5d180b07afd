"""The tests' own instruments: a gauge that always reads zero would let every leak pass."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from _need import (
    REQUIRE_VARIABLE,
    call_in_new_netns,
    find_program,
    in_new_netns,
    need,
    netns_command,
    why_not,
)
from _processes import HANG_S

HERE = Path(__file__).parent


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return an empty project whose tests live under our conftest.py and find `_need`."""
    pytester.makeconftest((HERE / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini(f"[pytest]\npythonpath = {HERE}\nmarkers = leaks\n")
    return pytester


def run(inner: pytest.Pytester) -> pytest.RunResult:
    """Run the inner tests in a process of their own, with as few plugins as may be."""
    return inner.runpytest_subprocess("-p", "no:randomly", "-p", "no:xdist")


def test_a_test_that_leaves_something_fails(inner: pytest.Pytester) -> None:
    """What a test leaves open or running is named, and the marker `leaks` allows it."""
    need.capability("proc")
    inner.makepyfile(
        """
        import atexit, os, pytest, subprocess

        @atexit.register
        def end_them():
            for child in children:
                child.kill()
                child.wait()

        pipes, children = [], []

        def test_leaves_descriptors(): pipes.append(os.pipe())
        def test_leaves_a_process(): children.append(subprocess.Popen(["sleep", "60"]))

        @pytest.mark.leaks
        def test_leaves_descriptors_on_purpose(): pipes.append(os.pipe())
        """
    )
    result = run(inner)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.re_match_lines(
        [".*the test left behind.*", ".*fd [0-9]+: pipe:.*", ".*child process [0-9]+: sleep 60.*"]
    )


def test_a_test_that_cleans_up_passes(inner: pytest.Pytester) -> None:
    """Descriptors and children that are gone by the end of the test are no leak."""
    inner.makepyfile(
        """
        import socket, subprocess

        def test_cleans_up():
            socket.socket().close()
            subprocess.run(["true"], check=True)
        """
    )
    run(inner).assert_outcomes(passed=1)


@pytest.mark.parametrize(("required", "outcome"), [("0", "skipped"), ("1", "failed")])
def test_what_is_missing_skips_or_fails(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: str, outcome: str
) -> None:
    """A missing program or capability skips the test; with PORTLEASE_REQUIRE=1 it fails it."""
    monkeypatch.setenv(REQUIRE_VARIABLE, required)
    inner.makepyfile(
        """
        import _need

        def no_moon(): raise _need._Unavailable("it has set")
        _need._PROBES["moon"] = no_moon

        def test_program(): _need.need.program("no-such-program")
        def test_capability(): _need.need.capability("moon")
        def test_module(): _need.need.module("no_such_module")
        def test_module_of_no_package(): _need.need.module("no_such_package.module")

        def test_python():
            _need._PROBES["other_user"] = lambda: None
            _need._python_of = lambda uid: None
            _need.need.everybodys_python()
        """
    )
    run(inner).assert_outcomes(**{outcome: 5})


def test_everybodys_python_is_one_that_nobody_can_run() -> None:
    """A user who is not root runs it, outside of all that is root's own."""
    need.capability("other_user")
    command = [need.everybodys_python(), "-c", "import os; print(os.getuid())"]
    done = subprocess.run(
        command, user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, check=True
    )
    assert done.stdout == b"65534\n"


def test_what_a_module_returns_comes_out_of_a_namespace(tmp_path: Path) -> None:
    """Called there, with its arguments; an error in it is this test's."""
    (tmp_path / "called.py").write_text("def half(number):\n    return {'half': number // 2}\n")
    module = str(tmp_path / "called.py")
    assert call_in_new_netns(module, "half(7)") == {"half": 3}
    with pytest.raises(AssertionError, match="TypeError"):
        call_in_new_netns(module, "half('')")


def test_an_unknown_capability_is_an_error() -> None:
    """A misspelt capability must not skip a test for ever."""
    with pytest.raises(KeyError, match="netsn"):
        need.capability("netsn")


def test_programs_are_found_outside_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers live in /usr/sbin, which an ordinary user's PATH may lack."""
    outside = next(
        (path for path in sorted(Path("/usr/sbin").glob("*")) if os.access(path, os.X_OK)), None
    )
    if outside is None:
        pytest.skip("/usr/sbin has no programs")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_program(outside.name) is not None


def test_network_namespace_is_private() -> None:
    """A script in a namespace has lo, the range it was given, and not our ports."""
    with socket.create_server(("127.0.0.1", 0)) as ours:
        done = in_new_netns(
            """
            import pathlib, socket, sys
            socket.create_server(("127.0.0.1", int(sys.argv[1]))).close()
            print(*pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
            """,
            str(ours.getsockname()[1]),
            ephemeral=(40000, 40063),
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "40000 40063\n", "")


def test_network_namespace_has_ipv6() -> None:
    """Where the machine has IPv6, so has the namespace."""
    need.capability("ipv6")
    done = in_new_netns("import socket; socket.create_server(('::1', 0), family=socket.AF_INET6)")
    assert done.returncode == 0, done.stderr


def test_network_namespace_keeps_the_process_id() -> None:
    """The process started is the command itself, so that signals reach it."""
    script = "import os; print(os.getpid())"
    with subprocess.Popen(
        netns_command([sys.executable, "-c", script]), stdout=subprocess.PIPE, text=True
    ) as process:
        out, _ = process.communicate(timeout=HANG_S)
    assert int(out) == process.pid


def test_a_script_that_hangs_is_ended_with_its_children() -> None:
    """The hang guard reaches what the script started: its output pipe is closed."""
    need.capability("netns")
    with pytest.raises(pytest.fail.Exception, match=r"hung for 0\.5 s"):
        in_new_netns(
            """
            import subprocess
            subprocess.run(["sleep", "60"])
            """,
            timeout_s=0.5,
        )


def test_reasons_are_one_line() -> None:
    """Whatever this machine cannot do, the reason fits the summary of a test run."""
    for capability in ("ipv6", "netns", "seccomp", "inet_diag", "root"):
        reason = why_not(capability)
        assert reason is None or "\n" not in reason
