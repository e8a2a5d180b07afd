"""The states of a lease, and the one table that says how it moves between them.

Theory of operation
-------------------
A lease is the exclusive claim to a port in one network namespace. The kernel's port table is the
lock. What differs between the states is only *what lies in that table* on the lease's behalf, and
hence who else could still get in:

- HELD: a socket bound without SO_REUSEADDR. inet_csk_bind_conflict() (net/ipv4/
  inet_connection_sock.c) refuses every other bind of the number, TIME_WAIT included.
- OFFERED: the same socket, SO_REUSEADDR switched on *after* its bind, not listening. A bind with
  SO_REUSEADDR now passes beside it (both reuse, neither listens); one without still fails, and
  neither bind(0) nor connect() is ever given the port. Once a server listens there, the next one
  fails.
- GUARDED: no socket at all, for a server that would not come in beside one (no SO_REUSEADDR, or
  UDP). A *guard*, an abstract Unix socket named after the port, keeps every other lease away. The
  number lies outside the ephemeral range wherever there is room, so that neither bind(0) nor
  connect() lands on it; what remains is a process that names this very number.
- HANDED_OVER: the socket itself belongs to the server now.
- RELEASED: nothing is left.

Rules: a lease is born HELD and moves on in the same call (``lease()`` offers, and steps aside for
UDP, unless told otherwise). RELEASED is final and may be entered again (release is idempotent).
Every other move that is not in the table is a mistake of the caller and raises LeaseStateError.
The diagram in docs/architecture.md is drawn from this table by ``diagram()``; a test compares them.
"""

from __future__ import annotations

import enum

from portlease._errors import LeaseStateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class State(enum.StrEnum):
    """Where a lease stands; compares equal to its own name."""

    HELD = "HELD"
    OFFERED = "OFFERED"
    GUARDED = "GUARDED"
    HANDED_OVER = "HANDED_OVER"
    RELEASED = "RELEASED"

    letter: str
    """How a lease's published row writes it."""

    def __init__(self, name: str) -> None:
        self.letter = "x" if name == "HANDED_OVER" else name[0].lower()


HELD, OFFERED, GUARDED = State.HELD, State.OFFERED, State.GUARDED
HANDED_OVER, RELEASED = State.HANDED_OVER, State.RELEASED

TRANSITIONS: Final[dict[State, dict[str, State]]] = {
    HELD: {
        "offer": OFFERED,
        "step_aside": GUARDED,
        "listen": HANDED_OVER,
        "hand_over": HANDED_OVER,
        "release": RELEASED,
    },
    OFFERED: {
        "withdraw": HELD,
        "step_aside": GUARDED,
        "listen": HANDED_OVER,
        "hand_over": HANDED_OVER,
        "release": RELEASED,
    },
    GUARDED: {"take_back": HELD, "release": RELEASED},
    HANDED_OVER: {"release": RELEASED},
    RELEASED: {"release": RELEASED},
}

WHO_CAN_TAKE_IT: Final[dict[State, str]] = {
    HELD: "nobody",
    OFFERED: "only a server that sets SO_REUSEADDR and binds this very number",
    GUARDED: "only a bind of this very number; no lease, no bind(0), no connect()",
    HANDED_OVER: "nobody: the server owns the socket",
    RELEASED: "anybody",
}


def after(state: State, action: str) -> State:
    """The state that *action* leads to from *state*.

    Raises:
        LeaseStateError: the table has no such move; the error names the moves there are.
    """
    moves = TRANSITIONS[state]
    try:
        return moves[action]
    except KeyError:
        raise LeaseStateError(
            f"cannot {action}() a lease that is {state} (who can take its port: "
            f"{WHO_CAN_TAKE_IT[state]}); {_remedy(state, action)}",
            state=str(state),
            action=action,
        ) from None


def _remedy(state: State, action: str) -> str:
    if state is RELEASED:
        return "it is over: take a new one with portlease.lease()"
    if state is HANDED_OVER:
        return "its socket is no longer the lease's: use that socket, or release() the lease"
    goal = {move: end for ends in TRANSITIONS.values() for move, end in ends.items()}.get(action)
    if goal is state:
        return f"it is {state} already: leave the call out"
    for first, middle in TRANSITIONS[state].items():
        if action in TRANSITIONS[middle]:
            return f"call {first}() before it"
    return "from here it can " + ", ".join(f"{move}()" for move in TRANSITIONS[state])


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> HELD : exclusive bind"]
    for state, moves in TRANSITIONS.items():
        ends: dict[State, list[str]] = {}
        for action, end in moves.items():
            ends.setdefault(end, []).append(f"{action}()")
        lines += [
            f"    {state} --> {end} : {', '.join(actions)}"
            for end, actions in ends.items()
            if end is not state
        ]
    lines.append("    RELEASED --> [*]")
    return "\n".join(lines)
