"""Suites that do odd things, in pytest runs of their own: the plugin is not what fails them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from _cli import environment
from _inner import few_plugins as few_plugins  # noqa: PLC0414 - a fixture
from _need import need, netns_command
from _processes import HANG_S

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
import os, signal, socket, sys
from unittest import mock
import pytest, portlease
SERVER = [sys.executable, "-c", "import signal, socket, sys;"
          "s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); signal.pause()", "{port}"]
"""


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    """Run tests with our plugin, every warning an error."""
    pytester.makepyfile(HEAD + source)
    return pytester.runpytest_subprocess(
        "-p", "portlease", "-p", "no:cacheprovider", "-W", "error", *arguments
    )


ODD = """
nameless = {"pytest": pytest}
exec("@pytest.fixture\\ndef made(): return 1", nameless)
made = nameless["made"]

def test_a_fixture_made_by_exec(made):
    assert made == 1

def test_the_class_of_sockets_is_replaced(leased_port):
    with socket.socket() as sock, mock.patch("socket.socket"):
        sock.bind(("127.0.0.1", leased_port))  # no SO_REUSEADDR

def test_the_working_directory_is_gone(serve, serve_once, leased_port, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    # Elsewhere: CPython 3.13.0 itself does not start where there is no folder.
    serve(SERVER, cwd="/")
    serve_once(SERVER, cwd="/")

def test_the_environment_is_gone(serve, serve_once, leased_ports):
    with mock.patch.dict(os.environ, clear=True):
        serve(SERVER)
        serve_once(SERVER, name="bare")
        leased_ports()

def test_a_forked_child(serve_once, leased_ports):
    server = serve_once(SERVER)
    if (pid := os.fork()) == 0:
        try:
            assert serve_once(SERVER).port != server.port  # its own, until it ends
            leased_ports()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert serve_once(SERVER).pid == server.pid

def test_a_shared_server_dies(serve_once):
    pid = serve_once(SERVER).pid
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}"):  # pytest ends with this test, and is to know of it
        os.sched_yield()
"""


def test_odd_suites(pytester: pytest.Pytester) -> None:
    """No odd test fails for us; what goes wrong at the end is in pytest's summary, and fails it."""
    result = run(pytester, ODD, "--portlease-report=/proc/no.json")
    result.assert_outcomes(passed=6)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines_random(
        [
            "*= portlease: the shared servers were stopped =*",
            "ServerDiedWarning: python (port *) was ready, and then was ended by SIGKILL *",
            "not written to /proc/no.json: No such file or directory; name a file that can be",
        ]
    )


def test_who_closes_the_descriptors_of_others(pytester: pytest.Pytester) -> None:
    """The test that did it fails, and pytest goes on."""
    result = run(
        pytester,
        """
def test_closes(serve):
    server = serve(SERVER)
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                os.close(fd)
        except FileNotFoundError:
            pass  # that of the folder itself
    assert server is None

def test_goes_on(serve, leased_port):
    serve(SERVER)
""",
        *("-W", "ignore::pytest.PytestUnraisableExceptionWarning", "-p", "no:randomly"),
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*Last output of *erver*"])


def test_ctrl_c_in_a_teardown_is_no_leak(pytester: pytest.Pytester) -> None:
    """Pytest leaves the rest of the test's fixtures to the end of the session."""
    result = run(
        pytester,
        """
@pytest.fixture
def broken_off(serve, leased_port):
    serve(SERVER)
    yield
    raise KeyboardInterrupt

def test_it(broken_off):
    pass
""",
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*leaked*")


def test_a_report_is_no_folder(pytester: pytest.Pytester) -> None:
    """Said before any test runs."""
    pytester.mkdir("here.json")
    result = run(pytester, "def test_it(): pass", "--portlease-report=here.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *here.json: that is a folder; name a file"])


def test_named_by_a_conftest(tmp_path: Path) -> None:
    """`pytest_plugins` in a conftest loads it late: `--ports=strict` is not without effect."""
    need.capability("netns")
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['portlease.pytest_plugin']\n")
    (tmp_path / "test_it.py").write_text(
        HEAD
        + """
def test_it():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 8123))
"""
    )
    result = subprocess.run(
        netns_command([sys.executable, "-m", "pytest", "--ports=strict", str(tmp_path)]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
        timeout=HANG_S,
        check=False,
    )
    assert "1 failed" in result.stdout, result.stdout + result.stderr
    assert "8123" in result.stdout
