"""The fixture ``serve_once``: one server for all workers of a run."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from portlease._errors import PortleaseError, UsageError
from portlease._pytest._current import now
from portlease._pytest._options import how
from portlease._pytest._serving import last_output

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Final, Protocol

    from portlease._pytest._line import Address, Exchange, Line
    from portlease._pytest._owner import Owner, Slot
    from portlease._pytest._shared import Ask, SharedServer

    class ServeOnce(Protocol):
        """What the fixture ``serve_once`` gives."""

        def __call__(
            self,
            what: Any,  # noqa: ANN401
            *args: Any,  # noqa: ANN401
            name: str | None = None,
            **options: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401 - a SharedServer, or a recipe's server
            """The run's server for this command or recipe; started if it does not run yet."""


_INPUT: Final = "portlease_once"


class _Run:
    """What a process of the run has to do with its shared servers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._closed = False
        self.trouble: BaseException | None = None
        """What was wrong when they were stopped."""
        self.owner: Owner | None = None
        self.exchange: Exchange | None = None
        self.line: Line | None = None
        self.given: dict[str, SharedServer] = {}
        """Those that tests of this process have asked for, by key."""
        self.by_item: dict[str, set[str]] = {}
        """The keys of those that a test asked for, by its node id."""

    def own(self) -> Owner:
        """Who has the servers that are this process's; a forked child has its own.

        May be called from any thread.

        Raises:
            UsageError: the run is over.
        """
        from portlease._pytest._owner import Owner

        with self._lock:
            if self.owner is None or self.owner.pid != os.getpid():
                if self._closed:
                    raise UsageError("no server is started any more: the run is over")
                self.owner = Owner()
            return self.owner

    def ask(self) -> Ask:
        """How to ask who has the servers.

        Raises:
            PortleaseError: there is no line to it.
        """
        told = getattr(self._config, "workerinput", {}).get(_INPUT)
        if told is None:  # no worker; or one on another machine, which has servers of its own
            return self.own().answer
        if isinstance(told, str):
            raise PortleaseError(told)
        from portlease._pytest._line import Line

        if self.line is None:
            self.line = Line(told)
        return self.line.ask

    def told(self) -> Address | str:
        """What a worker is told: whom to ask, or why it cannot."""
        try:
            return self.open().address
        except OSError as error:
            # Most suites never ask; those go on as if we were not there.
            return (
                "serve_once() needs a Unix socket between pytest and its workers, and none could "
                f"be made: {error.strerror or error}; set TMPDIR to a folder on a local file "
                "system that can be written to"
            )

    def open(self) -> Exchange:
        """The controller's exchange, for its workers."""
        from portlease._pytest._line import Exchange

        if self.exchange is None:
            factory = getattr(self._config, "_tmp_path_factory", None)  # none: -p no:tmpdir
            folder = None if factory is None else os.fspath(factory.getbasetemp())
            self.exchange = Exchange(self.own, folder)
        return self.exchange

    def close(self) -> None:
        """Stop all servers of this process's. May be called again."""
        with self._lock:
            self._closed = True
        try:
            if self.exchange is not None:
                self.exchange.close()
            if self.line is not None:
                self.line.close()
        finally:
            if self.owner is not None:
                self.owner.close()

    def slots(self) -> list[Slot]:
        """The servers that this process has."""
        return [] if self.owner is None else self.owner.slots()


_RUN: Final = pytest.StashKey[_Run]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Nothing is opened before somebody asks, or a worker is made that might."""
    config.stash[_RUN] = _Run(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist's WorkerController
    """Tell a worker of this machine, the first one or one in place of it, whom to ask."""
    if node.gateway.spec.popen:
        node.workerinput[_INPUT] = node.config.stash[_RUN].told()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the servers, once all workers have ended and all fixtures of the session are gone.

    What is wrong with one is told in pytest's summary, which an exception from here would swallow.
    """
    run = session.config.stash[_RUN]
    try:
        run.close()
    except Exception as error:  # noqa: BLE001 - a warning too, where warnings are errors
        run.trouble = error
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """Tell what was wrong with the shared servers when they were stopped."""
    trouble = config.stash[_RUN].trouble
    if trouble is not None:
        terminalreporter.section("portlease: the shared servers were stopped", red=True)
    while trouble is not None:
        terminalreporter.write_line(f"{type(trouble).__name__}: {trouble}")
        trouble = trouble.__context__


