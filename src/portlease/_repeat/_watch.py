"""Who has which port, and what else the instances share: the kernel's tables, sampled.

It sees every program, in whatever language, and asks nothing of it. What begins and ends between
two looks it does not see: the trail of Python processes (:mod:`portlease._trail`) does. A thread of
its own looks, seven times a second or more. Linux only; elsewhere nothing is
seen. Nor is what goes on in other networks, where the instances are isolated.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if sys.platform == "linux":
    from portlease._platform import _linux_diag, _linux_proc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final, Self

    from portlease._repeat._run import Run

_LEAST_PAUSE_S: Final = 0.03
_LONGEST_PAUSE_S: Final = 0.15
_SHARE: Final = 9
"""For every second of looking, so many of rest; but never longer than the longest pause."""
_FILES_EVERY_S: Final = 0.5
_MOST_PIDS: Final = 400
"""Where instances have more processes than this, their files are not looked at."""


@dataclass(slots=True)
class Seen:
    """A listening TCP socket, or a bound UDP one, of one run.

    ``begin`` and ``end`` are the times, in nanoseconds of the monotonic clock, of the first and the
    last look at which it was there; ``before`` is that of the look before, at which it was not, and
    ``gone`` that of the look after, None if there was none.
    """

    transport: str
    address: str
    port: int
    inode: int
    pid: int
    program: str
    before: int
    begin: int
    end: int
    gone: int | None = None


@dataclass(slots=True)
class Sights:
    """What was seen of one run."""

    sockets: list[Seen] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    """Files outside of its own folder that it had open for writing, and its Unix sockets there."""
    services: dict[tuple[str, int], str] = field(default_factory=dict)
    """Where it was connected to that is not its own, and who that is, ``""`` where unknown."""


class Watch:
    """Looks at the runs that it is told of. Context manager; a thread looks until it is left."""

    def __init__(self, *, network: bool) -> None:
        self._network = network
        self._lock = threading.Lock()
        self._runs: dict[int, tuple[Run, Sights]] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None
        """Why nothing more was seen, if so."""
        self._live: dict[int, Seen] = {}
        self._strangers: dict[int, int] = {}
        self._last_look = time.monotonic_ns()
        self._files_at = 0.0

    def follow(self, run: Run) -> Sights:
        """Look at *run* from now on; the sights are filled in as it goes."""
        sights = Sights()
        with self._lock:
            self._runs[id(run)] = (run, sights)
        return sights

    def leave(self, run: Run) -> None:
        """Look at it no more."""
        with self._lock:
            self._runs.pop(id(run), None)

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self._thread = threading.Thread(target=self._watch, name="portlease watches")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    # --- the thread ---

    if sys.platform == "linux":

        def _watch(self) -> None:
            pause_s = _LEAST_PAUSE_S
            while not self._over.wait(pause_s):
                begun = time.monotonic()
                with self._lock:
                    runs = list(self._runs.values())
                try:
                    self._look(runs)
                except (OSError, _linux_diag.SocketTableError) as error:
                    if error.errno in _PASSING:
                        continue
                    self.trouble = str(error)
                    return
                pause_s = (time.monotonic() - begun) * _SHARE
                pause_s = min(_LONGEST_PAUSE_S, max(_LEAST_PAUSE_S, pause_s))

        def _look(self, runs: list[tuple[Run, Sights]]) -> None:
            pids: dict[int, Sights] = {}
            own: dict[int, str] = {}
            for run, sights in runs:
                for pid in run.pids():
                    pids[pid] = sights
                    own[pid] = run.folder
            if self._network:
                self._look_at_sockets(pids)
            if time.monotonic() >= self._files_at and len(pids) <= _MOST_PIDS:
                self._look_at_files(pids, own)
                self._files_at = time.monotonic() + _FILES_EVERY_S

        def _look_at_sockets(self, pids: Mapping[int, Sights]) -> None:
            now = time.monotonic_ns()
            servers: list[_Row] = []
            clients: list[_Row] = []
            for row in _rows():
                (servers if row.is_server else clients).append(row)
            there = {row.inode for row in servers} | {row.inode for row in clients}
            for inode in self._live.keys() - there:
                self._live.pop(inode).gone = now
            for inode in self._strangers.keys() - there:
                del self._strangers[inode]
            for row in servers:
                if row.inode in self._live:
                    self._live[row.inode].end = now
            new = [
                row
                for row in (*servers, *clients)
                if row.inode not in self._live and self._strangers.get(row.inode, 0) < _LOOKS
            ]
            owners = _linux_proc.inode_owners({row.inode for row in new}, pids).pids
            listening = {row.port for row in servers if row.transport == "tcp"}
            for row in new:
                mine = [pid for pid in owners.get(row.inode, ()) if pid in pids]
                if not mine:
                    # Between fork and our look it may not have been listed yet: look again, twice.
                    self._strangers[row.inode] = self._strangers.get(row.inode, 0) + 1
                elif row.is_server:
                    self._begin(row, mine[0], pids[mine[0]], now)
                else:
                    self._strangers[row.inode] = _LOOKS
                    self._connected(row, pids[mine[0]], listening)
            self._last_look = now

        def _begin(self, row: _Row, pid: int, sights: Sights, now: int) -> None:
            info = _linux_proc.process_info(pid)
            seen = Seen(
                transport=row.transport,
                address=row.address,
                port=row.port,
                inode=row.inode,
                pid=pid,
                program=(info.command or "") if info is not None else "",
                before=self._last_look,
                begin=now,
                end=now,
            )
            sights.sockets.append(seen)
            self._live[row.inode] = seen

        def _connected(self, row: _Row, sights: Sights, listening: set[int]) -> None:
            address, port = row.peer
            if port == 0 or row.port in listening:  # a server's own end
                return
            if (address, port) in sights.services:
                return
            own = any(seen.port == port and seen.transport == "tcp" for seen in self._live.values())
            if not own:
                sights.services[address, port] = _owner(port) if _is_here(address) else ""

        def _look_at_files(self, pids: Mapping[int, Sights], own: Mapping[int, str]) -> None:
            unix = _unix_paths()
            for pid, sights in pids.items():
                for path in _written_by(pid, unix):
                    if not path.startswith((own[pid] + "/", *_NOT_FILES)):
                        sights.files.add(path)


_LOOKS: Final = 3
_NOT_FILES: Final = ("/dev/", "/proc/", "/sys/", "/memfd:")

# The process has ended meanwhile, or is none of ours to look at.
_PASSING: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM})


def _is_here(address: str) -> bool:
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


# --- the tables of proc(5) ------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    transport: str
    address: str
    port: int
    peer: tuple[str, int]
    is_server: bool
    inode: int


if sys.platform == "linux":
    import socket

    _LISTEN, _ESTABLISHED, _CLOSE = b"0A", b"01", b"07"

    def _rows() -> Iterator[_Row]:
        """Listening and connected TCP sockets, bound UDP sockets."""
        for name in ("tcp", "tcp6", "udp", "udp6"):
            table = _linux_diag.read_table(name) or b""  # without IPv6
            family = socket.AF_INET6 if name.endswith("6") else socket.AF_INET
            transport = name[:3]
            server = _LISTEN if transport == "tcp" else _CLOSE
            for line in table.splitlines()[1:]:
                if line.split(None, 4)[3] not in {server, _ESTABLISHED}:
                    continue
                words = line.split(None, 10)
                if words[9] != b"0":
                    address, port = _linux_diag.endpoint(words[1], family)
                    yield _Row(
                        transport,
                        address,
                        port,
                        _linux_diag.endpoint(words[2], family),
                        words[3] == server,
                        int(words[9]),
                    )

    def _owner(port: int) -> str:
        """Who listens on *port*, for a person; ``""`` if that cannot be seen."""
        inodes = {entry.inode for entry in _linux_diag.sockets(port, "tcp", states=["LISTEN"])}
        for pids in _linux_proc.inode_owners(inodes).pids.values():
            for pid in pids:
                info = _linux_proc.process_info(pid)
                if info is not None and info.command:
                    return f"{info.command} (pid {pid})"
        return ""

    def _unix_paths() -> dict[str, str]:
        """The paths of Unix sockets that have one, by inode."""
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            rows = [line.split(None, 7) for line in file.read().splitlines()[1:]]
        return {row[6]: row[7] for row in rows if len(row) > 7 and row[7].startswith("/")}  # noqa: PLR2004

    def _written_by(pid: int, unix: Mapping[str, str]) -> Iterator[str]:
        """The files that *pid* has open for writing, and the paths of its Unix sockets."""
        directory = f"/proc/{pid}/fd"
        try:
            fds = os.listdir(directory)
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            return
        for fd in fds:
            try:
                target = os.readlink(f"{directory}/{fd}")
                if target.startswith("socket:["):
                    if path := unix.get(target[8:-1]):
                        yield path
                elif target.startswith("/") and _is_written(pid, fd):
                    yield target.removesuffix(" (deleted)")
            except OSError as error:
                if error.errno not in _PASSING:
                    raise

    def _is_written(pid: int, fd: str) -> bool:
        with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
            for line in file:
                if line.startswith("flags:"):
                    return int(line.split()[1], 8) & os.O_ACCMODE in {os.O_WRONLY, os.O_RDWR}
        return False
