"""``--portlease-report``: ports, servers and how long they took to be ready, test by test.

Each test's part travels with pytest's own report of its teardown, so that under pytest-xdist the
controller has all of it, also of a worker that crashed later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from portlease._pytest import _current, _once, _record
from portlease._pytest._options import report as asked

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Final

    from portlease._pytest._owner import Slot

_ATTRIBUTE: Final = "portlease"
_VERSION: Final = 1


class _Gathered:
    """The parts of all tests, in the order in which they came."""

    def __init__(self) -> None:
        self.tests: list[dict[str, Any]] = []
        self.unwritten: OSError | None = None
        """Why the file could not be written."""


_GATHERED: Final = pytest.StashKey[_Gathered]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Gather, if it was asked for."""
    if asked(config) is None:
        return
    config.stash[_GATHERED] = gathered = _Gathered()
    config.pluginmanager.register(_Gatherer(gathered), "portlease-report")


class _Gatherer:
    """Takes each test's part from its report."""

    def __init__(self, gathered: _Gathered) -> None:
        self._gathered = gathered

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In the controller too, for each report that a worker sends."""
        part = getattr(report, _ATTRIBUTE, None)
        if part:
            self._gathered.tests.append(part)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """Give the report of a test's end what the test has taken."""
    report = yield
    if call.when == "teardown" and _GATHERED in item.config.stash:
        part = _part(item)
        if part["ports"] or part["servers"] or part["leaks"]:
            setattr(report, _ATTRIBUTE, part)
    return report


def _part(item: pytest.Item) -> dict[str, Any]:
    """Plain values alone: it goes through xdist's line."""
    record = _record.of(item.config)
    here = str(item.config.invocation_params.dir)
    return {
        "test": item.nodeid,
        "worker": _current.worker(),
        "ports": [
            {"port": one.port, "kind": one.kind, "place": one.place(here), "scope": one.scope}
            for one in record.own_leases()
            if one.scope != "run"
        ],
        "servers": [
            {
                "program": one.program,
                "argv": list(one.argv),
                "ports": one.ports,
                "how": one.how,
                "starts": one.starts,
                "ready_after_s": one.ready_after_s,
                "scope": one.scope,
            }
            for one in record.servers
            if one.scope != "run"
        ],
        "leaks": list(record.reported),
    }


# After the shared servers have been stopped (:mod:`._once`).
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file, if one was asked for."""
    path = asked(session.config)
    if path and not hasattr(session.config, "workerinput"):
        text = json.dumps(_all(session.config), indent=2)
        try:
            Path(path).write_text(text + "\n", encoding="utf-8")
        except OSError as error:  # no reason to lose pytest's own summary
            session.config.stash[_GATHERED].unwritten = error
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _all(config: pytest.Config) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "tests": config.stash[_GATHERED].tests,
        "shared": [_of_slot(slot) for slot in _once.slots(config)],
    }


def _of_slot(slot: Slot) -> dict[str, Any]:
    state = slot.state
    told: dict[str, Any] = {
        "name": slot.wanted.name or (state and state.name) or slot.wanted.text,
        "command": slot.wanted.text,
        "asked_by": list(slot.askers),
        "error": None if slot.error is None else str(slot.error),
    }
    if state is not None:
        told |= {
            "argv": list(state.argv),
            "ports": state.ports,
            "how": state.how,
            "starts": state.starts,
            "ready_after_s": state.ready_after_s,
        }
    return told


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """Print it."""
    path = asked(config)
    if path is None:
        return
    everything = _all(config)
    tests, shared = everything["tests"], everything["shared"]
    ports = sum(len(part["ports"]) for part in tests)
    servers = sum(len(part["servers"]) for part in tests)
    terminalreporter.section(
        f"portlease: {_n(ports, 'port')}, {_n(servers, 'server')}, {len(shared)} shared"
    )
    for part in tests:
        for line in _lines_of_test(part):
            terminalreporter.write_line(line)
    if shared:
        terminalreporter.write_line("shared by the run")
    for one in shared:
        terminalreporter.write_line(f"  {_line_of_shared(one)}")
    unwritten = config.stash[_GATHERED].unwritten
    if unwritten is not None:
        terminalreporter.write_line(
            f"not written to {path}: {unwritten.strerror}; name a file that can be", red=True
        )
    elif path:
        terminalreporter.write_line(f"written to {path}")


def _lines_of_test(part: dict[str, Any]) -> Iterator[str]:
    worker = "" if part["worker"] is None else f" [{part['worker']}]"
    yield f"{part['test']}{worker}"
    for port in part["ports"]:
        whose = _for(port["scope"])
        yield f"  {port['kind']} port {port['port']}, taken {_at(port['place'])}{whose}"
    for one in part["servers"]:
        yield f"  {_line_of_server(one, one['program'])}{_for(one['scope'])}"
    for leak in part["leaks"]:
        yield f"  leak: {leak}"


def _line_of_server(one: dict[str, Any], name: str) -> str:
    numbers = ", ".join(
        str(port) if which == "port" else f"{which} {port}" for which, port in one["ports"].items()
    )
    times = "" if one["starts"] == 1 else f" and {one['starts']} starts"
    return f"{name} on {numbers}: ready after {one['ready_after_s']:.3f} s{times}, by {one['how']}"


def _line_of_shared(one: dict[str, Any]) -> str:
    by = f"asked for by {_n(len(one['asked_by']), 'test')}"
    if one["error"] is not None:
        return f"{one['name']}: failed, {one['error'].partition(chr(10))[0]}; {by}"
    return f"{_line_of_server(one, one['name'])}; {by}"


def _at(place: str) -> str:
    return f"by {place}" if place.startswith("the fixture ") else f"at {place}"


def _for(scope: str) -> str:
    return "" if scope == "function" else f" (for the {scope})"


def _n(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
