"""What a request to a port server costs while many of its ports are out.

Both servers are asked as portpicker's client asks: connect to the Unix socket, send a process id,
read a port. The ports that are out belong to one process that lives; those that are measured to
another, which ends after each batch, so that their number stays the same. portpicker's server is
given a few ports more than are out: it keeps all in one queue, and looks at each that comes up
until it finds one whose process has gone. So most of its requests are quick, and the one that comes
round to those that are out looks at all of them.

Ours grows a little too: each lease is three Unix sockets, and the kernel has 256 chains for the
names of a namespace (net/unix/af_unix.c), along which it looks for each of the five of a request.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import _measure
import _peers
from _report import Cell, Column, Goal, Result, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from run import Scale

    Ask = Callable[[int], int]

_OURS: Final = "portlease portserver"
_THEIRS: Final = "portpicker's portserver.py"
_OUT: Final = (0, 1000, 5000, 10_000)
_BATCH: Final = 50
_SPARE: Final = 2 * _BATCH
"""Ports that portpicker's server has besides those that are out."""
_FIRST: Final = 10_000
_PATIENCE_S: Final = 60.0


def measure(scale: Scale) -> Result:
    """Fill each server step by step, and ask it in between."""
    counts = ((0, 20), _OUT[:2], _OUT)[scale(tiny=0, quick=1, full=2)]
    batches = scale(tiny=1, quick=3, full=20)
    notes: list[str] = []
    figures: dict[tuple[str, int], list[float]] = {}
    processes: dict[int, int] = {}
    for out in counts:
        for name in (_OURS, _THEIRS):
            with _server(name, out) as (ask, pid):
                if ask is None:
                    notes.append(f"{name} is not installed")
                    continue
                _fill(ask, out)
                figures[name, out] = _requests(ask, batches)
                if name == _OURS:
                    processes[out] = _family(pid)
    if any(name == _THEIRS for name, _ in figures):
        notes.append(
            f"portpicker's server has {_SPARE} ports more than are out; of the requests in a cycle "
            "through its queue one looks at all that are out"
        )
    most, processed = max(counts), processes[max(counts)]
    notes.append(f"with {most} out, `portlease portserver` was {processed} processes")
    rows = [_row(name, out, values, figures[name, 0]) for (name, out), values in figures.items()]
    columns = [
        Column("name", "server"),
        Column("out", "ports out"),
        Column("requests", "requests"),
        Column("median", "median us", "{:.0f}"),
        Column("mean", "mean", "{:.0f}"),
        Column("p99", "p99", "{:.0f}"),
        Column("most", "most", "{:.0f}"),
        Column("flat", "median x none out", "{:.2f}"),
    ]
    full = _measure.spread(figures[_OURS, most])
    return Result(
        "portserver",
        "A request to a port server",
        [Table("While ports are out", columns, rows)],
        [Goal(f"{_OURS}, {most} ports out: median", full.median, 1000, "us")],
        notes,
    )


def _row(name: str, out: int, values: list[float], none_out: list[float]) -> dict[str, Cell]:
    figures = _measure.spread(values)
    return {
        "name": name,
        "out": out,
        "requests": figures.count,
        "median": figures.median,
        "mean": sum(values) / len(values),
        "p99": figures.p99,
        "most": figures.most,
        "flat": figures.median / _measure.spread(none_out).median,
    }


# --- the servers --------------------------------------------------------------------------------


@contextlib.contextmanager
def _server(name: str, out: int) -> Iterator[tuple[Ask | None, int]]:
    """Run it; yield how it is asked for a port on behalf of a process, and its process id."""
    address = f"@portlease-benchmark-{os.getpid()}-{out}"
    if name == _OURS:
        command = [sys.executable, "-m", "portlease", "portserver", "-q", "--address", address]
    else:
        script = _peers.portserver_script()
        if script is None:
            yield None, 0
            return
        pool = f"{_FIRST}-{_FIRST + out + _SPARE - 1}"
        command = [sys.executable, str(script), "--portserver_address", address]
        command += ["--portserver_static_pool", pool]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _peers.await_server(process, "\0" + address[1:])
            yield lambda owner: _ask("\0" + address[1:], owner), process.pid
        finally:
            process.terminate()


def _ask(address: str, owner: int) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_PATIENCE_S)
        client.connect(address)
        client.sendall(b"%d\n" % owner)
        return int(client.recv(1024))


def _family(pid: int) -> int:
    """How many processes it is."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return 1 + len(children)


# --- the requests -------------------------------------------------------------------------------


def _fill(ask: Ask, out: int) -> None:
    me = os.getpid()
    taken = {ask(me) for _ in range(out)}
    if len(taken) != out:
        raise RuntimeError(f"{out} ports were asked for, and {len(taken)} were different")


def _requests(ask: Ask, batches: int) -> list[float]:
    """Return the microseconds of each request, of which none stays out."""
    taken: list[float] = []
    for _ in range(batches):
        with subprocess.Popen(["sleep", "1000"]) as owner:
            for _ in range(_BATCH):
                start = time.perf_counter_ns()
                ask(owner.pid)
                taken.append((time.perf_counter_ns() - start) / 1000)
            owner.kill()
    return taken
