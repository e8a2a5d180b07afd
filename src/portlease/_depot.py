"""Where GUARDED leases are kept that this process has no descriptors for.

A process may have so many descriptors (RLIMIT_NOFILE) and no more, and a guarded lease takes two
or three: 6,600 leases where 20,000 are the limit. So a port server gives the sockets of its older
ones (SCM_RIGHTS, unix(7)) to a *holder*, a small process that does nothing but have them open, and
starts another when that one is full. The leases stay ours: their rows name our process, and
release() works as ever, only that it takes a message (:meth:`Depot.flush`).

The holder ends when we say so, when we close the socket, and when we die, of which its pidfd of us
tells, SIGKILL included. Should a holder be killed, its leases are named (:meth:`Depot.lost`), and
can be guarded anew.

Messages are packets (SOCK_SEQPACKET). To the holder: pairs of a key and a number of descriptors,
which come along; keys alone, to be closed; or ``e``, the end. From it: how many messages with keys
it has done, in all. It never waits for us, so we may wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

from portlease import _platform
from portlease._tree._process import limits_told

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

import resource  # noqa: E402

if TYPE_CHECKING:
    from typing import Final

    from portlease._lease import Lease

_PASSED_AT_ONCE: Final = 253  # SCM_MAX_FD
MOST_DESCRIPTORS: Final = 3
"""Of a GUARDED lease: its row, and a guard for each transport."""
AT_ONCE: Final = _PASSED_AT_ONCE // MOST_DESCRIPTORS
"""How many leases one message takes."""
_SPARE: Final = 64
"""Descriptors that a holder needs for itself, generously."""
_KEYS_AT_ONCE: Final = 1000
_HANG_GUARD_S: Final = 30
_HANG_GUARD: Final = struct.pack("@ll", _HANG_GUARD_S, 0)  # struct timeval
_KEPT: Final = struct.Struct("=QB")
_KEY: Final = struct.Struct("=Q")

_HOLDER: Final = """\
# portlease: keeps the sockets of port leases
import _socket, posix, resource, select, signal, struct, sys
parent = int(sys.argv[2])
for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT:
    signal.signal(number, signal.SIG_IGN)
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
us = _socket.socket(fileno=int(sys.argv[1]))
us.setblocking(False)
poll = select.poll()
poll.register(us, select.POLLIN)
poll.register(posix.pidfd_open(parent), select.POLLIN)
if posix.getppid() != parent:
    posix._exit(0)
kept, done, told = {}, 0, 0
while True:
    poll.modify(us, select.POLLIN if done == told else select.POLLIN | select.POLLOUT)
    for fd, events in poll.poll():
        if fd != us.fileno():
            posix._exit(0)
        if events & select.POLLOUT:
            try:
                us.send(struct.pack("=Q", done))
                told = done
            except BlockingIOError:
                pass
        if not events & ~select.POLLOUT:
            continue
        data, rights, flags, _ = us.recvmsg(1 << 16, _socket.CMSG_SPACE(4 * 253))
        if data in (b"", b"e"):
            posix._exit(0)
        fds = [fd for _, _, raw in rights for fd in memoryview(raw).cast("i")]
        if flags & _socket.MSG_CTRUNC:
            posix._exit(1)  # some are lost: our side takes them anew
        if fds:
            for key, count in struct.iter_unpack("=QB", data):
                kept[key], fds = fds[:count], fds[count:]
        else:
            for key, in struct.iter_unpack("=Q", data):
                for fd in kept.pop(key):
                    posix.close(fd)
            done += 1
"""


class Depot:
    """Keeps leases in processes of its own. Not for several threads at once.

    Owns the sockets of what :meth:`keep` was given, until that is released.
    """

    def __init__(self) -> None:
        self._holders: list[_Holder] = []

    def keep(self, leases: list[Lease]) -> bool:
        """Take the sockets of GUARDED leases, `AT_ONCE` of them at most, and close them here.

        Returns:
            Whether it has; else they stay here for now: a holder has not come to take what it was
            sent.

        Raises:
            ResourceLimitError: no process can be started for them.
        """
        holder = next((one for one in self._holders if one.room >= _PASSED_AT_ONCE), None)
        if holder is None:
            holder = _Holder()
            self._holders.append(holder)
        return holder.keep(leases)

    def flush(self) -> list[tuple[int, int]]:
        """Have closed what was released since the last time.

        Returns:
            What to wait for until it is: a holder's descriptor, and the number it must reach.
        """
        return [
            (holder.fileno(), number)
            for holder in self._holders
            if (number := holder.flush()) is not None
        ]

    def holders(self) -> list[int]:
        """The descriptors that are readable when a holder has done something, or has ended."""
        return [holder.fileno() for holder in self._holders]

    def done(self, fd: int) -> int | None:
        """How many of the numbers of :meth:`flush` that holder has done; None if it has ended."""
        holder = self._of(fd)
        return None if holder is None else holder.read()

    def lost(self, fd: int) -> list[Lease]:
        """Forget a holder that has ended; the live leases whose sockets it had are the caller's."""
        holder = self._of(fd)
        if holder is None:
            return []
        self._holders.remove(holder)
        return holder.lost()

    def close(self) -> None:
        """End the holders; on return nothing of what they kept is left. May be called again."""
        while self._holders:
            self._holders.pop().close()

    def _of(self, fd: int) -> _Holder | None:
        return next((one for one in self._holders if one.fileno() == fd), None)


