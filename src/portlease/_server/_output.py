"""The standard streams of a server in the background: a silent pipe, and a file without a name.

The output is no pipe: nobody has to read it for the server to go on, and nothing of it is lost when
we are busy. The kernel removes the file with its last descriptor, ours or the server's. It is read
by lines (:mod:`._lines`) as they come (:mod:`._watch`).
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, NamedTuple

from portlease._clock import now_s
from portlease._errors import ServerDiedError, ServerTimeoutError, UsageError
from portlease._server import _lines, _ready
from portlease._server._lines import Found as Found  # noqa: PLC0414 - exported
from portlease._server._lines import Line as Line  # noqa: PLC0414 - exported
from portlease._server._lines import Lines
from portlease._server._watch import Watch

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Final, Self

    from portlease._server._cancel import Cancel
    from portlease._tree._process import Process

KEPT_BYTES: Final = 16 << 20
"""How much is kept once the file is closed: the end of it."""

_ERROR_BYTES: Final = 1 << 16
"""How much of it goes into an error (errors are pickled)."""


class Silence:
    """The standard input of a server: a pipe into which nothing is ever written.

    /dev/null would not do. It is at its end from the start, and there are servers that end, or drop
    their clients, with their standard input: openssl s_server, esbuild, whatever has a prompt.
    """

    def __init__(self) -> None:
        self._reader = self._writer = -1

    def fileno(self) -> int:
        """The descriptor to give to the server; the pipe is made when it is first asked for."""
        if self._reader < 0:
            self._reader, self._writer = os.pipe()
        return self._reader

    def close(self) -> None:
        """Close both ends; may be called again."""
        if self._reader >= 0:
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1


class Output:
    """The output of a server, over all its starts. Owns the file until :meth:`close`.

    All methods may be called from any thread.
    """

    first: int = 0
    """The first byte that is still there: 0, until it was closed."""

    def __init__(self) -> None:
        self._rest = b""
        self._began = 0
        # Reentrant, for signal handlers that close it while their thread reads.
        self._lock = threading.RLock()
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
        if sys.platform != "win32":
            import fcntl

            # The descriptors of all processes of the tree write to its end, wherever another has
            # truncated or written it (a log file that is opened as /dev/stdout, say).
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | os.O_APPEND)

    def fileno(self) -> int:
        """The descriptor to give to the server."""
        return self._file.fileno()

    def begin(self) -> int:
        """A start begins: what is written from now on is its output. Returns the first byte."""
        self._began = self.size()
        return self._began

    @property
    def began(self) -> int:
        """The first byte of the present start's output."""
        # If a server has truncated the file, all that is left is its own.
        return self._began if self._began <= self.size() else 0

    def size(self) -> int:
        """How many bytes have been written so far."""
        with self._lock:
            if self._file.closed:
                return self.first + len(self._rest)
            return os.fstat(self._file.fileno()).st_size

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """What was written, from byte *start* on."""
        end = self.size() if length is None else start + length
        start = max(start, self.first)
        parts = []
        while start < end and (part := self._read_some(start, end - start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def _read_some(self, start: int, length: int) -> bytes:
        with self._lock:
            if not self._file.closed:
                return self._read_at(start, length)
            begin = start - self.first
            return self._rest[begin : begin + length] if begin >= 0 else b""

    def text(self, start: int = 0) -> str:
        """The same as text; what is no UTF-8 shows as U+FFFD."""
        return self.read(start).decode("utf-8", "replace")

    if sys.platform == "win32":

        def _read_at(self, start: int, length: int) -> bytes:
            # Both processes share one file pointer, and there is no pread().
            position = os.lseek(self._file.fileno(), 0, os.SEEK_CUR)
            try:
                os.lseek(self._file.fileno(), start, os.SEEK_SET)
                return os.read(self._file.fileno(), length)
            finally:
                os.lseek(self._file.fileno(), position, os.SEEK_SET)

    else:

        def _read_at(self, start: int, length: int) -> bytes:
            return os.pread(self._file.fileno(), length, start)

    def close(self) -> None:
        """Close the file; its last 16 MiB stay readable."""
        with self._lock:
            if self._file.closed:
                return
            first = max(0, self.size() - KEPT_BYTES)
            self._rest, self.first = self.read(first), first
            self._file.close()

    # --- by lines ---

    def tail(self, n: int = 10) -> list[Line]:
        """The last *n* lines since the present start began; the last may be unfinished.

        Of an output with very long lines, those in its last 16 MiB.

        Raises:
            UsageError: *n* is negative.
        """
        if n < 0:
            raise UsageError(f"n={n!r} is no number of lines")
        return _lines.last_lines(self, n, self.began, KEPT_BYTES)

    def follow(self, process: Process, after: Line | None = None) -> Iterator[Line]:
        """Each line as soon as it is finished, until *process* has ended.

        Args:
            process: the server that writes it.
            after: go on behind this line; by default, from the present start's first on.
        """
        with Follower(self, process, after) as follower:
            while lines := follower.wait():
                yield from lines


class Follower:
    """Reads the lines of a server's output as they come. Context manager; for one thread."""

    over = False
    """Whether the server has ended, and all that it wrote was given out."""

    def __init__(
        self,
        output: Output,
        process: Process,
        after: Line | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self._process = process
        self._lines = Lines(output, output.began if after is None else _place(after))
        self._watch = Watch(output.fileno, process, cancel)

    def take(self) -> list[Line]:
        """The next lines, without waiting; empty if there are none."""
        # First this, then the look: what it wrote before it ended is there then.
        ended = self._process.ended
        lines = self._lines.take(end=ended)
        self.over = ended and not lines
        if lines:
            self._watch.hurry()
        return lines

    def wait(self, deadline: float = math.inf) -> list[Line]:
        """The next lines, once there are any; empty if there will be none before *deadline*.

        Raises:
            StartCancelledError: it was broken off.
        """
        while True:
            lines = self.take()
            left_s = deadline - now_s()
            if lines or self.over or left_s <= 0:
                return lines
            self._watch.wait(left_s)

    def close(self) -> None:
        """Give up what it has open; may be called again."""
        self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Writer(NamedTuple):
    """Whose output it is, for errors."""

    program: str
    argv: Sequence[str]
    ports: Mapping[str, int]
    how: str


def wait_for_line(  # noqa: PLR0913 - whose output it is, for the errors
    output: Output,
    process: Process,
    pattern: str | re.Pattern[str],
    timeout_s: float,
    *,
    after: Line | None = None,
    cancel: Cancel | None = None,
    program: str,
    argv: Sequence[str],
    ports: Mapping[str, int],
    how: str,
) -> Found:
    """Wait for a line in which *pattern* is found; see :meth:`portlease.Server.wait_for_line`.

    Raises:
        StartCancelledError: it was broken off.
    """
    expression = _lines.compiled(pattern)
    if math.isnan(timeout_s) or timeout_s < 0:
        raise UsageError(f"timeout_s={timeout_s!r} is no number of seconds")
    deadline = now_s() + timeout_s
    last = math.inf
    with Follower(output, process, after, cancel) as follower:
        while lines := follower.wait(deadline):
            for line in lines:
                if expression.search(line):
                    return Found(line, line.end, expression)
            if cancel is not None:
                cancel.check()
            # It may write faster than we read: what comes after the deadline does not count.
            if last == math.inf and now_s() >= deadline:
                last = output.size()
            if lines[-1].end >= last:
                break
        wanted = f"a line with {expression.pattern!r}"
        writer = _Writer(program, argv, ports, how)
        if follower.over:
            raise _ended(output, process, writer, wanted)
        raise _late(output, writer, wanted, timeout_s)


def _place(after: Line) -> int:
    if not isinstance(after, Line):
        raise UsageError(f"after={after!r} is no line that tail(), follow() or a wait has given")
    return after.end


def _ended(output: Output, process: Process, writer: _Writer, wanted: str) -> ServerDiedError:
    code = process.returncode
    said = _said(output)
    return ServerDiedError(
        f"{writer.program} {_ready.how_ended(code)} before it wrote {wanted}\n{_last_output(said)}",
        argv=writer.argv,
        returncode=0 if code is None else code,
        output=said,
        ports=writer.ports,
        how=writer.how,
    )


def _late(output: Output, writer: _Writer, wanted: str, timeout_s: float) -> ServerTimeoutError:
    said = _said(output)
    return ServerTimeoutError(
        f"{writer.program} runs, but has not written {wanted} after {timeout_s:g} s; give it more "
        "time (timeout_s=), and see whether it keeps its output in a buffer (Python: "
        f"PYTHONUNBUFFERED=1)\n{_last_output(said)}",
        argv=writer.argv,
        timeout_s=timeout_s,
        output=said,
        ports=writer.ports,
        missing=(),
        listening=(),
        how=writer.how,
    )


def _said(output: Output) -> str:
    return output.text(max(output.began, output.size() - _ERROR_BYTES))


def _last_output(said: str) -> str:
    shown = _ready.tail(said)
    return f"its last output:\n{shown}" if shown else "it wrote nothing"
