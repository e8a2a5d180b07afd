"""What it costs to take a lease and give it back, in one process without any contention.

The yardstick is what the kernel asks for: the system calls on sockets that a default lease makes,
BARE_CALLS, made here bare in a Python loop, and by a small C program, programs/bare.c.
(tests/test_benchmarks.py compares that list with what strace sees of a lease and of the program.)
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import _measure
import _peers
from _machine import raise_descriptor_limit
from _measure import Contestant
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
BARE: Final = f"the same {len(BARE_CALLS)} system calls, bare Python"
BARE_C: Final = f"the same {len(BARE_CALLS)} system calls, C"
HOLD: Final = "a hold alone, bound to port 0"
LEASE: Final = "portlease.lease() ... release()"
FIND: Final = "portlease.find_unused_port()"
HOLDS: Final = {
    BARE: "the hold, OFFERED",
    BARE_C: "the hold, OFFERED",
    HOLD: "the hold, OFFERED",
    LEASE: "the hold, OFFERED",
    FIND: "GUARDED",
    **_peers.HOLDS,
}
HERE: Final = "this process"
ELSEWHERE: Final = "another"
# For the bare calls, which need numbers that are free.
_PORTS: Final = 1000
# As many for all that are quick: whoever has longer turns is interrupted in more of them.
_CALLS: Final = 30
_HELD: Final = (1000, 10_000)
_DESCRIPTORS_A_LEASE: Final = 2
_SPARE_DESCRIPTORS: Final = 500
_SOURCE: Final = Path(__file__).with_name("programs") / "bare.c"


def measure(scale: Scale) -> Result:
    """Measure it beside the bare calls and the peers, then with many leases held."""
    with (
        tempfile.TemporaryDirectory(prefix="portlease-bench-") as folder,
        _BareC(Path(folder)) as bare_c,
        _peers.portserver() as server,
    ):
        notes = [] if bare_c.why_not is None else [f"{BARE_C} were left out: {bare_c.why_not}"]
        figures = _measure.interleaved(
            _contestants(bare_c, server, notes), rounds=scale(tiny=3, quick=12, full=100)
        )
        held, flat = _with_many_held(scale, bare_c, notes)
    notes += [
        (
            "10,000 leases are nearly half of the numbers that a lease may have where the "
            "ephemeral range is 32768-60999. A process knows its own; those of another only the "
            "kernel knows, and a draw that hits one is made again"
        ),
        (
            "the kernel keeps the Unix sockets of a network namespace in 256 chains "
            "(net/unix/af_unix.c), so their names are found more slowly the more there are, by the "
            "bare calls too"
        ),
        (
            "CPython's find_unused_port() resolves `localhost` at every call: its figure includes "
            "reading /etc/hosts"
        ),
        (
            "rig (`rig-cli` on PyPI) runs the services of a development machine, and documents no "
            "port helper; measured is what its runner calls for a service without preferred ports"
        ),
    ]
    return Result(
        "lease_cost",
        "Taking a port and giving it back",
        [_cost_table(figures), held],
        [*_goals(figures), *flat],
        notes,
    )


def _goals(figures: dict[str, list[float]]) -> list[Goal]:
    lease = figures[LEASE]
    goals = [Goal(f"{LEASE} against {BARE}", _measure.ratio(lease, figures[BARE]), 1.5)]
    goals += [
        Goal(f"{LEASE} against {name}", _measure.ratio(lease, figures[name]), 1.0)
        for name in (_peers.CPYTHON, *_peers.HOLDERS)
        if name in figures
    ]
    return goals


# --- contestants --------------------------------------------------------------------------------


def _contestants(
    bare_c: _BareC, server: str | None, notes: list[str] | None = None
) -> dict[str, Contestant]:
    """All of them; made anew whenever the bare calls need ports that are free now."""
    ports = itertools.cycle(free_ports(_PORTS))
    peers, missing = _peers.installed(server)
    if notes is not None:
        notes += missing
    found = {} if bare_c.why_not else {BARE_C: Contestant(lambda n: bare_c.run(ports, n), _CALLS)}
    found |= {
        BARE: Contestant(lambda calls: bare(ports, calls), _CALLS),
        HOLD: Contestant(_hold_alone, _CALLS),
        LEASE: Contestant(_lease, _CALLS),
        FIND: Contestant(_repeat(portlease.find_unused_port), _CALLS),
    }
    return found | {
        peer.name: Contestant(peer.take_and_give_back, 1 if peer.milliseconds else _CALLS)
        for peer in peers
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


# They take plain ints for the constants, and the type that the package takes: an enum member costs
# 0.2 us a call, and socket.socket another 1 us.
_UNIX: Final = int(socket.AF_UNIX)
_INET6: Final = int(socket.AF_INET6)
_DGRAM: Final = int(socket.SOCK_DGRAM)
_STREAM: Final = int(socket.SOCK_STREAM)
_IPV6: Final = int(socket.IPPROTO_IPV6)
_V6ONLY: Final = int(socket.IPV6_V6ONLY)
_OPTIONS: Final = int(socket.SOL_SOCKET)
_REUSEADDR: Final = int(socket.SO_REUSEADDR)


def bare(ports: Iterator[int], calls: int) -> None:
    """Make the calls of a lease, so many times, for each of *ports* once."""
    new = socket.SocketType
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
        hold.setsockopt(_OPTIONS, _REUSEADDR, 1)
        row.close()
        hold.close()


def _hold_alone(calls: int) -> None:
    new = socket.SocketType
    for _ in range(calls):
        hold = new(_INET6, _STREAM)
        hold.setsockopt(_IPV6, _V6ONLY, 0)
        hold.bind(("::", 0))
        hold.setsockopt(_OPTIONS, _REUSEADDR, 1)
        hold.getsockname()
        hold.close()


class _BareC:
    """programs/bare.c, compiled into *folder* and at work; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.why_not: str | None = None
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None
        gcc = shutil.which("gcc")
        if gcc is None:
            self.why_not = "no gcc is installed"
            return
        program = str(folder / "bare")
        flags = ("-O2", "-Wall", "-Wextra", "-Werror")
        subprocess.run([gcc, *flags, "-o", program, str(_SOURCE)], check=True, timeout=120)
        self._process = self._stack.enter_context(
            subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )

    def run(self, ports: Iterator[int], calls: int) -> int:
        """Have it do that many; return the nanoseconds that it took by its own clock."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("there is no such program")
        process.stdin.write(" ".join(map(str, itertools.islice(ports, calls))) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()  # closes its input, which ends it


# --- with none held -----------------------------------------------------------------------------


def _cost_table(figures: dict[str, list[float]]) -> Table:
    rows: list[dict[str, Cell]] = []
    for name, values in figures.items():
        row = {**time_cells(name, _measure.spread(values)), "holds": HOLDS[name]}
        row["bare"] = _measure.ratio(values, figures[BARE])
        row["lease"] = _measure.ratio(values, figures[LEASE])
        rows.append(row)
    first, *times = time_columns("take and give back", "us")
    columns = [
        *(first, Column("holds", "what keeps others away meanwhile")),
        *times,
        Column("bare", "x bare Python", "{:.2f}"),
        Column("lease", "x lease", "{:.2f}"),
    ]
    return Table("One after the other, none held", columns, rows)


# --- with many held -----------------------------------------------------------------------------


def _with_many_held(scale: Scale, bare_c: _BareC, notes: list[str]) -> tuple[Table, list[Goal]]:
    """Measure again while this process, and then another one, holds many leases."""
    room = (raise_descriptor_limit() - _SPARE_DESCRIPTORS) // _DESCRIPTORS_A_LEASE
    counts = _HELD if scale(tiny=0, quick=1, full=1) else (50,)
    if room < counts[-1]:
        notes.append(
            f"the limit of open files leaves room for {room:,} leases in a process: `{HERE}` holds "
            f"as many of the {counts[-1]:,}, and another the rest"
        )
    states = [("", 0), *((holder, count) for holder in (HERE, ELSEWHERE) for count in counts)]
    figures: dict[tuple[str, int], dict[str, list[float]]] = {state: {} for state in states}
    turns, rounds = scale(tiny=2, quick=2, full=15), scale(tiny=1, quick=2, full=3)
    with _OtherHolders(room) as others:
        for turn in range(turns):
            for holder, count in states:
                with _holding(holder, count, others), _peers.portserver() as server:
                    contestants = _contestants(bare_c, server)
                    once = _measure.interleaved(contestants, rounds=rounds, warm_up=turn == 0)
                for name, values in once.items():
                    figures[holder, count].setdefault(name, []).extend(values)
    alone = figures["", 0]
    rows = [_held_row(name, figures) for name in alone]
    columns = [Column("name", "median us (quartiles)"), Column("0", "none held")]
    columns += [Column(f"{n} {who}", f"{n:,} by {who}") for who, n in states if n]
    columns += [
        Column(f"flat {who}", f"{counts[-1]:,} by {who} x none", "{:.2f}")
        for who in (HERE, ELSEWHERE)
    ]
    goals = [
        Goal(
            f"{LEASE}, {count:,} held by {who}, against none held",
            _measure.ratio(found[LEASE], alone[LEASE]),
            1.2,
        )
        for (who, count), found in figures.items()
        if count
    ]
    return Table("While many leases are held", columns, rows), goals


def _held_row(name: str, figures: dict[tuple[str, int], dict[str, list[float]]]) -> dict[str, Cell]:
    """A contestant's cells; beside each that is shown, the figures themselves."""
    row: dict[str, Cell] = {"name": name}
    for (who, count), found in figures.items():
        key = f"{count} {who}".strip()
        one = _measure.spread(found[name])
        row[key] = f"{one.median:.2f} ({one.lower:.2f} - {one.upper:.2f})"
        row |= {f"{key} median": one.median, f"{key} lower": one.lower, f"{key} upper": one.upper}
        if count:  # the last, and so the most, stays
            row[f"flat {who}"] = _measure.ratio(found[name], figures["", 0][name])
    return row


