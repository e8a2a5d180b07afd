"""The lease: its life from the kernel's hands to the server's, and back.

Who owns the sockets: the lease, from the bind (:mod:`portlease._take`) until release(), hand_over()
or listen(). After a fork they are the parent's alone: the child's copies are closed at once, and
its Lease object is inert. They are not inherited through exec (PEP 446). Collected as garbage
without a release, a lease releases itself and warns; at the interpreter's end, however it comes,
the kernel does.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from _warnings import warn
from _weakref import ref  # `weakref` itself would be 2 ms of import; this is its core
from os import getpid

from portlease import _explain, _platform, _registry, _wish
from portlease._errors import LeaseStateError, PortleaseError, PortUnavailableError, UsageError
from portlease._platform import backend
from portlease._states import HANDED_OVER, HELD, OFFERED, RELEASED, State, after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Final, NoReturn, Self, TypeAlias

    from portlease._platform._types import Closable, Handle
    from portlease._registry import LeaseInfo, Row
    from portlease._wish import Bind, Kind, Wish

    # On whose behalf: the label, and the file and line of the call.
    By: TypeAlias = tuple[str | None, str, int]

# How long a foreign row may stand on our own port before we call its owner stuck. A taker is there
# for microseconds; one that was stopped in that moment (SIGSTOP, a debugger) stays.
_STUCK_S: Final = 2.0

live: dict[int, list[ref[Lease]]] = {}
"""The live leases of this process, by port; several only on different addresses or transports."""


class Lease:
    """The exclusive claim to a port in this network namespace; made by :func:`portlease.lease`.

    Stands wherever a port number is wanted: ``str()``, ``int()``, ``format()`` and ``__index__``
    give the number. Where a plain :class:`int` is demanded (``socket.getaddrinfo``), use ``.port``.

    Context manager: leaving the block releases it. Methods may be called from any thread. In a
    forked child the lease is the parent's: it reads as RELEASED and its methods raise; release()
    and leaving the block do nothing.
    """

    __slots__ = (
        "__weakref__",
        "_by",
        "_guards",
        "_holds",
        "_owner",
        "_row",
        "_since_ms",
        "_state",
        "_wish",
        "port",
    )

    port: int
    """The port number, a plain int; stays readable after release."""

    def __init__(  # noqa: PLR0913, PLR0917 - private: lease() is the way in
        self,
        port: int,
        wish: Wish,
        row: Closable,
        holds: list[tuple[Bind, Handle]],
        since_ms: int,
        by: By,
    ) -> None:
        self.port = port
        self._wish = wish
        self._by = by
        self._since_ms = since_ms
        self._row = row
        self._holds = holds
        self._guards: dict[str, Closable] = {}
        self._state = HELD
        self._owner = getpid()
        if port in live:
            live[port].append(ref(self))
        else:
            live[port] = [ref(self)]

    @property
    def kind(self) -> Kind:
        """``"tcp"``, ``"udp"`` or ``"both"``."""
        return self._wish.kind

    @property
    def label(self) -> str | None:
        """As it was given to :func:`portlease.lease`."""
        return self._by[0]

    @property
    def host(self) -> str | Sequence[str] | None:
        """The host or hosts that were asked for; None is every address."""
        return self._wish.host

    @property
    def scope(self) -> str:
        """What the hold covers: ``"*"`` (every IPv4 and IPv6 address), a wildcard, or addresses."""
        return self._wish.scope

    @property
    def since(self) -> float:
        """When it was taken, in seconds since the epoch, to the millisecond."""
        return self._since_ms / 1000

    @property
    def state(self) -> State:
        """Where it stands; who can take the port there is in :mod:`portlease._states`."""
        return self._state if self._owner == getpid() else RELEASED

    def offer(self) -> None:
        """HELD -> OFFERED: let a server that sets SO_REUSEADDR bind beside the hold.

        With ``kind="both"`` the TCP part is offered and the UDP part steps aside.

        Raises:
            LeaseStateError: the lease is not HELD.
            UsageError: UDP, or an operating system, where no hold can be shared.
        """
        with _platform.spawn_lock:
            new = self._after("offer")
            if self.kind == "udp" or not backend.CAN_OFFER:
                what = "a UDP hold" if self.kind == "udp" else f"a hold on {sys.platform}"
                raise UsageError(
                    f"{what} cannot be shared with a server: port {self.port} stays HELD; "
                    "use step_aside() instead"
                )
            with self._republished(new):
                if self.kind == "both":
                    self._vacate("udp")
                for bind, hold in self._holds:
                    if bind.transport == "tcp":
                        backend.offer(hold)
            self._state = new

    def withdraw(self) -> None:
        """OFFERED -> HELD: no more binds beside the hold.

        Not guaranteed: a server that bound in the meantime stays where it is.

        Raises:
            LeaseStateError: the lease is not OFFERED.
            PortUnavailableError: ``kind="both"`` and somebody has the UDP port; still OFFERED.
        """
        with _platform.spawn_lock:
            new = self._after("withdraw")
            with self._republished(new):
                self._reoccupy()
                for bind, hold in self._holds:
                    if bind.transport == "tcp":
                        backend.withdraw(hold)
            self._state = new

    def step_aside(self) -> None:
        """HELD or OFFERED -> GUARDED: free the port for a server that needs it to itself.

        Not guaranteed: a process that binds this very number gets it, as the server does. Inside
        the ephemeral range (only where there was no port outside it) bind(0) and connect() may
        land on it too.

        Raises:
            LeaseStateError: the lease is neither HELD nor OFFERED.
            PortUnavailableError: another lease has the guard, or asks for this port and is stuck.
        """
        with _platform.spawn_lock:
            new = self._after("step_aside")
            with self._republished(new):
                self._vacate("tcp", "udp")
            self._state = new

    def take_back(self) -> None:
        """GUARDED -> HELD: bind the port again.

        Raises:
            LeaseStateError: the lease is not GUARDED.
            PortUnavailableError: somebody has the port; it says who. The lease stays GUARDED.
        """
        with _platform.spawn_lock:
            new = self._after("take_back")
            with self._republished(new):
                self._reoccupy()
            self._state = new

    def listen(self, backlog: int = 128) -> socket.socket:
        """HELD or OFFERED -> HANDED_OVER: the hold itself, listening.

        Args:
            backlog: how many connections the kernel queues, listen(2).

        Returns:
            The socket. It is the caller's: closing it frees the port. Clients may connect at once.

        Raises:
            LeaseStateError: the lease is neither HELD nor OFFERED.
            UsageError: a UDP lease, or one that is held by several sockets (see
                :meth:`hand_over_all`).
            PortUnavailableError: a server that bound beside the offered hold listens already.
        """
        if self.kind == "udp":
            raise UsageError(f"UDP port {self.port} cannot listen(); use hand_over()")
        return self._hand_over("listen", backlog)[0]

    def hand_over(self) -> socket.socket:
        """HELD or OFFERED -> HANDED_OVER: the hold itself, bound, not listening.

        Returns:
            The socket, blocking, not inheritable. It is the caller's: closing it frees the port.

        Raises:
            LeaseStateError: the lease is neither HELD nor OFFERED.
            UsageError: the lease is held by several sockets (see :meth:`hand_over_all`).
        """
        return self._hand_over("hand_over", None)[0]

    def hand_over_all(self) -> tuple[socket.socket, ...]:
        """As :meth:`hand_over`, for a lease on several addresses or on TCP and UDP.

        Returns:
            Its sockets, TCP first, in the order of its addresses.
        """
        return self._hand_over("hand_over", None, several=True)

    def release(self) -> None:
        """Give the port back; may be called again, and from any state.

        A socket that was handed over stays open: it is not the lease's any more.
        """
        if self._owner != getpid():
            return
        with _platform.spawn_lock:
            if self._state is RELEASED:
                return
            self._state = RELEASED
            self._close()
            others = live[self.port]
            if len(others) == 1:
                del live[self.port]
            else:
                others.remove(ref(self))

    def _close(self) -> None:
        self._row.close()  # the row goes first: no row may outlive its lease
        for _, hold in self._holds:
            hold.close()
        for guard in self._guards.values():
            guard.close()
        self._holds, self._guards = [], {}

    def _after(self, action: str) -> State:
        if self._owner != getpid():
            raise LeaseStateError(
                f"cannot {action}() the lease of port {self.port} here: it belongs to process "
                f"{self._owner}, of which this is a forked child; take one of its own with "
                "portlease.lease(), or only use the number",
                state=str(RELEASED),
                action=action,
            )
        return after(self._state, action)

    def _republished(self, state: State) -> _Republished:
        return _Republished(self, state)

    def _vacate(self, *transports: str) -> None:
        """Take the guards, wait out the takers, close the holds."""
        going = [part for part in self._holds if part[0].transport in transports]
        guards: dict[str, Closable] = {}
        try:
            for transport in dict.fromkeys(bind.transport for bind, _ in going):
                guards[transport] = self._guard(transport)
            self._wait_for_takers()
        except BaseException as error:
            for guard in guards.values():
                guard.close()
            if isinstance(error, OSError):
                _explain.raise_explained(error, self.port)
            raise
        self._guards.update(guards)
        for part in going:
            self._holds.remove(part)
            part[1].close()

    def _guard(self, transport: str) -> Closable:
        guard = backend.guard(transport, self.port)
        if guard is None:
            raise self._unavailable("another lease of the number is guarded already")
        return guard

    def _wait_for_takers(self) -> None:
        """Wait until no other row claims our port: see the head of :mod:`portlease._take`."""
        give_up = time.monotonic() + _STUCK_S
        pause_s = 20e-6
        while takers := self._takers():
            if time.monotonic() > give_up:
                raise self._unavailable(
                    f"process {takers[0].pid} is asking for it and does not move (stopped?); "
                    "continue or end that process"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 1e-3)

    def _takers(self) -> list[Row]:
        try:
            names = backend.published_for(self.port)
        except (FileNotFoundError, PermissionError):  # no /proc: it is not what we rest our case on
            return []
        rows = [row for name in names if (row := _registry.decode(name)) is not None]
        return [
            row
            for row in rows
            # A taker's row is HELD or OFFERED from the start.
            if row.state in (HELD, OFFERED)
            and (row.pid, row.since) != (getpid(), self.since)
            and (row.kind == self.kind or "both" in (row.kind, self.kind))
            and _registry.overlap(row.scope, self.scope)
        ]

    def _reoccupy(self) -> None:
        """Bind what is not held, exclusively, then drop the guards."""
        held = [bind for bind, _ in self._holds]
        back: list[tuple[Bind, Handle]] = []
        try:
            for bind in (bind for bind in self._wish.binds if bind not in held):
                back.append((bind, _wish.bind(bind, self.port)))  # noqa: PERF401 - see except
        except OSError as error:
            for _, hold in back:
                hold.close()
            if error.errno != errno.EADDRINUSE:
                _explain.raise_explained(error, self.port)
            raise self._unavailable("") from error
        self._holds += back
        guards, self._guards = self._guards, {}
        for guard in guards.values():
            guard.close()

    def _hand_over(
        self, action: str, backlog: int | None, *, several: bool = False
    ) -> tuple[socket.socket, ...]:
        with _platform.spawn_lock:
            new = self._after(action)
            if len(self._wish.binds) > 1 and not several:
                raise UsageError(
                    f"port {self.port} is held by {len(self._wish.binds)} sockets (kind "
                    f"{self.kind!r}, {self.scope}); use hand_over_all()"
                )
            if self.kind == "both" and self._state is OFFERED:
                self._reoccupy()
            with self._republished(new):
                for bind, hold in self._holds:
                    if bind.transport == "tcp":
                        backend.withdraw(hold)
                    if backlog is not None:
                        self._listen(hold, backlog)
            self._state = new
            holds, self._holds = self._holds, []
        return tuple(
            _as_new(socket.socket(bind.address.family, bind.socktype, 0, hold.detach()))
            for bind, hold in holds
        )

    def _listen(self, hold: Handle, backlog: int) -> None:
        try:
            hold.listen(backlog)
        except OSError as error:
            if self._state is OFFERED:
                backend.offer(hold)
            if error.errno != errno.EADDRINUSE:
                raise
            raise self._unavailable("a server bound beside the offered hold") from error

    def _unavailable(self, why: str) -> PortUnavailableError:
        return PortUnavailableError(
            "\n".join(
                filter(
                    None, (f"port {self.port} cannot be had: {why}", _explain.culprits(self.port))
                )
            ),
            port=self.port,
        )

    def __int__(self) -> int:
        return self.port

    def __index__(self) -> int:
        return self.port

    def __str__(self) -> str:
        return str(self.port)

    def __format__(self, spec: str) -> str:
        return format(self.port, spec)

    def __repr__(self) -> str:
        label = "" if self.label is None else f" label={self.label!r}"
        return f"<Lease port={self.port} kind={self.kind} state={self.state}{label}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the lease of port {self.port} cannot be copied or pickled: it would have two owners. "
            "Pass lease.port, a plain int"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        # A lease whose __init__ never ran (`Lease()` raises TypeError) has no owner.
        if getattr(self, "_owner", None) != getpid() or self._state is RELEASED:
            return
        if self._state is not HANDED_OVER:
            _, file, line = self._by
            try:
                warn(
                    f"lease of port {self.port} was never released; it was taken at {file}:{line}. "
                    "Use it in a with block, or call release()",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
            finally:  # also where warnings are errors
                self.release()
        else:
            self.release()


class _Republished:
    """Shows the new state's row before the change and takes the old one down after it.

    So there is always a row; if the change fails, the new one goes and the old one stays.
    """

    __slots__ = ("_lease", "_row")

    def __init__(self, lease: Lease, state: State) -> None:
        row = publish(lease.port, lease._wish, state, lease._since_ms, lease.label)
        if row is None:
            raise PortleaseError(
                f"the row of port {lease.port} in state {state} is published already, though this "
                "process never did; something imitates portlease in this network namespace",
                port=lease.port,
            )
        self._lease = lease
        self._row = row

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._lease._row, self._row = self._row, self._lease._row
        self._row.close()


def _as_new(sock: socket.socket) -> socket.socket:
    """*sock* as a fresh one would be: blocking, and without the datagrams nobody was to read."""
    if sock.type == socket.SOCK_DGRAM:
        sock.settimeout(0)
        try:
            while True:
                sock.recv(1)
        except BlockingIOError:
            pass  # it is empty
    sock.settimeout(None)  # whatever socket.setdefaulttimeout() says
    return sock


class LeaseGroup(tuple["Lease", ...]):
    """Several leases that were taken together; a tuple, and a context manager that releases all."""

    __slots__ = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """Their numbers, plain ints, in the same order."""
        return tuple(lease.port for lease in self)

    def release(self) -> None:
        """Release every one of them."""
        for lease in self:
            lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def publish(
    port: int, wish: Wish, state: State, since_ms: int, label: str | None
) -> Closable | None:
    """Put a lease's row on the board; None if this very row is there already.

    Raises:
        ResourceLimitError: no descriptor is left for it.
    """
    name = _registry.encode(port, wish.kind, state, since_ms, wish.scope, label)
    try:
        return backend.publish(name)
    except OSError as error:
        _explain.raise_explained(error, port)


def own_leases() -> list[LeaseInfo]:
    """The live leases of this process, labels whole."""
    if sys.platform == "win32":
        uid = None
    else:
        uid = os.getuid()
    return [
        _registry.LeaseInfo(
            one.port,
            one.kind,
            one.state,
            one.scope,
            os.getpid(),
            uid,
            " ".join(sys.argv),
            one.label,
            one.since,
        )
        for one in _alive()
        if one.state is not RELEASED
    ]


def _close_copies() -> None:
    """In a forked child: the parent owns them all."""
    for one in _alive():
        one._close()
    live.clear()


def _alive() -> list[Lease]:
    return [one for known in list(live.values()) for alive in known if (one := alive()) is not None]


if hasattr(os, "register_at_fork"):
    # The parent's lock was renewed first: hooks run in the order of their registration.
    os.register_at_fork(after_in_child=_close_copies)
