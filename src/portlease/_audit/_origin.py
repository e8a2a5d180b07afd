"""Where the number came from that somebody binds: of a lease, of the kernel, of nowhere.

The decision is a pure function; :class:`Ledger` remembers what has been found to be free before.
The observer asks while the tree runs, and can look whether a socket is still open; a trail that the
hooks alone have written is judged when it is read.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from portlease import _registry, _trail

if TYPE_CHECKING:
    from collections.abc import Iterable


class Origin(NamedTuple):
    """Where a number came from."""

    name: str
    """One of those in :mod:`portlease._trail`."""
    label: str | None
    """Of the lease, ``""`` where it has none; None where it is no lease's."""


def judge(*, port: int, hint: str | None, row: str | None, found: bool | None) -> Origin:
    """Decide where the number of a bind came from.

    Args:
        port: the number asked for.
        hint: what follows from who binds: a lease takes its hold, a helper tries a number.
        row: the row of the lease that has this port now; None if none has.
        found: whether the number was found to be free before: None if not, True if it was and the
            socket that found it is still open, False if that is closed.
    """
    if row is not None or hint == _trail.LEASE:
        return Origin(_trail.LEASE, label_of(row))
    if hint == _trail.UNHELD:
        return Origin(_trail.UNHELD, None)
    if port == 0 or found:
        return Origin(_trail.KERNEL, None)
    return Origin(_trail.HARD_CODED if found is None else _trail.UNHELD, None)


def label_of(row: str | None) -> str:
    """The label in a row; ``""`` without one."""
    decoded = None if row is None else _registry.decode(row.encode())
    return "" if decoded is None or decoded.label is None else decoded.label


def finds(port: int, hint: str | None) -> bool:
    """Whether a bind is how a number is come by, rather than a use of one."""
    return port == 0 or hint in {_trail.LEASE, _trail.UNHELD}


class Finder(NamedTuple):
    """A socket whose bind found a number to be free."""

    pid: int
    inode: int


class Ledger:
    """The numbers that were found to be free, and by whom."""

    def __init__(self) -> None:
        self._finders: dict[int, list[Finder]] = {}

    def note(self, number: int, finder: Finder) -> None:
        """Remember it."""
        self._finders.setdefault(number, []).append(finder)

    def finders(self, number: int) -> list[Finder] | None:
        """Whose they were; None for a number that nobody has found."""
        return self._finders.get(number)


def judged(events: Iterable[_trail.Event]) -> list[_trail.Event]:
    """The events of a whole trail, with the origins of those binds that came without."""
    return Judge().judged(events)


class Judge:
    """Finds out the origins of binds that only the hooks have written down, in their order.

    Not guaranteed: the hooks do not see what programs in other languages bind, so a number that one
    of those was given by the kernel is taken for a hard-coded one.
    """

    def __init__(self) -> None:
        self._found: set[tuple[int | None, int]] = set()

    def judged(self, events: Iterable[_trail.Event]) -> list[_trail.Event]:
        """The next events, their origins filled in."""
        return [self._judged(event) for event in events]

    def _judged(self, event: _trail.Event) -> _trail.Event:
        if event.what != _trail.BIND or event.port is None:
            return event
        known = (event.instance, event.port) in self._found
        if event.got is not None and finds(event.port, event.origin):
            self._found.add((event.instance, event.got))
        if event.lease is not None or (event.origin is not None and event.row is None):
            return event
        origin = judge(
            port=event.port,
            hint=None,
            row=event.row,
            # SO_REUSEPORT: one more worker on the port that another has.
            found=bool(event.reuseport) if known else None,
        )
        return dataclasses.replace(event, origin=origin.name, lease=origin.label)
