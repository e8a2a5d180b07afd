"""Who was in a failing test's way: found in the trail, in what was seen, and in its text. Pure."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portlease import _trail
from portlease._repeat import _causes
from portlease._repeat._case import THE_RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

    from portlease._repeat._case import Case
    from portlease._repeat._holdings import Holding
    from portlease._trail import Event

_NS: Final = 1_000_000_000
SLACK: Final = _NS // 4
"""How long after the last look at which it was there somebody may still have had a port."""
_TIME_WAIT: Final = 60 * _NS
"""How long a closed connection keeps its port from a bind: TCP_TIMEWAIT_LEN, include/net/tcp.h."""

_MOST_VISITS: Final = 50
"""How many clients of other runs, the last first, are looked at for who came to a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is known of one failure.

    Attributes:
        cause: one of :data:`._causes.CAUSES`.
        port: the port that it was about.
        at: when, in nanoseconds of the monotonic clock.
        own: the failing test's own attempt to bind it.
        other: who had it.
        gone: whether that one had given it up by then, and only the remains of its connections
            (TIME_WAIT) or of nothing at all were in the way.
        outsider: who had it, outside of all instances.
        path: the file that it was about.
        visitor: whose client came to the test's own server, ``own``, from another run.
        suspects: files that several instances wrote, this one among them, where nothing else says
            why it failed.
    """

    cause: str
    port: int | None = None
    at: int | None = None
    own: Holding | None = None
    other: Holding | None = None
    gone: bool = False
    outsider: str | None = None
    path: str | None = None
    visitor: Holding | None = None
    suspects: tuple[str, ...] = ()


class Ports:
    """The holdings of all runs, and their connections (:func:`._holdings.visits`), by port."""

    def __init__(self, holdings: Iterable[Holding], visits: Iterable[Holding] = ()) -> None:
        self._visits: dict[int, list[Holding]] = {}
        for visit in sorted(visits, key=lambda one: one.begin):
            self._visits.setdefault(visit.port, []).append(visit)
        self._by_port: dict[tuple[str, int], list[Holding]] = {}
        self._tried: dict[int, list[Holding]] = {}
        for holding in sorted(holdings, key=lambda one: one.begin):
            self._by_port.setdefault((holding.transport, holding.port), []).append(holding)
            if holding.error:
                self._tried.setdefault(holding.run, []).append(holding)

    def tried(self, run: int) -> Sequence[Holding]:
        """The attempts of *run* to bind that failed, in their order."""
        return self._tried.get(run, ())

    def holder(
        self, port: int, at: int, transport: str = "tcp", address: str | None = None
    ) -> tuple[Holding, bool] | None:
        """Who had *port* at that time, and whether only what it left was still there.

        The last bind that succeeded counts: with another's socket in the way it would not have.
        """
        last = None
        for one in self._by_port.get((transport, port), ()):
            if one.begin > at:
                break
            if one.error is not None or not _conflict(one.address, address):
                continue
            if last is None or one.latest >= at - SLACK or last.latest < one.latest:
                last = one
        if last is None or last.latest < at - _TIME_WAIT:
            return None
        return last, last.latest < at - SLACK

    def visited(self, run: int, begin: int, end: int) -> tuple[Holding, Holding] | None:
        """A server that *run* had between the two, and the last client of another run at it."""
        found = [
            both
            for (transport, port), some in self._by_port.items()
            if transport == "tcp"
            and port in self._visits
            and any(one.run == run and one.begin <= end and one.latest >= begin for one in some)
            and (both := self._last_visit(port, run, begin, end)) is not None
        ]
        return max(found, key=lambda both: both[1].begin, default=None)

    def _last_visit(
        self, port: int, run: int, begin: int, end: int
    ) -> tuple[Holding, Holding] | None:
        others = (one for one in reversed(self._visits[port]) if one.run != run)
        before = (one for one in others if one.begin <= end)
        for visit in itertools.islice(before, _MOST_VISITS):
            held = self.holder(port, visit.begin)
            if held is not None and held[0].run == run and held[0].latest >= begin:
                return held[0], visit
        return None

    def overlapping(self, port: int, run: int, begin: int, end: int) -> Holding | None:
        """Who of the other runs had *port* at some time between the two; the last of them."""
        found = [
            one
            for (_, number), some in self._by_port.items()
            if number == port
            for one in some
            if one.error is None and one.run != run and one.begin <= end and one.latest >= begin
        ]
        return max(found, key=lambda one: one.begin, default=None)


# "localhost" is 127.0.0.1 or ::1 or both: which one a program was given is not in the trail.
_EVERY: Final = frozenset({None, "", "*", "0.0.0.0", "::", "localhost"})  # noqa: S104 - compared with


def _conflict(one: str | None, other: str | None) -> bool:
    """Whether sockets on these addresses are in each other's way."""
    return one in _EVERY or other in _EVERY or one == other


