"""The lease protocol as a small machine: what each process does next, one system call a step.

A *world* is what the kernel has of each port (its sockets, its guard, its rows), and where each
process stands. A process is a lessee or a server that knows nothing of leases. What it does is a
*script*, a list of steps of `portlease._take`, `portlease._lease` and `portlease._platform._linux`;
`test_the_scripts_are_the_codes` compares them with what the code really calls.

Each step is one system call, and so is atomic for everybody else by the lock that the kernel takes
in it:

- bind(2), listen(2) of TCP: the port's bind bucket (inet_csk_get_port(), its hash chain's lock);
- setsockopt(SO_REUSEADDR): the socket's own lock; a bind reads it under the bucket's;
- bind(2), connect(2), close(2) of an abstract name: its hash chain (net/unix/af_unix.c);
- a read of /proc/net/unix: *not* atomic, so it can be told to miss what it likes (`misses`);
- the end of a process closes its descriptors one after the other, in any order here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from portlease._states import TRANSITIONS, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final, TypeAlias

HELD, OFFERED, GUARDED = State.HELD, State.OFFERED, State.GUARDED
HANDED_OVER = State.HANDED_OVER

NOTHING: Final = "nothing"
"""Where a process rests that has no lease."""
FROM_THE_START: Final = "GUARDED from the start"
"""Where a lease rests that was drawn as a guarded port, and never had a hold."""
SERVING: Final = "serving"
DYING: Final = "dying"
RESTS: Final = frozenset({NOTHING, FROM_THE_START, SERVING, *map(str, State)})
GUARDED_RESTS: Final = frozenset({str(GUARDED), FROM_THE_START})


class Sock(NamedTuple):
    """A bound socket: whose, what for, on which address, its SO_REUSEADDR, whether it listens."""

    owner: int
    role: str
    ground: str
    reuse: bool
    listens: bool


class Row(NamedTuple):
    """A published row."""

    owner: int
    state: str
    ground: str


class Port(NamedTuple):
    """What the kernel has of a port."""

    socks: frozenset[Sock] = frozenset()
    guard: int | None = None
    rows: frozenset[Row] = frozenset()


class Proc(NamedTuple):
    """A process: what it is doing (or where it rests), the next step of that, and at which port."""

    doing: str = NOTHING
    step: int = 0
    port: int = 0
    todo: tuple[str, ...] = ()
    """What it is still to do, in a run that is counted; unused in one that is explored."""


World: TypeAlias = tuple[tuple[Proc, ...], tuple[Port, ...]]


class Step(NamedTuple):
    """One system call: which, with what, and where the script goes on where it is refused.

    ``on_refusal``: another script; ``"wait"``: the step is tried again; ``"wait or NAME"``: or that
    script, when patience is over; ``"go on"``: the next step.
    """

    call: str
    what: str = ""
    on_refusal: str = ""


Script: TypeAlias = tuple[Step, ...]


def row(state: str) -> Step:
    """Publish a row."""
    return Step("row", state)


def drop(state: str) -> Step:
    """Take a row down."""
    return Step("drop row", state)


def rest(where: str) -> Step:
    """The end of a script: no system call, the process rests."""
    return Step("rest", where)


def bind(role: str, on_refusal: str) -> Step:
    """Bind a socket without SO_REUSEADDR (a joiner and a reusing server: with it)."""
    return Step("bind", role, on_refusal)


def close(role: str) -> Step:
    """Close a socket."""
    return Step("close", role)


GUARD: Final = Step("guard")
UNGUARD: Final = Step("unguard")
_REUSING: Final = frozenset({"joiner", "server with SO_REUSEADDR"})


def _take(born: State) -> dict[str, Script]:
    name = f"take {born}"
    offer = (Step("reuse", "on"),) if born is OFFERED else ()
    return {
        name: (
            row(born),
            Step("look", "", f"{name}: refused"),
            bind("hold", f"{name}: refused"),
            Step("look", "", f"{name}: let go"),
            *offer,
            rest(born),
        ),
        f"{name}: refused": (drop(born), rest(NOTHING)),
        f"{name}: let go": (close("hold"), drop(born), rest(NOTHING)),
    }


def _take_guarded() -> dict[str, Script]:
    return {
        "take guarded": (
            row(GUARDED),
            GUARD._replace(on_refusal="take guarded: refused"),
            bind("probe", "take guarded: let go"),
            close("probe"),
            rest(FROM_THE_START),
        ),
        "take guarded: refused": (drop(GUARDED), rest(NOTHING)),
        "take guarded: let go": (drop(GUARDED), UNGUARD, rest(NOTHING)),
    }


def _leave(state: State) -> dict[str, Script]:
    """The moves from HELD or OFFERED."""
    aside, listen = f"step_aside {state}", f"listen {state}"
    was_offered = state is OFFERED
    shut = (Step("reuse", "off"),) if was_offered else ()
    open_again = (Step("reuse", "on"),) if was_offered else ()
    forget = (bind("joiner", "go on"), close("joiner")) if was_offered else ()
    return {
        aside: (
            row(GUARDED),
            GUARD._replace(on_refusal=f"wait or {aside}: no guard"),
            Step("read", "", f"wait or {aside}: a taker"),
            close("hold"),
            bind("probe", "wait or go on"),
            close("probe"),
            drop(state),
            rest(GUARDED),
        ),
        f"{aside}: no guard": (drop(GUARDED), rest(state)),
        f"{aside}: a taker": (UNGUARD, drop(GUARDED), rest(state)),
        listen: (
            row(HANDED_OVER),
            *shut,
            Step("listen", "hold", f"{listen}: refused"),
            drop(state),
            rest(HANDED_OVER),
        ),
        f"{listen}: refused": (*open_again, drop(HANDED_OVER), rest(state)),
        f"hand_over {state}": (row(HANDED_OVER), *forget, *shut, drop(state), rest(HANDED_OVER)),
        f"release {state}": (drop(state), close("hold"), rest(NOTHING)),
    }


def _come_back(where: str) -> dict[str, Script]:
    """The moves from GUARDED; the place to be in again tells the two kinds of it apart."""
    back = f"take_back {where}"
    return {
        back: (
            row(HELD),
            bind("hold", f"wait or {back}: refused"),
            UNGUARD,
            drop(GUARDED),
            rest(HELD),
        ),
        f"{back}: refused": (drop(HELD), rest(where)),
        f"release {where}": (drop(GUARDED), UNGUARD, rest(NOTHING)),
    }


SCRIPTS: Final[dict[str, Script]] = {
    **_take(HELD),
    **_take(OFFERED),
    **_take_guarded(),
    **_leave(HELD),
    **_leave(OFFERED),
    **_come_back(GUARDED),
    **_come_back(FROM_THE_START),
    "offer HELD": (row(OFFERED), Step("reuse", "on"), drop(HELD), rest(OFFERED)),
    "withdraw OFFERED": (
        row(HELD),
        bind("joiner", "go on"),
        close("joiner"),
        Step("reuse", "off"),
        drop(OFFERED),
        rest(HELD),
    ),
    # The socket is its new owner's; who closes it first is the same to the kernel.
    "release HANDED_OVER": (drop(HANDED_OVER), close("hold"), rest(NOTHING)),
    # Servers, which know nothing of all this.
    "serve": (
        bind("server", "serve: refused"),
        Step("listen", "server", "serve: stop"),
        rest(SERVING),
    ),
    "serve with SO_REUSEADDR": (
        bind("server with SO_REUSEADDR", "serve: refused"),
        Step("listen", "server with SO_REUSEADDR", "serve: stop"),
        rest(SERVING),
    ),
    "serve: refused": (rest(NOTHING),),
    "serve: stop": (Step("close all"), rest(NOTHING)),
}


def _in_threads() -> dict[str, Script]:
    """As `SCRIPTS`, in processes of several threads: a guarded port is tried once more."""
    *begin, end = SCRIPTS["take guarded"]
    copies = (bind("probe", "wait or go on"), close("probe"))
    return {**SCRIPTS, "take guarded": (*begin, *copies, end)}


IN_THREADS: Final = _in_threads()


def course(scripts: Mapping[str, Script], name: str, refused: int | None = None) -> list[str]:
    """The system calls of a script, the step number *refused* being refused."""
    calls = []
    for number, step in enumerate(scripts[name]):
        what = step.what if step.call in {"row", "drop row", "reuse"} else ""
        if step.call != "rest":
            calls.append(f"{step.call} {what}".rstrip())
        if number == refused:
            return calls + course(scripts, step.on_refusal.rpartition("wait or ")[2])
    return calls


class System(NamedTuple):
    """Who takes part, and what of the protocol has been changed to see whether it is missed.

    ``kinds``: of each process ``"lessee"`` (takes by a hold), ``"drawer"`` (the same, and may draw
    a guarded port) or ``"server"``. ``grounds``: the address that each one binds, ``"*"`` for all.
    ``misses``: whether a read of /proc/net/unix may miss any row. ``dies``: whether any process may
    be killed at any step. ``patient``: nobody gives up waiting. ``idle``: nobody begins anything.
    """

    kinds: tuple[str, ...]
    ports: int = 1
    grounds: tuple[str, ...] = ()
    scripts: Mapping[str, Script] = SCRIPTS
    misses: bool = False
    dies: bool = True
    patient: bool = False
    idle: bool = False

    def beginning(self, todo: tuple[tuple[str, ...], ...] = ()) -> World:
        """Nobody has anything."""
        todos = todo or ((),) * len(self.kinds)
        return tuple(Proc(todo=one) for one in todos), (Port(),) * self.ports

    def ground(self, me: int) -> str:
        """The address of a process."""
        return self.grounds[me] if self.grounds else "*"

    def starts(self, me: int, proc: Proc) -> Iterator[tuple[str, int]]:
        """What a process that rests may begin, and at which port."""
        kind = self.kinds[me]
        if proc.doing == NOTHING:
            for port in range(self.ports):
                if kind == "server":
                    yield "serve", port
                    yield "serve with SO_REUSEADDR", port
                else:
                    yield f"take {HELD}", port
                    yield f"take {OFFERED}", port
                if kind == "drawer":
                    yield "take guarded", port
        elif proc.doing == SERVING:
            yield "serve: stop", proc.port
        else:
            state = GUARDED if proc.doing == FROM_THE_START else State(proc.doing)
            for move in TRANSITIONS[state]:
                yield f"{move} {proc.doing}", proc.port


def conflict(one: Sock, other: Sock) -> bool:
    """Whether one cannot be bound (or listen) where the other is: inet_csk_bind_conflict()."""
    if "*" not in (one.ground, other.ground) and one.ground != other.ground:
        return False
    return not (one.reuse and other.reuse) or other.listens


def successors(system: System, world: World) -> Iterator[tuple[int, str, World]]:
    """Every step that somebody can take: who, what, and the world after it.

    What changes nothing, a wait that is not over, is no step.
    """
    procs, ports = world
    for me, proc in enumerate(procs):
        for told, at, after, port in _steps(system, world, me, proc):
            now = ports if port is ports[at] else (*ports[:at], port, *ports[at + 1 :])
            yield me, told, ((*procs[:me], after, *procs[me + 1 :]), now)


_Taken: TypeAlias = tuple[str, int, Proc, Port]
"""What was done, at which port, and what the process and the port are then."""


def _steps(system: System, world: World, me: int, proc: Proc) -> Iterator[_Taken]:
    here = world[1][proc.port]
    if proc.doing == DYING:
        yield from _closing(me, proc, here)
        return
    if proc.doing not in RESTS:
        yield from _act(system, me, proc, here)
    elif not system.idle:
        for name, port in system.starts(me, proc):
            if not proc.todo or name == proc.todo[0]:
                begun = Proc(name, 0, port, proc.todo[1:])
                yield from _act(system, me, begun, world[1][port])
    if system.dies and not system.idle and proc.doing != NOTHING:
        yield "is killed", proc.port, Proc(DYING, 0, proc.port, proc.todo), here


def _closing(me: int, proc: Proc, here: Port) -> Iterator[_Taken]:
    """A dead process's descriptors go one by one."""
    left = False
    for sock in here.socks:
        if sock.owner == me:
            left = True
            yield "its socket goes", proc.port, proc, here._replace(socks=here.socks - {sock})
    for one in here.rows:
        if one.owner == me:
            left = True
            yield "its row goes", proc.port, proc, here._replace(rows=here.rows - {one})
    if here.guard == me:
        left = True
        yield "its guard goes", proc.port, proc, here._replace(guard=None)
    if not left:
        yield "is gone; another comes", proc.port, Proc(todo=proc.todo), here


