"""Threads, forks and interrupts that race every transition, two at a time.

Two threads that call two methods of one lease at once must leave it as if one call had come after
the other. A child that is forked in the middle of a call has nothing of the lease. An interrupt in
the middle of one may leave the lease on either side of the move, never in between.
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import portlease
from _attacked import HELPERS
from _need import in_new_netns, need
from _thieves import run_python, silent
from portlease._states import TRANSITIONS, State

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("the whole promise is Linux's; see docs/promise.md", allow_module_level=True)

ACTIONS = ("offer", "withdraw", "step_aside", "take_back", "listen", "hand_over", "release")
STARTS = ("HELD", "OFFERED", "GUARDED", "HANDED_OVER", "RELEASED")


class Pair:
    """Two calls on one lease, made by two threads that start together."""

    def __init__(self, start: str, actions: tuple[str, str]) -> None:
        self.start = start
        self.actions = actions

    def race(self, barrier: threading.Barrier, mine: int) -> tuple[str, tuple[bool, bool]]:
        """Return the state in the end, and which call was allowed; *mine* is this thread's."""
        lease, sockets = reached(self.start)
        allowed = [False, False]
        failures: list[BaseException] = []

        def call(number: int) -> None:
            barrier.wait()
            try:
                answer = getattr(lease, self.actions[number])()
                allowed[number] = True
                if answer is not None:
                    sockets.append(answer)
            except portlease.LeaseStateError:
                pass
            except BaseException as error:  # noqa: BLE001 - looked at below
                failures.append(error)

        other = threading.Thread(target=call, args=(1 - mine,))
        other.start()
        call(mine)
        other.join()
        assert not failures, failures
        state = str(lease.state)
        rows = [info.state for info in portlease.leases() if info.port == lease.port]
        assert rows == ([] if state == "RELEASED" else [state])
        assert len(sockets) == (
            state == "HANDED_OVER"
            or self.start == "HANDED_OVER"
            or any(
                ok and action in {"listen", "hand_over"}
                for ok, action in zip(allowed, self.actions, strict=True)
            )
        )
        lease.release()
        for sock in sockets:
            sock.close()
        return state, (allowed[0], allowed[1])

    def in_turn(self) -> set[tuple[str, tuple[bool, bool]]]:
        """What the table of the states says of one after the other, in either order."""
        return {self._in_order(0, 1), self._in_order(1, 0)}

    def _in_order(self, *order: int) -> tuple[str, tuple[bool, bool]]:
        state = State(self.start)
        allowed = [False, False]
        for number in order:
            moves = TRANSITIONS[state]
            if (action := self.actions[number]) in moves:
                state = moves[action]
                allowed[number] = True
        return str(state), (allowed[0], allowed[1])


def reached(state: str) -> tuple[portlease.Lease, list[socket.socket]]:
    """Return a lease in that state, and the sockets that it has handed over."""
    lease = portlease.lease(offer=state == "OFFERED")
    sockets = []
    if state == "GUARDED":
        lease.step_aside()
    elif state == "HANDED_OVER":
        sockets.append(lease.hand_over())
    elif state == "RELEASED":
        lease.release()
    return lease, sockets


def pairs() -> Iterator[Pair]:
    """Every two actions, in every state."""
    for start in STARTS:
        for actions in itertools.combinations_with_replacement(ACTIONS, 2):
            yield Pair(start, actions)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads change places at every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def race_all(rounds: int) -> set[tuple[str, tuple[str, str], bool]]:
    """Race each pair; return which of them was seen in which of its two orders."""
    barrier = threading.Barrier(2)
    seen = set()
    for pair in pairs():
        for number in range(rounds):
            outcome = pair.race(barrier, number % 2)  # who comes last to a barrier is often first
            assert outcome in pair.in_turn(), (pair.start, pair.actions, outcome)
            seen.add((pair.start, pair.actions, outcome == pair._in_order(0, 1)))
    return seen


