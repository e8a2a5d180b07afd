"""A command in the foreground: our terminal, standard input and output are its own.

It runs in our process group, so that Ctrl-C and Ctrl-Z reach it and it may read the terminal; the
signals that are sent to us alone are passed on. What it leaves running when it ends is ended, with
one exception: a server that has gone into the background and listens on a leased port is what we
were called for, so it keeps its lease until it ends.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from portlease._server import _probe, _ready
from portlease._tree._process import Process
from portlease.cli import _say, _signals, _status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Final

STOP_TIMEOUT_S: Final = 5.0
_DAEMON_S: Final = 2.0
"""How soon after its start a command that goes into the background must listen."""


def run(argv: Sequence[str], env: Mapping[str, str], *, if_failed: Iterable[str] = ()) -> int:
    """Run a command in the foreground; call it within ``interrupting()``.

    Args:
        argv: the command, nothing left to substitute.
        env: its whole environment.
        if_failed: what is to be said if it ends with another status than 0, untold.

    Returns:
        The exit status that passes its own on.

    Raises:
        ServerStartError: it could not be executed.
        Interrupted: a signal came before or after the time in which they are passed on.
    """
    begun = time.monotonic()
    before = _signals.hold_back()
    try:
        process = Process.start(argv, env=env, stdin=None, output=None, mode="inherit")
    except BaseException:
        _signals.let_go(before)
        raise
    return see_out(process, begun, before, ports=(), if_failed=if_failed)


def see_out(  # noqa: PLR0913 - the process, its start, and what it leaves behind
    process: Process,
    begun: float,
    before: set[int],
    *,
    ports: Collection[int],
    grace_s: float = STOP_TIMEOUT_S,
    if_failed: Iterable[str] = (),
) -> int:
    """Stay with a process that runs in the foreground until it ends; see `run`.

    *begun*: when it was started, by the monotonic clock. *before*: of ``_signals.hold_back()``.
    *ports*: those that a daemon which it leaves behind may serve. *grace_s*: seconds that what else
    it leaves behind has to end when asked.
    """
    try:
        returncode, told_to_end = _signals.follow(process, before)
        if returncode == 0 and not told_to_end and _has_become_a_daemon(process, ports, begun):
            _say.say(f"{process.argv[0]} has gone into the background; its ports stay leased")
            process.wait_ended()
    except _signals.Interrupted as interrupted:
        _end(process, interrupted.signal, grace_s)
        raise
    except BaseException:
        _end(process, _signals.SIGTERM, grace_s)
        raise
    _end(process, _signals.SIGTERM, grace_s)
    if returncode != 0 and not told_to_end:
        for hint in if_failed:
            _say.say(hint)
    return _status.of_returncode(returncode)


def _end(process: Process, number: int, grace_s: float) -> None:
    """End what is left of it, and tell whom that took SIGKILL."""
    if process.returncode is not None:
        number = _signals.SIGTERM  # a shell's background jobs, for one, ignore SIGINT
    for one in process.stop(number, grace_s=grace_s):
        _say.say(f"{one.command} (pid {one.pid}) did not end when asked; it was killed (SIGKILL)")


def _has_become_a_daemon(process: Process, ports: Collection[int], begun: float) -> bool:
    """Whether it has left something behind that listens on one of the ports, or soon will."""
    while ports and not process.ended:
        if not _probe.ports_of(process).keys().isdisjoint(ports):
            return True
        elapsed_s = time.monotonic() - begun
        if elapsed_s >= _DAEMON_S:
            return False
        process.wait_for_news(_ready.pause_s(elapsed_s) * 10)
    return False
