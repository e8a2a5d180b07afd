"""Servers that somebody else runs for the command: dockerd, systemd, a database that is running.

Their sockets belong to no process below the command, so nothing proves that they are the ones that
were meant. What can be seen is that somebody listens (UDP: is bound) on the leased port; nobody
lands there by chance, since the lease is GUARDED (docs/promise.md). On Linux nothing is connected.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from portlease._errors import ServerDiedError, ServerTimeoutError
from portlease._server import _probe, _ready

if sys.platform == "linux":
    from portlease._platform import _linux_diag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Final, Protocol

    from portlease import Lease
    from portlease._server._cancel import Cancel
    from portlease._server._probe import Transport
    from portlease._server._server import Server

    class Watch(Protocol):
        """Looks whether anybody is on a port."""

        def look(self) -> Sequence[object]:
            """Who is."""

        def close(self) -> None:
            """Give up what it has open."""


_TRANSPORTS: Final[tuple[Transport, ...]] = ("tcp", "udp")


def wait(server: Server, names: Iterable[str], cancel: Cancel, tell: Callable[[str], None]) -> None:
    """Wait until somebody listens on all of these ports.

    Args:
        server: the command; it runs.
        names: of its ports.
        cancel: breaks it off.
        tell: is told what is waited for, whenever that changes.

    Raises:
        ServerTimeoutError: nobody did in time.
        ServerDiedError: the command ended before.
        StartCancelledError: it was broken off.
    """
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        missing: dict[str, Watch] = {}
        for name in names:
            lease = server.leases[name]
            for transport in _TRANSPORTS:
                if transport in lease._grip.wish.transports:
                    place = f"{transport} {name} {lease.port}"
                    missing[place] = _watch(lease, transport)
                    stack.callback(missing[place].close)
        told = 0
        while True:
            missing = {place: watch for place, watch in missing.items() if not watch.look()}
            if not missing:
                return
            where = " and ".join(missing)
            if len(missing) != told:
                told = len(missing)
                tell(f"somebody to listen on {where}")
            cancel.check()
            if server.process.ended or server.process.returncode is not None:
                raise _died(server, where)
            elapsed_s = time.monotonic() - begun
            if elapsed_s >= server._command.timeout_s:
                raise _late(server, where)
            server.process.wait_for_news(_ready.pause_s(elapsed_s) * _CALM)


def anybody(server: Server) -> bool:
    """Whether somebody listens on one of the ports of a command that does not."""
    with contextlib.ExitStack() as stack:
        for lease in server.leases.values():
            if lease.kind != "udp":  # its hold would be found
                watch = _watch(lease, "tcp")
                stack.callback(watch.close)
                if watch.look():
                    return True
    return False


_CALM = 5
"""How much longer to wait between looks than for a server of ours: containers take seconds."""


def _watch(lease: Lease, transport: Transport) -> Watch:
    if sys.platform == "linux":
        return _linux_diag.ListenWatch(lease.port, transport=transport)
    return _probe.ConnectProbe(lease.port, transport, lease.scope)


def _died(server: Server, where: str) -> ServerDiedError:
    code = server.process.returncode
    output = server._output_of_this_start()
    return ServerDiedError(
        f"{server._command.program} {_ready.how_ended(code)} before anybody listened on {where}; "
        "let it run in the foreground for as long as its servers live" + _last(output),
        argv=server.argv,
        returncode=code,
        output=output,
        ports=server._numbers(),
        how=server.how,
    )


def _late(server: Server, where: str) -> ServerTimeoutError:
    output = server._output_of_this_start()
    timeout_s = server._command.timeout_s
    return ServerTimeoutError(
        f"{server._command.program} runs, but after {timeout_s:g} s nobody listens on {where}; "
        "give it more time (--timeout), or see that it is told these numbers" + _last(output),
        argv=server.argv,
        timeout_s=timeout_s,
        output=output,
        ports=server._numbers(),
        missing=(),
        listening=(),
        how=server.how,
    )


def _last(output: str) -> str:
    said = _ready.tail(output)
    return f"\nits last output:\n{said}" if said else ""
