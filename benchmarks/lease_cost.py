"""What it costs to take a lease and give it back, in one process without any contention.

The yardstick is what the kernel asks for: the system calls on sockets that a default lease makes,
BARE_CALLS, made here bare in a Python loop. (tests/test_benchmarks.py compares that list with what
strace sees of a lease.)
"""

from __future__ import annotations

import errno
import itertools
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final, Self

import _measure
import _peers
from _machine import raise_descriptor_limit
from _measure import Contestant, Spread
from _ports import free_ports
from _report import Cell, Column, Goal, Result, Table, time_cells, time_columns

import portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from run import Scale

# Row and its name, a look at the guard, the hold and its bind, another look, the offer.
BARE_CALLS: Final = (
    *("socket", "bind", "connect"),
    *("socket", "setsockopt", "bind", "connect", "setsockopt"),
    *("close", "close"),
)
_BARE: Final = f"the same {len(BARE_CALLS)} system calls, bare"
_BARE_C: Final = "the same, with the C type SocketType"
_HOLD: Final = "hold alone, bound to port 0"
_HOLD_C: Final = "hold alone, with the C type"
_LEASE: Final = "portlease.lease() ... release()"
_FIND: Final = "portlease.find_unused_port()"
# For the bare calls, which need numbers that are free.
_PORTS: Final = 1000
_HELD: Final = (1000, 8000)
_DESCRIPTORS_A_LEASE: Final = 2
_SPARE_DESCRIPTORS: Final = 500


def measure(scale: Scale) -> Result:
    """Measure it beside the bare calls and the peers, then with many leases held."""
    with _peers.portserver() as server:
        peers, notes = _peers.installed(server)
        contestants = {**_ours(), **_theirs(peers)}
        figures = _measure.interleaved(contestants, rounds=scale(tiny=3, quick=15, full=60))
    goals = [
        Goal(f"{_LEASE} against {_BARE}", _measure.ratio(figures[_LEASE], figures[_BARE]), 2.5)
    ]
    if _peers.CPYTHON in figures:
        against = _measure.ratio(figures[_LEASE], figures[_peers.CPYTHON])
        goals.append(Goal(f"{_LEASE} against {_peers.CPYTHON}", against, 1.0))
    held, flat = _with_many_held(scale, notes)
    notes.append(
        "with 8,000 leases held every third port outside the ephemeral range is taken (where that "
        "is 32768-60999), and so is every third that is drawn; those of other processes only the "
        "kernel knows"
    )
    if _peers.CPYTHON in figures:
        notes.append(
            "CPython's find_unused_port() resolves `localhost` at every call: its figure includes "
            "reading this machine's /etc/hosts"
        )
    notes.append(
        "portlease.find_unused_port() keeps its last 64 ports guarded and asks the kernel for "
        "every Unix socket of the network namespace: its figure grows with their number"
    )
    return Result(
        "lease_cost",
        "Taking a port and giving it back",
        [_cost_table(figures), held],
        [*goals, *flat],
        notes,
    )


# --- contestants --------------------------------------------------------------------------------


def _ours() -> dict[str, Contestant]:
    ports = itertools.cycle(free_ports(_PORTS))
    return {
        _BARE: Contestant(lambda calls: _bare(socket.socket, ports, calls), 100),
        _BARE_C: Contestant(lambda calls: _bare(socket.SocketType, ports, calls), 100),
        _HOLD: Contestant(lambda calls: _hold_alone(socket.socket, calls), 100),
        _HOLD_C: Contestant(lambda calls: _hold_alone(socket.SocketType, calls), 100),
        _LEASE: Contestant(_lease, 100),
        _FIND: Contestant(_repeat(portlease.find_unused_port), 30),
    }


def _theirs(peers: list[_peers.Peer]) -> dict[str, Contestant]:
    return {
        peer.name: Contestant(_repeat(peer.take), 1 if peer.milliseconds else 30) for peer in peers
    }


def _repeat(take: Callable[[], object]) -> Callable[[int], None]:
    def run(calls: int) -> None:
        for _ in range(calls):
            take()

    return run


def _lease(calls: int) -> None:
    lease = portlease.lease
    for _ in range(calls):
        lease().release()


# Both take plain ints for the constants, as the package does: an enum member costs 0.2 us a call.
_UNIX: Final = int(socket.AF_UNIX)
_INET6: Final = int(socket.AF_INET6)
_DGRAM: Final = int(socket.SOCK_DGRAM)
_STREAM: Final = int(socket.SOCK_STREAM)
_IPV6: Final = int(socket.IPPROTO_IPV6)
_V6ONLY: Final = int(socket.IPV6_V6ONLY)
_SOCKET: Final = int(socket.SOL_SOCKET)
_REUSEADDR: Final = int(socket.SO_REUSEADDR)


