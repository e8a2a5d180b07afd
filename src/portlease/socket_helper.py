"""CPython's `test.support.socket_helper`, name for name, on every Python and without `test`.

A test suite that says

    from test.support import socket_helper

says instead

    from portlease import socket_helper

and keeps its calls as they are. The names are those of Python 3.11 to 3.14 together, on each of
them, whether or not the `test` package is installed (slim images and stripped builds leave it
out). This module never imports `test.support`; where something else has imported it already, two
settings are read from it (`verbose`, `INTERNET_TIMEOUT`), and the exceptions raised here can be
caught by either name.

What differs from CPython, on purpose:

- `find_unused_port` answers with a port from outside the ephemeral range where there is room and
  keeps every other lease away from it for a while; see there.
- `transient_internet` unwraps a `URLError` that carries its reason as `__cause__` on every Python
  (CPython: from 3.14) and lets a `URLError` pass whose reason is no string (CPython: TypeError).
- Where CPython ignores every OSError of a system call, this module ignores the error numbers that
  mean "this machine has no such thing" and raises the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from unittest import SkipTest, skip, skipIf

from portlease import _test_support
from portlease._test_support import ResourceDenied, TestFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Any, TypeVar

    _Test = TypeVar("_Test", bound=Callable[..., Any])

__all__ = [
    "HOST",
    "IPV6_ENABLED",
    "HOSTv4",
    "HOSTv6",
    "ResourceDenied",
    "TestFailed",
    "bind_port",
    "bind_unix_socket",
    "create_unix_domain_name",
    "find_unused_port",
    "get_socket_conn_refused_errs",
    "has_gethostname",
    "skip_if_tcp_blackhole",
    "skip_unless_bind_unix_socket",
    "tcp_blackhole",
    "transient_internet",
]

HOST = "localhost"
"""The name that this machine has for itself; the address it stands for may be IPv4 or IPv6."""

HOSTv4 = "127.0.0.1"
"""The IPv4 loopback address."""

HOSTv6 = "::1"
"""The IPv6 loopback address; see IPV6_ENABLED before using it."""

has_gethostname: bool = sys.platform != "wasi"
"""Whether `socket.gethostname` works: WASI's C library has it only to refuse (ENOTSUP)."""

IPV6_ENABLED: bool
"""Whether a TCP socket can be bound to `::1` here. Found out at the first look, then remembered."""

if not TYPE_CHECKING:  # mypy would let every name pass

    def __getattr__(name: str) -> object:
        """Find out IPV6_ENABLED when somebody first asks: an import makes no socket."""
        if name == "IPV6_ENABLED":
            return _ipv6_enabled()
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# --- ports ------------------------------------------------------------------------------------

_GUARDED_KINDS = frozenset(
    (family, kind)
    for family in (socket.AF_INET, socket.AF_INET6)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
)


def find_unused_port(
    family: int = socket.AF_INET,
    socktype: int = socket.SOCK_STREAM,
) -> int:
    """Find a port that the caller, or a program it starts, can bind at once.

    For TCP and UDP over IPv4 and IPv6 the port comes from outside the range that the kernel deals
    out for `bind(0)` and outgoing connections, if there is room, and has just been bound
    exclusively, so that nobody is on it, TIME_WAIT included. It is unbound when this returns,
    so whatever binds it need set no socket option. Until 64 more ports have been asked for in this
    process, or it ends, no lease of any process in this network namespace takes the port.

    Not guaranteed: that a program which asks for exactly this number by itself is kept off. For
    that, `portlease.lease()` holds the port, and `portlease.serve()` proves who has it.

    Args:
        family: an address family, AF_INET or AF_INET6 for the above. Others are bound to port 0 of
            localhost and closed, without any promise, as CPython does.
        socktype: a socket type, likewise SOCK_STREAM or SOCK_DGRAM.

    Returns:
        The port, 1 to 65535.

    Raises:
        portlease.PortsExhaustedError: every port that may be used is taken.
        OSError: this machine has no sockets of that family or type.
        TypeError: the family's addresses have no port.
    """
    if (family, socktype) in _GUARDED_KINDS and (family == socket.AF_INET or _ipv6_enabled()):
        # Only here: this module must be importable for HOST and bind_port at no cost.
        from portlease._take import guarded_port

        return guarded_port(family, socktype)
    with socket.socket(family, socktype) as sock:
        return bind_port(sock)


