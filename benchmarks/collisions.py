"""How often a port that was given out is somebody else's when the server binds it.

Processes take ports by turns, wait 5 ms as a server's start would, and then bind and listen on the
number as a server does. Counted: numbers that two owners had at the same time, and servers that
could not listen. First 16 processes take 1,000 each, in a network namespace with the default
ephemeral range and nobody else in it. Then 8 processes in one with 400 ephemeral ports, while one
process binds port 0 and another connects, over and over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import _namespace
import _peers
from _crew import Crew, asked_to_stop
from _report import Cell, Column, Goal, Result, Table

import portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from run import Scale

# What Linux starts with (net/ipv4/af_inet.c), and a crowded one.
_WIDE: Final = (32768, 60999)
_NARROW: Final = (40000, 40399)
# What portpicker's server gives from: its own 15000-24999 are fewer than 16,000.
_SERVER_POOL: Final = "10000-32767"
# One that takes milliseconds for each port is asked for so many fewer.
_SLOW: Final = 10
_HELD_S: Final = 0.005
# What each storm has open at a time, and how long it rests after each.
_STORM_SOCKETS: Final = 60
_STORM_PAUSE_S: Final = 0.0002
_STORM_PORT: Final = 39999  # below the range: the connect storm's own server
_HANG_S: Final = 1200.0

_OFFERED: Final = "portlease.lease()"
_GUARDED: Final = "portlease.lease(), step_aside()"
_FIND: Final = "portlease.find_unused_port()"
_PER: Final = 16_000


def measure(scale: Scale) -> Result:
    """Count the collisions of each contestant, each in a namespace of its own."""
    reason = _namespace.why_not()
    title = "Collisions"
    if reason is not None:
        return Result("collisions", title, [], [], [f"no network namespace to be had: {reason}"])
    peers, notes = _peers.installed()
    contestants = [(_OFFERED, True, 1), (_GUARDED, False, 1), (_FIND, False, 1)]
    contestants += [(peer.name, True, _SLOW if peer.milliseconds else 1) for peer in peers]
    if _peers.portserver_script() is not None:
        contestants.append((_peers.PORTSERVER, True, 1))
    contestants = contestants[: scale(tiny=3, quick=99, full=99)]
    wide = _wide(contestants, scale(tiny=2, quick=8, full=16), scale(tiny=5, quick=50, full=1000))
    narrow = _narrow(contestants, scale(tiny=2, quick=8, full=8), scale(tiny=5, quick=25, full=150))
    goals = [
        Goal(
            f"{row['name']}, {table.title}: failures of {row['taken']:,}",
            float(row["failed"] or 0) + float(row["double"] or 0),
            0,
            "",
        )
        for table in (wide, narrow)
        for row in table.rows
        if str(row["name"]).startswith("portlease")
    ]
    notes += [
        (
            "a server sets SO_REUSEADDR, as most do, or nothing at all (plain); "
            "ephemeral-port-reserve counts on the former, and gives no "
            "port once the range is full of its own TIME_WAITs"
        ),
        (
            "each server is closed as soon as it listens, so most of two owners do not notice each "
            "other here; servers that stay would"
        ),
        (
            "tornado's and rig's listening sockets are closed at once, since a server that is told "
            "a number must bind it"
        ),
        (
            "port-for and portpicker's server draw from outside the ephemeral range, as portlease "
            "does, so no storm reaches them; what the former gives is random, and held by nothing"
        ),
    ]
    return Result("collisions", title, [wide, narrow], goals, notes)


def _wide(contestants: list[tuple[str, bool, int]], processes: int, count: int) -> Table:
    rows = []
    for name, reuse, slowness in contestants:
        asked = {"name": name, "reuse": reuse, "processes": processes}
        row = _in_a_namespace(_WIDE, {**asked, "count": max(1, count // slowness), "storms": []})
        if row["taken"]:
            row["per"] = row["double"] * _PER / row["taken"]
        rows.append(row)
    columns = [
        *_COLUMNS,
        Column("per", f"two owners, per {_PER:,}", "{:.0f}"),
        Column("seconds", "seconds", "{:.1f}"),
    ]
    return Table(f"{processes} processes, nobody else", columns, rows)


def _narrow(contestants: list[tuple[str, bool, int]], processes: int, count: int) -> Table:
    rows = []
    for name, reuse, _ in contestants:
        asked = {"name": name, "count": count, "processes": processes, "storms": _STORMS}
        rows.append(_in_a_namespace(_NARROW, {**asked, "reuse": reuse}))
        if name == _peers.CPYTHON:
            rows.append(_in_a_namespace(_NARROW, {**asked, "reuse": False}))
    columns = [
        *_COLUMNS,
        Column("none", "no port given"),
        Column("binds", "storm bind(0)"),
        Column("connects", "storm connect()"),
    ]
    low, high = _NARROW
    return Table(f"{processes} processes, {high - low + 1} ports, under storms", columns, rows)


_STORMS: Final = ("bind", "connect")
_COLUMNS: Final = (
    Column("name", "contestant"),
    Column("server", "server"),
    Column("taken", "ports given", "{:,}"),
    Column("double", "two owners at once"),
    Column("failed", "server could not listen"),
)


def _in_a_namespace(ports: tuple[int, int], arguments: Mapping[str, object]) -> dict[str, Any]:
    inner = [sys.executable, __file__, json.dumps(arguments)]
    done = subprocess.run(
        _namespace.command(*ports, inner),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_HANG_S,
        check=True,
    )
    row: dict[str, Any] = json.loads(done.stdout)
    return row


# --- in the namespace ---------------------------------------------------------------------------


def _collisions(  # noqa: PLR0913 - what was asked for, by keyword
    *, name: str, reuse: bool, count: int, processes: int, storms: list[str], server: str | None
) -> dict[str, Cell]:
    members = [{"name": name, "reuse": reuse, "count": count, "server": server}] * processes
    with (
        Crew("collisions", "storm", [{"kind": kind} for kind in storms]) as storm,
        Crew("collisions", "lessee", members) as crew,
    ):
        storm.go()
        start = time.monotonic()
        crew.go()
        owned = [entry for found in crew.results() for entry in found]
        seconds = time.monotonic() - start
        storm.stop()
        opened = dict(zip(storms, storm.results(), strict=True))
    given = [entry for entry in owned if entry[0]]
    return {
        "name": name,
        "server": "SO_REUSEADDR" if reuse else "plain",
        "taken": len(given),
        "failed": sum(1 for *_, listened in given if not listened),
        "double": _doubles(given),
        "none": len(owned) - len(given),
        "seconds": seconds,
        "binds": opened.get("bind"),
        "connects": opened.get("connect"),
    }


def _doubles(owned: list[list[Any]]) -> int:
    """Count the times that a port was given out while somebody still had it."""
    doubles = 0
    until: dict[int, int] = {}
    for port, start, end, _ in sorted(owned, key=lambda entry: int(entry[1])):
        doubles += start < until.get(port, 0)
        until[port] = max(end, until.get(port, 0))
    return doubles


def lessee(
    *, name: str, reuse: bool, count: int, server: str | None
) -> Callable[[], list[list[object]]]:
    """Return the task: take *count* ports one after the other, and serve on each.

    It returns for each its number (0: none was given), from when until when it was ours, in
    nanoseconds of the monotonic clock, and whether our server could listen on it.
    """
    take = _taker(name, server)
    refusals: tuple[type[Exception], ...] = (OSError, portlease.PortleaseError)
    refusals += _peers.refusals()

    def run() -> list[list[object]]:
        owned: list[list[object]] = []
        for _ in range(count):
            try:
                port, give_back = take()
            except refusals:
                owned.append([0, 0, 0, False])
                continue
            start = time.monotonic_ns()
            time.sleep(_HELD_S)
            listened = _serve(port, reuse=reuse)
            owned.append([port, start, time.monotonic_ns(), listened])
            give_back()
        return owned

    return run


def _taker(name: str, server: str | None) -> Callable[[], tuple[int, Callable[[], object]]]:
    def offered() -> tuple[int, Callable[[], object]]:
        lease = portlease.lease()
        return lease.port, lease.release

    def guarded() -> tuple[int, Callable[[], object]]:
        lease = portlease.lease()
        lease.step_aside()
        return lease.port, lease.release

    if name == _OFFERED:
        return offered
    if name == _GUARDED:
        return guarded
    find = portlease.find_unused_port if name == _FIND else _peers.load(name, server).take
    return lambda: (find(), lambda: None)


def _serve(port: int, *, reuse: bool) -> bool:
    """Do what a server does on its start; False if somebody else has the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        if reuse:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
            server.listen()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def storm(*, kind: str) -> Callable[[], int]:
    """Return the task: bind port 0, or connect, until told to stop; it returns how often."""
    return lambda: _storm(kind)


