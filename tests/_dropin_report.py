"""A pytest plugin that says at the end what the comparisons with CPython's tests came to.

A test that passed only after it was run again must not look like one that passed at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

PROPERTY: Final = "dropin"
"""The name under which `test_dropin.check` records the figures of one comparison."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for each comparison, its reruns below it, and the sums."""
    figures = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if not figures:
        return
    terminalreporter.section("CPython's own tests, with its helpers and with portlease's")
    for one in figures:
        terminalreporter.write_line(
            f"{one['what']}: {one['compared']} compared, {one['equal']} equal,"
            f" {len(one['rerun'])} run again ({one['ok']} ok, {one['skipped']} skipped)"
        )
        for test in one["rerun"]:
            terminalreporter.write_line(f"    run again: {test}")
    sums = {key: sum(one[key] for one in figures) for key in ("compared", "equal")}
    rerun = sum(len(one["rerun"]) for one in figures)
    terminalreporter.write_line(
        f"in all: {sums['compared']} compared, {sums['equal']} equal, {rerun} run again"
    )
