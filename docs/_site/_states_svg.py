"""The table of states as a drawing: one SVG, its colours those of the page, light or dark."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from portlease._states import (
    GUARDED,
    HANDED_OVER,
    HELD,
    OFFERED,
    RELEASED,
    TRANSITIONS,
    WHO_CAN_TAKE_IT,
    State,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_WIDTH, _HEIGHT = 760, 470
_BOX: Final = (132, 44)
_APART: Final = 15  # between the two arrows of a way there and back

# Where each state stands. What leads from one to another, and is called how, is the table's.
_PLACES: Final[dict[State, tuple[float, float]]] = {
    HELD: (380, 100),
    OFFERED: (120, 250),
    GUARDED: (640, 250),
    HANDED_OVER: (120, 420),
    RELEASED: (640, 420),
}
# How far along its arrow a label stands, where the middle is taken by another arrow.
_LABELS: Final = {
    (HELD, OFFERED): 0.66,
    (OFFERED, HELD): 0.66,
    (HELD, GUARDED): 0.66,
    (GUARDED, HELD): 0.66,
    (HELD, HANDED_OVER): 0.37,
    (OFFERED, GUARDED): 0.58,
    (OFFERED, HANDED_OVER): 0.68,
    (HELD, RELEASED): 0.66,
}

# Read by the page's style sheet (_static/portlease.css), so that a reader's choice of light or dark
# is the drawing's too.
_MARKER: Final = (
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
    'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" class="head"/>'
    "</marker></defs>"
)


class Arrow(NamedTuple):
    """A move, or several between the same two states."""

    start: State
    end: State
    label: str


def arrows() -> list[Arrow]:
    """Every move of the table but the one that changes nothing, those of one arrow together."""
    found = []
    for start, moves in TRANSITIONS.items():
        ends: dict[State, list[str]] = {}
        for action, end in moves.items():
            ends.setdefault(end, []).append(f"{action}()")
        found += [
            Arrow(start, end, ", ".join(actions)) for end, actions in ends.items() if end != start
        ]
    return found


def svg() -> str:
    """The drawing, as an element of HTML.

    Raises:
        KeyError: a state has no place yet: give it one in ``_PLACES``.
    """
    every = arrows()
    both_ways = {(one.end, one.start) for one in every}
    shown = "".join(_arrow(one, apart=(one.start, one.end) in both_ways) for one in every)
    boxes = "".join(_box(state) for state in State)
    label = "The states of a lease: " + "; ".join(
        f"{one.label} from {one.start} to {one.end}" for one in every
    )
    return (
        f'<div class="state-diagram"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{_MARKER}{_birth()}{shown}{boxes}</svg></div>'
    )


def _birth() -> str:
    x, y = _PLACES[HELD]
    top = y - _BOX[1] / 2
    return f'<circle cx="{x}" cy="14" r="7" class="dot"/>' + _line(
        (x, 21), (x, top), (x, 50), "exclusive bind"
    )


def _box(state: State) -> str:
    x, y = _PLACES[state]
    width, height = _BOX
    return (
        f'<g class="state {state.lower()}"><title>{escape(WHO_CAN_TAKE_IT[state])}</title>'
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" '
        f'rx="9"/><text x="{x}" y="{y + 5}">{state}</text></g>'
    )


def _arrow(one: Arrow, *, apart: bool) -> str:
    (x1, y1), (x2, y2) = _PLACES[one.start], _PLACES[one.end]
    if apart:
        length = math.hypot(x2 - x1, y2 - y1)
        dx, dy = (y1 - y2) / length * _APART, (x2 - x1) / length * _APART
        x1, y1, x2, y2 = x1 + dx, y1 + dy, x2 + dx, y2 + dy
    first = _edge(_PLACES[one.start], (x1, y1), (x2, y2))
    last = _edge(_PLACES[one.end], (x2, y2), (x1, y1))
    part = _LABELS.get((one.start, one.end), 0.5)
    middle = first[0] + (last[0] - first[0]) * part, first[1] + (last[1] - first[1]) * part
    return _line(first, last, middle, one.label)


Point = tuple[float, float]


def _edge(centre: Point, inside: Point, towards: Point) -> Point:
    """Where the way from *inside* a box to *towards* leaves it."""
    dx, dy = towards[0] - inside[0], towards[1] - inside[1]
    steps = list(_crossings(centre, inside, (dx, dy)))
    step = min(steps)
    return inside[0] + dx * step, inside[1] + dy * step


def _crossings(centre: Point, inside: Point, way: Point) -> Iterator[float]:
    for axis in (0, 1):
        if way[axis]:
            side = centre[axis] + math.copysign(_BOX[axis] / 2, way[axis])
            yield (side - inside[axis]) / way[axis]


def _line(first: Point, last: Point, middle: Point, label: str) -> str:
    width = 7.1 * len(label) + 8  # of a monospace letter at 12 px
    return (
        f'<path class="move" d="M{first[0]:.1f} {first[1]:.1f}L{last[0]:.1f} {last[1]:.1f}" '
        'marker-end="url(#arrow)"/>'
        f'<rect class="behind" x="{middle[0] - width / 2:.1f}" y="{middle[1] - 9:.1f}" '
        f'width="{width:.1f}" height="18"/>'
        f'<text class="label" x="{middle[0]:.1f}" y="{middle[1] + 4:.1f}">{escape(label)}</text>'
    )
