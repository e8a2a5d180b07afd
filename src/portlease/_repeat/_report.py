"""What came of it: the plain facts that every way of showing them is drawn from."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portlease._audit import _origin
from portlease._repeat import _causes, _culprits, _holdings, _misled, _shared, _verdict
from portlease._repeat._case import THE_RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Final

    from portlease._repeat._case import Case
    from portlease._repeat._crowd import Crowd
    from portlease._repeat._culprits import Finding
    from portlease._repeat._holdings import Holding
    from portlease._repeat._plan import Plan
    from portlease._repeat._run import Run
    from portlease._repeat._shared import Shared
    from portlease._repeat._verdict import Failure, Told
    from portlease._trail import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of it.

    Attributes:
        plan: what was asked for.
        runs: each of them, over; baselines first.
        cases: what each run has told of its tests, and of itself where it failed as a whole.
        holdings: the ports of all runs, in the order of their beginning; ``run`` counts in *runs*.
        failures: what failed in company, and was never seen to fail alone.
        alone_too: what failed in company as it failed alone.
        misled: what passed in company, but against another instance's server.
        shared: what several runs used besides the network.
        notes: what the reader should know of this report's limits, a sentence each.
        zero: the beginning of it all, in nanoseconds of the monotonic clock; ``started`` the same
            in seconds since the epoch.
        whole: whether it went to its end; otherwise it was interrupted.
    """

    plan: Plan
    runs: tuple[Run, ...]
    cases: tuple[tuple[Case, ...], ...]
    holdings: tuple[Holding, ...]
    failures: tuple[Failure, ...]
    alone_too: tuple[Failure, ...]
    misled: tuple[Failure, ...]
    shared: tuple[Shared, ...]
    notes: tuple[str, ...]
    zero: int
    started: float
    whole: bool

    @property
    def tests(self) -> int:
        """How many tests the largest run had; 0 where nothing names them."""
        return max((len(run.results.cases) if run.results else 0 for run in self.runs), default=0)

    @property
    def rounds(self) -> int:
        """How many rounds there were: not all that were asked for, if one was the last."""
        return max((run.place.round for run in self.runs), default=0)

    @property
    def company(self) -> list[Run]:
        """The runs that were no baseline."""
        return [run for run in self.runs if not run.place.alone]

    @property
    def bad(self) -> bool:
        """Whether company has done harm: made a test fail, or pass against a wrong server."""
        return bool(self.failures or self.misled)

    def name(self, run: int) -> str:
        """What a run is called: ``instance 3``, with its round where there are several."""
        place = self.runs[run].place
        if place.alone or self.plan.rounds == 1:
            return str(place)
        return f"{place} of round {place.round}"

    def at(self, when: int) -> float:
        """Seconds since the beginning."""
        return round((when - self.zero) / 1e9, 6)

    def culprit(self, finding: Finding) -> str | None:
        """Who had the port, for a person; None where nobody knows."""
        if finding.other is not None:
            who = self.name(finding.other.run)
            if finding.own is not None and finding.own.run == finding.other.run:
                who += " itself"
            where = finding.other.where()
            had = "had had it, and closed it shortly before" if finding.gone else "had it"
            return f"{who} {had}" + (f": {where}" if where else "")
        if finding.visitor is not None:
            who, where = self.name(finding.visitor.run), finding.visitor.where()
            return f"{who} talked to this one's server" + (f": {where}" if where else "")
        if finding.outsider is not None:
            return f"outside of all instances: {finding.outsider}"
        if finding.suspects:
            return f"it may be a file that instances share: {finding.suspects[0]}"
        return None


