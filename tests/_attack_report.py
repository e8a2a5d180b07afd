"""A pytest plugin: tells another process, as JSON lines, what is collected, begun and over.

`python tests/attacks` loads it with ``-p`` and names the descriptor in PORTLEASE_ATTACK_REPORT.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE: Final = "PORTLEASE_ATTACK_REPORT"
_MOST_CHARACTERS: Final = 20_000
"""Of what is told of one failure: a line must not fill the pipe for long."""


class Teller:
    """Collects the reports of each test, and tells once it is over."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._parts: dict[str, list[pytest.TestReport]] = {}
        self._collected = False

    def _tell(self, what: str, **facts: object) -> None:
        line = json.dumps({"what": what, **facts}).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]

    def _tell_collected(self, ids: Sequence[str]) -> None:
        if not self._collected:  # each worker of pytest-xdist has collected the same
            self._collected = True
            self._tell("collected", ids=list(ids))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers."""
        if session.items:
            self._tell_collected([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        """With workers."""
        del node
        self._tell_collected(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """One begins."""
        self._tell("begun", id=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of one is over: its setup, its call, its teardown; or its worker has crashed."""
        parts = self._parts.setdefault(report.nodeid, [])
        parts.append(report)
        if report.when in {"setup", "call"}:
            return
        del self._parts[report.nodeid]
        said = "\n".join(part.longreprtext for part in parts if part.failed)
        skipped = [part for part in parts if part.skipped]
        if skipped and isinstance(skipped[0].longrepr, tuple):
            said = str(skipped[0].longrepr[2])
        outcome = "passed"
        if any(part.failed for part in parts):
            outcome = "failed"
        elif skipped:
            outcome = "skipped"
        self._tell(
            "over",
            id=report.nodeid,
            outcome=outcome,
            said=said[-_MOST_CHARACTERS:],
            time_s=sum(part.duration for part in parts),
            figures=[f"{name} {value}" for name, value in report.user_properties],
        )


def pytest_configure(config: pytest.Config) -> None:
    """Only in the process that was asked: the workers' descriptor is another's, or nobody's."""
    if VARIABLE in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Teller(int(os.environ[VARIABLE])))
