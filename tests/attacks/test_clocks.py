"""Clocks that jump, and lessees whose clocks differ: nothing in a lease rests on the time of day.

CLOCK_MONOTONIC and CLOCK_BOOTTIME jump when a process enters another time namespace, which moves no
clock but its own. The time of day has no namespace; what a lessee whose clock was set writes is a
row that another one reads, and such a row can be written.
"""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import portlease
from _board import row
from _need import call_in_new_netns, need
from _thieves import Thief, holding, in_children, meanwhile, steal
from portlease import _platform, _registry, _take, _wish

if sys.platform != "linux":
    pytest.skip("time namespaces are Linux's", allow_module_level=True)

_CLONE_NEWTIME = 0x80
PLAIN = Thief(socket.AF_INET, "127.0.0.1")
PORT = 20000


run = functools.partial(call_in_new_netns, __file__)
"""Call a function of this module in a namespace of its own; return what it found out."""


def jump(seconds: int) -> float:
    """Move this process, which must have one thread, to where the clocks differ by so much.

    Returns by how much CLOCK_MONOTONIC jumped; 0.0 where there are no time namespaces.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWTIME) != 0:
        return 0.0
    offsets = "".join(f"{clock} {seconds} 0\n" for clock in ("monotonic", "boottime"))
    Path("/proc/self/timens_offsets").write_text(offsets, encoding="ascii")
    namespace = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    before = time.monotonic()
    if libc.setns(namespace, _CLONE_NEWTIME) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(namespace)
    return time.monotonic() - before


def jumped(seconds: int) -> dict[str, Any]:
    """Lease, let the clocks jump, and use the lease and others."""

    def lessee(_: int) -> dict[str, Any]:
        wrong = []
        with portlease.lease(offer=False) as held, portlease.lease("both") as both:
            far = jump(seconds)
            told = [steal(PLAIN, socket.SOCK_STREAM, one.port) for one in (held, both)]
            wrong += ["hold lost" for said in told if said != "EADDRINUSE"]
            both.step_aside()
            if steal(PLAIN, socket.SOCK_STREAM, both.port):
                wrong.append("not free")
            both.take_back()
            with portlease.lease_many(20) as more, portlease.lease("udp"):
                rows = {info.port: info.pid for info in portlease.leases()}
                wrong += ["row" for one in (held, both, *more) if rows.get(one.port) != os.getpid()]
            who = str(portlease.who(held))
        return {"jumped": far, "wrong": wrong, "who": who, "rows": len(portlease.leases())}

    return in_children(1, lessee)[0]  # type: ignore[no-any-return] # as it was returned above


@pytest.mark.parametrize("seconds", [86_400 * 30, -3600])
def test_the_monotonic_clock_jumps_under_live_leases(seconds: int) -> None:
    """A month on, and an hour back: holds, moves, rows and who() are as before.

    That the clock did jump, as the process itself reads it, is the control.
    """
    need.capability("root")
    if seconds < 0 and time.clock_gettime(time.CLOCK_MONOTONIC) < -seconds + 60:
        pytest.skip("this machine has not been up for so long; no clock may go below zero")
    found = run(f"jumped({seconds})")
    if not found["jumped"]:
        need.missing("time namespaces", "this kernel has none")
    assert found["jumped"] == pytest.approx(seconds, abs=60)
    assert found["wrong"] == []
    assert "leased, HELD" in found["who"]
    assert found["rows"] == 0


def contend() -> dict[str, Any]:
    """Lessees of one port, each of which lives in a time of its own."""

    def lessee(number: int) -> tuple[Any, object]:
        far = jump([0, 86_400, -3000, 86_400 * 365][number]) if number else 0.0
        taken = []
        while True:
            try:
                taken.append(portlease.lease("both", ports=range(PORT, PORT + 40), offer=False))
            except portlease.PortUnavailableError:
                return (far, [lease.port for lease in taken]), taken

    with holding(4, lessee) as children:
        ports = [port for child in children for port in child.told[1]]
        rows = sorted(info.port for info in portlease.leases())
        return {
            "jumps": [child.told[0] for child in children],
            "doubles": len(ports) - len(set(ports)),
            "ports": len(ports),
            "rows": len(rows),
        }


def test_lessees_in_different_times_never_share_a_port() -> None:
    """Four processes whose clocks are a year apart contend: 40 ports make 40 leases."""
    need.capability("root")
    found = run("contend()")
    if not any(found.pop("jumps")):
        need.missing("time namespaces", "this kernel has none")
    assert found == {"doubles": 0, "ports": 40, "rows": 40}


# --- the time of day ----------------------------------------------------------------------------


def take_in_1970() -> None:
    """Ask for a port that another has, as one whose clock has been set back."""
    vars(_registry)["time_ns"] = lambda: 1_000_000
    wish = _wish.wish("tcp", None, None, True, [PORT])  # noqa: FBT003 - as lease() does
    # Without the look for who is in the way, which takes a thousand times as long.
    assert _take._try(PORT, wish, _take._by("1970")) is None


def looked_at(rounds: int) -> dict[str, int]:
    """Read the list again and again while others ask in vain for what is leased."""
    found = {"rounds": rounds, "missing": 0, "false": 0, "seen on the board": 0}
    with portlease.lease(ports=[PORT], label="mine"), meanwhile(take_in_1970, take_in_1970):
        for _ in range(rounds):
            labels = [info.label for info in portlease.leases()]
            found["missing"] += "mine" not in labels
            found["false"] += "1970" in labels
            names = _platform.backend.published()
            found["seen on the board"] += any(name.endswith(b"/1970") for name in names)
    return found


def test_a_taker_whose_clock_is_behind_hides_no_lease() -> None:
    """A row that passes by does not displace one that stands, though it says that it is older.

    That such rows are on the board, where a plain look finds them, is the control.
    """
    need.capability("netns")
    found = run("looked_at(80)")
    assert found["seen on the board"], "nobody ever came by"
    # Where a taker is kept from the processor for longer than the list is looked at again, it may.
    assert found["missing"] <= found["seen on the board"] / 20, found
    assert found["false"] == found["missing"], found


def test_limit_a_row_that_stays_and_says_it_is_older_is_believed() -> None:
    """The limit: of two rows that stay, the one of the earlier clock is listed."""
    with portlease.lease(label="mine") as lease, row(lease.port, label="1970"):
        listed = [info.since for info in portlease.leases() if info.port == lease.port]
        assert listed == [0.001]
        # It is the list alone that it deceives: the port is held.
        assert steal(PLAIN, socket.SOCK_STREAM, lease.port) == "EADDRINUSE"


def test_the_lessees_own_clock_is_set_back() -> None:
    """A lease taken before and one taken after are both listed, and both are what they say."""
    with pytest.MonkeyPatch.context() as patch, portlease.lease(label="before") as one:
        patch.setattr(_registry, "time_ns", lambda: 1_000_000)
        with portlease.lease(label="after") as two:
            one.step_aside()
            one.take_back()
            states = {info.label: info.state for info in portlease.leases()}
            assert (states["before"], states["after"]) == ("HELD", "OFFERED")
            assert two.since == 0.001
