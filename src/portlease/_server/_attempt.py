"""One attempt to bring a server up: until it listens, or it is clear that it will not."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from portlease._clock import now_s
from portlease._errors import ServerStartError
from portlease._server import _awaited, _means, _probe, _ready, _template, _unix
from portlease._server._means import prepare as prepare  # noqa: PLC0414 - the command line's too
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final, Literal, TypeAlias

    from portlease._lease import Lease
    from portlease._server._awaited import Awaited
    from portlease._server._cancel import Cancel
    from portlease._server._command import Command, How
    from portlease._server._handover import Handed, Plan
    from portlease._server._means import Means
    from portlease._server._output import Output, Silence

    Outcome: TypeAlias = Literal["ready", "died", "timeout", "in use"]

_RETRY_S: Final = 3.0
"""How long a living server has, once the lease has stepped aside, to try its port again."""

_WITHOUT_EVENTS_S: Final = 1.0
"""How often we look where the broker tells of each bind and listen: at a socket that has come to
the server by another way, and for nothing else."""

_ELSEWHERE_S: Final = 1.0
"""When we first look whether it listens elsewhere; each time after that, in twice the time."""

_SCANNED_BYTES: Final = 1 << 16
_OVERLAP_BYTES: Final = 64
_ERROR_BYTES: Final = 1 << 16
"""How much of a server's output goes into an error (errors are pickled)."""


class Streams:
    """Where a server reads from and writes to, over all its starts."""

    def __init__(self, silence: Silence, output: Output) -> None:
        self.silence = silence
        self.output = output


