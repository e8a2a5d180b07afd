"""A new folder of a database server, made once in a process, and copied from memory afterwards.

initdb and its like take half a second alone, and several on a busy machine; writing the same files
takes a fifth of it. In memory, because there is nothing to lock then, nothing to remove in the end,
and nothing that another process or the next version of the server could come by.

If we are root, the folder is in the end another user's, who may have other processes. None of them
may have us write where it wants: so a copy is made in a folder that is still ours, of which the
other cannot even see the inside, and everything is named from an open folder and not by its path.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Final, TypeAlias

    from portlease.recipes._account import Account

    Key: TypeAlias = tuple[object, ...]

_KEPT: Final = 3
"""How many are kept: each takes some 10 to 20 MiB."""

_moulds: dict[Key, tuple[_Entry, ...]] = {}


class _Entry(NamedTuple):
    """A file, or a folder, which has no content."""

    path: str
    mode: int
    size: int
    content: bytes | None
    """What it begins with; from there to its size it is zeros."""


def identity(program: Path) -> Key:
    """What tells a program from the next version of it."""
    found = program.stat()
    return str(program), found.st_ino, found.st_size, found.st_mtime_ns


def fill(key: Key, folder: Path, account: Account | None) -> bool:
    """Write into the empty *folder*, which is ours, what was kept under *key*.

    Args:
        key: as in :func:`keep`.
        folder: its files will belong to *account*; it itself still does not.
        account: that user, if it is not we.

    Returns:
        Whether there was something.
    """
    entries = _moulds.get(key)
    if entries is None or sys.platform == "win32":
        return False
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for entry in entries:
            _write(entry, folder_fd)
        if account is not None:
            for entry in entries:
                os.chown(entry.path, account.uid, account.gid, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)
    return True


def _write(entry: _Entry, folder_fd: int) -> None:
    if entry.content is None:
        os.mkdir(entry.path, entry.mode, dir_fd=folder_fd)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        fd = os.open(entry.path, flags, entry.mode, dir_fd=folder_fd)
        with open(fd, "wb", buffering=0) as file:
            file.write(entry.content)
            file.truncate(entry.size)
    os.chmod(entry.path, entry.mode, dir_fd=folder_fd)  # whatever our umask is


def keep(key: Key, folder: Path) -> None:
    """Remember what is in *folder* under *key*, which must name all that it was made from."""
    if sys.platform == "win32":
        return
    entries = tuple(_read(folder))
    while len(_moulds) >= _KEPT:
        del _moulds[next(iter(_moulds))]
    _moulds[key] = entries


def _read(folder: Path) -> Iterator[_Entry]:
    if sys.platform == "win32":
        return
    same: dict[bytes, bytes] = {}
    for parent, folders, files, parent_fd in os.fwalk(folder):
        place = os.path.relpath(parent, folder)
        for name in folders:
            found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            yield _Entry(os.path.join(place, name), stat.S_IMODE(found.st_mode), 0, None)
        for name in files:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent_fd)
            with open(fd, "rb", buffering=0) as file:
                found = os.fstat(fd)
                content = file.read().rstrip(b"\0")
            content = same.setdefault(content, content)  # many are equal
            mode = stat.S_IMODE(found.st_mode)
            yield _Entry(os.path.join(place, name), mode, found.st_size, content)
