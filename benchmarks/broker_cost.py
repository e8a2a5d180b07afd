"""What the broker costs: the calls that it answers, the server beside them, and the start.

Two processes of the same program take turns, one natively and one under the broker, and time their
own calls: bind of a leased port (which the keeper does), bind of another one and of a Unix socket
(which pass it by), and calls that it never sees. A redis-server of each kind is asked the same by
redis-benchmark. Last, the start of a process with and without.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import _measure
from _measure import Contestant
from _report import Cell, Column, Goal, Result, Table, time_cells, time_columns

import portlease
from portlease._tree._process import Hold, Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from run import Scale

_NATIVE: Final = "native"
_BROKERED: Final = "brokered"
_KINDS: Final = (_NATIVE, _BROKERED)

# Reads "WHAT COUNT" and answers with the nanoseconds of each call. TCP and UDP are the leased port.
_CALLER: Final = """\
import json, os, socket, sys, time
port = int(sys.argv[1])
now = time.perf_counter_ns

def timed(count, make, call):
    found = []
    for number in range(count):
        made = make(number)
        start = now()
        call(made, number)
        found.append(now() - start)
        made.close()
    return found

def bound(number):
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    return sock

tcp = lambda number: socket.socket()
udp = lambda number: socket.socket(type=socket.SOCK_DGRAM)
unix = lambda number: socket.socket(socket.AF_UNIX)
leased = lambda sock, number: sock.bind(("127.0.0.1", port))
calls = {
    "bind, TCP": (tcp, leased),
    "bind, UDP": (udp, leased),
    "listen": (bound, lambda sock, number: sock.listen()),
    "bind of another port": (tcp, lambda sock, number: sock.bind(("127.0.0.1", 0))),
    "bind of a Unix socket": (unix, lambda sock, number: sock.bind("\\0broker-%09d" % number)),
    "setsockopt": (tcp, lambda sock, number: sock.setsockopt(1, 2, 1)),
    "getsockname": (tcp, lambda sock, number: sock.getsockname()),
}
for line in sys.stdin:
    what, _, count = line.rpartition(" ")
    print(json.dumps(timed(int(count), *calls[what])), flush=True)
