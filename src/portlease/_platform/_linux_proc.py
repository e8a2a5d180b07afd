"""Linux's /proc: which processes have a socket, whose children they are, what they run.

proc(5) is a set of files that change while they are read, so every reader here says what it does
about the four ways in which that shows:

- ``ENOENT``: the process, thread or descriptor has gone, or is hidden from us (hidepid=2 or 4);
- ``ESRCH``: it went between open() and read();
- ``EACCES``, ``EPERM``: another user's, or one that made itself undumpable, and we lack
  CAP_SYS_PTRACE; EPERM for everything of a process where /proc is mounted with hidepid=1.

Anything else is raised. A process is read through a descriptor of its directory, which stays with
that process: a number that was given to a new process meanwhile is never mistaken for the old one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM})
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK: Final = 1 << 16

_PF_KTHREAD: Final = 0x00200000  # include/linux/sched.h
_ENDED: Final = frozenset("ZXx")
_CAP_NET_BIND_SERVICE: Final = 10
_NS_GET_USERNS: Final = 0xB701  # ioctl_ns(2), Linux 4.9


class Owners(NamedTuple):
    """Who has which socket, and where that could not be seen.

    Attributes:
        pids: for every inode that was asked for, the processes that have it open, in ascending
            order. Empty: nobody that can be seen; the socket may belong to a process in ``refused``
            or of another PID namespace, be on its way through an SCM_RIGHTS message, or be the
            kernel's own.
        refused: processes whose descriptors we may not look at. Kernel threads and zombies, which
            have none, are left out.
        hidden: whether other users' processes are not even listed (hidepid, or no /proc at all).
    """

    pids: dict[int, list[int]]
    refused: frozenset[int]
    hidden: bool


class ProcessInfo(NamedTuple):
    """What is known of a process.

    Attributes:
        pid: its number in this PID namespace.
        command: its arguments, joined by blanks and as it last rewrote them; its name in the kernel
            where it has none. Unprintable characters are escaped, so that a foreign process cannot
            write to our terminal. None where /proc refuses (hidepid=1).
        uid: its effective user, as our user namespace numbers users; None as above.
        started_at: seconds since the epoch, to a clock tick (10 ms) of the system's clock as it is
            set now; None as above.
    """

    pid: int
    command: str | None
    uid: int | None
    started_at: float | None


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that are used here."""

    pid: int
    comm: bytes
    state: str
    ppid: int
    flags: int
    start_ticks: int


# --- sockets ------------------------------------------------------------------------------------


def inode_owners(inodes: Iterable[int], pids: Iterable[int] | None = None) -> Owners:
    """Which processes have the sockets with these inode numbers open.

    Args:
        inodes: numbers as in `SocketEntry.inode`.
        pids: the processes to look at; None for all. Looking at one costs about 20 microseconds
            and 3 more for each of its descriptors.

    Not guaranteed: a descriptor that is opened, passed on or closed meanwhile may be missed. A
    thread that unshared its descriptors (CLONE_FILES) from its process is not looked at.
    """
    wanted = {b"socket:[%d]" % inode: inode for inode in inodes}
    found: dict[int, list[int]] = {inode: [] for inode in wanted.values()}
    refused = set()
    for pid in sorted(set(_all_pids() if pids is None else pids)) if wanted else ():
        try:
            for inode in {wanted[link] for link in _links(pid) if link in wanted}:
                found[inode].append(pid)
        except PermissionError:
            if _has_descriptors(pid):
                refused.add(pid)
    return Owners(found, frozenset(refused), hidden=not _lists_everybody())


def _links(pid: int) -> Iterator[bytes]:
    """What the descriptors of a process refer to; nothing once it has gone.

    Raises:
        PermissionError: we may not look. Also, by a whim of proc_pid_readlink() (fs/proc/base.c),
            where the process ended between the list and the look.
    """
    try:
        directory = os.open(f"/proc/{pid}/fd", _DIRECTORY)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return
    try:
        names = os.listdir(directory)
        for name in names:
            try:
                yield os.fsencode(os.readlink(name, dir_fd=directory))
            except OSError as error:
                if error.errno not in _GONE:
                    raise
    except OSError as error:  # the list itself
        if error.errno not in _GONE:
            raise
    finally:
        os.close(directory)