def pytest_unconfigure(config: pytest.Config) -> None:
    """The same where there was no session, or not to its end."""
    if _RUN in config.stash:
        config.stash[_RUN].close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show with a test that failed what the shared servers that it uses wrote last."""
    report = yield
    if report.failed:
        run = item.config.stash[_RUN]
        report.sections += map(last_output, _used_by(item, run))
    return report


def _used_by(item: pytest.Item, run: _Run) -> Iterator[SharedServer]:
    asked = run.by_item.get(item.nodeid, set())
    values = list(getattr(item, "funcargs", {}).values())
    for key, server in run.given.items():
        if key in asked or any(
            value is server or getattr(value, "server", None) is server for value in values
        ):
            yield server


def slots(config: pytest.Config) -> list[Slot]:
    """The shared servers that this process has, for the report."""
    return config.stash[_RUN].slots()


@pytest.fixture(scope="session")
def serve_once(request: pytest.FixtureRequest) -> ServeOnce:
    """A function that gives the one server that all workers of the run share.

    ``serve_once(["redis-server", "--port", "{port}"])``, arguments as for
    :func:`portlease.serve`; or ``serve_once(recipes.postgresql, databases=["app"])``, arguments as
    for the recipe. The first call of the run, by whichever worker, starts it; every call with the
    same command and options, or the same ``name=``, gives the same. It is stopped when the run is
    over.

    Returns:
        An object with host, port, ports, url(), output and tail(); of a recipe, one of the recipe's
        own class. It cannot be stopped or restarted by a test.

    Raises:
        UsageError: an argument that can never work; or *name* is that of another command.
        PortleaseError: as :func:`portlease.serve`: to each that asks.
    """
    run = request.config.stash[_RUN]
    means = how(request.config)

    def serve_one(what: Any, *args: Any, name: str | None = None, **options: Any) -> Any:  # noqa: ANN401
        __tracebackhide__ = True  # a failure is shown where the test calls
        return _serve_one(run, what, args, name, {"how": means, **options})

    return serve_one


def _serve_one(
    run: _Run,
    what: Any,  # noqa: ANN401
    args: tuple[Any, ...],
    name: str | None,
    options: dict[str, Any],
) -> Any:  # noqa: ANN401
    __tracebackhide__ = True
    from portlease._pytest import _shared
    from portlease._pytest._wanted import wanted

    asked, functions = wanted(what, args, name, options)
    ask = run.ask()
    state = ask("get", asked)
    if (item := now.item) is not None:
        run.by_item.setdefault(item.nodeid, set()).add(state.key)
    server = _shared.shared(state, ask)
    plain = server if state.recipe is None else server.server
    _make_reachable(state.host, state.ports, state.kinds)
    if state.key not in run.given:
        _shared.wait(plain, functions, options.get("timeout_s", 30.0))
        run.given[state.key] = plain
    return server


def _make_reachable(host: str, ports: dict[str, int], kinds: dict[str, str]) -> None:
    """Let a worker that has a network of its own (``--isolate=worker``) reach the server.

    Raises:
        UsageError: one of its ports is a UDP port, which cannot be forwarded.
    """
    isolate = sys.modules.get("portlease._isolate")
    if isolate is None or not isolate.can_reach():
        return
    for name, port in ports.items():
        if kinds[name] != "tcp":
            raise UsageError(
                f"port {name!r} of the shared server is a {kinds[name].upper()} port, and this "
                "worker's network is its own (--isolate=worker): only TCP is forwarded into it; "
                "use the fixture `serve`, which starts one in this network"
            )
        isolate.reach(host, port)
