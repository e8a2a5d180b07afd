"""One attempt to bring a server up: until it listens, or it is clear that it will not, and why."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import TYPE_CHECKING

from portlease._errors import (
    LeaseStateError,
    ServerDiedError,
    ServerError,
    ServerStartError,
    ServerTimeoutError,
)
from portlease._platform import backend
from portlease._server import _probe, _ready, _template
from portlease._server._process import Process
from portlease._server._ready import Coverage, Listening
from portlease._states import GUARDED, HELD, OFFERED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final, Literal, TypeAlias

    from portlease._lease import Lease
    from portlease._server._command import Command, How
    from portlease._server._output import Output, Silence
    from portlease._server._probe import Probe, Transport

    Outcome: TypeAlias = Literal["ready", "died", "timeout", "in use"]

_TRANSPORTS: Final[dict[str, tuple[Transport, ...]]] = {
    "tcp": ("tcp",),
    "udp": ("udp",),
    "both": ("tcp", "udp"),
}
_RETRY_S: Final = 3.0
"""How long a living server has, once the lease has stepped aside, to try its port again."""

_SCANNED_BYTES: Final = 1 << 16
_OVERLAP_BYTES: Final = 64
_ERROR_BYTES: Final = 1 << 16
"""How much of a server's output goes into an error (errors are pickled)."""


def prepare(leases: Mapping[str, Lease], how: How) -> None:
    """Bring every lease into the state in which a server can take its port.

    Raises:
        LeaseStateError: one of them was released or handed over.
    """
    for lease in leases.values():
        if lease.state not in {HELD, OFFERED, GUARDED}:
            raise LeaseStateError(
                f"cannot serve on the lease of port {lease.port}, which is {lease.state}; "
                "take a new one with portlease.lease()",
                state=str(lease.state),
                action="serve",
            )
        can_offer = lease.kind != "udp" and backend.CAN_OFFER
        if lease.state is HELD and how == "offer" and can_offer:
            lease.offer()
        elif lease.state is HELD or (lease.state is OFFERED and how == "step-aside"):
            lease.step_aside()


def how_it_is(leases: Mapping[str, Lease]) -> How:
    """Whether any of the leases is offered beside the server."""
    return "offer" if any(one.state is OFFERED for one in leases.values()) else "step-aside"


