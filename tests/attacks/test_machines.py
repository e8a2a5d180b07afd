"""Machines that are set up otherwise: no IPv6, no /proc, another range, or one that moves.

On each of them every state of a lease is tried with every bind there is, as in test_binds.py, and
leases(), who() and the doctor must work, or say exactly what is missing. The control is in the
ordeal itself: GUARDED and RELEASED let the same thieves in.
"""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import errno
import functools
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import portlease
from _forbid import forbid
from _need import call_in_new_netns, need
from _thieves import (
    Thief,
    acceptor,
    bind_zero,
    connect_out,
    equipped,
    expected,
    in_children,
    loot,
    refusal,
    run_python,
    steal,
    thieves,
)
from portlease import _doctor, _pool

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
IPV4, IPV6 = Path("/proc/sys/net/ipv4"), Path("/proc/sys/net/ipv6")


run = functools.partial(call_in_new_netns, __file__)
"""Call a function of this module in a namespace of its own; return what it found out."""


def ordeal() -> dict[str, str]:
    """Try each state of a lease with each bind; raise if it does not keep its promise.

    Returns what the doctor finds limited or missing of what is promised.
    """
    simple = [one for one in thieves(TCP) if not (one.reuseaddr and one.reuseport)]
    with portlease.lease(offer=False, label="ordeal") as lease:
        assert loot(TCP, lease.port) == expected(TCP, refused=lambda _: True)
        lease.offer()
        assert loot(TCP, lease.port, simple) == expected(
            TCP, refused=lambda thief: not thief.reuseaddr, crew=simple
        )
        (info,) = portlease.leases()
        assert (info.port, info.state, info.pid) == (lease.port, "OFFERED", os.getpid())
        assert "leased for 'ordeal'" in str(portlease.who(lease))
        lease.step_aside()
        assert loot(TCP, lease.port) == expected(TCP, refused=lambda _: False)
        lease.take_back()
        with lease.listen() as sock:
            sock.settimeout(10)
            # From a port of its own choice, for where connect() finds none.
            with socket.create_connection(("127.0.0.1", lease.port), None, ("127.0.0.1", 1999)):
                sock.accept()[0].close()
    assert portlease.leases() == []
    for kind in ("udp", "both"):
        with portlease.lease("udp" if kind == "udp" else "both", offer=False) as lease:
            assert loot(UDP, lease.port) == expected(UDP, refused=lambda _: True)
        assert loot(UDP, lease.port) == expected(UDP, refused=lambda _: False)
    return {
        fact.name: fact.found
        for fact in _doctor.examine().facts
        if fact.promised and fact.level != "ok" and fact.name != "open files"
    }


# --- IPv6 ---------------------------------------------------------------------------------------


def without_ipv6() -> dict[str, str]:
    """As a kernel booted with ipv6.disable=1: there is no such family."""
    number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    forbid(number, errno.EAFNOSUPPORT, argument=socket.AF_INET6)
    with portlease.lease() as lease:
        assert lease.scope == "0.0.0.0"
    try:
        portlease.lease(family=socket.AF_INET6)
    except portlease.UsageError as error:
        said = str(error)
    else:
        raise AssertionError
    assert "not supported" in said, said
    return ordeal()


def test_without_ipv6_every_state_holds() -> None:
    """socket(AF_INET6) gives EAFNOSUPPORT: a lease holds 0.0.0.0, which is all there is."""
    need.capability("seccomp")
    if platform.machine() not in {"x86_64", "aarch64"}:
        pytest.skip("socket(2)'s number is not known here")
    assert run("without_ipv6()") == {}


def switched_off() -> dict[str, str]:
    """No interface has an IPv6 address, though the family is there."""
    for name in ("all", "default", "lo"):
        (IPV6 / "conf" / name / "disable_ipv6").write_text("1", encoding="ascii")
    return ordeal()


def test_with_ipv6_switched_off_every_state_holds() -> None:
    """net.ipv6.conf.all.disable_ipv6=1."""
    need.capability("ipv6")
    assert run("switched_off()") == {}


