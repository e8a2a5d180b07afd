"""An audit as others want it: rows of a table, a JSON document, the data of the HTML page."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, NamedTuple

from portlease import _trail
from portlease._audit import _verdicts
from portlease._findings import _rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Final

    from portlease._audit._verdicts import Verdict
    from portlease._trail import Event

    Json = dict[str, Any]

HEADINGS: Final = ("PORT", "ORIGIN", "ADDRESS", "OPTIONS", "BINDS", "WHERE")
_ORIGINS: Final = (
    *(_trail.HARD_CODED, _trail.UNHELD, _trail.LEASE, _trail.KERNEL),
    _trail.UNKNOWN,
)
_BARS: Final = (
    "That a port was closed is not seen: a bar ends with its test, or with the port's next bind."
)
_BY_NUMBER: Final = frozenset({_trail.HARD_CODED, _trail.LEASE})
"""Of the others the number says nothing, as it is another one each time."""


class Audit(NamedTuple):
    """What is known of a run when it has ended."""

    command: tuple[str, ...]
    status: int
    """The command's own exit status."""
    events: list[Event]
    verdicts: list[Verdict]
    """Those that are new."""
    known: int
    """How many more the baseline knows."""
    gone: int
    """How many the baseline knows that were not found."""
    notes: list[str]
    """What was not seen, and why."""
    begun: int
    """By the trail's clock."""
    ended: int
    started: float
    """When it began, in seconds since the epoch."""
    root: str
    is_unseen: bool = False
    """Whether it ended before it could be watched; `notes` says so."""


def binds(events: Iterable[Event]) -> list[Event]:
    """The binds that a program made for itself: not those by which a lease takes its port."""
    return [event for event in events if event.what == _trail.BIND and not event.hold]


def counts(events: Iterable[Event]) -> dict[str, int]:
    """How many binds there were of each origin, worst first; none of those that did not occur."""
    counted = collections.Counter(event.origin or _trail.UNKNOWN for event in binds(events))
    return {origin: counted[origin] for origin in _ORIGINS if counted[origin]}


def rows(events: Iterable[Event], root: str) -> list[tuple[str, ...]]:
    """The binds as a table, equal ones together: `HEADINGS`."""
    counted: collections.Counter[tuple[str, ...]] = collections.Counter()
    for event in binds(events):
        counted[_cells(event, root)] += 1
    ordered = sorted(counted.items(), key=lambda one: (_ORIGINS.index(one[0][1]), *one[0]))
    return [(*cells[:4], str(count), cells[4]) for cells, count in ordered]


def _cells(event: Event, root: str) -> tuple[str, ...]:
    origin = event.origin or _trail.UNKNOWN
    place = _verdicts.place_of(event, root)
    where = place.path if place.line is None else f"{_short(place.path)}:{place.line}"
    options = _options(event)
    if event.error is not None:
        options.append(event.error)
    return (
        f"{event.port if origin in _BY_NUMBER else '*'}/{event.transport}",
        origin,
        event.address or "",
        ",".join(options) or "-",
        where,
    )


def _options(event: Event) -> list[str]:
    named = (("reuseaddr", event.reuseaddr), ("reuseport", event.reuseport))
    return [name for name, on in named if on]


def _short(path: str) -> str:
    """The path of installed code without the way to it."""
    for installed in ("/site-packages/", "/dist-packages/"):
        path = path.rpartition(installed)[2]
    return path


def as_dict(audit: Audit) -> Json:
    """The document of ``--json``."""
    return {
        "command": list(audit.command),
        "status": audit.status,
        "seconds": round((audit.ended - audit.begun) / 1e9, 3),
        "notes": audit.notes,
        "counts": counts(audit.events),
        "findings": [_finding(verdict) for verdict in audit.verdicts],
        "known": audit.known,
        "gone": audit.gone,
        "binds": [event.as_dict() for event in audit.events if event.what == _trail.BIND],
    }


