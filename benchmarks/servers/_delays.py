"""How long after listen() (UDP: bind()) the return of serve() is: many starts of one small server.

The server (programs/tiny.c) notes the monotonic clock itself. The means take turns, so that a slow
second of the machine falls on all alike.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import portlease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._catalogue import How
    from ._thefts import Transport

CONTESTANTS: Final[tuple[tuple[Transport, How], ...]] = (
    ("tcp", "offer"),
    ("tcp", "step-aside"),
    ("tcp", "broker"),
    ("tcp", "hand-over"),
    ("udp", "step-aside"),
    ("udp", "broker"),
)

_NOTE_S: Final = 10.0
_PAUSE_S: Final = 0.001


def measure(*, tiny: str, directory: str, starts: int) -> Iterator[dict[str, Any]]:
    """Milliseconds for each transport and means, or why there are none; all at once."""
    stamp = Path(directory) / "stamp"
    found: dict[str, list[float] | str] = {}
    for turn in range(starts):
        first = turn % len(CONTESTANTS)
        for transport, how in CONTESTANTS[first:] + CONTESTANTS[:first]:
            key = f"{transport} {how}"
            values = found.setdefault(key, [])
            if isinstance(values, list):
                one = _start(tiny, transport, how, stamp)
                if isinstance(one, str):
                    found[key] = one
                else:
                    values.append(one)
    yield found


def _start(tiny: str, transport: Transport, how: How, stamp: Path) -> float | str:
    stamp.write_bytes(b"")
    manner = "fd" if how == "hand-over" else "reuse" if how == "offer" else "plain"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        server = portlease.serve(
            [tiny, transport, manner, "{fd}" if manner == "fd" else "{port}"],
            ports={"port": transport},
            how=how,
            env={"PORTLEASE_STAMP": str(stamp)},
        )
        ready_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    with server:
        if server.how != how:
            return f"{server.how} instead: {'; '.join(str(one.message) for one in caught)}"
        listening_ns = _noted(stamp)
    return (ready_ns - listening_ns) / 1e6


def _noted(stamp: Path) -> int:
    """What the server has noted, as soon as it has: under the broker we may know before it does."""
    give_up = time.monotonic() + _NOTE_S
    while not (text := stamp.read_text(encoding="ascii")).endswith("\n"):
        if time.monotonic() > give_up:
            raise TimeoutError("the server did not say when it listened")
        time.sleep(_PAUSE_S)
    return int(text.split()[2])
