"""One server in the background, and one client in the foreground, that runs when it is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portlease._errors import ServerDiedError
from portlease._server import _ready
from portlease.cli import _foreground, _say, _signals, _status, _told
from portlease.cli._started import StartedServer
from portlease.cli._waiting import Waiting

if TYPE_CHECKING:
    from typing import Final

    from portlease import Lease
    from portlease._server._server import Server
    from portlease.cli._plan import Plan

_LAST_WORDS_S: Final = 0.1


def run(plan: Plan) -> int:
    """Start the server, run the client, stop the server; the exit status is the client's."""
    with _signals.interrupting(), plan.main_lease() as main:
        server = _start(plan, main)
        try:
            _tell_ready(plan, server)
            argv, env = plan.for_client(server)
            status = _foreground.run(argv, env)
            # A client ends because its server has just died, and before that is known: once its
            # keeper has answered it is; and who still dies has a moment, if the client failed.
            server.process.send_signal(0)
            dies = status != _status.OK or server.process.returncode is not None
            gone = server.process.wait_ended(_LAST_WORDS_S if dies else 0)
            code = server.process.returncode if gone else None
        except ServerDiedError:
            _tell_of_sockets(server)
            raise
        finally:
            server.stop()
        _told.troubles(plan, server)
    if code:  # a server that ends with 0 has served its one client, say
        ended = _status.of_returncode(code)
        _say.say(f"{plan.server[0]} ended with exit status {ended} while the client ran")
        _tell_of_sockets(server)
    if plan.verbose or code or status not in {_status.OK, _status.of_signal(_status.SIGINT)}:
        whose = "the output" if plan.verbose else "the last output"
        output = server.output if plan.verbose else _ready.tail(server.output)
        _say.tell_output(f"{whose} of {plan.server[0]}", output)
    return status


def _start(plan: Plan, main: Lease) -> Server:
    command = plan.command()
    with Waiting(command.program, shown=not plan.quiet) as waiting:
        return StartedServer(plan, command, main, tell=waiting.tell)


def _tell_of_sockets(server: Server) -> None:
    """A server that has died may have been handed a socket that it does not take."""
    if server.how == "hand-over":
        _say.say(f"{server.why}; if it takes no socket, say --how offer")


def _tell_ready(plan: Plan, server: Server) -> None:
    if plan.talks:
        again = ", started twice" if server.starts > 1 else ""
        ports = _say.ports({**server.ports, **server.paths})
        after_s = server.ready_after_s
        _say.say(f"{plan.server[0]} is ready on port {ports} after {after_s:.2f} s{again}")
    if plan.verbose:
        _told.how(server)