def _act(system: System, me: int, proc: Proc, here: Port) -> Iterator[_Taken]:
    """The next step of a script."""
    script = system.scripts[proc.doing]
    step = script[proc.step]
    told = f"{proc.doing}: {step.call} {step.what}".rstrip()
    if step.call == "read":
        # Whether the rows are seen is not the kernel's to say, but the reading's.
        taking = _takers(system, me, here)
        if not taking or system.misses:
            yield told, proc.port, _next(proc, script), here
        if taking:
            yield from _refused(system, proc, script, step, told, here)
        return
    done = _called(system, me, step, here)
    if done is None:
        yield from _refused(system, proc, script, step, told, here)
    else:
        yield told, proc.port, _next(proc, script), done


def _next(proc: Proc, script: Script) -> Proc:
    """Behind this step: and at rest, if that is all that is left."""
    after = script[proc.step + 1]
    if after.call == "rest":
        where = after.what
        return Proc(where, 0, 0 if where == NOTHING else proc.port, proc.todo)
    return Proc(proc.doing, proc.step + 1, proc.port, proc.todo)


def _refused(  # noqa: PLR0913, PLR0917 - its parts
    system: System, proc: Proc, script: Script, step: Step, told: str, here: Port
) -> Iterator[_Taken]:
    goal = step.on_refusal
    if goal.startswith("wait"):
        goal = goal.removeprefix("wait").removeprefix(" or ")
        if system.patient or not goal:
            return
        told += ", gives up"
    else:
        told += ", refused"
    if goal == "go on":
        yield told, proc.port, _next(proc, script), here
        return
    first = system.scripts[goal][0]
    if first.call == "rest":
        yield told, proc.port, Proc(first.what, 0, 0, proc.todo), here
    else:
        yield told, proc.port, Proc(goal, 0, proc.port, proc.todo), here


