"""How many ports 1 to 16 processes take and give back in a second, all together.

The processes are there all the time, with every contestant loaded. For each contestant and number
by turns, so many of them begin at the same moment and take ports until a moment that was told
beforehand; the others sleep. With more processes than cores no more is to be had; how much less it
gets is what they are in each other's way, in the kernel or at a server.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import _measure
import _peers
import lease_cost
from _ports import free_ports
from _report import Cell, Column, Goal, Result, Table

import portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from run import Scale

_CROWDS: Final = (1, 2, 4, 8, 16)
# Enough for processes to wake up on a busy machine: the first are not to have it for themselves.
_NOTICE_S: Final = 0.02
# The server never takes back what a living process has.
_SERVER_POOL: Final = "10000-32767"
_PORTS: Final = 100


def measure(scale: Scale) -> Result:
    """Let crowds of each size take ports, contestants and sizes by turns."""
    crowds = _CROWDS if scale(tiny=0, quick=1, full=1) else (1, 2)
    rounds = scale(tiny=1, quick=2, full=12)
    window_s = scale(tiny=10, quick=30, full=60) / 1000
    figures: dict[tuple[str, int], list[float]] = {}
    with (
        _peers.portserver(_SERVER_POOL) as server,
        _Members(max(crowds), server) as members,
    ):
        names = members.names
        turns = [(name, crowd) for name in names for crowd in crowds]
        for turn in range(-1, rounds):
            first = turn % len(turns)
            for name, crowd in turns[first:] + turns[:first]:
                rate = members.measure(name, crowd, window_s)
                if turn >= 0:  # the first is to warm up
                    figures.setdefault((name, crowd), []).append(rate / 1000)
    rows = [_row(name, crowds, figures) for name in names]
    columns = [Column("name", "thousand ports a second, median (quartiles)")]
    columns += [Column(str(crowd), "alone" if crowd == 1 else f"by {crowd}") for crowd in crowds]
    columns.append(Column("flat", f"by {crowds[-1]} x alone", "{:.2f}"))
    lease, bare = (figures[name, crowds[-1]] for name in (lease_cost.LEASE, lease_cost.BARE))
    goal = f"{lease_cost.BARE} against {lease_cost.LEASE}, by {crowds[-1]} processes"
    return Result(
        "crowd",
        f"Taking ports, {crowds[0]} to {crowds[-1]} processes at once",
        [Table(f"Processes at once, {window_s * 1000:.0f} ms each time", columns, rows)],
        [Goal(goal, _ratio(bare, lease), 1.5)],
        [
            *members.missing,
            (
                f"{_peers.RESERVE} is not here: it leaves each port in TIME_WAIT for a minute, so "
                "a crowd has soon used up the ephemeral range; port-for is not either, it "
                "takes 10 ms"
            ),
        ],
    )


def _row(
    name: str, crowds: Sequence[int], figures: dict[tuple[str, int], list[float]]
) -> dict[str, Cell]:
    row: dict[str, Cell] = {"name": name}
    for crowd in crowds:
        one = _measure.spread(figures[name, crowd])
        row[str(crowd)] = f"{one.median:.1f} ({one.lower:.1f} - {one.upper:.1f})"
        row |= {
            f"{crowd} median": one.median,
            f"{crowd} lower": one.lower,
            f"{crowd} upper": one.upper,
        }
    row["flat"] = _ratio(figures[name, crowds[-1]], figures[name, 1])
    return row


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """As _measure.ratio(), of the rounds in which a busy machine let both have a port."""
    both = [(a, b) for a, b in zip(over, under, strict=True) if a and b]
    return _measure.ratio(*zip(*both, strict=True)) if both else float("nan")


class _Members:
    """The processes; a context manager that ends them."""

    def __init__(self, count: int, server: str | None) -> None:
        ports = free_ports(count * _PORTS)
        self._processes: list[subprocess.Popen[str]] = []
        try:
            for member in range(count):
                mine = ports[member::count]
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, __file__, json.dumps([server, mine])],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            said = [self._answer(process) for process in self._processes]
            self.names, self.missing = said[0]
        except BaseException:
            self._end()
            raise

    def measure(self, name: str, crowd: int, window_s: float) -> float:
        """Let *crowd* of them do it for so long; return how many ports a second they had."""
        begin_s = time.monotonic() + _NOTICE_S
        for process in self._processes[:crowd]:
            if process.stdin is None:  # for the type checker: it is a pipe
                raise RuntimeError("a member without input")
            process.stdin.write(json.dumps([name, begin_s, begin_s + window_s]) + "\n")
            process.stdin.flush()
        taken: list[int] = [self._answer(process) for process in self._processes[:crowd]]
        return sum(taken) / window_s

    def _answer(self, process: subprocess.Popen[str]) -> Any:  # noqa: ANN401 - what it says
        if process.stdout is None:  # for the type checker: it is a pipe
            raise RuntimeError("a member without output")
        return json.loads(process.stdout.readline())

    def _end(self) -> None:
        for process in self._processes:
            process.communicate()  # the end of its input is the end of it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


# --- in each of them ------------------------------------------------------------------------------


def _main() -> None:
    server, ports = json.loads(sys.argv[1])
    os.environ.pop("PORTSERVER_ADDRESS", None)  # portpicker would ask that server unasked
    peers, missing = _peers.installed(server)
    turn = itertools.cycle(ports)
    takers: dict[str, Callable[[], object]] = {
        lease_cost.BARE: lambda: lease_cost.bare(turn, 1),
        lease_cost.LEASE: lambda: portlease.lease().release(),
        lease_cost.FIND: portlease.find_unused_port,
    }
    for peer in peers:
        if peer.name != _peers.RESERVE and not peer.milliseconds:
            takers[peer.name] = lambda peer=peer: peer.take_and_give_back(1)  # type: ignore[misc]
    print(json.dumps([list(takers), missing]), flush=True)
    for line in sys.stdin:
        name, begin_s, end_s = json.loads(line)
        print(json.dumps(_taken(takers[name], begin_s, end_s)), flush=True)


def _taken(take: Callable[[], object], begin_s: float, end_s: float) -> int:
    """Take ports from the one moment to the other; return how many it had by then."""
    time.sleep(max(0.0, begin_s - time.monotonic()))
    count = 0
    if time.monotonic() < end_s:
        take()
        while time.monotonic() < end_s:
            count += 1  # of the one before, which was in time
            take()
    return count


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    _main()