class _Kept:
    """In place of a lease's row: what is closed when the lease is released."""

    __slots__ = ("_holder", "_key", "_owner")

    def __init__(self, holder: _Holder, key: int) -> None:
        self._holder: _Holder | None = holder
        self._key = key
        self._owner = _platform.pid

    def close(self) -> None:
        """Have it closed, at the next flush; in a forked child, nothing."""
        holder, self._holder = self._holder, None
        if holder is not None and self._owner == _platform.pid:
            holder.release(self._key)


class _Holder:
    """A process that keeps sockets, and our end of the connection to it."""

    def __init__(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.room = hard - _SPARE
        self._kept: dict[int, tuple[Lease, int]] = {}
        """By key: the lease, and how many descriptors it takes."""
        self._released: list[int] = []
        self._next = 0
        self._sent = 0
        self._done = 0
        # The lock keeps forks out: a copy of the other end would hide the holder's death.
        with _platform.spawn_lock, limits_told("a process that keeps ports"):
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with contextlib.ExitStack() as stack:
                stack.callback(self._socket.close)
                with theirs:
                    fd = theirs.fileno()
                    self._popen = subprocess.Popen(
                        [sys.executable, "-I", "-S", "-c", _HOLDER, str(fd), str(os.getpid())],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        pass_fds=(fd,),
                        cwd="/",
                        start_new_session=True,  # no Ctrl-C reaches it
                    )
                stack.pop_all()
        # Not settimeout(), which would wait in spite of MSG_DONTWAIT.
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _HANG_GUARD)

    def fileno(self) -> int:
        return self._socket.fileno()

    def keep(self, leases: list[Lease]) -> bool:
        """Send the sockets of *leases*, and close them here; False if there is no room in between.

        Under the lock, so that no fork copies what is in nobody's hands.
        """
        with _platform.spawn_lock:
            parts = []
            for key, lease in enumerate(leases, self._next):
                grip = lease._grip
                parts.append((key, lease, [grip.row, *grip.guards.values()]))
            data = b"".join(_KEPT.pack(key, len(sockets)) for key, _, sockets in parts)
            fds = [one.fileno() for _, _, sockets in parts for one in sockets]  # type: ignore[attr-defined] # on Linux they are sockets
            try:
                socket.send_fds(self._socket, [data], fds, socket.MSG_DONTWAIT)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                return False  # it is busy, or was killed, which shows when it is read
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:  # so many of this user are under way
                    raise
                return False
            self._next += len(parts)
            self.room -= len(fds)
            for key, lease, sockets in parts:
                self._kept[key] = (lease, len(sockets))
                lease._grip.row, lease._grip.guards = _Kept(self, key), {}
                for one in sockets:
                    one.close()
        return True

    def release(self, key: int) -> None:
        """Note what is to be closed."""
        _, cost = self._kept.pop(key)
        self.room += cost
        self._released.append(key)

    def flush(self) -> int | None:
        """Have it closed; the number of the message that says so, None if there was nothing."""
        if not self._released:
            return None
        keys, self._released = self._released, []
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            data = b"".join(map(_KEY.pack, keys[start : start + _KEYS_AT_ONCE]))
            self._sent += 1
            try:
                self._socket.send(data)
            except BlockingIOError:  # it was stopped, and its buffer is full
                self._popen.kill()
            except (BrokenPipeError, ConnectionResetError):
                pass  # it was killed, and so has closed them
        return self._sent

    def read(self) -> int | None:
        """Read what it has said."""
        try:
            while data := self._socket.recv(_KEY.size, socket.MSG_DONTWAIT):
                (self._done,) = _KEY.unpack(data)
        except BlockingIOError:
            return self._done
        except ConnectionResetError:
            pass
        return None

    def lost(self) -> list[Lease]:
        """It has ended: close what is left of it here; what it had."""
        self._popen.kill()
        self._popen.wait()
        self._socket.close()
        return [lease for lease, _ in self._kept.values()]

    def close(self) -> None:
        """End it, and wait for that."""
        with self._socket, self._popen:
            # A forked child may have a copy of our end, so it must be said.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
                self._socket.send(b"e")
            try:
                self._popen.wait(_HANG_GUARD_S)
            except subprocess.TimeoutExpired:  # it was stopped
                self._popen.kill()
        self._kept.clear()
