"""The fixtures that lease ports.

A server in the test's own process may bind any of them with or without SO_REUSEADDR
(:mod:`portlease._own_binds`). What they give are plain ints: ``socket.getaddrinfo()`` refuses a
subclass of int.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from portlease._own_binds import let_own_binds_in
from portlease._pytest._current import label, taking_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    from portlease._wish import Kind

    class LeasePort(Protocol):
        """What the fixtures ``leased_ports`` and ``leased_port_factory`` give."""

        def __call__(self, kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
            """Lease one more port; the options are those of :func:`portlease.lease`."""

    class LeaseBlock(Protocol):
        """What the fixture ``leased_block`` gives."""

        def __call__(
            self,
            n: int = 1,
            kind: Kind = "tcp",
            *,
            offsets: Iterable[int] = (0,),
            **options: Any,  # noqa: ANN401
        ) -> tuple[int, ...]:
            """Lease *n* consecutive ports; all is as in :func:`portlease.lease_block`."""


@pytest.fixture
def leased_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A TCP port that nobody else can take while the test runs: a plain int.

    OFFERED: a server that sets SO_REUSEADDR (most do) binds it as it is, and one in this very
    process whatever it sets. For any other use ``serve``, or ``portlease.lease()`` and
    ``step_aside()``.
    """
    let_own_binds_in()
    with portlease.lease(label=label(request)) as lease:
        yield lease.port


@pytest.fixture
def leased_udp_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A UDP port that no other lease is given while the test runs: a plain int.

    GUARDED: anything that binds this very number gets it, which is what the test is about to do.
    """
    with portlease.lease("udp", label=label(request)) as lease:
        yield lease.port


@pytest.fixture
def leased_ports(request: pytest.FixtureRequest) -> Iterator[LeasePort]:
    """A function that leases one more port at each call, until the end of the test.

    It takes the options of :func:`portlease.lease` and returns a plain int.
    """
    yield from _lease_ports(request)


@pytest.fixture(scope="session")
def leased_port_factory(request: pytest.FixtureRequest) -> Iterator[LeasePort]:
    """A function that leases one more port at each call, until the end of the session.

    It takes the options of :func:`portlease.lease` and returns a plain int.
    """
    yield from _lease_ports(request)


def _lease_ports(request: pytest.FixtureRequest) -> Iterator[LeasePort]:
    let_own_binds_in()
    with contextlib.ExitStack() as leases:

        def lease_one(kind: Kind = "tcp", **options: Any) -> int:  # noqa: ANN401
            options.setdefault("label", label(request))
            with taking_for(request.scope):
                return leases.enter_context(portlease.lease(kind, **options)).port

        yield lease_one


@pytest.fixture
def leased_block(request: pytest.FixtureRequest) -> Iterator[LeaseBlock]:
    """A function that leases consecutive ports, until the end of the test; all or none of them.

    ``leased_block(3)`` gives three consecutive ones; ``leased_block(6, offsets=(0, 10000))`` six
    of them, and then those 10000 above each. It takes the options of
    :func:`portlease.lease_block` and returns a tuple of plain ints.
    """
    let_own_binds_in()
    with contextlib.ExitStack() as blocks:

        def lease_some(
            n: int = 1,
            kind: Kind = "tcp",
            *,
            offsets: Iterable[int] = (0,),
            **options: Any,  # noqa: ANN401
        ) -> tuple[int, ...]:
            options.setdefault("label", label(request))
            block = portlease.lease_block(n, kind, offsets=offsets, **options)
            return blocks.enter_context(block).ports

        yield lease_some
