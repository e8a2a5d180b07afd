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
    from collections.abc import Sequence
    from typing import Final, TypeAlias

    from portlease._platform._types import Closable, Handle

    # A socket option: of which socket, which, its value meanwhile, its value afterwards.
    _Setting: TypeAlias = tuple[Handle, int, int, int]

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

CAN_OFFER: bool = True
BOARD: bool = True

_PREFIX: Final = b"\0portlease/1/"
_BOARD: Final = b"@portlease/1/"  # /proc/net/unix writes NUL as @
_GUARDS: Final = _BOARD + b"g/"
_GUARD_NAMES: Final = {"tcp": b"g/tcp/%d/%04x", "udp": b"g/udp/%d/%04x"}
_GUARD_ADDRESSES: Final = {transport: _PREFIX + name for transport, name in _GUARD_NAMES.items()}
# The kernel keeps a namespace's Unix sockets in 256 chains, and adds up the bytes of a name to find
# its own (unix_abstract_hash(), net/unix/af_unix.c). The sums of decimal digits lie close together:
# 20,000 guards were in 51 chains, one look passed 682 of them. With digits of this product, 110.
_SPREAD: Final = 40503
_SYSCTL: Final = "/proc/sys/net/ipv4/"
# What the kernel starts with (net/ipv4/af_inet.c), for a process that has no /proc.
_DEFAULT_RANGE: Final = "32768 60999"
_DEFAULT_UNPRIVILEGED: Final = "1024"
_RULES_AGE_S: Final = 1.0
# Plain ints: building an enum member's operand anew costs 0.2 us a call.
_AF_UNIX: Final = int(socket.AF_UNIX)
_AF_INET6: Final = int(socket.AF_INET6)
_DGRAM: Final = int(socket.SOCK_DGRAM)
_STREAM: Final = int(socket.SOCK_STREAM)
_IPPROTO_IPV6: Final = int(socket.IPPROTO_IPV6)
_IPV6_V6ONLY: Final = int(socket.IPV6_V6ONLY)
_SOL_SOCKET: Final = int(socket.SOL_SOCKET)
_SO_REUSEADDR: Final = int(socket.SO_REUSEADDR)
_SO_REUSEPORT: Final = int(socket.SO_REUSEPORT)
# <asm-generic/socket.h>; not in Python's socket module.
_SO_BINDTOIFINDEX: Final = 62
# No interface has it: the kernel hands indices out from 1 on (dev_new_index(), net/core/dev.c).
_NO_INTERFACE: Final = 0x7FFFFFFF
_OTHER_INTERFACE: Final = 0x7FFFFFFE
# A broker around us lets whatever runs in it bind what it has leased. A lease of ours must not be
# let in there: two would share a number. It passes over sockets that bear this mark, a timeout that
# nobody asks for (LEASE_MARK of portlease._tree._broker). The variable is there from exec on.
_IN_A_BROKER: Final = "PORTLEASE_BROKER" in os.environ
_SO_RCVTIMEO: Final = int(socket.SO_RCVTIMEO)
_MARK: Final = (0x706C).to_bytes(8, sys.byteorder) + bytes(8)
_new_socket: Final = socket.SocketType
_ECONNREFUSED: Final = errno.ECONNREFUSED


class _Seen:
    """The last reading of the rules, and when it was taken."""

    texts: tuple[str, str, str] | None = None
    rules: Rules | None = None
    until: float = 0.0
    services: frozenset[int] | None = None
    dual_stack: bool | None = None


def rules(*, fresh: bool = False) -> Rules:
    """Read the port sysctls of the calling thread's network namespace, at most once a second."""
    now = time.monotonic()
    if _Seen.rules is not None and now < _Seen.until and not fresh:
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
    row = _new_socket(_AF_UNIX, _DGRAM)
    try:
        row.bind(_PREFIX + name)
    except OSError as error:
        row.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return row


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
    return publish(_GUARD_NAMES[transport] % (port, port * _SPREAD & 0xFFFF))


