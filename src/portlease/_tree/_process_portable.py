"""A process where there is no keeper: macOS, Windows, and a Linux without /proc or ctypes.

The same methods with a smaller promise. The tree is what stays in the command's process group (on
Windows: the command alone); a daemon that leaves it is neither found nor ended. And when we are
ended by SIGKILL, nobody ends the command.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from portlease import _platform
from portlease._clock import now_s
from portlease._errors import ServerError, UsageError
from portlease._tree import _process
from portlease._tree._process import Killed, Launch, Process, override

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_FIRST_PAUSE_S: Final = 0.0005
_LONGEST_PAUSE_S: Final = 0.02
_KILLED_WITHIN_S: Final = 5.0


class PortableProcess(Process):
    """A command that runs as our own child."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self._has_group = launch.mode != "inherit" and sys.platform != "win32"
        self._lock = threading.Lock()
        try:
            with _platform.spawn_lock:
                self._popen = _start(_passing_on(launch))
        except FileNotFoundError as error:
            stage = "cwd" if launch.cwd is not None and error.filename == launch.cwd else "exec"
            raise _process.start_error(
                launch, stage, error.errno or 0, str(error.filename)
            ) from error
        except OSError as error:
            raise _process.start_error(
                launch, "exec", error.errno or 0, str(error.filename)
            ) from error
        self.pid = self._popen.pid
        _process.remember(self)

    @property
    @override
    def returncode(self) -> int | None:
        return self._popen.poll() if self._owner == os.getpid() else self._popen.returncode

    @property
    @override
    def ended(self) -> bool:
        if self._owner != os.getpid():
            return True
        if self.returncode is None or self._group_lives():
            return False
        _process.forget(self)
        return True

    @override
    def tree(self) -> list[int]:
        return [] if self.returncode is not None else [self.pid]

    @override
    def _send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    @override
    def _stop(self, number: int, grace_s: float) -> tuple[Killed, ...]:
        with self._lock:
            deadline = now_s() + grace_s
            self._ask(number)
            if self._wait_until(lambda: self.returncode is not None, grace_s):
                self._signal_group(signal.SIGTERM)
            if self._wait_until(lambda: self.ended, max(0.0, deadline - now_s())):
                return ()
            killed = (Killed(self.pid, self.argv[0]),)
            if self._has_group:
                self._signal_group(_process.SIGKILL)
            else:
                self._popen.kill()
            if not self._wait_until(lambda: self.ended, _KILLED_WITHIN_S):
                raise ServerError(
                    f"{self.argv[0]} (pid {self.pid}) and its group do not end on SIGKILL",
                    argv=self.argv,
                    output="",
                )
            return killed

    def _ask(self, number: int) -> None:
        if self.returncode is not None:
            self._signal_group(number)
        else:
            self._popen.send_signal(number)

    def _group_lives(self) -> bool:
        return self._signal_group(0)

    def _signal_group(self, number: int) -> bool:
        """Send *number* to what is left of the group; return whether anything is.

        The group keeps the number of its first process from being given away while it has members.
        """
        if sys.platform == "win32" or not self._has_group:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            # macOS says so of a group of which only a zombie is left, as well.
            return self.returncode is None
        return True

    @override
    def _wait_until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        deadline = None if timeout_s is None else now_s() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while not done():
            if deadline is not None:
                pause_s = min(pause_s, deadline - now_s())
                if pause_s <= 0:
                    return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return True

    @override
    def _begin_stop(self, grace_s: float) -> None:  # noqa: ARG002 - nobody here keeps time
        self._ask(signal.SIGTERM)

    @override
    def _abandon(self) -> None:
        self._ask(signal.SIGTERM)
        _process.abandon(self._popen)

    @override
    def _become_inert(self) -> None:
        self._popen.returncode = 0  # it is no child of ours


# LISTEN_PID is the process id of the command itself, which is known only once it has been forked:
# so an interpreter goes first, and becomes the command. Its arguments: the descriptors, their
# names, the command.
_TRAMPOLINE: Final = """\
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
copies = []
while len(copies) < len(fds):
    copies += [copy for copy in [os.dup(fds[len(copies)])] if copy >= 3 + len(fds)]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
for fd in fds:
    if fd >= 3 + len(fds):
        os.close(fd)
os.environ.update(
    LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2]
)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    sys.exit(f"{sys.argv[3]}: {error.strerror}")
"""


def _passing_on(launch: Launch) -> Launch:
    """The same command, which inherits its sockets as LISTEN_FDS."""
    named = launch.listen_fds
    if not named:
        return launch
    if sys.platform == "win32":
        raise UsageError("Windows has no LISTEN_FDS; let the server bind its port itself")
    if shutil.which(launch.argv[0], path=launch.env.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), launch.argv[0])
    fds = ",".join(str(fd) for _, fd in named)
    names = ":".join(name for name, _ in named)
    argv = (sys.executable, "-I", "-S", "-c", _TRAMPOLINE, fds, names, *launch.argv)
    pass_fds = (*launch.pass_fds, *(fd for _, fd in named))
    return launch._replace(argv=argv, pass_fds=pass_fds)


def _start(launch: Launch) -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        flags = 0 if launch.mode == "inherit" else subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(
            launch.argv,
            env=launch.env,
            cwd=launch.cwd,
            stdin=launch.stdin,
            stdout=launch.output,
            stderr=launch.errors,
            creationflags=flags,
        )
    return subprocess.Popen(
        launch.argv,
        env=launch.env,
        cwd=launch.cwd,
        stdin=launch.stdin,
        stdout=launch.output,
        stderr=launch.errors,
        preexec_fn=_reset_signals(launch),  # noqa: PLW1509 - it takes no lock, and is rarely there
        pass_fds=launch.pass_fds,
        start_new_session=launch.mode == "session",
        process_group=0 if launch.mode == "group" else None,
    )


def _reset_signals(launch: Launch) -> Callable[[], None] | None:
    """What puts signals to their defaults in the child, as a keeper does; None if they are.

    A signal that is blocked here, as by a caller that waits for it, would be in the server too:
    SIGTERM could not end it.
    """
    if sys.platform == "win32":
        return None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    ignored: list[int] = []
    if launch.mode != "inherit":
        # (What Python ignores itself, Popen resets.)
        others = signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}
        ignored = [number for number in others if signal.getsignal(number) == signal.SIG_IGN]
    if not blocked and not ignored:
        return None

    def reset() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    return reset
