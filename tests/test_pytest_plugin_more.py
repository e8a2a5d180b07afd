"""Leaks, --portlease-report, async tests and wrong uses, in pytest runs of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portlease
from _inner import few_plugins as few_plugins  # noqa: PLC0414 - a fixture
from _need import need

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
import sys, pytest, portlease
SERVER = [sys.executable, "-c", "import signal, socket, sys;"
          "s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); signal.pause()", "{port}"]
"""


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    """Run tests with our plugin."""
    pytester.makepyfile(HEAD + source)
    return pytester.runpytest_subprocess("-p", "portlease", "-p", "no:cacheprovider", *arguments)


# --- errors ---------------------------------------------------------------------------------------


def test_an_error_of_ours_is_shown_at_the_callers_line(pytester: pytest.Pytester) -> None:
    """Without our own source, which --full-trace has."""
    source = """
def test_it(serve):
    serve([sys.executable, "-c", "exit('no such shop')", "{port}"])  # here

def test_without_the_fixture():
    portlease.lease(ports=[])
"""
    package = str(Path(portlease.__file__).parent)
    for options, whole in (((), False), (("--full-trace",), True)):
        result = run(pytester, source, *options)
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(["*# here", "E * ended with exit status 1*", "*no such shop*"])
        shown = [line for line in result.outlines if "portlease/_" in line or package in line]
        assert bool(shown) == whole, shown


# --- leaks ----------------------------------------------------------------------------------------

LEAKS = """
import atexit

KEPT = []

def test_a_local_variable():
    port = portlease.lease()  # line A

def test_a_global_one():
    KEPT.append(portlease.lease_many(2))

def test_in_a_cycle():
    cycle = []
    cycle += [cycle, portlease.lease("udp")]

def test_a_server():
    KEPT.append(portlease.serve(SERVER))

def test_a_server_that_nobody_knows():
    portlease.serve(SERVER)

@pytest.fixture
def careless():
    KEPT.append(portlease.lease())

def test_by_a_fixture(careless):
    pass

def test_by_one_that_is_wider_but_only_in_the_test(pool):
    KEPT.append(portlease.lease())

@pytest.fixture(scope="module")
def pool():
    yield


@atexit.register
def in_the_end():
    for one in KEPT:
        one.stop() if isinstance(one, portlease.Server) else one.release()
"""

CLEAN = """
import contextlib, unittest

AT_IMPORT = portlease.lease()

@pytest.fixture(scope="session")
def pool():
    class Pool:
        def __init__(self):
            self.taken = {}
        def get(self, n):
            return self.taken.setdefault(n, portlease.lease())
    pool = Pool()
    yield pool
    for one in pool.taken.values():
        one.release()

@pytest.fixture(scope="module")
def closure():
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(portlease.lease())

@pytest.fixture(scope="class")
def finalizer(request):
    def lease():
        one = portlease.lease()
        request.addfinalizer(one.release)
        return one.port
    return lease

@pytest.fixture(scope="session")
def server():
    with portlease.serve(SERVER) as server:
        yield server

def test_what_wider_fixtures_have(pool, closure, finalizer, server, leased_port_factory):
    pool.get(1), pool.get(2), closure(), finalizer(), leased_port_factory()

def test_what_the_test_gives_back(serve, serve_once, leased_ports, leased_block, leased_udp_port):
    serve(SERVER), serve_once(SERVER), leased_ports(), leased_block(2)
    portlease.find_unused_port()
    with portlease.lease() as one, portlease.serve(SERVER):
        pass
    handed = portlease.lease(host="127.0.0.1")
    handed.listen().close()

class TestUnittest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.one = cls.enterClassContext(portlease.lease())
    def test_it(self):
        self.enterContext(portlease.lease())

def test_that_expects_the_warning():
    with pytest.warns(ResourceWarning, match="never released"):
        portlease.lease()
    with pytest.warns(ResourceWarning, match="was not stopped"):
        portlease.serve(SERVER)

def test_when_the_run_ends():
    AT_IMPORT.release()
"""