def is_guarded(row: Closable, transport: str, port: int) -> bool:
    """Connect to the guard's name: the kernel finds it or not, and the guard notices nothing."""
    answer = row.connect_ex(_GUARD_ADDRESSES[transport] % (port, port * _SPREAD & 0xFFFF))  # type: ignore[attr-defined]  # a socket
    return answer != _ECONNREFUSED and _is_there(answer)


def _is_there(answer: int) -> bool:
    # EACCES (AppArmor), EPERM (Landlock): there is one, and a security module keeps us apart.
    if answer in (0, errno.EACCES, errno.EPERM):
        return True
    raise OSError(answer, os.strerror(answer))


def bind_unguarded(  # noqa: PLR0913, PLR0917 - its parts
    row: Closable,
    transport: str,
    port: int,
    family: int,
    kind: int,
    address: tuple[object, ...],
    v6only: bool,  # noqa: FBT001 - as it is
) -> Handle | None:
    """As is_guarded(), bind(), is_guarded(), in one call: every lease waits for this."""
    guard = _GUARD_ADDRESSES[transport] % (port, port * _SPREAD & 0xFFFF)
    look = row.connect_ex  # type: ignore[attr-defined]  # a socket
    if (answer := look(guard)) != _ECONNREFUSED and _is_there(answer):
        return None
    hold = bind(family, kind, address, v6only=v6only)
    try:
        guarded = (answer := look(guard)) != _ECONNREFUSED and _is_there(answer)
    except BaseException:
        hold.close()
        raise
    if guarded:
        hold.close()
        return None
    return hold


def bind(family: int, kind: int, address: tuple[object, ...], *, v6only: bool) -> Handle:
    """Bind without SO_REUSEADDR: succeeds only if nobody at all is on the port."""
    hold = _new_socket(family, kind)
    try:
        if family == _AF_INET6:
            # Always said, since net.ipv6.bindv6only may have turned the default round.
            hold.setsockopt(_IPPROTO_IPV6, _IPV6_V6ONLY, v6only)
        if _IN_A_BROKER:
            hold.setsockopt(_SOL_SOCKET, _SO_RCVTIMEO, _MARK)
        hold.bind(address)
        if _IN_A_BROKER:
            hold.setsockopt(_SOL_SOCKET, _SO_RCVTIMEO, bytes(len(_MARK)))
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


def bind_beside(  # noqa: PLR0913, PLR0917 - its parts
    holds: Sequence[Handle],
    family: int,
    kind: int,
    address: tuple[object, ...],
    v6only: bool,  # noqa: FBT001 - as it is
    backlog: int | None,
) -> socket.socket:
    """Bind, and listen, through a door that is open for as long as that takes.

    There are three doors, narrowest first:

    - With CAP_NET_RAW, interfaces. Two sockets that are bound to different ones do not conflict, so
      for the moment hold and socket are bound to two that do not exist. Everybody else's bind
      conflicts with both, but for those that are bound to an interface (SO_BINDTODEVICE) as well.
    - UDP: SO_REUSEPORT on both sides; that lets in only who sets it too, and is of the same user.
    - SO_REUSEADDR on both sides, the only one for which the bucket of a TCP port does not remember
      anything that would let others in later (see :func:`withdraw`).

    A socket that listens keeps SO_REUSEADDR. That lets nobody in; and the connections it accepts
    inherit it, so that in TIME_WAIT they are not in the way of the next one that binds here.
    """
    shut = [hold for hold in holds if not hold.getsockopt(_SOL_SOCKET, _SO_REUSEADDR)]
    doors = (_by_interfaces, _by_reuseport, _by_reuseaddr) if shut else (_by_nothing,)
    for door in doors:
        new = socket.socket(family, kind)  # the class that callers know: this one goes to them
        opened: list[_Setting] = []
        try:
            if family == _AF_INET6:
                new.setsockopt(_IPPROTO_IPV6, _IPV6_V6ONLY, v6only)
            if kind == _STREAM:
                new.setsockopt(_SOL_SOCKET, _SO_REUSEADDR, 1)
            opened = door(shut, new)
            _bind_through(opened, new, address, backlog)
        except BaseException as error:
            for sock, option, _, after in opened:  # an interrupt may have come in its midst
                sock.setsockopt(_SOL_SOCKET, option, after)
            new.close()
            if door is doors[-1] or not isinstance(error, OSError) or error.errno not in _NEXT_DOOR:
                raise
        else:
            return new
    raise AssertionError


