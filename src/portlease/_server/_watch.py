"""Waiting for what a server writes next, or for its end.

The output is a file (see :mod:`._output`), and a file cannot be waited for by poll(2). A pipe could
be, but then the server would stand still whenever nobody reads. inotify(7) says who wrote what to
a *path*, and this file has none; yet the kernel keeps its watches at the inode, and finds that
through /proc/self/fd. Measured (Linux 6.18; ext4, tmpfs): write, pwritev, sendfile, splice and
ftruncate are announced, from whatever process and through whatever descriptor, 0.07 ms later
(median of 200; 0.7 ms at the 99th percentile); a store into a mapping is not, nor copy_file_range.
A write costs its writer 0.7 us more. So we sleep until the kernel says something, half a second at
most, for those two.

The end of the tree is the keeper's end, of which a pidfd tells.

Where there is no inotify or no keeper it is looked again and again, ever more slowly (one look is
1 us): after 1 ms at first, 50 ms in the long run.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Final, Self

    from portlease._server._cancel import Cancel
    from portlease._tree._process import Process

_UNANNOUNCED_S: Final = 0.5
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05
_END_S: Final = 1.0

_IN_MODIFY: Final = 2
_EVENT_BYTES: Final = 1 << 12

# Not compiled in, not allowed here (seccomp), too many instances or watches (inotify(7), /proc/sys/
# fs/inotify), too many files, no memory; no /proc; a kernel without pidfd_open(2).
_NOT_TO_BE_HAD: Final = frozenset(
    {
        *(errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
        *(errno.ENOSPC, errno.ENOENT, errno.EINVAL),
    }
)


class Watch:
    """What announces the writes to a file, and the end of those that write to it.

    Context manager. One thread waits; any thread may :meth:`wake` it.

    Args:
        fileno: gives the file's descriptor; raises ValueError once it is closed.
        process: the server.
        cancel: breaks the waiting off; its StartCancelledError comes from :meth:`wait`.
    """

    def __init__(
        self, fileno: Callable[[], int], process: Process, cancel: Cancel | None = None
    ) -> None:
        self._fileno = fileno
        self._process = process
        self._cancel = cancel
        self._poll: Callable[[float], list[tuple[int, int]]] | None = None
        self._fds: list[int] = []
        self._writes = self._end = self._waker = -1
        self._opened = False
        self._waiting = threading.Lock()
        self._pause_s = _FIRST_PAUSE_S

    def wait(self, longest_s: float) -> None:
        """Wait until there may be something new, for *longest_s* at most.

        The first call returns at once: what was written before it is announced by nobody.

        Raises:
            StartCancelledError: it was broken off.
        """
        with self._waiting:
            self._wait(longest_s)
        if self._cancel is not None:
            self._cancel.check()

    def _wait(self, longest_s: float) -> None:
        if not self._opened:
            self._opened = True
            self._open()
        elif self._poll is None:
            self._look_later(longest_s)
        elif self._cancel is None:
            self._sleep(self._poll, longest_s)
        else:
            with self._cancel.ending(self.wake):
                self._sleep(self._poll, longest_s)

    def hurry(self) -> None:
        """Something came, so more may: look again soon, where it is looked for."""
        self._pause_s = _FIRST_PAUSE_S

    def wake(self) -> None:
        """End the waiting, or the next one."""
        if sys.platform == "linux" and self._waker >= 0:
            os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Give up what it has open; may be called again. Ends the waiting in another thread."""
        self.wake()
        with self._waiting:
            self._give_up()

    def _give_up(self) -> None:
        self._poll = None
        self._waker = -1
        while self._fds:
            os.close(self._fds.pop())

    def _look_later(self, longest_s: float) -> None:
        pause_s = min(self._pause_s, longest_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        if self._process.ended:
            return
        if self._cancel is None:
            self._process.wait_for_news(pause_s)
        else:
            self._cancel.wait(pause_s)

    def _sleep(self, poll: Callable[[float], list[tuple[int, int]]], longest_s: float) -> None:
        seconds = min(_UNANNOUNCED_S, longest_s)
        ready = {fd for fd, _ in poll(seconds * 1000)}
        if self._writes in ready:
            os.read(self._writes, _EVENT_BYTES)  # writes that nobody has read yet are one event
        if self._end in ready:
            # Another thread may be the one that listens to the keeper: let it.
            self._process.wait_ended(_END_S)

    if sys.platform == "linux":

        def _open(self) -> None:
            from portlease._tree._process_linux import KeptProcess

            if not isinstance(self._process, KeptProcess):
                return
            try:
                self._end = os.pidfd_open(self._process._popen.pid)
                self._fds.append(self._end)
                if self._process.ended:  # so it may have been reaped, and be another's number
                    self._give_up()
                    return
                self._writes = _watching(self._fileno())
                self._fds.append(self._writes)
                self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._fds.append(self._waker)
            except (ProcessLookupError, ValueError):  # it has ended, and the file was closed
                self._give_up()
                return
            except OSError as error:
                self._give_up()
                if error.errno not in _NOT_TO_BE_HAD:
                    raise
                return
            poll = select.poll()
            for fd in self._fds:
                poll.register(fd, select.POLLIN)
            self._poll = poll.poll

    else:

        def _open(self) -> None:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


if sys.platform == "linux":

    def _watching(fd: int) -> int:
        """A descriptor of inotify(7), for the writes to the file that *fd* is."""
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        watcher: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if watcher < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"inotify_init1: {os.strerror(code)}")
        if libc.inotify_add_watch(watcher, b"/proc/self/fd/%d" % fd, _IN_MODIFY) < 0:
            code = ctypes.get_errno()
            os.close(watcher)
            raise OSError(code, f"inotify_add_watch: {os.strerror(code)}")
        return watcher