@dataclass(frozen=True)
class Scene:
    """A run in which tests failed.

    ``outsiders``: who was found on a port, outside of all instances, when a bind of it failed.
    ``files``: what this run and others in company wrote.
    """

    run: int
    begun: int
    ended: int
    events: Sequence[Event]
    ports: Ports
    outsiders: Mapping[int, str]
    folder: str
    files: Sequence[str] = ()

    def span(self, test: str) -> tuple[int, int] | None:
        """From when to when *test* ran, as the trail tells; None where it tells of others only."""
        if test == THE_RUN or not self._times:
            return self.begun, self.ended
        times = self._times.get(test)
        if times is None:
            return None
        return min(times), (max(times) if len(times) > 1 else self.ended)

    # There may be thousands of tests, and ten times as many events.

    @functools.cached_property
    def _times(self) -> Mapping[str | None, Sequence[int]]:
        """When each test began and ended, where the trail tells that they began."""
        found: dict[str | None, list[int]] = {}
        if any(event.what == _trail.TEST_START for event in self.events):
            for event in self.events:
                if event.what in {_trail.TEST_START, _trail.TEST_END}:
                    found.setdefault(event.test, []).append(event.t)
        return found

    @functools.cached_property
    def connections(self) -> Sequence[Event]:
        """The connections that the run made, in their order."""
        return [event for event in self.events if event.what == _trail.CONNECT]


def explain(scene: Scene, case: Case) -> Finding:
    """Find out what was in the way of *case*."""
    cause = _causes.of_text(case.message, case.text)
    told = _causes.port_of_text(case.message, case.text)
    span = scene.span(case.name)
    own = _own_attempt(scene, case, span, told, cause)
    if cause == _causes.IN_USE:
        return _in_use(scene, span, own, told)
    at = None if span is None else span[1]
    found = _connected(scene, case, span)
    if found is None and own is not None:  # its server could not bind, and it asked another's
        held = scene.ports.holder(own.port, own.begin, own.transport, own.address)
        found = None if held is None else (own.port, own.begin, *held)
    if found is not None and found[2].run != scene.run:
        port, when, other, gone = found
        if cause in {_causes.OTHER, _causes.TIME} and not gone:
            cause = _causes.WRONG_SERVER
        if cause in _causes.OF_PORTS:
            return Finding(cause=cause, port=port, at=when, own=own, other=other, gone=gone)
    both = None
    if cause == _causes.OTHER and span is not None:
        both = scene.ports.visited(scene.run, *span)
    if both is not None:
        server, visit = both
        return Finding(
            cause=_causes.WRONG_SERVER,
            port=visit.port,
            at=visit.begin,
            own=server,
            visitor=visit,
        )
    if cause == _causes.REFUSED:
        return Finding(cause=cause, port=told, at=at, own=own)
    return _of_files(scene, case, cause, at)


def _of_files(scene: Scene, case: Case, cause: str, at: int | None) -> Finding:
    """What else may have been in the way: a file."""
    if cause == _causes.FILES:
        return Finding(cause=cause, at=at, path=_causes.path_of_text(case.message, scene.folder))
    if cause != _causes.OTHER or not scene.files:
        return Finding(cause=cause, at=at)
    # A wrong content has no errno: an assertion that names the file is as good as one.
    path = _causes.named(scene.files, f"{case.message}\n{case.text}")
    if path is not None:
        return Finding(cause=_causes.FILES, at=at, path=path)
    return Finding(cause=cause, at=at, suspects=tuple(scene.files))


def _in_use(
    scene: Scene, span: tuple[int, int] | None, own: Holding | None, told: int | None
) -> Finding:
    port = told if own is None else own.port
    if port is None:
        return Finding(cause=_causes.IN_USE, at=None if span is None else span[1])
    if own is not None:
        held = scene.ports.holder(port, own.begin, own.transport, own.address)
        other, gone = held if held is not None else (None, False)
        at = own.begin
    else:
        begin, at = span or (scene.begun, scene.ended)
        other, gone = scene.ports.overlapping(port, scene.run, begin, at), False
    outsider = scene.outsiders.get(port) if other is None else None
    return Finding(
        cause=_causes.IN_USE, port=port, at=at, own=own, other=other, gone=gone, outsider=outsider
    )


def _own_attempt(
    scene: Scene, case: Case, span: tuple[int, int] | None, told: int | None, cause: str
) -> Holding | None:
    """The bind that failed, and with it the test."""
    tried = scene.ports.tried(scene.run)
    named = [one for one in tried if one.test == case.name]
    if not named and span is not None:
        named = [one for one in tried if one.test is None and span[0] <= one.begin <= span[1]]
    if not named and cause == _causes.IN_USE:
        # A fixture that several tests share has failed in the first of them.
        until = scene.ended if span is None else span[1]
        named = [one for one in tried if one.begin <= until and told in {None, one.port}]
    about = [one for one in named if one.port == told]
    best = about or named
    return best[-1] if best else None


def _connected(
    scene: Scene, case: Case, span: tuple[int, int] | None
) -> tuple[int, int, Holding, bool] | None:
    """The last connection of the test that led to another run's server: port, when, whose."""
    for event in reversed(scene.connections):
        in_test = event.test == case.name or (
            event.test is None and span is not None and span[0] <= event.t <= span[1]
        )
        if in_test and event.port:
            held = scene.ports.holder(event.port, event.t, event.transport or "tcp", None)
            if held is not None and held[0].run != scene.run:
                return (event.port, event.t, *held)
    return None
