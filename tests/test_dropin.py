"""CPython's own network tests, with its own helpers and with portlease's: test by test the same.

Each module is run twice by an interpreter that has it, once as it is and once with
`portlease.socket_helper` and `portlease.script_helper` in place of the originals, and the outcomes
of each test are compared: passed, failed, error, skipped and why, expected failure. A good part of
a module runs by default, on this interpreter; all of all modules, on all interpreters, with
`-m dropin_full`.

Some of CPython's tests are flaky by themselves, so a test whose outcomes differ is run again,
alone, under both, twice at most, and differs only if it does so each time. What was run again is
told at the end of the run.

Where there are network namespaces each of the two runs has one of its own. So they can run side by
side although some tests use fixed names, and nothing reaches the network; the runner sees to the
latter by itself, too.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

import _interpreters
import _need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytest_plugins = ["_dropin_report"]

RUNNER: Final = Path(__file__).parent / "dropin" / "run_module.py"
RERUNS: Final = 2
# Below pytest's own limit (faulthandler_timeout), so that the log of what hung is shown.
HANG_GUARD_S: Final = 240


class Part(NamedTuple):
    """A part of one of CPython's test modules, as patterns of test ids.

    Attributes:
        module: its name in `test`.
        name: tells the parts of one module apart.
        only: what to run; everything if empty.
        without: what not to run.
        resources: what regrtest would be told with -u. Never `network` where it means the
            internet, as it does in test_socket, test_ssl, test_httplib and test_imaplib;
            test_socketserver asks for it, though it uses nothing but localhost.
        until: the last version that has the module; of every version if empty.
    """

    module: str
    name: str = ""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    resources: tuple[str, ...] = ("walltime",)
    until: str = ""

    def __str__(self) -> str:
        return f"{self.module}-{self.name}" if self.name else self.module


# What of test_support is about socket_helper, runs a script, or counts descriptors.
_OF_SUPPORT: Final = (
    "*.test_HOST",
    "*.test_bind_port",
    "*.test_fd_count",
    "*.test_find_unused_port",
    "*.test_recursion",
    "*.test_temp_dir__forked_child",
)
# An AF_VSOCK socket talks to the hypervisor, which is another host; under some hypervisors these
# tests wait forever for a connection from themselves.
_NOT_HERE: Final = ("*VSOCK*",)
_ASYNCIO: Final = "test.test_asyncio."

FULL: Final = (
    Part("test_support", only=_OF_SUPPORT),
    Part("test_script_helper"),
    Part("test_socket", without=_NOT_HERE),
    Part("test_smtplib"),
    Part("test_poplib"),
    Part("test_ftplib"),
    Part("test_httplib"),
    Part("test_imaplib"),
    Part("test_socketserver", resources=("network", "walltime")),
    Part("test_ssl"),
    # In three parts of a minute or two each: one run of it all takes four.
    Part("test_asyncio", "tasks", only=(f"{_ASYNCIO}test_tasks.*",)),
    Part("test_asyncio", "events", only=(f"{_ASYNCIO}test_events.*", f"{_ASYNCIO}test_futures.*")),
    Part(
        "test_asyncio",
        "rest",
        without=tuple(f"{_ASYNCIO}test_{name}.*" for name in ("tasks", "events", "futures")),
    ),
    Part("test_asyncore", until="3.11"),
    Part("test_asynchat", until="3.11"),
    Part("test_telnetlib", until="3.12"),
)

# Those that take a second or two, and of the others the classes that use the helpers most.
FAST: Final = (
    Part("test_support", only=_OF_SUPPORT),
    Part("test_script_helper"),
    Part(
        "test_socket",
        "fast",
        without=(
            *_NOT_HERE,
            "*FileObjectClassTestCase*",
            "*NetworkConnectionBehaviourTest*",
            "*SendfileUsing*",
            "*TCPCloserTest*",
            "*TimeoutTest*",
        ),
    ),
    Part("test_smtplib"),
    Part("test_poplib", "fast", only=("*TestPOP3Class*", "*TestTimeouts*")),
    Part(
        "test_ftplib",
        "fast",
        only=("*TestTLS_FTPClass.*", "*TestIPv6Environment*", "*TestTimeouts*"),
    ),
    Part("test_httplib"),
    Part("test_imaplib", "fast", only=("*.ThreadedNetworkedTests.*",)),
    Part("test_socketserver", resources=("network",)),
    Part("test_ssl", "fast", only=("*Basic*", "*ContextTests*", "*TestPreHandshakeClose*")),
    Part(
        "test_asyncio",
        "fast",
        only=tuple(f"{_ASYNCIO}test_{name}.*" for name in ("base_events", "server", "streams")),
    ),
    Part("test_asyncore", until="3.11"),
    Part("test_asynchat", until="3.11"),
    Part("test_telnetlib", until="3.12"),
)


@pytest.mark.parametrize("part", FAST, ids=str)
def test_a_part_of_cpythons_tests(
    part: Part, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """On this Python, with either set of helpers, each test comes to the same."""
    check(part, _interpreters.running_version(), tmp_path, record_property)


@pytest.mark.dropin_full
@pytest.mark.parametrize("version", _interpreters.VERSIONS)
@pytest.mark.parametrize("part", FULL, ids=str)
def test_all_of_cpythons_tests(
    part: Part, version: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """On each Python of this machine, with either set of helpers, each test comes to the same."""
    check(part, version, tmp_path, record_property)


def check(
    part: Part, version: str, directory: Path, record_property: Callable[[str, object], None]
) -> None:
    """Run a part under both, again what differs, record the figures, and demand equality."""
    if part.until and _number(version) > _number(part.until):
        pytest.skip(f"CPython has no {part.module} after {part.until}")
    runs = Runs(part, _interpreters.with_tests(version), _interpreters.SOURCE, directory)
    pair = runs.both(part.only)
    first = pair
    rerun: list[str] = []
    left = differing(pair)
    rerun += left
    for _ in range(RERUNS):
        if not left:
            break
        pair = runs.both(sorted({pattern_of(test) for test in left}))
        again = set(differing(pair))
        left = [test for test in left if test in again]
    ok = sum(row["outcome"] == ["ok"] for row in first.portlease["tests"].values())
    compared = len(first.original["tests"].keys() | first.portlease["tests"].keys())
    figures = {
        "what": f"{part} on {first.original['python']}",
        "compared": compared,
        "equal": compared - len(left),
        "rerun": rerun,
        "ok": ok,
        "skipped": sum(
            all(outcome.startswith("skipped") for outcome in row["outcome"])
            for row in first.portlease["tests"].values()
        ),
    }
    record_property("dropin", figures)
    assert ok > 0, f"no test of {part} passed: nothing was compared"
    assert not left, "\n\n".join(described(test, pair) for test in left)


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


class Pair(NamedTuple):
    """The two reports of one comparison, as run_module.py writes them."""

    original: dict[str, Any]
    portlease: dict[str, Any]


def differing(pair: Pair) -> list[str]:
    """List the tests whose outcomes are not the same in both, or that only one has."""
    original, portlease = (report["tests"] for report in pair)
    return sorted(
        test
        for test in original.keys() | portlease.keys()
        if _outcome(original, test) != _outcome(portlease, test)
    )


def _outcome(tests: dict[str, Any], test: str) -> list[str]:
    outcome: list[str] = tests.get(test, {}).get("outcome", [])
    return outcome


def pattern_of(test: str) -> str:
    """Return the pattern that runs a test again: where a fixture failed, all that it is for."""
    fixture = re.fullmatch(r"(?:setUp|tearDown)(?:Class|Module) \((.*)\)", test)
    return glob.escape(fixture[1]) + ".*" if fixture else glob.escape(test)


def described(test: str, pair: Pair) -> str:
    """Show what came of a test under both."""
    lines = [test]
    for name, report in zip(Pair._fields, pair, strict=True):
        row = report["tests"].get(test, {"outcome": ["not run"], "detail": ""})
        lines.append(f"--- with {name}'s helpers: {', '.join(row['outcome'])}\n{row['detail']}")
    return "\n".join(lines)


class Runs:
    """Runs a part of a module under both sets of helpers, as often as it is asked to."""

    def __init__(
        self, part: Part, interpreter: _interpreters.Interpreter, source: Path, directory: Path
    ) -> None:
        self._part = part
        self._interpreter = interpreter
        self._source = source
        self._directory = directory
        self._count = 0
        self._apart = _need.why_not("netns") is None

    def both(self, only: Sequence[str]) -> Pair:
        """Run the tests of the part that match under both: side by side if they can be apart."""
        self._count += 1
        with contextlib.ExitStack() as running:
            finish = []
            for helpers in Pair._fields:
                one = running.enter_context(self._started(helpers, only))
                if not self._apart:
                    one()
                finish.append(one)
            pair = Pair(*(one() for one in finish))
        for name, path in pair.portlease["helper_files"].items():
            assert path == str(self._source / "portlease" / f"{name}.py")
            assert path != pair.original["helper_files"][name]
        return pair

    @contextlib.contextmanager
    def _started(self, helpers: str, only: Sequence[str]) -> Iterator[Callable[[], dict[str, Any]]]:
        """Start a run; yield what waits for its end and reads its report; leave nothing running."""
        output = self._directory / f"{self._count}-{helpers}.json"
        log = output.with_suffix(".log")
        command = self._command(helpers, only, output)
        if self._apart:
            command = _need.netns_command(command)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with tempfile.TemporaryDirectory(prefix="dropin-") as here, log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # Not in `self._directory`: a Unix socket's path, unix(7), has room for 107 bytes.
                cwd=here,
                env=env,
                start_new_session=True,  # a group of its own, to be killed as one
            )
            try:
                yield functools.partial(self._report, process, output, log)
            finally:
                with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _report(self, process: subprocess.Popen[bytes], output: Path, log: Path) -> dict[str, Any]:
        """Wait for the end of a run and read what it wrote."""
        status = process.wait(HANG_GUARD_S + 20)
        if not output.exists():
            pytest.fail(
                f"{self._part} wrote no report ({output.name}), exit status {status}:\n"
                + log.read_text(encoding="utf-8", errors="replace"),
                pytrace=False,
            )
        written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        return written

    def _command(self, helpers: str, only: Sequence[str], output: Path) -> list[str]:
        part = self._part
        command = [self._interpreter.program, str(RUNNER), f"test.{part.module}"]
        options = {"helpers": helpers, "source": self._source, "output": output}
        options["timeout-s"] = HANG_GUARD_S
        command += [f"--{name}={value}" for name, value in options.items()]
        command += [f"--only={pattern}" for pattern in only]
        command += [f"--without={pattern}" for pattern in part.without]
        command += [f"--resource={name}" for name in part.resources]
        return command


# --- the comparison itself ------------------------------------------------------------------------

BROKEN: Final = """
_taken = socket.create_server((HOSTv4, 0))


