"""The watch that ``--ports`` and a trail in the environment ask for: see :mod:`._ports`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from portlease import _trail
from portlease._audit import _inject, _origin, _report, _verdicts
from portlease._findings import _rules
from portlease._pytest import _current

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, Final

    from portlease._audit._verdicts import Verdict
    from portlease._trail import Event
    from portlease._tree._home import Home

_PART: Final = "portlease ports"
_VARIABLES: Final = (_trail.VARIABLE, _trail.RUNNER, "PYTHONPATH")


def begin(config: pytest.Config, *, told: bool, strict: bool) -> None:
    """Watch this session, unless it runs inside of a test of one that is watched.

    Args:
        config: the session's.
        told: whether to tell at the end what was found.
        strict: whether to fail a test that binds a hard-coded port.
    """
    if not _Watch.active:
        watch = _Watch(config, told=told, strict=strict)
        config.add_cleanup(watch.close)
        config.pluginmanager.register(watch, _PART)


class _Watch:
    """What watches a session, in its controller and in each worker."""

    active = False
    """Whether one is at work in this process: a session inside a test is part of the test."""

    def __init__(self, config: pytest.Config, *, told: bool, strict: bool) -> None:
        self._told = told
        self._strict = strict
        self._root = str(config.rootpath)
        self._home: Home | None = None
        self._before = {name: os.environ.get(name) for name in _VARIABLES}
        self._instance = _trail.number(os.environ.get(_trail.INSTANCE))
        path = os.environ.get(_trail.VARIABLE) or self._make_trail()
        os.environ.update(_inject.environment(os.environ, path, observed=_is_observed(path)))
        os.environ[_trail.RUNNER] = str(os.getpid())
        self._path = path
        self._begun = os.path.getsize(path)
        self._follower = _trail.Follower(path, self._begun)
        self._judge = _origin.Judge()
        self._outcome: str | None = None
        _hook().install(path)
        _Watch.active = True

    def _make_trail(self) -> str:
        from portlease._tree._home import Home

        self._home = Home("trail", given=None, account=None)
        path = os.path.join(self._home.path, "trail.jsonl")
        with open(path, "wb"):
            return path

    def close(self) -> None:
        """Leave the process as it was."""
        _Watch.active = False
        if self._before[_trail.VARIABLE] is None:
            _hook().stop()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._home is not None:
            self._home.close()

    # --- tests ---

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Write when a test begins and ends."""
        self._outcome = None
        self._news()  # what came before is nobody's
        self._write(_trail.TEST_START, item)
        try:
            return (yield)
        finally:
            self._write(_trail.TEST_END, item, outcome=self._outcome)

    def _write(self, what: str, item: pytest.Item, outcome: str | None = None) -> None:
        event = _trail.Event(
            t=_trail.now(),
            what=what,
            pid=os.getpid(),
            runner=os.getpid(),
            test=item.nodeid,
            worker=_current.worker(),
            instance=self._instance,
            outcome=outcome,
        )
        _trail.write(event, self._path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Note what became of the test, of which the worst phase tells."""
        report = yield
        if report.failed:
            self._outcome = "failed" if report.when == "call" else "error"
        elif self._outcome is None and (report.skipped or report.when == "call"):
            self._outcome = report.outcome
        return report

    # Outermost: what the other plugins of a phase do is part of the test.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        """Fail a test whose fixtures bind a hard-coded port."""
        result = yield
        self._must_be_clean()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        """Fail a test that binds one itself."""
        result = yield
        self._must_be_clean()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        """Fail a test after which one is bound."""
        result = yield
        self._must_be_clean()
        return result

    def _must_be_clean(self) -> None:
        mine = [event for event in self._news() if os.getpid() in {event.runner, event.pid}]
        bad = _verdicts.verdicts(mine, root=self._root, codes={_rules.BOUND})
        if bad:
            pytest.fail("\n\n".join(map(_text, bad)), pytrace=False)

    def _news(self) -> list[Event]:
        """What was written since the last time, by all; of a session that is strict."""
        return self._judge.judged(self._follower.more().events) if self._strict else []

    # --- the session ---

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a strict session that bound a hard-coded port outside of all tests."""
        if (
            self._strict
            and not hasattr(session.config, "workerinput")
            and session.exitstatus == pytest.ExitCode.OK
        ):
            events = self._events()
            # Not those without a test: a session inside of another's test inherits its name.
            tests = {event.test for event in events if event.what == _trail.TEST_START}
            outside = [event for event in events if event.test not in tests]
            if _verdicts.verdicts(outside, root=self._root, codes={_rules.BOUND}):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell what was found."""
        if not self._told:
            return
        events = self._events()
        found = _verdicts.verdicts(events, root=self._root)
        terminalreporter.section("ports")
        for line in (line for verdict in found for line in _report.lines(verdict)):
            terminalreporter.line(line)
        terminalreporter.line(f"{_report.total(events)}; {_report.summary(found)} found")

    def _events(self) -> list[Event]:
        """All of this session, workers and their children included."""
        events = _trail.Follower(self._path, self._begun).more().events
        return _origin.judged(event for event in events if event.instance == self._instance)


def _is_observed(path: str) -> bool:
    return os.environ.get(_inject.OBSERVED) == path


def _hook() -> Any:  # noqa: ANN401 - a module, which may have been loaded from its folder alone
    """The hook that is in this interpreter already, as an injected one is; or else ours."""
    from portlease._audit._site import _portlease_hook

    return sys.modules.get("_portlease_hook", _portlease_hook)


def _text(verdict: Verdict) -> str:
    """Why a strict test fails: the fact, the line, the remedy."""
    finding = verdict.finding
    rule = _rules.RULES[finding.code]
    shown = f"\n>   {finding.text}" if finding.line is not None else ""
    return (
        f"{finding.place}: {finding.message} [{finding.code} {rule.name}]{shown}\n"
        f"{rule.why};\n{finding.remedy}; or allow it: # portlease: allow[{finding.code}]"
    )