def _takers(system: System, me: int, here: Port) -> bool:
    """Lease._takers(): the rows of others that may be about to bind, on our ground."""
    ground = system.ground(me)
    return any(
        one.owner != me
        and one.state in (HELD, OFFERED)
        and ("*" in (one.ground, ground) or one.ground == ground)
        for one in here.rows
    )


def _called(system: System, me: int, step: Step, here: Port) -> Port | None:  # noqa: PLR0911, C901
    """What a system call makes of the port; None where it is refused."""
    socks, guard, rows = here
    what = step.what
    match step.call:
        case "row":
            return Port(socks, guard, rows | {Row(me, what, system.ground(me))})
        case "drop row":
            return Port(socks, guard, rows - {Row(me, what, system.ground(me))})
        case "look":
            # The name is there or not, whoever has it.
            return here if guard is None else None
        case "guard":
            return Port(socks, me, rows) if guard is None else None
        case "unguard":
            return Port(socks, None if guard == me else guard, rows)
        case "bind":
            new = Sock(me, what, system.ground(me), what in _REUSING, listens=False)
            taken = any(conflict(new, one) for one in socks)
            return None if taken else Port(socks | {new}, guard, rows)
        case "close":
            kept = frozenset(one for one in socks if (one.owner, one.role) != (me, what))
            return Port(kept, guard, rows)
        case "close all":
            return Port(frozenset(one for one in socks if one.owner != me), guard, rows)
        case "reuse":
            holds = {one for one in socks if one[:2] == (me, "hold")}
            changed = {one._replace(reuse=what == "on") for one in holds}
            return Port(socks - holds | changed, guard, rows)
        case "listen":
            mine = {one for one in socks if one[:2] == (me, what)}
            if any(conflict(one, other) for one in mine for other in socks - mine):
                return None
            return Port(socks - mine | {one._replace(listens=True) for one in mine}, guard, rows)
    raise AssertionError(step)
