"""Why can't I bind it? Asked of ports whose occupants we have put there ourselves."""

# ruff: noqa: E402 - what is imported last is for Linux alone
from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from _need import in_new_netns, need

if sys.platform != "linux":
    pytest.skip("what is in the way on Linux", allow_module_level=True)
assert sys.platform == "linux"  # for the type checker, which does not follow skip()

import portlease
from _processes import HANG_S
from portlease import who
from portlease._who import Occupant, Process, Who, clock

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@pytest.fixture(autouse=True)
def bound_inactive() -> None:
    """Every test here wants to be told everything."""
    need.capability("proc")
    need.capability("bound_inactive")


def port_of(one: socket.socket) -> int:
    """Return the local port."""
    port: int = one.getsockname()[1]
    return port


def others(found: Who) -> list[Occupant]:
    """Return who is there besides the lease that keeps the number for the test."""
    return [one for one in found.occupants if one.label != "quiet"]


def only(found: Who) -> Occupant:
    """Return the one who is there besides that lease."""
    (occupant,) = others(found)
    return occupant


def line(found: Who) -> str:
    """Return the one line about him."""
    (text,) = [text for text in str(found).splitlines() if "leased for 'quiet'" not in text]
    return text


@pytest.fixture
def port() -> Iterator[int]:
    """A number that nobody else uses on any address, not even as the remains of a connection."""
    with portlease.lease("both", offer=False, label="quiet") as lease:
        lease.step_aside()
        yield lease.port


# --- every kind of occupant ---------------------------------------------------------------------


def test_a_free_port() -> None:
    """Where nothing is in the way, the answer says so, and is sure of it."""
    with portlease.lease("both") as lease:
        port = lease.port
    found = who(port)
    assert (found.free, found.complete, found.occupants) == (True, True, ())
    assert str(found) == f"port {port}: free"


def test_a_listener(port: int) -> None:
    """A listener is told with its process, and when that started."""
    with socket.create_server(("127.0.0.1", port)):
        found = who(port)
    listener = only(found)
    assert (listener.kind, listener.address) == ("listener", "127.0.0.1")
    assert [process.pid for process in listener.processes] == [os.getpid()]
    assert listener.uid == os.getuid()
    assert not found.free
    assert re.fullmatch(
        rf"tcp {port}: listening on 127\.0\.0\.1 by .* "
        rf"\(pid {os.getpid()}, started [-\d :]+\); stop it, .* portlease\.lease\(\)",
        line(found),
    )


def test_a_real_server(port: int) -> None:
    """redis-server is called by its name."""
    redis = need.program("redis-server")
    with subprocess.Popen(
        [redis, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            for said in server.stdout:
                if "Ready to accept" in said:
                    break
            text = line(who(port))
        finally:
            server.terminate()
    assert text.startswith(f"tcp {port}: listening on 127.0.0.1 by redis-server ")
    assert f"(pid {server.pid}, started " in text


def test_several_processes_have_it(port: int) -> None:
    """A listener that was inherited names its first process, and how many others there are."""
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=[server.fileno()],
        ) as child,
    ):
        found = who(port)
    pids = [process.pid for process in only(found).processes]
    assert pids == sorted([os.getpid(), child.pid])
    assert " and 1 other process;" in line(found)


def test_a_dual_stack_listener(port: int) -> None:
    """A listener on [::] that has IPv4 too says so: it is why 0.0.0.0 cannot be bound."""
    need.capability("ipv6")
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True):
        assert "listening on [::], IPv4 too by" in line(who(port))


def test_a_bound_socket_that_does_not_listen(port: int) -> None:
    """What no list in /proc shows."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", port))
        found = who(port)
    assert only(found).kind == "bound"
    assert "bound to 127.0.0.1 without listening by" in line(found)


def test_udp(port: int) -> None:
    """A UDP server is bound; asking for TCP does not see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", port))
        assert only(who(port)).transport == "udp"
        assert others(who(port, transport="tcp")) == []
        assert f"udp {port}: bound to 127.0.0.1 by" in line(who(port))


def test_connections_of_a_busy_server_are_one_line(port: int) -> None:
    """A client's port is told with its peer; many connections of one server are counted."""
    with socket.create_server(("127.0.0.1", port)) as server, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(server.getsockname())) for _ in range(5)
        ]
        for _ in clients:
            stack.enter_context(server.accept()[0])
        theirs = who(port_of(clients[0]))
        found = who(port)
    assert ("connection", ("127.0.0.1", port)) in [(one.kind, one.peer) for one in others(theirs)]
    assert [one.kind for one in others(found)] == ["listener", *["connection"] * 5]
    (connections,) = [text for text in str(found).splitlines() if " in ESTABLISHED by " in text]
    assert " (and 4 more like it); " in connections


