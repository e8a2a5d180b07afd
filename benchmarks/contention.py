"""Eight processes that want the same 500 ports, by number, all at once; and the death of a holder.

Each process takes ports out of the same 500 until none is left. Every port must be leased, and none
twice: the processes' own lists are compared, and so is the board of leases() while all are held.
The yardstick is the bare minimum, sockets bound exclusively in random order: no row, no guard, no
answer to who has the ports.
"""

from __future__ import annotations

import errno
import random
import socket
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from _crew import Crew
from _ports import free_ports
from _report import Cell, Column, Goal, Result, Table

import portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from run import Scale

_LEASES: Final = "portlease.lease(ports=...)"
_SOCKETS: Final = "bare sockets, bound exclusively"


@dataclass(frozen=True, slots=True)
class _Round:
    """One contention: what each process had, and the milliseconds since the first began."""

    had: Sequence[Sequence[int]]
    on_the_board: int | None
    taken_ms: float
    known_ms: float

    @property
    def taken(self) -> int:
        return sum(map(len, self.had))

    @property
    def different(self) -> int:
        return len({port for ports in self.had for port in ports})


def measure(scale: Scale) -> Result:
    """Let them contend, the two contestants by turns, and kill a holder."""
    processes = scale(tiny=3, quick=8, full=8)
    wanted = scale(tiny=40, quick=500, full=500)
    rounds = scale(tiny=1, quick=1, full=10)
    found: dict[str, list[_Round]] = {_LEASES: [], _SOCKETS: []}
    for _ in range(rounds):
        for name, rounds_of_it in found.items():
            rounds_of_it.append(_contend(name, processes, wanted))
    deaths = [_death(wanted) for _ in range(rounds)]
    contention = Table(
        f"{processes} processes, {wanted} ports, {rounds} rounds",
        [
            Column("name", "contestant"),
            Column("taken", "taken"),
            Column("different", "different ports"),
            Column("board", "on the board"),
            Column("fewest", "fewest of a process"),
            Column("taken_ms", "all taken, median ms", "{:.1f}"),
            Column("known_ms", "all know it, median ms", "{:.1f}"),
        ],
        [_row(name, contended) for name, contended in found.items()],
    )
    death = Table(
        f"The holder of {wanted} leases is killed (SIGKILL), {rounds} rounds",
        [
            Column("what", "what"),
            Column("median", "median ms", "{:.2f}"),
            Column("most", "most ms", "{:.2f}"),
        ],
        [
            _death_row("from kill() until it is reaped", [reaped for _, reaped, _ in deaths]),
            _death_row(f"then to lease all {wanted} again", [again for *_, again in deaths]),
        ],
    )
    ours = found[_LEASES]
    return Result(
        "contention",
        f"Contention: {processes} processes for the same {wanted} ports",
        [contention, death],
        [
            Goal("ports nobody leased", sum(wanted - one.different for one in ours), 0, ""),
            Goal("ports leased twice", sum(one.taken - one.different for one in ours), 0, ""),
            Goal("ports that were not free after a death", sum(lost for lost, *_ in deaths), 0, ""),
        ],
        ["`all know it`: the last process was refused one more, and was told who has the ports"],
    )


# --- contention ---------------------------------------------------------------------------------


def _contend(name: str, processes: int, wanted: int) -> _Round:
    ports = free_ports(wanted)
    members = [{"name": name, "ports": ports}] * processes
    with Crew("contention", "contender", members) as crew:
        crew.go()
        results = crew.results()
        board = None
        if name == _LEASES:
            wanted_ports = set(ports)
            board = sum(one.port in wanted_ports for one in portlease.leases())
    start = min(begin for _, begin, _, _ in results)
    return _Round(
        had=[had for had, *_ in results],
        on_the_board=board,
        taken_ms=(max(last for _, _, last, _ in results) - start) / 1e6,
        known_ms=(max(end for *_, end in results) - start) / 1e6,
    )


def _row(name: str, rounds: Sequence[_Round]) -> dict[str, Cell]:
    boards = [one.on_the_board for one in rounds if one.on_the_board is not None]
    return {
        "name": name,
        "taken": sum(one.taken for one in rounds),
        "different": sum(one.different for one in rounds),
        "board": sum(boards) if boards else None,
        "fewest": min(len(had) for one in rounds for had in one.had),
        "taken_ms": statistics.median(one.taken_ms for one in rounds),
        "known_ms": statistics.median(one.known_ms for one in rounds),
    }


def contender(*, name: str, ports: list[int]) -> Callable[[], list[object]]:
    """Return the task: take of *ports* what can be had, and keep it.

    It returns what it had, when it began, took its last and knew it was the last (nanoseconds).
    """
    take = _lease_any if name == _LEASES else _bind_any
    held: list[object] = []  # in the closure: held as long as the process lives

    def run() -> list[object]:
        had: list[int] = []
        begin = last = time.monotonic_ns()
        for port, holder in take(ports):
            had.append(port)
            held.append(holder)
            last = time.monotonic_ns()
        return [had, begin, last, time.monotonic_ns()]

    return run


def _lease_any(ports: list[int]) -> Iterator[tuple[int, object]]:
    while True:
        try:
            lease = portlease.lease(ports=ports)
        except portlease.PortUnavailableError:
            return
        yield lease.port, lease


def _bind_any(ports: list[int]) -> Iterator[tuple[int, object]]:
    order = list(ports)
    random.SystemRandom().shuffle(order)
    for port in order:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(("::", port))
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        yield port, sock


# --- death --------------------------------------------------------------------------------------


def _death(wanted: int) -> tuple[int, float, float]:
    """Kill a holder; return how many of its ports were not free then, and the two times in ms."""
    ports = free_ports(wanted)
    with Crew("contention", "contender", [{"name": _LEASES, "ports": ports}]) as crew:
        crew.go()
        ((had, *_),) = crew.results()
        killed = time.perf_counter_ns()
        crew.kill()
        reaped = time.perf_counter_ns()
    begin = time.perf_counter_ns()
    again = []
    for port in had:
        try:
            again.append(portlease.lease(ports=[port]))
        except portlease.PortUnavailableError:
            continue
    end = time.perf_counter_ns()
    for lease in again:
        lease.release()
    return len(had) - len(again), (reaped - killed) / 1e6, (end - begin) / 1e6


def _death_row(what: str, values: Sequence[float]) -> dict[str, Cell]:
    return {"what": what, "median": statistics.median(values), "most": max(values)}
