"""Guards for systems without abstract Unix sockets: lock files of the ``filelock`` library.

The lock is the operating system's (fcntl or LockFileEx), so it goes with its owner; the empty file
stays. It is scoped to the user's temporary folder, not to a network.
"""

from __future__ import annotations

import os
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from filelock import BaseFileLock


class NoRow:
    """What publish() gives where there is no board to publish on."""

    def close(self) -> None:
        """Nothing was opened."""


class FileGuard:
    """A guard in the form of a locked file; close() gives it up."""

    def __init__(self, lock: BaseFileLock) -> None:
        self._lock = lock

    def close(self) -> None:
        """Unlock the file."""
        self._lock.release()


def guard(transport: str, port: int) -> FileGuard | None:
    """Lock the file of this transport and port; None when somebody has it."""
    import filelock

    folder = os.path.join(tempfile.gettempdir(), "portlease-1")
    os.makedirs(folder, exist_ok=True)
    lock = filelock.FileLock(
        os.path.join(folder, f"{transport}-{port}.lock"), timeout=0, thread_local=False
    )
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    return FileGuard(lock)


def is_guarded(transport: str, port: int) -> bool:
    """Whether the file is locked: by trying, as there is no other way to know."""
    attempt = guard(transport, port)
    if attempt is None:
        return True
    attempt.close()
    return False
