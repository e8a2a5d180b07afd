"""A file that was asked for: found out before the work whether it can be, then written whole."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile

from portlease._errors import UsageError


def must_be_writable(path: str) -> None:
    """Find out before a long run what :func:`write_whole` would stumble on after it.

    Raises:
        UsageError: it is a folder, or its folder is not there, or we may not write there.
    """
    if os.path.isdir(path):
        raise UsageError(f"cannot write {path}: it is a folder", path=path)
    folder = os.path.dirname(os.path.realpath(path))
    place = path if _is_special(path) else folder
    if not (os.path.isdir(folder) and os.access(place, os.W_OK)):
        raise UsageError(
            f"cannot write {path}: there is no such folder, or we may not write there", path=path
        )


def _is_special(path: str) -> bool:
    """Whether it is written to as it is, not replaced: a pipe, a terminal, /dev/null."""
    return os.path.exists(path) and not os.path.isfile(path)


def write_whole(path: str, data: bytes) -> None:
    """Write *data* to *path*, so that a reader finds the old file or the new one.

    What is there and is no ordinary file (a pipe, a terminal, /dev/null) is written to: root could
    replace it.

    Raises:
        UsageError: it cannot be written.
    """
    target = os.path.realpath(path)
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                file.write(data)
            return
        fd, temporary = tempfile.mkstemp(prefix=".portlease-", dir=os.path.dirname(target))
        try:
            with open(fd, "wb") as file:
                file.write(data)
            _keep_owner(temporary, target)
            os.chmod(temporary, _mode(target))
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=path) from error


def _keep_owner(path: str, of: str) -> None:
    """Give *path* to whom *of* belongs, if we may: root rewrites files of others."""
    if sys.platform != "win32" and os.path.exists(of):
        status = os.stat(of)
        with contextlib.suppress(PermissionError):
            os.chown(path, status.st_uid, status.st_gid)


def _mode(path: str) -> int:
    """The permissions of the file that is replaced, or those that open() would have given."""
    try:
        return os.stat(path).st_mode & 0o7777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