def test_a_connection_that_nobody_accepted(port: int) -> None:
    """It belongs to no process yet; the remedy is not to look for one."""
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(server.getsockname()),
    ):
        listener, waiting = others(who(port))
    assert (listener.kind, waiting.kind) == ("listener", "connection")
    assert waiting.processes == ()
    assert not waiting.not_permitted
    assert "waits for the listener" in str(waiting.remedy)


@pytest.mark.parametrize("reuse", [False, True])
def test_time_wait(port: int, *, reuse: bool) -> None:
    """TIME_WAIT is told with the time it lasts still, and with a remedy that is true."""
    address = ("127.0.0.1", port)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        server.bind(address)
        server.listen()
        with socket.create_connection(address) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    found = who(port)
    left = only(found)
    assert (left.kind, left.processes, left.not_permitted) == ("time_wait", (), False)
    assert left.seconds_left is not None
    assert 0 < left.seconds_left <= 60
    assert re.search(r": TIME_WAIT for [\d.]+ s more, after a connection from 127\.0", line(found))
    # The remedy: wait, or SO_REUSEADDR, which helps if the closed socket had it set too.
    with socket.socket() as heir:
        with pytest.raises(OSError, match="in use"):
            heir.bind(address)
        heir.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            heir.bind(address)
        else:
            with pytest.raises(OSError, match="in use"):
                heir.bind(address)


# --- leases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
@pytest.mark.parametrize("offer", [False, True])
def test_a_lease_is_told_once(kind: str, *, offer: bool) -> None:
    """Lease and hold are one thing: the lease, with its label, its process and who may come in."""
    with portlease.lease(kind, offer=offer, label="the test") as lease:  # type: ignore[arg-type]
        found = who(lease)
        leased = only(found)
        assert (leased.kind, leased.state, leased.label) == ("lease", lease.state, "the test")
        assert [process.pid for process in leased.processes] == [os.getpid()]
        assert not found.free
        name = "port" if kind == "both" else kind
        assert str(found).startswith(
            f"{name} {lease.port}: leased for 'the test', {lease.state} on every address, since "
        )
        other = {"tcp": "udp", "udp": "tcp"}
        if kind in other:
            assert who(lease, transport=other[kind]).free  # type: ignore[arg-type]
    assert who(lease).free


def test_a_lease_and_the_server_on_it() -> None:
    """A server beside the hold is told beside the lease: they are two."""
    with portlease.lease() as lease, socket.create_server(("127.0.0.1", lease.port)):
        assert [one.kind for one in who(lease).occupants] == ["lease", "listener"]


def test_a_lease_that_stepped_aside_and_a_stranger_on_it() -> None:
    """What is bound to a guarded port is no hold, whoever it is."""
    with portlease.lease(offer=False) as lease:
        lease.step_aside()
        assert [one.kind for one in who(lease).occupants] == ["lease"]
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", lease.port))
            assert [one.kind for one in who(lease).occupants] == ["lease", "bound"]


