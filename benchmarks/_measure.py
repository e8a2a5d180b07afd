"""Interleaved rounds, and what is made of their figures.

Every contestant has its turn in every round, in an order that moves on by one from round to round,
so that a slow second of the machine falls on all of them alike. A ratio is the median of the ratios
within each round, not the ratio of two medians: the two halves of it were measured milliseconds
apart.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is measured.

    Args:
        run: does it that many times; returns None, or the nanoseconds that it took, where it has a
            clock of its own (another process).
        calls: how many times a round.
    """

    run: Callable[[int], int | None]
    calls: int


@dataclass(frozen=True, slots=True)
class Spread:
    """The figures that describe many measurements of one thing, in their unit."""

    count: int
    least: float
    lower: float
    median: float
    upper: float
    p99: float
    most: float


def spread(values: Iterable[float]) -> Spread:
    """Describe *values*, one at least: extremes, quartiles and the 99th percentile.

    A percentile is a value that was measured (nearest rank), so p99 of 200 is the third largest.
    """
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Spread(
        count=len(ordered),
        least=ordered[0],
        lower=rank(0.25),
        median=statistics.median(ordered),
        upper=rank(0.75),
        p99=rank(0.99),
        most=ordered[-1],
    )


def interleaved(
    contestants: Mapping[str, Contestant], *, rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return microseconds a call, one figure for each contestant and round."""
    names = list(contestants)
    if warm_up:  # caches, lazy imports, and the interpreter's specialised bytecode
        for name in names:
            contestants[name].run(contestants[name].calls)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(microseconds(contestants[name]))
    return figures


def microseconds(contestant: Contestant) -> float:
    """Measure one turn, in microseconds a call."""
    start = time.perf_counter_ns()
    took_ns = contestant.run(contestant.calls)
    if took_ns is None:
        took_ns = time.perf_counter_ns() - start
    return took_ns / contestant.calls / 1000


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median over the rounds of how many times *over* is *under*."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
