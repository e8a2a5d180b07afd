"""Other libraries' port helpers, served by leases: each library in an interpreter of its own.

The libraries are the real ones, as they were released; nothing of them is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _need import need

if TYPE_CHECKING:
    from collections.abc import Sequence

# What every sample may use: a plain int, of a GUARDED lease, that any kind of bind gets at once.
_COMMON = """
import socket, sys

import portlease
from portlease import _takeover
from portlease._platform import backend


def mine(port):
    return [one for one in portlease.leases() if one.port == port]


def check(port, *kinds):
    assert type(port) is int, port
    assert not backend.rules().is_ephemeral(port), port
    (lease,) = mine(port)
    assert str(lease.state) == "GUARDED", lease
    for kind in kinds or (socket.SOCK_STREAM,):
        for reuse in 0, 1:
            with socket.socket(type=kind) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                sock.bind(("127.0.0.1", port))


def refused(error, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except error as told:
        return str(told)
    raise AssertionError("it was not refused")
"""

_SAMPLES = {
    "portpicker": (
        "from portpicker import pick_unused_port, return_port",
        """
        port = pick_unused_port()
        check(port, socket.SOCK_STREAM, socket.SOCK_DGRAM)
        check(pick_unused_port(pid=1), socket.SOCK_STREAM)
        return_port(port)
        assert not mine(port)
        return_port(port)  # a second time it is portpicker's own to say
        import portpicker
        portpicker.add_reserved_port(port)
        assert pick_unused_port() == port and not mine(port)
        """,
        "pick_unused_port",
    ),
    "aiohttp": (
        "from aiohttp.test_utils import unused_port",
        """
        check(unused_port())
        refused(TypeError, unused_port, 1)
        """,
        "unused_port",
    ),
    "tornado": (
        "from tornado.testing import bind_unused_port",
        """
        for given in {}, {"reuse_port": True}, {"address": "127.0.0.2"}:
            sock, port = bind_unused_port(**given)
            with sock:
                assert sock.getsockname() == (given.get("address", "127.0.0.1"), port)
                assert not sock.getblocking() and not mine(port)
                assert not backend.rules().is_ephemeral(port)
                with socket.create_connection(sock.getsockname()):
                    pass
        """,
        "bind_unused_port",
    ),
    "portend": (
        "from portend import find_available_local_port",
        "check(find_available_local_port())",
        "find_available_local_port",
    ),
    "ephemeral-port-reserve": (
        "from ephemeral_port_reserve import reserve",
        """
        check(reserve())
        check(reserve("0.0.0.0", 0))
        with portlease.lease() as free:
            pass
        assert reserve(port=str(free)) == free.port
        check(free.port)
        other = reserve(port=free.port)  # taken by now: another one, as ever
        assert other != free.port
        check(other)
        """,
        "reserve",
    ),
    "port-for": (
        "from port_for import get_port, select_random",
        """
        import port_for
        check(get_port(None))
        check(select_random())
        with portlease.lease_many(3) as group:
            pass
        a, b, c = group.ports
        assert get_port({a, b}, exclude_ports=[a]) == b
        assert get_port([(c, c)]) == c
        assert str(c) in refused(port_for.PortForException, select_random, {c})  # leased by now
        refused(port_for.PortForException, select_random, set())
        assert get_port(-1) is None and get_port(str(a)) == a
        """,
        "select_random",
    ),
    "anyio": (
        "from anyio.pytest_plugin import FreePortFactory",
        """
        check(FreePortFactory(socket.SOCK_STREAM)())
        check(FreePortFactory(socket.SOCK_STREAM)(socket.AF_INET6))
        check(FreePortFactory(socket.SOCK_DGRAM)(family=socket.AF_INET), socket.SOCK_DGRAM)
        """,
        "FreePortFactory.__call__",
    ),
    "pytest-asyncio": (
        "from pytest_asyncio.plugin import _unused_port",
        """
        check(_unused_port(socket.SOCK_STREAM))
        check(_unused_port(socket.SOCK_DGRAM), socket.SOCK_DGRAM)
        """,
        "_unused_port",
    ),
}


def _run(*parts: str) -> str:
    """Run Python in an interpreter in which nothing is imported yet."""
    source = "\n".join(textwrap.dedent(part) for part in (_COMMON, *parts))
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("order", ["imported before", "imported after"])
@pytest.mark.parametrize("library", _SAMPLES)
def test_a_function_gives_guarded_ports(library: str, order: str) -> None:
    """Whether ``from x import f`` came before the takeover or after it."""
    imports, uses, _ = _SAMPLES[library]
    lines = [imports, "_takeover.take_over()"]
    _run(*(lines if order == "imported before" else lines[::-1]), uses)


@pytest.mark.parametrize("library", _SAMPLES)
def test_signature_and_undoing(library: str) -> None:
    """What a function says of itself stays, and undone it is what it was, to the code object."""
    imports, _, name = _SAMPLES[library]
    _run(
        imports,
        f"""
        import inspect
        function = {name}
        def looks():
            return (inspect.signature(function), function.__name__, function.__module__,
                    function.__doc__)
        def is_made_of():
            return (function.__code__, function.__defaults__, function.__kwdefaults__,
                    set(vars(function)))
        look, made_of = looks(), is_made_of()
        for _ in range(2):
            _takeover.take_over()
            _takeover.take_over()
            assert looks() == look and is_made_of() != made_of
            _takeover.undo()
            _takeover.undo()
            assert looks() == look and is_made_of() == made_of
        assert not [one for one in sys.meta_path if type(one).__module__.startswith("portlease")]
        """,
    )


def test_cpythons_helpers() -> None:
    """Those of test.support, which an interpreter may have been installed without."""
    need.module("test.support")
    _run(
        """
        from test.support.socket_helper import bind_port, find_unused_port
        _takeover.take_over()
        check(find_unused_port())
        check(find_unused_port(socket.AF_INET, socket.SOCK_DGRAM), socket.SOCK_DGRAM)
        with socket.socket() as sock:
            port = bind_port(sock)
            assert sock.getsockname()[1] == port
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            refused(Exception, bind_port, sock)
        """
    )


def test_nothing_is_imported_for_it() -> None:
    """A library that the suite does not import stays unimported."""
    out = _run(
        """
        before = set(sys.modules)
        _takeover.take_over()
        print(sorted(set(sys.modules) - before))
        """
    )
    assert out == "[]"


def test_a_library_keeps_its_loader() -> None:
    """After the import nothing shows that we were there: inspect, pkgutil and reload work."""
    _run(
        """
        import importlib, inspect
        _takeover.take_over()
        import portend
        assert "portlease" not in repr(portend.__loader__) + repr(portend.__spec__.loader)
        assert "def find_available_local_port" in inspect.getsource(portend)
        importlib.reload(portend)
        check(portend.find_available_local_port())
        _takeover.undo()
        assert not mine(portend.find_available_local_port())
        """
    )


def test_another_version_without_the_function_is_told() -> None:
    """A library in which the function is gone works on, and not_found() says so."""
    out = _run(
        """
        import types
        sys.modules["portend"] = types.ModuleType("portend")
        _takeover.take_over()
        print(_takeover.not_found())
        """
    )
    assert out == "{'portend': ['find_available_local_port()']}"


def test_the_ports_of_a_test_are_kept_while_it_runs() -> None:
    """A factory called 200 times before anything is bound; earlier tests' go when there are many.

    A runner that seeds `random` (pytest-randomly) has no part in which numbers they are.
    """
    _run(
        """
        import os, random
        os.environ.pop("PYTEST_XDIST_WORKER", None)  # it would be in the label
        from aiohttp.test_utils import unused_port
        _takeover.take_over()
        def take(test, n):
            os.environ["PYTEST_CURRENT_TEST"] = test + " (call)"
            found = set()
            for _ in range(n):
                random.seed(0)
                found.add(unused_port())
            return found
        def leased():
            return {one.port: one.label for one in portlease.leases() if one.pid == os.getpid()}
        first = take("a::test_first", 200)
        assert len(first) == 200
        assert leased() == dict.fromkeys(first, "a::test_first")
        second = take("a::test_second", 1)
        assert len(leased()) == 64 and second < set(leased())
        third = take("a::test_third", 400)
        assert len(leased()) == 256 and set(leased()) <= third
        _takeover.undo()
        assert not leased()
        """
    )


def test_descriptors_are_left_to_the_suite() -> None:
    """What is kept is about half of the limit at most, and goes where there are none left."""
    _run(
        """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        os.environ["PYTEST_CURRENT_TEST"] = "a::test (call)"
        _takeover.take_over()
        from portpicker import pick_unused_port
        for _ in range(100):
            pick_unused_port()
        others = []
        refused(OSError, lambda: others.extend(open(os.devnull) for _ in range(100)))
        assert len(others) > 20
        pick_unused_port()  # where looking it up would need one more
        """
    )


@pytest.mark.parametrize("instead", ["None", "object()", "unittest.mock.MagicMock()"])
def test_what_stands_in_for_a_library_is_left_alone(instead: str) -> None:
    """A suite may put None in its place, or a mock: it is not imported then."""
    _run(
        f"""
        import unittest.mock
        sys.modules["portpicker"] = {instead}
        assert _takeover.take_over() and not _takeover.taken_over() and not _takeover.not_found()
        """
    )


def test_a_port_server_is_left_to_portpicker() -> None:
    """Who names a port server means it."""
    _run(
        """
        import portpicker
        _takeover.take_over()
        asked = []
        portpicker.get_port_from_port_server = lambda address, pid=None: asked.append(address) or 7
        assert portpicker.pick_unused_port(portserver_address="@here") == 7
        assert asked == ["@here"]
        """
    )


_SUITE = """
    import socket
    import portlease
    import pytest

    seen = set()


    def check(port, kind=socket.SOCK_STREAM):
        assert type(port) is int
        (lease,) = [one for one in portlease.leases() if one.port == port]
        assert str(lease.state) == "GUARDED"
        assert "::test_" in lease.label
        with socket.socket(type=kind) as sock:
            sock.bind(("127.0.0.1", port))
        assert port not in seen
        seen.add(port)


    def test_pytest_asyncio(unused_tcp_port, unused_udp_port):
        check(unused_tcp_port)
        check(unused_udp_port, socket.SOCK_DGRAM)


    def test_pytest_asyncio_factories(unused_tcp_port_factory, unused_udp_port_factory):
        check(unused_tcp_port_factory())
        check(unused_udp_port_factory(), socket.SOCK_DGRAM)


    def test_anyio(free_tcp_port, free_udp_port):
        check(free_tcp_port)
        check(free_udp_port, socket.SOCK_DGRAM)


    def test_anyio_factories(free_tcp_port_factory, free_udp_port_factory):
        check(free_tcp_port_factory())
        check(free_udp_port_factory(family=socket.AF_INET), socket.SOCK_DGRAM)
"""


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that load ours and theirs, and nothing else that is installed here."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    names = ("xdist", "pytest_asyncio.plugin", "anyio.pytest_plugin", "portlease.pytest_plugin")
    return [word for name in names for word in ("-p", name)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-p", "portlease.takeover"),
        ("-o", "portlease_takeover=true"),
        ("-o", "portlease_takeover=true", "-n", "2"),
        ("-p", "portlease.takeover", "-o", "portlease_takeover=true"),
    ],
)
def test_fixtures_of_others(
    pytester: pytest.Pytester, plugins: Sequence[str], arguments: Sequence[str]
) -> None:
    """pytest-asyncio's and anyio's, by the plugin's name and by the ini option."""
    pytester.makepyfile(_SUITE)
    result = pytester.runpytest_subprocess(*plugins, *arguments)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["portlease takes over: *pytest-asyncio: unused_tcp_port*"])


