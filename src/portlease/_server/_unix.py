"""Unix sockets of a server: whether it listens at a path, and what was left there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING

if sys.platform == "linux":
    from portlease._platform import _linux_proc
    from portlease._tree._process_linux import KeptProcess

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

    from portlease._tree._process import Process


def remove_left_over(paths: Iterable[str]) -> None:
    """Remove the sockets of an earlier start: bind(2) fails where something is, unix(7)."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)


def listens(path: str, process: Process) -> bool:
    """Whether a process of this server listens at *path*; where that is not told, whether any does.

    Nothing is connected on Linux.
    """
    if sys.platform == "linux" and isinstance(process, KeptProcess):
        inodes = _listening_at(path)
        owners = _linux_proc.inode_owners(inodes, process.tree())
        return any(owners.pids.values()) or (bool(inodes) and bool(owners.refused))
    return _answers(path)


_ACCEPTS: Final = 1 << 16
"""SO_ACCEPTCON in the column Flags of /proc/net/unix."""

_COLUMNS: Final = 8


def _listening_at(path: str) -> list[int]:
    with open("/proc/thread-self/net/unix", "rb") as file:
        rows = [line.split(None, _COLUMNS - 1) for line in file.read().splitlines()[1:]]
    return [
        int(row[6])
        for row in rows
        if len(row) == _COLUMNS and row[7] == os.fsencode(path) and int(row[3], 16) & _ACCEPTS
    ]


def _answers(path: str) -> bool:
    if sys.platform == "win32":  # Command refuses Unix sockets there
        raise NotImplementedError(path)
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ECONNREFUSED}:
                raise
            return False
    return True