class Attempt:
    """One start of a server. Owns its process until :meth:`run` has returned True."""

    process: Process

    def __init__(
        self, command: Command, leases: Mapping[str, Lease], silence: Silence, output: Output
    ) -> None:
        self._command = command
        self._silence = silence
        self._leases = leases
        self._ports = {name: lease.port for name, lease in leases.items()}
        main = leases[_template.PORT]
        self.argv, self._env = command.filled(self._ports, command.bind_host(main.host))
        self.host = _ready.client_host((), main.scope)
        self._how: How = how_it_is(leases)
        self._output = output
        self._output_start = self._output.size()
        self._scanned = self._output_start
        self._stepped_aside_at: float | None = None
        self._outcome: Outcome = "died"
        self._missing: list[_Awaited] = []
        self._elsewhere: dict[int, str] = {}
        self.returncode: int | None = None

    def run(self) -> bool:
        """Start it and wait; return whether it listens. If not, it has been ended.

        Raises:
            ServerStartError: it could not be executed.
            ServerError: it does not listen, and cannot be ended.
        """
        self.process = self._execute()
        try:
            if self._watch() == "ready":
                return True
            self.returncode = self.process.returncode
            if self._outcome != "died":
                self._elsewhere = _probe.ports_of(self.process)
        except BaseException:
            self._end()
            raise
        self._end()
        return False

    def _end(self) -> None:
        self.process.stop(self._command.stop_signal, grace_s=self._command.stop_timeout_s)

    def _watch(self) -> Outcome:
        with contextlib.ExitStack() as stack:
            awaited = []
            for one in _awaited(self.process, self._command, self._leases):
                stack.callback(one.close)
                awaited.append(one)
            self._outcome = self._wait(self.process, awaited)
            self._missing = [one for one in awaited if not one.done]
            for one in awaited:
                if one.name == _template.PORT:
                    self.host = one.client_host()
        return self._outcome

    def _execute(self) -> Process:
        command = self._command
        try:
            return Process.start(
                self.argv,
                env=self._env,
                cwd=command.cwd,
                stdin=self._silence.fileno() if command.own_stdin else None,
                output=self._output.fileno() if command.collect else None,
                mode=command.mode,
            )
        except ServerStartError as error:
            if said := self._said():  # only ever the keeper's interpreter
                error.add_note(said)
            raise

    def _wait(self, process: Process, awaited: list[_Awaited]) -> Outcome:
        begun = time.monotonic()
        while True:
            if all([one.look() for one in awaited]):  # noqa: C419 - look at each of them
                return "ready"
            if process.ended or process.returncode not in {None, 0}:
                return "died"
            elapsed_s = time.monotonic() - begun
            if elapsed_s >= self._command.timeout_s:
                return "timeout"
            if self._may_step_aside() and self._complains():
                prepare(self._leases, "step-aside")
                self._stepped_aside_at = elapsed_s
            elif self._stepped_aside_at is not None and (
                elapsed_s >= self._stepped_aside_at + _RETRY_S
            ):
                return "in use"
            process.wait_for_news(_ready.pause_s(elapsed_s))

    def _may_step_aside(self) -> bool:
        return self._how == "offer" and self._command.how is None and self._stepped_aside_at is None

    def _complains(self) -> bool:
        """Whether the living server has said anew that its port is in use."""
        size = self._output.size()
        if size == self._scanned:
            return False
        start = max(self._scanned - _OVERLAP_BYTES, self._output_start, size - _SCANNED_BYTES)
        self._scanned = size
        return _ready.says_in_use(self._output.text(start))

    def may_do_better_alone(self) -> bool:
        """Whether the server may listen if the lease steps aside before it is started again."""
        if self._how != "offer" or self._command.how is not None:
            return False
        if self._outcome == "died" and self._stepped_aside_at is None:
            return _ready.failed_in_use(self._said(), self._env) is not False
        return self._stepped_aside_at is not None and self._outcome in {"died", "in use"}

    def _said(self) -> str:
        """The end of its output."""
        start = max(self._output_start, self._output.size() - _ERROR_BYTES)
        return self._output.text(start)

    # --- why it failed ---

    def error(self, earlier: Attempt | None = None) -> ServerError:
        """The error for a start that failed, and for the one before it."""
        if self._outcome == "died":
            return self._died(earlier)
        return self._late(earlier)

    def _died(self, earlier: Attempt | None) -> ServerDiedError:
        lines = [f"{self._command.program} {_how_ended(self.returncode)} before it listened"]
        lines[0] += f" on {_and(one.place for one in self._missing)}"
        lines += self._tried_twice(earlier)
        lines += self._about_the_port()
        lines += self._last_output()
        return ServerDiedError(
            "\n".join(lines),
            argv=self.argv,
            returncode=self.returncode,
            output=self._said(),
            ports=self._ports,
            how=self._how,
        )

    def _late(self, earlier: Attempt | None) -> ServerTimeoutError:
        command = self._command
        waited_s = command.timeout_s if self._outcome == "timeout" else _RETRY_S
        lines = [
            (
                f"{command.program} runs, but after {waited_s:g} s does not listen on "
                f"{_and(one.place for one in self._missing)}"
            )
        ]
        lines += self._tried_twice(earlier)
        leased = self._ports.values()
        elsewhere = {port for port in self._elsewhere if port not in leased}
        if elsewhere:
            lines.append(
                f"it listens on {_ready.sorted_ports(elsewhere)} instead: does it take its port "
                "from {port} in its arguments, or from PORT in its environment?"
            )
        lines += self._partly()
        lines += self._never_named()
        lines += self._about_the_port()
        lines += self._last_output()
        if not elsewhere:
            lines.append(
                "if it only needs longer, give it more time: timeout_s="
                + "; if it binds without SO_REUSEADDR, and waits in silence for the lease to go: "
                "how='step-aside'" * (self._how == "offer" and self._stepped_aside_at is None)
            )
        return ServerTimeoutError(
            "\n".join(lines),
            argv=self.argv,
            timeout_s=command.timeout_s,
            output=self._said(),
            ports=self._ports,
            missing=tuple(one.name for one in self._missing),
            listening=tuple(sorted(self._elsewhere)),
            how=self._how,
        )

    def _partly(self) -> list[str]:
        return [
            f"on port {one.lease.port} it listens on {_and(x.address for x in one.found)} only, "
            f"and the lease is for {one.lease.scope}"
            for one in self._missing
            if one.found
        ]

    def _never_named(self) -> list[str]:
        named = _template.names_in((*self._command.args, *self._command.env.values()))
        # {prt}, say: where {port} itself is not used, another name may have been meant for it.
        others = set() if _template.PORT in named else named & self._ports.keys()
        others -= self._command.kinds.keys()
        return [f"{{{name}}} is another port, {self._ports[name]}" for name in sorted(others)] + [
            f"nothing in its command or in env= has {{{one.name}}} in it, so it knows that port "
            f"from its environment alone; if it does not listen there, name in wait_for= those "
            "that it does"
            for one in self._missing
            if one.name not in named
        ]

    def _tried_twice(self, earlier: Attempt | None) -> list[str]:
        if earlier is None:
            return []
        first = (
            _how_ended(earlier.returncode) if earlier._outcome == "died" else "did not get its port"
        )
        return [
            (
                f"(it was started twice: beside the offered lease it {first}; the second time the "
                "lease had stepped aside)"
            )
        ]

    def _about_the_port(self) -> list[str]:
        """Who has the ports, if the server says that they are in use or somebody else listens."""
        said = _ready.failed_in_use(self._said(), self._env) is True
        occupied = [
            text for one in self._missing if (text := _somebody_else_on(one.lease.port)) is not None
        ]
        if occupied:
            return occupied
        if not said:
            return []
        if self._how == "offer" and self._command.how == "offer":
            return [
                (
                    "it says that its address is in use, and nobody but the lease is there: it "
                    "does not set SO_REUSEADDR; leave how= out, or say how='step-aside'"
                )
            ]
        return [
            (
                "it says that an address is in use, but nobody else has its leased ports now: "
                "is it another, a hard-coded one?"
            )
        ]

    def _last_output(self) -> list[str]:
        said = _ready.tail(self._said())
        if not self._command.collect:
            return []
        return [f"its last output:\n{said}"] if said else ["it wrote nothing"]