@pytest.mark.parametrize(
    "order",
    [
        ("portlease.takeover", "pytest_asyncio.plugin", "anyio.pytest_plugin"),
        ("anyio.pytest_plugin", "pytest_asyncio.plugin", "portlease.takeover"),
    ],
)
def test_plugins_load_in_any_order(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, order: Sequence[str]
) -> None:
    """Before the plugins whose fixtures it serves, or after them: all the same."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(_SUITE)
    result = pytester.runpytest_subprocess(*(word for name in order for word in ("-p", name)))
    result.assert_outcomes(passed=4)


def test_a_pytest_within_pytest_does_not_end_it(
    pytester: pytest.Pytester, plugins: Sequence[str]
) -> None:
    """A plugin's own suite runs pytest in its process; what the outer one began, it ends itself."""
    pytester.makepyfile(
        """
        import portlease
        import pytest

        pytest_plugins = "pytester"
        INNER = "def test_inner(unused_tcp_port): pass"

        def leased(port):
            return [one for one in portlease.leases() if one.port == port]

        def test_inner(pytester):
            pytester.makepyfile(INNER)
            plugins = "-p", "pytest_asyncio.plugin", "-p", "portlease.takeover"
            pytester.runpytest_inprocess(*plugins).assert_outcomes(passed=1)

        def test_outer(unused_tcp_port):
            assert leased(unused_tcp_port)
        """
    )
    result = pytester.runpytest_subprocess(*plugins, "-p", "portlease.takeover")
    result.assert_outcomes(passed=2)


