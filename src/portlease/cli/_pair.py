"""One server in the background, and one client in the foreground, that runs when it is ready."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from portlease._errors import ServerError
from portlease._server import _ready
from portlease._server._serve import Server
from portlease.cli import _check, _foreground, _say, _signals, _status

if TYPE_CHECKING:
    from portlease.cli._plan import Plan


def run(plan: Plan) -> int:
    """Start the server, run the client, stop the server; the exit status is the client's."""
    begun = time.monotonic()
    with _signals.interrupting(), plan.main_lease() as main:
        server = Server(plan.command(), main)
        try:
            with server:
                _check.wait(server, plan, begun)
                _tell_ready(plan, server, time.monotonic() - begun)
                argv, env = plan.filled(plan.client, server.ports, server.host)
                status = _foreground.run(argv, env)
                code = server.process.returncode if server.process.ended else None
        except ServerError:
            _tell_output(plan, server, whole=plan.verbose)
            raise
    if code:  # a server that ends with 0 has served its one client, say
        ended = _status.of_returncode(code)
        _say.say(f"{plan.server[0]} ended with exit status {ended} while the client ran")
    if plan.verbose or code or status not in {_status.OK, _status.of_signal(_status.SIGINT)}:
        _tell_output(plan, server, whole=plan.verbose)
    return status


def _tell_ready(plan: Plan, server: Server, after_s: float) -> None:
    if plan.talks:
        again = ", started twice" if server.starts > 1 else ""
        ports = _say.ports(server.ports)
        _say.say(f"{plan.server[0]} is ready on port {ports} after {after_s:.2f} s{again}")


def _tell_output(plan: Plan, server: Server, *, whole: bool) -> None:
    output = server.output
    _say.tell_output(
        f"{'the output' if whole else 'the last output'} of {plan.server[0]}",
        output if whole else _ready.tail(output),
    )
