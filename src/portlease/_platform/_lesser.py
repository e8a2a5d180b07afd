"""What macOS and Windows have in common: no hold can be shared, and there is no board.

Leases step aside for every server there, guarded by a lock file, and leases() knows this process's
own. The systems' own modules add where ports may come from, and how to bind exclusively.
"""

from __future__ import annotations

import errno
import socket

from portlease._platform._lockfile import NoRow
from portlease._platform._lockfile import is_guarded as _is_guarded
from portlease._pool import parse_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portlease._platform._types import Closable, Handle


def services(path: str) -> frozenset[int]:
    """Read the port numbers out of a file like /etc/services."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_services(file.read())
    except (FileNotFoundError, PermissionError):
        return frozenset()


def bound(
    family: int,
    kind: int,
    address: tuple[object, ...],
    *,
    v6only: bool,
    prepare: Callable[[Handle], None],
) -> Handle:
    """A new socket, bound; *prepare* sets what it needs before."""
    hold = socket.SocketType(family, kind)
    try:
        if family == socket.AF_INET6:
            hold.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        prepare(hold)
        hold.bind(address)
    except OSError:
        hold.close()
        raise
    return hold


def has_dual_stack(bind: Callable[..., Handle]) -> bool:
    """Whether [::] with IPV6_V6ONLY off can be bound."""
    try:
        bind(int(socket.AF_INET6), int(socket.SOCK_STREAM), ("::", 0), v6only=False).close()
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE):
            raise
        return error.errno == errno.EADDRINUSE
    return True


def publish(name: bytes) -> Closable | None:
    """There is no board to publish on."""
    del name
    return NoRow()


def published() -> list[bytes]:
    """There is no board to read."""
    return []


def published_for(port: int) -> list[bytes]:
    """There is no board to read."""
    del port
    return []


def is_guarded(row: Closable, transport: str, port: int) -> bool:
    """Whether the port's lock file is locked."""
    del row
    return _is_guarded(transport, port)


def bind_unguarded(  # noqa: PLR0913, PLR0917 - its parts
    bind: Callable[..., Handle],
    row: Closable,
    transport: str,
    port: int,
    family: int,
    kind: int,
    address: tuple[object, ...],
    v6only: bool,  # noqa: FBT001 - as it is
) -> Handle | None:
    """Look, do the system's *bind*, and look again."""
    if is_guarded(row, transport, port):
        return None
    hold = bind(family, kind, address, v6only=v6only)
    try:
        guarded = is_guarded(row, transport, port)
    except BaseException:
        hold.close()
        raise
    if guarded:
        hold.close()
        return None
    return hold


def offer(hold: Handle) -> None:
    """Never called: CAN_OFFER is False."""
    raise NotImplementedError(f"a hold cannot be shared on this system ({hold})")


def withdraw(hold: Handle) -> None:
    """Nothing was offered, so there is nothing to undo."""
    del hold


withdraw_to_listen = withdraw


def bind_beside(  # noqa: PLR0913, PLR0917 - its parts
    holds: Sequence[Handle],
    family: int,
    kind: int,
    address: tuple[object, ...],
    v6only: bool,  # noqa: FBT001 - as it is
    backlog: int | None,
) -> socket.socket:
    """Never called: CAN_OFFER is False."""
    del holds, family, kind, v6only, backlog
    raise NotImplementedError(f"nothing can be bound beside a hold on this system ({address})")


def deafen(hold: Handle) -> None:
    """Never called: CAN_OFFER is False."""
    raise NotImplementedError(f"a hold cannot be shared on this system ({hold})")


def is_deaf(hold: Handle) -> bool:
    """No hold is ever deafened."""
    del hold
    return False
