"""What failed only in company: company compared with the baseline. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portlease._repeat import _causes
from portlease._repeat._case import THE_RUN, Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from portlease._repeat._culprits import Finding
    from portlease._repeat._results import Results


@dataclass(frozen=True, slots=True)
class Told:
    """What a run has told of its tests, as far as is needed here.

    Attributes:
        alone: whether it is a baseline.
        results: its tests.
        failed: why the run itself has failed where no test accounts for that; None: it has not.
    """

    alone: bool
    results: Results
    failed: Case | None = None

    def all(self) -> tuple[Case, ...]:
        """All of its tests, and the run itself where it failed or nothing else is known."""
        if self.failed is not None:
            return (*self.results.cases, self.failed)
        return self.results.cases or (Case(name=THE_RUN, outcome="passed"),)

    def bad(self) -> dict[str, Case]:
        """What failed in it."""
        found = {case.name: case for case in self.results.cases if case.bad}
        return found if self.failed is None else {**found, THE_RUN: self.failed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A test that failed in company; or passed there against another run's server.

    Attributes:
        test: its name.
        runs: the numbers of the runs in which it failed (or was misled: :mod:`._misled`).
        of: how many runs in company there were.
        alone: how often it failed alone, and ``alone_of`` of how many times.
        known_alone: whether it ran alone at all: its name may be another every time.
        cases: what its runner said, one for each of ``runs``.
        findings: what was found out, likewise.
    """

    test: str
    runs: tuple[int, ...]
    of: int
    alone: int
    alone_of: int
    known_alone: bool
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def blamed(self) -> bool:
        """Whether company is to blame: it never failed alone."""
        return self.alone == 0

    @property
    def cause(self) -> str:
        """The cause that most of its failures have; of several, the first of `_causes.CAUSES`."""
        counted = Counter(finding.cause for finding in self.findings)
        if not counted:
            return _causes.OTHER
        return min(counted, key=lambda cause: (-counted[cause], _causes.CAUSES.index(cause)))

    @property
    def best(self) -> int:
        """Which of its failures tells most: of that cause, with a culprit if there is one."""
        return max(
            range(len(self.findings)),
            key=lambda n: (
                self.findings[n].cause == self.cause,
                self.findings[n].other is not None,
                self.findings[n].own is not None,
                -n,
            ),
        )


def compare(runs: Sequence[Told]) -> list[Failure]:
    """Every test that failed in company, in the order in which they failed first.

    Args:
        runs: all of them; their places in this list are their numbers.
    """
    found: dict[str, list[tuple[int, Case]]] = {}
    for number, run in enumerate(runs):
        if not run.alone:
            for name, case in run.bad().items():
                found.setdefault(name, []).append((number, case))
    return counted(runs, found)


def counted(
    runs: Sequence[Told],
    found: Mapping[str, Sequence[tuple[int, Case]]],
    findings: Mapping[str, tuple[Finding, ...]] | None = None,
) -> list[Failure]:
    """What was *found* of each test in company, with how often it failed alone.

    Args:
        runs: all of them; their places in this list are their numbers.
        found: by the test's name: the number of a run and its result there, for each of them.
        findings: what was found out, likewise.
    """
    alone = [run for run in runs if run.alone]
    failed_alone = Counter(name for run in alone for name in run.bad())
    known_alone = {case.name for run in alone for case in run.results.cases} | {THE_RUN}
    named = any(run.results.source == "junit" for run in alone)
    return [
        Failure(
            test=test,
            runs=tuple(number for number, _ in some),
            of=len(runs) - len(alone),
            alone=failed_alone[test],
            alone_of=len(alone),
            known_alone=not named or test in known_alone,
            cases=tuple(case for _, case in some),
            findings=findings[test] if findings else (),
        )
        for test, some in found.items()
    ]


def run_failed(  # noqa: PLR0913 - what is known of its end
    results: Results,
    *,
    returncode: int | None,
    timeout_s: float | None,
    running: str | None,
    pytest: bool,
    text: str,
) -> Case | None:
    """The failure of a run as a whole, if its tests do not account for it.

    Args:
        results: its tests.
        returncode: how it ended, as in :mod:`subprocess`.
        timeout_s: after how long it was ended by us; None if it was not.
        running: the test that ran then, if that is known.
        pytest: whether its exit status is pytest's: 1 says that tests failed, 0 that none did.
        text: the end of what it wrote.
    """
    from portlease._repeat import _spoken

    if timeout_s is not None:
        during = f", in {running}" if running else ""
        message = f"timed out: it still ran after {timeout_s:g} s{during}"
        return Case(name=THE_RUN, outcome="error", message=message, text=text)
    if returncode == 0:
        return None
    bad = any(case.bad for case in results.cases)
    if returncode is not None and returncode > 0 and bad and (returncode == 1 or not pytest):
        return None
    if returncode is None:
        how = "it did not end"
    elif returncode < 0:
        how = f"ended by signal {-returncode}"
    else:
        how = f"exit status {returncode}"
    why = _spoken.error_line(text)
    message = f"{how}: {why}" if why else how
    return Case(name=THE_RUN, outcome="failed", message=message, text=text)


def how_often(failure: Failure) -> str:
    """``"7 of 8"``, and how often alone."""
    text = f"{len(failure.runs)} of {failure.of}"
    if failure.alone:
        text += f"; alone {failure.alone} of {failure.alone_of}"
    return text


def by_cause(failures: Iterable[Failure]) -> list[tuple[str, list[Failure]]]:
    """The failures, grouped by cause, in the order of `_causes.CAUSES`; the most frequent first."""
    groups: dict[str, list[Failure]] = {}
    for failure in sorted(failures, key=lambda one: -len(one.runs)):
        groups.setdefault(failure.cause, []).append(failure)
    return [(cause, groups[cause]) for cause in _causes.CAUSES if cause in groups]
