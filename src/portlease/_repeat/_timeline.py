"""When each test of a run began and ended: from the trail, or guessed from how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portlease import _trail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portlease._repeat._run import Run


@dataclass(frozen=True, slots=True)
class Test:
    """One test of a run; times in nanoseconds of the monotonic clock.

    ``outcome`` is None for a test that was running when all was ended.
    """

    name: str
    begin: int
    end: int
    outcome: str | None
    worker: str | None


def tests(run: Run) -> Iterator[Test]:
    """The tests of a run that is over, each worker's in their order."""
    if not any(event.what == _trail.TEST_START for event in run.events):
        yield from _guessed(run)
        return
    begun: dict[tuple[str | None, str | None], int] = {}
    for event in run.events:
        key = (event.test, event.worker)
        if event.what == _trail.TEST_START:
            begun[key] = event.t
        elif event.what == _trail.TEST_END and key in begun:
            yield Test(event.test or "?", begun.pop(key), event.t, event.outcome, event.worker)
    for (test, worker), begin in begun.items():
        yield Test(test or "?", begin, run.ended or begin, None, worker)


def _guessed(run: Run) -> Iterator[Test]:
    """JUnit XML says how long each test took: one after the other, up to the end of the run."""
    if run.results is None or run.results.source != "junit" or run.ended is None:
        return
    cases = run.results.cases
    total = int(sum(case.seconds for case in cases) * 1e9)
    # Of several processes the times add up to more than the run took: then to scale.
    scale = min(1.0, (run.ended - run.begun) / total) if total else 1.0
    at = run.ended - int(total * scale)
    for case in cases:
        end = at + int(case.seconds * 1e9 * scale)
        yield Test(case.name, at, end, case.outcome, None)
        at = end
