"""A server whose start a signal may break off: then it is told what was still waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portlease._server import _ready
from portlease._server._server import Server
from portlease.cli import _say, _signals, _told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portlease import Lease
    from portlease._server._command import Command
    from portlease.cli._plan import Plan


class StartedServer(Server):
    """As :class:`Server`; who cancels a job wants to know what it waited for.

    Args:
        plan: what was asked for.
        command: the server's.
        lease: of its main port, if it is to lease the others itself.
        leases: of all its ports, by name.
        tell: is told what is waited for, whenever that changes.

    Raises:
        Interrupted: a signal came; it has been told, and nothing runs.
    """

    def __init__(
        self,
        plan: Plan,
        command: Command,
        lease: Lease | None = None,
        leases: Mapping[str, Lease] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        waited_for = "its start"

        def told(what: str) -> None:
            nonlocal waited_for
            waited_for = what
            if tell is not None:
                tell(what)

        try:
            super().__init__(command, lease, leases, tell=told)
        except _signals.Interrupted:
            _say.say(f"{command.program} was not ready yet; still waited for {waited_for}")
            if command.collect and hasattr(self, "_output"):  # else it was not to be started yet
                whose = f"the last output of {command.program}"
                _say.tell_output(whose, _ready.tail(self.output))
            _told.hints(plan)
            raise