def _finding(verdict: Verdict) -> Json:
    finding = verdict.finding
    return {
        "code": finding.code,
        "rule": _rules.RULES[finding.code].name,
        "level": verdict.level,
        "path": finding.path,
        "line": finding.line,
        "message": finding.message,
        "remedy": finding.remedy,
        "ports": verdict.ports,
        "count": len(verdict.events),
        "tests": verdict.tests,
    }


# --- for people -----------------------------------------------------------------------------------

_MOST_TESTS: Final = 3


def lines(verdict: Verdict) -> list[str]:
    """A verdict for a person: the fact, the tests it was seen in, the remedy."""
    finding = verdict.finding
    times = f" ({len(verdict.events)} times)" if len(verdict.events) > 1 else ""
    name = _rules.RULES[finding.code].name
    told = [f"{finding.place}: {verdict.level}: {finding.message}{times} [{finding.code} {name}]"]
    if tests := verdict.tests:
        more = f" and {len(tests) - _MOST_TESTS} more" if len(tests) > _MOST_TESTS else ""
        told.append(f"    in {', '.join(tests[:_MOST_TESTS])}{more}")
    return [*told, f"    {finding.remedy}"]


def headline(audit: Audit) -> str:
    """``8 binds (4 unheld, 4 kernel); 1 warning new found; 2 known; 1 of the baseline gone``."""
    if audit.is_unseen:
        return "nothing was seen"
    new = "new " if audit.known else ""
    parts = [total(audit.events), f"{summary(audit.verdicts)} {new}found"]
    if audit.known:
        parts.append(f"{audit.known} known")
    if audit.gone:
        parts.append(f"{audit.gone} of the baseline gone")
    return "; ".join(parts)


def total(events: Iterable[Event]) -> str:
    """``8 binds (4 unheld, 4 kernel)``."""
    counted = counts(events)
    number = sum(counted.values())
    told = ", ".join(f"{count} {origin}" for origin, count in counted.items())
    return f"{number} bind{'s' * (number != 1)}" + (f" ({told})" if told else "")


# --- the page -------------------------------------------------------------------------------------


def page_data(audit: Audit) -> Json:
    """The data of :func:`portlease._page.page`: a lane for each test runner, one for the rest."""
    lanes = _Lanes(audit)
    tests = _tests(audit, lanes)
    broken = _broken(audit.verdicts)
    ports = [
        {**_port(audit, event, lanes, tests), "findings": broken[id(event)]}
        for event in binds(audit.events)
    ]
    _end_at_the_next(ports)
    return {
        "title": "portlease audit",
        "command": " ".join(audit.command),
        "started": audit.started,
        "verdict": _verdict(audit),
        "facts": [
            ["exit status", str(audit.status)],
            *([origin, f"{count:,}"] for origin, count in counts(audit.events).items()),
        ],
        "notes": [
            *audit.notes,
            _BARS,
        ],
        "lanes": lanes.data(),
        "tests": [test for _, test in tests],
        "ports": ports,
        "findings": [
            {
                "level": verdict.level,
                "code": verdict.finding.code,
                "rule": _rules.RULES[verdict.finding.code].name,
                "text": verdict.finding.message,
                "file": verdict.finding.path,
                "line": verdict.finding.line,
                "ports": verdict.ports,
                "tests": verdict.tests,
                "count": len(verdict.events),
                "remedy": verdict.finding.remedy,
            }
            for verdict in audit.verdicts
        ],
    }


def _verdict(audit: Audit) -> Json:
    levels = {"error": "bad", "warning": "warning", "note": "neutral"}
    level = levels[audit.verdicts[0].level] if audit.verdicts else "good"
    level = "bad" if audit.is_unseen else level
    return {"level": level, "text": headline(audit)}


def _broken(verdicts: Sequence[Verdict]) -> collections.defaultdict[int, list[int]]:
    """The numbers of the verdicts on each bind, by the event's id()."""
    broken: collections.defaultdict[int, list[int]] = collections.defaultdict(list)
    for number, verdict in enumerate(verdicts):
        for event in verdict.events:
            broken[id(event)].append(number)
    return broken


