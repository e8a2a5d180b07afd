"""The drop-in for test.support.socket_helper: every name, with and without the `test` package."""

from __future__ import annotations

import errno
import functools
import http.server
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import types
import unittest
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

import _interpreters
import _need
import _stripped
import portlease
from _need import need
from _processes import HANG_S
from portlease import _take, _test_support, socket_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARITY = Path(__file__).parent / "dropin" / "parity.py"

# The public names of CPython 3.11 to 3.14 together, from their sources.
NAMES = {
    "HOST",
    "HOSTv4",
    "HOSTv6",
    "IPV6_ENABLED",
    "bind_port",
    "bind_unix_socket",
    "create_unix_domain_name",  # 3.12
    "find_unused_port",
    "get_socket_conn_refused_errs",
    "has_gethostname",
    "skip_if_tcp_blackhole",
    "skip_unless_bind_unix_socket",
    "tcp_blackhole",
    "transient_internet",
}


@pytest.fixture
def guards() -> Iterator[None]:
    """Drop what find_unused_port keeps for a while: a test must leave no descriptor behind."""
    yield
    _take._guarded.release()


def run(
    interpreter: _interpreters.Interpreter, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that can import portlease, and demand that it succeeds."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [interpreter.program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**env, "PYTHONPATH": str(_interpreters.SOURCE)},
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def raises_errno(*numbers: int) -> pytest.RaisesExc[OSError]:
    """Expect an OSError with one of these error numbers."""
    return pytest.raises(OSError, check=lambda error: error.errno in numbers)


# --- names, and being there without `test` ------------------------------------------------------


def test_every_name_is_offered() -> None:
    """Every public name of every supported version is there, in __all__ and in dir()."""
    assert set(socket_helper.__all__) >= NAMES | {"ResourceDenied", "TestFailed"}
    assert set(dir(socket_helper)) >= NAMES
    assert all(hasattr(socket_helper, name) for name in socket_helper.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(socket_helper, "no_such_name")  # noqa: B009 - mypy knows that there is none


@pytest.mark.parametrize("version", _interpreters.VERSIONS)
def test_names_signatures_and_translation_are_those_of_cpython(version: str) -> None:
    """Names, signatures, constants, and what becomes of 200 errors equal each CPython's.

    But for what portlease.socket_helper says it does differently, and no more than that.
    """
    report = json.loads(run(_interpreters.with_helpers(version), str(PARITY)).stdout)
    assert report["missing"] == []
    assert report["signatures"] == []
    assert report["constants"] == []
    announced = {"URLError from refused", "URLError of ValueError", "URLError of a number"}
    others = [row for row in report["transient"] if row[0].partition(",")[0] not in announced]
    assert others == []


USE_EVERYTHING = """
import socket, sys
from portlease.socket_helper import *
from portlease import socket_helper, script_helper

assert socket_helper.IPV6_ENABLED is IPV6_ENABLED
with socket.socket() as sock:
    port = bind_port(sock)
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    port = find_unused_port(socktype=kind)
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((HOST, port))
with socket.socket(socket.AF_UNIX) as sock:
    bind_unix_socket(sock, create_unix_domain_name())
try:
    with transient_internet("a host"):
        raise ConnectionRefusedError(111, "no")
except ResourceDenied as denied:
    print(denied)
assert skip_unless_bind_unix_socket(len) is len
assert skip_if_tcp_blackhole(len) is len and not tcp_blackhole()
assert get_socket_conn_refused_errs() and has_gethostname
print(script_helper.assert_python_ok("-c", "print(6 * 7)", __isolated=False).out)
assert not [name for name in sys.modules if name == "test" or name.startswith("test.")]
try:
    import test
except ModuleNotFoundError:
    print("no test package")
"""


@pytest.mark.parametrize("version", _interpreters.VERSIONS)
def test_everything_works_where_test_is_not_installed(version: str, tmp_path: Path) -> None:
    """On a Python whose library lacks `test`, every function does its work."""
    work = tmp_path / "work"
    work.mkdir()
    stripped = _stripped.strip(_interpreters.with_helpers(version), tmp_path / "home")
    done = stripped.run(USE_EVERYTHING, cwd=work)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Resource 'a host' is not available",
        "b'42\\n'",
        "no test package",
    ]


def test_import_makes_no_socket_and_does_not_import_test() -> None:
    """To import the module costs no system call on sockets and loads nothing of `test`."""
    script = """
import sys
made = []
sys.addaudithook(lambda event, args: event.startswith("socket.") and made.append(event))
import portlease.socket_helper
assert not made, made
assert not [name for name in sys.modules if name == "test" or name.startswith("test.")]
portlease.socket_helper.IPV6_ENABLED
assert "socket.bind" in made or not portlease.socket_helper.IPV6_ENABLED
del made[:]
portlease.socket_helper.IPV6_ENABLED
assert not made, "asked once is known"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG_S)


# --- the exceptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", _interpreters.VERSIONS)
def test_exceptions_are_caught_by_either_name(version: str) -> None:
    """Where test.support is loaded, `except` on its exception catches ours, before and after."""
    script = """
import pickle, socket, unittest
from portlease import socket_helper as ours

def misuse():
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind_port(sock)

def unreachable():
    with ours.transient_internet("it"):
        raise TimeoutError

def caught(function, kind):
    try:
        function()
    except kind as error:
        return error
    raise AssertionError

assert type(caught(misuse, ours.TestFailed)) is ours.TestFailed
assert type(caught(unreachable, ours.ResourceDenied)) is ours.ResourceDenied
from test import support
for function, own, theirs in (
    (misuse, ours.TestFailed, support.TestFailed),
    (unreachable, ours.ResourceDenied, support.ResourceDenied),
):
    by_own, by_theirs = caught(function, own), caught(function, theirs)
    assert type(by_own) is type(by_theirs), "the class is made once"
    assert str(by_own) == str(by_theirs) != ""
    again = pickle.loads(pickle.dumps(by_own))
    assert isinstance(again, own) and isinstance(again, theirs) and again.args == by_own.args
assert issubclass(ours.ResourceDenied, unittest.SkipTest)
"""
    run(_interpreters.with_helpers(version), "-W", "error", "-c", script)


def test_exceptions_can_be_pickled() -> None:
    """The exceptions cross processes, as pytest-xdist's workers send them."""
    for error in (_test_support.resource_denied("no"), _test_support.test_failed("no")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made the line before
        assert type(again) is type(error)
        assert (str(again), again.args) == ("no", ("no",))


# --- bind_port ------------------------------------------------------------------------------------


def test_bind_port_binds_to_localhost() -> None:
    """The port returned is the one the socket has, at localhost."""
    with socket.socket() as sock:
        port = socket_helper.bind_port(sock)
        assert sock.getsockname() == (socket_helper.HOSTv4, port)
        assert port > 0


def test_bind_port_binds_to_the_host_given() -> None:
    """Any address of this machine will do; one of another machine is the kernel's error."""
    with socket.socket() as sock:
        port = socket_helper.bind_port(sock, "127.0.0.7")
        assert sock.getsockname() == ("127.0.0.7", port)
    with socket.socket() as sock, raises_errno(errno.EADDRNOTAVAIL):
        socket_helper.bind_port(sock, "192.0.2.1")  # RFC 5737: nobody's


def test_bind_port_binds_ipv6() -> None:
    """An IPv6 socket gets the port at ::1."""
    need.capability("ipv6")
    with socket.socket(socket.AF_INET6) as sock:
        port = socket_helper.bind_port(sock, socket_helper.HOSTv6)
        assert sock.getsockname()[:2] == (socket_helper.HOSTv6, port)


@pytest.mark.parametrize("option", ["SO_REUSEADDR", "SO_REUSEPORT"])
def test_bind_port_refuses_to_share_a_tcp_port(option: str) -> None:
    """A TCP/IPv4 socket that could share its port is refused, and is left unbound and open."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        with pytest.raises(socket_helper.TestFailed, match=option) as caught:
            socket_helper.bind_port(sock)
        assert sock.getsockname()[1] == 0
    assert caught.value.msg == str(caught.value)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_INET6, socket.SOCK_DGRAM),
    ],
    ids=["udp4", "tcp6", "udp6"],
)
def test_bind_port_lets_others_share(family: int, kind: int) -> None:
    """As in CPython, only TCP/IPv4 is refused: UDP needs both options for multicast."""
    host = socket_helper.HOSTv4
    if family == socket.AF_INET6:
        need.capability("ipv6")
        host = socket_helper.HOSTv6  # HOST need not have an IPv6 address
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        assert socket_helper.bind_port(sock, host) > 0


def test_bind_port_on_a_kernel_without_so_reuseport(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not know the option answers ENOPROTOOPT: the socket cannot have it set."""
    with socket.socket() as sock:
        monkeypatch.setattr(socket, "SO_REUSEPORT", 0x7FFF)  # no kernel knows this one
        with raises_errno(errno.ENOPROTOOPT):
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert socket_helper.bind_port(sock) > 0


def test_bind_port_raises_what_is_wrong_with_the_socket() -> None:
    """Errors other than ENOPROTOOPT are not taken for an old kernel."""
    sock = socket.socket()
    sock.close()
    with raises_errno(errno.EBADF):
        socket_helper.bind_port(sock)


def test_bind_port_takes_the_port_for_itself_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is SO_EXCLUSIVEADDRUSE it is set: here another flag stands in for it."""
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        socket_helper.bind_port(tcp)
        socket_helper.bind_port(udp)
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not udp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# --- find_unused_port -----------------------------------------------------------------------------

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])


@pytest.mark.usefixtures("guards")
@FAMILIES
@KINDS
@pytest.mark.parametrize("reuse", [0, 1], ids=["plain", "reuseaddr"])
@pytest.mark.parametrize("address", ["", "loopback"])
def test_the_port_can_be_bound_at_once(family: int, kind: int, reuse: int, address: str) -> None:
    """Anything binds it, at any address, with or without SO_REUSEADDR; TCP listens, too."""
    if family == socket.AF_INET6:
        need.capability("ipv6")
    if address:
        address = socket_helper.HOSTv6 if family == socket.AF_INET6 else socket_helper.HOSTv4
    port = socket_helper.find_unused_port(family, kind)
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()


@pytest.mark.usefixtures("guards")
def test_the_port_can_be_bound_in_both_families_at_once() -> None:
    """A server that listens on 0.0.0.0 and, apart, on :: gets both."""
    need.capability("ipv6")
    port = socket_helper.find_unused_port()
    with (
        socket.create_server(("", port)),
        socket.create_server(("::", port), family=socket.AF_INET6),
    ):
        pass


@pytest.mark.usefixtures("guards")
def test_the_port_is_a_plain_int() -> None:
    """It is no subclass of int: getaddrinfo refuses those."""
    assert type(socket_helper.find_unused_port()) is int
    assert type(portlease.find_unused_port()) is int


@pytest.mark.usefixtures("guards")
@KINDS
def test_another_lease_never_gets_the_port_while_it_is_guarded(kind: int) -> None:
    """Neither this process nor another can lease it, by its number or out of a few."""
    name: Literal["tcp", "udp"] = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    port = socket_helper.find_unused_port(socktype=kind)
    with pytest.raises(portlease.PortUnavailableError, match=str(port)):
        portlease.lease(name, ports=[port])
    script = """
import sys, portlease
port = int(sys.argv[1])
try:
    portlease.lease(sys.argv[2], ports=[port])
except portlease.PortUnavailableError as error:
    assert str(port) in str(error), error
else:
    sys.exit("another process leased it")
"""
    command = [sys.executable, "-c", script, str(port), name]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("guards")
def test_the_guard_is_dropped_after_64_more() -> None:
    """The 64 ports asked for last are guarded; the one before them may be leased again."""
    ports = [socket_helper.find_unused_port() for _ in range(65)]
    assert len(set(ports)) == 65
    portlease.lease(ports=[ports[0]]).release()
    with pytest.raises(portlease.PortUnavailableError):
        portlease.lease(ports=[ports[1]])


def test_a_thousand_calls_keep_few_descriptors() -> None:
    """However often it is called, the guards take no more descriptors than 64 leases do."""
    need.capability("proc")
    script = """
import os
from portlease.socket_helper import find_unused_port
before = len(os.listdir("/proc/self/fd"))
ports = [find_unused_port() for _ in range(1000)]
after = len(os.listdir("/proc/self/fd"))
assert after - before <= 2 * 64, (before, after)
assert len(set(ports[-64:])) == 64
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=HANG_S)


@pytest.mark.usefixtures("guards")
def test_a_forked_child_neither_keeps_nor_ends_the_guards() -> None:
    """The guards are the parent's: a child's end frees nothing, and its life keeps nothing."""
    port = socket_helper.find_unused_port()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a plugin may have a thread
        pid = os.fork()
    if pid == 0:  # pragma: no cover - counted in the parent only
        status = 1
        try:
            os.close(writer)
            os.read(reader, 1)  # until the parent has dropped the guard
            portlease.lease(ports=[port])
            status = 0
        finally:
            os._exit(status)
    os.close(reader)
    with pytest.raises(portlease.PortUnavailableError):
        portlease.lease(ports=[port])
    _take._guarded.release()
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


STORM = """
import errno, socket
from portlease.socket_helper import find_unused_port

low, high = 40000, 40199
ports = {find_unused_port() for _ in range(64)}
assert len(ports) == 64, ports
assert not any(low <= port <= high for port in ports), "from the ephemeral range"

# Take every port the kernel will give to bind(0), in each way that bind(0) can be called.
taken, socks = set(), []
for host in "127.0.0.1", "", "::1", "::":
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for reuse in 0, 1:
        for _ in range(high - low + 1):
            sock = socket.socket(family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            socks.append(sock)
            try:
                sock.bind((host, 0))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                break
            taken.add(sock.getsockname()[1])
for sock in socks:
    sock.close()
# And every port it will give to connect().
with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
    clients = []
    for _ in range(high - low):
        client = socket.socket()
        clients.append(client)
        try:
            client.connect(server.getsockname())
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            break
        taken.add(client.getsockname()[1])
    for client in clients:
        client.close()
assert len(taken) > 150, len(taken)
assert not taken & ports, taken & ports
"""


def test_no_storm_of_bind_0_or_connect_takes_the_port() -> None:
    """Every port that the kernel deals out of a range of 200 is dealt out, and none is of ours."""
    done = _need.in_new_netns(STORM, ephemeral=(40000, 40199))
    assert done.returncode == 0, done.stderr


CROWD = """
import subprocess, sys
asker = '''
import sys
from portlease.socket_helper import find_unused_port
print(*[find_unused_port() for _ in range(60)], flush=True)
sys.stdin.read()
'''
processes = [
    subprocess.Popen(
        [sys.executable, "-c", asker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(4)
]
answers = [process.stdout.readline().split() for process in processes]
for process in processes:
    process.communicate()
ports = [port for answer in answers for port in answer]
assert len(ports) == 240
assert len(set(ports)) == 240, "two askers were given one port"
"""


def test_a_crowd_of_askers_gets_different_ports() -> None:
    """Four processes that ask for 60 each at once, out of about 1,000 ports, never meet."""
    done = _need.in_new_netns(CROWD, ephemeral=(2048, 65000))
    assert done.returncode == 0, done.stderr


def test_exhaustion_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that names the remedy comes through; no unguarded port is given in its place."""

    def exhausted(family: int, socktype: int) -> int:
        raise portlease.PortsExhaustedError(f"none left for {family}, {socktype}")

    monkeypatch.setattr(_take, "guarded_port", exhausted)
    with pytest.raises(portlease.PortsExhaustedError, match="none left"):
        socket_helper.find_unused_port()


@pytest.mark.parametrize(
    ("family", "kind", "expected"),
    [
        ("AF_UNIX", socket.SOCK_STREAM, TypeError),  # its addresses are paths
        ("AF_INET", 77, OSError),  # no such type
        ("AF_APPLETALK", socket.SOCK_STREAM, OSError),
    ],
)
def test_other_families_fail_as_in_cpython(
    family: str, kind: int, expected: type[Exception]
) -> None:
    """What cannot be bound to a host and a port is the socket module's error."""
    with pytest.raises(expected):
        socket_helper.find_unused_port(getattr(socket, family), kind)


def test_flags_in_the_type_are_understood() -> None:
    """SOCK_NONBLOCK and SOCK_CLOEXEC may be part of the type, socket(2)."""
    port = socket_helper.find_unused_port(socktype=socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with socket.create_server((socket_helper.HOSTv4, port)):
        pass


# --- IPv6 -----------------------------------------------------------------------------------------


def test_ipv6_enabled_tells_whether_it_can_be_bound() -> None:
    """It agrees with a bind to ::1."""
    assert socket_helper.IPV6_ENABLED is (_need.why_not("ipv6") is None)


def test_without_ipv6() -> None:
    """Where no interface has ::1, IPv6 counts as absent, and only IPv4 ports are found."""
    script = """
    import errno, socket
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as setting:
        setting.write("1")
    from portlease import socket_helper
    assert socket_helper.IPV6_ENABLED is False
    assert errno.EAFNOSUPPORT in socket_helper.get_socket_conn_refused_errs()
    port = socket_helper.find_unused_port()
    socket.create_server(("127.0.0.1", port)).close()
    try:
        socket_helper.find_unused_port(socket.AF_INET6)
    except OSError as error:
        print(error)
    else:
        raise AssertionError
    """
    done = _need.in_new_netns(script)
    assert done.returncode == 0, done.stderr


def test_ipv6_enabled_can_be_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may replace it, and the functions follow."""
    with monkeypatch.context() as patch:
        patch.setattr(socket_helper, "IPV6_ENABLED", False)
        assert errno.EAFNOSUPPORT in socket_helper.get_socket_conn_refused_errs()
    assert socket_helper.IPV6_ENABLED is (_need.why_not("ipv6") is None)


# --- Unix sockets ---------------------------------------------------------------------------------


@pytest.fixture
def forbidden(tmp_path: Path) -> Path:
    """A directory in which a Unix socket is refused with a PermissionError."""
    if os.geteuid() == 0:
        if not Path("/sys/kernel").is_dir():
            need.missing("/sys", "root, and no /sys: nothing is forbidden here")
        return Path("/sys")  # sysfs makes no files for anybody: EPERM
    directory = tmp_path / "forbidden"
    directory.mkdir()
    directory.chmod(0o500)
    return directory


def test_bind_unix_socket_binds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is allowed the socket is bound to the path."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        socket_helper.bind_unix_socket(sock, "here")
        assert sock.getsockname() == "here"


def test_bind_unix_socket_skips_where_it_is_forbidden(
    forbidden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PermissionError becomes a skip, and the socket is closed."""
    monkeypatch.chdir(forbidden)
    sock = socket.socket(socket.AF_UNIX)
    with pytest.raises(unittest.SkipTest, match="cannot bind AF_UNIX sockets") as caught:
        socket_helper.bind_unix_socket(sock, "here.sock")
    assert sock.fileno() == -1
    assert isinstance(caught.value.__cause__, PermissionError)


def test_bind_unix_socket_raises_everything_else(tmp_path: Path) -> None:
    """Errors of other kinds come through, and the socket stays the caller's."""
    with socket.socket(socket.AF_UNIX) as sock:
        with pytest.raises(FileNotFoundError):
            socket_helper.bind_unix_socket(sock, f"{os.path.relpath(tmp_path)}/absent/here")
        assert sock.fileno() != -1
    with socket.socket() as sock, pytest.raises(AssertionError):
        socket_helper.bind_unix_socket(sock, "here")


def test_create_unix_domain_name_makes_short_unused_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is relative, 27 characters long, new each time, not there, and can be bound."""
    monkeypatch.chdir(tmp_path)
    names = {socket_helper.create_unix_domain_name() for _ in range(100)}
    assert len(names) == 100
    assert not list(tmp_path.iterdir())
    name = names.pop()
    assert len(name) == 27
    assert name.startswith(os.curdir + os.sep)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(name)
        assert (tmp_path / name).is_socket()


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have skip_unless_bind_unix_socket try again, here."""
    monkeypatch.setattr(socket_helper, "_unix_bind_tried", [])


def outcome_of(decorate: Callable[[Any], Any]) -> unittest.TestResult:
    """Run a decorated method and a decorated class of one more."""

    class Method(unittest.TestCase):
        @decorate
        def test_one(self) -> None:
            pass

    @decorate
    class Class(unittest.TestCase):
        def test_two(self) -> None:
            pass

    result = unittest.TestResult()
    for case in (Method, Class):
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert 2 in {result.testsRun, len(result.skipped)}  # 3.12.1 counts no skipped test as run
    assert result.wasSuccessful()
    return result


@pytest.mark.usefixtures("untried")
def test_skip_unless_bind_unix_socket_lets_tests_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a socket can be bound, tests run; it is tried once, and nothing stays behind."""
    monkeypatch.chdir(tmp_path)
    assert outcome_of(socket_helper.skip_unless_bind_unix_socket).skipped == []
    assert not list(tmp_path.iterdir())
    assert socket_helper.skip_unless_bind_unix_socket(len) is len


@pytest.mark.usefixtures("untried")
def test_skip_unless_bind_unix_socket_skips_with_the_reason(
    forbidden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none can be bound, methods and classes are skipped, with the kernel's error."""
    monkeypatch.chdir(forbidden)
    reasons = [
        reason for _, reason in outcome_of(socket_helper.skip_unless_bind_unix_socket).skipped
    ]
    assert len(reasons) == 2
    for reason in reasons:
        assert reason.startswith("Requires a functional unix bind(): ")
        assert "ermi" in reason  # EPERM and EACCES both say so


def test_skip_unless_bind_unix_socket_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the socket module has no AF_UNIX, tests are skipped."""
    monkeypatch.setattr(socket_helper, "_AF_UNIX", None)
    result = outcome_of(socket_helper.skip_unless_bind_unix_socket)
    assert [reason for _, reason in result.skipped] == ["No UNIX Sockets"] * 2


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [socket_helper.HOST, socket_helper.HOSTv4, socket_helper.HOSTv6])
@pytest.mark.usefixtures("guards")
def test_the_errors_of_a_refused_connection_are_listed(host: str) -> None:
    """A connection to a port that nobody listens on fails with one of them."""
    port = socket_helper.find_unused_port()
    with raises_errno(*socket_helper.get_socket_conn_refused_errs()):
        socket.create_connection((host, port), timeout=30)


# --- transient_internet ---------------------------------------------------------------------------


@pytest.mark.usefixtures("guards")
def test_a_refused_connection_skips() -> None:
    """A real ECONNREFUSED, plain or wrapped by urllib, becomes ResourceDenied, and is its cause."""
    port = socket_helper.find_unused_port()
    with (
        pytest.raises(socket_helper.ResourceDenied, match=r"^Resource 'it' is not av") as caught,
        socket_helper.transient_internet("it"),
    ):
        socket.create_connection((socket_helper.HOSTv4, port))
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    with pytest.raises(unittest.SkipTest) as skipped, socket_helper.transient_internet("it"):
        urllib.request.urlopen(f"http://{socket_helper.HOSTv4}:{port}/")
    assert isinstance(skipped.value.__cause__, ConnectionRefusedError)


def test_a_timeout_skips() -> None:
    """The default timeout inside the block is the one given, and running out of it is a skip."""
    with (
        socket.create_server((socket_helper.HOSTv4, 0)) as server,
        pytest.raises(socket_helper.ResourceDenied) as caught,
        socket_helper.transient_internet("it", timeout=0.01),
        socket.create_connection(server.getsockname()) as client,
    ):
        client.recv(1)
    assert isinstance(caught.value.__cause__, TimeoutError)


class Statuses(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_error(int(self.path[1:]))

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def statuses() -> Iterator[str]:
    """The URL of a server that answers with the status that the path names."""
    with http.server.ThreadingHTTPServer((socket_helper.HOSTv4, 0), Statuses) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        yield f"http://{socket_helper.HOSTv4}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [404, 499, 500, 503, 599])
def test_an_http_status_skips_if_it_is_the_servers_fault(statuses: str, status: int) -> None:
    """500 to 599 of a real server is a skip; 4xx is the caller's and comes through."""
    expected = socket_helper.ResourceDenied if status >= 500 else urllib.error.HTTPError
    with pytest.raises(expected) as caught, socket_helper.transient_internet("it"):
        urllib.request.urlopen(f"{statuses}/{status}")  # noqa: S310 - our own server
    error = caught.value.__cause__ if status >= 500 else caught.value
    assert isinstance(error, urllib.error.HTTPError)
    assert error.code == status
    error.close()


def test_the_default_timeout_is_set_and_put_back() -> None:
    """60 seconds by default, another if given, untouched for None; put back however it ends."""
    socket.setdefaulttimeout(17.25)
    try:
        for options, inside in (({}, 60.0), ({"timeout": 1.5}, 1.5), ({"timeout": None}, 17.25)):
            with socket_helper.transient_internet("it", **options):
                assert socket.getdefaulttimeout() == inside
            assert socket.getdefaulttimeout() == 17.25
            for error in (OSError("other"), TimeoutError(), ValueError()):
                with (
                    pytest.raises((OSError, ValueError, unittest.SkipTest)),
                    socket_helper.transient_internet("it"),
                ):
                    raise error
                assert socket.getdefaulttimeout() == 17.25
    finally:
        socket.setdefaulttimeout(None)


def test_settings_come_from_a_loaded_test_support(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """INTERNET_TIMEOUT and verbose are test.support's where it is loaded."""
    with pytest.raises(unittest.SkipTest), socket_helper.transient_internet("it"):
        raise TimeoutError
    assert capsys.readouterr().err == "", "verbose, as test.support is by default: no message"
    support = types.ModuleType("test.support")
    vars(support).update(INTERNET_TIMEOUT=4.5, verbose=0)
    monkeypatch.setitem(sys.modules, "test.support", support)
    with socket_helper.transient_internet("it"):
        assert socket.getdefaulttimeout() == 4.5
    with pytest.raises(unittest.SkipTest), socket_helper.transient_internet("it"):
        raise TimeoutError
    assert capsys.readouterr().err == "Resource 'it' is not available\n"


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_a_temporary_error_of_nntp_skips(version: str) -> None:
    """A real server's 400 is a skip where the program uses nntplib; we never import it."""
    script = """
import socket, sys, threading, warnings
from portlease import socket_helper

with socket_helper.transient_internet("it"):
    pass
assert "nntplib" not in sys.modules
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nntplib

def serve(server):
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"400 service temporarily unavailable\\r\\n")

with socket.create_server(("127.0.0.1", 0)) as server:
    thread = threading.Thread(target=serve, args=(server,))
    thread.start()
    try:
        with socket_helper.transient_internet("it"):
            nntplib.NNTP("127.0.0.1", server.getsockname()[1])
    except socket_helper.ResourceDenied as error:
        assert isinstance(error.__cause__, nntplib.NNTPTemporaryError)
    else:
        raise AssertionError
    thread.join()
"""
    run(_interpreters.with_helpers(version), "-W", "error", "-c", script)


# --- TCP black hole -------------------------------------------------------------------------------


@pytest.fixture
def freebsd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the module believe that this is FreeBSD, with programs from `tmp_path` in its PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr(socket_helper, "_sysctl_values", {})
    # Loaded by another test, it would write its warnings to the stderr of that time.
    monkeypatch.delitem(sys.modules, "test.support", raising=False)


def test_only_freebsd_has_a_black_hole() -> None:
    """On every other system the answer is no, and nobody is asked."""
    if sys.platform.startswith("freebsd"):
        pytest.skip("this is FreeBSD")
    assert socket_helper.tcp_blackhole() is False
    assert outcome_of(socket_helper.skip_if_tcp_blackhole).skipped == []


@pytest.mark.parametrize(
    ("script", "expected", "warning"),
    [
        ("echo 0", False, ""),
        ("echo 1", True, ""),
        ("echo 2", True, ""),
        ("echo unknown oid >&2; exit 1", False, "exit status 1: 'unknown oid\\n'"),
        ("echo on", False, "did not print a whole number: 'on\\n'"),
    ],
)
@pytest.mark.usefixtures("freebsd")
def test_freebsd_is_asked_through_sysctl(
    script: str,
    expected: bool,  # noqa: FBT001 - a column of the table
    warning: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The program sysctl(8) is asked once; what it cannot tell is warned of once."""
    program = tmp_path / "sysctl"
    asked = tmp_path / "asked"
    noting = f"printf '%s,' \"$@\" >> {asked}"
    program.write_text(f"#!/bin/sh\n{noting}\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    assert socket_helper.tcp_blackhole() is expected
    assert len(outcome_of(socket_helper.skip_if_tcp_blackhole).skipped) == (2 if expected else 0)
    assert asked.read_text(encoding="utf-8") == "-n,net.inet.tcp.blackhole,"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == (1 if warning else 0)
    assert all(line.startswith("Warning -- 'sysctl -n net.inet") for line in lines)
    assert all(line.endswith(warning) for line in lines)