LEAKING = {
    "test_a_local_variable": "leaked: lease of port * taken at *",
    "test_a_global_one": "leaked port *: the lease taken at test_*.py:13 was never released*",
    "test_in_a_cycle": "leaked: lease of port *",
    "test_a_server": "leaked a server: python* on port * was never stopped*",
    "test_a_server_that_nobody_knows": "leaked: <Server * was not stopped*",
    "test_by_a_fixture": "leaked port *",
    "test_by_one_that_is_wider_but_only_in_the_test": "leaked port *",
}


def test_leaks_are_warnings(pytester: pytest.Pytester) -> None:
    """By default: each names its test, the port and the line; and none fails."""
    result = run(pytester, LEAKS)
    result.assert_outcomes(passed=7, warnings=8)
    for test, said in LEAKING.items():
        result.stdout.fnmatch_lines([f"*LeaseLeakWarning: test_*.py::{test} {said}"])


@pytest.mark.parametrize("more", [(), ("-p", "xdist", "-n", "2")])
def test_leaks_are_errors(pytester: pytest.Pytester, more: Sequence[str]) -> None:
    """`portlease_leaks = error`: the test that leaks has an error, and no other."""
    pytester.makeini("[pytest]\nportlease_leaks = error\n")
    result = run(pytester, LEAKS, *more)
    result.assert_outcomes(passed=7, errors=7)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_a_global_one*"])
    result.stdout.fnmatch_lines(["test_*::test_a_global_one leaked port *test_*.py:13*"])


@pytest.mark.parametrize("more", [("-W", "error"), ("-o", "portlease_leaks=error")])
def test_no_false_alarm(pytester: pytest.Pytester, more: Sequence[str]) -> None:
    """What fixtures of wider scopes have, and what was given back, is no leak."""
    run(pytester, CLEAN, *more).assert_outcomes(passed=5)


def test_leaks_may_be_left_alone(pytester: pytest.Pytester) -> None:
    """`portlease_leaks = off`; a misspelt value is refused before any test runs."""
    result = run(pytester, LEAKS, "-o", "portlease_leaks=off")
    result.assert_outcomes(passed=7)
    result = run(pytester, LEAKS, "-o", "portlease_leaks=of")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: portlease_leaks = of: say one of warn, error, off"])


def test_a_test_that_fails_in_the_end_fails_for_its_own_reason(pytester: pytest.Pytester) -> None:
    """A leak does not hide the error of a fixture's end."""
    pytester.makeini("[pytest]\nportlease_leaks = error\n")
    result = run(
        pytester,
        """
KEPT = []

@pytest.fixture
def fails():
    yield
    raise OSError("in the end")

def test_it(fails):
    KEPT.append(portlease.lease())

def test_last():
    KEPT.pop().release()
""",
    )
    result.assert_outcomes(passed=2, errors=1, warnings=1)
    result.stdout.fnmatch_lines(["E *OSError: in the end", "*LeaseLeakWarning: *test_it leaked*"])


# --- the report -----------------------------------------------------------------------------------

REPORTED = """
@pytest.fixture(scope="module")
def module_port():
    with portlease.lease() as one:
        yield one.port

@pytest.mark.parametrize("number", range(2))
def test_all(number, leased_port, serve, serve_once, module_port):
    serve([*SERVER, "{admin}"], wait_for="port")
    serve_once(SERVER, name="db")
    with portlease.lease("udp"):
        pass

def test_fails(serve_once):
    serve_once([sys.executable, "-c", "raise SystemExit(3)"], name="broken")

def test_without():
    pass
"""