def bindv6only() -> dict[str, str]:
    """An IPv6 wildcard leaves IPv4 alone, unless told otherwise."""
    (IPV6 / "bindv6only").write_text("1", encoding="ascii")
    with socket.socket(socket.AF_INET6) as six, socket.socket() as four:
        six.bind(("::", 2000))
        four.bind(("0.0.0.0", 2000))  # the control: a plain bind to [::] no longer covers IPv4
    with portlease.lease(offer=False) as lease:
        assert lease.scope == "*"
    return ordeal()


def test_with_bindv6only_a_lease_covers_both_families() -> None:
    """net.ipv6.bindv6only=1 leaves IPv4 free of a plain bind to [::], and not of a hold."""
    need.capability("ipv6")
    assert run("bindv6only()") == {}


def switched_off_meanwhile() -> list[str]:
    """IPv6 goes, and comes back, while a lease lives."""
    told = []
    with portlease.lease(offer=False) as lease:
        for value in ("1", "0"):
            for name in ("all", "lo"):
                (IPV6 / "conf" / name / "disable_ipv6").write_text(value, encoding="ascii")
            told.append(steal(Thief(socket.AF_INET, "0.0.0.0", reuseaddr=True), TCP, lease.port))
            told.append(steal(Thief(socket.AF_INET6, "::", reuseaddr=True), TCP, lease.port))
            portlease.lease().release()
    told.append(steal(Thief(socket.AF_INET6, "::"), TCP, lease.port))
    return told


def test_ipv6_goes_and_comes_while_a_lease_lives() -> None:
    """The hold stays what it was; the last bind, after the release, is the control."""
    need.capability("ipv6")
    assert run("switched_off_meanwhile()") == ["EADDRINUSE"] * 4 + [""]


# --- the ranges ---------------------------------------------------------------------------------


def all_reserved() -> dict[str, str]:
    """Nothing outside the ephemeral range may be used."""
    (IPV4 / "ip_local_reserved_ports").write_text("1-39999,40400-65535", encoding="ascii")
    with portlease.lease_many(50, "both", offer=False) as leases:
        assert all(40000 <= port <= 40399 for port in leases.ports)
    with portlease.lease_block(3) as block:
        assert all(40000 <= port <= 40399 for port in block.ports)
    with portlease.lease(ports=[8080]) as named:  # the control: who names one may have it
        assert named.port == 8080
    return ordeal()


def test_with_all_else_reserved_leases_come_from_the_ephemeral_range() -> None:
    """ip_local_reserved_ports covers all outside the range: no lease is given what is reserved."""
    found = run("all_reserved()", ephemeral=(40000, 40399))
    assert set(found) == {"pool"}
    assert "no port is left outside" in found["pool"]


def full() -> dict[str, str]:
    """Every ephemeral port is bound by somebody else, in both families and transports."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kept = []
    for kind in (TCP, UDP):
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            while True:
                kept.append(equipped(Thief(family, host, v6only=True), kind))
                if said := refusal(kept[-1], 0, host):
                    assert said == "EADDRINUSE", said
                    break
    with portlease.lease(host="localhost") as lease:
        assert not 40000 <= lease.port <= 40049
    try:
        portlease.lease(ports=range(40000, 40050))
    except portlease.PortUnavailableError as error:
        said = str(error)
    else:
        raise AssertionError
    assert f"pid {os.getpid()}" in said, said
    found = ordeal()
    for sock in kept:
        sock.close()
    with portlease.lease(ports=range(40000, 40050)):  # the control: it was they
        return found


def test_with_the_ephemeral_range_full_everything_works() -> None:
    """No bind(0) succeeds any more on the machine; leases, who() and the doctor need none."""
    need.capability("ipv6")
    assert run("full()", ephemeral=(40000, 40049)) == {}


def moved(state: str) -> dict[str, list[int]]:
    """Move the ephemeral range over live leases, and storm."""
    with portlease.lease_many(30, "both", ports=range(20000, 20030), offer=False) as leases:
        sockets: list[socket.socket] = []
        for lease in leases:
            if state == "OFFERED":
                lease.offer()
            elif state == "GUARDED":
                lease.step_aside()
            elif state == "HANDED_OVER":
                sockets += lease.hand_over_all()
        (IPV4 / "ip_local_port_range").write_text("20000 20049", encoding="ascii")
        port, servers = acceptor(["127.0.0.1"])
        given = {
            f"bind(0) {thief}": bind_zero(thief, kind)
            for kind in ((TCP,) if state == "OFFERED" else (TCP, UDP))
            for thief in thieves(kind)[:: 1 if kind == TCP else 4]
        }
        given["connect()"] = connect_out(socket.AF_INET, TCP, ("127.0.0.1", port))
        for sock in [*servers, *sockets]:
            sock.close()
        return {name: sorted(ports) for name, ports in given.items()}


@pytest.mark.parametrize("state", ["HELD", "OFFERED", "HANDED_OVER"])
def test_the_range_is_moved_over_live_leases(state: str) -> None:
    """What is held stays held: of the moved range the kernel gives every port but the leased."""
    for name, given in run(f"moved({state!r})").items():
        assert given == list(range(20030, 20050)), name


def test_the_range_is_moved_over_guarded_ports() -> None:
    """The control, and a limit: a port that is only guarded is the kernel's to give then."""
    for name, given in run("moved('GUARDED')").items():
        assert given == list(range(20000, 20050)), name


