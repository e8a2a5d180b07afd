"""The lease: its life from the kernel's hands to the server's, and back.

Who owns the sockets: the lease, from the bind (:mod:`portlease._take`) until release(), hand_over()
or listen(). After a fork they are the parent's alone: the child's copies are closed at once, and
its Lease object is inert. They are not inherited through exec (PEP 446). Collected as garbage
without a release, a lease releases itself and warns; at the interpreter's end, however it comes,
the kernel does.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from _operator import call
from _warnings import warn
from _weakref import ref  # `weakref` itself would be 2 ms of import; this is its core
from functools import partial

from portlease import _culprits, _platform, _refusal, _registry, _wish
from portlease._clock import now_s
from portlease._errors import LeaseStateError, PortleaseError, PortUnavailableError, UsageError
from portlease._grip import forget, live
from portlease._onlooker import look
from portlease._platform import backend
from portlease._states import HANDED_OVER, HELD, OFFERED, RELEASED, State, after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Final, NoReturn, Self

    from portlease._grip import By, Grip
    from portlease._platform._types import Closable, Handle
    from portlease._registry import Row
    from portlease._wish import Bind, Kind, Wish


# How long a foreign row may stand on our own port before we call its owner stuck. A taker is there
# for microseconds; one that was stopped in that moment (SIGSTOP, a debugger) stays.
_STUCK_S: Final = 2.0
# How long a copy of a socket that we have closed may live in a child that another thread has just
# forked: until its exec, 1 to 5 ms on a busy machine of two cores.
_COPIES_S: Final = 0.1
_COPIES_PAUSE_S: Final = 1e-4
_BACKLOG: Final = 128
_detach: Final = socket.SocketType.detach
_adopt: Final = socket.SocketType.__init__


class Lease:
    """The exclusive claim to a port in this network namespace; made by :func:`portlease.lease`.

    Stands wherever a port number is wanted: ``str()``, ``int()``, ``format()`` and ``__index__``
    give the number. Where a plain :class:`int` is demanded (``socket.getaddrinfo``), use ``.port``.

    Context manager: leaving the block releases it. Methods may be called from any thread. In a
    forked child the lease is the parent's: it reads as RELEASED and its methods raise; release()
    and leaving the block do nothing.
    """

    __slots__ = ("_grip", "_owner", "port")

    port: int
    """The port number, a plain int; stays readable after release."""

    def __init__(self, grip: Grip) -> None:
        self.port = port = grip.port
        self._grip = grip
        self._owner = _platform.pid
        if port in live:
            live[port].append(ref(grip))
        else:
            live[port] = [ref(grip)]

    @property
    def kind(self) -> Kind:
        """``"tcp"``, ``"udp"`` or ``"both"``."""
        return self._grip.wish.kind

    @property
    def label(self) -> str | None:
        """As it was given to :func:`portlease.lease`."""
        return self._grip.by[0]

    @property
    def host(self) -> str | Sequence[str] | None:
        """The host or hosts that were asked for; None is every address."""
        return self._grip.wish.host

    @property
    def scope(self) -> str:
        """What the hold covers: ``"*"`` (every IPv4 and IPv6 address), a wildcard, or addresses."""
        return self._grip.wish.scope

    @property
    def since(self) -> float:
        """When it was taken, in seconds since the epoch, to the millisecond."""
        return _registry.since(self._grip.born)

    @property
    def state(self) -> State:
        """Where it stands, which says who could take the port (docs/promise.md, state by state)."""
        return self._grip.state if self._owner == _platform.pid else RELEASED

    def offer(self) -> None:
        """HELD -> OFFERED: let a server that sets SO_REUSEADDR bind beside the hold.

        With ``kind="both"`` the TCP part is offered and the UDP part steps aside.

        Raises:
            LeaseStateError: the lease is not HELD.
            UsageError: UDP, or an operating system, where no hold can be shared.
        """
        if self.kind == "udp" or not backend.CAN_OFFER:
            what = "a UDP hold" if self.kind == "udp" else f"a hold on {sys.platform}"
            raise UsageError(
                f"{what} cannot be shared with a server: port {self.port} stays {self.state}; "
                "use step_aside() instead"
            )
        with _platform.spawn_lock, self._moving("offer") as moving:
            if self.kind == "both":
                self._vacate(moving, "udp")
            # Before the hold opens: an interrupt in between leaves too little said, never too much.
            moving.commit()
            for hold in self._tcp_holds():
                backend.offer(hold)

    def withdraw(self) -> None:
        """OFFERED -> HELD: no more binds beside the hold.

        Not guaranteed: a server that bound in the meantime stays where it is; and if it set
        SO_REUSEPORT, another of the same user that sets it can still join it.

        Raises:
            LeaseStateError: the lease is not OFFERED.
            PortUnavailableError: ``kind="both"`` and somebody has the UDP port; still OFFERED.
        """
        with _platform.spawn_lock, self._moving("withdraw"):
            self._close_up()

    def step_aside(self) -> None:
        """HELD or OFFERED -> GUARDED: free the port for a server that needs it to itself.

        Not guaranteed: a process that binds this very number gets it, as the server does. Inside
        the ephemeral range (only where there was no port outside it) bind(0) and connect() may
        land on it too.

        Raises:
            LeaseStateError: the lease is neither HELD nor OFFERED.
            PortUnavailableError: another lease has the guard, or asks for this port and is stuck.
        """
        with _platform.spawn_lock, self._moving("step_aside") as moving:
            self._vacate(moving, "tcp", "udp")

    def take_back(self) -> None:
        """GUARDED -> HELD: bind the port again.

        Raises:
            LeaseStateError: the lease is not GUARDED.
            PortUnavailableError: somebody has the port; it says who. The lease stays GUARDED.
        """
        with _platform.spawn_lock, self._moving("take_back"):
            for _, hold in self._grip.holds:  # a step_aside() that was interrupted has left some
                hold.close()
            self._reoccupy()

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

    def _beside(
        self,
        address: str,
        *,
        backlog: int | None,
        transport: str | None = None,
        v6only: bool = False,
    ) -> socket.socket:
        """A second socket, for a server to inherit, beside the hold; the lease keeps its state.

        From the bind of it (TCP: from its listen) on, hold and socket together keep everybody out;
        when it goes, the hold still does. While it is made, which takes microseconds, a bind with
        SO_REUSEADDR of this very number passes.

        Args:
            address: where to bind: an address, or a name, of which the first address is taken.
            backlog: TCP: how many connections the kernel queues, listen(2); None is 128.
                Clients may connect at once. Not for UDP.
            transport: ``"tcp"`` or ``"udp"``, to be given for a lease of both.
            v6only: whether a socket on ``::`` leaves IPv4 alone.

        Returns:
            The socket: bound, TCP: listening; blocking, not inheritable. It is the caller's. It has
            SO_REUSEADDR if it is TCP's, so that connections in TIME_WAIT are not in the way of the
            next one.

        UDP: before the bind the hold is deafened (:meth:`_deafen`).

        Raises:
            LeaseStateError: the lease is neither HELD nor OFFERED, or its part of this transport
                is not held (GUARDED).
            PortUnavailableError: somebody listens there (UDP: is bound), in spite of the hold.
            UsageError: an address that is not this machine's; a system where no hold can be shared.
        """
        if not backend.CAN_OFFER:
            raise UsageError(
                f"nothing can be bound beside the hold of port {self.port} on {sys.platform}; "
                "use hand_over_all()"
            )
        transport = transport or self._grip.wish.transports[0]
        what = _wish.beside(transport, address, v6only=v6only)
        with _platform.spawn_lock:
            holds = self._holds_for(transport, "beside")
            try:
                if transport == "udp":
                    self._deafen()
                    made = _wish.bind_beside(holds, what, self.port, None)
                else:
                    made = _wish.bind_beside(holds, what, self.port, backlog or _BACKLOG)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    _refusal.raise_explained(error, self.port, address)
                raise PortUnavailableError(
                    f"{transport} port {self.port} of {address} cannot be shared with a server: "
                    f"somebody is there, beside the lease\n{_culprits.culprits(self.port)}",
                    port=self.port,
                ) from error
        made.settimeout(None)  # whatever socket.setdefaulttimeout() says
        return made

    def _deafen(self) -> None:
        """Keep datagrams from the UDP hold, for a server that is bound or will be bound beside it.

        Without it a hold on 127.0.0.1 swallows what is meant for a server on 0.0.0.0. Until
        :meth:`_hear` it holds off every bind but those of sockets that are themselves bound to one
        interface (SO_BINDTODEVICE), and hand_over() replaces it first. Does nothing if there is no
        UDP hold. Another process that has a copy of the hold may do the same (SO_BINDTOIFINDEX to
        0x7fffffff): that it is deaf is asked of the kernel.

        Raises:
            PortleaseError: the kernel is too old for it.
        """
        with _platform.spawn_lock:
            for hold in self._udp_holds():
                try:
                    backend.deafen(hold)
                except OSError as error:
                    if error.errno not in (errno.ENOPROTOOPT, errno.EPERM):
                        raise
                    raise PortleaseError(
                        f"the hold of UDP port {self.port} cannot be kept from receiving what is "
                        f"meant for a server ({error.strerror}): SO_BINDTOIFINDEX needs Linux 5.7; "
                        "use step_aside() instead",
                        port=self.port,
                    ) from error

    def _hear(self) -> None:
        """Replace what UDP holds are deaf by fresh ones; does nothing if none is.

        Raises:
            PortUnavailableError: the server that was bound beside it is there still.
        """
        with _platform.spawn_lock:
            try:
                self._replace_deaf()
            except _RefusedError as error:
                raise PortUnavailableError(
                    f"port {self.port} cannot be had: {error}\n{_culprits.culprits(self.port)}",
                    port=self.port,
                ) from error.__cause__

    def release(self) -> None:
        """Give the port back; may be called again, and from any state.

        A socket that was handed over stays open: it is not the lease's any more.
        """
        if self._owner != _platform.pid:
            return
        with _platform.spawn_lock:
            grip = self._grip
            if grip.over:
                return
            grip.state = RELEASED
            grip.close()
            forget(grip)
            grip.over = True

    def _moving(self, action: str) -> _Moving:
        """The change of state that *action* is; raises if it is not allowed. Needs the lock."""
        if self._owner != _platform.pid:
            raise LeaseStateError(
                f"cannot {action}() the lease of port {self.port} here: it belongs to process "
                f"{self._owner}, of which this is a forked child; take one of its own with "
                "portlease.lease(), or only use the number",
                state=str(RELEASED),
                action=action,
            )
        return _Moving(self._grip, action)

    def _tcp_holds(self) -> list[Handle]:
        return [hold for bind, hold in self._grip.holds if bind.transport == "tcp"]

    def _udp_holds(self) -> list[Handle]:
        return [hold for bind, hold in self._grip.holds if bind.transport == "udp"]

    def _holds_for(self, transport: str, action: str) -> list[Handle]:
        """The holds of one transport; the lease is ours and has some, or this raises."""
        holds = self._tcp_holds() if transport == "tcp" else self._udp_holds()
        state = self.state
        if state not in (HELD, OFFERED) or not holds:
            raise LeaseStateError(
                f"no socket can be put beside the {transport} hold of port {self.port}: the lease "
                f"is {state}, of kind {self.kind!r}, and has none; take one with "
                "portlease.lease(offer=False), or call take_back()",
                state=str(state),
                action=action,
            )
        return holds

    def _replace_deaf(self) -> None:
        grip = self._grip
        for place, (bind, hold) in enumerate(grip.holds):
            if bind.transport != "udp" or not backend.is_deaf(hold):
                continue
            try:
                fresh = _wish.bind_beside([hold], bind, self.port, None)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise _RefusedError("a server is bound beside the hold") from error
            grip.holds[place] = (bind, fresh)
            backend.withdraw_to_listen(fresh)
            hold.close()

    def _vacate(self, moving: _Moving, *transports: str) -> None:
        """Take the guards, wait out the takers, commit the move, close the holds."""
        grip = self._grip
        going = [part for part in grip.holds if part[0].transport in transports]
        guards: dict[str, Closable] = {}
        try:
            for transport in dict.fromkeys(bind.transport for bind, _ in going):
                guards[transport] = self._guard(transport)
            self._wait_for_takers()
        except BaseException:
            for guard in guards.values():
                guard.close()
            raise
        grip.guards.update(guards)
        moving.commit()  # whatever comes now, an interrupt or an error: the holds are going
        for _, hold in going:
            hold.close()
        grip.holds = _open(grip.holds)
        for bind, _ in going:
            self._wait_for_copies(bind)

    def _wait_for_copies(self, bind: Bind) -> None:
        """Wait until a child that another thread has just forked is past its exec.

        Until then it has a copy of the hold, and the server that we step aside for would fail. Who
        still has the port after that is none of ours; the server will say so. Without a descriptor
        to try it with, we do not wait.
        """
        try:
            self._bind_patiently(bind).close()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EMFILE, errno.ENFILE):
                raise

    def _bind_patiently(self, bind: Bind) -> Handle:
        give_up = now_s() + _COPIES_S
        while True:
            try:
                return _wish.bind(bind, self.port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or now_s() > give_up:
                    raise
            time.sleep(_COPIES_PAUSE_S)

    def _guard(self, transport: str) -> Closable:
        give_up = now_s() + _COPIES_S
        while (guard := backend.guard(transport, self.port)) is None:
            if now_s() > give_up:
                raise _RefusedError("another lease of the number is guarded already")
            time.sleep(_COPIES_PAUSE_S)
        return guard

    def _wait_for_takers(self) -> None:
        """Wait until no other row claims our port: see the head of :mod:`portlease._take`."""
        give_up = now_s() + _STUCK_S
        pause_s = 20e-6
        while takers := self._takers():
            if now_s() > give_up:
                raise _RefusedError(
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
            and (row.pid, row.born) != (_platform.pid, self._grip.born)
            and _registry.same_ground(row, self.kind, self.scope)
        ]

    def _close_up(self, *, to_listen: bool = False) -> None:
        """From OFFERED: keep servers out again, and take back the UDP part if there is one."""
        holds = self._tcp_holds()
        # listen(2) looks for conflicts anew itself.
        withdraw = backend.withdraw_to_listen if to_listen else backend.withdraw
        try:
            for hold in holds:
                withdraw(hold)
            self._reoccupy()
        except BaseException:
            for hold in holds:
                backend.offer(hold)
            raise

    def _reoccupy(self) -> None:
        """Bind what is not held, exclusively, then drop the guards."""
        grip = self._grip
        kept = _open(grip.holds)
        held = [bind for bind, _ in kept]
        back: list[tuple[Bind, Handle]] = []
        try:
            for bind in (bind for bind in grip.wish.binds if bind not in held):
                back.append((bind, self._bind_patiently(bind)))  # noqa: PERF401 - see except
            grip.holds = kept + back
        except BaseException as error:
            grip.holds = kept
            for _, hold in back:  # an interrupt's traceback would keep them bound while it lives
                hold.close()
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                raise
            raise _RefusedError("somebody has it") from error
        guards, grip.guards = grip.guards, {}
        for guard in guards.values():
            guard.close()

    def _hand_over(
        self, action: str, backlog: int | None, *, several: bool = False
    ) -> tuple[socket.socket, ...]:
        grip = self._grip
        with _platform.spawn_lock, self._moving(action) as moving:
            if len(grip.wish.binds) > 1 and not several:
                raise UsageError(
                    f"port {self.port} is held by {len(grip.wish.binds)} sockets (kind "
                    f"{self.kind!r}, {self.scope}); use hand_over_all()"
                )
            if grip.state is OFFERED:
                self._close_up(to_listen=backlog is not None)
            if backlog is not None:
                for hold in self._tcp_holds():
                    self._listen(hold, backlog)
            self._replace_deaf()
            # Before they are given away: a lease never says HELD of what it has no longer.
            moving.commit()
            sockets = _objects(grip.holds)
            grip.holds = []
        for sock in sockets:
            _make_as_new(sock)
        return sockets

    def _listen(self, hold: Handle, backlog: int) -> None:
        try:
            hold.listen(backlog)
        except OSError as error:
            if self._grip.state is OFFERED:
                backend.offer(hold)
            if error.errno != errno.EADDRINUSE:
                raise
            raise _RefusedError("a server bound beside the offered hold") from error

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
        try:
            if self._owner != _platform.pid or self._grip.over:
                return
        except AttributeError:
            return
        try:
            if self._grip.state not in (HANDED_OVER, RELEASED):
                text = (
                    f"lease of port {self.port} was never released; it was taken at "
                    f"{place(self._grip.by)}. Use it in a with block, or call release()"
                )
                if look.dropped is None or not look.dropped(text):
                    warn(text, ResourceWarning, stacklevel=2, source=self)
        finally:  # also where warnings are errors
            self.release()


class _RefusedError(Exception):
    """Why a lease could not move; :class:`_Moving` makes a PortUnavailableError of it."""


def place(by: By) -> str:
    """The file and line of the call. Found here, as it takes a walk through the caller's code."""
    _, code, at = by
    lines = (line for start, end, line in code.co_lines() if start <= at < end)
    return f"{code.co_filename}:{next(lines, code.co_firstlineno)}"