def of_crowd(crowd: Crowd, *, whole: bool) -> Report:
    """What came of a crowd that has run.

    Args:
        crowd: all its runs are over.
        whole: whether it went to its end.
    """
    home = os.getcwd()
    zero = min((run.begun for run in crowd.runs), default=time.monotonic_ns())
    holdings: list[Holding] = []
    visits: list[Holding] = []
    # A signal may have come between the two, when a run was begun.
    for number, (run, sights) in enumerate(zip(crowd.runs, crowd.sights, strict=False)):
        events = _origin.judged(run.events)
        holdings += _holdings.of_run(
            number, events, sights.sockets, run.begun, run.ended or zero, home
        )
        visits += _holdings.visits(number, events, home)
    # In networks of their own they cannot meet.
    ports = _culprits.Ports(*(((), ()) if crowd.plan.isolated else (holdings, visits)))
    told = crowd.told()
    alone = {number for number, one in enumerate(told) if one.alone}
    shared = tuple(_shared.shared(crowd.sights, alone))
    scenes = [_scene(crowd, number, ports, shared) for number in range(len(crowd.runs))]
    failures = [_found_out(failure, scenes) for failure in _verdict.compare(told)]
    return Report(
        plan=crowd.plan,
        runs=tuple(crowd.runs),
        cases=tuple(one.all() for one in told),
        holdings=tuple(sorted(holdings, key=lambda one: one.begin)),
        failures=tuple(failure for failure in failures if failure.blamed),
        alone_too=tuple(failure for failure in failures if not failure.blamed),
        misled=tuple(_misled.find(told, [_trail_of(run) for run in crowd.runs], ports)),
        shared=shared,
        notes=tuple(_notes(crowd, told, shared)),
        zero=zero,
        started=time.time() - (time.monotonic_ns() - zero) / 1e9,
        whole=whole,
    )


def _trail_of(run: Run) -> Sequence[Event]:
    """Its trail; nothing of a run that we have ended, whose tests never came to their end."""
    return () if run.state == "stopped" else run.events


def _scene(
    crowd: Crowd, number: int, ports: _culprits.Ports, shared: Sequence[Shared]
) -> _culprits.Scene:
    run = crowd.runs[number]
    return _culprits.Scene(
        run=number,
        begun=run.begun,
        ended=run.ended or run.begun,
        events=run.events,
        ports=ports,
        outsiders=crowd.outsiders,
        folder=run.folder,
        files=[
            one.what
            for one in shared
            if one.kind == "file"
            and number in one.runs
            and one.company > 1
            and not one.what.endswith(".log")  # which is written, and seldom read
        ],
    )


def _found_out(failure: Failure, scenes: Sequence[_culprits.Scene]) -> Failure:
    findings = (
        _culprits.explain(scenes[number], case)
        for number, case in zip(failure.runs, failure.cases, strict=True)
    )
    return dataclasses.replace(failure, findings=tuple(findings))


def _notes(crowd: Crowd, told: Sequence[Told], shared: Sequence[Shared]) -> list[str]:
    plan, notes = crowd.plan, []
    if shared:
        what = "; ".join(str(one) for one in shared[:_MOST_SHARED])
        more = len(shared) - _MOST_SHARED
        notes.append(
            f"shared besides the network: {what}" + (f"; and {more} more" if more > 0 else "")
        )
    notes += _of_baselines(told)
    company = [run for run in crowd.runs if not run.place.alone]
    if hung := sum(run.state == "timeout" for run in company):
        notes.append(
            f"{hung} of {len(company)} runs in company never ended, and were ended after "
            f"{plan.timeout_s:g} s"
        )
    if plan.baselines == 0:
        notes.append("without a baseline, what fails alone too is blamed on company")
    troubles = {run.results.trouble for run in crowd.runs if run.results and run.results.trouble}
    notes += sorted(troubles)[:1]
    if any(run.results and run.results.source == "status" for run in crowd.runs):
        notes.append(
            "its tests are not known by name; tell by --junit where it writes JUnit XML, if it can"
        )
    if damaged := sum(run.pace.damaged for run in crowd.runs):
        notes.append(f"{damaged} lines of the trails were damaged, and passed over")
    if crowd.trouble is not None:
        notes.append(f"the kernel's tables were not watched to the end: {crowd.trouble}")
    left = sorted({one for run in crowd.runs for one in run.left})
    if left:
        notes.append(f"left running by a run, and ended: {', '.join(left[:3])}")
    return notes


_MOST_SHARED: Final = 5


def _of_baselines(told: Iterable[Told]) -> Iterator[str]:
    alone = [one for one in told if one.alone]
    if alone and all(one.failed is not None and not one.results.cases for one in alone):
        why = alone[0].failed.message if alone[0].failed else ""
        yield (
            f"alone it fails as a whole ({why}), so whatever company adds cannot be seen; see to "
            "that first (-v shows what it wrote)"
        )


