"""Linux: the kernel's port table is the lock, its abstract Unix names are board and guards.

Abstract Unix sockets (unix(7)) live in the network namespace, need no file, can be seen by every
user in /proc/net/unix, and go when the last descriptor does, whatever the owner died of.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from portlease._pool import Rules, parse_port_list, parse_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from portlease._platform._types import Closable, Handle

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

CAN_OFFER: bool = True
BOARD: bool = True

_PREFIX: Final = b"\0portlease/1/"
_BOARD: Final = b"@portlease/1/"  # /proc/net/unix writes NUL as @
_GUARDS: Final = _BOARD + b"g/"
_GUARD_NAMES: Final = {"tcp": _PREFIX + b"g/tcp/%d", "udp": _PREFIX + b"g/udp/%d"}
_SYSCTL: Final = "/proc/sys/net/ipv4/"
# What the kernel starts with (net/ipv4/af_inet.c), for a process that has no /proc.
_DEFAULT_RANGE: Final = "32768 60999"
_DEFAULT_UNPRIVILEGED: Final = "1024"
_RULES_AGE_S: Final = 1.0
# Plain ints: building an enum member's operand anew costs 0.2 us a call.
_AF_UNIX: Final = int(socket.AF_UNIX)
_AF_INET6: Final = int(socket.AF_INET6)
_DGRAM: Final = int(socket.SOCK_DGRAM)
_IPPROTO_IPV6: Final = int(socket.IPPROTO_IPV6)
_IPV6_V6ONLY: Final = int(socket.IPV6_V6ONLY)
_SOL_SOCKET: Final = int(socket.SOL_SOCKET)
_SO_REUSEADDR: Final = int(socket.SO_REUSEADDR)
_new_socket: Final = socket.SocketType


class _Seen:
    """The last reading of the rules, and when it was taken."""

    texts: tuple[str, str, str] | None = None
    rules: Rules | None = None
    until: float = 0.0
    services: frozenset[int] | None = None
    dual_stack: bool | None = None


def rules() -> Rules:
    """Read the port sysctls of the calling thread's network namespace, at most once a second."""
    now = time.monotonic()
    if _Seen.rules is not None and now < _Seen.until:
        return _Seen.rules
    texts = (
        read_sysctl("ip_local_port_range") or _DEFAULT_RANGE,
        read_sysctl("ip_local_reserved_ports") or "",
        read_sysctl("ip_unprivileged_port_start") or _DEFAULT_UNPRIVILEGED,
    )
    if _Seen.rules is None or texts != _Seen.texts:
        low, high = texts[0].split()
        _Seen.rules = Rules(
            ephemeral=(int(low), int(high)),
            reserved=parse_port_list(texts[1]),
            services=_services(),
            first_unprivileged=int(texts[2]),
        )
        _Seen.texts = texts
    _Seen.until = now + _RULES_AGE_S
    return _Seen.rules


def read_sysctl(name: str) -> str | None:
    """The text of net.ipv4.*name*, or None where there is no /proc or it is hidden."""
    try:
        # Bytes: a text file imports its codec, which a process that has become another user
        # since it started may not be able to read any more.
        with open(_SYSCTL + name, "rb") as file:
            return file.read().strip().decode()
    except (FileNotFoundError, PermissionError):
        return None


def _services() -> frozenset[int]:
    if _Seen.services is None:
        try:
            with open("/etc/services", encoding="utf-8", errors="replace") as file:
                _Seen.services = parse_services(file.read())
        except (FileNotFoundError, PermissionError):  # a container image without netbase
            _Seen.services = frozenset()
    return _Seen.services


def dual_stack() -> bool:
    """Whether [::] with IPV6_V6ONLY off can be bound; asked of the kernel once a process."""
    if _Seen.dual_stack is None:
        try:
            bind(_AF_INET6, int(socket.SOCK_STREAM), ("::", 0), v6only=False).close()
        except OSError as error:
            # EAFNOSUPPORT: booted with ipv6.disable=1. EADDRNOTAVAIL: off in this namespace.
            # EADDRINUSE: it is there, only the ephemeral range is full.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                raise
            _Seen.dual_stack = error.errno == errno.EADDRINUSE
        else:
            _Seen.dual_stack = True
    return _Seen.dual_stack


