"""Brings a command up on its leases: by one means after the other, until one will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portlease._errors import BrokerUnavailableError, UsageError
from portlease._onlooker import look
from portlease._server import _failure, _means, _template, _warnings
from portlease._server._attempt import Attempt
from portlease._server._warnings import HowWarning
from portlease._take import lease as take_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portlease._lease import Lease
    from portlease._server._attempt import Streams
    from portlease._server._cancel import Cancel
    from portlease._server._command import Command
    from portlease._server._means import Means
    from portlease._wish import Kind

_needs_step_aside: set[object] = set()
"""Commands (before substitution, and their directory) that could not bind beside an offer."""

_takes_no_socket: set[object] = set()
"""Commands that look as if they took a socket, and did not."""


def take_leases(command: Command, given: Lease | None, owned: list[Lease]) -> dict[str, Lease]:
    """The leases of all ports of a command, by name, the main one first.

    Args:
        command: the server's.
        given: that of its main port, if there is one already.
        owned: each lease that is taken is added to it at once; they are the caller's to release.
    """
    label = command.label or look.named(command.program)
    leases: dict[str, Lease] = {}
    for name in sorted(command.names(), key=lambda name: (name != _template.PORT, name)):
        if name == _template.PORT and given is not None:
            leases[name] = given
            continue
        taken = take_lease(
            _kind(command, name),
            host=command.host if given is None else given.host,
            label=label if name == _template.PORT else f"{label}:{name}",
        )
        owned.append(taken)
        leases[name] = taken
    return leases


def _kind(command: Command, name: str) -> Kind:
    kind = command.kinds.get(name, "tcp")
    assert kind != "unix"  # noqa: S101 - such a one is in Command.unix(), not in names()
    return kind


class Starter:
    """Starts one command, once or again.

    Args:
        command: what to start.
        leases: by name.
        paths: of its Unix sockets, by name.
        streams: its standard streams.
        tell: is told what is waited for, whenever that changes.
    """

    def __init__(
        self,
        command: Command,
        leases: Mapping[str, Lease],
        paths: Mapping[str, str],
        streams: Streams,
        tell: Callable[[str], None],
    ) -> None:
        self._command = command
        self._leases = leases
        self._paths = paths
        self._streams = streams
        self._tell = tell
        self._told: set[str] = set()

    def run(self, cancel: Cancel) -> tuple[Attempt, int]:
        """Start it; return the start that came up, and how many there were.

        Raises:
            ServerError: as :func:`portlease.serve`. Nothing runs.
            StartCancelledError: it was broken off. Nothing runs.
        """
        before: list[Attempt] = []
        means = self._prepared(self._first())
        while True:
            attempt = Attempt(
                self._command,
                self._leases,
                self._paths,
                means,
                self._streams,
                cancel=cancel,
                tell=self._tell,
            )
            try:
                came_up = attempt.run()
            except BrokerUnavailableError as error:
                means = self._prepared(self._instead(f"{error.reason}; {error.remedy}"))
                continue
            if came_up:
                self._learn(attempt, before)
                return attempt, len(before) + 1
            better = attempt.next()
            if better is None:
                raise _failure.error(attempt, before)
            before.append(attempt)
            means = self._prepared(better)

    def _learn(self, attempt: Attempt, before: list[Attempt]) -> None:
        key = self._command.key
        if attempt.how_now() == "step-aside" and (
            attempt.stepped_aside or attempt.means is _means.ALONE
        ):
            _needs_step_aside.add(key)
        if any(one.means.how == "hand-over" for one in before):
            _takes_no_socket.add(key)

    def _first(self) -> Means:
        command = self._command
        socketless = command.key in _takes_no_socket
        chosen = _means.choose(command, self._leases, self._paths, socketless=socketless)
        if isinstance(chosen, str):
            return self._instead(chosen)
        return self._by_itself() if chosen.how == "offer" else chosen

    def _by_itself(self) -> Means:
        command = self._command
        needs = command.key in _needs_step_aside
        return _means.by_itself(command, self._leases, needs_step_aside=needs)

    def _prepared(self, means: Means) -> Means:
        """Bring the leases into the state that *means* needs, or others if that cannot be."""
        try:
            _means.prepare(self._leases, means.how, means.plan)
        except _means.LeaseTakenError as error:
            why = "; ".join(str(error).splitlines())
            means = self._instead(f"it must be HELD for that, and {why}")
            _means.prepare(self._leases, means.how)
        return means

    def _instead(self, why: str) -> Means:
        """What is done in place of what cannot be had; says so, once, if it was asked for."""
        command = self._command
        if command.fds():
            raise UsageError(
                f"{{{min(command.fds())}}} in the command of {command.program} is the descriptor "
                f"of a socket, and none can be handed over: {why}"
            )
        means = self._by_itself()
        if command.how is None:  # a preset's socket
            return means
        text = (
            f"how={command.how!r} cannot be had for {command.program}: {why}. Instead, it binds "
            "its port itself: beside the hold if it sets SO_REUSEADDR, or else in its place"
        )
        if text not in self._told:
            self._told.add(text)
            _warnings.tell(text, HowWarning)
        return means._replace(why=f"how={command.how!r} cannot be had: {why}; {means.why}")