def bind_port(sock: socket.socket, host: str = HOST) -> int:
    """Bind a socket to a port of the kernel's choice.

    A TCP/IPv4 socket that would share its port is refused, since a test that got a shared port
    would see other tests' connections. On Windows, SO_EXCLUSIVEADDRUSE is set on it, without
    which another socket with SO_REUSEADDR could be bound beside it (Microsoft, "Using SO_REUSEADDR
    and SO_EXCLUSIVEADDRUSE").

    Args:
        sock: an unbound internet socket. It stays the caller's, also when this raises.
        host: the address, or a name for it, to bind to.

    Returns:
        The port.

    Raises:
        TestFailed: `sock` is a TCP/IPv4 socket with SO_REUSEADDR or SO_REUSEPORT set.
        OSError: the kernel refused; EADDRNOTAVAIL where the host is not this machine.
    """
    if sock.family == socket.AF_INET and sock.type == socket.SOCK_STREAM:
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
            if _is_set(sock, option):
                raise _test_support.test_failed(
                    f"tests must not set {option} on a TCP/IP socket: it could share its port"
                )
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    sock.bind((host, 0))
    port: int = sock.getsockname()[1]
    return port


def _is_set(sock: socket.socket, option: str) -> bool:
    """Tell whether a flag of SOL_SOCKET is set; no, where the system does not know the flag."""
    number = getattr(socket, option, None)
    if number is None:
        return False
    try:
        # 1 is what Linux and Windows answer. macOS and FreeBSD answer with the option's own bit
        # (sogetopt in their uipc_socket.c), so there CPython refuses nothing, and so do we: a
        # suite that runs there must not fail for having changed its helper.
        return sock.getsockopt(socket.SOL_SOCKET, number) == 1
    except OSError as error:
        # Python built with the headers of Linux 3.9 or later, running on an earlier kernel.
        if error.errno == errno.ENOPROTOOPT:
            return False
        raise


# --- IPv6 -------------------------------------------------------------------------------------

# socket(2) without IPv6 in the kernel, or in a FreeBSD jail; bind(2) where no interface has ::1
# (net.ipv6.conf.lo.disable_ipv6); sandboxes that forbid the one or the other.
_NO_IPV6 = frozenset(
    {
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
    }
)


def _ipv6_enabled() -> bool:
    """Say what IPV6_ENABLED says, also where somebody has replaced it (unittest.mock)."""
    known = globals().get("IPV6_ENABLED")
    if known is None:
        known = globals()["IPV6_ENABLED"] = _can_bind_ipv6()
    return bool(known)


def _can_bind_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind((HOSTv6, 0))
    except OSError as error:
        if error.errno in _NO_IPV6:
            return False
        raise
    return True


# --- Unix sockets -----------------------------------------------------------------------------

# Absent on Windows (until Python has it there) and on WASI.
_AF_UNIX: int | None = getattr(socket, "AF_UNIX", None)


def bind_unix_socket(sock: socket.socket, addr: str | bytes) -> None:
    """Bind a Unix socket, and skip the test where that is forbidden.

    Args:
        sock: an unbound AF_UNIX socket. It stays the caller's, except where the test is skipped:
            then it is closed.
        addr: a path, or an abstract name that begins with a null byte (Linux).

    Raises:
        unittest.SkipTest: EACCES or EPERM, as in a sandbox (Android, some container profiles).
        AssertionError: the socket is of another family.
        OSError: everything else.
    """
    if sock.family != _AF_UNIX:
        raise AssertionError(f"not a Unix socket: {sock!r}")
    try:
        sock.bind(addr)
    except PermissionError as error:
        sock.close()
        raise SkipTest("cannot bind AF_UNIX sockets") from error


def create_unix_domain_name() -> str:
    """Make up a path, relative to the current directory, that a Unix socket can be bound to.

    It is 27 characters long, since the whole of a Unix socket's path has about a hundred (unix(7),
    "Pathname sockets"). Nothing is created: another process that guessed the 32 random bits could
    come first, and the caller's bind would then fail with EADDRINUSE.
    """
    while True:
        path = f"{os.curdir}{os.sep}test_python_{os.urandom(4).hex()}.sock"
        if not os.path.lexists(path):
            return path


