"""Processes with leases, which do what they are told, and say what came of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import traceback
from typing import TYPE_CHECKING, Any

import portlease
from portlease import _lease
from portlease._grip import Grip
from portlease._platform import backend

if TYPE_CHECKING:
    from typing import Final, NoReturn

    from portlease._wish import Kind

_LENGTH: Final = struct.Struct("=I")


def _withdraws_nothing() -> None:
    backend.withdraw = lambda _: None  # type: ignore[method-assign, assignment]


def _looks_for_no_guard() -> None:
    def bind(_row: object, _transport: str, _port: int, *how: Any) -> Any:  # noqa: ANN401
        *what, v6only = how
        return backend.bind(*what, v6only=v6only)

    backend.bind_unguarded = bind  # type: ignore[method-assign, assignment]


def _nameless(_: bytes) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def _shows_no_row() -> None:
    backend.publish = _nameless  # type: ignore[method-assign, assignment]


def _releases_no_hold() -> None:
    def close(self: Grip) -> None:
        self.row.close()
        for guard in self.guards.values():
            guard.close()

    Grip.close = close  # type: ignore[method-assign]


MISTAKES: Final = {
    "withdraws nothing": _withdraws_nothing,
    "looks for no guard": _looks_for_no_guard,
    "shows no row": _shows_no_row,
    "releases no hold": _releases_no_hold,
}
"""What workers can be made to do wrong, to see whether the machine finds it."""


class Worker:
    """One of them, as we see it. It ends when we do, of whatever."""

    def __init__(self, uid: int, mistake: str = "") -> None:
        self.uid = uid
        self._mistake = mistake
        self.pid = 0
        self._stopped = False
        self._ours: socket.socket | None = None
        self._left: list[socket.socket] = []
        """Our ends of those that were killed, which their forked children wait for."""
        self.start()

    def start(self) -> None:
        """Fork it; on return it has no copy of any descriptor of ours."""
        self._ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            _live(theirs, self.uid, self._mistake)
        theirs.close()
        assert self._hear() == "ready"

    def call(self, *command: object) -> Any:  # noqa: ANN401 - what _Life's method returns
        """Have it do something; what it returned, or the name of the error."""
        self.carry_on()
        self._say(command)
        return self._hear()

    def kill_midway(self, *command: object) -> None:
        """Have it do something, and kill it at once, wherever in it it may be."""
        self.carry_on()
        self._say(command)
        self.kill()

    def kill(self) -> None:
        """SIGKILL; on return its death has been waited for. It is forked anew with `start`."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._stopped = False
        assert self._ours is not None
        self._left.append(self._ours)

    def stop(self) -> None:
        """SIGSTOP; on return it does not move."""
        if not self._stopped:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitpid(self.pid, os.WUNTRACED)
            self._stopped = True

    def carry_on(self) -> None:
        """SIGCONT."""
        if self._stopped:
            os.kill(self.pid, signal.SIGCONT)
            self._stopped = False

    def forget(self) -> None:
        """Let the children of those that were killed go."""
        while self._left:
            self._left.pop().close()

    def end(self) -> None:
        """End it and its children."""
        self.carry_on()
        self.forget()
        assert self._ours is not None
        self._ours.close()
        os.waitpid(self.pid, 0)

    def _say(self, command: object) -> None:
        assert self._ours is not None
        data = pickle.dumps(command)
        self._ours.sendall(_LENGTH.pack(len(data)) + data)

    def _hear(self) -> Any:  # noqa: ANN401 - as above
        assert self._ours is not None
        answer = _message(self._ours)
        assert answer is not None, "a worker died; its last words are on stderr"
        return answer


def _message(sock: socket.socket) -> Any:  # noqa: ANN401 - whatever was sent
    """The next message; None at the end."""
    head = sock.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    return pickle.loads(sock.recv(length, socket.MSG_WAITALL))  # noqa: S301 - ours


def _live(us: socket.socket, uid: int, mistake: str) -> NoReturn:
    try:
        os.closerange(3, us.fileno())
        os.closerange(us.fileno() + 1, 4096)
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        # A refusal of what somebody has for good takes that long; the model has many of them.
        _lease._COPIES_S = 0.005  # type: ignore[misc]
        if mistake:
            MISTAKES[mistake]()
        life = _Life(us)
        answer: object = "ready"
        while True:
            data = pickle.dumps(answer)
            us.sendall(_LENGTH.pack(len(data)) + data)
            command = _message(us)
            if command is None:
                break
            name, *arguments = command
            try:
                answer = getattr(life, name)(*arguments)
            except portlease.PortleaseError as error:
                answer = type(error).__name__
    except BaseException:  # noqa: BLE001 - told by the missing answer
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


class _Life:
    """What a worker can do, and what it has."""

    def __init__(self, us: socket.socket) -> None:
        self._us = us
        self._leases: dict[int, portlease.Lease] = {}
        self._sockets: dict[int, list[socket.socket]] = {}

    def take(self, key: int, kind: Kind, offer: bool, ports: list[int]) -> tuple[int, str]:  # noqa: FBT001
        """Take one of *ports*; its number and the lease's state."""
        lease = portlease.lease(kind, offer=offer, ports=ports, label=f"lease {key}")
        self._leases[key] = lease
        return lease.port, str(lease.state)

    def move(self, key: int, action: str) -> str:
        """Call a method of a lease; its state."""
        lease = self._leases[key]
        made = getattr(lease, action)()
        if made is not None:
            self._sockets[key] = list(made) if isinstance(made, tuple) else [made]
        return str(lease.state)

    def state(self, key: int) -> str:
        """The state of a lease."""
        return str(self._leases[key].state)

    def close(self, key: int) -> str:
        """Close the sockets that were handed over."""
        for sock in self._sockets.pop(key):
            sock.close()
        return "closed"

    def fork(self) -> str:
        """Have a child that lives on, whatever becomes of us."""
        if os.fork() == 0:
            with contextlib.suppress(BaseException):
                poll = select.poll()
                poll.register(self._us, 0)  # POLLHUP is always told: our controller closed its end
                poll.poll()
            os._exit(0)
        return "forked"

    def reset(self) -> str:
        """Give everything back."""
        for lease in self._leases.values():
            lease.release()
        for sockets in self._sockets.values():
            for sock in sockets:
                sock.close()
        self._leases.clear()
        self._sockets.clear()
        return "reset"