def find_unused_port(family=socket.AF_INET, socktype=socket.SOCK_STREAM):
    return _taken.getsockname()[1]
"""


def test_a_helper_that_does_wrong_is_found(tmp_path: Path) -> None:
    """With a find_unused_port that returns a port in use, a test's outcome differs, each time."""
    package = tmp_path / "source" / "portlease"
    package.mkdir(parents=True)
    for module in (_interpreters.SOURCE / "portlease").iterdir():
        if module.name != "socket_helper.py":
            (package / module.name).symlink_to(module)
    ours = (_interpreters.SOURCE / "portlease" / "socket_helper.py").read_text(encoding="utf-8")
    (package / "socket_helper.py").write_text(ours + BROKEN, encoding="utf-8")
    part = Part("test_support", only=("*.test_find_unused_port", "*.test_HOST"))
    interpreter = _interpreters.with_tests(_interpreters.running_version())
    pair = Runs(part, interpreter, package.parent, tmp_path).both(part.only)
    [test] = differing(pair)
    assert test.endswith(".test_find_unused_port")
    assert pair.portlease["tests"][test]["outcome"] == ["error: OSError"]
    assert "Address already in use" in described(test, pair)


def test_nothing_leaves_the_machine(tmp_path: Path) -> None:
    """Even a test that may use the network reaches no other host and asks no name server."""
    part = Part("test_httplib", only=("*OfflineTest*", "*HTTPSTest*"), resources=("network",))
    interpreter = _interpreters.with_tests(_interpreters.running_version())
    pair = Runs(part, interpreter, _interpreters.SOURCE, tmp_path).both(part.only)
    assert any("getaddrinfo" in refusal for refusal in pair.original["refused"])
    assert pair.original["refused"] == pair.portlease["refused"]


