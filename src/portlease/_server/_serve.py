"""``serve()``: a server on leased ports, started, proved ready, and stopped with all it started.

The order of things: take the leases; start the command under a keeper (:mod:`._process`);
look until its own sockets listen (:mod:`._attempt`, :mod:`._probe`).

Beside an OFFERED lease only a server that sets SO_REUSEADDR can bind. Another kind fails with
EADDRINUSE, and then the lease steps aside and the command is started once more; what was learned
about a command is remembered as long as this process lives. A server that does not give up but
tries again gets its port while it runs. Nothing has to be known about the server beforehand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

from portlease._errors import UsageError
from portlease._server import _attempt, _ready, _template
from portlease._server._attempt import Attempt
from portlease._server._command import Command
from portlease._server._output import Output, Silence
from portlease._server._process import limits_told
from portlease._take import lease as take_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from portlease._lease import Lease
    from portlease._server._command import How
    from portlease._server._process import Killed, Process, StrPath
    from portlease._wish import Kind

_needs_step_aside: set[tuple[tuple[str, ...], str | None]] = set()
"""Commands (before substitution, and their directory) that could not bind beside an offer."""


class ServerKilledWarning(RuntimeWarning):
    """A server did not end when it was asked to, and was ended by SIGKILL."""


def serve(  # noqa: PLR0913 - all but the first by keyword
    args: Sequence[StrPath],
    *,
    lease: Lease | None = None,
    ports: Mapping[str, Kind] | None = None,
    host: str | None = None,
    timeout_s: float = 30.0,
    stop_timeout_s: float = 5.0,
    stop_signal: int = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
    cwd: StrPath | None = None,
    label: str | None = None,
    wait_for: Iterable[str] | None = None,
    how: How | None = None,
) -> Server:
    """Start a server on leased ports, and return once it listens on them.

    In the arguments and in *env*, ``{port}`` is the number of its main port, ``{host}`` the address
    to bind, and any other name in braces, ``{admin}`` say, another port that is leased for it.
    ``{{admin}}`` is the text ``{admin}``; braces with anything else in them stay as they are. In
    its environment, PORT and NAME_PORT (ADMIN_PORT) are the same numbers.

    Args:
        args: the program, looked up in PATH, and its arguments. No shell.
        lease: a lease to use for its main port; it stays the caller's, and keeps the state that the
            server needed (GUARDED, maybe). By default one is taken, and released in the end.
        ports: the kind of named ports that are not ``"tcp"``: ``{"dns": "both"}``. A name that is
            in no template is leased too. ``"port"`` is the main port.
        host: the address to lease and to bind; by default every address is leased, and ``{host}``
            is 127.0.0.1. Not together with *lease*.
        timeout_s: how long each start may take until it listens.
        stop_timeout_s: how long its processes have to end by themselves.
        stop_signal: what tells it to end.
        env: variables for it besides ours; the values are templates too.
        cwd: its working directory; ours by default.
        label: for its leases, as :func:`portlease.leases` shows them; the program's name by
            default.
        wait_for: the names of the ports that it must listen on (UDP: be bound to) before it counts
            as ready; by default all of them.
        how: ``"offer"`` to insist on a server that sets SO_REUSEADDR, ``"step-aside"`` for one that
            is known not to; by default the first, and then the second if that fails.

    Returns:
        The running server; use it in a ``with`` block, or call ``stop()``.

    Raises:
        ServerStartError: the program could not be executed.
        ServerDiedError: it ended before it listened; with its exit status, its last output, and who
            has the port if that was the reason.
        ServerTimeoutError: it did not listen in time; with the ports on which it does.
        ServerError: some process of it cannot be ended.
        UsageError: an argument that can never work.
        LeaseStateError: *lease* was released or handed over.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.

    Not guaranteed: that it answers yet; it listens, so a connection is accepted or queued. Between
    stepping aside and the server's bind, only the guard protects the port (docs/promise.md). On
    macOS and Windows readiness is found by connecting, which another's server passes as well.
    """
    if isinstance(args, str):
        raise UsageError("args is one string; give a list: shlex.split() makes one of it")
    if lease is not None and host is not None:
        raise UsageError("host= is the lease's: give it to portlease.lease(), not to serve()")
    command = Command(
        args=tuple(_text(number, arg) for number, arg in enumerate(args)),
        kinds=dict(ports or {}),
        env=dict(env or {}),
        cwd=None if cwd is None else os.fspath(cwd),
        host=host,
        label=label,
        wait_for=None if wait_for is None else tuple(wait_for),
        how=how,
        timeout_s=timeout_s,
        stop_timeout_s=stop_timeout_s,
        stop_signal=int(stop_signal),
    )
    return Server(command, lease)


def _text(number: int, arg: object) -> str:
    try:
        text = os.fspath(arg)  # type: ignore[call-overload] # whether it is a path, it says itself
    except TypeError:
        raise UsageError(
            f"args[{number}]={arg!r} is no text; write str() round it, or '{{port}}' for the port"
        ) from None
    return os.fsdecode(text)


class Server:
    """A server that :func:`serve` has started. Context manager: leaving the block stops it.

    In a forked child it is inert: server and leases are the parent's.
    """

    argv: tuple[str, ...]
    """Its command as it was executed, numbers in place of names."""
    host: str
    """The address at which clients reach its main port."""
    lease: Lease
    """The lease of its main port."""
    leases: dict[str, Lease]
    """All its leases, by name; ``"port"`` is the main one."""
    process: Process
    """Its process, with ``pid``, ``returncode``, ``send_signal()`` and ``tree()``."""
    how: How
    """Whether the leases are offered beside it, or had to step aside for it."""
    starts: int
    """How often it was started until it listened: twice, if only then it was known how."""
    ready_after_s: float
    """Seconds from its (first) start until it was seen to listen."""

    def __init__(self, command: Command, lease: Lease | None = None) -> None:
        self._command = command
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._closed = False
        self._owned: list[Lease] = []
        self._process: Process | None = None
        with limits_told(command.program):
            self._output = Output()
            self._silence = Silence()
            try:
                self.leases = self._take_leases(lease)
                self.lease = self.leases[_template.PORT]
                self._bring_up()
            except BaseException:
                self._close()
                raise

    # --- what a caller reads ---

    @property
    def port(self) -> int:
        """Its main port, a plain int."""
        return self.lease.port

    @property
    def ports(self) -> dict[str, int]:
        """All its ports by name, plain ints."""
        return {name: lease.port for name, lease in self.leases.items()}

    @property
    def output(self) -> str:
        """What it has written so far to its standard output and error, over all its starts.

        Once it is stopped, the last 16 MiB of it.
        """
        return self._output.text()

    # --- what a caller does ---

    def restart(self) -> None:
        """Stop it and start it again, on the same ports; they stay leased in between.

        A lease that has stepped aside stays so (GUARDED): it would have to do it again.

        Raises:
            ServerError: as :func:`serve`. The leases are kept; ``stop()`` releases them.
        """
        with self._lock:
            if self._closed or self._owner != os.getpid():
                raise UsageError(
                    f"{self!r} cannot be restarted: it was stopped, or is another process's; "
                    "call portlease.serve() again"
                )
            self._warn_of(self._halt())
            with limits_told(self._command.program):
                self._bring_up()

    def stop(self) -> None:
        """Stop it and all that it started, and release the leases taken for it.

        Warns with ServerKilledWarning if it took SIGKILL. May be called again.

        Raises:
            ServerError: some process of it cannot be ended; its leases are released all the same.
        """
        if self._owner != os.getpid():
            return
        with self._lock:
            killed = self._close()
        self._warn_of(killed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else repr(self._process)
        return f"<Server {self._command.program!r} port={self.port} {state}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        # An object whose making failed was closed there, or has nothing to close.
        if getattr(self, "_closed", True) or self._owner != os.getpid():
            return
        if not sys.is_finalizing():
            _warn(f"{self!r} was not stopped; use `with`, or stop()", ResourceWarning, source=self)
        if self._process is not None:
            self._process.abandon()
        self._process = None
        self._close()

    # --- leases and templates ---

    def _take_leases(self, given: Lease | None) -> dict[str, Lease]:
        command = self._command
        label = command.label or command.program
        leases: dict[str, Lease] = {}
        for name in sorted(command.names(), key=lambda name: (name != _template.PORT, name)):
            if name == _template.PORT and given is not None:
                leases[name] = given
                continue
            taken = take_lease(
                command.kinds.get(name, "tcp"),
                host=command.host if given is None else given.host,
                label=label if name == _template.PORT else f"{label}:{name}",
            )
            self._owned.append(taken)
            leases[name] = taken
        return leases

    # --- up ---

    def _bring_up(self) -> None:
        command, leases = self._command, self.leases
        begun = time.monotonic()
        remembered: How = "step-aside" if command.key in _needs_step_aside else "offer"
        _attempt.prepare(leases, command.how or remembered)
        how = _attempt.how_it_is(leases)
        first = last = Attempt(command, leases, self._silence, self._output)
        if not first.run():
            if not first.may_do_better_alone():
                raise first.error()
            _attempt.prepare(leases, "step-aside")
            last = Attempt(command, leases, self._silence, self._output)
            if not last.run():
                raise last.error(earlier=first)
        self._process = self.process = last.process
        self.argv, self.host = last.argv, last.host
        self.how = _attempt.how_it_is(leases)
        if how == "offer" and self.how == "step-aside":
            _needs_step_aside.add(command.key)
        self.starts = 1 if last is first else 2
        self.ready_after_s = time.monotonic() - begun

    # --- down ---

    def _halt(self) -> tuple[Killed, ...]:
        """End the process; its object stays readable."""
        process, self._process = self._process, None
        if process is None:
            return ()
        return process.stop(self._command.stop_signal, grace_s=self._command.stop_timeout_s)

    def _close(self) -> tuple[Killed, ...]:
        """Give back all that there is, on every path."""
        self._closed = True
        with contextlib.ExitStack() as stack:
            stack.callback(self._output.close)
            stack.callback(self._silence.close)
            for lease in self._owned:
                stack.callback(lease.release)
            return self._halt()

    def _warn_of(self, killed: tuple[Killed, ...]) -> None:
        if not killed:
            return
        who = ", ".join(f"{one.command} (pid {one.pid})" for one in killed)
        number = _ready.signal_name(self._command.stop_signal)
        warnings.warn(
            f"{self._command.program} did not end within {self._command.stop_timeout_s:g} s of "
            f"{number}, and was ended by SIGKILL: {who}; give it more time (stop_timeout_s=) "
            "or another signal (stop_signal=)",
            ServerKilledWarning,
            stacklevel=_outside(),
        )


def _outside() -> int:
    """The stack level of the first frame that is not this module's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        level, frame = level + 1, frame.f_back
    return level
