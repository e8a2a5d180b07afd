"""A command's first moments: it puts itself under the filter, gives away the listener, and begins.

Runs as the main program of an interpreter of its own, ``python -I -S _enter.py FD COMMAND...``,
which becomes the command, so that process id, terminal and signals are the command's own. FD is a
socket to the observer (:mod:`._observer`). Linux only; imports nothing of portlease but the broker
and the keeper, which need built-in modules alone.
"""

from __future__ import annotations

import os
import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import _socket  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from portlease._tree import _broker, _keeper
else:
    import _signal as signal

    # At the end, so that none of its neighbours is ever taken for a module of the library.
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(__file__)), "_tree"))
    import _broker
    import _keeper

REFUSED = 125
"""The exit status where the filter is not to be had; the observer knows why, and starts anew."""
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127


class _Entrant(_broker.Broker):
    """The half of a broker that is in the watched process."""

    def __init__(self, fd: int) -> None:
        theirs = os.dup(fd)
        self._pair = (_socket.socket(fileno=theirs), _socket.socket(fileno=fd))


def main() -> NoReturn:
    """Become the command; the exit status says why that is not to be had."""
    # Python raises KeyboardInterrupt, and ignores the two, which the command would inherit.
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    fd = int(sys.argv[1])
    argv = [os.fsencode(word) for word in sys.argv[2:]]
    os.set_inheritable(fd, False)  # noqa: FBT003 - positional-only
    env = _environment()
    try:
        _Entrant(fd).enlist(env)
    except OSError:
        os._exit(REFUSED)
    try:
        _keeper._exec(argv, env)
    except OSError as error:
        sys.stderr.write(f"portlease: cannot execute {sys.argv[2]}: {error.strerror}\n")
        sys.stderr.flush()
        missing = isinstance(error, FileNotFoundError)
        os._exit(_NOT_FOUND if missing else _CANNOT_EXECUTE)


def _environment() -> dict[bytes, bytes]:
    """Ours as it was given: Python may have added LC_CTYPE to it (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        parts = file.read().split(b"\0")
    return {name: value for name, sign, value in (part.partition(b"=") for part in parts) if sign}


if __name__ == "__main__":
    main()
