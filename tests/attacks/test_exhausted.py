"""Holders that run out of everything: memory, address space, descriptors, processor.

Whatever is missing, a call comes through whole or fails whole: afterwards the lease's state, its
row and what the kernel lets in agree, and nothing stays open. A thief must find no way in that the
state does not allow.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import socket
import subprocess
import sys

import pytest

import portlease
from _attacked import HELPERS
from _need import in_new_netns, need
from _processes import readable, status, wait_for
from _thieves import Thief, run_python, silent, steal

if sys.platform != "linux":
    pytest.skip("counts descriptors in /proc", allow_module_level=True)

# Each allocation of a call fails once, in turn: PyMem's hooks count them.
NO_MEMORY = (
    HELPERS
    + """
import _testcapi
warnings.simplefilter("ignore")  # what is collected half made warns, and may

def opened(kind):
    return portlease.lease(kind, offer=False)

def guarded(kind):
    lease = opened(kind)
    lease.step_aside()
    return lease

def offered(kind):
    lease = opened(kind)
    if kind != "udp":
        lease.offer()
    return lease

class Naive:
    "Takes a port as people do: socket, bind, and whatever follows."
    state = "RELEASED"
    def __init__(self):
        self.open = []
    def take(self):
        self.open.append(socket.socket())
        self.open[-1].bind(("127.0.0.1", 0))
        [object() for _ in range(4)]
        self.open.pop().close()
        return self
    def release(self):
        pass

CASES = {
    "take": (lambda kind: None, lambda _, kind: portlease.lease(kind)),
    "take held": (lambda kind: None, lambda _, kind: portlease.lease(kind, offer=False)),
    "offer": (opened, lambda lease, _: lease.offer()),
    "withdraw": (offered, lambda lease, _: lease.withdraw()),
    "step_aside": (offered, lambda lease, _: lease.step_aside()),
    "take_back": (guarded, lambda lease, _: lease.take_back()),
    "hand_over": (offered, lambda lease, _: lease.hand_over_all()),
    "listen": (offered, lambda lease, _: lease.listen()),
    "release": (offered, lambda lease, _: lease.release()),
    "leases": (offered, lambda lease, _: portlease.leases() and None),
    "naive": (lambda kind: Naive(), lambda naive, _: naive.take()),
}
NO_SUCH = {("udp", "offer"), ("udp", "withdraw"), ("udp", "listen"), ("both", "listen")}

def with_one_missing(work, lease, kind, number):
    "Run work without its number-th allocation; whether it was hit, and what it returned."
    _testcapi.set_nomemory(number, number + 1)
    try:
        done = work(lease, kind)
    except MemoryError:
        return True, None
    except RuntimeError as error:
        _testcapi.remove_mem_hooks()
        # What io.open() says when there is none for its lock (_io/bufferedio.c).
        assert "allocate" in str(error), error
        return True, None
    finally:
        _testcapi.remove_mem_hooks()
    return False, done

def close(done):
    for sock in done if isinstance(done, tuple) else [done]:
        if isinstance(sock, socket.socket):
            sock.close()

def attack(name, kind):
    prepare, work = CASES[name]
    hits, passed, number, found = 0, 0, 0, []
    lease = prepare(kind)
    done = work(lease, kind)  # whatever is loaded and cached once
    close(done)
    for one in (lease, done):
        if isinstance(one, (portlease.Lease, Naive)):
            one.release()
    del lease, done
    gc.collect()
    before = open_fds()
    while passed < 5:  # in a row: it needs no more than this
        number += STEP
        lease = prepare(kind)
        hit, done = with_one_missing(work, lease, kind, number)
        hits += hit
        passed = 0 if hit else passed + 1
        close(done)
        if isinstance(done, portlease.Lease):
            lease = done
        del done
        if lease is not None and lease.state != "RELEASED":
            found += [(number, *what) for what in wrongs(lease)]
            if lease.state != "HANDED_OVER":
                found += [(number, "later", *what) for what in wrongs_later(lease)]
        if lease is not None:
            lease.release()
        if open_fds() - before:
            gc.collect()  # what a traceback keeps
        if name != "naive":
            del lease
        left = open_fds() - before
        if left:
            found.append((number, "left", sorted(left)))
            before |= left
    return hits, found

total = 0
for kind, name in CALLS:
    if (kind, name) in NO_SUCH:
        continue
    hits, found = attack(name, kind)
    assert hits, (kind, name, "no allocation ever failed")
    if name == "naive":
        assert any("left" in what for what in found), "the check sees no leak"
    else:
        assert not found, (kind, name, found)
    total += hits