def _bare(new: type[socket.SocketType], ports: Iterator[int], calls: int) -> None:
    for port in itertools.islice(ports, calls):
        row = new(_UNIX, _DGRAM)
        row.bind(b"\0benchmark/1/%d/t/o/1234567/effffffc/19a0f3c2b1d/*/" % port)
        row.connect_ex(b"\0benchmark/1/g/tcp/%d" % port)
        hold = new(_INET6, _STREAM)
        hold.setsockopt(_IPV6, _V6ONLY, 0)
        try:
            hold.bind(("::", port))
        except OSError as error:  # somebody came since free_ports(): one call less, once
            if error.errno != errno.EADDRINUSE:
                raise
        row.connect_ex(b"\0benchmark/1/g/tcp/%d" % port)
        hold.setsockopt(_SOCKET, _REUSEADDR, 1)
        row.close()
        hold.close()


def _hold_alone(new: type[socket.SocketType], calls: int) -> None:
    for _ in range(calls):
        hold = new(_INET6, _STREAM)
        hold.setsockopt(_IPV6, _V6ONLY, 0)
        hold.bind(("::", 0))
        hold.setsockopt(_SOCKET, _REUSEADDR, 1)
        hold.getsockname()
        hold.close()


def _cost_table(figures: dict[str, list[float]]) -> Table:
    rows: list[dict[str, Cell]] = []
    for name, values in figures.items():
        row = time_cells(name, _measure.spread(values))
        row["bare"] = _measure.ratio(values, figures[_BARE])
        if _peers.CPYTHON in figures:
            row["cpython"] = _measure.ratio(values, figures[_peers.CPYTHON])
        rows.append(row)
    columns = [
        *time_columns("take and give back", "us"),
        Column("bare", "x bare", "{:.2f}"),
        Column("cpython", "x CPython", "{:.2f}"),
    ]
    return Table("One after the other, none held", columns, rows)


# --- with many held -----------------------------------------------------------------------------


def _with_many_held(scale: Scale, notes: list[str]) -> tuple[Table, list[Goal]]:
    """Measure again while this process, and then another one, holds many leases."""
    room = (raise_descriptor_limit() - _SPARE_DESCRIPTORS) // _DESCRIPTORS_A_LEASE
    wanted = _HELD if scale(tiny=0, quick=1, full=1) else (50,)
    counts = [count for count in wanted if count <= room]
    if len(counts) < len(wanted):
        notes.append(f"the limit of open files leaves room for {room} leases: no row above that")
    peers = _theirs(_peers.installed()[0])
    held: list[tuple[str, int]] = [("nobody", 0)]
    held += [(holder, count) for holder in ("this process", "another") for count in counts]
    figures: dict[tuple[str, int], dict[str, list[float]]] = {key: {} for key in held}
    with _OtherHolder() as other:
        for turn in range(scale(tiny=2, quick=5, full=15)):
            for holder, count in held:
                with _holding(holder, count, other):
                    # Made anew, since the bare calls need ports that are free now.
                    contestants = {
                        name: contestant
                        for name, contestant in {**_ours(), **peers}.items()
                        if name in {_BARE, _LEASE, _peers.CPYTHON}
                    }
                    once = _measure.interleaved(contestants, rounds=2, warm_up=turn == 0)
                for name, values in once.items():
                    figures[holder, count].setdefault(name, []).extend(values)
    rows = [
        _held_row(holder, count, name, values, figures["nobody", 0][name])
        for (holder, count), found in figures.items()
        for name, values in found.items()
    ]
    columns = [
        Column("held", "leases held"),
        Column("by", "by"),
        *time_columns("what", "us"),
        Column("flat", "x none held", "{:.2f}"),
    ]
    goals = [
        Goal(
            f"{_LEASE}, {count} held by {holder}, against none held",
            _measure.ratio(found[_LEASE], figures["nobody", 0][_LEASE]),
            1.2,
        )
        for (holder, count), found in figures.items()
        if count
    ]
    return Table("While many leases are held", columns, rows), goals


def _held_row(
    holder: str, count: int, name: str, values: list[float], alone: list[float]
) -> dict[str, Cell]:
    figures: Spread = _measure.spread(values)
    return {
        "held": count,
        "by": holder,
        **time_cells(name, figures),
        "flat": _measure.ratio(values, alone),
    }


class _holding:  # noqa: N801 - read as a verb: with _holding(...)
    """*count* leases are held in the block, by this process or by *other*."""

    def __init__(self, holder: str, count: int, other: _OtherHolder) -> None:
        self._here = count if holder == "this process" else 0
        self._there = count if holder == "another" else 0
        self._other = other
        self._leases: portlease.LeaseGroup | None = None

    def __enter__(self) -> None:
        if self._here:
            self._leases = portlease.lease_many(self._here)
        if self._there:
            self._other.hold(self._there)

    def __exit__(self, *_: object) -> None:
        if self._leases is not None:
            self._leases.release()
        if self._there:
            self._other.hold(0)


class _OtherHolder:
    """A process that holds as many leases as it is told to."""

    _SCRIPT: Final = """\
import sys
import portlease
held = None
for line in sys.stdin:
    if held is not None:
        held.release()
        held = None
    if int(line):
        held = portlease.lease_many(int(line))
    print("holding", flush=True)
"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hold(self, count: int) -> None:
        """Return once it holds exactly *count*."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:  # for the type checker: both are pipes
            raise RuntimeError("the holder has no pipes")
        stdin.write(f"{count}\n")
        stdin.flush()
        if stdout.readline() != "holding\n":
            raise RuntimeError(f"the process that should hold {count} leases died: see above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input is the end of it