class _Awaited:
    """One transport of one leased port, and whether the server is there yet."""

    def __init__(self, name: str, lease: Lease, transport: Transport, probe: Probe) -> None:
        self.name = name
        self.lease = lease
        self.transport = transport
        self.done = False
        self.found: list[Listening] = []
        self._probe = probe
        self._settled_at = math.inf

    @property
    def place(self) -> str:
        """For messages."""
        called = "" if self.name == _template.PORT else f" ({self.name})"
        udp = "UDP " if self.transport == "udp" else ""
        return f"{udp}port {self.lease.port}{called}"

    def look(self) -> bool:
        """Look once more, unless it was seen already."""
        if not self.done:
            self.found = self._probe.look()
            covered = _ready.coverage(self.found, self.lease.scope)
            now = time.monotonic()
            if covered is not Coverage.PART:
                self._settled_at = math.inf
            elif self._settled_at == math.inf:
                self._settled_at = now + _ready.SETTLE_S
            self.done = covered is Coverage.FULL or now >= self._settled_at
        return self.done

    def client_host(self) -> str:
        """Where clients reach it."""
        return _ready.client_host(self.found, self.lease.scope)

    def close(self) -> None:
        """Give up what the probe has open."""
        self._probe.close()


def _awaited(process: Process, command: Command, leases: Mapping[str, Lease]) -> Iterable[_Awaited]:
    for name, lease in leases.items():
        if command.wait_for is None or name in command.wait_for:
            for transport in _TRANSPORTS[lease.kind]:
                probe = _probe.probe(process, lease.port, transport, lease.scope)
                yield _Awaited(name, lease, transport, probe)


# --- words and small things ----------------------------------------------------------------------


def _how_ended(returncode: int | None) -> str:
    if returncode is None:  # the tree has ended, so this one has
        return "ended"
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    return f"was ended by {_ready.signal_name(-returncode)}"


def _and(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))


def _somebody_else_on(port: int) -> str | None:
    """Who else has *port*, in words, or None if nobody but this process's lease does."""
    from portlease._who import who

    found = who(port)
    others = [
        one
        for one in found.occupants
        if one.prevents
        and not (one.kind in {"lease", "bound"} and os.getpid() in {p.pid for p in one.processes})
    ]
    return str(found) if others else None
