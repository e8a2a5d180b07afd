"""Walks through every order in which the steps of a system can come, and checks each world.

Breadth first, so that what it finds is the shortest way there. Nothing is drawn at random: two runs
are the same.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from model import protocol
from model.protocol import (
    DYING,
    FROM_THE_START,
    GUARDED,
    GUARDED_RESTS,
    HANDED_OVER,
    HELD,
    NOTHING,
    OFFERED,
    RESTS,
    SERVING,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from model.protocol import Port, System, World

    Invariant: TypeAlias = Callable[[System, World], str | None]


class Found(NamedTuple):
    """What an exploration has found."""

    worlds: int
    steps: int
    """How many steps lead from one world to another, all told."""
    broken: str | None
    """What did not hold, and the way there; None if everything held."""


def explore(system: System, *invariants: Invariant) -> Found:
    """Visit every world that can be reached; stop at the first in which something does not hold."""
    first = system.beginning()
    came: dict[World, tuple[World, str] | None] = {first: None}
    waiting = deque([first])
    steps = 0
    while waiting:
        world = waiting.popleft()
        for invariant in invariants:
            if (broken := invariant(system, world)) is not None:
                return Found(len(came), steps, _way(came, world, broken))
        for who, what, after in protocol.successors(system, world):
            steps += 1
            if after not in came:
                came[after] = world, f"{who} {what}"
                waiting.append(after)
    return Found(len(came), steps, None)


def _way(came: dict[World, tuple[World, str] | None], world: World, broken: str) -> str:
    steps: list[str] = []
    at: World | None = world
    while at is not None and (before := came[at]) is not None:
        at, what = before
        steps.append(what)
    return "\n".join([*reversed(steps), broken])


def orders(system: System, *todo: tuple[str, ...]) -> int:
    """In how many orders the steps of these scripts can come, one list for each process.

    Their ends are those of the scripts and of what a refusal makes of them; nobody dies in them.
    """
    known: dict[World, int] = {}

    def count(world: World) -> int:
        if (found := known.get(world)) is None:
            after = [
                one
                for _, _, one in protocol.successors(system._replace(dies=False), world)
                if is_due(world, one)
            ]
            found = known[world] = sum(map(count, after)) or 1
        return found

    return count(system.beginning(todo))


def is_due(world: World, after: World) -> bool:
    """Whether who took this step had something to do: not when his list is done, and he rests."""
    return all(
        before == now or before.todo or before.doing not in RESTS
        for before, now in zip(world[0], after[0], strict=True)
    )


# --- what must hold in every world --------------------------------------------------------------


def no_two_leases(system: System, world: World) -> str | None:
    """Line 1 of the promise: no two leases of one port, on addresses that overlap."""
    procs, _ = world
    having = [
        (me, proc)
        for me, proc in enumerate(procs)
        if proc.doing in RESTS and proc.doing not in (NOTHING, SERVING)
    ]
    for place, (one, proc) in enumerate(having):
        for other, its in having[place + 1 :]:
            grounds = system.ground(one), system.ground(other)
            if proc.port == its.port and ("*" in grounds or grounds[0] == grounds[1]):
                return f"{one} ({proc.doing}) and {other} ({its.doing}) both have port {proc.port}"
    return None


def nobody_sits(system: System, world: World) -> str | None:
    """Line 6: of a port that was stepped aside from, no lessee has a socket, even while it looks.

    Not of one that was guarded from the start, of which the promise says that it may be.
    """
    procs, ports = world
    for me, proc in enumerate(procs):
        if proc.doing == GUARDED:
            for sock in ports[proc.port].socks:
                if system.kinds[sock.owner] != "server" and _same(system, me, sock.owner):
                    return (
                        f"{sock.owner} sits on port {proc.port}, which {me} has stepped aside from"
                    )
    return None


def nobody_sits_at_all(system: System, world: World) -> str | None:
    """The same of ports guarded from the start: stronger than what is promised."""
    for me, proc in enumerate(world[0]):
        if proc.doing == FROM_THE_START:
            for sock in world[1][proc.port].socks:
                if system.kinds[sock.owner] != "server" and _same(system, me, sock.owner):
                    return f"{sock.owner} sits on port {proc.port}, which {me} was given"
    return None


def _same(system: System, one: int, other: int) -> bool:
    grounds = system.ground(one), system.ground(other)
    return "*" in grounds or grounds[0] == grounds[1]


def as_the_table_says(system: System, world: World) -> str | None:
    """Who rests has of the kernel what his state says, no more and no less; HELD lets nobody in.

    So a lease that is over, a take that failed and a process that died have left nothing behind.
    """
    procs, ports = world
    for me, proc in enumerate(procs):
        if proc.doing not in RESTS:
            continue
        for number, port in enumerate(ports):
            has = _belongings(me, port)
            where = proc.doing if number == proc.port else NOTHING
            if has != _right(where, me, port):
                return f"{me}, {where}, has {has} of port {number}"
    del system
    return None


def _belongings(me: int, port: Port) -> tuple[list[tuple[str, bool, bool]], bool, list[str]]:
    socks = sorted((one.role, one.reuse, one.listens) for one in port.socks if one.owner == me)
    return socks, port.guard == me, sorted(one.state for one in port.rows if one.owner == me)


def _right(where: str, me: int, port: Port) -> tuple[list[tuple[str, bool, bool]], bool, list[str]]:
    if where == HELD:
        return [("hold", False, False)], False, [where]
    if where == OFFERED:
        return [("hold", True, False)], False, [where]
    if where in GUARDED_RESTS:
        return [], True, [str(GUARDED)]
    if where == HANDED_OVER:  # it may listen, or not yet
        listens = any(one.listens for one in port.socks if one.owner == me)
        return [("hold", False, listens)], False, [where]
    if where == SERVING:
        return [one for one in _belongings(me, port)[0] if one[0] != "hold"], False, []
    return [], False, []


def always_listed(system: System, world: World) -> str | None:
    """Line 12: a lease has a row, whatever it is about to become, until it is released."""
    procs, ports = world
    for me, proc in enumerate(procs):
        moving = not proc.doing.startswith(("take ", "release", "serve"))
        if proc.doing in {NOTHING, SERVING, DYING} or not moving:
            continue
        if not any(one.owner == me for one in ports[proc.port].rows):
            return f"{me} is at {proc.doing}, and not listed"
    del system
    return None


def nobody_is_stuck(system: System, world: World) -> str | None:
    """Who is under way comes to rest by steps of those under way, without a bound on their waits.

    The bounds are there for processes that were stopped, or for a port that another has for good.
    Every script leads forward, so that it is enough that there is a step.
    """
    if next(protocol.successors(system._replace(idle=True, patient=True), world), None) is None:
        stuck = [
            f"{me} at {one.doing}" for me, one in enumerate(world[0]) if one.doing not in RESTS
        ]
        if stuck:
            return f"nobody moves any more: {', '.join(stuck)}"
    return None


EVERYTHING = (no_two_leases, nobody_sits, as_the_table_says, always_listed)
