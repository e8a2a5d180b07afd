"""bind(0) and connect() are never given a leased port, also where there is hardly another.

Each script runs in a network namespace with a few hundred ephemeral ports. Its leases are forced
into that range, where no sensible caller would put them, and then the kernel is asked for ports
until it has none left. Every port that is not leased must have been given: that is the control.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

import portlease
from _need import call_in_new_netns, need
from _thieves import Thief, acceptor, bind_zero, connect_out, has_ipv6, server, thieves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

RANGE = (40000, 40099)
LEASED = range(40030, 40060)
FREE = set(range(RANGE[0], RANGE[1] + 1)) - set(LEASED)
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


def run(call: str) -> dict[str, list[int]]:
    """Call a function of this module in such a namespace; return what it found out."""
    found: dict[str, list[int]] = call_in_new_netns(__file__, call, ephemeral=RANGE)
    assert found
    return found


def storms(kind: int) -> Iterator[tuple[str, set[int]]]:
    """Every way to be given a port by the kernel, and which it gave."""
    for thief in thieves(kind):
        yield f"bind(0) {thief}", bind_zero(thief, kind)
    hosts = {socket.AF_INET: "127.0.0.1"}
    if has_ipv6():
        hosts[socket.AF_INET6] = "::1"
    port, servers = acceptor(hosts.values())
    for family, host in hosts.items():
        yield f"connect() {host}", connect_out(family, kind, (host, port))
        yield f"unbound {host}", unbound(family, kind, (host, port))
        yield f"late {host}", late(family, kind, (host, port))
    if has_ipv6():
        yield "connect() mapped", connect_out(socket.AF_INET6, kind, ("::ffff:127.0.0.1", port))
    for sock in servers:
        sock.close()


def until_exhausted(family: int, kind: int, ask: Callable[[socket.socket], object]) -> set[int]:
    """Have *ask* get each of many sockets a port, until the kernel has none left."""
    with contextlib.ExitStack() as stack:
        given = set()
        for _ in range(2000):
            sock = stack.enter_context(socket.socket(family, kind))
            if kind == TCP:  # closed by a reset, and not left in TIME_WAIT
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                ask(sock)
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAGAIN}:
                    raise
                break
            given.add(sock.getsockname()[1])
        return given


def unbound(family: int, kind: int, to: tuple[str, int]) -> set[int]:
    """listen() or sendto() with no bind before: the kernel binds for itself."""
    if kind == TCP:
        return until_exhausted(family, kind, lambda sock: sock.listen())
    return until_exhausted(family, kind, lambda sock: sock.sendto(b".", to))


def late(family: int, kind: int, to: tuple[str, int]) -> set[int]:
    """connect() after a bind to an address that left the port open: IP_BIND_ADDRESS_NO_PORT."""

    def ask(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # <linux/in.h>; for IPv6 sockets as well
        sock.bind((to[0], 0))
        sock.connect(to)

    return until_exhausted(family, kind, ask)


def taken_while(kind: Literal["tcp", "udp"], state: str) -> dict[str, list[int]]:
    """Lease LEASED, bring the leases into *state*, and storm."""
    with portlease.lease_many(len(LEASED), kind, ports=LEASED, offer=False) as leases:
        for lease in leases:
            if state in {"OFFERED", "SERVED"}:
                lease.offer()
            elif state == "GUARDED":
                lease.step_aside()
        servers = [server(lease.port) for lease in leases] if state == "SERVED" else []
        if state == "HANDED_OVER":
            servers = [lease.hand_over() for lease in leases]
        found = {name: sorted(given) for name, given in storms(TCP if kind == "tcp" else UDP)}
        for sock in servers:
            sock.close()
        return found


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("tcp", "HELD"),
        ("tcp", "OFFERED"),
        ("tcp", "SERVED"),
        ("tcp", "HANDED_OVER"),
        ("udp", "HELD"),
        ("udp", "HANDED_OVER"),
    ],
)
def test_what_is_leased_is_never_given(kind: str, state: str) -> None:
    """The kernel gives every port of the range but the leased ones, in each family and manner."""
    found = run(f"taken_while({kind!r}, {state!r})")
    wrong = {name: set(given) & set(LEASED) for name, given in found.items()}
    assert not any(wrong.values()), wrong
    short = {name: FREE - set(given) for name, given in found.items() if FREE - set(given)}
    assert not short, f"the storm was too weak to prove anything: {short}"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_guarded_port_inside_the_range_is_given(kind: str) -> None:
    """The limit of GUARDED: unheld inside the ephemeral range, a port is the kernel's to give.

    Therefore leases come from outside of it.
    """
    found = run(f"taken_while({kind!r}, 'GUARDED')")
    assert all(set(given) == FREE | set(LEASED) for given in found.values())


def with_autobind_reuse(state: str) -> dict[str, list[int]]:
    """Let the kernel share ports among those with SO_REUSEADDR, and use the range up."""
    setting = Path("/proc/sys/net/ipv4/ip_autobind_reuse")  # Linux 5.7
    if not setting.exists():
        return {"not to be had": []}
    setting.write_text("1", encoding="ascii")
    with portlease.lease_many(len(LEASED), ports=LEASED, offer=state == "OFFERED"):
        thief = Thief(socket.AF_INET, "127.0.0.1", reuseaddr=True)
        return {"given": sorted(bind_zero(thief, TCP))}


def test_limit_autobind_reuse_gives_offered_ports_and_no_held_ones() -> None:
    """A limit: net.ipv4.ip_autobind_reuse=1 (0 by default) hands out what has SO_REUSEADDR.

    Only inside the ephemeral range, and only when the range is used up; HELD ports never.
    """
    found = run("with_autobind_reuse('OFFERED')")
    if "not to be had" in found:
        need.missing("net.ipv4.ip_autobind_reuse", "this kernel has no ip_autobind_reuse")
    assert set(found["given"]) & set(LEASED)
    assert not set(run("with_autobind_reuse('HELD')")["given"]) & set(LEASED)


def outside() -> dict[str, list[int]]:
    """Lease as anybody does, step aside, and storm."""
    with portlease.lease_many(100, "both") as leases:
        for lease in leases:
            lease.step_aside()
        found = {name: sorted(given) for name, given in [*storms(TCP), *storms(UDP)]}
        return {**found, "leases": list(leases.ports)}


def test_a_guarded_port_outside_the_range_is_never_given() -> None:
    """Unasked, a lease's port lies outside the range: unheld, and still nobody lands on it."""
    found = run("outside()")
    leased = set(found.pop("leases"))
    assert not leased & (FREE | set(LEASED))
    assert all(set(given) == FREE | set(LEASED) for given in found.values())
