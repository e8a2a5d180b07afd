"""A lease or server that a test takes and never gives back is reported against that test.

What is a leak: it was taken while the test ran, it was not given back when all fixtures of the test
were torn down, and no fixture of a wider scope has it. Such a fixture has what was taken while it
was set up; and what can be reached from its value or its suspended generator, because tests take
leases through it (a pool, a factory). Ports of :func:`portlease.find_unused_port` and of libraries
that are taken over are kept on purpose, and are none.

The ini option ``portlease_leaks`` says what becomes of one: a warning (the default), an error of
the test, or nothing.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from types import FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING

import pytest

from portlease import _take
from portlease._pytest import _record
from portlease._pytest._options import LEAKS, leaks
from portlease._states import HANDED_OVER, RELEASED

if TYPE_CHECKING:
    from collections.abc import Collection, Generator
    from typing import Any, Final

    from portlease._pytest._record import Record, StartedServer, TakenLease

_MOST_LOOKED_AT: Final = 200_000
"""Objects; a fixture from which more can be reached is believed to have what is looked for."""


class LeaseLeakWarning(pytest.PytestWarning):
    """A test has taken a lease, or started a server, and never gave it back."""


_FIXTURES: Final = pytest.StashKey["dict[int, pytest.FixtureDef[Any]]"]()
"""The fixtures of wider scopes that are set up now, by identity."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin with no fixtures."""
    config.stash[_FIXTURES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Remember those that outlive a test."""
    if fixturedef.scope != "function":
        request.config.stash[_FIXTURES][id(fixturedef)] = fixturedef
    return (yield)


def pytest_fixture_post_finalizer(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> None:
    """Forget one that is gone."""
    request.config.stash[_FIXTURES].pop(id(fixturedef), None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Look what is left when everything of the test was torn down."""
    what = leaks(item.config)
    try:
        result = yield
    except (KeyboardInterrupt, SystemExit):
        raise  # pytest goes at once, and tears the rest down with the session
    except BaseException:
        if what != "off":
            _warn(item, _found(item))  # an error here would hide that one
        raise
    if what != "off" and (found := _found(item)):
        if what == "error":
            pytest.fail("\n".join(found), pytrace=False)
        _warn(item, found)
    return result


def _warn(item: pytest.Item, found: list[str]) -> None:
    for text in found:
        item.warn(LeaseLeakWarning(f"{text} ({LEAKS} = error makes it an error, off silences it)"))


def _found(item: pytest.Item) -> list[str]:
    """What the test has leaked, a sentence each."""
    record = _record.of(item.config)
    servers, ports = _left(record)
    if servers or ports:
        kept = {id(one._grip) for one in _take._guarded}
        fixtures = list(item.config.stash[_FIXTURES].values())
        wanted = {id(one) for one in _alive(servers, ports)} - kept
        kept |= _held_by(fixtures, wanted)
        if wanted - kept:
            gc.collect()  # what sits in a cycle is garbage, and tells of itself
            servers, ports = _left(record)
        servers = [one for one in servers if id(one.server()) not in kept and not one.grips & kept]
        ports = [one for one in ports if id(one.grip()) not in kept]
    said = [f"{item.nodeid} leaked {_of_server(one)}" for one in servers]
    for port in ports:
        where = port.place(str(item.config.invocation_params.dir))
        said.append(f"{item.nodeid} leaked {_of_port(port, where)}")
        record.tell(port)
    said += [f"{item.nodeid} leaked: {text}" for text in record.dropped]
    record.reported += said
    return said


def _left(record: Record) -> tuple[list[StartedServer], list[TakenLease]]:
    """The test's servers that run, and its leases that are alive and no such server's."""
    servers = {
        id(server): one
        for one in record.servers
        if one.scope == "function" and (server := one.server()) is not None and not server._closed
    }
    grips = {grip for one in servers.values() for grip in one.grips}
    ports = [
        one
        for one in record.leases
        if one.scope == "function"
        and (grip := one.grip()) is not None
        and grip.state not in {RELEASED, HANDED_OVER}
        and id(grip) not in grips
    ]
    return list(servers.values()), ports


def _alive(servers: list[StartedServer], ports: list[TakenLease]) -> list[object]:
    found = [one.server() for one in servers] + [one.grip() for one in ports]
    return [one for one in found if one is not None]


def _of_server(one: StartedServer) -> str:
    numbers = ", ".join(map(str, one.ports.values()))
    return (
        f"a server: {one.program} on port {numbers} was never stopped; use `with`, stop(), or the "
        "fixture `serve`"
    )


def _of_port(one: TakenLease, where: str) -> str:
    return (
        f"port {one.port}: the lease taken at {where} was never released; use `with`, "
        "release(), or the fixture `leased_port`"
    )


def _held_by(fixtures: list[pytest.FixtureDef[Any]], wanted: Collection[int]) -> set[int]:
    """Those of *wanted*, identities of objects, that can be reached from what fixtures have.

    That is their values, and what is to be done in the end: there is the suspended generator, with
    its local variables. Not through modules, classes and pytest itself, from where everything is.
    """
    ends = (*_DEAD_ENDS, *{type(fixture) for fixture in fixtures})
    namespaces = {id(vars(module)) for module in list(sys.modules.values())}
    found: set[int] = set()
    seen: set[int] = set()
    pending: deque[object] = deque()
    for fixture in fixtures:
        pending += (fixture.cached_result, getattr(fixture, "_finalizers", ()))
    while pending and len(found) < len(wanted):
        if len(seen) > _MOST_LOOKED_AT:
            return set(wanted)
        for one in _referents(pending.popleft()):
            if id(one) in seen or id(one) in namespaces or isinstance(one, ends):
                continue
            seen.add(id(one))
            if id(one) in wanted:
                found.add(id(one))
            pending.append(one)
    return found


def _referents(one: object) -> list[Any]:
    if isinstance(one, FunctionType):  # but not its globals
        return [one.__closure__, one.__defaults__, one.__kwdefaults__]
    return gc.get_referents(one)


_DEAD_ENDS: Final = (
    ModuleType,
    FrameType,
    type,
    pytest.Config,
    pytest.FixtureRequest,
    pytest.PytestPluginManager,
    pytest.Item,
    pytest.Collector,
)
