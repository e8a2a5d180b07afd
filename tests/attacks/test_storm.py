"""The storm: many lessees, hardly an ephemeral port left, and servers that start late.

Eight processes lease ports, one at a time, in a namespace with 400 ephemeral ports, while others
take all they get from bind(0) and connect(). Each port's server binds 5 ms after it was leased. The
same is then asked of CPython's find_unused_port(), which gives the number away unheld.
"""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import functools
import importlib
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

import portlease
from _need import call_in_new_netns, need
from _thieves import Thief, acceptor, bind_zero, connect_out, has_ipv6, in_children, meanwhile

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

LESSEES = 8
RANGE = (40000, 40399)
# How many ports each of the six storms takes before it lets go of them: not all there are, or the
# control would fail for want of a port rather than because it was taken.
AT_ONCE = 40
STARTUP_S = 0.005  # what the server needs to get from its number to its bind(); part of the attack


def storm(how: str, rounds: int) -> dict[str, int]:
    """Run it; return how many servers started and how many could not."""
    families = [(socket.AF_INET, "127.0.0.1", "0.0.0.0")]
    if has_ipv6():
        families.append((socket.AF_INET6, "::1", "::"))
    port, servers = acceptor([host for _, host, _ in families])
    storms: list[Callable[[], object]] = []
    for family, host, anywhere in families:
        out = functools.partial(connect_out, family, socket.SOCK_STREAM, (host, port), most=AT_ONCE)
        storms.append(out)
        for address in (host, anywhere):
            thief = Thief(family, address, reuseaddr=address == anywhere)
            storms.append(functools.partial(bind_zero, thief, socket.SOCK_STREAM, most=AT_ONCE))
    with meanwhile(*storms):
        answers = in_children(LESSEES, functools.partial(LESSEE[how], rounds))
    for sock in servers:
        sock.close()
    return {"started": sum(answers), "failed": LESSEES * rounds - sum(answers)}


def starts(port: int, number: int) -> bool:
    """Start a server on *port*, late; every other one listens on all addresses."""
    time.sleep(STARTUP_S)
    with socket.socket() as sock:
        if number % 3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("" if number % 2 else "127.0.0.1", port))
            sock.listen()
        except OSError:
            return False  # counted, whatever it was
        return True


def with_lease(rounds: int, _: int) -> int:
    """Lease; every third server does not set SO_REUSEADDR, and its lease steps aside for it."""
    count = 0
    for number in range(rounds):
        with portlease.lease() as lease:
            if not number % 3:
                lease.step_aside()
            count += starts(lease.port, number)
    return count


def with_find_unused_port(rounds: int, _: int) -> int:
    """Ask the helper of CPython's own tests."""
    find_unused_port = importlib.import_module("test.support.socket_helper").find_unused_port
    count = 0
    for number in range(rounds):
        try:
            port = find_unused_port()
        except OSError:
            continue  # none was left: a failure as well
        count += starts(port, number)
    return count


LESSEE = {"lease": with_lease, "find_unused_port": with_find_unused_port}


def run(how: str, rounds: int) -> dict[str, int]:
    """Storm in a namespace."""
    call = f"storm({how!r}, {rounds})"
    found: dict[str, int] = call_in_new_netns(__file__, call, ephemeral=RANGE)
    return found


def test_no_lease_fails_in_the_storm() -> None:
    """8 lessees x 25: every server gets its port."""
    assert run("lease", 25) == {"started": LESSEES * 25, "failed": 0}


@pytest.mark.long
def test_no_lease_fails_in_the_long_storm() -> None:
    """8 lessees x 150, ten times over: every server gets its port."""
    for _ in range(10):
        assert run("lease", 150) == {"started": LESSEES * 150, "failed": 0}


def test_unheld_ports_fail_in_the_same_storm() -> None:
    """The control: in a storm in which find_unused_port() never failed, no lease is tested."""
    need.module("test.support.socket_helper")
    found = run("find_unused_port", 25)
    print(f"find_unused_port: {found}")  # noqa: T201 - the contrast, for who reads it
    assert found["failed"] > 0
