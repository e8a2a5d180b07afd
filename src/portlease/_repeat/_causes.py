"""Why a test failed, as far as its text tells. Pure.

The causes, in the order in which they are looked for: the first that fits counts.

- ``address in use``: a bind met EADDRINUSE;
- ``wrong server``: the test talked to a server of another instance, or another instance to its own.
  No text says so: it is found in the trail (:mod:`._culprits`);
- ``connection refused``: nobody listened, or who did has gone (reset, broken pipe);
- ``database``: locked, a duplicate, a deadlock;
- ``files``: something existed already, was gone, or was not to be touched;
- ``limits``: no memory, descriptors or processes left;
- ``time``: it took too long;
- ``other``: none of these.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

IN_USE: Final = "address in use"
WRONG_SERVER: Final = "wrong server"
REFUSED: Final = "connection refused"
DATABASE: Final = "database"
FILES: Final = "files"
LIMITS: Final = "limits"
TIME: Final = "time"
OTHER: Final = "other"

CAUSES: Final = (IN_USE, WRONG_SERVER, REFUSED, DATABASE, FILES, LIMITS, TIME, OTHER)
OF_PORTS: Final = frozenset({IN_USE, WRONG_SERVER, REFUSED})
"""The causes that a private network takes away."""

# Errors in the words of libc (glibc, musl, macOS), Python, Node, Go, Java, .NET, Docker, the
# databases. Numbers are Linux's and macOS's where a program prints them with "Errno".
_SIGNS: Final = tuple(
    (cause, re.compile("|".join(patterns), re.IGNORECASE))
    for cause, patterns in (
        (
            IN_USE,
            (
                *("EADDRINUSE", r"address (?:is )?(?:already )?in use", r"\[Errno (?:98|48)\]"),
                *("WinError 10048", "only one usage of each socket address", "BindException"),
                *("port is already allocated", "already listening on port", "bind: .{0,200}in use"),
                r"port \d+ is (?:already )?(?:in use|taken|occupied)",
            ),
        ),
        (
            DATABASE,
            (
                *(r"database (?:table )?is locked", "duplicate key value", "Duplicate entry"),
                *("UNIQUE constraint failed", "IntegrityError", "deadlock (?:detected|found)"),
                *("could not serialize access", "lock wait timeout", "Duplicate(?:Database|Table)"),
                r"(?:database|relation|table) \S+ already exists",
                r"database \S+ is being accessed",
            ),
        ),
        (
            REFUSED,
            (
                *("ECONNREFUSED", "connection refused", r"\[Errno (?:111|61|104|54)\]"),
                *("ConnectionRefusedError", "WinError 10061", "ECONNRESET", r"EPIPE\b"),
                *("connection (?:was )?reset", "ConnectionResetError", "broken pipe"),
                *("BrokenPipeError", "RemoteDisconnected", "connection aborted"),
                *("socket hang up", "server disconnected", "connection closed unexpectedly"),
            ),
        ),
        (
            LIMITS,
            (
                *("ENOMEM", "cannot allocate memory", "MemoryError", "EMFILE", "ENOSPC"),
                *("too many open files", "no space left on device", "can't start new thread"),
                r"\[Errno (?:12|23|24|28)\]",
            ),
        ),
        (
            FILES,
            (
                *("FileExistsError", "EEXIST", r"\bfile exists", "FileNotFoundError", "ENOENT"),
                *("no such file or directory", "ENOTEMPTY", "directory not empty", "EACCES"),
                *("text file busy", "ETXTBSY", "PermissionError", "stale file handle"),
                *("IsADirectoryError", "NotADirectoryError", "BlockingIOError"),
                "could not (?:obtain|acquire) .{0,200}lock",
                "lock(?:file)? .{0,200}(?:held|exists)",
                r"\[Errno (?:2|13|17|26|39|66)\]",
            ),
        ),
        (
            TIME,
            (
                *("TimeoutError", "TimeoutExpired", "ETIMEDOUT", "timed out", r"Timeout\b"),
                *("deadline exceeded", "took too long", r"\[Errno (?:110|60)\]"),
            ),
        ),
    )
)

_OF_LAST_LINES: Final = 40


def of_text(message: str, text: str) -> str:
    """The cause of a failure.

    Args:
        message: the error in one line, which counts first.
        text: all that its runner said of it. Its end counts before the rest, which may show a
            test's source and what it logged.
    """
    end = "\n".join(text.splitlines()[-_OF_LAST_LINES:])
    for part in (message, end, text):
        for cause, sign in _SIGNS:
            if sign.search(part):
                return cause
    return OTHER


_PORT: Final = re.compile(
    r"""
    (?: \bport[\s=:#'"]+ | EADDRINUSE[^\n]{0,80}?: | in\ use[^\n]{0,80}?[:\s(]
      | (?:127\.\d+\.\d+\.\d+|0\.0\.0\.0|localhost|\[?::1?\]?|\*|tcp\ )[:,\s'"]+ )
    (?P<port>\d{2,5})\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_AROUND: Final = 3


def port_of_text(message: str, text: str) -> int | None:
    """The port that a failure speaks of, near the line that tells of it; None if it names none."""
    for part in (message, *_near_signs(text)):
        for found in _PORT.finditer(part):
            number = int(found["port"])
            if 0 < number <= 65535:  # noqa: PLR2004 - a port is 16 bits
                return number
    return None


def _near_signs(text: str) -> list[str]:
    lines = text.splitlines()
    signs = [sign for cause, sign in _SIGNS if cause in OF_PORTS]
    return [
        "\n".join(lines[max(0, n - _AROUND) : n + _AROUND + 1])
        for n, line in enumerate(lines)
        if any(sign.search(line) for sign in signs)
    ]


def named(paths: Iterable[str], text: str) -> str | None:
    """The first of *paths* that a text names: whole, or by the file's name; None if none."""
    for path in paths:
        name = re.escape(path.rpartition("/")[2])
        if re.search(rf"(?<![\w.-]){name}(?![\w-])", text):
            return path
    return None


_PATH: Final = re.compile(r"""(?<![\w/.:-])(/(?:[\w.@+~-]+/)*[\w.@+~-]+)""")


def path_of_text(message: str, own: str) -> str | None:
    """The file that a failure speaks of, outside of the run's own folder *own*; None if none."""
    for found in _PATH.finditer(message):
        path = found[1]
        if path != own and not path.startswith(own + "/"):
            return path
    return None
