"""What is told of a server by whoever has started it: how it got its port, what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portlease.cli import _say

if TYPE_CHECKING:
    from portlease._server._command import How
    from portlease._server._server import Server
    from portlease.cli._plan import Plan


def how(server: Server) -> None:
    """Tell by which means a server got its port, and why by that."""
    means(server.how, server.why)


def means(one: How, why: str, whose: str = "") -> None:
    """The same, of one that is called *whose*."""
    _say.say(f"{whose}how: {one}, because {_say.for_the_command_line(why)}")


def hints(plan: Plan) -> None:
    """Something failed: tell of names that no port has, unless --verbose has done so before."""
    for hint in () if plan.verbose else plan.hints():
        _say.say(hint)


def troubles(plan: Plan, server: Server) -> None:
    """With --verbose, tell what the broker had to leave to the kernel."""
    if plan.verbose:
        for trouble in server.process.broker_troubles:
            _say.say(f"the broker: {trouble}")