@pytest.mark.parametrize("more", [(), ("-p", "xdist", "-n", "2")])
def test_report(pytester: pytest.Pytester, more: Sequence[str]) -> None:
    """Ports, servers and their times by test, from all workers; as JSON too."""
    result = run(pytester, REPORTED, *more, "--portlease-report=all.json")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*= portlease: [56] ports, 2 servers, 2 shared =*",  # each worker has the module's
            "test_report.py::test_all?[01]?*",
            "  tcp port *, taken by the fixture leased_port",
            "  udp port *, taken at test_report.py:14",
            "  python* on *, admin *: ready after 0.* s, by offer",
            "test_report.py::test_all?[01]?*",
            "shared by the run",
            "  db on *: ready after *; asked for by 2 tests",
            "written to *all.json",
        ]
    )
    result.stdout.fnmatch_lines(["  tcp port *, taken at test_report.py:7 (for the module)"])
    result.stdout.fnmatch_lines(
        ["  broken: failed, python* ended with exit status 3*; asked for by 1 *"]
    )
    found = json.loads((pytester.path / "all.json").read_text())
    first, second = found["tests"]
    both = {"test_report.py::test_all[0]", "test_report.py::test_all[1]"}
    assert {first["test"], second["test"]} == both
    assert first["worker"] in ({"gw0", "gw1"} if more else {None})
    assert {one["scope"] for one in first["ports"]} == {"function", "module"}
    (server,) = second["servers"]
    assert 0 < server["ready_after_s"] < 30
    assert sorted(server["ports"]) == ["admin", "port"]
    shared = {one["name"]: one for one in found["shared"]}
    assert shared["db"]["ready_after_s"] > 0
    assert "exit status 3" in shared["broken"]["error"]


def test_the_report_overwrites_no_test(pytester: pytest.Pytester) -> None:
    """`--portlease-report tests/` is refused: the path would be taken for the report's."""
    for given, said in (
        (
            ["--portlease-report", "test_it.py"],
            "*.json; if that is what to test, put --portlease-*",
        ),
        (["--portlease-report=no/such.json"], "*there is no folder *no"),
    ):
        result = run(pytester, "def test_it(): pass", *given)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {said}"])
    result = run(pytester, "def test_it(): pass", "--portlease-report")
    result.stdout.fnmatch_lines(["*= portlease: 0 ports, 0 servers, 0 shared =*"])


# --- asynchronous tests ---------------------------------------------------------------------------

ASYNC = """
import asyncio
import trio

async def ticks(sleep, seen):
    while True:
        seen.append(1)
        await sleep(0.001)

@pytest.mark.asyncio
async def test_in_pytest_asyncio(aserve, leased_port):
    seen = []
    ticking = asyncio.create_task(ticks(asyncio.sleep, seen))
    server = await aserve(SERVER)
    assert len(seen) > 3  # the loop went on
    ticking.cancel()
    await server.restart()
    async with aserve(SERVER) as other:
        assert other.port != server.port != leased_port
    assert other.process.ended
    PROCESSES.append(server.process)

@pytest.mark.anyio
async def test_in_anyio(aserve, anyio_backend_name):
    server = await aserve(SERVER)
    assert server.lease.label.startswith("test_asynchronous_tests.py::test_in_anyio[")
    PROCESSES.append(server.process)

def test_in_trio_alone(aserve):
    async def main():
        seen = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticks, trio.sleep, seen)
            PROCESSES.append((await aserve(SERVER)).process)
            assert len(seen) > 3
            nursery.cancel_scope.cancel()
    trio.run(main)

PROCESSES = []

def test_all_have_ended():
    assert [one.ended for one in PROCESSES] == [True] * len(PROCESSES) == [True] * 4

@pytest.mark.asyncio
async def test_that_fails(aserve):
    await aserve([sys.executable, "-u", "-c", "print('what it says');" + SERVER[2], "{port}"])
    assert False

def test_without_a_loop(aserve):
    with pytest.raises(portlease.UsageError, match="neither asyncio nor trio runs"):
        aserve(SERVER).__await__().send(None)
"""


