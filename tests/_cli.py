"""Driving the real command: in pipes, and on a terminal of its own."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Final

from _processes import HANG_S, descendants, watched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

PORTLEASE: Final = (sys.executable, "-m", "portlease")
HTTP: Final = (sys.executable, "-m", "http.server", "{port}")

# What a test runner's own environment says about colours must not decide what a test sees.
_COLOURS: Final = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without what colours output, and with *env*."""
    ours = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    return {**ours, "TERM": "xterm-256color", **(env or {})}


def portlease(
    *arguments: str | int | Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it in pipes until it ends."""
    return subprocess.run(
        [*PORTLEASE, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(env),
        timeout=HANG_S,
        check=False,
    )


@contextlib.contextmanager
def started(
    *arguments: str | int | Path,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """Start it in pipes, in a session of its own; in the end it is killed if it still runs."""
    with subprocess.Popen(
        [*PORTLEASE, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(env),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line of its output, without the newline."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def end(process: subprocess.Popen[str], number: int = 0) -> tuple[int, str, str]:
    """Send it a signal, if any; its exit status and the rest of what it wrote."""
    if number:
        process.send_signal(number)
    out, err = process.communicate(timeout=HANG_S)
    return process.returncode, out, err or ""


def python(source: str) -> tuple[str, str, str]:
    """The command that runs Python source."""
    return sys.executable, "-c", source


class Terminal:
    """A command at the foreground of a terminal, with a shell's job control round it."""

    # Starts the command as a shell does, in a process group of its own at the foreground. When it
    # is stopped it says so, and goes on with it at a line from the terminal's other side.
    _SHELL = """\
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    # Whoever runs the tests may have these ignored (a script's background job has); a shell's
    # foreground job never has.
    for number in signal.SIGTTOU, signal.SIGINT, signal.SIGQUIT:
        signal.signal(number, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        break
    print(f"[stopped by {os.WSTOPSIG(status)}]", flush=True)
    input()
    os.tcsetpgrp(0, pid)
    os.killpg(pid, signal.SIGCONT)
print(f"[exit {os.waitstatus_to_exitcode(status)}]", flush=True)
"""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.seen = ""
        self._fd, theirs = pty.openpty()
        termios.tcsetwinsize(self._fd, (24, 100))
        try:
            self._shell = subprocess.Popen(
                [sys.executable, "-I", "-c", self._SHELL, *PORTLEASE, *arguments],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment(env),
                start_new_session=True,
            )
        finally:
            os.close(theirs)

    def expect(self, text: str) -> str:
        """Read until *text* comes; all that came up to and with it."""
        give_up = time.monotonic() + HANG_S
        while text not in self.seen:
            assert select.select([self._fd], [], [], give_up - time.monotonic())[0], self.seen
            self._read()
        end_of_it = self.seen.index(text) + len(text)
        found, self.seen = self.seen[:end_of_it], self.seen[end_of_it:]
        return found

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except OSError as error:  # EIO: nobody is at the other side any more
            raise AssertionError(f"it ended; seen: {self.seen!r}") from error
        assert data, f"it ended; seen: {self.seen!r}"
        self.seen += data.decode("utf-8", "replace")

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def exit_status(self) -> tuple[int, str]:
        """Wait for the end; the exit status, and what came before."""
        before = self.expect("[exit ")
        return int(self.expect("]")[:-1]), before.removesuffix("[exit ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._shell, watched(descendants(self._shell.pid)) as all_ended:
            os.close(self._fd)  # hangs up: SIGHUP to the shell and the foreground
            self._shell.kill()
            survivors = all_ended()
        assert not survivors


CTRL_C: Final = "\x03"
CTRL_Z: Final = "\x1a"