def test_a_bound_stranger_beside_another_process_lease() -> None:
    """Only the lease's own process has its hold: a stranger beside an offer is told."""
    with portlease.lease() as lease:
        script = (
            "import socket, sys; one = socket.socket(); "
            "one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
            "one.bind(('127.0.0.1', int(sys.argv[1]))); print(flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(lease.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            leased, stranger = who(lease).occupants
            assert (leased.kind, stranger.kind) == ("lease", "bound")
            assert [process.pid for process in stranger.processes] == [child.pid]


# --- what may not be seen -----------------------------------------------------------------------

AS_NOBODY = f"""
import os, sys
from portlease import who
who(1)  # nobody may be unable to read the modules that are imported on the way
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
"""


def as_nobody(script: str, *arguments: str) -> str:
    """Run a script as the user nobody, and return what it printed."""
    need.capability("other_user")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY + script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.stderr == ""
    return done.stdout


def test_not_permitted_to_see(port: int) -> None:
    """Whose a stranger's socket is cannot be seen; its user can, and is told."""
    with socket.create_server(("127.0.0.1", port)):
        text = as_nobody("print(who(int(sys.argv[1])))", str(port))
    assert text.splitlines()[1].startswith(
        f"tcp {port}: listening on 127.0.0.1 by a process of user {os.getuid()} "
        "that we are not permitted to see; run this as root"
    )


def test_a_strangers_lease_is_told_once_all_the_same() -> None:
    """The hold of a lease whose process we may not look into is known by its user."""
    with portlease.lease(label="of another user") as lease:
        text = as_nobody("print(who(int(sys.argv[1])))", str(lease.port))
    (line,) = text.splitlines()
    assert f"(pid {os.getpid()}, " in line
    assert "'of another user'" in line


def test_without_netlink() -> None:
    """Where only /proc is left, the answer says what it could not see."""
    need.capability("seccomp")
    from test_linux_diag import refused

    lines = refused(
        """
        import errno, socket
        from portlease import who
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
        found = who(held.getsockname()[1])
        print(found.free, found.complete)
        print(found)
        """,
        1,
    )
    first, second, third = lines
    assert first == "True False"
    assert second.endswith(": nothing seen")
    assert third.startswith("not seen: TCP sockets that are bound and do not listen (sock_diag is")


# --- rules --------------------------------------------------------------------------------------


def test_privileged_and_reserved() -> None:
    """A privileged port is in the way of those who lack the capability; a reserved one is not."""
    need.capability("other_user")
    rules = """
def write(name, text):
    with open("/proc/sys/net/ipv4/" + name, "w") as file:
        file.write(text)
write("ip_unprivileged_port_start", "3000")
write("ip_local_reserved_ports", "2999,4000-4002")
"""
    questions = """
print(who(2999).free, [one.kind for one in who(2999).occupants])
print(who(2999))
print(who(4001).free)
print(who(4001))
print(who(3000).free)
"""
    as_root = "from portlease import who; print([one.kind for one in who(2999).occupants])"
    result = in_new_netns(rules + as_root + AS_NOBODY + questions)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[:2] == ["['reserved']", "False ['privileged', 'reserved']"]
    assert lines[2].startswith("port 2999: privileged, and this process lacks CAP_NET_BIND_SERVICE")
    assert "from 3000 on" in lines[2]
    assert lines[4:6] == ["True", "port 4001: free"]
    assert lines[6].startswith("port 4001: reserved by net.ipv4.ip_local_reserved_ports; ")
    assert lines[7] == "True"


# --- the answer ---------------------------------------------------------------------------------


def test_it_touches_nothing() -> None:
    """It neither binds nor connects, and leaves no descriptor open: the audit hook says so."""
    script = """
import os, socket, sys
import portlease
server = socket.create_server(("127.0.0.1", 0))
seen = []
sys.addaudithook(lambda event, _: event.startswith("socket.") and seen.append(event))
before = os.listdir("/proc/self/fd")
portlease.who(server.getsockname()[1])
print(before == os.listdir("/proc/self/fd"), sorted(set(seen)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    assert done.stdout == "True ['socket.__new__', 'socket.sendto']\n"


def test_as_a_dictionary() -> None:
    """as_dict() goes through JSON, and has what the text has."""
    with portlease.lease(label="json") as lease, socket.create_server(("127.0.0.1", lease.port)):
        answer = json.loads(json.dumps(who(lease).as_dict()))
    assert (answer["port"], answer["free"], answer["complete"]) == (lease.port, False, True)
    leased, listener = answer["occupants"]
    assert (leased["kind"], leased["state"], leased["label"]) == ("lease", "OFFERED", "json")
    assert (listener["kind"], listener["address"]) == ("listener", "127.0.0.1")
    assert listener["processes"][0]["pid"] == os.getpid()
    assert answer["unseen"] == []


def test_a_process_that_has_gone_meanwhile() -> None:
    """What is known of it is its number."""
    assert str(Process(pid=4711)) == "a process (pid 4711)"


def test_a_long_command_is_cut_in_the_text_alone() -> None:
    """A line stays a line; the whole command is in the attribute."""
    process = Process(pid=1, command="/usr/bin/java " + "-cp x " * 50)
    assert len(str(process)) < 80
    assert str(process).startswith("java -cp x")


def test_the_clock() -> None:
    """Today's times without a date, others with it."""
    now = time.mktime((2024, 5, 6, 12, 0, 0, 0, 0, -1))
    assert clock(now + 250, now=now) == "12:04:10"
    assert clock(now - 86400, now=now) == "2024-05-05 12:00:00"


@pytest.mark.parametrize("port", [0, 65536])
def test_no_such_port(port: int) -> None:
    """A number that is no port is the caller's mistake."""
    with pytest.raises(portlease.UsageError, match="65535"):
        who(port)
    with pytest.raises(portlease.UsageError, match="sctp"):
        who(1, transport="sctp")  # type: ignore[arg-type]


def test_the_answer_cannot_be_changed() -> None:
    """Results are values."""
    found = Who(1, ())
    with pytest.raises(AttributeError):
        found.port = 2  # type: ignore[misc]
    assert hash(found) == hash(Who(1, ()))