class Attempt:
    """One start of a server. Owns its process until :meth:`run` has returned True.

    Args:
        command: what to start.
        leases: by name; :func:`._means.prepare` has seen to them.
        paths: of its Unix sockets, by name.
        means: by which it is to get its ports.
        streams: the server's.
        cancel: breaks it off.
        tell: is told what is waited for, whenever that changes.
    """

    process: Process
    argv: tuple[str, ...]
    env: dict[str, str]
    begun: float
    """When it was started, by the monotonic clock."""

    def __init__(  # noqa: PLR0913 - all that a start takes
        self,
        command: Command,
        leases: Mapping[str, Lease],
        paths: Mapping[str, str],
        means: Means,
        streams: Streams,
        *,
        cancel: Cancel,
        tell: Callable[[str], None],
    ) -> None:
        self.command = command
        self.means = means
        self.ports = {name: lease.port for name, lease in leases.items()}
        self.host = _ready.client_host((), leases[_template.PORT].scope)
        self.outcome: Outcome = "died"
        self.missing: list[Awaited] = []
        self.elsewhere: dict[int, str] = {}
        self.returncode: int | None = None
        self.troubles: tuple[str, ...] = ()
        """What the broker could not do for it."""
        self._leases = leases
        self._paths = paths
        self._silence = streams.silence
        self._output = streams.output
        self._cancel = cancel
        self._tell = tell
        self._offered = _means.how_it_is(leases) == "offer"
        self.output_start = self._output.begin()
        self._scanned = self.output_start
        self._stepped_aside_at: float | None = None

    def run(self) -> bool:
        """Start it and wait; return whether it listens. If not, it has been ended.

        Raises:
            ServerStartError: it could not be executed.
            BrokerUnavailableError: no broker is to be had, and nothing was started.
            ServerError: it does not listen, and cannot be ended.
            StartCancelledError: it was broken off, and has been ended.
        """
        self._cancel.check()
        self.begun = now_s()
        _unix.remove_left_over(self._paths.values())
        with contextlib.ExitStack() as stack:
            handed = self._hand_over(stack)
            self.process = self._execute(handed)
            try:
                with self._cancel.ending(self._begin_end):
                    if self._watch(handed) == "ready":
                        return True
                self.returncode = self.process.returncode
                self.troubles = tuple(self.process.broker_troubles)
                if self.outcome != "died":
                    self.elsewhere = _probe.ports_of(self.process)
            except BaseException:
                self._end()
                raise
            self._end()
        return False

    def _begin_end(self) -> None:
        self.process.begin_stop(self.command.stop_timeout_s)

    def _end(self) -> None:
        self.process.stop(self.command.stop_signal, grace_s=self.command.stop_timeout_s)

    # --- starting ---

    def _hand_over(self, stack: contextlib.ExitStack) -> tuple[Plan, Handed] | None:
        """The sockets that it is to inherit; our copies live until it has taken them, or failed."""
        plan = self.means.plan
        if plan is None:
            return None
        handed = plan.open(self._leases)
        stack.callback(handed.close)
        return plan, handed

    def _execute(self, handed: tuple[Plan, Handed] | None) -> Process:
        command, options = self.command, {}
        values: Mapping[str, int] = {}
        if handed is not None:
            plan, sockets = handed
            command = command.instead(plan.args, plan.env_added)
            values, options = sockets.values, sockets.options
        host = command.bind_host(self._leases[_template.PORT].host)
        self.argv, self.env = command.filled(self.ports, host, self._paths, values)
        try:
            return self._start(options)
        except ServerStartError as error:
            if said := self.said():  # only ever the keeper's interpreter
                error.add_note(said)
            raise

    def _start(self, options: Mapping[str, Any]) -> Process:
        command = self.command
        return Process.start(
            self.argv,
            env=self.env,
            cwd=command.cwd,
            stdin=self._silence.fileno() if command.own_stdin else None,
            output=self._output.fileno() if command.collect else None,
            mode=command.mode,
            holds=_means.holds(self._leases) if self.means.how == "broker" else (),
            **options,
        )

    # --- waiting ---

    def _watch(self, handed: tuple[Plan, Handed] | None) -> Outcome:
        with contextlib.ExitStack() as stack:
            awaited = []
            leases, paths = self._leases, self._paths
            for one in _awaited.all_of(self.process, self.command, leases, paths, handed):
                stack.callback(one.close)
                awaited.append(one)
            self.outcome = self._wait(self.process, awaited)
            self.missing = [one for one in awaited if not one.done]
            for one in awaited:
                if one.name == _template.PORT and one.lease is not None:
                    self.host = _ready.client_host(one.found, one.lease.scope)
        return self.outcome

    def _wait(self, process: Process, awaited: Sequence[Awaited]) -> Outcome:
        begun = now_s()
        told = 0
        look_elsewhere_s = _ELSEWHERE_S
        while True:
            events = len(process.brokered)
            if all([one.look() for one in awaited]):  # noqa: C419 - look at each of them
                return "ready"
            left = [one for one in awaited if not one.done]
            if len(left) != told:
                told = len(left)
                self._tell(f"{' and '.join(dict.fromkeys(one.place for one in left))} to listen")
            if process.ended or process.returncode not in {None, 0}:
                self._cancel.check()
                return "died"
            self._cancel.check()
            elapsed_s = now_s() - begun
            if elapsed_s >= self.command.timeout_s:
                return "timeout"
            if elapsed_s >= look_elsewhere_s:
                look_elsewhere_s = 2 * elapsed_s
                self._tell_of_elsewhere(process, left)
            if self._may_step_aside() and self._complains():
                prepare(self._leases, "step-aside", self.means.plan)
                self._stepped_aside_at = elapsed_s
            elif self._stepped_aside_at is not None and (
                elapsed_s >= self._stepped_aside_at + _RETRY_S
            ):
                return "in use"
            if len(process.brokered) == events:
                process.wait_for_news(self._pause_s(elapsed_s, left))

    def _tell_of_elsewhere(self, process: Process, left: Sequence[Awaited]) -> None:
        """What the error would say in the end: whoever sees it now need not wait for that."""
        elsewhere = _probe.ports_of(process).keys() - self.ports.values()
        if elsewhere:
            where = " and ".join(dict.fromkeys(one.place for one in left))
            self._tell(f"{where}; it listens on {_ready.sorted_ports(elsewhere)}")

    def _pause_s(self, elapsed_s: float, left: Sequence[Awaited]) -> float:
        """Until the next look; the broker's news, and the server's end, cut it short."""
        if self.means.how != "broker":
            return _ready.pause_s(elapsed_s)
        due_s = min(one.due_in_s() for one in left)
        return max(0.0, min(due_s, self.command.timeout_s - elapsed_s, _WITHOUT_EVENTS_S))

    def _may_step_aside(self) -> bool:
        return self._offered and self.command.how != "offer" and self._stepped_aside_at is None

    def _complains(self) -> bool:
        """Whether the living server has said anew that its port is in use."""
        size = self._output.size()
        if size == self._scanned:
            return False
        start = max(self._scanned - _OVERLAP_BYTES, self.output_start, size - _SCANNED_BYTES)
        self._scanned = size
        return _ready.says_in_use(self._output.text(start))

    # --- what came of it ---

    @property
    def stepped_aside(self) -> bool:
        """Whether the leases have while it ran."""
        return self._stepped_aside_at is not None

    @property
    def waited_s(self) -> float:
        """How long it had, if that was not enough."""
        return self.command.timeout_s if self.outcome == "timeout" else _RETRY_S

    def how_now(self) -> How:
        """By which means it had its ports in the end."""
        how = self.means.how
        return how if how in {"broker", "hand-over"} else _means.how_it_is(self._leases)

    def why_now(self) -> str:
        """Why it was those."""
        return _means.why_it_is(self.means, self._leases, stepped_aside=self.stepped_aside)

    def next(self) -> Means | None:
        """What may do better than the means by which it has just failed; None: nothing."""
        asked = self.command.how
        if self.means.how == "hand-over":
            if asked == "hand-over" or self.command.fds() or self.outcome != "died":
                return None
            refused = _ready.refuses_sockets(self.said())
            return _means.by_itself(self.command, self._leases) if refused else None
        if not self._offered or asked == "offer":
            return None
        if self.outcome == "died" and not self.stepped_aside:
            in_use = _ready.failed_in_use(self.said(), self.env) is not False
        else:
            in_use = self.stepped_aside and self.outcome in {"died", "in use"}
        return _means.ALONE if in_use else None

    def said(self) -> str:
        """The end of its output."""
        start = max(self.output_start, self._output.size() - _ERROR_BYTES)
        return self._output.text(start)
