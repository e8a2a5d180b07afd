"""The lease protocol as a state machine that Hypothesis drives, on the real kernel.

Several processes, one of them another user's where we may be one, take and move leases of a few
ports, fork, are stopped and are killed, also in the midst of a call; thieves bind, listen, connect
and ask for port 0 meanwhile. Before each call the model says what must come of it: from the table
in `portlease._states`, and from the rule by which the kernel lets two sockets share a port. After
each, the kernel and leases() are asked whether they see the same.

Runs in a network namespace of its own, whose whole ephemeral range is the ports of the model.
"""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import portlease
from _thieves import Thief, equipped, refusal, server
from model.workers import Worker
from portlease._states import GUARDED, HANDED_OVER, HELD, OFFERED, RELEASED, TRANSITIONS, State

if TYPE_CHECKING:
    from typing import Final

PORTS: Final = (20000, 20001, 20002, 20003)
_TYPES: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_NOBODY: Final = 65534
_ACCEPTING: Final = 2000
_FROM: Final = 2001
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close by a reset, so that no connection is left in TIME_WAIT."""

_PLACES: Final = (
    Thief(socket.AF_INET, "0.0.0.0"),
    Thief(socket.AF_INET, "127.0.0.1"),
    Thief(socket.AF_INET, "127.0.0.2"),
    Thief(socket.AF_INET6, "::"),
    Thief(socket.AF_INET6, "::", v6only=True),
    Thief(socket.AF_INET6, "::1"),
)
_EVERYWHERE: Final = Thief(socket.AF_INET6, "::")


class Bound(NamedTuple):
    """A socket that is bound, as the model knows it."""

    transport: str
    port: int
    place: Thief
    reuse: bool
    listens: bool = False


class Leased:
    """A lease, as the model knows it."""

    def __init__(self, key: int, worker: int, port: int, kind: str, state: State) -> None:
        self.key = key
        self.worker = worker
        self.port = port
        self.kind = kind
        self.state = state
        self.listens = False
        self.sockets_open = False

    @property
    def transports(self) -> tuple[str, ...]:
        """``"tcp"``, ``"udp"`` or both."""
        return ("tcp", "udp") if self.kind == "both" else (self.kind,)

    def bound(self) -> list[Bound]:
        """Its sockets: the holds, or what was handed over of them."""
        if self.state is HANDED_OVER or (self.state is RELEASED and self.sockets_open):
            parts = self.transports if self.sockets_open else ()
        elif self.state is HELD:
            parts = self.transports
        elif self.state is OFFERED:
            parts = ("tcp",)
        else:
            parts = ()
        reuse = self.state is OFFERED
        return [Bound(one, self.port, _EVERYWHERE, reuse, self.listens) for one in parts]

    def guards(self) -> set[tuple[str, int]]:
        """The names that keep other leases away."""
        if self.state is GUARDED:
            return {(one, self.port) for one in self.transports}
        if self.state is OFFERED and self.kind == "both":
            return {("udp", self.port)}
        return set()


def _addresses(place: Thief) -> dict[int, str]:
    """What a place covers in each family; ``"*"`` is all of it."""
    if place.host == "::":
        return {6: "*"} if place.v6only else {4: "*", 6: "*"}
    if place.family == socket.AF_INET6:
        return {6: place.host}
    return {4: "*" if place.host == "0.0.0.0" else place.host}


def overlap(one: Thief, other: Thief) -> bool:
    """Whether two places share an address."""
    ours, theirs = _addresses(one), _addresses(other)
    return any(
        ours[family] == theirs[family] or "*" in (ours[family], theirs[family])
        for family in ours.keys() & theirs.keys()
    )


def conflict(new: Bound, there: Bound) -> bool:
    """Whether the kernel refuses one where the other is: inet_csk_bind_conflict(), and UDP's."""
    return (
        (new.transport, new.port) == (there.transport, there.port)
        and overlap(new.place, there.place)
        and not (new.reuse and there.reuse and not there.listens)
    )


def expected(answer: object, want: str) -> None:
    """Check what was said, ``""`` or the name of an error."""
    assert answer == want, f"expected {want or 'success'}, was told {answer or 'success'}"


