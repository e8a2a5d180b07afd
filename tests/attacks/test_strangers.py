"""Binders of the very number from elsewhere: other processes, other users, other networks.

They try every bind there is, in each state of a lease, and odd ones besides: mapped addresses,
addresses that nobody has, multicast groups, ranges of a socket's own. The control of each is
GUARDED and RELEASED, where the same binders all get in.
"""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import call_in_new_netns, need
from _thieves import Thief, in_children, loot, steal, thieves

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform != "linux":
    pytest.skip("the whole promise is Linux's; see docs/promise.md", allow_module_level=True)

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
STATES = ("HELD", "OFFERED", "GUARDED", "HANDED_OVER", "RELEASED")
# Ourselves, nobody, and a user that no system has.
USERS = (0, 65534, 1_234_567)


run = functools.partial(call_in_new_netns, __file__)
"""Call a function of this module in a namespace of its own; return what it found out."""


def reach(lease: portlease.Lease, state: str) -> list[socket.socket]:
    """Bring a lease that is HELD to *state*; return the sockets that were handed over."""
    if state == "OFFERED":
        lease.offer()
    elif state == "GUARDED":
        lease.step_aside()
    elif state == "HANDED_OVER":
        return [lease.hand_over()]
    elif state == "RELEASED":
        lease.release()
    return []


def who_gets_in(kind: int, port: int, state: str) -> dict[int, list[str]]:
    """The thieves that get in, for each of USERS."""

    def as_user(user: int, _: int) -> list[str]:
        crew = thieves(kind)
        if state == "OFFERED":
            # After one who sets both options the kernel lets in who sets SO_REUSEPORT alone: a
            # chapter of its own, in test_binds.py.
            crew = [thief for thief in crew if not (thief.reuseaddr and thief.reuseport)]
        if user:
            # To tie a socket to an interface is another matter without CAP_NET_RAW.
            crew = [thief for thief in crew if not thief.device]
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        return [name for name, said in loot(kind, port, crew).items() if not said]

    # One after the other: where they get in, they would be in each other's way.
    return {user: in_children(1, functools.partial(as_user, user))[0] for user in USERS}


def of_each_state(kind: int) -> dict[str, dict[int, list[str]]]:
    """Who gets in, state by state."""
    found = {}
    for state in STATES:
        if kind == UDP and state == "OFFERED":
            continue
        with portlease.lease("tcp" if kind == TCP else "udp", offer=False) as lease:
            sockets = reach(lease, state)
            found[state] = who_gets_in(kind, lease.port, state)
            for sock in sockets:
                sock.close()
    return found


@pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
def test_no_user_gets_in_where_the_state_keeps_him_out(kind: int) -> None:
    """As three users, with every bind there is, in every state: HELD and HANDED_OVER, nobody."""
    need.capability("netns")
    need.capability("other_user")
    found = run(f"of_each_state({int(kind)})")
    everybody = {str(thief) for thief in thieves(kind)}
    for state, of_users in found.items():
        for user, names in of_users.items():
            everyone = {one for one in everybody if user == "0" or not one.endswith(" lo")}
            if state in {"GUARDED", "RELEASED"}:  # the control
                assert set(names) == everyone, (state, user)
            elif state == "OFFERED":
                assert names, "with SO_REUSEADDR one gets in"
                assert all("reuseaddr" in name for name in names), (state, user, names)
            else:
                assert names == [], (state, user)


# --- other networks -----------------------------------------------------------------------------


def beyond(state: str) -> dict[str, Any]:
    """Lease a port, and try its number in another network namespace, which a child makes."""
    with portlease.lease(offer=False) as lease:
        sockets = reach(lease, state)

        def elsewhere(_: int) -> dict[str, Any]:
            unshare_network()
            found = {"rows": len(portlease.leases()), "thief": steal(ANY, TCP, lease.port)}
            with portlease.lease(ports=[lease.port], offer=False) as other:
                other.step_aside()  # its guard is none of ours
                return {**found, "leased": other.port == lease.port}

        (found,) = in_children(1, elsewhere)
        rows = [str(info.state) for info in portlease.leases()]
        here = steal(ANY, TCP, lease.port)
        for sock in sockets:
            sock.close()
    return {**found, "here": here, "state": rows}


ANY = Thief(socket.AF_INET, "0.0.0.0", reuseaddr=True)