def watched_by_epoll(pids: Iterable[int]) -> set[int]:
    """The inodes of all files for which one of these processes waits in epoll(7).

    /proc/PID/fdinfo lists them for each epoll descriptor, proc_pid_fdinfo(5) (Linux 4.13).

    Raises:
        PermissionError: we may not look into one of them.
    """
    found: set[int] = set()
    for pid in pids:
        for name in _epolls(pid):
            text = _read(f"/proc/{pid}/fdinfo/{name}") or b""
            for line in text.splitlines():
                # tfd:        5 events:       19 data: ... pos:0 ino:34e2b71 sdev:8
                if line.startswith(b"tfd:"):
                    _, _, rest = line.partition(b" ino:")
                    if rest:
                        found.add(int(rest.split()[0], 16))
    return found


def _epolls(pid: int) -> list[str]:
    """The numbers of a process's epoll descriptors; none once it has gone."""
    found = []
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                try:
                    if os.readlink(entry.path) == "anon_inode:[eventpoll]":
                        found.append(entry.name)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
    except OSError as error:
        if error.errno not in _GONE:
            raise
    return found


def _has_descriptors(pid: int) -> bool:
    """Whether this process can have a socket at all: it lives, and is no kernel thread."""
    try:
        stat = _stat(f"/proc/{pid}/stat")
    except PermissionError:  # hidepid=1
        return True
    return stat is not None and stat.state not in _ENDED and not stat.flags & _PF_KTHREAD


def _lists_everybody() -> bool:
    """Every PID namespace has a process 1, so where it is not listed, others are not either."""
    try:
        os.stat("/proc/1")
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True


def _all_pids() -> list[int]:
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdecimal()]


# --- families -----------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """The children of a process, their children and so on; parents first, zombies included.

    Read from /proc/PID/task/TID/children where the kernel has it (CONFIG_PROC_CHILDREN), else from
    the parent that every process names in its stat, which takes a look at every process there is.

    Not guaranteed: a process that forks, ends or is adopted by another meanwhile may be missed. A
    process that leaves its family by a double fork is its adopter's child from then on. Processes
    that /proc hides from us are missing, and so are their children.
    """
    found: list[int] = []
    seen = {pid}
    pending = [pid]
    for parent in pending:
        children = _children(parent)
        if children is None:
            return _descendants_by_parent(pid)
        for child in children:
            if child not in seen:  # adopted while we looked
                seen.add(child)
                found.append(child)
                pending.append(child)
    return found


def _children(pid: int) -> list[int] | None:
    """The children of every thread of *pid*; None where the kernel keeps no such list."""
    children: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        if error.errno not in _GONE | _REFUSED:
            raise
        return children
    for task in tasks:
        try:
            text = _read(f"/proc/{pid}/task/{task}/children")
        except PermissionError:
            continue
        if text is None:
            # The thread has ended, or there is no such file: then not for ourselves either.
            if not os.path.exists("/proc/thread-self/children"):
                return None
            continue
        children += map(int, text.split())
    return children


def _descendants_by_parent(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for each in _all_pids():
        try:
            stat = _stat(f"/proc/{each}/stat")
        except PermissionError:
            continue
        if stat is not None:
            children.setdefault(stat.ppid, []).append(each)
    found: list[int] = []
    pending = [pid]
    for parent in pending:
        for child in children.pop(parent, []):
            found.append(child)
            pending.append(child)
    return found


# --- one process --------------------------------------------------------------------------------


def process_info(pid: int) -> ProcessInfo | None:
    """What a process runs, whose it is and when it started; None when it has gone or is hidden."""
    try:
        directory = os.open(f"/proc/{pid}", _DIRECTORY)
    except OSError as error:
        if error.errno in _GONE:
            return None
        if error.errno in _REFUSED:
            return ProcessInfo(pid, None, None, None)
        raise
    try:
        stat = _stat("stat", directory)
        arguments = _read("cmdline", directory)
        status = _read("status", directory)
    except PermissionError:
        return ProcessInfo(pid, None, None, None)
    finally:
        os.close(directory)
    if stat is None or arguments is None or status is None:
        return None
    return ProcessInfo(
        pid=pid,
        command=command_line(arguments, stat.comm),
        uid=parse_uid(status),
        started_at=_booted_at() + stat.start_ticks / os.sysconf("SC_CLK_TCK"),
    )


def _booted_at() -> float:
    """When the system booted: ``btime`` of /proc/stat, which gives it in whole seconds only."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def can_bind_privileged() -> bool:
    """Whether this thread may bind ports below ``ip_unprivileged_port_start``.

    That is CAP_NET_BIND_SERVICE in the user namespace that owns the network namespace (capabilities
    (7), user_namespaces(7)); in a user namespace made without a network namespace of its own, even
    root with all capabilities may not. Where /proc does not say: whether it is root.
    """
    try:
        status = _read("/proc/thread-self/status")
        capable = status is not None and bool(
            parse_capabilities(status) >> _CAP_NET_BIND_SERVICE & 1
        )
    except PermissionError:
        status = None
        capable = False
    if status is None:
        return os.geteuid() == 0
    return capable and _network_is_ours()


