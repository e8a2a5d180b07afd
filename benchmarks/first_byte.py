"""What a server of its own costs each test of a suite: 50 tests, from start to first byte.

pytest runs the same suite (_suite.py) with each starter by turns. Each test starts a server, asks
it, and reads the first byte of its answer: that time is what the test waits. The whole run is
measured too, with pytest's own start and the end of all servers. A starter that is told a port gets
it from CPython's find_unused_port(), which holds nothing.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import _measure
import _suite
from _report import Cell, Column, Goal, Result, Table

if TYPE_CHECKING:
    from run import Scale

_SUITE: Final = Path(__file__).with_name("_suite.py")
_NEEDS: Final = {"mirakuru TCPExecutor": "mirakuru", "pytest-xprocess": "xprocess"}
_HANG_S: Final = 300.0


def measure(scale: Scale) -> Result:
    """Run the suite with each starter and each server, by turns."""
    tests = scale(tiny=2, quick=5, full=50)
    rounds = scale(tiny=1, quick=1, full=2)
    starters = [name for name in _suite.STARTERS if name not in _NEEDS or _installed(_NEEDS[name])]
    notes = [
        f"{name} was left out: not installed" for name in _suite.STARTERS if name not in starters
    ]
    servers = list(_suite.SERVERS)[: scale(tiny=1, quick=2, full=2)]
    waits: dict[tuple[str, str], list[float]] = {}
    wholes: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds):
        for server in servers:
            first = turn % len(starters)
            for name in starters[first:] + starters[:first]:
                whole, each = _run(server, name, tests)
                wholes.setdefault((server, name), []).append(whole)
                waits.setdefault((server, name), []).extend(each)
    rows = [
        _row(server, name, waits[server, name], wholes[server, name])
        for server in servers
        for name in starters
    ]
    columns = [
        Column("server", "server"),
        Column("name", "starter"),
        Column("tests", "starts"),
        Column("median", "start to first byte, median ms", "{:.1f}"),
        Column("quartiles", "quartiles"),
        Column("p99", "p99", "{:.1f}"),
        Column("whole", f"the whole suite of {tests}, median s", "{:.2f}"),
        Column("ratio", "x portlease", "{:.2f}"),
    ]
    for row in rows:
        ours = wholes[str(row["server"]), _suite.SERVE]
        row["ratio"] = _measure.ratio(wholes[str(row["server"]), str(row["name"])], ours)
    goals = [
        Goal(
            f"{_suite.SERVE} against {name}, {server}: the whole suite",
            _measure.ratio(wholes[server, _suite.SERVE], wholes[server, name]),
            1.0,
        )
        for server in servers
        for name in _NEEDS
        if name in starters
    ]
    notes += [
        (
            "serve() starts a keeper beside each server, a Python of its own, so that nothing is "
            "left of it however the test ends; a bare Popen does not, and is cheaper by that"
        ),
    ]
    return Result(
        "first_byte",
        f"A suite of {tests} tests, each with a server of its own",
        [Table("Start to first byte", columns, rows)],
        goals,
        notes,
    )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _run(server: str, starter: str, tests: int) -> tuple[float, list[float]]:
    """Return the seconds of the whole run, and the milliseconds that each test waited."""
    with tempfile.TemporaryDirectory(prefix="portlease-bench-") as folder:
        log = Path(folder, "log")
        told = {
            "FIRST_BYTE_SERVER": server,
            "FIRST_BYTE_STARTER": starter,
            "FIRST_BYTE_TESTS": str(tests),
            "FIRST_BYTE_LOG": str(log),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "--rootdir", folder, "-c", os.devnull]
        if starter == _suite.SERVE:
            command += ["-p", "portlease.pytest_plugin"]
        elif starter in _NEEDS and _NEEDS[starter] == "xprocess":
            command += ["-p", "xprocess.pytest_xprocess"]
        begin = time.monotonic()
        done = subprocess.run(
            [*command, str(_SUITE)],
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HANG_S,
            check=False,
        )
        whole = time.monotonic() - begin
        if done.returncode != 0:
            raise RuntimeError(f"the suite failed with {starter}:\n{done.stdout}{done.stderr}")
        return whole, [float(line) for line in log.read_text(encoding="ascii").splitlines()]


def _row(server: str, name: str, waits: list[float], wholes: list[float]) -> dict[str, Cell]:
    figures = _measure.spread(waits)
    return {
        "server": server,
        "name": name,
        "tests": figures.count,
        "median": figures.median,
        "quartiles": f"{figures.lower:.1f} - {figures.upper:.1f}",
        "lower": figures.lower,
        "upper": figures.upper,
        "p99": figures.p99,
        "whole": _measure.spread(wholes).median,
    }
