"""A server that is started as ``run`` was asked to, its env file first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from portlease._errors import ServerTimeoutError
from portlease._server import _ready
from portlease._server._server import Server
from portlease.cli import _elsewhere, _say, _signals, _told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Final

    from portlease import Lease
    from portlease._server._cancel import Cancel
    from portlease._server._command import Command
    from portlease.cli._plan import Plan


_HINT: Final = "if that is the right one, a daemon's that this command talks to, say --elsewhere"


class PlannedServer(Server):
    """As :class:`Server`; the env file is there before it starts.

    Args:
        plan: what was asked for.
        command: the server's.
        lease: of its main port, if it is to lease the others itself.
        leases: of all its ports, by name.
        tell: is told what is waited for, whenever that changes.
        cancel: breaks its start off.

    Raises:
        UsageError: the env file cannot be written.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - Server's own, and the plan
        self,
        plan: Plan,
        command: Command,
        lease: Lease | None = None,
        leases: Mapping[str, Lease] | None = None,
        tell: Callable[[str], None] | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self._plan = plan
        super().__init__(command, lease, leases, tell=tell, cancel=cancel)

    def _bring_up(self, cancel: Cancel) -> None:
        if self._plan.env_file is not None:
            host = self._command.bind_host(self.lease.host)
            self._plan.env_file.write(self._plan.variables(self._numbers(), host, self.paths))
        try:
            super()._bring_up(cancel)
        except ServerTimeoutError as error:
            if not _elsewhere.anybody(self):
                raise
            raise ServerTimeoutError(f"{error.message}\n{_HINT}", **error._facts) from error
        if self._plan.elsewhere:
            if self._plan.how is None:
                self.why = "its servers are somebody else's (--elsewhere)"
            begun = time.monotonic()
            with cancel.ending(self._begin_end):
                _elsewhere.wait(self, self._plan.elsewhere_names(), cancel, self._tell)
            self.ready_after_s += time.monotonic() - begun


class StartedServer(PlannedServer):
    """The same; a signal may break its start off, and who does that is told what it waited for.

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
            super().__init__(plan, command, lease, leases, tell=told)
        except _signals.Interrupted:
            _say.say(f"{command.program} was not ready yet; still waited for {waited_for}")
            if command.collect and hasattr(self, "_output"):  # else it was not to be started yet
                whose = f"the last output of {command.program}"
                _say.tell_output(whose, _ready.tail(self.output))
            _told.hints(plan)
            raise