def test_asynchronous_tests(pytester: pytest.Pytester) -> None:
    """`aserve` in asyncio and trio, by pytest-asyncio, anyio and neither: the loop goes on."""
    # Warnings are no errors here: what pytest-asyncio has to warn of differs with its version.
    result = run(pytester, ASYNC, "-p", "asyncio", "-p", "anyio")
    result.stdout.no_fnmatch_line("*Leak*")
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*Last output of <Server *", "what it says"])


# --- factories, and wrong uses --------------------------------------------------------------------


def test_factories_of_a_test(pytester: pytest.Pytester) -> None:
    """leased_ports and leased_block give plain ints, and take them back after the test."""
    result = run(
        pytester,
        """
import socketserver
SEEN = []

def live():
    return {one.port: one.label for one in portlease.leases()}

def test_ports(leased_ports, leased_block, leased_port_factory):
    ports = [leased_ports() for _ in range(3)]
    block = leased_block(2, offsets=(0, 10))
    assert block == tuple(block[0] + step for step in (0, 1, 10, 11))
    for port in (*ports, *block):
        assert type(port) is int
        assert live()[port] == "test_factories_of_a_test.py::test_ports"
        with socketserver.TCPServer(("127.0.0.1", port), socketserver.BaseRequestHandler):
            pass  # without SO_REUSEADDR
    udp = leased_ports("udp", label="mine")
    assert live()[udp] == "mine"
    wide = leased_port_factory()
    assert live()[wide] == "test_factories_of_a_test.py::test_ports"
    with portlease.lease() as bare, portlease.serve(SERVER) as server:
        assert live()[bare.port] == "test_factories_of_a_test.py::test_ports"
        assert live()[server.port].startswith("test_factories_of_a_test.py::test_ports python")
    SEEN.extend([*ports, *block, udp])

def test_nothing_is_left():
    assert SEEN and not live().keys() & set(SEEN)

def test_errors(leased_ports, leased_block):
    for wrong in (lambda: leased_ports("sctp"), lambda: leased_block(0),
                  lambda: leased_block(2, offsets=(0, 1))):
        with pytest.raises(portlease.UsageError):
            wrong()
""",
        *("-W", "error"),
    )
    result.assert_outcomes(passed=3)


def test_wrong_uses(pytester: pytest.Pytester) -> None:
    """A wrong scope: one error a test, with what to use instead. A misspelt option: named."""
    names = ("leased_port", "leased_udp_port", "leased_ports", "leased_block", "serve", "aserve")
    fixtures = "".join(
        f"""
@pytest.fixture(scope="session")
def wide_{name}({name}): pass

def test_{name}(wide_{name}): pass
"""
        for name in names
    )
    result = run(pytester, fixtures)
    result.assert_outcomes(errors=6)
    for name, instead in zip(
        names,
        ("leased_port_factory",) * 3 + ("portlease.lease_block()", "serve_once", "serve_once"),
        strict=True,
    ):
        result.stdout.fnmatch_lines(
            [f"{name} is given back after each test; in wider scopes use {instead}*"]
        )
    pytester.makeini("[pytest]\nportlease_leeks = error\n")
    result = run(pytester, "def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: portlease_leeks: *did you mean portlease_leaks?"])
    result.stdout.no_fnmatch_line("*test_it*")


def test_a_worker_with_a_network_of_its_own(pytester: pytest.Pytester) -> None:
    """`--isolate=worker`: the one server is reached from within all the same, its UDP ports not."""
    need.capability("netns")
    result = run(
        pytester,
        """
import socket

@pytest.mark.parametrize("number", range(4))
def test_it(serve_once, number):
    server = serve_once(SERVER)
    with socket.create_connection((server.host, server.port)):
        pass
    with open("pids", "a") as file:
        file.write(f"{server.pid}\\n")

def test_udp(serve_once):
    with pytest.raises(portlease.UsageError, match="only TCP is forwarded"):
        serve_once(SERVER, ports={"dns": "udp"}, wait_for="port")
""",
        *("-p", "xdist", "-n", "2", "--isolate=worker"),
    )
    result.assert_outcomes(passed=5)
    assert len(set((pytester.path / "pids").read_text().split())) == 1
