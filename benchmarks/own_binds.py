"""What the audit hook costs that lets a test's own servers bind beside its leases.

An audit hook cannot be taken away again, so each figure is measured by a process of its own, with
and without it, by turns. What is measured: an event that is none of the hook's business (open(),
which every import and file makes), and bind(2) to a number that the kernel chooses, alone and while
leases are held.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import _measure
from _report import Cell, Column, Result, Table

if TYPE_CHECKING:
    from run import Scale

_HELD: Final = 100

_SCRIPT: Final = """\
import json, os, socket, sys, time
import portlease
from portlease._own_binds import let_own_binds_in
if sys.argv[1] == "with":
    let_own_binds_in()
def opens():
    open(os.devnull, "rb").close()
def binds():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
def measured(act, calls=500):
    start = time.thread_time_ns()
    for _ in range(calls):
        act()
    return (time.thread_time_ns() - start) / calls / 1000
names = "open and close", "socket, bind to port 0, close"
found = {name: [] for name in names}
for _ in range(int(sys.argv[2])):
    for name, act in zip(names, (opens, binds)):
        found[name].append(measured(act))
with portlease.lease_many(int(sys.argv[3])):
    held = found[f"the same, {sys.argv[3]} leases held"] = []
    for _ in range(int(sys.argv[2])):
        held.append(measured(binds))
print(json.dumps(found))
"""


def measure(scale: Scale) -> Result:
    """Run processes with the hook and without it by turns."""
    turns = scale(tiny=1, quick=2, full=15)
    figures: dict[str, dict[str, list[float]]] = {"without": {}, "with": {}}
    for turn in range(turns):
        for which in ("without", "with") if turn % 2 else ("with", "without"):
            for name, values in _once(which, scale(tiny=2, quick=20, full=20)).items():
                figures[which].setdefault(name, []).extend(values)
    rows: list[dict[str, Cell]] = []
    for name, without in figures["without"].items():
        bare, hooked = _measure.spread(without), _measure.spread(figures["with"][name])
        rows.append(
            {
                "name": name,
                "without": bare.median,
                "with": hooked.median,
                "more": hooked.median - bare.median,
                "least": hooked.least - bare.least,
            }
        )
    columns = [
        Column("name", "what"),
        Column("without", "median us without", "{:.2f}"),
        Column("with", "with the hook", "{:.2f}"),
        Column("more", "more", "{:.2f}"),
        Column("least", "more, by the least", "{:.2f}"),
    ]
    notes = [f"{turns} processes each; the pytest plugin installs the hook, nothing else does"]
    title = "The audit hook for a test's own servers"
    return Result("own_binds", title, [Table(title, columns, rows)], [], notes)


def _once(which: str, rounds: int) -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, which, str(rounds), str(_HELD)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found
