"""The fixtures ``serve`` and ``aserve``: servers of one test, stopped after it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from portlease._errors import PortleaseError
from portlease._pytest._current import label
from portlease._pytest._options import how

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Final, Protocol

    from portlease import AsyncServer, Server
    from portlease._pytest._shared import SharedServer
    from portlease._server._async import Starting
    from portlease._server._cancel import Cancel

    class Serve(Protocol):
        """What the fixture ``serve`` gives."""

        def __call__(self, args: Any, **options: Any) -> Server:  # noqa: ANN401
            """Start a server; arguments as for :func:`portlease.serve`."""

    class AServe(Protocol):
        """What the fixture ``aserve`` gives."""

        def __call__(self, args: Any, **options: Any) -> Starting[AsyncServer]:  # noqa: ANN401
            """Start a server once it is awaited; arguments as for :func:`portlease.aserve`."""


SERVERS: Final = pytest.StashKey[list["Server"]]()
"""The servers of a test, for its report."""
_LINES: Final = 40


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show with a test that failed what its servers wrote last."""
    report = yield
    if report.failed:
        report.sections += map(last_output, item.stash.get(SERVERS, ()))
    return report


def last_output(server: Server | SharedServer) -> tuple[str, str]:
    """The section of a report that shows it, with its title. Raises nothing, whatever went wrong.

    A test that closes descriptors which are not its own takes a server's too, and the process that
    has a shared one may be about to end: neither must cost the report of the failure itself.
    """
    try:
        return f"Last output of {server!r}", "\n".join(server.tail(_LINES)) or "it wrote nothing"
    except (PortleaseError, OSError) as error:
        return "Last output of a server", f"cannot be had: {error}"


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """A function that starts a server on a leased port and returns it ready.

    Arguments and return value are those of :func:`portlease.serve`. The servers are stopped after
    the test, the last one first. The ini option ``portlease_how`` stands in for *how* where the
    call does not give it.
    """
    known = request.node.stash.setdefault(SERVERS, [])
    with contextlib.ExitStack() as servers:

        def serve_one(args: Any, **options: Any) -> Server:  # noqa: ANN401
            server = servers.enter_context(portlease.serve(args, **_options(request, options)))
            known.append(server)
            return server

        yield serve_one


@pytest.fixture
def aserve(request: pytest.FixtureRequest) -> Iterator[AServe]:
    """Start servers in a test that asyncio or trio runs, by ``server = await`` this.

    The loop goes on while the server starts, and while it restarts; ``async with aserve([...])``
    stops it before the end of the test. It needs no plugin of its own: whatever runs the test's
    coroutine (pytest-asyncio, anyio, pytest-trio) does. After the test, when no loop runs it any
    more, servers are stopped as those of ``serve``.
    """
    from portlease._server._async import AsyncServer, Starting
    from portlease._server._serve import start

    known = request.node.stash.setdefault(SERVERS, [])
    with contextlib.ExitStack() as servers:

        def serve_one(args: Any, **options: Any) -> Starting[AsyncServer]:  # noqa: ANN401
            options = _options(request, options)

            def begin(cancel: Cancel) -> Server:  # in a thread
                server = start(args, cancel=cancel, **options)
                servers.push(server)
                known.append(server)
                return server

            return Starting(begin, portlease.Server.stop, AsyncServer)

        yield serve_one


def _options(request: pytest.FixtureRequest, given: dict[str, Any]) -> dict[str, Any]:
    from portlease._server import _command

    _command.must_know("serve()", given.keys() - {"lease"}, _command.Options)
    return {"label": label(request), "how": how(request.config), **given}
