"""A file that was asked for: found out before the work whether it can be, then written whole."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from portlease._errors import UsageError

if TYPE_CHECKING:
    from typing import Final

_STAYS: Final = frozenset({errno.EBUSY, errno.EPERM, errno.EACCES, errno.EROFS})
"""A file that is there cannot be replaced: it is mounted (EBUSY), another's in a sticky folder, or
its folder is not ours to write to."""


def must_be_writable(path: str) -> None:
    """Find out before a long run what :func:`write_whole` would stumble on after it.

    Raises:
        UsageError: it is empty, or a folder, or its folder is not there, or we may not write there.
    """
    must_be_named(path)
    if os.path.isdir(path):
        raise UsageError(f"cannot write {path}: it is a folder", path=path)
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    places = (path,) if _is_special(path) else (folder, target)
    if not (os.path.isdir(folder) and any(os.access(place, os.W_OK) for place in places)):
        raise UsageError(
            f"cannot write {path}: there is no such folder, or we may not write there", path=path
        )


def must_be_named(path: str) -> None:
    """Refuse an empty path, which comes of a variable that is not set.

    Raises:
        UsageError: it is empty.
    """
    if not path:
        raise UsageError(
            "cannot write '': the path is empty, as that of a variable which is not set; name a "
            "file, or leave the option out",
            path=path,
        )


def _is_special(path: str) -> bool:
    """Whether it is written to as it is, not replaced: a pipe, a terminal, /dev/null."""
    return os.path.exists(path) and not os.path.isfile(path)


def write_whole(path: str, data: bytes) -> None:
    """Write *data* to *path*, so that a reader finds the old file or the new one.

    What is there and is no ordinary file (a pipe, a terminal, /dev/null) is written to: root could
    replace it. So is a file that may be written and not be replaced, such as one that is mounted.

    Raises:
        UsageError: it cannot be written.
    """
    must_be_named(path)
    target = os.path.realpath(path)
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                file.write(data)
            return
        try:
            _replace(target, data)
        except OSError as error:
            if error.errno not in _STAYS or not os.path.isfile(target):
                raise
            with open(target, "r+b") as file:
                file.write(data)
                file.truncate()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=path) from error


def _replace(target: str, data: bytes) -> None:
    """Put a new file in the place of *target*; whatever prevents it, nothing else is left."""
    temporary = os.path.join(os.path.dirname(target), f".portlease-{os.urandom(12).hex()}")
    try:
        with open(temporary, "xb", opener=_private) as file:
            file.write(data)
        _keep_owner(temporary, target)
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):  # what is raised is why it came to this
            os.unlink(temporary)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _keep_owner(path: str, of: str) -> None:
    """Give *path* to whom *of* belongs, if we may: root rewrites files of others."""
    if sys.platform != "win32" and os.path.exists(of):
        status = os.stat(of)
        try:
            os.chown(path, status.st_uid, status.st_gid)
        except OSError as error:
            # EINVAL: our user namespace has no number for the owner.
            if error.errno not in {errno.EPERM, errno.EINVAL}:
                raise


def _mode(path: str) -> int:
    """The permissions of the file that is replaced, or those that open() would have given."""
    try:
        return os.stat(path).st_mode & 0o7777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
