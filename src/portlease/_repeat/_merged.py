"""The results of all runs as one JUnit XML: a suite for each run."""

from __future__ import annotations

import io
import re
import time
from typing import TYPE_CHECKING

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from portlease._repeat._case import THE_RUN

if TYPE_CHECKING:
    from typing import Final

    from portlease._repeat._case import Case
    from portlease._repeat._report import Report

# What no XML 1.0 document may have in it, escaped or not: section 2.2 of its definition.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def merged(report: Report) -> str:
    """The document. A failure that is told of as company's has its cause as its type."""
    company = {
        (failure.test, run): (finding.cause, report.culprit(finding))
        for failure in report.failures
        for run, finding in zip(failure.runs, failure.findings, strict=True)
    }
    document = JUnitXml("portlease repeat")
    for number, run in enumerate(report.runs):
        suite = TestSuite(_clean(report.name(number)))
        suite.timestamp = time.strftime(
            "%Y-%m-%dT%H:%M:%S", time.localtime(report.started + report.at(run.begun))
        )
        for name, text in (
            ("instance", str(run.place.instance)),
            ("round", str(run.place.round)),
            ("status", str(run.returncode)),
            ("result", run.state),
        ):
            suite.add_property(name, text)
        for case in report.cases[number]:
            # add_testcase() counts all of them anew each time: minutes, for 8 runs of 2,000 tests.
            made = _case(case, *company.get((case.name, number), (None, None)))
            suite.append(made)  # type: ignore[no-untyped-call]
        # What the suite took, not the sum of its tests, which update_statistics() puts there.
        suite.update_statistics()  # type: ignore[no-untyped-call]
        suite.time = round(run.seconds, 3)
        document.append(suite)  # type: ignore[no-untyped-call]
    document.tests = sum(suite.tests for suite in document)
    document.failures = sum(suite.failures for suite in document)
    document.errors = sum(suite.errors for suite in document)
    document.skipped = sum(suite.skipped for suite in document)
    out = io.BytesIO()
    document.write(out)
    return out.getvalue().decode("utf-8")


def _case(case: Case, cause: str | None, culprit: str | None) -> TestCase:
    made = TestCase(_clean(case.name), "portlease" if case.name == THE_RUN else None, case.seconds)
    if case.file is not None:
        made._elem.set("file", _clean(case.file))
    if case.line is not None:
        made._elem.set("line", str(case.line))
    if case.outcome == "skipped":
        made.result = [Skipped(_clean(case.message))]
    elif case.bad:
        kind = Error if case.outcome == "error" else Failure
        result = kind(_clean(case.message), None if cause is None else f"only in company: {cause}")
        result.text = _clean(case.text if culprit is None else f"{culprit}\n\n{case.text}")
        made.result = [result]
    return made


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