def _report(**outcomes: list[str]) -> dict[str, Any]:
    return {"tests": {test: {"outcome": outcome} for test, outcome in outcomes.items()}}


def test_what_counts_as_a_difference() -> None:
    """Another outcome, another reason for a skip, one more subtest, a test that only one has."""
    original = _report(a=["ok"], b=["skipped: x"], c=["failure in 1"], d=["ok"], e=["ok"])
    portlease = _report(
        a=["ok"], b=["skipped: y"], c=["failure in 1", "failure in 2"], d=["failure"], f=["ok"]
    )
    assert differing(Pair(original, portlease)) == ["b", "c", "d", "e", "f"]
    assert differing(Pair(original, original)) == []


@pytest.mark.parametrize(
    ("test", "pattern"),
    [
        ("test.test_x.Case.test_y", "test.test_x.Case.test_y"),
        ("setUpClass (test.test_x.Case)", "test.test_x.Case.*"),
        ("tearDownModule (test.test_x)", "test.test_x.*"),
        ("test.test_x.Case.test_y[0]", "test.test_x.Case.test_y[[]0]"),
    ],
)
def test_a_test_is_run_again_by_its_id(test: str, pattern: str) -> None:
    """A test by itself, a fixture through all that it is for."""
    assert pattern_of(test) == pattern
