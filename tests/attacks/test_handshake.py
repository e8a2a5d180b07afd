"""The moment of stepping aside: the hold goes, the guard stands, and no lessee slips in between.

A taker publishes its row, looks for a guard, binds. A lease that steps aside takes the guard, waits
for the rows of takers to go, closes its hold. In whatever order these steps interleave, a plain
bind right after step_aside() must find the port free: not even for an instant may a lessee have it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _board import name, row
from _need import call_in_new_netns
from _thieves import Thief, equipped, meanwhile, refusal, steal
from portlease import _lease, _platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portlease._wish import Kind

if sys.platform != "linux":
    pytest.skip("the handshake is Linux's", allow_module_level=True)

# Takers are given a choice, so that they are refused now and then and always on their way.
PORTS = range(20000, 20003)
WANTED = PORTS[0]
STARTUP_S = 0.002  # what a server needs from its number to its bind(); part of the attack


run = functools.partial(call_in_new_netns, __file__)
"""Call a function of this module in a namespace of its own; return what it found out."""


def take_and_give_back(kind: Kind) -> None:
    """Be one of the takers, for one lease."""
    with contextlib.suppress(portlease.PortUnavailableError):  # none of them at the moment
        portlease.lease(kind, ports=PORTS, offer=False).release()


def step_aside_often(
    kind: Kind, rounds: int, takers: int, bystanders: int, *, naive: bool = False
) -> dict[str, int]:
    """Step aside again and again while others take the same port; count what must not be."""
    socktype = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    plain = Thief(socket.AF_INET, "127.0.0.1")
    found = {"rounds": 0, "bind refused": 0, "take_back refused": 0, "contested": 0}
    # A long board is read in pieces, so the reading has seams.
    with contextlib.ExitStack() as board:
        for number in range(bystanders):
            board.enter_context(name(b"bystander %d" % number))
        board.enter_context(meanwhile(*[functools.partial(take_and_give_back, kind)] * takers))
        while found["rounds"] < rounds and not (naive and found["bind refused"]):
            try:
                lease = portlease.lease(kind, ports=[WANTED], offer=False)
            except portlease.PortUnavailableError:
                found["contested"] += 1
                continue
            with lease:
                found["rounds"] += 1
                if naive:
                    lease.release()  # and bind, as if nobody else could be quicker
                    time.sleep(STARTUP_S)
                    found["bind refused"] += bool(steal(plain, socktype, WANTED))
                    continue
                lease.step_aside()
                if found["rounds"] % 4 == 0:
                    time.sleep(STARTUP_S)
                if found["rounds"] % 2 == 0:
                    found["bind refused"] += bool(steal(plain, socktype, WANTED))
                else:
                    try:
                        lease.take_back()
                    except portlease.PortUnavailableError:
                        found["take_back refused"] += 1
    return found


def check(found: dict[str, int]) -> None:
    """Nobody was ever there."""
    assert found["rounds"]
    assert (found["bind refused"], found["take_back refused"]) == (0, 0), found


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_plain_bind_after_step_aside_never_fails(kind: str) -> None:
    """Some hundred rounds against three takers."""
    check(run(f"step_aside_often({kind!r}, 300, 3, 0)"))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("bystanders", [0, 600])
def test_a_plain_bind_after_step_aside_never_fails_long(kind: str, bystanders: int) -> None:
    """Many thousand rounds, also with a board that takes more than one read()."""
    check(run(f"step_aside_often({kind!r}, 15000, 3, {bystanders})"))


def test_a_plain_bind_after_a_plain_close_fails() -> None:
    """The control: with nothing but a close before the bind, the same three takers get in."""
    found = run("step_aside_often('tcp', 300, 3, 0, naive=True)")
    assert found["bind refused"], found


# --- takers that do not move --------------------------------------------------------------------


@pytest.fixture
def held() -> Iterator[portlease.Lease]:
    """A lease that has not opened."""
    with portlease.lease(offer=False) as lease:
        yield lease


def test_a_taker_that_was_stopped_is_named(
    held: portlease.Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A taker stopped between row and bind (SIGSTOP, a debugger) is a clear error, in bounded time.

    The lease stays HELD, its hold in place and its guard gone.
    """
    monkeypatch.setattr(_lease, "_STUCK_S", 0.02)
    with row(held.port):
        for _ in range(2):  # again: the failure left nothing behind that is in the way
            with pytest.raises(portlease.PortUnavailableError, match=f"{os.getpid()}.*stopped"):
                held.step_aside()
            assert held.state == "HELD"
            assert steal(Thief(socket.AF_INET, "127.0.0.1"), socket.SOCK_STREAM, held.port)
    held.step_aside()
    assert held.state == "GUARDED"


