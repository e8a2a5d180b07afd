"""Which test runs in which worker: the label of every lease that is taken meanwhile.

And for whom: what a fixture of a wider scope takes while a test runs is not that test's. Where an
error of ours ends it, its own lines are shown, and not ours.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from portlease._errors import PortleaseError
from portlease._onlooker import look

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any, Final


class _Now:
    """What is under way; in a session inside a test (pytester), what is in that."""

    item: pytest.Item | None = None
    """The test that this process runs, if one does."""
    scope: str = "function"
    """Whose is what is taken now: the test's, or that of a fixture of this scope; ``"run"``: of a
    server that the run shares."""
    fixture: str | None = None
    """``"the fixture leased_port"``, while one of ours is set up."""


now: Final = _Now()
_OURS: Final = "portlease._pytest."
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Label what is leased from here on, by whatever call, with this test."""
    before = look.label, now.item
    look.label, now.item = of_test(item.nodeid), item
    try:
        return (yield)
    finally:
        look.label, now.item = before


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """What is taken meanwhile is the fixture's."""
    before = now.fixture
    # None: of a function that was made by exec() in a namespace without a name.
    ours = (getattr(fixturedef.func, "__module__", None) or "").startswith(_OURS)
    now.fixture = f"the fixture {fixturedef.argname}" if ours else None
    try:
        with taking_for(fixturedef.scope):
            return (yield)
    finally:
        now.fixture = before


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> None:
    """Leave our own lines out of an error of ours, whose text says all; --full-trace has them."""
    if _is_of_ours(call.excinfo):
        for entry in call.excinfo.traceback if call.excinfo is not None else ():
            if str(entry.path).startswith(_PACKAGE):
                entry.frame.f_globals["__tracebackhide__"] = _is_of_ours  # a module can say so, too


def _is_of_ours(error: pytest.ExceptionInfo[BaseException] | None) -> bool:
    return error is not None and isinstance(error.value, PortleaseError)


@contextlib.contextmanager
def taking_for(scope: str) -> Iterator[None]:
    """What is taken in this block is of that scope."""
    before, now.scope = now.scope, scope
    try:
        yield
    finally:
        now.scope = before


def worker() -> str | None:
    """The pytest-xdist worker that this process is, ``"gw0"``; None for the one that has none."""
    return os.environ.get("PYTEST_XDIST_WORKER")


def of_test(node_id: str) -> str:
    """The label of a test's leases: ``"gw0 tests/test_it.py::test_it"``."""
    mine = worker()
    return node_id if mine is None else f"{mine} {node_id}"


def label(request: pytest.FixtureRequest) -> str:
    """The label for what a fixture leases: the test's, or that of the test that runs now."""
    if request.scope == "function":
        return of_test(request.node.nodeid)
    return look.label or of_test("session")
