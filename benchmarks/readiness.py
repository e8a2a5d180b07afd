"""How long after a server's listen() its starter knows that it is ready.

The server notes the monotonic clock the moment listen() has returned; the starter notes it when its
call returns. What lies between is waiting for nothing. The peers poll: they connect every 50 or
100 ms, so they are late by half of that on average, and the server sees the stray connection. The
quick server listens as soon as it can, the slow one 300 ms after its start and up to 100 ms more.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import _measure
from _report import Cell, Column, Goal, Result, Table

import portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from run import Scale

    # Starts the server, returns when it is ready, yields nothing, stops it.
    Starter = Callable[[list[str], int], contextlib.AbstractContextManager[None]]

_SERVE: Final = "portlease.serve()"
_SERVER: Final = str(Path(__file__).with_name("_server.py"))
_SPEEDS: Final = {"quick server": 0.0, "listens after 300-400 ms": 0.3}
_GIVE_UP_S: Final = 30.0
_STAMP_S: Final = 10.0
_HOST: Final = "127.0.0.1"


def measure(scale: Scale) -> Result:
    """Start servers by turns, fewer with the peers, whose figures are far apart from ours."""
    starts = scale(tiny=2, quick=12, full=200)
    every = scale(tiny=1, quick=3, full=8)
    starters, notes = _starters()
    delays: dict[tuple[str, str], list[float]] = {
        (speed, name): [] for speed in _SPEEDS for name in starters
    }
    with tempfile.TemporaryDirectory(prefix="portlease-bench-") as directory:
        for turn in range(starts):
            for speed, delay_s in _SPEEDS.items():
                for name, starter in starters.items():
                    if name == _SERVE or turn % every == 0:
                        one = _start(starter, delay_s, Path(directory))
                        delays[speed, name].append(one)
    rows = [_row(speed, name, values) for (speed, name), values in delays.items()]
    columns = [
        Column("server", "server"),
        Column("name", "starter"),
        Column("starts", "starts"),
        Column("median", "median ms", "{:.2f}"),
        Column("quartiles", "quartiles"),
        Column("p99", "p99", "{:.2f}"),
        Column("most", "most", "{:.2f}"),
        Column("ratio", "x serve()", "{:.1f}"),
    ]
    for row, (speed, _) in zip(rows, delays, strict=True):
        ours = _measure.spread(delays[speed, _SERVE]).median
        row["ratio"] = float(row["median"] or 0) / ours
    goals = []
    for speed in _SPEEDS:
        figures = _measure.spread(delays[speed, _SERVE])
        goals.append(Goal(f"{_SERVE}, {speed}: median after listen()", figures.median, 2, "ms"))
        goals.append(Goal(f"{_SERVE}, {speed}: p99 after listen()", figures.p99, 10, "ms"))
    return Result(
        "readiness",
        "From a server's listen() to its starter's return",
        [Table("Milliseconds after listen()", columns, rows)],
        goals,
        notes,
    )


def _row(speed: str, name: str, values: list[float]) -> dict[str, Cell]:
    figures = _measure.spread(values)
    return {
        "server": speed,
        "name": name,
        "starts": figures.count,
        "median": figures.median,
        "quartiles": f"{figures.lower:.2f} - {figures.upper:.2f}",
        "lower": figures.lower,
        "upper": figures.upper,
        "p99": figures.p99,
        "most": figures.most,
    }


def _start(starter: Starter, delay_s: float, directory: Path) -> float:
    """Start one server, stop it again, and return the milliseconds between."""
    fifo = directory / "stamp"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO's reader need not wait for writers
    try:
        port = portlease.find_unused_port()
        # Else all delays would end at the same point of the peers' polling.
        jitter_s = random.SystemRandom().uniform(0, 0.1) if delay_s else 0.0
        python = [sys.executable, "-I", "-S", _SERVER]
        command = [*python, "{port}", str(delay_s + jitter_s), str(fifo)]
        with starter(command, port):
            ready_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            listening_ns = _stamp(reader)
    finally:
        os.close(reader)
        fifo.unlink()
    return (ready_ns - listening_ns) / 1e6


def _stamp(reader: int) -> int:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if not poll.poll(_STAMP_S * 1000):
        raise TimeoutError("the server did not say when it listened")
    return int(os.read(reader, 64))


# --- starters -----------------------------------------------------------------------------------


def _starters() -> tuple[dict[str, Starter], list[str]]:
    starters: dict[str, Starter] = {
        _SERVE: _serve,
        "connect every 50 ms": lambda command, port: polling(command, port, 0.05),
        "connect every 100 ms": lambda command, port: polling(command, port, 0.1),
    }
    notes: list[str] = []
    for name, module, starter in (
        ("mirakuru TCPExecutor", "mirakuru", mirakuru),
        ("pytest-xprocess", "xprocess.xprocess", _xprocess),
    ):
        try:
            importlib.import_module(module)
        except ImportError as error:
            notes.append(f"{name} was left out: {error}")
        else:
            starters[name] = starter
    return starters, notes


@contextlib.contextmanager
def _serve(command: list[str], port: int) -> Iterator[None]:
    del port  # it takes a lease of its own
    with portlease.serve(command):
        yield


@contextlib.contextmanager
def polling(command: list[str], port: int, pause_s: float) -> Iterator[None]:
    """Start the server and connect until that succeeds: what most test suites do by hand."""
    with subprocess.Popen(
        filled(command, port), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            give_up = time.monotonic() + _GIVE_UP_S
            while not connects(port):
                if time.monotonic() > give_up:
                    raise TimeoutError(f"nothing listens on port {port}")
                time.sleep(pause_s)
            yield
        finally:
            process.terminate()


def connects(port: int) -> bool:
    """Whether anybody at all listens there."""
    try:
        socket.create_connection((_HOST, port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


@contextlib.contextmanager
def mirakuru(command: list[str], port: int) -> Iterator[None]:
    """mirakuru, which connects every 100 ms."""
    executor = importlib.import_module("mirakuru").TCPExecutor
    with executor(filled(command, port), _HOST, port, timeout=_GIVE_UP_S):
        yield


@contextlib.contextmanager
def _xprocess(command: list[str], port: int) -> Iterator[None]:
    """pytest-xprocess with a startup_check that connects, driven without pytest."""
    library = importlib.import_module("xprocess.xprocess")
    path = importlib.import_module("py").path

    class Starter(library.ProcessStarter):  # type: ignore[misc, name-defined]  # untyped
        args = filled(command, port)
        timeout = int(_GIVE_UP_S)

        def startup_check(self) -> bool:
            return connects(port)

    class Silent:
        def debug(self, *_: object) -> None:
            pass

    config: Any = types.SimpleNamespace()
    with tempfile.TemporaryDirectory(prefix="portlease-bench-") as root:
        xprocess = library.XProcess(config, path.local(root), log=Silent())
        try:
            xprocess.ensure("server", Starter, restart=True)
            yield
        finally:
            for resources in xprocess.resources:
                resources.info[0].terminate()
            xprocess._force_clean_up()  # noqa: SLF001 - its own pytest hook calls it


def filled(command: list[str], port: int) -> list[str]:
    """Put *port* where ``{port}`` stands."""
    return [str(port) if word == "{port}" else word for word in command]
