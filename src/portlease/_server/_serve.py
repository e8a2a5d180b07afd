"""``serve()``: a server on leased ports, started, proved ready, and stopped with all it started.

The order of things: take the leases; choose by which means the server is to get its port
(:mod:`._means`); start the command under a keeper (:mod:`._process`); look until its own sockets
listen (:mod:`._attempt`, :mod:`._awaited`); ask it what ``ready=`` says (:mod:`._check`).

Nothing has to be known about the server beforehand. One that is known to take a socket is handed
one. Beside an OFFERED lease any other can bind that sets SO_REUSEADDR. What does not fails with
EADDRINUSE, and then the lease steps aside and the command is started once more; what was learned
about a command is remembered as long as this process lives. A server that does not give up but
tries again gets its port while it runs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

from portlease._errors import UsageError
from portlease._server._command import Command, Options, must_know
from portlease._server._server import Server as Server  # noqa: PLC0414 - what serve() returns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack

    from portlease._lease import Lease
    from portlease._server._cancel import Cancel
    from portlease._server._check import ReadyOption
    from portlease._server._command import How, PortKind
    from portlease._tree._process import StrPath


def serve(  # noqa: PLR0913 - all but the first by keyword
    args: Sequence[StrPath],
    *,
    lease: Lease | None = None,
    ports: Mapping[str, PortKind] | None = None,
    host: str | None = None,
    timeout_s: float = 30.0,
    stop_timeout_s: float = 5.0,
    stop_signal: int = signal.SIGTERM,
    env: Mapping[str, str] | None = None,
    cwd: StrPath | None = None,
    label: str | None = None,
    wait_for: Iterable[str] | None = None,
    ready: ReadyOption = None,
    how: How | None = None,
) -> Server:
    """Start a server on leased ports, and return once it listens on them.

    In the arguments and in *env*, ``{port}`` is the number of its main port, ``{host}`` the address
    to bind, and any other name in braces, ``{admin}`` say, another port that is leased for it;
    ``{fd}`` and ``{admin_fd}`` are the descriptors of listening sockets that are handed over to it.
    ``{{admin}}`` is the text ``{admin}``; braces with anything else in them stay as they are. In
    its environment, PORT and NAME_PORT (ADMIN_PORT) are the same numbers.

    Args:
        args: the program, looked up in PATH, and its arguments. No shell.
        lease: a lease to use for its main port; it stays the caller's, and keeps the state that the
            server needed (GUARDED, maybe). By default one is taken, and released in the end.
        ports: the kind of named ports that are not ``"tcp"``: ``{"dns": "both"}``. A name that is
            in no template is leased too. ``"port"`` is the main port. ``"unix"`` is a Unix socket:
            ``{ctl}`` and CTL_PATH are its path, in a folder that is removed in the end.
        host: the address to lease and to bind; by default every address is leased, and ``{host}``
            is 127.0.0.1. Not together with *lease*.
        timeout_s: how long each start may take until it listens, and is *ready*, in seconds.
        stop_timeout_s: how long its processes have to end by themselves, in seconds; then SIGKILL.
        stop_signal: what tells it to end.
        env: variables for it besides ours; the values are templates too.
        cwd: its working directory; ours by default.
        label: for its leases, as :func:`portlease.leases` shows them; the program's name by
            default.
        wait_for: the names of the ports that it must listen on (UDP: be bound to) before it counts
            as ready; by default all of them.
        ready: what it must pass besides, once it listens. ``"/path"`` or :class:`portlease.Http`:
            a GET is answered. A compiled pattern: it is found in what it has written since this
            start (the last MiB). A list of strings: a command, templates filled in, ends with
            exit status 0. A function: called with the server, it returns True; what it raises
            means "not yet", unless it is a TypeError or the like. A list of such: all of them, one
            after the other. Each is tried again after 10 ms, and then ever more slowly, up to
            every 0.5 s; one try of a path or a command has 5 s, and is broken off then.
        how: by which means it gets its port. ``"hand-over"``: it inherits a socket that listens
            already. ``"broker"``: its bind is done for it, beside the hold (Linux; costs it
            privileged programs such as sudo). ``"offer"``: it binds beside the hold, by
            SO_REUSEADDR. ``"step-aside"``: the hold goes, and it binds. By default the first for
            commands that are known to take a socket; otherwise the third, and the fourth if that
            fails. The third and the fourth stand in, with a HowWarning, where one of the first two
            was asked for and cannot be had.

    Returns:
        The running server; use it in a ``with`` block, or call ``stop()``.

    Raises:
        ServerStartError: the program could not be executed.
        ServerDiedError: it ended before it was ready; with its exit status, its last output, and
            who has the port if that was the reason.
        ServerTimeoutError: it was not ready in time; with the ports on which it listens.
        ServerError: some process of it cannot be ended.
        UsageError: an argument that can never work.
        LeaseStateError: *lease* was released or handed over.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.

    Not guaranteed: that it answers yet, without *ready*; it listens, so a connection is accepted or
    queued. Between stepping aside and the server's bind, only the guard protects the port
    (docs/promise.md). A server that was handed a socket, and of which it is not known what it does
    with it, counts as ready as soon as it was executed. On macOS and Windows readiness is found by
    connecting, which another's server passes as well.
    """
    return start(
        args,
        lease=lease,
        ports=ports,
        host=host,
        timeout_s=timeout_s,
        stop_timeout_s=stop_timeout_s,
        stop_signal=stop_signal,
        env=env,
        cwd=cwd,
        label=label,
        wait_for=wait_for,
        ready=ready,
        how=how,
    )


def start(
    args: Sequence[StrPath],
    *,
    lease: Lease | None = None,
    leases: Mapping[str, Lease] | None = None,
    cancel: Cancel | None = None,
    **options: Unpack[Options],
) -> Server:
    """:func:`serve`, for those who have taken all *leases* already, or may break it off.

    Raises:
        StartCancelledError: it was broken off; nothing of it is left.
    """
    return Server(command_of(args, has_lease=lease is not None, **options), lease, leases, cancel)


def command_of(
    args: Sequence[StrPath], *, has_lease: bool = False, **options: Unpack[Options]
) -> Command:
    """What :func:`serve` makes of its arguments, checked; nothing is started.

    Raises:
        UsageError: an argument that can never work.
    """
    must_know("serve()", options, Options)
    if isinstance(args, str):
        raise UsageError("args is one string; give a list: shlex.split() makes one of it")
    if isinstance(args, Mapping):
        raise UsageError("args is a mapping; give a list: the program and its arguments")
    ports = options.get("ports") or {}
    if not isinstance(ports, Mapping):
        raise UsageError(f"ports={ports!r} is no mapping; give name and kind: {{'admin': 'tcp'}}")
    host, cwd, wait_for = options.get("host"), options.get("cwd"), options.get("wait_for")
    if has_lease and host is not None:
        raise UsageError("host= is the lease's: give it to portlease.lease(), not to serve()")
    return Command(
        args=tuple(_text(f"args[{number}]", arg) for number, arg in enumerate(args)),
        kinds=dict(ports),
        env={name: _text(f"env[{name!r}]", at) for name, at in (options.get("env") or {}).items()},
        cwd=None if cwd is None else os.fspath(cwd),
        host=host,
        label=options.get("label"),
        wait_for=None if wait_for is None else _names(wait_for),
        ready=options.get("ready"),
        how=options.get("how"),
        timeout_s=options.get("timeout_s", Command.timeout_s),
        stop_timeout_s=options.get("stop_timeout_s", Command.stop_timeout_s),
        stop_signal=int(options.get("stop_signal", Command.stop_signal)),
    )


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _text(where: str, arg: object) -> str:
    try:
        text = os.fspath(arg)  # type: ignore[call-overload] # whether it is a path, it says itself
    except TypeError:
        raise UsageError(
            f"{where}={arg!r} is no text; write str() round it, or '{{port}}' for the port"
        ) from None
    return os.fsdecode(text)