@pytest.mark.usefixtures("hasty")
def test_every_two_calls_are_as_if_one_came_after_the_other() -> None:
    """140 pairs of calls in 5 states: state, row and sockets are those of one of the two orders."""
    seen = race_all(2)
    assert {(pair.start, pair.actions) for pair in pairs()} == {one[:2] for one in seen}


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_every_two_calls_are_as_if_one_came_after_the_other_long() -> None:
    """The same, often enough that both orders of most pairs are seen: the race is one."""
    seen = race_all(40)
    differ = [pair for pair in pairs() if len(pair.in_turn()) > 1]
    both = [pair for pair in differ if {(pair.start, pair.actions, way) for way in (0, 1)} <= seen]
    assert len(both) > len(differ) / 2, (len(both), len(differ))


@pytest.mark.usefixtures("hasty")
def test_the_same_race_without_a_lock_is_lost() -> None:
    """The control: of two threads that close and bind a port with nothing held, both may succeed.

    Each looks whether the port is theirs, closes it, and binds it for the other side, with
    SO_REUSEADDR as servers do: sooner or later both have it.
    """
    barrier = threading.Barrier(2)
    doubles = 0
    with portlease.lease() as place:  # so that nobody else is drawn in

        def take(mine: list[socket.socket]) -> None:
            barrier.wait()
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", place.port))
            mine.append(sock)

        for _ in range(3):
            mine: list[socket.socket] = []
            other = threading.Thread(target=take, args=(mine,))
            other.start()
            take(mine)
            other.join()
            doubles += len(mine) == 2
            for sock in mine:
                sock.close()
    assert doubles


# --- forks --------------------------------------------------------------------------------------

FORKS = """
import gc, itertools, os, socket, sys, threading, traceback, warnings
import portlease
warnings.simplefilter("ignore")  # Python 3.12 warns of forks in threaded processes

def sockets():
    "The addresses of the sockets that this process has open."
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(fd))) as sock:
                    found.append((int(sock.family), sock.getsockname()))
        except FileNotFoundError:
            pass
    return found
"""

IN_MID_HAND_OVER = (
    FORKS
    + """
def loop(action, kind):
    try:
        while not over:
            with portlease.lease(kind, offer=kind != "udp") as lease:
                made = getattr(lease, action)()
                for sock in made if isinstance(made, tuple) else [made]:
                    sock.close()
    except BaseException:
        traceback.print_exc()
        os._exit(1)

over = False
calls = [("listen", "tcp"), ("hand_over", "udp"), ("hand_over_all", "both")]
threads = [threading.Thread(target=loop, args=call) for call in calls]
for thread in threads:
    thread.start()
wrong, inherited = [], 0
for number in range(ROUNDS):
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        # What was handed over is the caller's: a child may have that, and nothing of the lease.
        found = sockets()
        rows = [one for one in found if one[0] == socket.AF_UNIX]
        ports = [one[1][1] for one in found if one[0] != socket.AF_UNIX]
        os.write(into, repr((rows, len(ports))).encode())
        os._exit(0)
    os.close(into)
    with open(out) as answer:
        rows, ports = eval(answer.read())
    os.waitpid(pid, 0)
    inherited += ports
    if rows or ports > 4:
        wrong.append((rows, ports))
over = True
for thread in threads:
    thread.join()
assert not wrong, wrong
print(inherited)
"""
)


def test_a_fork_in_the_middle_of_handing_over_copies_no_lease() -> None:
    """Three threads listen() and hand over without pause: no child of 40 has a row or a guard."""
    need.capability("proc")
    silent(run_python(f"ROUNDS = 40\n{IN_MID_HAND_OVER}", options=[]))


