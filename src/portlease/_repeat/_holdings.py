"""Who had which port, and when: put together from the trail and from what was seen. Pure."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portlease import _trail
from portlease._who import short_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Final

    from portlease._repeat._watch import Seen
    from portlease._trail import Event

_NS: Final = 1_000_000_000
_SHORT: Final = _NS // 20
"""How long a port is taken to be had of which only the bind is known, and no test: 50 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A port that a process of one run had, or tried to have.

    ``begin`` and ``end`` are nanoseconds of the monotonic clock. ``error`` is the name of the errno
    of a bind that failed; then both are the moment. ``latest``: when it may have ended at the
    latest, where the end was not seen.
    """

    run: int
    port: int
    transport: str
    address: str | None
    begin: int
    end: int
    latest: int
    error: str | None = None
    pid: int | None = None
    program: str | None = None
    file: str | None = None
    line: int | None = None
    test: str | None = None
    origin: str | None = None
    lease: str | None = None

    def where(self) -> str:
        """Who that is, for a person: test, place in the source, program; as far as is known."""
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        parts = [part for part in (self.test, place) if part]
        if self.pid is not None:
            # Whose test is known, is a test runner, and which one everybody knows.
            parts.append(
                f"pid {self.pid}"
                if self.test
                else f"{self.program or 'a process'} (pid {self.pid})"
            )
        return ", ".join(parts)


def of_run(  # noqa: PLR0913, PLR0917 - what is known of a run
    run: int,
    events: Sequence[Event],
    seen: Iterable[Seen],
    begun: int,
    ended: int,
    home: str,
) -> list[Holding]:
    """The holdings of one run, in the order of their beginning.

    Args:
        run: its number, for the holdings.
        events: its trail.
        seen: its sockets, as they were seen.
        begun: when it began, and *ended*.
        home: the folder that paths are told from.
    """
    found = list(_tried(run, events, home))
    by_port: dict[tuple[str, int], list[Seen]] = {}
    for one in seen:
        by_port.setdefault((one.transport, one.port), []).append(one)
    tests = _ends_of_tests(events)
    exits = {event.pid: event.t for event in events if _is_exit(event)}
    binds: dict[tuple[str, int], list[int]] = {}
    for event in _binds(events):
        if event.error is None and event.got:
            binds.setdefault((event.transport or "tcp", event.got), []).append(event.t)
    for event in _binds(events):
        if event.error is not None or not event.got:
            continue
        key = (event.transport or "tcp", event.got)
        later = binds[key][bisect.bisect_right(binds[key], event.t) :]
        limit = min([ended, *later[:1], *([exits[event.pid]] if event.pid in exits else [])])
        sight = _sight(by_port.get(key, []), event.t, limit)
        end = tests.get((event.test, event.worker))
        if sight is not None:
            by_port[key].remove(sight)
            latest = min(limit, sight.gone or limit)
            # The end of the test is as good a guess as any, between the two looks.
            end = max(sight.end, event.t, min(latest, end or 0))
        elif end is not None:
            latest = end
        else:
            end, latest = event.t + _SHORT, limit
        found.append(_holding(run, event, home, end=min(limit, end), latest=min(limit, latest)))
    found += (
        Holding(
            run=run,
            port=one.port,
            transport=one.transport,
            address=one.address,
            # Since the look at which it was not there yet; at least it has had it from then on.
            begin=min(one.begin, max(one.before, begun)),
            end=one.end,
            latest=min(ended, one.gone or ended),
            pid=one.pid,
            program=short_command(one.program),
        )
        for rest in by_port.values()
        for one in rest
    )
    return sorted(found, key=lambda holding: holding.begin)


def visits(run: int, events: Iterable[Event], home: str) -> Iterator[Holding]:
    """The connections of one run: who made them, and to which port."""
    for event in events:
        if event.what == _trail.CONNECT and event.port:
            yield _holding(run, event, home, end=event.t, latest=event.t)


def _binds(events: Iterable[Event]) -> Iterator[Event]:
    return (event for event in events if event.what == _trail.BIND)


def _is_exit(event: Event) -> bool:
    return event.what == _trail.PROCESS and event.status is not None


def _tried(run: int, events: Iterable[Event], home: str) -> Iterator[Holding]:
    for event in _binds(events):
        if event.error is not None and event.port:
            yield _holding(run, event, home, end=event.t, latest=event.t)


def _holding(run: int, event: Event, home: str, *, end: int, latest: int) -> Holding:
    return Holding(
        run=run,
        port=event.got or event.port or 0,
        transport=event.transport or "tcp",
        address=event.address,
        begin=event.t,
        end=end,
        latest=latest,
        error=event.error,
        pid=event.pid,
        program=_program(event),
        file=relative(event.file, home),
        line=event.line,
        test=event.test,
        origin=event.origin,
        lease=event.lease,
    )


def _sight(seen: Iterable[Seen], begin: int, limit: int) -> Seen | None:
    """The socket that was bound at *begin*: the first that was seen after it.

    If it was seen after the next bind, *limit*, it is that one's: this one's was too short-lived.
    """
    return next((one for one in seen if begin <= one.begin <= limit), None)


def _ends_of_tests(events: Iterable[Event]) -> Mapping[tuple[str | None, str | None], int]:
    return {
        (event.test, event.worker): event.t for event in events if event.what == _trail.TEST_END
    }


def _program(event: Event) -> str | None:
    if event.argv:
        return short_command(" ".join(event.argv))
    return None if event.exe is None else short_command(event.exe)


def relative(path: str | None, home: str) -> str | None:
    """*path* from *home*, if it is in there."""
    if path is None:
        return None
    return path[len(home) + 1 :] if path.startswith(home.rstrip("/") + "/") else path