def _network_is_ours() -> bool:
    """Whether our user namespace, or one below it, owns this thread's network namespace."""
    try:
        network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _GONE | _REFUSED:
            raise
        return True
    try:
        os.close(fcntl.ioctl(network, _NS_GET_USERNS))
    except OSError as error:
        if error.errno == errno.EPERM:  # the owner is above us
            return False
        if error.errno not in (errno.ENOTTY, errno.EINVAL):  # before Linux 4.9; gVisor
            raise
        return True
    finally:
        os.close(network)
    return True


# --- pure parsers -------------------------------------------------------------------------------


def parse_stat(text: bytes) -> Stat:
    """The text of /proc/PID/stat. The name in it may contain anything, parentheses too.

    Raises:
        ValueError: it is no such text.
    """
    head, opened, rest = text.partition(b" (")
    comm, closed, tail = rest.rpartition(b") ")
    fields = tail.split()
    if not opened or not closed or len(fields) < 20:  # noqa: PLR2004 - starttime is field 22
        raise ValueError(f"no text of /proc/PID/stat: {text[:64]!r}")
    return Stat(
        pid=written_number(head),
        comm=comm,
        state=fields[0].decode("ascii"),
        ppid=written_number(fields[1]),
        flags=written_number(fields[6]),
        start_ticks=written_number(fields[19]),
    )


def written_number(digits: bytes, base: int = 10, *, bits: int = 64) -> int:
    """A number as the kernel writes one that it keeps in so many bits; int() reads others, too.

    Raises:
        ValueError: it is none.
    """
    if not digits.isalnum():
        raise ValueError(f"{digits[:64]!r} is no number")
    number = int(digits, base)
    if number >> bits:
        raise ValueError(f"{digits[:64]!r} is more than {bits} bits hold")
    return number


def command_line(arguments: bytes, comm: bytes) -> str:
    """The text of /proc/PID/cmdline for a person; *comm* for a process that has none."""
    words = arguments.rstrip(b"\0 ").split(b"\0")
    text = os.fsdecode(b" ".join(words) or comm)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    # Not the unicode_escape codec: it is imported at its first use, which fails in a process that
    # has since become a user who may not read the Python library.
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004


def parse_uid(status: bytes) -> int:
    """The effective user id in the text of /proc/PID/status.

    Raises:
        ValueError: there is none, or one that cannot be.
    """
    fields = _status_field(status, b"Uid:")
    if len(fields) < 2:  # noqa: PLR2004 - real, effective, saved, file system
        raise ValueError("no user ids in the text of /proc/PID/status")
    return written_number(fields[1], bits=32)


def parse_capabilities(status: bytes) -> int:
    """The effective capabilities in the text of /proc/PID/status, one bit each.

    Raises:
        ValueError: there are none, or more than 64.
    """
    fields = _status_field(status, b"CapEff:")
    if not fields:
        raise ValueError("no capabilities in the text of /proc/PID/status")
    return written_number(fields[0], 16)


def _status_field(status: bytes, name: bytes) -> list[bytes]:
    for line in status.split(b"\n"):
        if line.startswith(name):
            return line[len(name) :].split()
    return []


# --- reading ------------------------------------------------------------------------------------


def _stat(path: str, directory: int | None = None) -> Stat | None:
    text = _read(path, directory)
    return None if text is None else parse_stat(text)


def _read(path: str, directory: int | None = None) -> bytes | None:
    """A whole file, or None where it has gone; a refusal is raised as PermissionError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        parts = []
        while part := os.read(fd, _CHUNK):
            parts.append(part)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    finally:
        os.close(fd)
    return b"".join(parts)