IN_A_HANDLER = (
    HELPERS
    + """
import signal

def fork(*_):
    "A signal handler that forks, as a watchdog's may, in the midst of anything."
    global hits
    hits += 1
    if not (pid := os.fork()):
        if hits % 2:
            os.execv("/bin/true", ["true"])
        os._exit(0)
    os.waitpid(pid, 0)

signal.signal(signal.SIGALRM, fork)
portlease.lease("both").release()
hits = 0
for number in range(ROUNDS):
    signal.setitimer(signal.ITIMER_REAL, 2e-6 * (number % 150 + 1))
    lease = portlease.lease("both", offer=False)
    lease.offer()
    lease.step_aside()
    lease.take_back()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert not wrongs(lease), wrongs(lease)
    lease.release()
    for socktype in TYPES["both"]:
        assert gets_in(lease.port, socktype, False)
print(hits)
"""
)


def test_a_signal_handler_that_forks_in_the_middle_of_a_call() -> None:
    """Its child ends, or becomes a program, and the call it broke into goes on untouched."""
    done = in_new_netns(f"ROUNDS = 120\n{IN_A_HANDLER}")
    assert int(silent(done)) > 20, "hardly ever hit"


# --- interrupts ---------------------------------------------------------------------------------

INTERRUPTED = (
    HELPERS
    + """
import signal

class Interrupt(BaseException):
    pass

def interrupt(*_):
    if armed:
        raise Interrupt

def moves(lease):
    if lease.kind != "udp":
        lease.offer()
        lease.withdraw()
    lease.step_aside()
    lease.take_back()

def naive(held):
    "As people do: close the old one, then open the new one, and note it then."
    held.pop().close()
    sock = socket.socket()
    sock.bind(("127.0.0.1", PORT))
    held.append(sock)

armed = False
warnings.simplefilter("ignore")
signal.signal(signal.SIGALRM, interrupt)
hits, found, delay_s = 0, [], 5e-6
if KIND == "naive":
    with portlease.lease() as lease:
        PORT = lease.port
    work, wrong = naive, lambda held: [] if held and not gets_in(PORT, 1, False) else ["not held"]
    subject = [socket.socket()]
    subject[0].bind(("127.0.0.1", PORT))
else:
    work, wrong = moves, wrongs
    subject = portlease.lease(KIND, offer=False)
for number in range(ROUNDS):
    try:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            work(subject)
        finally:
            armed = False
        delay_s = 5e-6
    except Interrupt:
        hits += 1
        delay_s += 2.3e-6
    signal.setitimer(signal.ITIMER_REAL, 0)
    found += [(number, what) for what in wrong(subject)]
    if KIND == "naive":
        if found:
            break
    else:
        if subject.state == "HELD":
            pass
        found += [(number, "later", what) for what in wrongs_later(subject)]
        if subject.state != "HELD":
            found.append((number, subject.state))
print(hits, len(found))
if KIND == "naive":
    subject = None
else:
    assert not found, found[:5]
    subject.release()
"""
)


def interrupted(kind: str, rounds: int) -> tuple[int, int]:
    """Return how often the moves were interrupted, and how often something was wrong then."""
    script = f"KIND, ROUNDS = {kind!r}, {rounds}\n{INTERRUPTED}"
    done = in_new_netns(script)
    assert done.returncode == 0, done.stderr[-800:]
    hits, found = map(int, done.stdout.split())
    return hits, found


@pytest.mark.parametrize("kind", ["tcp", "both"])
def test_an_interrupted_move_is_made_or_not(kind: str) -> None:
    """After any interrupt nobody gets in whom the state keeps out, and the lease goes on."""
    assert interrupted(kind, 400)[0] > 40, "hardly ever hit"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
def test_an_interrupted_move_is_made_or_not_long(kind: str) -> None:
    """The same, often enough to hit every bytecode."""
    assert interrupted(kind, 5000)[0] > 500, "hardly ever hit"


def test_an_interrupt_costs_naive_code_its_port() -> None:
    """The control: close, then bind again; an interrupt in between leaves the port to anybody."""
    hits, found = interrupted("naive", 20_000)
    assert hits
    assert found
