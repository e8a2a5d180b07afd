"""The runs in the Chrome trace format, which ui.perfetto.dev and chrome://tracing show.

A process for each run; in it a thread for its tests (one for each pytest-xdist worker) and one for
each port that it had. A collision is an arrow (a flow) from who had the port to whose bind failed.

The format: "Trace Event Format", the Chromium project's document: ``X`` complete events, ``i``
instants, ``M`` metadata, ``s`` and ``f`` the ends of a flow; times in microseconds. A flow's ends
bind to the slice of the same process and thread that encloses them, so that both must lie in one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from portlease._repeat import _timeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from portlease._repeat._holdings import Holding
    from portlease._repeat._report import Report

_PORTS_FROM: Final = 1000
"""The first thread of ports: below are those of tests."""
_LEAST_US: Final = 1.0
"""A slice of no length cannot be seen, nor have an arrow's end in it."""


def trace_of(report: Report) -> str:
    """The whole trace, as JSON."""
    return json.dumps(
        {
            "displayTimeUnit": "ms",
            "otherData": {"command": " ".join(report.plan.argv), "made by": "portlease repeat"},
            "traceEvents": [*_runs(report), *_tests(report), *_ports(report), *_arrows(report)],
        },
        separators=(",", ":"),
    )


def _us(report: Report, when: int) -> float:
    return (when - report.zero) / 1000


def _runs(report: Report) -> Iterator[dict[str, Any]]:
    for number, run in enumerate(report.runs):
        yield _named("process_name", number, 0, report.name(number))
        yield {
            "ph": "M",
            "name": "process_sort_index",
            "pid": number,
            "tid": 0,
            "args": {"sort_index": number},
        }
        yield _named("thread_name", number, 0, "the run")
        yield {
            "ph": "X",
            "cat": "run",
            "name": f"{report.name(number)}: {run.state}",
            "pid": number,
            "tid": 0,
            "ts": _us(report, run.begun),
            "dur": run.seconds * 1e6,
            "args": {"status": run.returncode},
        }


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _tests(report: Report) -> Iterator[dict[str, Any]]:
    for number, run in enumerate(report.runs):
        workers: dict[str | None, int] = {}
        for one in _timeline.tests(run):
            if one.worker not in workers:
                workers[one.worker] = len(workers) + 1
                name = "tests" if one.worker is None else f"tests of {one.worker}"
                yield _named("thread_name", number, workers[one.worker], name)
            yield {
                "ph": "X",
                "cat": f"test,{one.outcome}",
                "name": one.name,
                "pid": number,
                "tid": workers[one.worker],
                "ts": _us(report, one.begin),
                "dur": (one.end - one.begin) / 1000,
                "args": {"outcome": one.outcome},
            }


def _thread(one: Holding) -> int:
    return _PORTS_FROM + one.port * 2 + (one.transport == "udp")


def _ports(report: Report) -> Iterator[dict[str, Any]]:
    named = set()
    for one in report.holdings:
        if (one.run, _thread(one)) not in named:
            named.add((one.run, _thread(one)))
            yield _named("thread_name", one.run, _thread(one), f"{one.transport} {one.port}")
        args = {"address": one.address, "test": one.test, "pid": one.pid, "program": one.program}
        if one.file:
            args["at"] = f"{one.file}:{one.line}"
        common = {
            "name": f"{one.port}" if one.error is None else f"{one.port}: {one.error}",
            "pid": one.run,
            "tid": _thread(one),
            "ts": _us(report, one.begin),
            "args": {name: value for name, value in args.items() if value is not None},
        }
        if one.error is not None:
            yield {"ph": "i", "cat": "port,failed", "s": "t", **common}
        yield {
            "ph": "X",
            "cat": "port" if one.error is None else "port,failed",
            "dur": max(_LEAST_US, (one.end - one.begin) / 1000),
            **common,
        }


def _arrows(report: Report) -> Iterator[dict[str, Any]]:
    """From the holder's slice to the slice of the bind that failed."""
    number = 0
    for failure in (*report.failures, *report.misled):
        for finding in failure.findings:
            if finding.other is None or finding.own is None:
                continue
            number += 1
            other, own = finding.other, finding.own
            # Within both slices: no later than the holder's end, no earlier than its beginning.
            start = max(other.begin, min(own.begin, other.end))
            common = {"cat": "collision", "name": f"port {own.port} in use", "id": number}
            yield {
                "ph": "s",
                "pid": other.run,
                "tid": _thread(other),
                "ts": _us(report, start),
                **common,
            }
            yield {
                "ph": "f",
                "bp": "e",
                "pid": own.run,
                "tid": _thread(own),
                "ts": max(_us(report, own.begin), _us(report, start)),
                **common,
            }
