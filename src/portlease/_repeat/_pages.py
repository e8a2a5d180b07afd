"""The report as the page's plain dict (:mod:`portlease._page`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portlease._page import page
from portlease._repeat import _report, _timeline, _verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from portlease._repeat._holdings import Holding
    from portlease._repeat._report import Report
    from portlease._repeat._verdict import Failure


def page_of(report: Report) -> str:
    """The whole page, as HTML."""
    return page(data_of(report))


def data_of(report: Report) -> dict[str, Any]:
    """What the page is drawn from."""
    bad, clock = report.bad, _Clock(report)
    return {
        "title": "portlease repeat",
        "command": _report.command(report),
        "started": report.started,
        "verdict": {"level": "bad" if bad else "good", "text": _report.headline(report)},
        "facts": [list(fact) for fact in _facts(report)],
        "notes": list(report.notes),
        "lanes": [_lane(report, clock, number) for number in range(len(report.runs))],
        "tests": list(_tests(report, clock)),
        "ports": [_port(clock, one) for one in report.holdings],
        "collisions": list(_collisions(report, clock)),
        "failures": list(_failures(report, clock)),
    }


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    yield "instances", str(report.plan.n)
    if report.plan.rounds != 1:
        yield "rounds", str(report.rounds)
    if report.tests:
        yield "tests", f"{report.tests:,}"
    yield "failed only in company", str(len(report.failures))
    if report.misled:
        yield _report.MISLED, str(len(report.misled))
    if report.alone_too:
        yield "failed alone too", str(len(report.alone_too))
    ports = {(one.transport, one.port) for one in report.holdings}
    yield "ports", f"{len(ports):,}"
    yield "network", "one for each instance" if report.plan.isolated else "shared"


class _Clock:
    """The page's time: a baseline is drawn as if it had begun with the first round."""

    def __init__(self, report: Report) -> None:
        zero = min((run.begun for run in report.company), default=report.zero)
        self._zeros = [run.begun if run.place.alone else zero for run in report.runs]

    def at(self, lane: int, when: int) -> float:
        return (when - self._zeros[lane]) / 1e9


def _lane(report: Report, clock: _Clock, number: int) -> dict[str, Any]:
    run = report.runs[number]
    status = None if run.returncode is None else f"exit status {run.returncode}"
    return {
        "name": report.name(number),
        "begin": clock.at(number, run.begun),
        "end": clock.at(number, run.ended or run.begun),
        "outcome": run.state,
        "note": _joined(status, "drawn as if it had begun with the others" * run.place.alone),
    }


def _tests(report: Report, clock: _Clock) -> Iterator[dict[str, Any]]:
    for number, run in enumerate(report.runs):
        for one in _timeline.tests(run):
            yield {
                "lane": number,
                "name": one.name,
                "begin": clock.at(number, one.begin),
                "end": clock.at(number, one.end),
                "outcome": one.outcome,
                "worker": one.worker,
            }


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _port(clock: _Clock, one: Holding) -> dict[str, Any]:
    return {
        "lane": one.run,
        "port": one.port,
        "transport": one.transport,
        "address": one.address,
        "begin": clock.at(one.run, one.begin),
        "end": clock.at(one.run, one.end),
        "error": one.error,
        "origin": one.origin,
        "program": one.program,
        "pid": one.pid,
        "file": one.file,
        "line": one.line,
        "test": one.test,
        "lease": one.lease,
    }


def _collisions(report: Report, clock: _Clock) -> Iterator[dict[str, Any]]:
    for failure in (*report.failures, *report.misled):
        for run, finding in zip(failure.runs, failure.findings, strict=True):
            if finding.port is not None and finding.at is not None:
                culprit = report.culprit(finding) or "who had it was not seen"
                other = finding.other or finding.visitor
                yield {
                    "at": clock.at(run, finding.at),
                    "lane": run,
                    "other": None if other is None else other.run,
                    "port": finding.port,
                    "text": f"{report.name(run)}, {failure.test}: {finding.cause}, port "
                    f"{finding.port}; {culprit}",
                }


def _failures(report: Report, clock: _Clock) -> Iterator[dict[str, Any]]:
    for failure in (*report.failures, *report.alone_too):
        yield {
            **_whose(report, clock, failure),
            "cause": failure.cause,
            "count": _verdict.how_often(failure),
            "message": failure.cases[failure.best].message,
            "alone": not failure.blamed,
        }
    for one in report.misled:
        yield {
            **_whose(report, clock, one),
            "cause": _report.MISLED,
            "count": f"{len(one.runs)} of {one.of}",
            "message": _report.why_misled(report, one),
            "alone": False,
        }


def _whose(report: Report, clock: _Clock, failure: Failure) -> dict[str, Any]:
    """Where and when it was, and by whose fault."""
    best, number = failure.findings[failure.best], failure.runs[failure.best]
    return {
        "test": failure.test,
        "lanes": list(failure.runs),
        "at": None if best.at is None else clock.at(number, best.at),
        "culprit": report.culprit(best),
        "port": best.port,
    }
