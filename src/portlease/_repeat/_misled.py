"""Tests that passed, but against another instance's server: found in the trail. Pure.

A server of the test's own could not bind its port, and the test connected to that port while
another instance had it. Nobody else can have answered, so that this counts as much as a failure.
All of it must have been seen, or nothing is said:

- a bind of the run's own failed, and another run had the port at that time;
- later the test connected to the port at an address of this machine; another run had it by then,
  and this one had not got it in the meantime;
- the test passed;
- it was neither looking for a free number nor waiting for this one: then it would have bound
  another one right after it, or this one later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portlease import _trail
from portlease._repeat import _causes, _verdict
from portlease._repeat._case import THE_RUN, Case
from portlease._repeat._culprits import SLACK, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from portlease._repeat._culprits import Ports
    from portlease._repeat._holdings import Holding
    from portlease._repeat._verdict import Failure, Told
    from portlease._trail import Event

_SEARCH: Final = 2_000_000_000
"""For how long after a connection another number that is bound is taken for a search, in ns."""


def find(told: Sequence[Told], events: Sequence[Sequence[Event]], ports: Ports) -> list[Failure]:
    """Every test that passed against another run's server, with who had the port.

    Args:
        told: what each run has told; their places in this list are their numbers.
        events: the trail of each.
        ports: the holdings of all.
    """
    cases: dict[str, list[tuple[int, Case]]] = {}
    findings: dict[str, tuple[Finding, ...]] = {}
    for number, (one, trail) in enumerate(zip(told, events, strict=True)):
        if one.alone:
            continue
        for name, finding in _of_run(number, trail, ports).items():
            case = _passed(one, name)
            if case is not None:
                cases.setdefault(name, []).append((number, case))
                findings[name] = (*findings.get(name, ()), finding)
    return _verdict.counted(told, cases, findings)


def _of_run(run: int, events: Sequence[Event], ports: Ports) -> dict[str, Finding]:
    """The first such connection of each test, whatever became of the test."""
    tried = [
        one for one in ports.tried(run) if one.transport == "tcp" and one.error in _trail.IN_USE
    ]
    found: dict[str, Finding] = {}
    numbers = {one.port for one in tried}
    asked = (one for one in events if one.what == _trail.CONNECT and one.port in numbers)
    for event in sorted(asked, key=lambda one: one.t):
        name = event.test or THE_RUN
        if name not in found:
            finding = _answered(run, event, tried, ports)
            if finding is not None and not _is_search(event, events):
                found[name] = finding
    return found


def _answered(run: int, event: Event, tried: Iterable[Holding], ports: Ports) -> Finding | None:
    """By whom a connection was answered, if that was not the server that was to."""
    port, address = event.port or 0, (event.address or "").removeprefix("::ffff:")
    before = [one for one in tried if one.port == port and one.begin <= event.t]
    if not before:
        return None
    own = before[-1]
    first = ports.holder(port, own.begin, "tcp", own.address)
    held = ports.holder(port, event.t, "tcp", address)
    if first is None or held is None or run in {first[0].run, held[0].run}:
        return None
    other = held[0]
    if other.end < event.t - SLACK or not (_is_here(address) or address == other.address):
        return None
    return Finding(cause=_causes.WRONG_SERVER, port=port, at=event.t, own=own, other=other)


def _is_here(address: str) -> bool:
    """Whether only a server of this machine can answer there."""
    # connect(2) to the address for any means this machine.
    return address.startswith("127.") or address in {"localhost", "::1", "", "0.0.0.0", "::"}  # noqa: S104 - compared with


def _is_search(asked: Event, events: Iterable[Event]) -> bool:
    """Whether *asked* only told that the port is taken: the next was bound then, or it at last."""
    return any(
        one.what == _trail.BIND
        and one.error is None
        and one.test == asked.test
        and one.t > asked.t
        and (one.port == asked.port or (one.port and one.t <= asked.t + _SEARCH))
        for one in events
    )


def _passed(told: Told, name: str) -> Case | None:
    """The test's result, if it passed."""
    for case in told.results.cases:
        if case.name == name:
            return case if case.outcome == "passed" else None
    # Not every runner names its tests: but nothing has failed there.
    return None if told.bad() else Case(name=name, outcome="passed")