# --- for programs ---------------------------------------------------------------------------------


def as_dict(report: Report) -> dict[str, Any]:
    """For ``--json``: plain values, times in seconds since ``started``."""
    return {
        "command": list(report.plan.argv),
        "started": round(report.started, 3),
        "whole": report.whole,
        "isolated": report.plan.isolated,
        "instances": report.plan.n,
        "rounds": report.rounds,
        "tests": report.tests,
        "failed_in_company": len(report.failures),
        "failed_alone_too": len(report.alone_too),
        "passed_at_wrong_server": len(report.misled),
        "causes": {cause: len(some) for cause, some in _verdict.by_cause(report.failures)},
        "runs": [_run(report, number) for number in range(len(report.runs))],
        "failures": [_failure(report, failure) for failure in report.failures],
        "alone_too": [_failure(report, failure) for failure in report.alone_too],
        "misled": [_misled_as_dict(report, failure) for failure in report.misled],
        "shared": [
            {
                "kind": one.kind,
                "what": one.what,
                "who": one.who,
                "runs": [report.name(run) for run in one.runs],
            }
            for one in report.shared
        ],
        "notes": list(report.notes),
    }


def _run(report: Report, number: int) -> dict[str, Any]:
    run = report.runs[number]
    cases = run.results.cases if run.results else ()
    return {
        "name": report.name(number),
        "alone": run.place.alone,
        "round": run.place.round,
        "instance": run.place.instance,
        "result": run.state,
        "status": run.returncode,
        "begin_s": report.at(run.begun),
        "seconds": round(run.seconds, 3),
        "tests": len(cases),
        "failed": sum(case.bad for case in cases),
        "source": run.results.source if run.results else None,
        "left_running": list(run.left),
        "output": run.output if run.state != "passed" else "",
    }


def _misled_as_dict(report: Report, misled: Failure) -> dict[str, Any]:
    """As a failure's, but that these are the runs in which it passed."""
    told = _failure(report, misled)
    return {("passed" if name == "failed" else name): value for name, value in told.items()}


def _failure(report: Report, failure: Failure) -> dict[str, Any]:
    return {
        "test": failure.test,
        "whole_run": failure.test == THE_RUN,
        "cause": failure.cause,
        "failed": len(failure.runs),
        "of": failure.of,
        "alone_failed": failure.alone,
        "alone_of": failure.alone_of,
        "ran_alone": failure.known_alone,
        "cases": [
            {
                "run": report.name(run),
                "message": case.message,
                **_finding(report, finding),
            }
            for run, case, finding in zip(
                failure.runs, failure.cases, failure.findings, strict=True
            )
        ],
    }


def _finding(report: Report, finding: Finding) -> dict[str, Any]:
    return {
        "cause": finding.cause,
        "port": finding.port,
        "at_s": None if finding.at is None else report.at(finding.at),
        "path": finding.path,
        "own": None if finding.own is None else _holding(report, finding.own),
        "other": None if finding.other is None else _holding(report, finding.other),
        "gone": finding.gone,
        "outsider": finding.outsider,
        "suspects": list(finding.suspects),
        "visitor": None if finding.visitor is None else _holding(report, finding.visitor),
        "culprit": report.culprit(finding),
    }


def _holding(report: Report, one: Holding) -> dict[str, Any]:
    return {
        "run": report.name(one.run),
        "port": one.port,
        "transport": one.transport,
        "address": one.address,
        "begin_s": report.at(one.begin),
        "end_s": report.at(one.end),
        "pid": one.pid,
        "program": one.program,
        "file": one.file,
        "line": one.line,
        "test": one.test,
        "origin": one.origin,
    }


# --- for people -----------------------------------------------------------------------------------

HEADINGS: Final = ("RUN", "RESULT", "STATUS", "TESTS", "FAILED", "SECONDS")


def rows(report: Report) -> list[tuple[str, ...]]:
    """A table's rows: one a run."""
    return [
        (
            report.name(number),
            run.state if run.state != "passed" else "ok",
            "-" if run.returncode is None else str(run.returncode),
            str(len(run.results.cases)) if run.results and run.results.source == "junit" else "-",
            str(sum(case.bad for case in run.results.cases)) if run.results else "-",
            f"{run.seconds:.1f}",
        )
        for number, run in enumerate(report.runs)
    ]


