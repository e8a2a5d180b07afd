"""The table of states, walked through with real leases, move by move."""

from __future__ import annotations

import contextlib
import copy
import pickle
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portlease
from portlease import _states
from portlease._states import (
    GUARDED,
    HANDED_OVER,
    HELD,
    OFFERED,
    RELEASED,
    TRANSITIONS,
    WHO_CAN_TAKE_IT,
    State,
    after,
    diagram,
)

if TYPE_CHECKING:
    from portlease._wish import Kind

KINDS: list[Kind] = ["tcp", "udp", "both"]
ACTIONS = sorted({action for moves in TRANSITIONS.values() for action in moves})
if sys.platform != "linux":
    pytest.skip("elsewhere a hold cannot be offered", allow_module_level=True)


def brought_to(state: State, stack: contextlib.ExitStack, kind: Kind) -> portlease.Lease:
    """A lease in this state; it and its sockets are closed with the stack."""
    lease = stack.enter_context(portlease.lease(kind, offer=False))
    if state is OFFERED:
        lease.offer()
    elif state is GUARDED:
        lease.step_aside()
    elif state is HANDED_OVER:
        for sock in lease.hand_over_all():
            stack.enter_context(sock)
    elif state is RELEASED:
        lease.release()
    assert lease.state is state
    return lease


def call(lease: portlease.Lease, action: str, stack: contextlib.ExitStack) -> None:
    """Make the move; a socket that it gives is closed with the stack."""
    if action == "hand_over" and lease.kind == "both":
        action = "hand_over_all"  # two sockets
    answer = getattr(lease, action)()
    for sock in answer if isinstance(answer, tuple) else [answer] * (answer is not None):
        stack.enter_context(sock)


def exists(kind: Kind, state: State, action: str) -> bool:
    """Whether a lease of this kind can be in this state, and has this move in any."""
    if kind == "udp":
        return state is not OFFERED and action not in {"offer", "listen"}
    return kind == "tcp" or action != "listen"


EVERY = [
    (kind, state, action)
    for kind in KINDS
    for state in State
    for action in ACTIONS
    if exists(kind, state, action)
]


@pytest.mark.parametrize(
    ("kind", "state", "action"),
    [(kind, state, action) for kind, state, action in EVERY if action in TRANSITIONS[state]],
)
def test_a_move_in_the_table_is_allowed(kind: Kind, state: State, action: str) -> None:
    """It leads where the table says, and the lease's own row says so too."""
    with contextlib.ExitStack() as stack:
        lease = brought_to(state, stack, kind)
        call(lease, action, stack)
        assert lease.state is TRANSITIONS[state][action]
        rows = [info.state for info in portlease.leases() if info.port == lease.port]
        assert rows == ([lease.state] if lease.state is not RELEASED else [])


@pytest.mark.parametrize(
    ("kind", "state", "action"),
    [(kind, state, action) for kind, state, action in EVERY if action not in TRANSITIONS[state]],
)
def test_a_move_that_is_not_in_the_table_is_refused(kind: Kind, state: State, action: str) -> None:
    """The error names the state, the call and a remedy; the lease stays what it was."""
    with contextlib.ExitStack() as stack:
        lease = brought_to(state, stack, kind)
        with pytest.raises(portlease.LeaseStateError) as caught:
            call(lease, action, stack)
        assert lease.state is state
    error = caught.value
    assert (error.state, error.action) == (state, action)
    fact, _, remedy = error.message.rpartition("; ")
    assert f"cannot {action}()" in fact
    assert str(state) in fact
    assert WHO_CAN_TAKE_IT[state] in fact
    assert remedy
    assert isinstance(error, RuntimeError)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), str(again)) == (type(error), str(error))
    assert (again.state, again.action) == (state, action)


@pytest.mark.parametrize("state", [HELD, OFFERED, GUARDED])
def test_the_remedy_of_a_refused_move_works(state: State) -> None:
    """Where the error says "call X() before it", X() and then the move succeed."""
    for action in ACTIONS:
        if action in TRANSITIONS[state]:
            continue
        with contextlib.ExitStack() as stack:
            lease = brought_to(state, stack, "tcp")
            with pytest.raises(portlease.LeaseStateError) as caught:
                call(lease, action, stack)
            remedy = str(caught.value).rpartition("; ")[2]
            if "leave the call out" in remedy:
                assert state in {moves.get(action) for moves in TRANSITIONS.values()}
                continue
            if remedy == "from here it can take_back(), release()":
                assert state is GUARDED  # a move that is two moves away
                continue
            assert remedy.startswith("call ")
            assert remedy.endswith("() before it")
            call(lease, remedy.removeprefix("call ").removesuffix("() before it"), stack)
            call(lease, action, stack)