class _Moving:
    """A change of state: shows the new row before it, takes the old one down after it.

    So there is always a row; if the change fails, the new one goes and the old one stays.
    """

    __slots__ = ("_action", "_committed", "_grip", "_row", "_state")

    def __init__(self, grip: Grip, action: str) -> None:
        self._grip = grip
        self._action = action
        self._committed = False
        self._state = after(grip.state, action)
        row = publish(grip.port, grip.wish, self._state, grip.born, grip.by[0])
        if row is None:
            raise PortleaseError(
                f"the row of port {grip.port} in state {self._state} is published already, though "
                "this process never did; something imitates portlease in this network namespace",
                port=grip.port,
            )
        self._row = row

    def __enter__(self) -> Self:
        return self

    def commit(self) -> None:
        """The move is made, whatever follows."""
        grip = self._grip
        if self._committed or grip.state is RELEASED:
            return
        self._committed = True
        grip.row, self._row = self._row, grip.row
        grip.state = self._state

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, _: object
    ) -> None:
        grip = self._grip
        if grip.state is RELEASED:  # by a signal handler, in the midst of it
            self._row.close()
            grip.close()
            if kind is None or issubclass(kind, (OSError, PortleaseError, _RefusedError)):
                raise LeaseStateError(
                    f"the lease of port {grip.port} was released while {self._action}() was under "
                    "way, by a signal handler; it is over",
                    state=str(RELEASED),
                    action=self._action,
                ) from value
            return
        if kind is None:
            self.commit()
        self._row.close()  # before anybody is asked who has the port: it says what is not true
        if isinstance(value, _RefusedError):
            text = f"port {grip.port} cannot be had: {value}\n{_culprits.culprits(grip.port)}"
            raise PortUnavailableError(text, port=grip.port) from value.__cause__
        if isinstance(value, OSError) and not isinstance(value, PortleaseError):
            _refusal.raise_explained(value, grip.port, grip.wish.scope)


