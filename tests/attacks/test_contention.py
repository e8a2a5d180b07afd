"""Many processes want the same ports, and their holders die."""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import functools
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import call_in_new_netns
from _thieves import Thief, holding, steal

if TYPE_CHECKING:
    from pathlib import Path

    from portlease._wish import Kind

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

NAMED = range(20000, 20500)
SOCKET_TYPES = {
    "tcp": [socket.SOCK_STREAM],
    "udp": [socket.SOCK_DGRAM],
    "both": [socket.SOCK_STREAM, socket.SOCK_DGRAM],
}


run = functools.partial(call_in_new_netns, __file__)
"""Call a function of this module in a namespace of its own; return what it found out."""


def raise_descriptor_limit() -> None:
    """A lease is two descriptors, and the limit is often 1,024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def take_all(kind: Kind) -> list[portlease.Lease]:
    """Lease named ports until there is none left."""
    taken = []
    while True:
        try:
            taken.append(portlease.lease(kind, ports=NAMED, offer=False))
        except portlease.PortUnavailableError as error:
            assert error.ports == tuple(NAMED)  # noqa: PT017 - in a child, without pytest
            return taken


def occupied(kind: Kind) -> list[int]:
    """The named ports that the kernel refuses to a plain bind."""
    plain = Thief(socket.AF_INET, "0.0.0.0")
    return [
        port
        for port in NAMED
        if all(steal(plain, socktype, port) == "EADDRINUSE" for socktype in SOCKET_TYPES[kind])
    ]


def contend(kind: Kind) -> dict[str, Any]:
    """Eight processes take all they get; two independent detectors look for doubles.

    One asks the lessees themselves, the other the kernel: its list of names, and its port table.
    """
    raise_descriptor_limit()

    def lessee(_: int) -> tuple[list[int], object]:
        taken = take_all(kind)
        return [lease.port for lease in taken], taken

    with holding(8, lessee) as children:
        claims = Counter(port for child in children for port in child.told)
        board = {info.port: info.pid for info in portlease.leases()}
        found = {
            "lessees": sum(bool(child.told) for child in children),
            "claims": sum(claims.values()),
            "double": [port for port, count in claims.items() if count > 1],
            "rows": len(portlease.leases()),
            "rows that differ": [
                port for child in children for port in child.told if board.get(port) != child.pid
            ],
            "occupied": len(occupied(kind)),
        }
    return {**found, "rows afterwards": len(portlease.leases())}


@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
def test_500_named_ports_make_500_leases(kind: str) -> None:
    """Eight contending processes get 500 leases in all, and no port is leased twice."""
    found = run(f"contend({kind!r})")
    assert found.pop("lessees") > 1, "there was no contention"
    assert found == {
        "claims": 500,
        "double": [],
        "rows": 500,
        "rows that differ": [],
        "occupied": 500,
        "rows afterwards": 0,
    }


def kill_the_holder(kind: Kind, state: str) -> dict[str, Any]:
    """Kill the holder of 500 leases with SIGKILL; take them in the moment its death is known."""
    raise_descriptor_limit()

    def holder(_: int) -> tuple[int, object]:
        leases = portlease.lease_many(len(NAMED), kind, ports=NAMED, offer=False)
        for lease in leases:
            if state == "OFFERED":
                lease.offer()
            elif state == "GUARDED":
                lease.step_aside()
        return len(leases), leases

    with holding(1, holder) as (child,):
        before = Counter((info.state, info.pid == child.pid) for info in portlease.leases())
        os.kill(child.pid, signal.SIGKILL)
        # Waits for the death and leaves the zombie to be waited for.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        rows = len(portlease.leases())
        with portlease.lease_many(len(NAMED), kind, ports=NAMED) as again:
            return {
                "before": before[portlease.State(state), True],
                "rows": rows,
                "again": len(again),
            }


@pytest.mark.parametrize(
    ("kind", "state"),
    [("tcp", "HELD"), ("tcp", "OFFERED"), ("both", "OFFERED"), ("udp", "GUARDED")],
)
def test_500_leases_of_a_killed_holder_are_free_at_once(kind: str, state: str) -> None:
    """When the holder's death can be waited for, its ports are free and its rows are gone."""
    found = run(f"kill_the_holder({kind!r}, {state!r})")
    assert found == {"before": 500, "rows": 0, "again": 500}


def unheld(rounds: int) -> dict[str, int]:
    """Eight processes collect numbers as most helpers do, by bind(0) and close; count doubles."""

    def collect(_: int) -> list[int]:
        found = []
        for _ in range(rounds):
            with socket.socket() as sock:
                sock.bind(("", 0))
                found.append(sock.getsockname()[1])
        return found

    with holding(8, lambda number: (collect(number), None)) as children:
        claims = Counter(port for child in children for port in set(child.told))
        return {"claims": sum(claims.values()), "double": sum(n > 1 for n in claims.values())}


def test_unheld_numbers_are_given_twice() -> None:
    """The control: of numbers that nobody holds, the same eight processes get some in common."""
    found = run("unheld(100)", ephemeral=(40000, 40499))
    assert found["double"] > 0, found


def test_a_list_in_a_file_outlives_who_wrote_it(tmp_path: Path) -> None:
    """The control: what a process writes down it cannot take back when it is killed."""
    file = tmp_path / "leases"
    script = "import os, signal, sys; open(sys.argv[1], 'w').write('8080'); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script, file], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_text(encoding="ascii") in {"", "8080"}
    assert file.exists()