class Leases(RuleBasedStateMachine):
    """The rules. ``workers`` live from one run of the machine to the next."""

    workers: tuple[Worker, ...]
    steps = 0
    """How many were taken in all runs."""
    seen: set[str] = set()  # noqa: RUF012 - it is to be shared
    """Which outcomes came about in all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: dict[int, Leased] = {}
        self.thieves: dict[int, tuple[socket.socket, Bound]] = {}
        self.next = 0

    # --- what the model says ---

    def _bound(self) -> list[Bound]:
        own = [one for lease in self.leases.values() for one in lease.bound()]
        return own + [one for _, one in self.thieves.values()]

    def _gets_in(self, new: Bound, *, but: Leased | None = None) -> bool:
        left_out = but.bound() if but is not None else []
        there = self._bound()
        for one in left_out:
            there.remove(one)
        return not any(conflict(new, one) for one in there)

    def _can_lease(self, kind: str, port: int) -> bool:
        guards = set().union(*(lease.guards() for lease in self.leases.values()))
        return all(
            (one, port) not in guards and self._gets_in(Bound(one, port, _EVERYWHERE, reuse=False))
            for one in (("tcp", "udp") if kind == "both" else (kind,))
        )

    def _told(self, what: str, outcome: object) -> None:
        Leases.steps += 1
        Leases.seen.add(f"{what}: {outcome or 'success'}")

    def _pick(self, data: st.DataObject, states: tuple[State, ...] = tuple(State)) -> Leased:
        found = [key for key, one in self.leases.items() if one.state in states]
        return self.leases[data.draw(st.sampled_from(found))]

    # --- lessees ---

    @rule(
        worker=st.integers(0, 2),
        kind=st.sampled_from(["tcp", "udp", "both"]),
        offer=st.booleans(),
        ports=st.sets(st.sampled_from(PORTS), min_size=1, max_size=2),
    )
    def take(self, worker: int, kind: str, offer: bool, ports: set[int]) -> None:  # noqa: FBT001
        """Take one of one or two ports: one that can be had, or none if none can."""
        key, self.next = self.next, self.next + 1
        can = {port for port in ports if self._can_lease(kind, port)}
        if len(can) == 2:  # which, is drawn at random, and a run is to be the same each time
            can = {min(can)}
            ports = can
        answer = self.workers[worker].call("take", key, kind, offer, sorted(ports))
        self._told(f"take {kind}", "" if can else answer)
        if not can:
            assert answer == "PortUnavailableError", answer
            return
        goal = (GUARDED if kind == "udp" else OFFERED) if offer else HELD
        port, state = answer
        assert port in can, f"{port} was given; only {can} could be had"
        assert state == goal
        self.leases[key] = Leased(key, worker, port, kind, goal)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        """A move that the table allows; it may be refused all the same."""
        lease = self._pick(data)
        self._move(lease, data.draw(st.sampled_from(sorted(TRANSITIONS[lease.state]))))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def move_again(self, data: st.DataObject) -> None:
        """The same, so that it is drawn as often as those that make a lease."""
        self.move(data)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), action=st.sampled_from([*sorted(TRANSITIONS[HELD]), "take_back"]))
    def move_anyhow(self, data: st.DataObject, action: str) -> None:
        """Any move, allowed or not."""
        self._move(self._pick(data), action)

    def _move(self, lease: Leased, action: str) -> None:
        if action == "hand_over" and lease.kind == "both":
            action = "hand_over_all"
        want = self._what_comes_of(lease, action)
        answer = self.workers[lease.worker].call("move", lease.key, action)
        self._told(f"{action} {lease.kind} {lease.state}", want)
        if want:
            assert answer == want, f"{action}() of {lease.state}: {want} expected, told {answer}"
            state = self.workers[lease.worker].call("state", lease.key)
            assert state == lease.state
            return
        if action in {"listen", "hand_over", "hand_over_all"}:
            lease.sockets_open = True
            lease.listens = action == "listen"
        lease.state = TRANSITIONS[lease.state][action.removesuffix("_all")]
        assert answer == lease.state

    def _what_comes_of(self, lease: Leased, action: str) -> str:
        """The error's name, or ``""``; from the table, and from who is on the port."""
        if lease.kind == "udp" and action in {"offer", "listen"}:
            return "UsageError"
        if action.removesuffix("_all") not in TRANSITIONS[lease.state]:
            return "LeaseStateError"
        if lease.kind == "both" and action == "listen":
            return "UsageError"
        missing: list[str] = []
        if action == "take_back":
            missing += lease.transports
        elif lease.state is OFFERED and lease.kind == "both" and action != "release":
            missing += ["udp"] if action in {"withdraw", "hand_over_all"} else []
        for one in missing:
            if not self._gets_in(Bound(one, lease.port, _EVERYWHERE, reuse=False)):
                return "PortUnavailableError"
        if action == "listen" and not self._gets_in(
            Bound("tcp", lease.port, _EVERYWHERE, reuse=False), but=lease
        ):
            return "PortUnavailableError"
        return ""

    @precondition(lambda self: any(one.sockets_open for one in self.leases.values()))
    @rule(data=st.data())
    def close_what_was_handed_over(self, data: st.DataObject) -> None:
        """The new owner of a socket closes it; the lease knows nothing of that."""
        found = [key for key, one in self.leases.items() if one.sockets_open]
        lease = self.leases[data.draw(st.sampled_from(found))]
        self.workers[lease.worker].call("close", lease.key)
        lease.sockets_open = lease.listens = False
        self._told("close", "")

    # --- what befalls them ---

    @rule(
        what=st.sampled_from(["kill", "kill in a take", "kill in a move", "stop", "fork"]),
        worker=st.integers(0, 2),
        data=st.data(),
    )
    def befall(self, what: str, worker: int, data: st.DataObject) -> None:
        """What may happen to a process.

        - kill: SIGKILL; as soon as its death can be waited for, nothing of it is left. In the midst
          of a call it comes at any point of it.
        - stop: SIGSTOP, until it is told to do something: its leases stay what they are.
        - fork: the child has nothing of the leases, and outlives its parent.
        """
        process = self.workers[worker]
        own = [one for one in self.leases.values() if one.worker == worker]
        match what:
            case "stop":
                process.stop()
            case "fork":
                if any(one.sockets_open for one in own):
                    return  # those are not the lease's any more: a child has copies
                assert process.call("fork") == "forked"
            case "kill in a move" if own:
                lease = data.draw(st.sampled_from([one.key for one in own]))
                moves = sorted(TRANSITIONS[self.leases[lease].state])
                action = data.draw(st.sampled_from(moves))
                process.kill_midway("move", lease, action)
            case "kill in a take":
                kind = data.draw(st.sampled_from(["tcp", "udp", "both"]))
                process.kill_midway("take", -1, kind, data.draw(st.booleans()), list(PORTS))
            case _:
                process.kill()
        if what.startswith("kill"):
            self.leases = {k: one for k, one in self.leases.items() if one.worker != worker}
            process.start()
        self._told(what, "")

    # --- thieves ---

    @rule(
        transport=st.sampled_from(["tcp", "tcp", "udp"]),
        port=st.sampled_from(PORTS),
        place=st.sampled_from(_PLACES),
        reuse=st.booleans(),
        listens=st.booleans(),
    )
    def bind(self, transport: str, port: int, place: Thief, reuse: bool, listens: bool) -> None:  # noqa: FBT001
        """Bind this very number, and listen: only where the table says so."""
        thief = place._replace(reuseaddr=reuse)
        new = Bound(transport, port, thief, reuse)
        want = "" if self._gets_in(new) else "EADDRINUSE"
        sock = equipped(thief, _TYPES[transport])
        answer = refusal(sock, port, thief.host)
        self._told(f"bind {transport}{' SO_REUSEADDR' * reuse}", answer)
        if answer:
            sock.close()
        else:
            key, self.next = self.next, self.next + 1
            self.thieves[key] = sock, new
            if transport == "tcp" and listens and not want:
                self._listen(key)
        expected(answer, want)

    def _listen(self, key: int) -> None:
        sock, bound = self.thieves.pop(key)
        want = "" if self._gets_in(bound) else "EADDRINUSE"
        answer = ""
        try:
            sock.listen(64)
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        self.thieves[key] = sock, bound._replace(listens=not answer)
        self._told("listen", answer)
        expected(answer, want)

    @precondition(lambda self: self.thieves)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        """A thief closes his socket."""
        sock, _ = self.thieves.pop(data.draw(st.sampled_from(sorted(self.thieves))))
        sock.close()
        self._told("let go", "")

    @rule(
        what=st.sampled_from(["bind 0", "connect out", "connect to"]),
        transport=st.sampled_from(["tcp", "udp"]),
        port=st.sampled_from(PORTS),
        place=st.sampled_from(_PLACES),
        reuse=st.booleans(),
    )
    def ask(self, what: str, transport: str, port: int, place: Thief, reuse: bool) -> None:  # noqa: FBT001
        """Ask the kernel for a port, or for who is at one."""
        if what == "bind 0":
            self._bind_zero(transport, place, reuse=reuse)
        elif what == "connect out":
            self._connect_out(transport)
        else:
            self._connect_to(port)

    def _bind_zero(self, transport: str, place: Thief, *, reuse: bool) -> None:
        """bind(0), where leases are all of the ephemeral range: never what is held."""
        thief = place._replace(reuseaddr=reuse)
        # TCP's takes no notice of SO_REUSEADDR; UDP's does, and no lease's hold has it.
        shares = reuse and transport == "udp"
        free = {
            port for port in PORTS if self._gets_in(Bound(transport, port, thief, reuse=shares))
        }
        if transport == "tcp":
            free -= {
                one.port
                for one in self._bound()
                if one.transport == "tcp" and overlap(one.place, thief)
            }
        with equipped(thief, _TYPES[transport]) as sock:
            answer = refusal(sock, 0, thief.host)
            self._told(f"bind 0 {transport}", answer)
            expected(answer, "" if free else "EADDRINUSE")
            if free:
                assert sock.getsockname()[1] in free

    def _connect_out(self, transport: str) -> None:
        """connect() finds a port of its own: never one that is held."""
        busy = {one.port for one in self._bound() if one.transport == transport}
        if transport == "udp":  # only those on its own address
            new = Bound("udp", 0, Thief(socket.AF_INET, "0.0.0.0"), reuse=False)
            busy = {port for port in PORTS if not self._gets_in(new._replace(port=port))}
        free = set(PORTS) - busy
        with socket.socket(socket.AF_INET, _TYPES[transport]) as sock:
            if transport == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            code = sock.connect_ex(("127.0.0.1", _ACCEPTING))
            self._told(f"connect {transport}", errno.errorcode.get(code, ""))
            none_left = errno.EADDRNOTAVAIL if transport == "tcp" else errno.EAGAIN
            assert code == (0 if free else none_left), errno.errorcode.get(code)
            if free:
                assert sock.getsockname()[1] in free

    def _connect_to(self, port: int) -> None:
        """Whoever listens there is met, and otherwise nobody."""
        here = Thief(socket.AF_INET, "127.0.0.1")
        listening = any(
            one.listens and one.port == port and overlap(one.place, here) for one in self._bound()
        )
        with equipped(here._replace(reuseaddr=True), socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.settimeout(60)
            sock.bind((here.host, _FROM))
            code = sock.connect_ex(("127.0.0.1", port))
        self._told("connect to", errno.errorcode.get(code, ""))
        assert code == (0 if listening else errno.ECONNREFUSED), errno.errorcode.get(code)

    # --- what the machine sees ---

    @invariant()
    def the_kernel_sees_the_same(self) -> None:
        """Two binds of every port: exactly those succeed that the model says."""
        for port in PORTS:
            for transport, kind in _TYPES.items():
                for reuse in (False, True):
                    thief = Thief(socket.AF_INET, "0.0.0.0", reuseaddr=reuse)
                    want = (
                        "" if self._gets_in(Bound(transport, port, thief, reuse)) else "EADDRINUSE"
                    )
                    with equipped(thief, kind) as sock:
                        expected(refusal(sock, port, thief.host), want)

    @invariant()
    def the_board_shows_the_same(self) -> None:
        """leases() lists every lease that is alive, as it is, and no other."""
        listed = sorted(
            (one.port, one.kind, str(one.state), one.pid, one.label) for one in portlease.leases()
        )
        assert listed == sorted(
            (one.port, one.kind, str(one.state), self.workers[one.worker].pid, f"lease {one.key}")
            for one in self.leases.values()
            if one.state is not RELEASED
        )

    def teardown(self) -> None:
        """Nothing is left for the next run."""
        for sock, _ in self.thieves.values():
            sock.close()
        for worker in self.workers:
            assert worker.call("reset") == "reset"
            worker.forget()
        self.leases.clear()
        self.thieves.clear()
        self.the_kernel_sees_the_same()
        self.the_board_shows_the_same()


def run(
    examples: int, steps: int, start: int | None = None, mistake: str = ""
) -> dict[str, object]:
    """Run the machine; what came about.

    Args:
        examples: how many times.
        steps: how many steps each time, at most.
        start: where its choices start from; None: from what never changes.
        mistake: what the workers do wrong, see `model.workers.MISTAKES`.
    """
    uids = (0, 0, _NOBODY) if os.geteuid() == 0 and _is_a_user(_NOBODY) else (0, 0, 0)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=start is None,
        database=None,
        deadline=None,
        # Where a failure is what is looked for, the first one will do.
        phases=(Phase.generate,) if mistake else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    with server(_ACCEPTING, "127.0.0.1") as listening:
        listening.listen(4096)
        Leases.workers = tuple(Worker(uid, mistake) for uid in uids)
        machine = Leases if start is None else seed(start)(Leases)
        try:
            run_state_machine_as_test(machine, settings=chosen)
        finally:
            for worker in Leases.workers:
                worker.end()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "steps": Leases.steps,
        "users": len(set(uids)),
        "seen": sorted(Leases.seen),
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in used),
    }


def fails(mistake: str) -> str:
    """What is said of workers that do this wrong; empty if it goes unnoticed."""
    try:
        run(200, 40, mistake=mistake)
    except AssertionError as error:
        return repr(error).partition("\n")[0]
    return ""


def _is_a_user(uid: int) -> bool:
    """Whether we may become this one: in a user namespace it may not be mapped."""
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123 - of ourselves
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= uid < first + count for first, _, count in ranges)
