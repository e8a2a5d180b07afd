"""What the audit costs: each call that it sees, the start of programs, and a whole suite.

Three copies of one program take turns and time their own calls: one by itself, one with the hook in
its interpreter alone (``--only-python``), one under the observer with the hook. Then commands and a
pytest suite that binds in every test are run plainly, and by ``portlease audit`` in both ways.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

import _measure
from _measure import Contestant
from _report import Cell, Column, Goal, Result, Table, time_cells, time_columns

from portlease._audit._run import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from run import Scale

_PLAIN: Final = "plain"
_HOOKED: Final = "only Python"
_OBSERVED: Final = "observed"
_WAYS: Final = (_PLAIN, _HOOKED, _OBSERVED)

# Reads "WHAT COUNT" and answers with the nanoseconds of each call.
_CALLER: Final = """\
import json, socket, sys, time
now = time.perf_counter_ns

def timed(count, make, call):
    found = []
    for number in range(count):
        made = make()
        start = now()
        call(made)
        found.append(now() - start)
        made.close()
    return found

def bound():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock

listener = bound()
listener.listen(1000)
calls = {
    "bind": (socket.socket, lambda sock: sock.bind(("127.0.0.1", 0))),
    "listen": (bound, lambda sock: sock.listen()),
    "connect": (socket.socket, lambda sock: sock.connect(listener.getsockname())),
    "bind of a Unix socket": (lambda: socket.socket(socket.AF_UNIX), lambda sock: sock.bind("")),
    "setsockopt": (socket.socket, lambda sock: sock.setsockopt(1, 2, 1)),
    "open a file": (lambda: open("/dev/null"), lambda file: open("/dev/null").close()),
}
with open(sys.argv[1]) as orders, open(sys.argv[2], "w") as answers:
    for line in orders:
        what, _, count = line.rpartition(" ")
        print(json.dumps(timed(int(count), *calls[what])), file=answers, flush=True)
        while listener is not None:
            listener.settimeout(0)
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
"""
_CALLS: Final = (
    *("bind", "listen", "connect"),
    *("bind of a Unix socket", "setsockopt", "open a file"),
)
_UNSEEN: Final = ("bind of a Unix socket", "setsockopt", "open a file")

_SUITE: Final = """\
    import socket
    import pytest

    @pytest.mark.parametrize("number", range({tests}))
    def test_talk(number):
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname()) as client:
                client.sendall(b"x" * 1000)
                other, _ = server.accept()
                with other:
                    assert len(other.recv(1000)) == 1000
            assert sum(n * n for n in range(20_000))
"""


def measure(scale: Scale) -> Result:
    """Measure all of it."""
    calls, goals = _calls(scale)
    with tempfile.TemporaryDirectory() as folder:
        starts = _commands([sys.executable, "-I", "-S", "-c", ""], scale(tiny=1, quick=4, full=40))
        tests = scale(tiny=5, quick=50, full=500)
        Path(folder, "test_it.py").write_text(
            textwrap.dedent(_SUITE.format(tests=tests)), encoding="utf-8"
        )
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
        suites = _commands(suite, scale(tiny=1, quick=2, full=15))
    goals += [
        Goal(
            f"a suite of {tests} tests of 2 ms, each with a server and a client, {way}",
            _measure.ratio(suites[way], suites[_PLAIN]),
            2,
        )
        for way in (_HOOKED, _OBSERVED)
    ]
    return Result(
        "audit_cost",
        "What the audit costs",
        [calls, _times("Run a command that does nothing", starts), _times("Run a suite", suites)],
        goals,
        [
            "a call that the observer sees is written to the trail before it returns",
            "a run by `portlease audit` includes its own start, its verdicts and its table",
        ],
    )


# --- calls ----------------------------------------------------------------------------------------


class _Caller:
    """The program above, at work in one of the three ways."""

    def __init__(self, way: str, folder: Path, stack: contextlib.ExitStack) -> None:
        orders, answers = folder / f"{way} orders", folder / f"{way} answers"
        for path in (orders, answers):
            os.mkfifo(path)
        command = [sys.executable, "-c", _CALLER, str(orders), str(answers)]
        if way == _PLAIN:
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        else:
            stack.enter_context(
                Watched(command, os.environ, trail=str(folder / way), only_python=way == _HOOKED)
            )
        self._orders = stack.enter_context(orders.open("w"))
        self._answers = stack.enter_context(answers.open())

    def nanoseconds(self, what: str, count: int) -> list[int]:
        """Have it make these calls."""
        self._orders.write(f"{what} {count}\n")
        self._orders.flush()
        answer: list[int] = json.loads(self._answers.readline())
        return answer


def _calls(scale: Scale) -> tuple[Table, list[Goal]]:
    rounds, count = scale(tiny=2, quick=3, full=30), scale(tiny=5, quick=20, full=40)
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        callers = {way: _Caller(way, Path(folder), stack) for way in _WAYS}
        for turn in range(rounds + 1):
            for what in _CALLS:
                for way in _WAYS if turn % 2 else _WAYS[::-1]:
                    nanoseconds = callers[way].nanoseconds(what, count)
                    if turn:  # the first is to warm up
                        values = found.setdefault((what, way), [])
                        values.extend(value / 1000 for value in nanoseconds)
    rows: list[dict[str, Cell]] = []
    for what in _CALLS:
        row: dict[str, Cell] = {"name": what}
        for way in _WAYS:
            spread = _measure.spread(found[what, way])
            row |= {way: spread.median, f"{way} p99": spread.p99}
        rows.append(row)
    columns = [Column("name", "microseconds a call, seen by the caller")]
    for way in _WAYS:
        columns += [Column(way, way, "{:.2f}"), Column(f"{way} p99", "p99", "{:.2f}")]
    median = _measure.spread(found["bind", _OBSERVED]).median
    goals = [Goal("bind, observed", median, 2000, "us")]
    goals += [
        Goal(
            f"{what}, observed, more than plain",
            _measure.spread(found[what, _OBSERVED]).median
            - _measure.spread(found[what, _PLAIN]).median,
            40,
            "us",
        )
        for what in _UNSEEN
    ]
    return Table("Calls", columns, rows), goals


# --- commands -------------------------------------------------------------------------------------


def _commands(command: list[str], rounds: int) -> dict[str, list[float]]:
    """Microseconds of each way to run it."""
    audit = [sys.executable, "-m", "portlease", "audit"]
    ways = {
        _PLAIN: command,
        _HOOKED: [*audit, "--only-python", "--", *command],
        _OBSERVED: [*audit, "--", *command],
    }
    contestants = {way: Contestant(_runner(words), 1) for way, words in ways.items()}
    return _measure.interleaved(contestants, rounds=rounds)


def _runner(words: list[str]) -> Callable[[int], None]:
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def run(calls: int) -> None:
        for _ in range(calls):
            subprocess.run(words, env=env, check=True, capture_output=True)

    return run


def _times(title: str, figures: dict[str, list[float]]) -> Table:
    rows = [
        time_cells(way, _measure.spread(value / 1000 for value in values))
        for way, values in figures.items()
    ]
    return Table(title, time_columns("way", "ms"), rows)
