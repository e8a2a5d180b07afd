"""One of the processes: it takes leases and starts servers until its place has had its share.

``python -m benchmarks.soak._worker JSON``, with :class:`Task` as the object. Whoever follows a
process that was killed goes on where the shared counts stand.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import portlease

from . import _leases, _servers, _unheld
from ._board import Board
from ._counts import of_this_process
from ._ledger import Ledger
from ._log import Log
from ._servers import Means

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._ledger import Claim

    Held = _leases.Held | _unheld.Held

_HELD: Final = 60
"""What it holds at most, besides what is a block of code long; the more it has, the rarer it takes.
"""
_UNHELD: Final = 12
_SHORT: Final = 0.3
_ISOLATED_EVERY: Final = 20
_DIES_EVERY: Final = 8
_PR_SET_PDEATHSIG: Final = 1
_TROUBLES: Final = 200
"""So many troubles of one place, and it gives up: something is broken."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a process is told."""

    controller: int
    """The pid of whoever started it."""
    board: int
    places: int
    place: int
    number: int
    """No other process of the soak has it."""
    run: str
    directory: str
    """For its files: what it wrote down."""
    named: Sequence[int]
    leases: int
    """The share of its place."""
    servers: int
    means: Sequence[Sequence[str]]
    isolates: bool
    dies: bool
    """Whether it may kill itself under a running server."""
    quiet_points: int
    held: bool
    """False for the control."""

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.place:02}-{self.number:05}"


class Worker:
    """A process at work."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._random = random.Random(f"{task.run}/{task.number}")  # noqa: S311 - a mix, no secret
        self._board = Board(task.board, task.places)
        directory = Path(task.directory)
        self._log = Log(directory / f"{task.name}.log")
        self._samples = directory / f"{task.name}.samples"
        self._troubles = directory / f"{task.name}.troubles"
        self._ledger = Ledger(self._board, task.run, task.place, task.number, self._trouble)
        lessor = _leases.Lessor if task.held else _unheld.Lessor
        self._lessor = lessor(task.named, f"soak {task.place}")
        self._bag: list[tuple[Held, list[Claim]]] = []
        self._most = _HELD if task.held else _UNHELD
        self._means = [Means(*one) for one in task.means]

    def run(self) -> None:
        """Work until the share is done; then give everything back."""
        task = self._task
        self._board.enter(task.place, task.number)
        portlease.leases()  # what is imported at first use is there from here on
        next_quiet = self._quiet()
        while (done := self._count("leases")) < task.leases or self._servers_are_due(done):
            if self._servers_are_due(done):
                self._serve()
            if done < task.leases:
                self._step()
            if done >= next_quiet:
                next_quiet = self._quiet()
        self._quiet()
        self._board.close()
        self._log.close()

    def _step(self) -> None:
        """Take something, or give something back."""
        if self._random.random() * self._most < len(self._bag):
            self._end(self._bag.pop(self._random.randrange(len(self._bag))))
            return
        try:
            taken = self._lessor.take(self._random)
        except portlease.PortleaseError as error:
            self._trouble(f"take: {error!r}")
            return
        if taken is None:
            self._add("refused")
            return
        mine = taken, self._claimed(taken.ports())
        self._add("leases", taken.count())
        self._add(taken.kind, taken.count())
        for state in taken.states():
            self._add(state)
        if not self._task.held or _leases.wants_to_move(self._random):
            try:
                taken.move(self._random, self._add)
            except portlease.PortleaseError as error:
                self._trouble(f"{taken.kind} port {taken.ports()[0]}, a move: {error!r}")
        if self._task.held and self._random.random() < _SHORT:
            self._end(mine, "with")
        else:
            self._bag.append(mine)

    def _end(self, mine: tuple[Held, list[Claim]], way: str | None = None) -> None:
        held, claims = mine
        del mine
        way = way or _leases.a_way(self._random)
        self._dropped(claims)
        self._add(way, held.count())
        held.end(way)

    def _claimed(self, ports: Sequence[tuple[str, int]]) -> list[Claim]:
        """These are ours now: tell the ledger, and write it down."""
        claims = [self._ledger.claim(transport, port) for transport, port in ports]
        self._log.taken(claims)
        return claims

    def _dropped(self, claims: Sequence[Claim]) -> None:
        self._log.given_back(claims)
        for one in claims:
            self._ledger.drop(one)

    # --- servers --------------------------------------------------------------------------------

    def _servers_are_due(self, leases: int) -> bool:
        """Whether fewer servers are done than leases, each as a part of its whole."""
        task, servers = self._task, self._count("servers")
        if servers >= task.servers:
            return False
        return servers * task.leases <= leases * task.servers or leases >= task.leases

    def _serve(self) -> None:
        task = self._task
        number = self._count("servers")
        means = self._means[(number + task.place) % len(self._means)]
        dies = task.dies and number % _DIES_EVERY == _DIES_EVERY // 2
        try:
            _servers.serve(
                means,
                number,
                claimed=self._claimed_for_a_server,
                counted=self._add,
                dies=self._die if dies else None,
            )
            if task.isolates and number % _ISOLATED_EVERY == 0:
                _servers.isolated()
                self._add("isolated")
        except (portlease.PortleaseError, _servers.WrongError, OSError) as error:
            self._trouble(f"server {number}, {means}: {error!r}")
            self._add("servers")  # it is not tried for ever

    def _claimed_for_a_server(self, ports: Sequence[tuple[str, int]]) -> Callable[[], None]:
        claims = self._claimed(ports)
        self._add("leases", len(ports))
        return lambda: self._dropped(claims)

    def _die(self) -> None:
        """With all that is held, and the server running."""
        self._add("suicides")
        self._log.death()
        _servers.kill_myself()

    # --- what is noted --------------------------------------------------------------------------

    def _quiet(self) -> int:
        """Give everything back, and note what this process has then; return when to do it next."""
        while self._bag:
            self._end(self._bag.pop())
        _leases.collect()
        leases = self._count("leases")
        rows = [one for one in portlease.leases() if one.pid == os.getpid()]
        sample = {
            "time_s": time.monotonic(),
            "leases": leases,
            **asdict(of_this_process()),
            "rows": len(rows),
        }
        with self._samples.open("a", encoding="ascii") as file:
            file.write(json.dumps(sample) + "\n")
        return leases + max(1, self._task.leases // self._task.quiet_points)

    def _trouble(self, what: str) -> None:
        self._add("troubles")
        with self._troubles.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")
        if self._task.held and self._count("troubles") > _TROUBLES:
            raise RuntimeError(f"too many troubles; the last: {what}")

    def _add(self, name: str, number: int = 1) -> None:
        self._board.add(self._task.place, name, number)

    def _count(self, name: str) -> int:
        return self._board.get(self._task.place, name)


def main() -> None:
    """Do the task; end with the controller, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    task = Task(**json.loads(sys.argv[1]))
    if os.getppid() != task.controller:
        return  # it had ended before that
    # Leases that end as garbage are meant to.
    warnings.simplefilter("ignore", ResourceWarning)
    Worker(task).run()


if __name__ == "__main__":
    main()
