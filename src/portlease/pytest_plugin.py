"""The pytest fixtures. Registered by entry point: nothing to import, nothing that must be set.

- ``leased_port``: a TCP port that nobody else can take, for one test; a plain int.
- ``leased_udp_port``: the same for UDP.
- ``leased_port_factory``: as many as one asks for, kept until the end of the session.
- ``serve``: starts servers on leased ports, and stops them after the test.

The ini option ``portlease_how`` says by which means ``serve`` gives a server its port where the
test does not say ``how=`` itself: ``offer``, ``step-aside``, ``broker`` or ``hand-over``. By
default :func:`portlease.serve` chooses.

The ini option ``portlease_takeover = true`` has other libraries' port helpers served by leases, see
:mod:`portlease.takeover`.

A server in the test's own process may bind ``leased_port`` with or without SO_REUSEADDR
(:mod:`portlease._own_binds`).

Every lease is labelled with the test that asked for it and its pytest-xdist worker, so that
``portlease ls`` and an error name the test that has a port.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from portlease._own_binds import let_own_binds_in

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Final, Protocol

    from portlease import Server
    from portlease._server._command import How
    from portlease._wish import Kind

    class LeasedPortFactory(Protocol):
        """What the fixture ``leased_port_factory`` gives."""

        def __call__(self, kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
            """Lease one more port; the options are those of :func:`portlease.lease`."""

    class Serve(Protocol):
        """What the fixture ``serve`` gives."""

        def __call__(self, args: Any, **options: Any) -> Server:  # noqa: ANN401
            """Start a server; arguments as for :func:`portlease.serve`."""


_HOW: Final = "portlease_how"
_TAKEOVER: Final = "portlease_takeover"
_TAKEOVER_PLUGIN: Final = "portlease.takeover"
_HOWS: Final[tuple[How, ...]] = ("offer", "step-aside", "broker", "hand-over")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the ini option known."""
    parser.addini(
        _HOW,
        f"how servers of the fixture `serve` get their ports: {', '.join(_HOWS)}; "
        "each by the best that it can take, by default",
        type="string",
        default="",
    )
    parser.addini(
        _TAKEOVER,
        "serve other libraries' port helpers (unused_tcp_port, pick_unused_port(), ...) by leases",
        type="bool",
        default=False,
    )


# First of all: a suite's plugins may ask for ports while they are configured.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong ini option before any test runs, and take over what is to be.

    Raises:
        pytest.UsageError: an option means nothing.
    """
    _how(config)
    if _takes_over(config) and not config.pluginmanager.hasplugin(_TAKEOVER_PLUGIN):
        config.pluginmanager.import_plugin(_TAKEOVER_PLUGIN)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which means was set, if one was."""
    how = _how(config)
    return None if how is None else f"{_HOW}: {how}"


_SERVERS: Final = pytest.StashKey[list["Server"]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show with a test that failed what its servers wrote last."""
    report = yield
    if report.failed:
        for server in item.stash.get(_SERVERS, ()):
            report.sections.append((f"Last output of {server!r}", "\n".join(server.tail(40))))
    return report


def _how(config: pytest.Config) -> How | None:
    asked = str(config.getini(_HOW)).strip()
    for how in _HOWS:
        if asked == how:
            return how
    if asked:
        raise pytest.UsageError(
            f"{_HOW} = {asked}: there is no such means; say one of {', '.join(_HOWS)}, or leave it "
            "out, and each server gets its port by the best that it can take"
        )
    return None


def _takes_over(config: pytest.Config) -> bool:
    try:
        return bool(config.getini(_TAKEOVER))
    except (ValueError, pytest.UsageError) as error:  # which of them, depends on the version
        raise pytest.UsageError(f"{_TAKEOVER}: {error}; say true or false") from error


def _label(request: pytest.FixtureRequest) -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    name = request.node.nodeid or "session"
    return name if worker is None else f"{worker} {name}"


@pytest.fixture
def leased_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A TCP port that nobody else can take while the test runs: a plain int.

    OFFERED: a server that sets SO_REUSEADDR (most do) binds it as it is, and one in this very
    process whatever it sets. For any other use ``serve``, or ``portlease.lease()`` and
    ``step_aside()``.
    """
    let_own_binds_in()
    with portlease.lease(label=_label(request)) as lease:
        yield lease.port


@pytest.fixture
def leased_udp_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A UDP port that no other lease is given while the test runs: a plain int.

    GUARDED: anything that binds this very number gets it, which is what the test is about to do.
    """
    with portlease.lease("udp", label=_label(request)) as lease:
        yield lease.port


@pytest.fixture(scope="session")
def leased_port_factory(request: pytest.FixtureRequest) -> Iterator[LeasedPortFactory]:
    """A function that leases one more port at each call, until the end of the session.

    It takes the options of :func:`portlease.lease` and returns a plain int.
    """
    let_own_binds_in()
    with contextlib.ExitStack() as leases:

        def lease_one(kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
            options.setdefault("label", _label(request))
            return leases.enter_context(portlease.lease(kind, **options)).port

        yield lease_one


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """A function that starts a server on a leased port and returns it ready.

    Arguments and return value are those of :func:`portlease.serve`. The servers are stopped after
    the test, the last one first. The ini option ``portlease_how`` stands in for *how* where the
    call does not give it.
    """
    how = _how(request.config)
    known = request.node.stash.setdefault(_SERVERS, [])
    with contextlib.ExitStack() as servers:

        def serve_one(args: Any, **options: Any) -> Server:  # noqa: ANN401
            options.setdefault("label", _label(request))
            options.setdefault("how", how)
            server = servers.enter_context(portlease.serve(args, **options))
            known.append(server)
            return server

        yield serve_one
