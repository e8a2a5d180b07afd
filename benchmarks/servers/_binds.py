"""What bind(2) and listen(2) cost a server, with the broker and without (programs/binds.c).

Two system calls that are no business of the broker's are measured beside them: the bind of a port
that is not leased, which it looks at and lets through, and getpid, which it never sees.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any, Final

import portlease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._catalogue import How

CALLS: Final = ("bind", "listen", "bind(0)", "getpid")
HOWS: Final[tuple[How, ...]] = ("offer", "broker")
_HANG_S: Final = 60.0
_PAUSE_S: Final = 0.01


def measure(*, binds: str, rounds: int, count: int) -> Iterator[dict[str, Any]]:
    """Microseconds of each call, for each means; or why there are none; all at once."""
    found: dict[str, dict[str, list[float]] | str] = {}
    for _ in range(rounds):
        for how in HOWS:
            calls = found.setdefault(how, {call: [] for call in CALLS})
            if isinstance(calls, str):
                continue
            rows = _run(binds, how, count)
            if isinstance(rows, str):
                found[how] = rows
                continue
            for row in rows:
                for call, nanoseconds in zip(CALLS, row, strict=True):
                    calls[call].append(nanoseconds / 1000)
    yield found


def _run(binds: str, how: How, count: int) -> list[list[int]] | str:
    with (
        warnings.catch_warnings(record=True) as caught,
        portlease.serve([binds, "{port}", str(count)], how=how) as server,
    ):
        if server.how != how:
            return f"{server.how} instead: {'; '.join(str(one.message) for one in caught)}"
        give_up = time.monotonic() + _HANG_S
        while not server.output.endswith("done\n"):  # it listens, now and then, long before
            if time.monotonic() > give_up:
                raise TimeoutError(f"{binds} has not done in {_HANG_S:.0f} s")
            time.sleep(_PAUSE_S)
        lines = server.output.splitlines()[:-1]
    return [[int(word) for word in line.split()] for line in lines]
