"""The janitor: a small process that removes a recipe's temporary folder, whoever dies first.

``_home.py`` runs this module as the main program of an interpreter of its own,
``python -I -S -c ... SIZE FOLDER PARENT``, with the reading end of a pipe as its standard input.
It imports nothing of portlease. POSIX; what is said of keepers and pidfds is Linux alone.

Theory of operation
-------------------
The folder must go when its server has ended: not before, or a server that still writes would make
parts of it anew, and not never, if we are killed by SIGKILL. So it is never ours to remove. It is
the janitor's, on all paths:

- a byte on the pipe means that the server has ended: remove the folder and exit. An exit status of
  0 says that it is gone; anything else comes with a sentence on standard error;
- end-of-file without a byte, or the parent's pidfd readable, means that we have died. Then the
  keeper (:mod:`portlease._tree._keeper`) ends the server's whole tree, and exits. The janitor
  finds it in /proc, because every keeper shows the command that it keeps in its own command line,
  and a recipe's command has the folder in it; waits for its end on a pidfd; and removes the folder.

A keeper is executed before it is told what to start. So when we are dead, either it is there to be
found, or it will never start anything: there is no moment in between to get lost in.

Should the janitor be killed as well (a container's end, say), the folder stays until the next
janitor of the same user sweeps: a folder whose lock (flock(2), ours for as long as we live) nobody
has, and that no keeper mentions, has no owner.
"""

import sys

assert sys.platform != "win32"  # noqa: S101 - for the type checker: there are no pipes to wait on

import contextlib  # noqa: E402
import errno  # noqa: E402
import fcntl  # noqa: E402
import glob  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import select  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, NoReturn

NAME: "Final" = re.compile(r"portlease-home-[0-9a-f]{10}")
"""What all such folders are called; nothing else is ever swept (see :mod:`._home`)."""

KEEPER: "Final" = b"# portlease: keeps the command behind"
"""How the command line of a keeper is known."""

_BLANK_S: "Final" = 1.0
"""How long a process that executes a program may be without a command line."""

_GRACE_S: "Final" = 10.0
"""How long it is tried again to remove a folder in which somebody still makes files."""


def main(folder: str, parent: int) -> "NoReturn":
    """Wait until *folder* is to be removed, and remove it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    with contextlib.suppress(OSError):  # a folder that cannot be listed: ours is what matters
        sweep(os.path.dirname(folder), but=folder)
    if not _told(parent):
        _wait_for_keepers(folder)
    with contextlib.suppress(OSError, ImportError):  # no /proc, no ctypes: go on
        _release_shared_memory(folder)
    try:
        remove(folder)
    except OSError as error:
        # (shutil.rmtree() raises some without an errno.)
        os.write(2, f"{error.strerror or error.args[0]}: {error.filename or folder}".encode())
        os._exit(1)
    os._exit(0)


def _told(parent: int) -> bool:
    """Wait for the byte; return False if *parent* has died without sending one."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    parent_fd = _pidfd(parent)
    if parent_fd is not None:
        # The pipe alone would not do: a child that the parent has forked has a copy of its end.
        poll.register(parent_fd, select.POLLIN)
    if os.getppid() == parent:  # else it had died, and the number may be another's
        poll.poll()
    os.set_blocking(0, False)
    try:
        return os.read(0, 1) != b""
    except BlockingIOError:
        return False


def _pidfd(pid: int) -> "int | None":
    """Return a descriptor that is readable when *pid* has ended; None where it cannot be had."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # ESRCH: it is gone; ENOSYS, EPERM: a kernel or sandbox without pidfds
        return None


# --- keepers --------------------------------------------------------------------------------------


def keepers(folder: str) -> list[int]:
    """Return the process ids of the keepers in whose command *folder* is."""
    if not os.path.isdir("/proc/self"):
        return []
    sought = os.fsencode(folder)
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            line = _command_line(int(name))
            if KEEPER in line and sought in line:
                found.append(int(name))
    return found


def _command_line(pid: int) -> bytes:
    """Return the command line of *pid*; nothing if it has ended, or is not ours to see."""
    deadline = time.monotonic() + _BLANK_S
    try:
        while True:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
            if line or time.monotonic() >= deadline:
                return line
            # A kernel thread or a zombie has none, and no program either. What has one is in the
            # middle of execve(2): its pipes are closed and its parent goes on, and a moment later
            # its arguments are there (begin_new_exec() and create_elf_tables(), fs/).
            os.readlink(f"/proc/{pid}/exe")
            time.sleep(0.001)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _wait_for_keepers(folder: str) -> None:
    """Wait until no keeper of *folder* is left, and so nothing of its servers."""
    while found := keepers(folder):
        fd = _pidfd(found[0])
        if fd is None:
            time.sleep(0.02)  # no pidfds here, or it has just ended: look again
            continue
        # Between the two looks the number could have become another process's.
        if found[0] in keepers(folder):
            select.select([fd], [], [])
        os.close(fd)


def _release_shared_memory(folder: str) -> None:
    """Remove the System V shared memory of a PostgreSQL, or initdb, that was ended by SIGKILL.

    Nobody else would until the machine is booted again. Its key is the number of the inode of the
    folder of its data (sysv_shmem.c, since 13), its owner is that folder's, and nobody has it
    attached any more.
    """
    with open("/proc/sysvipc/shm", encoding="ascii") as file:  # proc(5)
        rows = [line.split() for line in file][1:]
    left = {(int(row[0]) % 2**32, int(row[7])): int(row[1]) for row in rows if row[6] == "0"}
    for data in glob.glob(glob.escape(folder) + "/*/data") if left else ():
        found = os.stat(data)
        number = left.get((found.st_ino % 2**32, found.st_uid))
        if number is not None:
            import ctypes

            ctypes.CDLL(None).shmctl(number, 0, None)  # IPC_RMID; who has gone is gone


# --- removing -------------------------------------------------------------------------------------


def remove(folder: str) -> None:
    """Remove *folder* with all that is in it; nothing happens if it is not there.

    Raises:
        OSError: something in it cannot be removed.
    """
    deadline = time.monotonic() + _GRACE_S
    while True:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError as error:
            if error.filename == folder:
                return
            # Somebody else removes it as well: go on with what is left.
        except OSError as error:
            # Somebody has just made a file there: a process that got away from its keeper.
            if error.errno != errno.ENOTEMPTY or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


def sweep(base: str, but: str) -> None:
    """Remove, from *base*, those folders of this user that have no owner any more."""
    for path in _ours(base):
        if path != but:
            _remove_if_left(path)


def _ours(base: str) -> "Iterable[str]":
    with os.scandir(base) as entries:
        for entry in entries:
            if not NAME.fullmatch(entry.name):
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if entry.is_dir(follow_symlinks=False) and found.st_uid == os.geteuid():
                yield entry.path


def _remove_if_left(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it is gone, or was never a recipe's
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not keepers(path):
            shutil.rmtree(path, ignore_errors=True)  # the next one sweeps again
    except OSError:
        pass  # EAGAIN: its owner lives; ENOLCK: who could tell, on a file system without locks
    finally:
        os.close(fd)
