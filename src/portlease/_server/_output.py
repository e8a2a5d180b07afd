"""The standard streams of a server in the background: a silent pipe, and a file without a name.

The output is no pipe: nobody has to read it for the server to go on, and nothing of it is lost when
we are busy. The kernel removes the file with its last descriptor, ours or the server's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

KEPT_BYTES: Final = 16 << 20
"""How much is kept once the file is closed: the end of it."""


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
    """The output of a server, over all its starts. Owns the file until :meth:`close`."""

    def __init__(self) -> None:
        self._rest = b""
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

    def size(self) -> int:
        """How many bytes have been written so far."""
        return len(self._rest) if self._file.closed else os.fstat(self._file.fileno()).st_size

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """What was written, from byte *start* on."""
        if self._file.closed:
            return self._rest[start:][:length]
        end = self.size() if length is None else start + length
        parts = []
        while start < end and (part := self._read_at(start, end - start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

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
        if not self._file.closed:
            self._rest = self.read(max(0, self.size() - KEPT_BYTES))
            self._file.close()