def test_release_is_idempotent_from_every_state() -> None:
    """release() may be called in any state, again and again."""
    for state in State:
        with contextlib.ExitStack() as stack:
            lease = brought_to(state, stack, "tcp")
            for _ in range(3):
                lease.release()
                assert lease.state is RELEASED


def test_what_udp_cannot_do_is_a_mistake_of_the_caller() -> None:
    """UDP cannot be offered and does not listen: UsageError with the call that fits."""
    with portlease.lease("udp", offer=False) as lease:
        with pytest.raises(portlease.UsageError, match=r"step_aside\(\)"):
            lease.offer()
        with pytest.raises(portlease.UsageError, match=r"hand_over\(\)"):
            lease.listen()
        assert lease.state is HELD


def test_several_sockets_are_handed_over_by_name() -> None:
    """hand_over() and listen() would have to choose: UsageError names hand_over_all()."""
    with portlease.lease("both", offer=False) as lease:
        for action in (lease.hand_over, lease.listen):
            with pytest.raises(portlease.UsageError, match=r"hand_over_all\(\)"):
                action()
        assert lease.state is HELD
        tcp, udp = lease.hand_over_all()
        with tcp, udp:
            assert (tcp.type, udp.type) == (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            assert tcp.getsockname()[1] == udp.getsockname()[1] == lease.port


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_lease_is_born_as(kind: Kind) -> None:
    """TCP (and both) OFFERED, UDP GUARDED; with offer=False HELD."""
    with portlease.lease(kind) as lease:
        assert lease.state is (GUARDED if kind == "udp" else OFFERED)
    with portlease.lease(kind, offer=False) as lease:
        assert lease.state is HELD


# --- the table itself ---------------------------------------------------------------------------


def test_a_state_is_its_name() -> None:
    """It compares, prints, hashes and pickles as the plain text."""
    for state in State:
        assert state == state.name == str(state)
        assert {state.name: 1}[state] == 1
        assert pickle.loads(pickle.dumps(state)) is state  # noqa: S301 - our own
        assert copy.deepcopy(state) is state
    assert list(State) == ["HELD", "OFFERED", "GUARDED", "HANDED_OVER", "RELEASED"]


def test_a_states_letter_is_its_own() -> None:
    """A row writes the state as one letter."""
    letters = [state.letter for state in State]
    assert len(set(letters)) == len(letters)
    assert all(len(letter) == 1 and letter.isalpha() for letter in letters)


def test_every_state_is_in_the_tables_and_can_be_reached_and_left() -> None:
    """No dead end but RELEASED; every state can be released."""
    assert set(TRANSITIONS) == set(WHO_CAN_TAKE_IT) == set(State)
    reached = {end for moves in TRANSITIONS.values() for end in moves.values()}
    assert reached == set(State)
    assert all(moves["release"] is RELEASED for moves in TRANSITIONS.values())
    assert TRANSITIONS[RELEASED] == {"release": RELEASED}


def test_after_is_the_table() -> None:
    """And a word that is no move at all gets the moves there are."""
    for state, moves in TRANSITIONS.items():
        assert {action: after(state, action) for action in moves} == moves
    with pytest.raises(portlease.LeaseStateError, match=r"from here it can offer\(\), step_aside"):
        after(HELD, "fly")


def test_every_move_is_a_method() -> None:
    """What the table names, class Lease has."""
    assert all(callable(getattr(portlease.Lease, action)) for action in ACTIONS)


def test_the_diagram_shows_every_move() -> None:
    """Each move of the table but the one that changes nothing."""
    lines = diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    shown = set()
    for line in lines[2:-1]:
        arrow, _, actions = line.partition(" : ")
        start, end = arrow.split(" --> ")
        shown |= {(start.strip(), action, end) for action in actions.split(", ")}
    assert shown == {
        (start, f"{action}()", end)
        for start, moves in TRANSITIONS.items()
        for action, end in moves.items()
        if end is not start
    }


def test_the_documents_diagram_is_drawn_from_the_table() -> None:
    """docs/architecture.md holds it word for word."""
    document = Path(_states.__file__).parents[2] / "docs" / "architecture.md"
    if not document.parent.is_dir():
        pytest.skip("the package is installed without its documents")
    assert diagram() in document.read_text(encoding="utf-8")
