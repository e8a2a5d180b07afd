"""Who is in the way: the culprits, for an error that is under way."""

from __future__ import annotations

from portlease._errors import PortUnavailableError, ResourceLimitError
from portlease._platform import backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_SHOWN: Final = 3
_LOOKED_AT: Final = 64  # to find out who has a port takes some milliseconds


def none_of(ports: Sequence[int], what: str | None = None) -> PortUnavailableError:
    """The error for ports that were asked for by number: *what* cannot be had, and who is why."""
    if what is None:
        what = f"port {ports[0]}" if len(ports) == 1 else f"none of {len(ports)} ports"
    busy: list[str] = []
    for port in ports[:_LOOKED_AT]:
        text, free = _look(port)
        if not free or len(ports) == 1:
            busy.append(text)
        if len(busy) == _SHOWN and len(ports) > _SHOWN:
            busy.append("and so on")
            break
    who = "\n".join(busy or ["who had them has let them go meanwhile"])
    cannot = "cannot" if len(ports) == 1 else "can"
    return PortUnavailableError(
        f"{what} {cannot} be had:\n{who}\n"
        "stop who has it, name other ports, or lease any with portlease.lease()",
        port=ports[0],
        ports=tuple(ports),
    )


def culprits(port: int) -> str:
    """Who has *port*, a line each."""
    return _look(port)[0]


def _look(port: int) -> tuple[str, bool]:
    """Who has *port*, and whether nobody has."""
    from portlease import _who

    try:
        who = _who.who(port)
        guarded = [name for name in ("tcp", "udp") if who.free and _is_guarded(name, port)]
    # No netlink, no /proc, no descriptor: said in the error under way.
    except (OSError, ResourceLimitError) as error:
        return f"{port}: who has it cannot be seen here ({error})", False
    if guarded:
        return f"{'/'.join(guarded)} {port}: guarded, by a process that shows no lease", False
    return str(who), who.free


def _is_guarded(transport: str, port: int) -> bool:
    guard = backend.guard(transport, port)
    if guard is None:
        return True
    guard.close()
    return False