class _holding:  # noqa: N801 - read as a verb: with _holding(...)
    """*count* leases are held in the block, by this process or by *others*."""

    def __init__(self, holder: str, count: int, others: _OtherHolders) -> None:
        self._here = min(count, others.room) if holder == HERE else 0
        self._there = count - self._here
        self._others = others
        self._leases: portlease.LeaseGroup | None = None

    def __enter__(self) -> None:
        if self._here:
            self._leases = portlease.lease_many(self._here)
        self._others.hold(self._there)

    def __exit__(self, *_: object) -> None:
        if self._leases is not None:
            self._leases.release()
        self._others.hold(0)


class _OtherHolders:
    """Processes that hold as many leases as they are told to, *room* each; a context manager."""

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

    def __init__(self, room: int) -> None:
        self.room = room
        self._stack = contextlib.ExitStack()
        self._held: list[int] = []
        self._processes: list[subprocess.Popen[str]] = []

    def hold(self, count: int) -> None:
        """Return once they hold exactly *count*."""
        shares: list[int] = []
        while count > sum(shares):
            shares.append(min(self.room, count - sum(shares)))
        while len(self._processes) < len(shares):
            self._start()
        shares += [0] * (len(self._processes) - len(shares))
        for at, share in enumerate(shares):
            if share != self._held[at]:
                self._tell(self._processes[at], share)
                self._held[at] = share

    def _start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", self._SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(process.communicate)  # the end of its input is the end of it
        self._processes.append(process)
        self._held.append(0)

    def _tell(self, process: subprocess.Popen[str], count: int) -> None:
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:  # for the type checker: both are pipes
            raise RuntimeError("the holder has no pipes")
        stdin.write(f"{count}\n")
        stdin.flush()
        if stdout.readline() != "holding\n":
            raise RuntimeError(f"the process that should hold {count} leases died: see above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