def moved_away() -> list[int]:
    """Move the range, and take leases until one comes from where it is allowed now."""
    portlease.lease().release()
    (IPV4 / "ip_local_port_range").write_text("10000 39999", encoding="ascii")
    begun = time.monotonic()
    inside = 0
    while time.monotonic() - begun < 10:
        with portlease.lease() as lease:
            if not 10000 <= lease.port <= 39999:
                break
            inside += 1
    took_ms = round(1000 * (time.monotonic() - begun))
    with portlease.lease_many(200) as leases:
        assert not _pool.BROWSERS_REFUSE & set(leases.ports)
        return [took_ms, inside, min(leases.ports), max(leases.ports)]


def test_new_leases_follow_a_moved_range() -> None:
    """Within two seconds they come from outside the range as it is now."""
    waited_ms, inside, low, _ = run("moved_away()", ephemeral=(40000, 65535))
    assert inside, "the control: at first they came from where it is now ephemeral"
    assert waited_ms < 8000
    assert low >= 40000


def privilege_moved() -> dict[str, Any]:
    """Raise the first unprivileged port under an ordinary user who is leasing."""

    def as_user(_: int) -> dict[str, Any]:
        portlease.lease().release()
        portlease.lease_block(2).release()
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os.write(ready, b".")
        os.read(moved_out, 1)
        with portlease.lease() as one, portlease.lease_many(20, "both") as many:
            ports = [one.port, *many.ports]
        with portlease.lease_block(3) as block:
            ports += block.ports
        try:
            portlease.lease(ports=[20000])
        except portlease.PrivilegeError as error:
            return {"lowest": min(ports), "said": str(error)}
        return {"lowest": min(ports), "said": ""}

    ready_out, ready = os.pipe()
    moved_out, moved_in = os.pipe()
    if not (pid := os.fork()):
        os.read(ready_out, 1)
        (IPV4 / "ip_unprivileged_port_start").write_text("30000", encoding="ascii")
        os.write(moved_in, b".")
        os._exit(0)
    (found,) = in_children(1, as_user)
    os.waitpid(pid, 0)
    return {**found, "before": portlease.lease().port}


def test_the_first_unprivileged_port_is_moved_under_a_lessee() -> None:
    """The very next lease comes from above it; a lower one that is named is refused by name.

    That the named one is refused is the control: the setting is in force.
    """
    need.capability("other_user")
    found = run("privilege_moved()")
    assert found["lowest"] >= 30000
    assert "20000 is below 30000" in found["said"]


# --- /proc --------------------------------------------------------------------------------------

EVERYTHING = """
import json, os, sys
import portlease
from portlease import _doctor, _leases, _who

def told(look):
    try:
        return str(look())
    except portlease.PortleaseError as error:
        return f"{type(error).__name__}: {error}"

def everything(port):
    facts = _doctor.examine().facts
    return {
        "leases": told(lambda: [info.port for info in portlease.leases() if info.port == port]),
        "who": told(lambda: portlease.who(port)),
        "again": told(lambda: portlease.lease(ports=[port]).release()),
        "doctor": {fact.name: [fact.level, fact.found, fact.remedy] for fact in facts
                   if fact.promised and fact.level != "ok"},
    }
"""


