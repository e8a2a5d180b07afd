"""Leases of every kind, what is done with them while they last, and every way in which they end."""

from __future__ import annotations

import gc
import socket
from typing import TYPE_CHECKING, Final

import portlease

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from portlease import Lease, LeaseGroup
    from portlease._wish import Kind

    Counted = Callable[[str], None]

# How often each kind is asked for, in a hundred.
_KINDS: Final = {
    "tcp": 36,
    "udp": 14,
    "both": 10,
    "named": 14,
    "host": 9,
    "family": 9,
    "many": 5,
    "block": 3,
}
_TRANSPORTS: Final[tuple[Kind, ...]] = ("tcp", "udp", "both")
_MOVES: Final = 0.25
_ENDS: Final = ("release", "release", "release", "garbage")
# Ports that everybody wants by number, a set for each of what could have a number side by side: of
# two leases on one number, one on 127.0.0.1 and one on 127.0.0.2, nothing is wrong.
NAMED_SETS: Final = 6
NAMED_PORTS: Final = 48


class Held:
    """One lease, or several that were taken together."""

    __slots__ = ("_group", "_leases", "_sockets", "kind")

    def __init__(self, kind: str, leases: Sequence[Lease], group: LeaseGroup | None = None) -> None:
        self.kind = kind
        self._leases: list[Lease] = list(leases)
        self._group = group
        self._sockets: list[socket.socket] = []

    def count(self) -> int:
        """How many leases."""
        return len(self._leases)

    def ports(self) -> list[tuple[str, int]]:
        """What nobody else has now: transport and number of each."""
        return [
            (transport, lease.port)
            for lease in self._leases
            for transport in (("tcp", "udp") if lease.kind == "both" else (lease.kind,))
        ]

    def states(self) -> list[str]:
        """Of each."""
        return [str(lease.state) for lease in self._leases]

    def move(self, random: random.Random, counted: Counted) -> None:
        """Take one of them through up to three moves that the table of states allows it."""
        lease = random.choice(self._leases)
        for _ in range(random.randrange(1, 4)):
            moves = _moves(lease)
            if not moves:
                return
            move = random.choice(moves)
            made = getattr(lease, move)()
            if move == "listen":
                self._sockets.append(made)
            elif move == "hand_over_all":
                self._sockets += made
            counted(move)
            counted(str(lease.state))

    def end(self, way: str) -> None:
        """Give them back in that way."""
        for one in self._sockets:
            one.close()
        if way == "garbage":
            # The last reference goes; of some a cycle is left, which the collector finds.
            if self._leases[0].port % 8 == 0:
                cycle: list[object] = [self._leases[0]]
                cycle.append(cycle)
            self._leases.clear()
            self._group = None
        elif way == "with":
            with self._group if self._group is not None else self._leases[0]:
                pass
        elif self._group is not None:
            self._group.release()
        else:
            self._leases[0].release()


class Lessor:
    """Takes leases.

    Args:
        named: the ports that everybody wants by number.
        label: of the leases.
    """

    def __init__(self, named: Sequence[int], label: str) -> None:
        size = len(named) // NAMED_SETS
        self._sets = [list(named[size * n : size * (n + 1)]) for n in range(NAMED_SETS)]
        self._label = label

    def take(self, random: random.Random) -> Held | None:
        """Take one, or several, of any kind; None if the ports asked for by number are all out."""
        (kind,) = random.choices(list(_KINDS), list(_KINDS.values()))
        offer = random.random() < 0.7  # noqa: PLR2004 - nearly everybody's are offered
        try:
            return self._take(kind, random, offer=offer)
        except portlease.PortUnavailableError:
            if kind in {"named", "host", "family"}:
                return None
            raise

    def _take(self, kind: str, random: random.Random, *, offer: bool) -> Held:  # noqa: PLR0911
        label = self._label
        lease, sets = portlease.lease, self._sets
        match kind:
            case "tcp":
                return Held(kind, [lease(offer=offer, label=label)])
            case "udp":
                return Held(kind, [lease("udp", offer=offer, label=label)])
            case "both":
                return Held(kind, [lease("both", offer=offer, label=label)])
            case "named":
                of = random.choice(_TRANSPORTS)
                number = random.randrange(2)
                return Held(kind, [lease(of, offer=offer, ports=sets[number], label=label)])
            case "host":
                number, host = random.choice(_HOSTS)
                of = random.choice(_TRANSPORTS[:2])
                ports = sets[number]
                return Held(kind, [lease(of, host=host, offer=offer, ports=ports, label=label)])
            case "family":
                number, family = random.choice(_FAMILIES)
                ports = sets[number]
                return Held(kind, [lease(family=family, offer=offer, ports=ports, label=label)])
            case "many":
                group = portlease.lease_many(random.randrange(2, 6), offer=offer, label=label)
            case _:
                offsets = random.choice(((0,), (0, 1000)))
                group = portlease.lease_block(
                    random.randrange(1, 4), offsets=offsets, offer=offer, label=label
                )
        return Held(kind, group, group)


_HOSTS: Final = ((2, "127.0.0.1"), (2, ("127.0.0.1", "::1")), (3, "127.0.0.2"))
_FAMILIES: Final = ((4, socket.AF_INET), (5, socket.AF_INET6))


def a_way(random: random.Random) -> str:
    """How one of them is to end."""
    return random.choice(_ENDS)


def wants_to_move(random: random.Random) -> bool:
    """Whether something is to be done with one of them."""
    return random.random() < _MOVES


def collect() -> None:
    """Let the collector find what is left in cycles."""
    gc.collect()


def _moves(lease: Lease) -> list[str]:
    """What can be done with it, by its state; the table of docs/architecture.md, written anew."""
    udp = lease.kind == "udp"
    several = lease.kind == "both" or isinstance(lease.host, tuple)
    match str(lease.state):
        case "HELD":
            moves = ["step_aside", "hand_over_all"]
            if not udp:
                moves.append("offer")
                if not several:
                    moves.append("listen")
        case "OFFERED":
            moves = ["withdraw", "step_aside", "hand_over_all"]
            if not several:
                moves.append("listen")
        case "GUARDED":
            moves = ["take_back"]
        case _:
            moves = []
    return moves
