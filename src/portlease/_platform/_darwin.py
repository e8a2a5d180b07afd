"""macOS and the other BSD-like systems: the lesser promise.

bind(2) there lets no second socket onto the same address and port, SO_REUSEADDR or not, so a hold
cannot be offered; leases step aside for every server, guarded by a lock file. There is no board:
leases() knows this process's own. Type-checked, not run by the project's own tests.
"""

from __future__ import annotations

import subprocess

from portlease._platform import _lesser
from portlease._platform._lesser import (
    bind_beside,
    deafen,
    is_deaf,
    is_guarded,
    offer,
    publish,
    published,
    published_for,
    withdraw,
    withdraw_to_listen,
)
from portlease._platform._lockfile import guard
from portlease._pool import Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from portlease._platform._types import Closable, Handle

__all__ = [
    "BOARD",
    "CAN_OFFER",
    "bind",
    "bind_beside",
    "bind_unguarded",
    "deafen",
    "dual_stack",
    "guard",
    "is_deaf",
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


def rules(*, fresh: bool = False) -> Rules:
    """Ask sysctl(8) for the ephemeral range, once a process."""
    del fresh
    if _Seen.rules is None:
        low = _sysctl("net.inet.ip.portrange.first", _DEFAULT_RANGE[0])
        high = _sysctl("net.inet.ip.portrange.last", _DEFAULT_RANGE[1])
        _Seen.rules = Rules(
            ephemeral=(low, high),
            reserved=frozenset(),
            services=_lesser.services("/etc/services"),
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


def dual_stack() -> bool:
    """Asked of the kernel once a process."""
    if _Seen.dual_stack is None:
        _Seen.dual_stack = _lesser.has_dual_stack(bind)
    return _Seen.dual_stack


def bind(family: int, kind: int, address: tuple[object, ...], *, v6only: bool) -> Handle:
    """Bind without SO_REUSEADDR."""
    return _lesser.bound(family, kind, address, v6only=v6only, prepare=lambda _: None)


def bind_unguarded(  # noqa: PLR0913, PLR0917 - its parts
    row: Closable,
    transport: str,
    port: int,
    family: int,
    kind: int,
    address: tuple[object, ...],
    v6only: bool,  # noqa: FBT001 - as it is
) -> Handle | None:
    """Look for the guard's lock file before and after the bind."""
    return _lesser.bind_unguarded(bind, row, transport, port, family, kind, address, v6only)
