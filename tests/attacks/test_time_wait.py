"""Floods of connections in TIME_WAIT, on the leased port and all around it.

What is left of a connection keeps its port for a minute, and lets others in by rules of its own:
tcp_tw_reuse for connect(), SO_REUSEADDR for bind(). None of them must open a lease. Each script
runs in a network namespace with 200 ephemeral ports, so that the remains are everywhere.
"""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import functools
import socket
import sys
from typing import Any

import pytest

import portlease
from _need import call_in_new_netns, need
from _thieves import Thief, bind_zero, expected, loot, server, thieves

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

TCP = socket.SOCK_STREAM
RANGE = (40000, 40199)
LEASED = range(40050, 40080)
FREE = set(range(RANGE[0], RANGE[1] + 1)) - set(LEASED)
SIMPLE = [thief for thief in thieves(TCP) if not (thief.reuseaddr and thief.reuseport)]


run = functools.partial(call_in_new_netns, __file__, ephemeral=RANGE)
"""Call a function of this module in such a namespace; return what it found out."""


def flood(port: int, count: int, *, theirs: bool, host: str = "127.0.0.1") -> int:
    """Leave *count* connections to a server on *port* in TIME_WAIT; return how many there were.

    Theirs: the clients close first, and so the remains are on their ports, not on the server's.
    """
    done = 0
    with server(port, host) as sock:
        for number in range(count):
            with socket.socket() as client:
                # From many addresses, so that more than one connection can have each port.
                client.bind((f"127.0.{number // 150}.{1 + number % 200}", 0))
                client.connect((host, port))
                accepted = sock.accept()[0]
                first, second = (client, accepted) if theirs else (accepted, client)
                first.close()
                second.close()
            done += 1
    return done


def given_to(port: int) -> list[str]:
    """To whom bind(0) gives this very port."""
    return [str(thief) for thief in thieves(TCP) if port in bind_zero(thief, TCP)]


def on_the_port() -> dict[str, Any]:
    """A server leaves hundreds on the leased port; then try each state."""
    found: dict[str, Any] = {}
    with portlease.lease(ports=[40055]) as lease:
        found["flood"] = flood(lease.port, 300, theirs=False)
        found["time_wait"] = str(portlease.who(lease)).count("TIME_WAIT")
        found["OFFERED"] = loot(TCP, lease.port, SIMPLE) == expected(
            TCP, refused=lambda thief: not thief.reuseaddr, crew=SIMPLE
        )
        found["given"] = given_to(lease.port)
        with server(lease.port, "0.0.0.0"):  # it starts again
            found["served"] = not [
                name
                for name, said in loot(TCP, lease.port).items()
                if not said and not name.startswith(("::1", ":: v6only"))
            ]
        lease.withdraw()
        found["HELD"] = loot(TCP, lease.port) == expected(TCP, refused=lambda _: True)
        found["given"] += given_to(lease.port)
        lease.offer()
        lease.step_aside()
        try:
            lease.take_back()
        except portlease.PortUnavailableError as error:
            found["take_back"] = "TIME_WAIT" in str(error)
        found["state"] = str(lease.state)
        try:
            portlease.lease(ports=[lease.port])
        except portlease.PortUnavailableError:
            found["leased again"] = False
    # The control: with the lease gone, SO_REUSEADDR alone gets in, past the remains.
    thief = Thief(socket.AF_INET, "127.0.0.1", reuseaddr=True)
    found["afterwards"] = loot(TCP, 40055, [thief]) == expected(
        TCP, refused=lambda _: False, crew=[thief]
    )
    return found


def test_a_flood_on_the_leased_port_opens_no_state() -> None:
    """After 300 connections to its server, each state keeps out whom it always does.

    The limit: in GUARDED the remains are in the way of take_back() itself, which names them.
    """
    need.capability("ipv6")
    need.capability("inet_diag")
    found = run("on_the_port()")
    assert found.pop("time_wait") >= 1
    assert found == {
        "flood": 300,
        "OFFERED": True,
        "served": True,
        "HELD": True,
        "take_back": True,
        "state": "GUARDED",
        "leased again": False,
        "given": [],
        "afterwards": True,
    }


def all_around(state: str) -> dict[str, Any]:
    """Clients leave hundreds on every ephemeral port but the leased; then ask for ports."""
    with portlease.lease_many(len(LEASED), ports=LEASED, offer=state == "OFFERED") as leases:
        if state == "GUARDED":
            for lease in leases:
                lease.step_aside()
        flood(2000, 600, theirs=True)
        given: dict[str, list[int]] = {}
        for thief in thieves(TCP):
            given[f"bind(0) {thief}"] = sorted(bind_zero(thief, TCP))
        used = set()
        with server(2001) as sock:
            sock.listen(1024)
            clients = []
            for number in range(400):  # from addresses that the flood came from
                clients.append(socket.socket())
                clients[-1].bind((f"127.0.{number // 150}.{1 + number % 200}", 0))
                clients[-1].connect(("127.0.0.1", 2001))
                used.add(clients[-1].getsockname()[1])
            for client in clients:
                client.close()
        given["connect()"] = sorted(used)
        return given


@pytest.mark.parametrize("state", ["HELD", "OFFERED"])
def test_a_flood_all_around_gets_no_leased_port(state: str) -> None:
    """With the remains of 600 connections on 170 ports, none of the 30 leased is given."""
    for name, given in run(f"all_around({state!r})").items():
        assert not set(given) & set(LEASED), name


def test_a_flood_all_around_gets_unheld_ports() -> None:
    """The control: where the same 30 are only guarded, bind(0) and connect() are given them."""
    given = run("all_around('GUARDED')")
    for name in ("bind(0) 0.0.0.0", "connect()"):
        assert set(given[name]) & set(LEASED), name


def test_leases_keep_away_from_remains() -> None:
    """A lease is never given a port that is in TIME_WAIT: of 200, those that are left."""
    given = run("in_the_midst()")
    assert given["remains"], "there were none"
    assert given["common"] == []
    assert given["leases"] >= len(FREE) / 2


def in_the_midst() -> dict[str, Any]:
    """Leave remains on some ports of the range, and lease all that can be had."""
    remains = set()
    with server(2000) as sock:
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", 2000)) as client:
                remains.add(client.getsockname()[1])
                client.shutdown(socket.SHUT_WR)
                sock.accept()[0].close()
    leases = []
    while True:
        try:
            leases.append(portlease.lease(ports=range(RANGE[0], RANGE[1] + 1), offer=False))
        except portlease.PortUnavailableError:
            break
    ports = {lease.port for lease in leases}
    for lease in leases:
        lease.release()
    return {
        "remains": len(remains),
        "common": sorted(remains & ports),
        "leases": len(ports),
    }
