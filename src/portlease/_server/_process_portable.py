"""A process where there is no keeper: macOS, Windows, and a Linux without /proc or ctypes.

The same methods with a smaller promise. The tree is what stays in the command's process group (on
Windows: the command alone); a daemon that leaves it is neither found nor ended. And when we are
ended by SIGKILL, nobody ends the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from portlease import _platform
from portlease._errors import ServerError
from portlease._server import _process
from portlease._server._process import Killed, Launch, Process, override

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
                self._popen = _start(launch)
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
    def send_signal(self, number: int) -> None:
        self._must_be_ours()
        self._popen.send_signal(number)

    @override
    def stop(self, number: int = signal.SIGTERM, *, grace_s: float = 5.0) -> tuple[Killed, ...]:
        self._must_be_signal(number)
        if self._owner != os.getpid():
            return ()
        with self._lock:
            deadline = time.monotonic() + grace_s
            self._ask(number)
            if self._wait_until(lambda: self.returncode is not None, grace_s):
                self._signal_group(signal.SIGTERM)
            if self._wait_until(lambda: self.ended, max(0.0, deadline - time.monotonic())):
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
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while not done():
            if deadline is not None:
                pause_s = min(pause_s, deadline - time.monotonic())
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


def _start(launch: Launch) -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        flags = 0 if launch.mode == "inherit" else subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(
            launch.argv,
            env=launch.env,
            cwd=launch.cwd,
            stdin=launch.stdin,
            stdout=launch.output,
            stderr=launch.output,
            creationflags=flags,
        )
    return subprocess.Popen(
        launch.argv,
        env=launch.env,
        cwd=launch.cwd,
        stdin=launch.stdin,
        stdout=launch.output,
        stderr=launch.output,
        pass_fds=launch.pass_fds,
        start_new_session=launch.mode == "session",
        process_group=0 if launch.mode == "group" else None,
    )