def _storm(kind: str) -> int:
    opened = 0
    recent: deque[socket.socket] = deque()
    with socket.create_server(("127.0.0.1", _STORM_PORT if kind == "connect" else 0)) as server:
        while not asked_to_stop():
            sock = socket.socket()
            # Closed with a reset: TIME_WAIT would fill the range for a minute.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            try:
                if kind == "connect":
                    sock.connect(("127.0.0.1", _STORM_PORT))
                    server.accept()[0].close()
                else:
                    sock.bind(("", 0))
            except OSError as error:
                sock.close()
                if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL}:  # the range is full
                    raise
            else:
                opened += 1
                recent.append(sock)
            while len(recent) > _STORM_SOCKETS:
                recent.popleft().close()
            time.sleep(_STORM_PAUSE_S)
    while recent:
        recent.popleft().close()
    return opened


_RESET: Final = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds


def _main() -> None:
    asked = json.loads(sys.argv[1])
    os.environ.pop("PORTSERVER_ADDRESS", None)  # portpicker would ask that server unasked
    with contextlib.ExitStack() as stack:
        server = None
        if asked["name"] == _peers.PORTSERVER:
            server = stack.enter_context(_peers.portserver(_SERVER_POOL))
        print(json.dumps(_collisions(**asked, server=server)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    _main()
