"""Waiting, while something is kept: until a process ends, our standard input does, or a signal."""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_STDIN: Final = 0
_WINDOWS_S: Final = 1.0


def told(end: int | None = None, *, stdin: bool = True) -> bool:
    """Wait until something says that it is enough.

    Args:
        end: a pidfd: enough when its process has ended.
        stdin: whether the end of our standard input is enough too, if it can tell anything.

    Returns:
        Whether it was the process that ended.

    A signal raises, if :func:`._signals.interrupting` has been asked to see to that.
    """
    if sys.platform == "win32":
        while True:  # a lock that is waited for without a time limit hears no Ctrl-C there
            threading.Event().wait(_WINDOWS_S)
    poll = select.poll()
    if end is not None:
        poll.register(end, select.POLLIN)
    if stdin and _can_end(_STDIN):
        poll.register(_STDIN, select.POLLIN)
    elif end is None:
        while True:
            signal.pause()
    while end not in (ready := [fd for fd, _ in poll.poll()]):
        if ready and not os.read(_STDIN, 65536):
            return False
    return True


def _can_end(fd: int) -> bool:
    """Whether the end of what *fd* reads tells anything: of a pipe or a socket it does.

    /dev/null and files are at their end from the start, as a shell script gives /dev/null to its
    background jobs; and a background job that reads from the terminal is stopped.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return False  # closed from the start
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
