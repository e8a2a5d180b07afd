"""Servers that do what one would rather they did not, by every means, over TCP and UDP.

What is promised of each: it is served all the same, or reported; and when it is stopped nothing of
it is left. The control is the usual way, a Popen that is asked to end: much of it goes on there.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

import portlease
from _need import need
from _processes import HANG_S, wait_for, watched
from _serving import beset
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from _unruly import (
    ANSWER,
    BINDING,
    TCP_BROKER,
    TCP_HANDED,
    TCP_OFFER,
    UDP_BROKER,
    WAYS,
    Way,
    answerer,
    never_ready,
    refused,
)
from portlease import serve

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("there is no keeper elsewhere; see docs/promise.md", allow_module_level=True)

DAEMON: Final = """
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
"""
MANNERS: Final = {
    "daemon": DAEMON,
    "fourfold fork": """
        for _ in range(4):
            if os.fork():
                os._exit(0)
            os.setsid()
    """,
    "launcher that stays": "if os.fork():\n    signal.pause()\nos.setsid()\n",
    "executes itself anew": """
        if os.environ.setdefault("TIMES", "0") < "3":
            os.environ["TIMES"] = str(int(os.environ["TIMES"]) + 1)
            os.execv(sys.executable, sys.orig_argv)
    """,
    "executes another program": """
        if "AGAIN" not in os.environ:
            os.environ["AGAIN"] = ""
            os.execv("/bin/sh", ["sh", "-c", 'exec "$0" "$@"', *sys.orig_argv])
    """,
    "leaves a shell behind": """
        if "AGAIN" not in os.environ:
            os.environ["AGAIN"] = ""
            os.execv("/bin/sh", ["sh", "-c", '"$0" "$@" & wait', *sys.orig_argv])
    """,
    "closes all descriptors": """
        os.closerange(0, max(FD, 0))
        os.closerange(FD + 1, 4096)
    """,
    "group of its own": "if os.fork():\n    os._exit(0)\nos.setpgid(0, 0)\n",
    "deaf to SIGTERM": """
        for number in signal.valid_signals() - set((signal.SIGKILL, signal.SIGSTOP)):
            signal.signal(number, signal.SIG_IGN)
    """,
    "subreaper itself": """
        import ctypes
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
        if os.fork():
            signal.pause()
        if os.fork():
            os._exit(0)
    """,
    "not dumpable": """
        import ctypes
        assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
    """,
}
ROOTS_MANNERS: Final = {
    "another user": "os.setgroups([])\nos.setresgid(*[65534] * 3)\nos.setresuid(*[65534] * 3)\n",
    # A directory without a program, a library or /proc in it.
    "another root": "os.chroot('/proc/self/fdinfo')\nos.chdir('/')\n",
    "another user's daemon": DAEMON + "    os.setresuid(65534, 65534, 65534)\n",
    "another mount namespace": """
        import ctypes
        assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
    """,
}
GRACE_S: Final = 0.02


ALL: Final = {**MANNERS, **ROOTS_MANNERS}
EVERY: Final = [(way, manner) for way in WAYS for manner in ALL]
# Each manner with two ways, each way with several manners; `make attacks` has all pairs.
SOME: Final = [
    (WAYS[number % len(WAYS)], manner) for number, manner in enumerate([*ALL, *reversed(ALL)])
]


def pair(given: object) -> str:
    """How a parameter is called."""
    return str(given)


def stop_and_see(server: portlease.Server, pids: set[int]) -> None:
    """Stop it; none of these processes is left then."""
    with watched(pids) as wait_all:
        server._shut()  # stop() warns of those that had to be killed, which some of ours must be
        assert wait_all() == []


@pytest.mark.parametrize(("way", "manner"), SOME, ids=pair)
def test_it_is_served_and_nothing_of_it_is_left(way: Way, manner: str) -> None:
    """Ready when its own process is on its port; stopped, all of it has ended."""
    if manner in ROOTS_MANNERS:
        need.capability("other_user")
    way.need()
    command = way.command(ALL[manner])
    with serve(command, how=way.how, ports=way.kinds, stop_timeout_s=GRACE_S) as server:
        who = answerer(server, way)
        tree = set(server.process.tree())
        assert (server.how, who in tree) == (way.how, True)
        stop_and_see(server, tree)


@pytest.mark.long
@pytest.mark.parametrize(("way", "manner"), EVERY, ids=pair)
def test_whatever_it_does_by_every_means(way: Way, manner: str) -> None:
    """The same, each manner by each means."""
    test_it_is_served_and_nothing_of_it_is_left(way, manner)


@pytest.mark.parametrize("manner", ["daemon", "fourfold fork", "deaf to SIGTERM"])
def test_control_it_gets_away_from_a_popen(manner: str) -> None:
    """Started by Popen and terminated, the same servers go on, on a port that one thinks is free.

    What is waited for is what a test suite would wait for: the end of the process it has started.
    """
    with portlease.lease() as lease:
        words = TCP_OFFER.command(MANNERS[manner])
        words = [word.replace("{port}", str(lease.port)) for word in words]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL) as popen:
            wait_for(lambda: _is_up(lease.port))
            who = answerer(lease.port, TCP_OFFER)
            with watched([who]):  # which kills it in the end
                popen.terminate()
                if who != popen.pid:
                    popen.wait(HANG_S)
                assert answerer(lease.port, TCP_OFFER) == who


def _is_up(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# --- late, and more than once ---------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A named pipe: who opens it for reading waits until somebody has opened it for writing."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def at_the_gate(gate: Path) -> int:
    """Wait until somebody waits there; the descriptor lets him through when it is closed."""
    found: list[int] = []

    def look() -> bool:
        try:
            found.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    wait_for(look)
    return found[0]


WAITS: Final = "with open(os.environ['GATE'], 'rb') as gate:\n    gate.read()\n"


@pytest.mark.parametrize("way", BINDING, ids=str)
def test_it_binds_late(way: Way, gate: Path) -> None:
    """However late: not ready before, nobody's prey meanwhile where it is held, ready then."""
    way.need()
    with ThreadPoolExecutor(1) as pool, portlease.lease(way.lease_kind) as lease:
        starting = pool.submit(
            serve,
            way.command(WAITS),
            how=way.how,
            lease=lease,
            ports=way.kinds,
            env={"GATE": str(gate)},
        )
        try:
            waits = at_the_gate(gate)
            assert not starting.done()
            assert refused(way, lease.port) == (way.how != "step-aside")
            with pytest.raises(portlease.PortUnavailableError):
                portlease.lease(way.lease_kind, ports=[lease.port])
            assert not starting.done()
            os.close(waits)
        finally:
            with starting.result(HANG_S) as server:
                assert answerer(server, way) in server.process.tree()


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_BROKER, UDP_BROKER], ids=str)
def test_it_binds_again_and_again(way: Way) -> None:
    """A hundred sockets in turn: a thief in a loop gets none of the moments between."""
    way.need()
    again = f"""
    for _ in range(100):
        server.close()
{textwrap.indent(way.take, " " * 8)}
    print("again", flush=True)
    {textwrap.indent(ANSWER[way.transport], " " * 4)}
    """
    with (
        portlease.lease(way.lease_kind, offer=False) as lease,
        beset(lease.port, way.kind) as taken,
        serve(way.command(then=again), how=way.how, lease=lease, ports=way.kinds) as server,
    ):
        server.wait_for_line("again")
        assert answerer(server, way) == server.process.pid
        assert not taken