def test_step_aside_waits_for_a_taker_on_its_way(held: portlease.Lease) -> None:
    """The hold stays until the taker's row has gone: the taker meets it, and not an empty port."""
    plain = Thief(socket.AF_INET, "127.0.0.1")
    shown = threading.Event()
    seen = []

    def taker() -> None:
        probe = _platform.backend.publish(b"probe")
        assert probe is not None
        with row(held.port):
            shown.set()
            while not _platform.backend.is_guarded(probe, "tcp", held.port):
                pass  # step_aside() has not got as far as its guard yet
            seen.append(steal(plain, socket.SOCK_STREAM, held.port))
        probe.close()

    thread = threading.Thread(target=taker)
    thread.start()
    shown.wait()
    held.step_aside()
    thread.join()
    assert seen == ["EADDRINUSE"]
    assert steal(plain, socket.SOCK_STREAM, held.port) == ""


@pytest.mark.parametrize("state", ["HANDED_OVER", "GUARDED"])
def test_only_takers_are_waited_for(held: portlease.Lease, state: str) -> None:
    """A row that no taker can have does not count: a socket handed over may be closed long since.

    Its lease lives on and shows its row; another lease may by now have the port.
    """
    with row(held.port, state=portlease.State(state)):
        held.step_aside()
    assert held.state == "GUARDED"


def test_a_port_whose_server_closed_its_socket_is_anybodys_again() -> None:
    """The next lessee of it can step aside, and is shown by leases()."""
    with portlease.lease() as first:
        first.listen().close()
        with portlease.lease(ports=[first.port], label="next") as second:
            second.step_aside()
            assert "next" in [info.label for info in portlease.leases() if info.port == second.port]


def test_a_row_on_other_ground_is_not_waited_for() -> None:
    """UDP takers, takers of other ports and takers of other addresses are nobody's concern."""
    with (
        portlease.lease(host="127.0.0.1", offer=False) as lease,
        row(lease.port, "udp"),
        row(lease.port // 10),
        row(lease.port, scope="127.0.0.2"),
        row(lease.port, scope="::1"),
    ):
        lease.step_aside()


def test_a_taker_that_saw_no_guard_is_refused_by_the_hold(held: portlease.Lease) -> None:
    """The other half of the handshake: who looked before the guard stood meets the hold."""
    with equipped(Thief(socket.AF_INET6, "::"), socket.SOCK_STREAM) as late:
        assert refusal(late, held.port, "::") == "EADDRINUSE"


def test_a_taker_looks_for_the_guard_again_once_it_has_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two leases never share a port, even if a taker's row was overlooked.

    /proc/net/unix is read in pieces, between which names come and go, so that a name which stands
    all the while can be missing. Here it is the whole board that is overlooked, in the worst
    moment: between the taker's look for the guard and its bind.
    """
    with portlease.lease(offer=False) as owner:
        bind = _platform.backend.bind

        def bind_late(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the original
            monkeypatch.setattr(_platform.backend, "bind", bind)  # step_aside() binds as well
            with monkeypatch.context() as blind:
                blind.setattr(_platform.backend, "published_for", lambda _: [])
                owner.step_aside()
            return bind(*args, **options)

        monkeypatch.setattr(_platform.backend, "bind", bind_late)
        with pytest.raises(portlease.PortUnavailableError):
            portlease.lease(ports=[owner.port])
        assert owner.state == "GUARDED"
        owner.take_back()