def summary(found: Sequence[Verdict]) -> str:
    """``2 errors, 1 note``."""
    counted = collections.Counter[str](verdict.level for verdict in found)
    words = [word for word in ("error", "warning", "note") if counted[word]]
    told = ", ".join(f"{counted[word]} {word}{'s' * (counted[word] != 1)}" for word in words)
    return told or "nothing"


class _Lanes:
    """A row of the page for each test runner; the first is everybody else's."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._names = {0: "the command"}
        self._numbers: dict[int | None, int] = {None: 0}
        for event in audit.events:
            if event.what == _trail.TEST_START and event.pid not in self._numbers:
                self._numbers[event.pid] = len(self._numbers)
                self._names[self._numbers[event.pid]] = event.worker or f"pid {event.pid}"

    def of(self, event: Event) -> int:
        """The number of an event's lane."""
        runner = event.pid if event.what in {_trail.TEST_START, _trail.TEST_END} else event.runner
        return self._numbers.get(runner, 0)

    def data(self) -> list[Json]:
        """As the page wants it."""
        outcome = "passed" if self._audit.status == 0 else "failed"
        end = seconds(self._audit, self._audit.ended)
        return [
            {"name": self._names[number], "begin": 0.0, "end": end, "outcome": outcome}
            for number in sorted(self._names)
        ]


def seconds(audit: Audit, t: int) -> float:
    """A time of the trail from the run's beginning."""
    return round(max(0, t - audit.begun) / 1e9, 6)


def _tests(audit: Audit, lanes: _Lanes) -> list[tuple[int, Json]]:
    """The tests with the runner of each."""
    begun: dict[int, Event] = {}
    found = []
    for event in audit.events:
        if event.what == _trail.TEST_START:
            begun[event.pid] = event
        elif event.what == _trail.TEST_END and (start := begun.pop(event.pid, None)) is not None:
            found.append((event.pid, _test(audit, lanes, start, event)))
    # The runner died in the midst of the others.
    found += [(pid, _test(audit, lanes, start, None)) for pid, start in begun.items()]
    return found


def _test(audit: Audit, lanes: _Lanes, start: Event, end: Event | None) -> Json:
    test = {
        "lane": lanes.of(start),
        "name": start.test or "",
        "begin": seconds(audit, start.t),
        "end": seconds(audit, audit.ended if end is None else end.t),
        "outcome": None if end is None else end.outcome,
    }
    return test if start.worker is None else {**test, "worker": start.worker}


def _port(audit: Audit, event: Event, lanes: _Lanes, tests: list[tuple[int, Json]]) -> Json:
    begin = seconds(audit, event.t)
    ends = (
        test["end"]
        for runner, test in tests
        if runner == event.runner and test["name"] == event.test and test["end"] >= begin
    )
    place = _verdicts.place_of(event, audit.root)
    return {
        "lane": lanes.of(event),
        "port": event.got or event.port or 0,
        "transport": event.transport,
        "address": event.address,
        "begin": begin,
        "end": next(ends, None),
        "error": event.error,
        "origin": event.origin,
        "program": _verdicts.program(event) if place.line is not None else place.path,
        "pid": event.pid,
        "file": place.path if place.line is not None else None,
        "line": place.line,
        "test": event.test,
        "lease": event.lease or None,
        "options": ",".join(_options(event)) or None,
    }


def _end_at_the_next(ports: list[Json]) -> None:
    """End each bar where the same port is bound again: it had been closed by then."""
    last: dict[tuple[int, str, str], Json] = {}
    for port in ports:
        if port["error"] is not None:
            continue
        key = (port["port"], port["transport"], port["address"])
        before = last.get(key)
        if before is not None and (before["end"] is None or before["end"] > port["begin"]):
            before["end"] = port["begin"]
        last[key] = port