def test_control_a_thief_gets_a_moment_between() -> None:
    """Where nothing is held, the same thief has the port before the second socket."""
    with portlease.lease() as lease:
        port = lease.port
    with socket.socket() as first:
        first.bind(("127.0.0.1", port))
        with beset(port, socket.SOCK_STREAM) as taken:
            first.close()
            wait_for(lambda: taken)


WORKERS: Final = """
    while os.fork():
        os.wait()
"""


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_BROKER, TCP_HANDED], ids=str)
def test_its_workers_come_and_go(way: Way) -> None:
    """Each binds anew, or takes over what was handed over; no thief gets in between."""
    way.need()
    with (
        portlease.lease(offer=False) as lease,
        beset(lease.port, way.kind) as taken,
        serve(way.command(WORKERS), how=way.how, lease=lease) as server,
    ):
        seen = set()
        for _ in range(3):
            wait_for(lambda: _is_up(server.port))
            worker = answerer(server, way)
            assert worker in server.process.tree()
            with watched([worker]) as wait_all:
                os.kill(worker, signal.SIGKILL)
                assert wait_all() == []
            seen.add(worker)
        assert (len(seen), taken) == (3, [])


@pytest.mark.parametrize("way", BINDING, ids=str)
def test_threads_bind_all_at_once(way: Way) -> None:
    """Sixteen threads want the port; one gets it, and that is ready."""
    way.need()
    take = textwrap.indent(way.take, " " * 8)
    code = f"""
import threading
won, together = [], threading.Barrier(16)
def race():
    together.wait()
    try:
{take}
    except OSError as error:
        assert error.errno == 98, error
    else:
        won.append(server)
threads = [threading.Thread(target=race) for _ in range(16)]
for one in threads: one.start()
for one in threads: one.join()
assert len(won) == 1, won
server = won[0]
{ANSWER[way.transport]}
"""
    command = [sys.executable, "-I", "-S", "-c", way.begin + code]
    with serve(command, how=way.how, ports=way.kinds) as server:
        assert answerer(server, way) == server.process.pid


# --- not where it should be -----------------------------------------------------------------------


@pytest.mark.parametrize("way", BINDING, ids=str)
@pytest.mark.parametrize("where", ["another number", "the next number"])
def test_it_binds_another_port(way: Way, where: str) -> None:
    """Never ready: the error says where it is; it is ended, and its port is free."""
    way.need()
    leases = portlease.lease_block(2, way.lease_kind)
    with leases, portlease.lease(way.lease_kind) as elsewhere:
        if way.how != "offer" and way.transport == "tcp":  # it is to get there
            (elsewhere if where == "another number" else leases[1]).step_aside()
        number = "NUMBER + 1" if where == "the next number" else str(elsewhere.port)
        command = way.command(f"NUMBER = {number}")
        error = never_ready(way, command, lambda error: error.listening, leases[0])
        wanted = leases[1].port if where == "the next number" else elsewhere.port
        assert error.listening == (wanted,)
        assert f"it listens on {wanted} instead" in str(error)
