"""macOS and the other BSD-like systems: the lesser promise.

bind(2) there lets no second socket onto the same address and port, SO_REUSEADDR or not, so a hold
cannot be offered; leases step aside for every server, guarded by a lock file. There is no board:
leases() knows this process's own. Type-checked, not run by the project's own tests.
"""

from __future__ import annotations

import errno
import socket
import subprocess

from portlease._platform._lockfile import NoRow, guard
from portlease._platform._lockfile import is_guarded as _is_guarded
from portlease._pool import Rules, parse_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from portlease._platform._types import Closable, Handle

__all__ = [
    "BOARD",
    "CAN_OFFER",
    "bind",
    "dual_stack",
    "guard",
    "is_guarded",
    "offer",
    "publish",
    "published",
    "published_for",
    "rules",
    "withdraw",
    "withdraw_to_listen",
]

CAN_OFFER: bool = False
BOARD: bool = False
# IANA's dynamic ports (RFC 6335), which is what these systems start with.
_DEFAULT_RANGE: Final = (49152, 65535)


class _Seen:
    rules: Rules | None = None
    dual_stack: bool | None = None


def rules() -> Rules:
    """Ask sysctl(8) for the ephemeral range, once a process."""
    if _Seen.rules is None:
        low = _sysctl("net.inet.ip.portrange.first", _DEFAULT_RANGE[0])
        high = _sysctl("net.inet.ip.portrange.last", _DEFAULT_RANGE[1])
        _Seen.rules = Rules(
            ephemeral=(low, high),
            reserved=frozenset(),
            services=_services(),
            first_unprivileged=1024,
        )
    return _Seen.rules


def _sysctl(name: str, default: int) -> int:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):  # no such program, or no such name
        return default
    return int(done.stdout)


def _services() -> frozenset[int]:
    try:
        with open("/etc/services", encoding="utf-8", errors="replace") as file:
            return parse_services(file.read())
    except (FileNotFoundError, PermissionError):
        return frozenset()


def dual_stack() -> bool:
    """Whether [::] with IPV6_V6ONLY off can be bound; asked of the kernel once a process."""
    if _Seen.dual_stack is None:
        try:
            bind(int(socket.AF_INET6), int(socket.SOCK_STREAM), ("::", 0), v6only=False).close()
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                raise
            _Seen.dual_stack = error.errno == errno.EADDRINUSE
        else:
            _Seen.dual_stack = True
    return _Seen.dual_stack


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


def bind(family: int, kind: int, address: tuple[object, ...], *, v6only: bool) -> Handle:
    """Bind without SO_REUSEADDR."""
    hold = socket.SocketType(family, kind)
    try:
        if family == socket.AF_INET6:
            hold.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        hold.bind(address)
    except OSError:
        hold.close()
        raise
    return hold


def offer(hold: Handle) -> None:
    """Never called: CAN_OFFER is False."""
    raise NotImplementedError(f"a hold cannot be shared on this system ({hold})")


def withdraw(hold: Handle) -> None:
    """Nothing was offered, so there is nothing to undo."""
    del hold


withdraw_to_listen = withdraw
