"""The processes, from their start to their end: who dies is followed by another in its place."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from . import _counts
from ._worker import Task

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from ._board import Board

_ROOT: Final = Path(__file__).resolve().parents[2]
_PAUSE_S: Final = 0.05
_END_S: Final = 60.0
_NEVER_KILLED: Final = 2
"""Of so many places at most the first process lives as long as the soak: its memory is the measure.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    leases: int
    servers: int
    processes: int
    kills: int
    """How many processes the controller kills, at any moment of theirs."""
    quiet_points: int
    """How often each process gives everything back and counts what it has."""


@dataclass(slots=True)
class Crowd:
    """The processes of one soak; a context manager that ends them.

    Args:
        size: how much.
        board: the shared memory.
        run: the soak's name.
        directory: for what the processes write down.
        task: what all tasks have in common.
        env: of the processes.
        random: picks who is killed.
    """

    size: Size
    board: Board
    run: str
    directory: Path
    task: Mapping[str, Any]
    env: Mapping[str, str]
    random: random.Random
    killed_ns: dict[str, int] = field(default_factory=dict)
    """Of each process that the controller killed: the moment before."""
    deaths: int = 0
    _started: int = 0
    _places: dict[int, tuple[Task, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def go(self, told: Callable[[], None]) -> None:
        """Start all of them, and wait until all is done; *told* is called again and again.

        Raises:
            RuntimeError: one of them ended by an error.
        """
        for place in range(self.size.processes):
            self._start(place)
        kills = 0
        while self._places:
            told()
            time.sleep(_PAUSE_S)
            self._look_after()
            due = self._done() * (self.size.kills + 1) >= kills + 1
            if due and kills < self.size.kills and self._kill_one():
                kills += 1

    def _done(self) -> float:
        return self.board.total("leases") / max(1, self.size.leases)

    def _start(self, place: int) -> None:
        size = self.size
        self._started += 1
        task = Task(
            controller=os.getpid(),
            board=self.board.fd,
            places=size.processes,
            place=place,
            number=self._started,
            run=self.run,
            directory=str(self.directory),
            leases=_share(size.leases, size.processes, place),
            servers=_share(size.servers, size.processes, place),
            dies=place >= self._never_killed(),
            quiet_points=size.quiet_points,
            **self.task,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak._worker", json.dumps(asdict(task))],
            cwd=_ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            pass_fds=(self.board.fd,),
            process_group=0,  # Ctrl-C is the controller's, which ends them
        )
        self._places[place] = task, process

    def _never_killed(self) -> int:
        return min(_NEVER_KILLED, self.size.processes // 2)

    def _look_after(self) -> None:
        """Start another for each that was killed; raise if one failed."""
        for place, (task, process) in list(self._places.items()):
            status = process.poll()
            if status is None:
                continue
            del self._places[place]
            if status == -signal.SIGKILL:
                self.deaths += 1
                self._start(place)
            elif status != 0:
                raise RuntimeError(f"process {task.name} ended with {status}: see above")

    def _kill_one(self) -> bool:
        mortal = [place for place in self._places if place >= self._never_killed()]
        if not mortal:
            return True  # nobody is left who may be: it counts as done
        task, process = self._places[self.random.choice(mortal)]
        if self.board.pid(task.place) != process.pid:
            return False  # it has not begun yet
        self.killed_ns[f"{task.name}.log"] = time.monotonic_ns()
        process.kill()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _task, process in self._places.values():
            process.kill()
        for _task, process in self._places.values():
            process.wait()


def _share(whole: int, processes: int, place: int) -> int:
    return whole * (place + 1) // processes - whole * place // processes


class Observer:
    """The second detector's process; a context manager that ends it.

    Args:
        board: the shared memory.
        directory: what it removes if this process is killed.
        env: of it.
    """

    def __init__(self, board: Board, directory: Path, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.soak._kernel",
                str(board.fd),
                str(board.places),
                str(directory),
            ],
            cwd=_ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(board.fd,),
            process_group=0,
        )
        if self._process.stdout is None:  # for the type checker: it is a pipe
            raise RuntimeError("no output")
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the observer ended with {self._process.wait()}: see above")

    def seen(self) -> dict[str, Any]:
        """End it, and return what it saw."""
        told, _ = self._process.communicate("end\n", timeout=_END_S)
        if self._process.returncode != 0:
            raise RuntimeError(f"the observer ended with {self._process.returncode}: see above")
        figures: dict[str, Any] = json.loads(told)
        return figures

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with contextlib.suppress(ValueError):  # the pipes were closed by seen()
            self._process.communicate()


def environment(run: str, folder: Path) -> dict[str, str]:
    """What the processes of a soak inherit: its mark, and a temporary folder of their own."""
    return os.environ | {_counts.MARK: run, "TMPDIR": str(folder)}


def lines(directory: Path, pattern: str) -> Sequence[tuple[str, Sequence[Any]]]:
    """What the processes wrote down, line by line, a file a process."""
    return [
        (path.stem, [json.loads(line) for line in path.read_text("utf-8").splitlines()])
        for path in sorted(directory.glob(pattern))
    ]