def _open(parts: Sequence[tuple[Bind, Handle]]) -> list[tuple[Bind, Handle]]:
    """Those of a lease's holds that are open still."""
    return [part for part in parts if part[1].fileno() >= 0]


def _objects(parts: Sequence[tuple[Bind, Handle]]) -> tuple[socket.socket, ...]:
    """The same sockets as objects of the class that callers know; the handles own nothing then.

    A descriptor has two owners for a moment, and a lack of memory may leave it so: then it stays
    the handle's. So that no interrupt (Ctrl-C) comes in between, no bytecode does: one C loop makes
    the one the owner and has the other let go.
    """
    made = tuple(socket.socket.__new__(socket.socket) for _ in parts)
    for one in made:
        # What socket.socket.__init__() sets besides.
        one._io_refs = 0  # type: ignore[attr-defined]
        one._closed = False  # type: ignore[attr-defined]
    moves: list[Callable[[], object]] = []
    for one, (bind, hold) in zip(made, parts, strict=True):
        moves.append(
            partial(_adopt, one, bind.address.family, bind.socktype, 0, fileno=hold.fileno())
        )
        moves.append(hold.detach)
    try:
        list(map(call, moves))
    except BaseException:
        for one, (_, hold) in zip(made, parts, strict=True):
            if one.fileno() == hold.fileno() >= 0:
                _detach(one)
        raise
    return made


def _make_as_new(sock: socket.socket) -> None:
    """What a fresh one would be: blocking, and without the datagrams nobody was to read."""
    if sock.type == socket.SOCK_DGRAM:
        sock.settimeout(0)
        try:
            while True:
                sock.recv(1)
        except BlockingIOError:
            pass  # it is empty
    sock.settimeout(None)  # whatever socket.setdefaulttimeout() says


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


def publish(port: int, wish: Wish, state: State, born: bytes, label: str | None) -> Closable | None:
    """Put a lease's row on the board; None if this very row is there already.

    Raises:
        ResourceLimitError: no descriptor is left for it.
    """
    try:
        row = backend.publish(_registry.encode(port, wish.kind, state, born, wish.scope, label))
        if row is None:
            # The very name was there: a signal handler forked between these two calls, and its
            # child was quicker. The next name is another.
            row = backend.publish(_registry.encode(port, wish.kind, state, born, wish.scope, label))
    except OSError as error:
        _refusal.raise_explained(error, port)
    return row