def unshare_network() -> None:
    """As os.unshare(os.CLONE_NEWNET), which Python 3.11 has not."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare")


@pytest.mark.parametrize("state", ["HELD", "OFFERED", "GUARDED", "HANDED_OVER"])
def test_another_network_is_another_port(state: str) -> None:
    """There the number is free to take and to lease, and here nothing of that is felt.

    That it is free there is the control: the thief is no weaker, he is elsewhere.
    """
    need.capability("netns")
    found = run(f"beyond({state!r})")
    kept_out = state in {"HELD", "HANDED_OVER"}
    assert found == {
        "rows": 0,
        "thief": "",
        "leased": True,
        "here": "EADDRINUSE" if kept_out else "",
        "state": [state],
    }


# --- odd binders --------------------------------------------------------------------------------


def mapped(port: int, kind: int) -> str:
    """An IPv4 address by an IPv6 socket."""
    return _said(socket.AF_INET6, kind, ("::ffff:127.0.0.1", port))


def nobodys_address(port: int, kind: int) -> str:
    """An address that this machine does not have: IP_FREEBIND, ip(7); any user may."""
    return _said(socket.AF_INET, kind, ("192.0.2.1", port), (socket.IPPROTO_IP, 15, 1))


def nobodys_address_6(port: int, kind: int) -> str:
    """The same for IPv6: IPV6_FREEBIND, <linux/in6.h>."""
    return _said(socket.AF_INET6, kind, ("2001:db8::1", port), (socket.IPPROTO_IPV6, 78, 1))


def late_address(port: int, kind: int) -> str:
    """IP_BIND_ADDRESS_NO_PORT, ip(7), puts off the choice of a port, but not of this one."""
    return _said(socket.AF_INET, kind, ("127.0.0.1", port), (socket.IPPROTO_IP, 24, 1))


def own_range(port: int, kind: int) -> str:
    """bind(0) with a range of the socket's own that has this port alone: IP_LOCAL_PORT_RANGE."""
    option = (socket.IPPROTO_IP, 51, struct.pack("=I", port << 16 | port))  # Linux 6.3
    with socket.socket(socket.AF_INET, kind) as sock:
        try:
            sock.setsockopt(*option)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            return "EADDRINUSE"  # a kernel that does not know it
        try:
            sock.bind(("127.0.0.1", 0))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "" if sock.getsockname()[1] == port else "EADDRINUSE"


def group(port: int, kind: int) -> str:
    """A multicast address."""
    return _said(socket.AF_INET, kind, ("224.0.0.1", port))


def broadcast(port: int, kind: int) -> str:
    """The broadcast address of the loopback's network."""
    return _said(socket.AF_INET, kind, ("127.255.255.255", port))


def _said(family: int, kind: int, to: tuple[str, int], *options: tuple[int, int, int]) -> str:
    with socket.socket(family, kind) as sock:
        for option in options:
            sock.setsockopt(*option)
        try:
            sock.bind(to)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return ""


FOR_BOTH = (mapped, nobodys_address, nobodys_address_6, late_address, own_range)
FOR_UDP = (*FOR_BOTH, group, broadcast)


def oddities(kind: int) -> dict[str, dict[str, str]]:
    """What each odd binder is told, state by state, of a port inside the ephemeral range."""
    binders: tuple[Callable[[int, int], str], ...] = FOR_BOTH if kind == TCP else FOR_UDP
    found = {}
    for state in STATES:
        if kind == UDP and state == "OFFERED":
            continue
        name = "tcp" if kind == TCP else "udp"
        with portlease.lease("tcp" if name == "tcp" else "udp", ports=[40007], offer=False) as one:
            sockets = reach(one, state)
            found[state] = {binder.__name__: binder(40007, kind) for binder in binders}
            for sock in sockets:
                sock.close()
    return found


@pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
def test_no_odd_bind_gets_in(kind: int) -> None:
    """Other addresses, other options, other ways to name the number: refused as any bind is."""
    need.capability("netns")
    need.capability("ipv6")
    found = run(f"oddities({int(kind)})", ephemeral=(40000, 40009))
    for state in ("HELD", "OFFERED", "HANDED_OVER"):
        assert set(found.get(state, {"": "EADDRINUSE"}).values()) == {"EADDRINUSE"}, found[state]
    for state in ("GUARDED", "RELEASED"):  # the control
        told = found[state]
        assert told.pop("own_range") in {"", "EADDRINUSE"}, told
        assert set(told.values()) == {""}, (state, told)


def with_own_range(low: int, high: int) -> list[int]:
    """What bind(0) gives a socket with a range of its own, one by one, until it is refused."""
    given = []
    kept = []
    for _ in range(50):
        sock = socket.socket()
        kept.append(sock)
        try:
            sock.setsockopt(socket.IPPROTO_IP, 51, struct.pack("=I", high << 16 | low))
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            break
        try:
            sock.bind(("127.0.0.1", 0))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            break
        given.append(sock.getsockname()[1])
    for sock in kept:
        sock.close()
    return given


def test_a_range_of_ones_own_does_not_reach_outside_the_systems() -> None:
    """IP_LOCAL_PORT_RANGE narrows ip_local_port_range and cannot leave it: guarded ports are safe.

    Inside of it, it gives just those it names, which is the control.
    """
    need.capability("netns")
    assert not set(run("with_own_range(20000, 20010)", ephemeral=(40000, 40019))) & set(
        range(20000, 20011)
    )
    inside = run("with_own_range(40005, 40007)", ephemeral=(40000, 40019))
    assert set(inside) <= {40005, 40006, 40007}