# EPERM, ENOPROTOOPT: no capability, or no SO_BINDTOIFINDEX (before Linux 5.0). ENODEV: an IPv6
# address is looked for on the interface. EOPNOTSUPP: not a door for this kind of socket.
_NEXT_DOOR: Final = frozenset(
    {errno.EADDRINUSE, errno.EPERM, errno.ENOPROTOOPT, errno.ENODEV, errno.EOPNOTSUPP}
)


def _by_interfaces(shut: Sequence[Handle], new: socket.socket) -> list[_Setting]:
    # Whether we may undo it is tried on the new one: to leave a hold so would make it deaf.
    new.setsockopt(_SOL_SOCKET, _SO_BINDTOIFINDEX, _OTHER_INTERFACE)
    new.setsockopt(_SOL_SOCKET, _SO_BINDTOIFINDEX, 0)
    moved: list[_Setting] = [(new, _SO_BINDTOIFINDEX, _OTHER_INTERFACE, 0)]
    if new.type == _STREAM:  # of UDP it is deaf, so it is there already
        moved += [(hold, _SO_BINDTOIFINDEX, _NO_INTERFACE, 0) for hold in shut]
    return moved


def _by_reuseport(shut: Sequence[Handle], new: socket.socket) -> list[_Setting]:
    if new.type == _STREAM:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return [(sock, _SO_REUSEPORT, 1, 0) for sock in (new, *shut)]


def _by_reuseaddr(shut: Sequence[Handle], new: socket.socket) -> list[_Setting]:
    # A TCP socket has it already, and keeps it.
    both = shut if new.type == _STREAM else (new, *shut)
    return [(sock, _SO_REUSEADDR, 1, 0) for sock in both]


def _by_nothing(shut: Sequence[Handle], new: socket.socket) -> list[_Setting]:
    """The hold is offered, so it is open already."""
    del shut, new
    return []


def _bind_through(
    opened: list[_Setting], new: socket.socket, address: tuple[object, ...], backlog: int | None
) -> None:
    """The kernel asks for the port again in listen(2), so the door is shut only after that."""
    try:
        for sock, option, during, _ in opened:
            sock.setsockopt(_SOL_SOCKET, option, during)
        new.bind(address)
        if backlog is not None:
            new.listen(backlog)
    finally:
        for sock, option, _, after in opened:
            sock.setsockopt(_SOL_SOCKET, option, after)


def deafen(hold: Handle) -> None:
    """Bind it to an interface that does not exist: nothing will ever come in there.

    It conflicts with every bind as before, but for those that are bound to an interface, by
    SO_BINDTODEVICE, themselves. Without CAP_NET_RAW it cannot be undone, nor done twice
    (sock_bindtoindex_locked(), net/core/sock.c). Linux 5.0; for users 5.7, before which it says
    EPERM.
    """
    if not is_deaf(hold):
        hold.setsockopt(_SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)


def is_deaf(hold: Handle) -> bool:
    """Ask the kernel: whoever has a copy of the hold may have deafened it."""
    try:
        return hold.getsockopt(_SOL_SOCKET, _SO_BINDTOIFINDEX) == _NO_INTERFACE
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:  # before Linux 5.0
            raise
        return False
