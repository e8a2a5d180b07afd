"""What a network of its own costs: the start of a command in one, and 200 of them alive.

The same command is started plainly, by what :func:`portlease._isolate.command` gives, by `unshare`
(which raises no interface) and by bubblewrap, where those are installed; by turns, until it has
ended. Then so many isolated commands are kept alive at once, and their memory is read from the
kernel's books before and after, which is coarse: other processes of the machine come and go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import _measure
from _measure import Contestant
from _report import Cell, Column, Goal, Result, Table, time_cells, time_columns

from portlease import _isolate
from portlease._errors import IsolationUnavailableError

if TYPE_CHECKING:
    from run import Scale

_PLAIN: Final = "plain"
_BARE: Final = "python -I -S, which does nothing"
_OURS: Final = "portlease._isolate.command"
_REACH: Final = "the same, with reach="
_TRUE: Final = ("true",)
_PYTHON: Final = (sys.executable, "-I", "-S", "-c", "")


def measure(scale: Scale) -> Result:
    """Measure all of it."""
    title = "What a network of its own costs"
    try:
        how = _isolate.require()
    except IsolationUnavailableError as error:
        return Result("isolate_cost", title, [], [], [f"nothing was measured: {error}"])
    notes = [f"a network of its own is had by the rights of {how}"]
    starts, goals = _starts(scale, notes)
    alive, more = _alive(scale)
    return Result("isolate_cost", title, [starts, alive], [*goals, *more], notes)


def _commands(notes: list[str]) -> dict[str, list[str]]:
    found = {
        _PLAIN: list(_TRUE),
        _BARE: list(_PYTHON),
        _OURS: _isolate.command(_TRUE),
        _REACH: _isolate.command(_TRUE, reach=["1"]),
    }
    unshare, bubblewrap = shutil.which("unshare"), shutil.which("bwrap")
    if unshare is not None:
        user = [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
        found["unshare --net (lo stays down)"] = [unshare, *user, "--net", *_TRUE]
    else:
        notes.append("unshare was left out: not installed")
    if bubblewrap is not None:
        words = ["--dev-bind", "/", "/", "--unshare-net"]
        found["bubblewrap --unshare-net"] = [bubblewrap, *words, *_TRUE]
    else:
        notes.append("bubblewrap was left out: not installed")
    return found


def _starts(scale: Scale, notes: list[str]) -> tuple[Table, list[Goal]]:
    commands = _commands(notes)
    figures = _measure.interleaved(
        {name: Contestant(partial(_run, words), 1) for name, words in commands.items()},
        rounds=scale(tiny=2, quick=8, full=100),
    )
    milliseconds = {name: [one / 1000 for one in values] for name, values in figures.items()}
    rows: list[dict[str, Cell]] = [
        {
            **time_cells(name, _measure.spread(values)),
            "ratio": _measure.ratio(values, milliseconds[_PLAIN]),
        }
        for name, values in milliseconds.items()
    ]
    columns = [
        *time_columns("`true`, from its start to its end", "ms"),
        Column("ratio", "times plain", "{:.1f}"),
    ]
    goal = Goal(
        "start in a network of its own, against an interpreter that does nothing",
        _measure.ratio(milliseconds[_OURS], milliseconds[_BARE]),
        3,
    )
    return Table("Start of a command", columns, rows), [goal]


def _run(words: list[str], calls: int) -> None:
    for _ in range(calls):
        subprocess.run(words, check=True)


def _alive(scale: Scale) -> tuple[Table, list[Goal]]:
    count = scale(tiny=5, quick=50, full=200)
    words = _isolate.command(["sh", "-c", "echo; read line"])
    processes: list[subprocess.Popen[bytes]] = []
    before = _available_kib()
    try:
        for _ in range(count):
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            process.stdout.readline()
        used = (before - _available_kib()) / count / 1024
        networks = {Path(f"/proc/{one.pid}/ns/net").readlink() for one in processes}
    finally:
        for process in processes:
            process.communicate(b"\n")
    rows: list[dict[str, Cell]] = [{"alive": count, "networks": len(networks), "mebibytes": used}]
    columns = [
        Column("alive", "commands alive"),
        Column("networks", "networks"),
        Column("mebibytes", "MiB each, shell included", "{:.2f}"),
    ]
    goals = [Goal("memory of each", used, 2, "MiB")]
    return Table("Many at once", columns, rows), goals


def _available_kib() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0])
    raise RuntimeError("/proc/meminfo has no MemAvailable")