def publish(name: bytes) -> Handle | None:
    """Bind an abstract Unix datagram socket whose name is the message."""
    return _bind_name(_PREFIX + name)


def published() -> list[bytes]:
    """Read them back from /proc/net/unix (of the thread: its namespace may be its own).

    The file is made a page at a time, and a name that stands all the while can fall into the hole
    that another leaves which goes between two pages (seen in 35 of 1,434 readings, with 1,000 rows
    under churn). So it is read twice: a name must fall into a hole twice to be missed.
    """
    return list(dict.fromkeys(_names(_BOARD) + _names(_BOARD)))


def published_for(port: int) -> list[bytes]:
    """Read those of one port, once: the caller is in a hurry, and rests no proof on it."""
    return _names(b"%s%d/" % (_BOARD, port))


def _names(wanted: bytes) -> list[bytes]:
    # One line for every Unix socket of the namespace, about a microsecond each in the kernel.
    with open("/proc/thread-self/net/unix", "rb") as file:
        text = file.read()
    found = []
    start = text.find(wanted)
    while start >= 0:
        end = text.find(b"\n", start)
        if not text.startswith(_GUARDS, start):
            found.append(text[start + len(_BOARD) : end])
        start = text.find(wanted, end)
    return found


def guard(transport: str, port: int) -> Handle | None:
    """Bind the abstract name that stands for this transport and port."""
    return _bind_name(_GUARD_NAMES[transport] % port)


def is_guarded(row: Closable, transport: str, port: int) -> bool:
    """Connect to the guard's name: the kernel finds it or not, and the guard notices nothing."""
    answer = row.connect_ex(_GUARD_NAMES[transport] % port)  # type: ignore[attr-defined]  # a socket
    if answer == errno.ECONNREFUSED:
        return False
    # EACCES (AppArmor), EPERM (Landlock): there is one, and a security module keeps us apart.
    if answer in (0, errno.EACCES, errno.EPERM):
        return True
    raise OSError(answer, os.strerror(answer))


def _bind_name(name: bytes) -> Handle | None:
    handle = _new_socket(_AF_UNIX, _DGRAM)
    try:
        handle.bind(name)
    except OSError as error:
        handle.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return handle


def bind(family: int, kind: int, address: tuple[object, ...], *, v6only: bool) -> Handle:
    """Bind without SO_REUSEADDR: succeeds only if nobody at all is on the port."""
    hold = _new_socket(family, kind)
    try:
        if family == _AF_INET6:
            # Always said, since net.ipv6.bindv6only may have turned the default round.
            hold.setsockopt(_IPPROTO_IPV6, _IPV6_V6ONLY, v6only)
        hold.bind(address)
    except OSError:
        hold.close()
        raise
    return hold


def offer(hold: Handle) -> None:
    """Set SO_REUSEADDR after the bind; see portlease._states for what that does."""
    hold.setsockopt(_SOL_SOCKET, _SO_REUSEADDR, 1)


def withdraw(hold: Handle) -> None:
    """Clear SO_REUSEADDR, and what a server with SO_REUSEPORT may have left in the port's bucket.

    The kernel remembers it there (tb->fastreuseport, inet_csk_update_fastreuse()) when the server
    has long gone, and lets the next one of the same user in without looking at the hold. A socket
    that joins the bucket without SO_REUSEPORT makes it forget.
    """
    with socket.socket(hold.family, hold.type) as joiner:
        if hold.family == _AF_INET6:
            v6only = hold.getsockopt(_IPPROTO_IPV6, _IPV6_V6ONLY)
            joiner.setsockopt(_IPPROTO_IPV6, _IPV6_V6ONLY, v6only)
        joiner.setsockopt(_SOL_SOCKET, _SO_REUSEADDR, 1)
        try:
            joiner.bind(hold.getsockname())
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # the server listens there still
                raise
    withdraw_to_listen(hold)


def withdraw_to_listen(hold: Handle) -> None:
    """Clear SO_REUSEADDR: enough for a socket that is about to listen.

    listen(2) asks for the port once more (inet_csk_listen_start()), and so makes the bucket forget.
    """
    hold.setsockopt(_SOL_SOCKET, _SO_REUSEADDR, 0)