assert not _grip.alive()
print(total)
"""
)
CALLS = (
    "take",
    "take held",
    "offer",
    "withdraw",
    "step_aside",
    "take_back",
    "hand_over",
    "listen",
    "release",
    "leases",
)


def without_memory(calls: list[tuple[str, str]], step: int = 1) -> int:
    """Run the attack, on every *step*-th allocation; return how many failed."""
    need.capability("proc")
    need.module("_testcapi")  # which fails allocations
    script = f"CALLS, STEP = {calls!r}, {step}\n{NO_MEMORY}"
    # In a network of its own: a port that is given back must not be another suite's at once.
    done = in_new_netns(script)
    if done.returncode == -signal.SIGSEGV and sys.version_info >= (3, 12):
        # A generator whose frame cannot be had (3.12.1, 3.13.0); no fault of what it runs.
        pytest.skip("this CPython dies of a failed allocation itself")
    return int(silent(done))


def test_without_memory_a_call_fails_whole() -> None:
    """Of every call, one allocation fails, of each five one: state, row and kernel agree."""
    assert without_memory([("both", name) for name in CALLS], step=5) > 50


@pytest.mark.long
def test_without_memory_a_call_fails_whole_long() -> None:
    """Each allocation of each call, for every kind of lease."""
    kinds = ("tcp", "udp", "both")
    assert without_memory([(kind, name) for kind in kinds for name in CALLS]) > 1000


def test_without_memory_naive_code_leaks() -> None:
    """The control: a bind without care, under the same attack, leaves its port bound."""
    assert without_memory([("tcp", "naive")]) > 0


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOBUFS], ids=["ENOMEM", "ENOBUFS"])
def test_where_the_kernel_has_no_memory_a_call_fails_whole(code: int) -> None:
    """socket(2) fails: takes and moves say so and change nothing; released, the ports are free."""
    need.capability("seccomp")
    number = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
    if number is None:
        pytest.skip("socket(2)'s number is not known here")
    done = in_new_netns(
        HELPERS
        + f"""
from _forbid import forbid
leases = [portlease.lease("both", offer=False), portlease.lease(), portlease.lease("udp")]
states = [lease.state for lease in leases]
thieves = [socket.socket(), socket.socket()]  # made while they can be
thieves[1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
before = open_fds()
forbid({number}, {code})
calls = [portlease.lease, lambda: portlease.lease("udp"), lambda: portlease.lease_many(3),
         leases[0].offer, leases[0].step_aside, leases[1].step_aside, leases[1].withdraw,
         leases[2].take_back]
for call in calls:
    try:
        call()
    except portlease.ResourceLimitError as error:
        assert error.errno == {code}, error
        error = None
    else:
        raise AssertionError(call)
gc.collect()
assert open_fds() == before, open_fds() ^ before
assert [lease.state for lease in leases] == states
rows = {{info.port: info.state for info in portlease.leases()}}
assert rows == {{lease.port: lease.state for lease in leases}}, rows
# The first is HELD.
for thief in thieves:
    try:
        thief.bind(("127.0.0.1", leases[0].port))
    except OSError as error:
        assert error.errno == {errno.EADDRINUSE}, error
    else:
        raise AssertionError("got in")
for lease in leases:
    lease.release()
assert not portlease.leases()
for thief in thieves:  # the control
    thief.bind(("127.0.0.1", leases[thieves.index(thief)].port))
    thief.close()
""",
        env={"PYTHONWARNINGS": "error"},
    )
    silent(done)


def test_out_of_address_space_a_take_fails_whole() -> None:
    """RLIMIT_AS, reached by leases alone: those that were given stand, and all can be released."""
    done = in_new_netns(
        HELPERS
        + """
portlease.lease().release()
before = open_fds()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (1 << 20), -1))
taken, missing = [], None
# The labels, which stay with their leases, are what fills the address space.
room = int(sys.argv[1])
while missing is None and len(taken) < 2000:
    try:
        taken.append(portlease.lease(label="x" * room))
    except (MemoryError, portlease.ResourceLimitError) as error:
        missing = type(error).__name__
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert missing, len(taken)
gc.collect()
rows = {info.port: info.state for info in portlease.leases()}
assert rows == {lease.port: "OFFERED" for lease in taken}, (len(rows), len(taken))
assert not any(wrongs(lease) for lease in taken[:20])
for lease in taken:
    lease.release()
del lease
assert open_fds() <= before, open_fds() - before
print(missing, len(taken))
""",
        "100000",
    )
    assert silent(done).startswith("MemoryError "), done.stdout


def test_without_a_descriptor_to_look_with_it_is_said() -> None:
    """leases() and who() need a descriptor for a moment; without one they say which limit it is."""
    done = run_python(
        HELPERS
        + """
from portlease import who
lease = portlease.lease()
portlease.leases(), who(lease)  # loads what it needs
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
room = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
fill = []
resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
try:
    while True:
        fill.append(os.dup(0))
except OSError as error:
    assert error.errno == 24, error
for look in (portlease.leases, lambda: who(lease), lambda: portlease.lease(ports=[lease.port])):
    try:
        look()
    except portlease.ResourceLimitError as error:
        assert error.errno == 24 and "ulimit" in str(error), error
    else:
        raise AssertionError(look)
assert lease.state == "OFFERED"
lease.release()
for fd in fill:
    os.close(fd)
"""
    )
    silent(done)


# --- stopped ------------------------------------------------------------------------------------

HOLDER = """
import os, signal, sys
import portlease
leases = [portlease.lease(label="stopped", offer=False), portlease.lease(label="stopped"),
          portlease.lease("udp", label="stopped"), portlease.lease("both", label="stopped")]