def test_without_pytest() -> None:
    """Another runner calls take_over(); pytest is not even imported."""
    _run(
        """
        from portlease.takeover import take_over, undo
        from portend import find_available_local_port
        assert "pytest" not in sys.modules
        assert take_over() and not take_over()
        check(find_available_local_port())
        undo()
        assert not mine(find_available_local_port())
        """
    )


def test_without_it_nothing_is_taken_over(
    pytester: pytest.Pytester, plugins: Sequence[str]
) -> None:
    """Installed is not asked for."""
    pytester.makepyfile(
        """
        import portlease

        def test_it(unused_tcp_port):
            assert not [one for one in portlease.leases() if one.port == unused_tcp_port]
        """
    )
    result = pytester.runpytest_subprocess(*plugins)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*takes over*")


def test_a_wrong_ini_value_is_one_clear_error(
    pytester: pytest.Pytester, plugins: Sequence[str]
) -> None:
    """What is neither true nor false is refused before any test runs."""
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(*plugins, "-o", "portlease_takeover=perhaps")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*portlease_takeover*perhaps*"])


def test_no_collisions_in_a_storm() -> None:
    """The benchmark in small: 400 ports, bind(0) and connect() without pause, two workers."""
    need.capability("netns")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.takeover", "--parts", "storm", "--quick", "--json"],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    off, on = json.loads(done.stdout)["storm"]["rows"]
    assert (off["takeover"], off["tests"]) == (False, 60)
    assert (on["takeover"], on["tests"], on["failed"], on["double"]) == (True, 60, 0, 0)
