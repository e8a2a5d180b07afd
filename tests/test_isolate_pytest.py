"""``pytest -n N --isolate=worker``: suites that hard-code ports, and the plugins beside it."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _inner import few_plugins as few_plugins  # noqa: PLC0414 - a fixture
from _isolated import marked
from _need import need
from _processes import HANG_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

XDIST = ("-p", "xdist.plugin")


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    need.capability("netns")
    need.module("xdist")


def suite(pytester: pytest.Pytester, words: Sequence[str]) -> pytest.RunResult:
    """Run it in a process of its own."""
    return pytester.runpytest_subprocess("-p", "portlease.pytest_plugin", *words, timeout=HANG_S)


HARD_CODED = """
import os, socket, subprocess, sys
import pytest

@pytest.fixture(scope="session")
def server(tmp_path_factory):
    # It ends with its input: one worker is to crash, and kills nobody then.
    program = (
        "import http.server as h, os, sys, threading; "
        "threading.Thread(target=lambda: os._exit(len(sys.stdin.read()))).start(); "
        "h.test(h.SimpleHTTPRequestHandler, port=8080, bind='::1')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield
        process.kill()

@pytest.fixture(scope="session", autouse=True)
def everybody_is_here(tmp_path_factory):
    # Both workers' sessions are under way at once, each with the port that the other has.
    base = tmp_path_factory.getbasetemp().parent
    with socket.create_server(("127.0.0.1", 8081)):
        (base / os.environ["PYTEST_XDIST_WORKER"]).touch()
        while not ((base / "gw0").exists() and (base / "gw1").exists()):
            pass
        yield

@pytest.mark.parametrize("number", range(6))
def test_hard_coded(server, number):
    with socket.create_server(("127.0.0.1", 8082)) as one:
        socket.create_connection(one.getsockname()).close()

def once(tmp_path_factory, name):
    path = tmp_path_factory.getbasetemp().parent / name
    if path.exists():
        return False
    path.touch()
    return True

def test_flaky(tmp_path_factory):
    assert not once(tmp_path_factory, "flaky")

def test_that_crashes(tmp_path_factory):
    if once(tmp_path_factory, "crashed"):
        os._exit(3)

def test_descriptor_is_not_inherited():
    source = "import os; print('PORTLEASE_REACH' in os.environ)"
    assert subprocess.check_output([sys.executable, "-c", source]).strip() == b"False"
"""


def test_a_suite_that_hard_codes_ports(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a session's server, coverage, a rerun that asks the controller, and a crashed worker."""
    mark = secrets.token_hex(8)
    monkeypatch.setenv("MARK", mark)
    need.module("pytest_cov")
    need.module("pytest_rerunfailures")
    pytester.makepyfile(HARD_CODED)
    plugins = ["-p", "pytest_cov.plugin", "-p", "pytest_rerunfailures"]
    words = ["-n", "2", "--isolate=worker", "--reruns", "1", "--cov", "--cov-report=term"]
    result = suite(pytester, [*XDIST, *plugins, *words])
    result.stdout.fnmatch_lines(["isolate: each worker in a network of its own, *"])
    # A crash is a failure, of which the controller runs the test once more (pytest-rerunfailures).
    text = result.stdout.str()
    assert "replacing crashed worker" in text
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] + outcomes.get("failed", 0) >= 8
    assert outcomes.get("failed", 0) <= 1, text
    assert "Address already in use" not in text
    result.stdout.fnmatch_lines(["test_a_suite_that_hard_codes_ports.py*", "TOTAL*"])
    monkeypatch.delenv("MARK")
    wait_for(lambda: not marked(mark))


def test_the_ini_option(pytester: pytest.Pytester) -> None:
    """It says so for each run with workers, and means nothing to one without; =no undoes it."""
    pytester.makepyfile(
        """
        import os, pathlib
        def test_network(request):
            there = request.config.rootpath / "network"
            ours = os.readlink("/proc/self/ns/net")
            there.write_text(ours)
        """
    )
    pytester.makeini("[pytest]\nportlease_isolate = worker")
    found = []
    for words in (["-n", "1"], [], ["-n", "1", "--isolate=no"]):
        suite(pytester, [*XDIST, *words]).assert_outcomes(passed=1)
        found.append((pytester.path / "network").read_text(encoding="utf-8"))
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([*XDIST, "--isolate=worker"], "needs workers, and there are none: add -n auto"),
        (["--isolate=worker"], "needs pytest-xdist"),
        ([*XDIST, "--isolate=test", "-n", "2"], "there is no such isolation; say worker"),
        ([*XDIST, "--isolate=worker", "-d", "--tx", "ssh=nobody"], "workers that are started here"),
    ],
)
def test_wrong_calls(pytester: pytest.Pytester, words: list[str], text: str) -> None:
    """One clear error each, and no test is run."""
    pytester.makepyfile("def test_it(): raise AssertionError")
    result = suite(pytester, words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.stderr.lines if line.strip() and "arning" not in line]
    assert any(line.startswith("ERROR: ") and text in line for line in lines), lines


def test_where_it_cannot_be_had(pytester: pytest.Pytester) -> None:
    """It stops before the first worker, with the cause and the remedy."""
    need.capability("seccomp")
    number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
    pytester.makepyfile("def test_it(): raise AssertionError")
    forbid = [sys.executable, str(Path(__file__).with_name("_forbid.py")), str(number), "1"]
    result = pytester.run(
        *(*forbid, sys.executable, "-m", "pytest", *XDIST, "-p", "portlease.pytest_plugin"),
        *("-n", "2", "--isolate=worker"),
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --isolate=worker: a seccomp profile forbids it*--cap-add*"]
    )


def test_a_service_of_the_controller(pytester: pytest.Pytester) -> None:
    """A worker asks for one more port of the host to be reached, as often as it likes."""
    pytester.makeconftest(
        """
        import socket, threading
        def pytest_configure_node(node):
            server = socket.create_server(("127.0.0.1", 0))
            node.config.add_cleanup(server.close)
            def serve():
                for _ in range(2):
                    server.accept()[0].sendall(b"controller")
            threading.Thread(target=serve, daemon=True).start()
            node.workerinput["service"] = server.getsockname()[1]
        """
    )
    pytester.makepyfile(
        """
        import socket
        from portlease import _isolate
        def test_it(request):
            assert _isolate.can_reach()
            port = request.config.workerinput["service"]
            for _ in range(2):
                _isolate.reach("127.0.0.1", port)
                with socket.create_connection(("127.0.0.1", port)) as one:
                    assert one.recv(99) == b"controller"
        """
    )
    suite(pytester, [*XDIST, "-n", "1", "--isolate=worker"]).assert_outcomes(passed=1)


def test_one_server_for_all_workers(pytester: pytest.Pytester) -> None:
    """What serve_once starts in the controller's network is reached from each worker's."""
    need.program("redis-server")
    pytester.makepyfile(
        """
        import pytest, socket
        @pytest.mark.parametrize("number", range(2))
        def test_it(serve_once, number):
            server = serve_once(["redis-server", "--port", "{port}", "--save", ""])
            with socket.create_connection(("127.0.0.1", server.port)) as one:
                one.sendall(b"PING\\r\\n")
                assert one.recv(99) == b"+PONG\\r\\n"
        """
    )
    suite(pytester, [*XDIST, "-n", "2", "--isolate=worker"]).assert_outcomes(passed=2)