def in_mounts(mount: str, script: str) -> dict[str, Any]:
    """Run a script after a mount that only it sees; return what it printed as JSON."""
    need.capability("root")
    unshare = need.program("unshare")
    done = subprocess.run(
        [
            *(unshare, "--mount", "--propagation", "private", "sh", "-c"),
            f'{mount} && exec "$@"',
            *("sh", sys.executable, "-W", "error", "-c", EVERYTHING + script),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


LEASED = """
with portlease.lease(label="mine") as lease:
    print(json.dumps(everything(lease.port)))
"""


def test_without_proc_what_is_missing_is_said() -> None:
    """A container without /proc: leases() says so, who() and the doctor tell the rest."""
    need.capability("bound_inactive")
    found = in_mounts("mount -t tmpfs none /proc", LEASED)
    assert found["leases"].startswith("LeasesUnseenError: ")
    assert "mount /proc" in found["leases"]
    assert "without listening" in found["who"]
    assert "not seen: the leases of this network namespace" in found["who"]
    assert "mount /proc to see it" in found["who"]
    assert found["again"].startswith("PortUnavailableError: ")
    doctor = found["doctor"]
    assert doctor["list of leases"][0] == "missing"
    assert doctor["processes"][0] == "missing"
    assert "mount -t proc" in doctor["processes"][2]
    assert "holds" not in doctor
    assert "guards" not in doctor


def test_with_proc_nothing_is_missing() -> None:
    """The control: the same script, with a /proc of its own."""
    found = in_mounts("mount -t proc proc /proc", LEASED)
    assert found["leases"] != "[]"
    assert "leased for 'mine'" in found["who"]
    assert not {"list of leases", "processes", "holds"} & set(found["doctor"])


HIDDEN = """
told_out, told_in = os.pipe()
end_out, end_in = os.pipe()
everything(1)  # loads what the other user may not read
if not os.fork():
    lease = portlease.lease(label="root's")
    os.write(told_in, str(lease.port).encode())
    os.close(end_in)
    os.read(end_out, 1)
    os._exit(0)
port = int(os.read(told_out, 9))
os.setgroups([])
os.setresgid(54321, 54321, 54321)
os.setresuid(54321, 54321, 54321)
print(json.dumps(everything(port)))
os.close(end_in)
"""


@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_with_hidepid_an_ordinary_user_sees_the_leases_all_the_same(hidepid: str) -> None:
    """Of others' processes only the number is told, and the doctor names the mount option."""
    found = in_mounts(f"mount -t proc -o hidepid={hidepid} proc /proc", HIDDEN)
    assert found["leases"] != "[]"
    assert 'leased for "root\'s", OFFERED' in found["who"]
    assert "a process (pid " in found["who"]
    assert found["again"].startswith("PortUnavailableError: ")
    assert "root's" in found["again"]
    assert found["doctor"]["processes"][0] == "limited"
    assert "hidepid=" in found["doctor"]["processes"][1]
    assert "hidepid=0" in found["doctor"]["processes"][2]


def test_in_a_chroot_what_is_missing_is_said(tmp_path: Path) -> None:
    """After chroot(2) there is neither /proc nor /etc/services: leases work, the rest is said."""
    need.capability("root")
    done = run_python(
        EVERYTHING
        + """
with portlease.lease() as lease:
    everything(lease.port)  # loads what is not to be found inside
import portlease._sandbox, portlease._tree._process_portable
os.chroot(sys.argv[1])
os.chdir("/")
with portlease.lease(label="mine") as lease, portlease.lease("udp"):
    lease.step_aside()
    lease.take_back()
    print(json.dumps(everything(lease.port)))
""",
        str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads(done.stdout)
    assert found["leases"].startswith("LeasesUnseenError: ")
    assert "without listening" in found["who"]
    assert found["again"].startswith("PortUnavailableError: ")
    assert found["doctor"]["processes"][0] == "missing"
    assert "holds" not in found["doctor"]