sys.stdout.write(" ".join(map(str, leases)) + "\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_stopped_holder_keeps_its_ports() -> None:
    """SIGSTOP: rows stay, who() tells, thieves are kept out as before; SIGCONT: all goes on."""
    plain = Thief(socket.AF_INET, "127.0.0.1")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdin
        held, offered, guarded, both = map(int, holder.stdout.readline().split())
        try:
            holder.send_signal(signal.SIGSTOP)
            wait_for(lambda: status(holder.pid, "State").startswith("T"))
            states = {info.port: info.state for info in portlease.leases() if info.label}
            assert {held: "HELD", offered: "OFFERED", guarded: "GUARDED"}.items() <= states.items()
            for port in (held, offered, both):
                assert steal(plain, socket.SOCK_STREAM, port) == "EADDRINUSE"
            reuser = plain._replace(reuseaddr=True)
            told = [steal(reuser, socket.SOCK_STREAM, port) for port in (held, offered, both)]
            assert told == ["EADDRINUSE", "", ""]
            for kind, ports in (("tcp", (held, offered, both)), ("udp", (guarded, both))):
                with pytest.raises(portlease.PortUnavailableError, match=f"pid {holder.pid}"):
                    portlease.lease("udp" if kind == "udp" else "tcp", ports=ports)
            for port in (held, offered, guarded, both):
                assert f"pid {holder.pid}" in str(portlease.who(port))
        finally:
            holder.send_signal(signal.SIGCONT)
            holder.stdin.close()
        assert holder.wait() == 0
    # The control: the same looks, and the same thief, once it has gone.
    assert not [info for info in portlease.leases() if info.pid == holder.pid]
    with portlease.lease(ports=[held, offered, both]) as again:
        assert again.port in {held, offered, both}


STOPPER = """
import sys
import portlease
sys.stdout.write("begun\\n")
sys.stdout.flush()
while True:
    with portlease.lease("both", ports=range(21000, 21003), offer=False) as lease:
        lease.offer()
        lease.step_aside()
        lease.take_back()
"""


def stop_in_the_midst(rounds: int) -> dict[str, int]:
    """Stop a lessee wherever it happens to be; lease, step aside and look on beside it."""
    found = {"rounds": 0, "leases": 0, "refused": 0, "hold lost": 0}
    with subprocess.Popen(
        [sys.executable, "-c", STOPPER], stdout=subprocess.PIPE, text=True
    ) as victim:
        try:
            assert victim.stdout
            victim.stdout.readline()
            for _ in range(rounds):
                victim.send_signal(signal.SIGSTOP)
                wait_for(lambda: status(victim.pid, "State").startswith("T"))
                found["rounds"] += 1
                with portlease.lease("both") as any_port:  # any port: nobody is in the way
                    any_port.step_aside() if any_port.state != "GUARDED" else None
                    any_port.take_back()
                try:
                    with portlease.lease("both", ports=range(21000, 21003), offer=False) as lease:
                        found["leases"] += 1
                        held = steal(Thief(socket.AF_INET, "127.0.0.1"), 1, lease.port)
                        found["hold lost"] += held != "EADDRINUSE"
                except portlease.PortUnavailableError:
                    found["refused"] += 1
                portlease.leases()
                victim.send_signal(signal.SIGCONT)
        finally:
            victim.kill()
    return found


def test_a_lessee_stopped_anywhere_stops_nobody_else() -> None:
    """A lessee is stopped at 25 places in its takes and moves; others lease on, at once."""
    need.capability("netns")
    done = in_new_netns(
        f"""
        import sys
        sys.path.insert(0, {__file__.rpartition("/")[0]!r})
        import test_exhausted
        print(test_exhausted.stop_in_the_midst(25))
        """
    )
    assert "'rounds': 25" in silent(done)
    assert "'hold lost': 0" in done.stdout


# --- killed -------------------------------------------------------------------------------------


def test_killed_anywhere_nothing_is_left() -> None:
    """SIGKILL at 25 places in takes and moves: when the death is known, all three can be leased."""
    need.capability("netns")
    done = in_new_netns(
        f"""
        import sys
        sys.path.insert(0, {__file__.rpartition("/")[0]!r})
        import test_exhausted
        test_exhausted.kill_in_the_midst(25)
        """
    )
    silent(done)


def kill_in_the_midst(rounds: int) -> None:
    """Kill a forked lessee after a while that is a little longer each time."""
    for number in range(rounds):
        begun_out, begun_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(begun_in, b".")
            while True:
                with portlease.lease("both", ports=range(21000, 21003), offer=False) as lease:
                    lease.offer()
                    lease.step_aside()
                    lease.take_back()
        os.read(begun_out, 1)
        readable(begun_out, 1e-4 * number)  # nothing comes: it is a pause, and part of the attack
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(begun_out)
        os.close(begun_in)
        assert not portlease.leases()
        portlease.lease_many(3, "both", ports=range(21000, 21003)).release()