def skip_unless_bind_unix_socket(test: _Test) -> _Test:
    """Decorate a test or a class of tests that needs to bind a Unix socket to a path.

    Whether that works in the current directory is tried out once, when the first test is
    decorated: file systems shared with another system often cannot hold a socket.

    Args:
        test: a test function, or a class of tests.

    Returns:
        The test itself, or one that is skipped and says why.
    """
    if _AF_UNIX is None:
        return skip("No UNIX Sockets")(test)
    refusal = _unix_bind_refusal(_AF_UNIX)
    if refusal is not None:
        return skip(f"Requires a functional unix bind(): {refusal}")(test)
    return test


_unix_bind_tried: list[OSError | None] = []


def _unix_bind_refusal(family: int) -> OSError | None:
    """Tell the error with which a Unix socket was refused a path here, None if it was not.

    Here every error number is an answer and none is dropped: it becomes the reason of the skip.
    """
    if not _unix_bind_tried:
        _unix_bind_tried.append(_try_unix_bind(family, create_unix_domain_name()))
    return _unix_bind_tried[0]


def _try_unix_bind(family: int, path: str) -> OSError | None:
    try:
        sock = socket.socket(family)
    except OSError as error:
        return error
    with sock:
        try:
            sock.bind(path)
        except OSError as error:
            return error
    os.unlink(path)
    return None


# --- refused and unreachable ------------------------------------------------------------------


def get_socket_conn_refused_errs() -> list[int]:
    """List the error numbers with which a connection to a port nobody listens on may fail.

    ECONNREFUSED is the rule. ENETUNREACH and EHOSTUNREACH are what it becomes behind some
    firewalls and on Solaris; EADDRNOTAVAIL where "localhost" is also an IPv6 name but no interface
    has the address; EAFNOSUPPORT where there is no IPv6 at all.
    """
    names = ["ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EHOSTUNREACH"]
    if not _ipv6_enabled():
        names.append("EAFNOSUPPORT")
    return [getattr(errno, name) for name in names if hasattr(errno, name)]


# What transient_internet takes for the network's fault, by name, with Linux's numbers for systems
# that lack the name: a remote error can carry the number of another system.
_TRANSIENT_ERRNOS = {
    "ECONNREFUSED": 111,
    "ECONNRESET": 104,
    "EHOSTUNREACH": 113,
    "ENETUNREACH": 101,
    "ETIMEDOUT": 110,
    "EADDRNOTAVAIL": 99,
}
_TRANSIENT_GAI_ERRNOS = {
    "EAI_AGAIN": -3,
    "EAI_FAIL": -4,
    "EAI_NONAME": -2,
    "EAI_NODATA": -5,
    "WSANO_DATA": 11004,  # Windows: the name exists, but has only addresses of the other family
}
# urllib also reports an error of the network as text alone.
_TRANSIENT_REASONS = ("ConnectionRefusedError", "TimeoutError", "EOFError")

_NOT_SET: Any = object()


@contextlib.contextmanager
def transient_internet(
    resource_name: str,
    *,
    timeout: float | None = _NOT_SET,
    errnos: Collection[int] = (),
) -> Iterator[None]:
    """Skip the test when what goes wrong inside the block is the internet's fault.

    Transient are: timeouts; a name server that does not know or does not answer; connections
    refused, reset, timed out or without a route; HTTP 500 to 599; a temporary error of NNTP, where
    the program has imported `nntplib`. An error that was wrapped in others (urllib does so) is
    taken out first. Everything else goes through unchanged.

    Args:
        resource_name: what the test wanted to reach, for the message.
        timeout: seconds, the default timeout of new sockets while the block runs; None leaves it
            alone. Default: INTERNET_TIMEOUT of `test.support` if that is loaded, 60.0 otherwise.
        errnos: the error numbers to take for transient in place of the usual ones, those of
            name servers included; timeouts and HTTP statuses are judged as always.

    Raises:
        ResourceDenied: in place of a transient error, which is its `__cause__`. Outside verbose
            mode the message goes to standard error, too.
    """
    if timeout is _NOT_SET:
        timeout = _test_support.internet_timeout_s()
    transient = _Transient(errnos)
    denied = f"Resource {resource_name!r} is not available"
    old_timeout = socket.getdefaulttimeout()
    try:
        if timeout is not None:
            socket.setdefaulttimeout(timeout)
        yield
    except OSError as error:
        inner = _unwrapped(error)
        if not transient.covers(inner):
            raise
        if not _test_support.verbose():
            sys.stderr.write(f"{denied}\n")
        raise _test_support.resource_denied(denied) from inner
    except Exception as error:
        if not _is_of(error, "nntplib", "NNTPTemporaryError"):
            raise
        # In verbose mode, unlike above: so it is in CPython, for this one error.
        if _test_support.verbose():
            sys.stderr.write(f"{denied}\n")
        raise _test_support.resource_denied(denied) from error
    finally:
        socket.setdefaulttimeout(old_timeout)


