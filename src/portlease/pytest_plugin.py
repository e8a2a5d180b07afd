"""The pytest fixtures. Registered by entry point: nothing to import, nothing to configure.

- ``leased_port``: a TCP port that nobody else can take, for one test; a plain int.
- ``leased_udp_port``: the same for UDP.
- ``leased_port_factory``: as many as one asks for, kept until the end of the session.
- ``serve``: starts servers on leased ports, and stops them after the test.

Every lease is labelled with the test that asked for it and its pytest-xdist worker, so that
``portlease ls`` and an error name the test that has a port.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

import portlease

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from portlease import Server
    from portlease._wish import Kind

    class LeasedPortFactory(Protocol):
        """What the fixture ``leased_port_factory`` gives."""

        def __call__(self, kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
            """Lease one more port; the options are those of :func:`portlease.lease`."""

    class Serve(Protocol):
        """What the fixture ``serve`` gives."""

        def __call__(self, args: Any, **options: Any) -> Server:  # noqa: ANN401
            """Start a server; arguments as for :func:`portlease.serve`."""


def _label(request: pytest.FixtureRequest) -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    name = request.node.nodeid or "session"
    return name if worker is None else f"{worker} {name}"


@pytest.fixture
def leased_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A TCP port that nobody else can take while the test runs: a plain int.

    OFFERED: a server that sets SO_REUSEADDR (most do) binds it as it is. For any other use
    ``serve``, or ``portlease.lease()`` and ``step_aside()``.
    """
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
    with contextlib.ExitStack() as leases:

        def lease_one(kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
            options.setdefault("label", _label(request))
            return leases.enter_context(portlease.lease(kind, **options)).port

        yield lease_one


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """A function that starts a server on a leased port and returns it ready.

    Arguments and return value are those of :func:`portlease.serve`. The servers are stopped after
    the test, the last one first.
    """
    with contextlib.ExitStack() as servers:

        def serve_one(args: Any, **options: Any) -> Server:  # noqa: ANN401
            options.setdefault("label", _label(request))
            return servers.enter_context(portlease.serve(args, **options))

        yield serve_one