def headline(report: Report) -> str:
    """The verdict in a sentence."""
    company = len(report.company)
    of = f" of {report.tests}" if report.tests and _named(report) else ""
    at_once = f"{report.plan.n} instances" if report.plan.n > 1 else "1 instance"
    rounds = "1 round" if report.rounds == 1 else f"{report.rounds} rounds"
    often = f", {rounds}" if report.plan.rounds != 1 else ""
    private = ", each in a network of its own" if report.plan.isolated else ""
    if not company:
        return "nothing ran in company"
    if not report.failures:
        beyond = " beyond what fails alone" if report.alone_too else ""
        but = f", but {_of_misled(report)}" if report.misled else ""
        return f"nothing failed in company{beyond}{but} ({at_once}{often}{private})"
    count = len(report.failures)
    if all(failure.test == THE_RUN for failure in report.failures):
        runs = sum(len(failure.runs) for failure in report.failures)
        what = f"{runs} of {company} runs"
    else:
        what = f"{count}{of} test" + ("s" if count > 1 or of else "")
    only = "only in company" if report.plan.baselines else "in company"
    and_ = f", and {_of_misled(report)}" if report.misled else ""
    return f"{what} failed {only}{and_} ({at_once}{often}{private})"


def _of_misled(report: Report) -> str:
    if all(one.test == THE_RUN for one in report.misled):
        count, what = sum(len(one.runs) for one in report.misled), "run"
    else:
        count, what = len(report.misled), "test"
    return f"{count} {what}{'s' if count > 1 else ''} passed against another instance's server"


def _named(report: Report) -> bool:
    return any(run.results is not None and run.results.source == "junit" for run in report.runs)


def lines(report: Report) -> list[str]:
    """The failures, for a person: grouped by cause, each with its culprit."""
    text: list[str] = []
    for cause, some in _verdict.by_cause(report.failures):
        text += ["", f"{cause}: {len(some)}"]
        for failure in some:
            text += _of_failure(report, failure)
    if report.misled:
        text += ["", f"{MISLED}: {len(report.misled)}"]
        for one in report.misled:
            text += [
                f"  {one.test}  ({len(one.runs)} of {one.of})",
                f"    {_port(report, one.findings[one.best])}",
                f"    {why_misled(report, one)}",
            ]
    return text


MISLED: Final = "passed against a wrong server"


def why_misled(report: Report, misled: Failure) -> str:
    """Why a test that passed is told of, in a sentence."""
    finding = misled.findings[misled.best]
    whose = "another instance" if finding.other is None else report.name(finding.other.run)
    return (
        f"it passed, but its own server could not bind port {finding.port}, and it connected "
        f"there: {whose}'s server answered"
    )


def _of_failure(report: Report, failure: Failure) -> list[str]:
    text = [f"  {failure.test}  ({_verdict.how_often(failure)})"]
    finding, case = failure.findings[failure.best], failure.cases[failure.best]
    if finding.port is not None:
        text.append(f"    {_port(report, finding)}")
    elif finding.path is not None:
        text.append(f"    {finding.path}")
    elif finding.suspects:
        text.append(f"    {report.culprit(finding)}")
    if case.message:
        text.append(f"    {case.message.splitlines()[0][:_LONGEST]}")
    if not failure.known_alone:
        text.append("    it did not run alone: no test of this name did")
    elif finding.cause in {_causes.OTHER, _causes.TIME} and len(failure.runs) == 1:
        text.append(
            "    seen once: it may fail alone too, now and then; --baselines 5 or --rounds 5 tells"
        )
    return text


def _port(report: Report, finding: Finding) -> str:
    own = finding.own
    place = f", bound at {own.file}:{own.line}" if own and own.file and own.line else ""
    by = f", by {own.program}" if own and not place and own.program else ""
    culprit = report.culprit(finding) or "who had it was not seen"
    return f"port {finding.port}{place}{by}; {culprit}"


_LONGEST: Final = 160


def command(report: Report) -> str:
    """The suite's command as one would type it."""
    return shlex.join(report.plan.argv)