class _Transient:
    """The errors that one use of transient_internet translates."""

    __slots__ = ("_errnos", "_gai_errnos")

    def __init__(self, errnos: Collection[int]) -> None:
        self._errnos: Collection[int] = errnos
        self._gai_errnos: Collection[int] = ()
        if not errnos:
            self._errnos = _numbers(errno, _TRANSIENT_ERRNOS)
            self._gai_errnos = _numbers(socket, _TRANSIENT_GAI_ERRNOS)

    def covers(self, error: BaseException) -> bool:
        number = getattr(error, "errno", None)
        if isinstance(error, TimeoutError) or number in self._errnos:
            return True
        if isinstance(error, socket.gaierror) and number in self._gai_errnos:
            return True
        return _is_transient_of_urllib(error)


def _numbers(module: object, names: dict[str, int]) -> frozenset[int]:
    return frozenset(getattr(module, name, number) for name, number in names.items())


def _is_transient_of_urllib(error: BaseException) -> bool:
    if not _is_of(error, "urllib.error", "URLError"):
        return False
    if _is_of(error, "urllib.error", "HTTPError") and _is_server_error(getattr(error, "code", 0)):
        return True
    reason = getattr(error, "reason", None)
    return isinstance(reason, str) and any(name in reason for name in _TRANSIENT_REASONS)


def _is_server_error(status: int) -> bool:
    return 500 <= status <= 599  # noqa: PLR2004 - RFC 9110, 15.6


def _is_of(error: BaseException, module: str, name: str) -> bool:
    """Tell whether an error is of a class, without importing the class's module.

    Nobody can have raised an error of a module that is not loaded. To import nntplib would warn on
    3.11 and 3.12, and fail from 3.13 on; to import urllib.error would cost 30 ms.
    """
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _unwrapped(error: BaseException) -> BaseException:
    """Take out of an OSError the one it was made from, at whatever depth.

    The inner error may be the first argument (urllib), the second (`OSError("text", error)`), or,
    for urllib's FTP handler, the cause.
    """
    while True:
        inner: BaseException | None = next(
            (arg for arg in error.args[:2] if isinstance(arg, OSError)), None
        )
        if inner is None and _is_of(error, "urllib.error", "URLError"):
            inner = error.__cause__
        if inner is None:
            return error
        error = inner


# --- FreeBSD's TCP black hole -----------------------------------------------------------------

_BLACKHOLE = "net.inet.tcp.blackhole"
_sysctl_values: dict[str, int | None] = {}


def tcp_blackhole() -> bool:
    """Tell whether the kernel answers nothing at all on a TCP port nobody listens on.

    FreeBSD does so where sysctl net.inet.tcp.blackhole is not 0 (blackhole(4)): connecting to such
    a port then times out in place of ECONNREFUSED. Every other system: no. Read once a process.
    """
    if not sys.platform.startswith("freebsd"):
        return False
    if _BLACKHOLE not in _sysctl_values:
        _sysctl_values[_BLACKHOLE] = _read_sysctl(_BLACKHOLE)
    return bool(_sysctl_values[_BLACKHOLE])


def skip_if_tcp_blackhole(test: _Test) -> _Test:
    """Decorate a test, or a class of tests, that expects a connection to be refused.

    Args:
        test: a test function, or a class of tests.

    Returns:
        The test itself, or, where `tcp_blackhole()` says so, one that is skipped.
    """
    reason = f"TCP blackhole is enabled (sysctl {_BLACKHOLE})"
    return skipIf(tcp_blackhole(), reason)(test)


def _read_sysctl(name: str) -> int | None:
    """Ask sysctl(8) for a whole number; None, after a warning, where it does not give one."""
    import subprocess  # here: FreeBSD alone comes this way

    command = ["sysctl", "-n", name]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    shown = " ".join(command)
    if done.returncode:
        _test_support.warn(f"{shown!r} failed with exit status {done.returncode}: {done.stdout!r}")
        return None
    try:
        return int(done.stdout)
    except ValueError:
        _test_support.warn(f"{shown!r} did not print a whole number: {done.stdout!r}")
        return None
