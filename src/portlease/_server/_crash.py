"""A server that has ended by itself after it was ready: whether it has, and what is told of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from portlease._errors import ServerDiedError
from portlease._server import _ready
from portlease._tree import _process

if TYPE_CHECKING:
    from typing import Final

    from portlease._server._server import Server
    from portlease._tree._process import Process

_SHOWN_BYTES: Final = 1 << 16
"""How much of its output goes into the error (errors are pickled)."""

_ENDING: Final = {
    int(getattr(signal, name))
    for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGKILL")
    if hasattr(signal, name)  # Windows has but two of them
}


def of(server: Server, process: Process) -> ServerDiedError | None:
    """The error for a server whose process has ended by itself, not with status 0; or None.

    A process that was sent a signal through us, and ended by that or with a status of its own, has
    not ended by itself.
    """
    code = process.returncode
    if code is None or code == 0:
        return None
    command, sent = server._command, process.signals_sent
    if -code in sent:
        return None
    # Asked to end, it may do so with any status, or be ended by the keeper. But who was only told
    # to reload (SIGHUP), and breaks by a signal of its own later on, has crashed.
    ended_by_us = not (_ENDING | {command.stop_signal}).isdisjoint(sent)
    if ended_by_us and (code > 0 or code == -_process.SIGKILL):
        return None
    output = server._output_of_this_start(_SHOWN_BYTES)
    said = _ready.tail(output)
    return ServerDiedError(
        f"{command.program} (port {server.lease.port}) was ready, and then "
        f"{_ready.how_ended(code)} by itself; restart() starts it again\n"
        + (f"its last output:\n{said}" if said else "it wrote nothing"),
        argv=server.argv,
        returncode=code,
        output=output,
        ports=server._numbers(),
        how=server.how,
    )
