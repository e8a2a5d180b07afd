"""Windows: the lesser promise.

SO_REUSEADDR there means that two sockets may have one port and nobody knows which is served, so a
hold cannot be offered. Holds set SO_EXCLUSIVEADDRUSE, which keeps even such thieves out; leases
step aside for every server, guarded by a lock file. There is no board: leases() knows this
process's own. Type-checked, not run by the project's own tests.

Source: learn.microsoft.com, "Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE".
"""

from __future__ import annotations

import os
import socket
import sys

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
# The range that Windows starts with since Vista; `netsh int ipv4 show dynamicport tcp` shows it.
_DEFAULT_RANGE: Final = (49152, 65535)


class _Seen:
    rules: Rules | None = None
    dual_stack: bool | None = None


def rules(*, fresh: bool = False) -> Rules:
    """The default dynamic range: what it was changed to is not asked for."""
    del fresh
    if _Seen.rules is None:
        _Seen.rules = Rules(
            ephemeral=_DEFAULT_RANGE,
            reserved=frozenset(),
            services=_lesser.services(
                os.path.join(
                    os.environ.get("SYSTEMROOT", r"C:\Windows"), r"System32\drivers\etc\services"
                )
            ),
            first_unprivileged=1,
        )
    return _Seen.rules


def dual_stack() -> bool:
    """Asked of the system once a process."""
    if _Seen.dual_stack is None:
        _Seen.dual_stack = _lesser.has_dual_stack(bind)
    return _Seen.dual_stack


def bind(family: int, kind: int, address: tuple[object, ...], *, v6only: bool) -> Handle:
    """Bind with SO_EXCLUSIVEADDRUSE."""
    return _lesser.bound(family, kind, address, v6only=v6only, prepare=_make_exclusive)


def _make_exclusive(hold: Handle) -> None:
    if sys.platform == "win32":
        hold.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)


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