"""
_CALLS: Final = (
    *("bind, TCP", "bind, UDP", "listen"),
    *("bind of another port", "bind of a Unix socket", "setsockopt", "getsockname"),
)
_ANSWERED: Final = 5
"""So many of them stop in the keeper."""
_REDIS_TESTS: Final = ("PING_MBULK", "SET", "GET")


def measure(scale: Scale) -> Result:
    """Measure all of it."""
    notes = [
        "the keeper takes the calls one by one, so those of many threads at once queue",
        (
            "under the broker a command is executed once the keeper has loaded the broker and has "
            "taken the filter's listener"
        ),
    ]
    calls, goals = _calls(scale)
    tables = [calls]
    redis = _redis(scale, notes)
    if redis is not None:
        tables.append(redis[0])
        goals += redis[1]
    starts, start_goals = _starts(scale)
    return Result(
        "broker_cost", "What the broker costs", [*tables, starts], [*goals, *start_goals], notes
    )


@contextlib.contextmanager
def _port(kind: str) -> Iterator[tuple[int, list[Hold]]]:
    """A port for a server of this kind, and the holds that it is brokered beside."""
    with portlease.lease("both", offer=False) as lease:
        if kind == _NATIVE:
            lease.step_aside()
            yield lease.port, []
        else:
            holds = [(bind.transport, lease.port, hold) for bind, hold in lease._grip.holds]  # noqa: SLF001
            yield lease.port, [Hold(name, port, hold.fileno()) for name, port, hold in holds]


# --- system calls -------------------------------------------------------------------------------


class _Caller:
    """The program above, at work."""

    def __init__(self, kind: str, stack: contextlib.ExitStack) -> None:
        port, holds = stack.enter_context(_port(kind))
        orders, self._orders = os.pipe()
        answers, written = os.pipe()
        self._answers = stack.enter_context(os.fdopen(answers, encoding="ascii"))
        stack.callback(os.close, self._orders)
        command = [sys.executable, "-I", "-S", "-c", _CALLER, str(port)]
        try:
            stack.enter_context(
                Process.start(command, stdin=orders, output=written, errors=None, holds=holds)
            )
        finally:
            os.close(orders)
            os.close(written)

    def nanoseconds(self, what: str, count: int) -> list[int]:
        """Have it make these calls."""
        os.write(self._orders, f"{what} {count}\n".encode())
        answer: list[int] = json.loads(self._answers.readline())
        return answer


def _calls(scale: Scale) -> tuple[Table, list[Goal]]:
    rounds, count = scale(tiny=2, quick=4, full=40), scale(tiny=10, quick=50, full=100)
    found: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        callers = {kind: _Caller(kind, stack) for kind in _KINDS}
        for turn in range(rounds + 1):
            for what in _CALLS:
                for kind in _KINDS if turn % 2 else _KINDS[::-1]:
                    nanoseconds = callers[kind].nanoseconds(what, count)
                    if turn:  # the first is to warm up
                        values = found.setdefault((what, kind), [])
                        values.extend(value / 1000 for value in nanoseconds)
    rows: list[dict[str, Cell]] = []
    goals = []
    for what in _CALLS:
        native, brokered = (_measure.spread(found[what, kind]) for kind in _KINDS)
        rows.append(
            {
                "name": what,
                "native": native.median,
                "native99": native.p99,
                "brokered": brokered.median,
                "brokered99": brokered.p99,
            }
        )
    for what in _CALLS[:_ANSWERED]:
        median = _measure.spread(found[what, _BROKERED]).median
        goals.append(Goal(f"{what}, under the broker", median, 1000, "us"))
    for what in _CALLS[_ANSWERED:]:
        ratio = _measure.ratio(found[what, _BROKERED], found[what, _NATIVE])
        goals.append(Goal(f"{what}, under the broker against native", ratio, 1.1))
    columns = [
        Column("name", "microseconds a call, seen by the caller"),
        Column("native", "native", "{:.2f}"),
        Column("native99", "p99", "{:.2f}"),
        Column("brokered", "brokered", "{:.2f}"),
        Column("brokered99", "p99", "{:.2f}"),
    ]
    return Table("System calls", columns, rows), goals


# --- a server -----------------------------------------------------------------------------------


def _redis(scale: Scale, notes: list[str]) -> tuple[Table, list[Goal]] | None:
    server, client = shutil.which("redis-server"), shutil.which("redis-benchmark")
    if server is None or client is None:
        notes.append("redis is not installed: no figures of a server's throughput")
        return None
    requests = scale(tiny=500, quick=20_000, full=50_000)
    found: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        ports = {}
        for kind in _KINDS:
            port, holds = stack.enter_context(_port(kind))
            command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            process = stack.enter_context(
                Process.start(command, output=subprocess.DEVNULL, holds=holds)
            )
            _await(port, process)
            ports[kind] = port
        for turn in range(scale(tiny=1, quick=2, full=15)):
            for kind in _KINDS if turn % 2 else _KINDS[::-1]:
                for name, rate in _benchmark(client, ports[kind], requests).items():
                    found.setdefault((name, kind), []).append(rate)
    rows: list[dict[str, Cell]] = []
    goals = []
    for name in _REDIS_TESTS:
        native, brokered = found[name, _NATIVE], found[name, _BROKERED]
        ratio = _measure.ratio(native, brokered)
        rows.append(
            {
                "name": name,
                "native": _measure.spread(native).median,
                "brokered": _measure.spread(brokered).median,
                "ratio": ratio,
            }
        )
        goals.append(Goal(f"redis {name}: native throughput against brokered", ratio, 1.03))
    columns = [
        Column("name", "redis-benchmark, requests a second"),
        Column("native", "native", "{:.0f}"),
        Column("brokered", "brokered", "{:.0f}"),
        Column("ratio", "native / brokered", "{:.3f}"),
    ]
    return Table("A server beside it", columns, rows), goals


def _await(port: int, process: Process) -> None:
    """Wait until it listens."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.returncode is not None:
            raise RuntimeError(f"redis-server ended with {process.returncode}")
        time.sleep(0.01)


def _command(client: str, port: int, requests: int) -> list[str]:
    words = [client, "-p", str(port), "-n", str(requests), "-c", "20", "--csv"]
    return [*words, "-t", "ping_mbulk,set,get"]


def _benchmark(client: str, port: int, requests: int) -> dict[str, float]:
    """Return requests a second by the test's name."""
    text = subprocess.check_output(_command(client, port, requests), text=True)
    found = {}
    for line in text.splitlines():
        name, rate, *_ = line.replace('"', "").split(",")
        if name in _REDIS_TESTS:
            found[name] = float(rate)
    return found


# --- starts -------------------------------------------------------------------------------------


def _starts(scale: Scale) -> tuple[Table, list[Goal]]:
    with _port(_BROKERED) as (_, holds):
        contestants = {
            _NATIVE: Contestant(lambda calls: _start(calls, []), 1),
            _BROKERED: Contestant(lambda calls: _start(calls, holds), 1),
        }
        figures = _measure.interleaved(contestants, rounds=scale(tiny=2, quick=10, full=100))
    milliseconds = {name: [value / 1000 for value in values] for name, values in figures.items()}
    rows = [time_cells(name, _measure.spread(values)) for name, values in milliseconds.items()]
    more = _measure.spread(
        brokered - native
        for native, brokered in zip(milliseconds[_NATIVE], milliseconds[_BROKERED], strict=True)
    ).median
    return (
        Table("Start a command under a keeper", time_columns("until it is executed", "ms"), rows),
        [Goal("start under the broker, more than without", more, 10, "ms")],
    )


def _start(calls: int, holds: list[Hold]) -> None:
    for _ in range(calls):
        process = Process.start(["sleep", "1000"], holds=holds)
        process.kill()
        process.stop(grace_s=0)
