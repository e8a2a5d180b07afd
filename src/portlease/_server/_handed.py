"""The sockets of one start of a server that takes them by inheritance: made, watched, closed.

Who owns them: we have copies from their making until :meth:`Sockets.close`; the server has its own
from its exec on. What is done to the socket through one copy shows in the other.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

from portlease._platform import _linux_proc
from portlease._server._presets import FIRST_FD, fd_name, own_backlog
from portlease._server._unix import remove_left_over

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Final, Self

    from portlease._lease import Lease
    from portlease._server._handover import Plan, Wanted

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone


class Sockets:
    """What :class:`portlease._server._handover.Handed` says."""

    def __init__(self, plan: Plan, leases: Mapping[str, Lease]) -> None:
        self._plan = plan
        self._sockets: list[socket.socket] = []
        self._backlogs: list[int | None] = []
        traits = plan.traits
        self._backlog = traits.backlog
        if traits.sign == "listen":
            self._backlog = own_backlog(_somaxconn(), plan.args)
        try:
            for wanted in plan.sockets:
                self._sockets.append(_above_standard(self._make(wanted, leases)))
            for sock, wanted in zip(self._sockets, plan.sockets, strict=True):
                self._prepare(sock, wanted)
        except BaseException:
            self.close()
            raise

    @property
    def values(self) -> dict[str, int]:
        """What ``{fd}`` and its like stand for: the descriptors as the server will see them."""
        numbers: dict[str, int] = {}
        for place, (sock, wanted) in enumerate(zip(self._sockets, self._plan.sockets, strict=True)):
            number = sock.fileno() if self._plan.by_number else FIRST_FD + place
            numbers.setdefault(fd_name(wanted.name), number)  # of "both", TCP's
        return numbers

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for Process.start()."""
        if self._plan.by_number:
            return {"pass_fds": tuple(sock.fileno() for sock in self._sockets)}
        pairs = zip(self._plan.sockets, self._sockets, strict=True)
        return {"listen_fds": [(wanted.name, sock.fileno()) for wanted, sock in pairs]}

    def adopted(self, tree: Callable[[], Sequence[int]]) -> bool:
        """Whether the server has taken every one of them over, as far as its sign tells.

        Args:
            tree: gives the ids of its processes; asked for only where the sign is ``epoll``.
        """
        sign = self._plan.sign
        if sign == "exec":
            return True
        if sign == "epoll":
            return self._watched(tree())
        return all(
            _listened_again(sock, before) or (sign == "nonblocking" and _is_nonblocking(sock))
            if before is not None
            else _is_nonblocking(sock)  # of UDP and Unix sockets no backlog can be had
            for sock, before in zip(self._sockets, self._backlogs, strict=True)
        )

    def close(self) -> None:
        """Close our copies; may be called again."""
        for sock in self._sockets:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _make(self, wanted: Wanted, leases: Mapping[str, Lease]) -> socket.socket:
        if wanted.transport == "unix":
            return _unix(wanted.address, self._backlog)
        lease = leases[wanted.name]
        return lease._beside(
            wanted.address,
            backlog=self._backlog if wanted.transport == "tcp" else None,
            transport=wanted.transport,
            v6only=wanted.v6only,
        )

    def _prepare(self, sock: socket.socket, wanted: Wanted) -> None:
        sock.setblocking(not self._plan.traits.nonblocking)
        if wanted.transport == "tcp" and self._plan.traits.nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._backlogs.append(_backlog_of(sock) if wanted.transport == "tcp" else None)

    def _watched(self, tree: Sequence[int]) -> bool:
        inodes = {os.fstat(sock.fileno()).st_ino for sock in self._sockets}
        try:
            return inodes <= _linux_proc.watched_by_epoll(tree)
        except PermissionError:  # it has become another user: it cannot be told, so do not wait
            return True


# struct tcp_info of <linux/tcp.h>: eight bytes, then 32-bit numbers. Of a socket that listens the
# sixth, tcpi_sacked, is its backlog (tcp_get_info(), net/ipv4/tcp.c).
_TCP_INFO: Final = struct.Struct("=28xI")


def _listened_again(sock: socket.socket, before: int) -> bool:
    return _backlog_of(sock) != before


def _is_nonblocking(sock: socket.socket) -> bool:
    """Of the socket itself, whoever said so; sock.getblocking() knows only what we said."""
    return not os.get_blocking(sock.fileno())


def _backlog_of(sock: socket.socket) -> int:
    """The backlog that the last listen(2) gave this TCP socket, of whichever process."""
    told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return int(_TCP_INFO.unpack(told)[0])


def _somaxconn() -> int:
    try:
        with open("/proc/sys/net/core/somaxconn", "rb") as file:
            return int(file.read())
    except (FileNotFoundError, PermissionError):
        return 128  # the smallest that Linux ever started with


def _above_standard(sock: socket.socket) -> socket.socket:
    """*sock*, not where the server has its standard input, output and error.

    It is given such a number where our own of these three are closed.
    """
    if sock.fileno() >= FIRST_FD:
        return sock
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, FIRST_FD))


def _unix(path: str, backlog: int) -> socket.socket:
    """A Unix socket that listens at *path*, in place of one that was left there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_left_over([path])
        sock.bind(path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    return sock
