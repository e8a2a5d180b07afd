"""``who(port)``: why can't I bind it? Everything that is in the way, and who has put it there.

It only reads: it binds nothing, connects to nothing and sends nothing to anybody but the kernel.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from portlease._errors import LeasesUnseenError, UsageError
from portlease._states import HELD, OFFERED, WHO_CAN_TAKE_IT, State

if sys.platform == "linux":
    from portlease._platform import _linux_diag, _linux_proc, backend

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, Literal, SupportsIndex, TypeAlias

    from portlease._leases import LeaseInfo

    Transport: TypeAlias = Literal["tcp", "udp"]
    OccupantKind: TypeAlias = Literal[
        "lease", "listener", "bound", "connection", "time_wait", "privileged", "reserved"
    ]

_COMMAND_LENGTH: Final = 60
_STOP: Final = "stop it, or take another port with portlease.lease()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that has the socket or the lease.

    ``command``, ``uid`` (its effective user) and ``started_at`` (seconds since the epoch) are None
    where the system does not tell.
    """

    pid: int
    command: str | None = None
    uid: int | None = None
    started_at: float | None = None

    def __str__(self) -> str:
        started = "" if self.started_at is None else f", started {clock(self.started_at)}"
        command = "a process" if self.command is None else short_command(self.command)
        return f"{command} (pid {self.pid}{started})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """One thing that is on the port.

    Attributes:
        kind: ``lease``; ``listener``; ``bound``: a socket that is bound and neither listens nor is
            connected, and every UDP server; ``connection``; ``time_wait``: the remains of one, in
            TIME_WAIT or FIN_WAIT2; ``privileged``: we may not bind so low a port; ``reserved``:
            listed in ip_local_reserved_ports.
        prevents: whether it is in the way of a bind. False for ``reserved`` alone: no bind(0) and
            no lease is given such a port, but whoever names it may bind it.
        transport: ``tcp`` or ``udp``, or ``both``.
        address: the local address, or what the lease covers (``*``: every address).
        v6only: whether a socket on an IPv6 wildcard address leaves IPv4 alone, where that is known.
        peer: the other end's address and port.
        state: the socket's state, as the kernel spells it, or the lease's.
        processes: who has it, in ascending order of pid.
        uid: the user of the socket or of the lease's process; None where nobody knows.
        not_permitted: it has an owner, but one that we are not permitted to see, or that lives in
            another PID namespace.
        seconds_left: how long it lasts still, where the kernel will remove it by itself.
        label: the lease's.
        since: when the lease was taken, in seconds since the epoch.
        remedy: what to do about it.
    """

    kind: OccupantKind
    prevents: bool = True
    transport: Transport | Literal["both"]
    address: str | None = None
    v6only: bool | None = None
    peer: tuple[str, int] | None = None
    state: str | None = None
    processes: tuple[Process, ...] = ()
    uid: int | None = None
    not_permitted: bool = False
    seconds_left: float | None = None
    label: str | None = None
    since: float | None = None
    remedy: str | None = None

    def describe(self) -> str:
        """What it is and who has it, without the port and the remedy, which `Who` adds."""
        return f"{self._what()}{self._by()}"

    def _what(self) -> str:
        there = "every address" if self.address in (None, "*") else _at(self.address)
        peer = "" if self.peer is None else f" to {_at(self.peer[0])}:{self.peer[1]}"
        for_s = "" if self.seconds_left is None else f" for {self.seconds_left:.1f} s more"
        label = "" if self.label is None else f" for {self.label!r}"
        since = "" if self.since is None else f", since {clock(self.since)}"
        match self.kind:
            case "lease":
                text = f"leased{label}, {self.state} on {there}{since}"
            case "listener":
                text = f"listening on {there}" + ", IPv4 too" * (self.v6only is False)
            case "bound":
                text = f"bound to {there}" + ", IPv4 too" * (self.v6only is False)
                text += " without listening" * (self.transport == "tcp")
            case "connection":
                text = f"connection from {there}{peer} in {self.state}"
            case "time_wait":
                text = f"{self.state}{for_s}, after a connection from {there}{peer}"
            case "privileged":
                text = "privileged, and this process lacks CAP_NET_BIND_SERVICE"
            case "reserved":
                text = "reserved by net.ipv4.ip_local_reserved_ports"
            case _:
                assert_never(self.kind)
        return text

    def _by(self) -> str:
        if self.processes:
            more = len(self.processes) - 1
            others = f" and {more} other process{'es' * (more > 1)}" if more else ""
            return f" by {self.processes[0]}{others}"
        if self.not_permitted and self.kind == "lease":
            return " by a process of another PID namespace"
        if self.not_permitted:
            whose = "an unknown user" if self.uid is None else f"user {self.uid}"
            return f" by a process of {whose} that we are not permitted to see"
        return ""


@dataclass(frozen=True, slots=True)
class Who:
    """What `who` found; ``str()`` is for a person, `as_dict` for a program.

    Attributes:
        port: the port.
        occupants: leases first, then listeners, other sockets, and what is no socket.
        unseen: what could not be looked at here, a sentence each. Empty: nothing can be missing
            but what no process can see (see `who`).
    """

    port: int
    occupants: tuple[Occupant, ...]
    unseen: tuple[str, ...] = ()

    @property
    def free(self) -> bool:
        """Whether nothing that was seen prevents a bind; see also `complete`."""
        return not any(occupant.prevents for occupant in self.occupants)

    @property
    def complete(self) -> bool:
        """Whether everything could be looked at."""
        return not self.unseen

    def as_dict(self) -> dict[str, object]:
        """The same as plain values, ready for JSON."""
        return {
            "port": self.port,
            "free": self.free,
            "complete": self.complete,
            "occupants": [dataclasses.asdict(occupant) for occupant in self.occupants],
            "unseen": list(self.unseen),
        }

    def __str__(self) -> str:
        lines = [
            f"{_prefix(first, self.port)}: {first.describe()}"
            + (f" (and {count - 1} more like it)" if count > 1 else "")
            + ("" if first.remedy is None else f"; {first.remedy}")
            for first, count in _alike(self.occupants)
        ]
        if self.free:
            lines.insert(0, f"port {self.port}: " + ("free" if self.complete else "nothing seen"))
        return "\n".join([*lines, *(f"not seen: {what}" for what in self.unseen)])


def who(port: SupportsIndex, *, transport: Transport | None = None) -> Who:
    """Everything that keeps this process from binding a port in this network namespace.

    Args:
        port: 1 to 65535.
        transport: ``"tcp"``, ``"udp"``, or None for both.

    Returns:
        What is on the port; ``.free`` where nothing is in the way. A hold, the bound socket of a
        lease, is told of as the lease alone.

    Raises:
        UsageError: no such port or transport.
        PortleaseError: the kernel lets its sockets be listed neither by netlink nor in /proc.

    Not guaranteed:
        The answer is as old as the call. Sockets on one address do not keep others from binding
        another, and are told of all the same. TCP sockets that are bound and neither listen nor
        connect are listed by Linux from 6.8 on; before, ``unseen`` says so. What security modules
        (SELinux, Landlock), seccomp filters and BPF programs forbid can be seen by nobody. On macOS
        and Windows only this process's own leases are known.

    Source: sock_diag(7), proc(5), ip(7); inet_csk_bind_conflict() in
    net/ipv4/inet_connection_sock.c for what conflicts with a bind.
    """
    number = operator.index(port)
    if not 1 <= number <= 65535:  # noqa: PLR2004 - a port is 16 bits, and 0 means none
        raise UsageError(f"port {number} is not between 1 and 65535", port=number)
    if transport not in ("tcp", "udp", None):
        raise UsageError(f"transport {transport!r} is neither 'tcp' nor 'udp'", transport=transport)
    leases, unseen = _leases(number, transport)
    if sys.platform == "linux":
        occupants, more = _linux(number, transport, leases)
        unseen += more
    else:
        occupants = [_lease(lease) for lease in leases]
        unseen += [f"sockets, and other processes' leases: {sys.platform} is not supported here"]
    return Who(number, tuple(occupants), tuple(unseen))


def _leases(port: int, transport: Transport | None) -> tuple[list[LeaseInfo], list[str]]:
    from portlease._leases import leases

    try:
        every = leases()
    except LeasesUnseenError as error:
        return [], [str(error)]
    kinds = {"both", "tcp", "udp"} if transport is None else {"both", transport}
    return [lease for lease in every if lease.port == port and lease.kind in kinds], []


def _lease(lease: LeaseInfo, started_at: float | None = None) -> Occupant:
    processes: tuple[Process, ...] = ()
    if lease.pid is not None:
        processes = (
            Process(pid=lease.pid, command=lease.command, uid=lease.uid, started_at=started_at),
        )
    return Occupant(
        kind="lease",
        transport="both" if lease.kind == "both" else "tcp" if lease.kind == "tcp" else "udp",
        address=lease.host,
        state=str(lease.state),
        processes=processes,
        uid=lease.uid,
        not_permitted=lease.pid is None,
        label=lease.label,
        since=lease.since,
        remedy=f"who can take it now: {WHO_CAN_TAKE_IT[State(lease.state)]}",
    )


if sys.platform == "linux":

    def _linux(
        port: int, transport: Transport | None, leases: list[LeaseInfo]
    ) -> tuple[list[Occupant], list[str]]:
        survey = _linux_diag.survey(port, transport)
        owners = _linux_proc.inode_owners({entry.inode for entry in survey.entries} - {0})
        known: dict[int, Process] = {}
        occupants = [
            _lease(lease, _process(lease.pid, known).started_at if lease.pid else None)
            for lease in leases
        ]
        occupants += sorted(
            (
                _socket(entry, owners, known)
                for entry in survey.entries
                if not any(_is_hold(entry, owners, lease) for lease in leases)
            ),
            key=lambda occupant: _ORDER.index(occupant.kind),
        )
        occupants += _rules(port)
        unseen = []
        if transport != "udp" and not survey.lists_bound:
            because = survey.refused or "the kernel lists them from Linux 6.8 on"
            unseen.append(f"TCP sockets that are bound and do not listen ({because})")
        return occupants, unseen

    def _socket(
        entry: _linux_diag.SocketEntry, owners: _linux_proc.Owners, known: dict[int, Process]
    ) -> Occupant:
        kind, remedy = _kind(entry)
        pids = owners.pids.get(entry.inode, [])
        not_permitted = entry.inode != 0 and not pids
        if not_permitted:
            remedy = (
                "run this as root, where the process lives, to see it"
                if os.path.exists("/proc/self")
                else "mount /proc to see it"
            )
        return Occupant(
            kind=kind,
            transport=entry.transport,
            address=entry.address,
            v6only=entry.v6only if entry.address == "::" else None,
            peer=entry.peer,
            state=entry.state,
            processes=tuple(_process(pid, known) for pid in pids),
            uid=entry.uid,
            not_permitted=not_permitted,
            seconds_left=entry.timer_s,
            remedy=remedy,
        )

    def _kind(entry: _linux_diag.SocketEntry) -> tuple[OccupantKind, str]:
        """What it is to a person, and the remedy."""
        kind: OccupantKind = "connection"
        remedy = _STOP
        if entry.state == "LISTEN":
            kind = "listener"
        elif entry.state == "BOUND":
            kind = "bound"
        elif entry.state == "TIME_WAIT":
            kind = "time_wait"
            # Tried: SO_REUSEADDR alone does not pass by the remains of a socket without it.
            remedy = "wait, or bind with SO_REUSEADDR, which helps if the closed socket had it too"
        elif entry.timer_s is not None:  # FIN_WAIT2, and the program has closed it
            kind = "time_wait"
            remedy = "wait until the other end closes it too, or the time is over"
        elif entry.inode == 0 and entry.state in ("SYN_RECV", "ESTABLISHED", "CLOSE_WAIT"):
            remedy = "it waits for the listener to accept it, and goes with the listener"
        elif entry.inode == 0:
            remedy = "its program has closed it; the kernel gives it up by itself"
        return kind, remedy

    def _process(pid: int, known: dict[int, Process]) -> Process:
        if pid not in known:
            info = _linux_proc.process_info(pid)
            known[pid] = (
                Process(pid=pid)
                if info is None  # it has gone since
                else Process(
                    pid=pid, command=info.command, uid=info.uid, started_at=info.started_at
                )
            )
        return known[pid]

    def _is_hold(
        entry: _linux_diag.SocketEntry, owners: _linux_proc.Owners, lease: LeaseInfo
    ) -> bool:
        """Whether this socket is the one that the lease holds its port with.

        Where /proc does not say whose the socket is, the user has to do: a hold was bound
        exclusively, so at most a server's that is about to listen is taken for it.
        """
        held = (HELD, OFFERED) if entry.transport == "tcp" else (HELD,)
        if (
            entry.state != "BOUND"
            or lease.state not in held
            or lease.kind not in (entry.transport, "both")
        ):
            return False
        pids = owners.pids.get(entry.inode, [])
        if pids:
            return lease.pid in pids
        return lease.uid is None or lease.uid == entry.uid

    def _rules(port: int) -> Iterable[Occupant]:
        rules = backend.rules()
        if port < rules.first_unprivileged and not _linux_proc.can_bind_privileged():
            yield Occupant(
                kind="privileged",
                transport="both",
                remedy=f"take a port from {rules.first_unprivileged} on, or run it as root, or "
                f"set net.ipv4.ip_unprivileged_port_start to {port} or less",
            )
        if port in rules.reserved:
            yield Occupant(
                kind="reserved",
                prevents=False,
                transport="both",
                remedy="neither bind(0) nor a lease is given it; whoever names it may bind it",
            )


_ORDER: Final = ("listener", "bound", "connection", "time_wait")


def _alike(occupants: Iterable[Occupant]) -> list[tuple[Occupant, int]]:
    """One of each sort, and how many there are: a busy server has thousands of connections.

    Connections of the same processes in the same state are one sort. Of what ends by itself, the
    one that lasts longest stands for the others.
    """
    sorts: dict[object, list[Occupant]] = {}
    for number, occupant in enumerate(occupants):
        key: object = number
        if occupant.peer is not None:
            key = (occupant.kind, occupant.transport, occupant.state, occupant.processes)
        sorts.setdefault(key, []).append(occupant)
    return [
        (max(sort, key=lambda occupant: occupant.seconds_left or 0.0), len(sort))
        for sort in sorts.values()
    ]


def _prefix(occupant: Occupant, port: int) -> str:
    return f"{'port' if occupant.transport == 'both' else occupant.transport} {port}"


def _at(address: str) -> str:
    """As in a URL; an IPv4 address that a dual-stack socket shows as ``::ffff:a.b.c.d`` plainly."""
    if "." in address:
        return address.removeprefix("::ffff:")
    return f"[{address}]" if ":" in address else address


def short_command(command: str) -> str:
    """``/usr/bin/redis-server --port 6379`` as ``redis-server --port 6379``, not too long."""
    program, blank, arguments = command.partition(" ")
    text = (program.rpartition("/")[2] or program) + blank + arguments
    return text if len(text) <= _COMMAND_LENGTH else text[: _COMMAND_LENGTH - 3] + "..."


def clock(when: float, *, now: float | None = None) -> str:
    """The local time of day, with the date where it is another than today's.

    Args:
        when: seconds since the epoch.
        now: the same, of the present; None for the system's clock.
    """
    then, today = time.localtime(when), time.localtime(now)
    same_day = then[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", then)
