"""After a fork the hold is the parent's, and the parent's alone.

A forked child has a copy of every descriptor, and a port is free only when the last copy is closed:
a child that lives on would keep its parent's ports. So the copies are closed in the child at once.
"""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from _need import in_new_netns, need, why_not
from _thieves import run_python, silent

if TYPE_CHECKING:
    import subprocess

if sys.platform == "win32":
    pytest.skip("no fork() here", allow_module_level=True)

# For the scripts: run something in a forked child and end it; what it raises is seen on stderr.
IN_CHILD = """
import gc, os, socket, sys, traceback, warnings
import portlease

def fork(function, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def ended_well(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def sockets():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.append(target)
    return found

def is_free(port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
"""


def script(text: str) -> str:
    """The helpers above, and then *text*."""
    return IN_CHILD + textwrap.dedent(text)


def alone(text: str) -> subprocess.CompletedProcess[str]:
    """Run a script with every warning an error, in a network of its own where there is one.

    A port that is given back, and looked at then, must not be another suite's in that moment.
    """
    if why_not("netns") is not None:
        return run_python(text)
    return in_new_netns(text, env={"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"})


def test_a_child_sees_its_parents_lease_as_released() -> None:
    """In the child it reads RELEASED, keeps its number, and is not among the child's leases."""
    done = alone(
        script(
            """
            def child():
                assert lease.state == "RELEASED", lease.state
                assert (int(lease), lease.label) == (port, "parent's")
                assert "RELEASED" in repr(lease)
                assert all(info.pid != os.getpid() for info in portlease.leases())
                assert [info.pid for info in portlease.leases() if info.port == port] == [parent]
            parent = os.getpid()
            with portlease.lease(label="parent's") as lease:
                port = lease.port
                ended_well(fork(child))
                assert lease.state == "OFFERED"
            """
        )
    )
    silent(done)


@pytest.mark.parametrize("state", ["HELD", "OFFERED", "GUARDED", "HANDED_OVER"])
def test_a_childs_methods_raise_and_its_release_does_nothing(state: str) -> None:
    """Every transition names the owner; release(), leaving the block and exit change nothing."""
    done = alone(
        script(
            f"""
            STATE = {state!r}
            def child():
                for action in ("offer", "withdraw", "step_aside", "take_back", "listen",
                               "hand_over", "hand_over_all"):
                    try:
                        getattr(lease, action)()
                    except portlease.LeaseStateError as error:
                        assert str(parent) in str(error), error
                        assert error.state == "RELEASED"
                        assert error.action == action.removesuffix("_all")
                    else:
                        raise AssertionError(action)
                lease.release()
                lease.release()
                lease.__exit__(None, None, None)
            parent = os.getpid()
            with portlease.lease(offer=STATE == "OFFERED") as lease:
                if STATE == "GUARDED":
                    lease.step_aside()
                sock = lease.hand_over() if STATE == "HANDED_OVER" else None
                ended_well(fork(child))
                assert lease.state == STATE
                rows = [info.state for info in portlease.leases() if info.port == lease.port]
                assert rows == [STATE], rows
                assert is_free(lease.port) == (STATE == "GUARDED")
                if STATE == "GUARDED":
                    try:
                        portlease.lease(ports=[lease.port])
                    except portlease.PortUnavailableError:
                        pass
                    else:
                        raise AssertionError("the child took the guard away")
                if sock:
                    sock.close()
            """
        )
    )
    silent(done)


@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
@pytest.mark.parametrize("offer", ["True", "False"])
def test_the_port_is_free_after_the_parents_release_while_the_child_lives(
    kind: str, offer: str
) -> None:
    """The child has no copy of anything: release() in the parent frees the port at once."""
    done = alone(
        script(
            f"""
            def child():
                left = sockets()
                assert not left, left
                os.write(ready_in, b".")
                os.close(end_in)
                os.read(end_out, 1)
            ready_out, ready_in = os.pipe()
            end_out, end_in = os.pipe()
            lease = portlease.lease({kind!r}, offer={offer})
            pid = fork(child)
            os.read(ready_out, 1)
            lease.release()
            for socktype in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                assert is_free(lease.port, socktype)
            portlease.lease({kind!r}, ports=[lease.port]).release()
            os.close(end_in)
            ended_well(pid)
            """
        )
    )
    silent(done)


def test_a_child_that_outlives_its_parent_keeps_nothing() -> None:
    """The parent dies of SIGKILL; its ports are free although the child lives."""
    done = alone(
        script(
            """
            import signal
            def parent():
                lease = portlease.lease()
                pid = fork(child)
                os.write(told_in, f"{lease.port} {pid}".encode())
                signal.pause()
            def child():
                os.close(end_in)
                os.read(end_out, 1)
            told_out, told_in = os.pipe()
            end_out, end_in = os.pipe()
            middle = fork(parent)
            port, grandchild = map(int, os.read(told_out, 100).split())
            assert not is_free(port)
            os.kill(middle, signal.SIGKILL)
            os.waitpid(middle, 0)
            os.kill(grandchild, 0)
            assert is_free(port)
            portlease.lease(ports=[port]).release()
            """
        )
    )
    silent(done)


def test_a_child_takes_leases_of_its_own() -> None:
    """They are the child's: its own pid in leases(), and free when it ends without a word."""
    done = alone(
        script(
            """
            def child():
                with portlease.lease_many(3, label="child's") as own, portlease.lease("udp") as udp:
                    assert outer.port not in own.ports
                    for lease in own:
                        lease.withdraw()
                    (info,) = [info for info in portlease.leases() if info.port == udp.port]
                    assert info.pid == os.getpid()
                    ended_well(fork(grandchild, own))
                os.write(told_in, " ".join(map(str, own.ports)).encode())
                kept.append(portlease.lease(ports=[own[0].port], label="child's"))  # not released
            def grandchild(own):
                assert {lease.state for lease in own} == {"RELEASED"}
                assert not sockets()
            kept = []
            told_out, told_in = os.pipe()
            with portlease.lease() as outer:
                ended_well(fork(child))
                for port in map(int, os.read(told_out, 100).split()):
                    assert is_free(port)
            """
        )
    )
    silent(done)


def test_a_childs_garbage_says_nothing() -> None:
    """The lease that a child inherits is no leak of the child's: no warning when it is dropped."""
    done = alone(
        script(
            """
            def child():
                global lease
                lease = None
                gc.collect()
            lease = portlease.lease()
            ended_well(fork(child))
            assert not is_free(lease.port)
            lease.release()
            """
        )
    )
    silent(done)


def test_the_guarded_ports_of_find_unused_port_are_the_parents() -> None:
    """guarded_port() keeps guards in a list; the child's copies of them are closed as well."""
    done = alone(
        script(
            """
            from portlease import _take
            def child():
                assert not sockets()
                assert not _take._guarded
                _take.guarded_port(socket.AF_INET, socket.SOCK_STREAM)
            port = _take.guarded_port(socket.AF_INET, socket.SOCK_STREAM)
            ended_well(fork(child))
            try:
                portlease.lease(ports=[port])
            except portlease.PortUnavailableError:
                pass
            else:
                raise AssertionError("the guard has gone with the child")
            """
        )
    )
    silent(done)


# Forking while another thread is in the middle of things. The child may have only what the threads
# of the parent had in plain sight: nothing.
THREADED = """
import threading, time
from portlease import _take

def take():
    with portlease.lease_many(2, "both", offer=False) as leases:
        for lease in leases:
            lease.offer()
            lease.withdraw()
            lease.step_aside()
            lease.take_back()
    with portlease.lease("udp") as lease:
        pass
    _take.guarded_port(socket.AF_INET, socket.SOCK_STREAM)

def loop():
    try:
        while not over:
            take()
    except BaseException:
        traceback.print_exc()
        os._exit(1)

over = False
threads = [threading.Thread(target=loop) for _ in range(2)]
for thread in threads:
    thread.start()
left = [0] * ROUNDS
for number in range(ROUNDS):
    pid = os.fork()
    if pid == 0:
        if number % 10 == 0:
            with portlease.lease(), portlease.lease("udp"):
                pass
        os._exit(min(len(sockets()), 100))
    left[number] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
over = True
for thread in threads:
    thread.join()
assert not any(left), f"{sum(map(bool, left))} of {ROUNDS} children had a socket: {left}"
"""


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_fork_in_the_middle_of_takes_copies_nothing(where: str) -> None:
    """Two threads take and move leases without pause; no child of 150 forks has a socket.

    Once with ports from outside the ephemeral range and once, where there are none, from inside.
    """
    need.capability("proc")
    # Python 3.12 warns of forks in threaded processes; that is what is tried here.
    rounds = "import warnings; warnings.simplefilter('ignore'); ROUNDS = 150\n"
    if where == "outside":
        silent(run_python(script(rounds + THREADED), options=[]))
        return
    first = """
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as file:
        file.write("65000")
    from portlease import _pool
    from portlease._platform import backend
    assert not _pool.candidates(backend.rules())
    """
    text = textwrap.dedent(first) + script(rounds + THREADED)
    silent(in_new_netns(text, ephemeral=(65000, 65535)))


def test_a_port_is_free_as_soon_as_fork_has_returned() -> None:
    """Released right after os.fork(), before the child was ever scheduled: free all the same."""
    done = alone(
        script(
            """
            busy = 0
            for number in range(60):
                end_out, end_in = os.pipe()
                lease = portlease.lease("udp" if number % 2 else "tcp", offer=False)
                pid = os.fork()
                if pid == 0:
                    os.close(end_in)
                    os.read(end_out, 1)
                    os._exit(0)
                if number % 3:
                    lease.release()
                else:
                    lease.step_aside()
                busy += not is_free(lease.port, (socket.SOCK_STREAM, socket.SOCK_DGRAM)[number % 2])
                lease.release()
                os.close(end_in)
                os.close(end_out)
                os.waitpid(pid, 0)
            print(busy)
            """
        )
    )
    assert silent(done) == "0\n"


def test_a_fork_with_more_than_1024_descriptors() -> None:
    """select() can only wait for descriptors below 1,024; forks must not depend on it."""
    done = alone(
        script(
            """
            import resource, threading
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
            fill = [os.dup(0) for _ in range(1100)]
            with portlease.lease() as lease:
                ended_well(fork(lambda: None))
                thread = threading.Thread(target=lambda: portlease.lease().release(), daemon=True)
                thread.start()
                thread.join(200)
                assert not thread.is_alive(), "the lock is held for ever"
            """
        )
    )
    silent(done)


def test_children_started_by_other_threads_do_not_disturb_a_lease() -> None:
    """Between its fork and its exec a child has a copy of everything; no transition minds.

    Two threads start programs without pause, as people do who know nothing of leases.
    """
    done = alone(
        script(
            """
            import subprocess, threading
            def start():
                while not over:
                    subprocess.run(["true"], check=True)
            over = False
            threads = [threading.Thread(target=start) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                for number in range(150):
                    with portlease.lease("both" if number % 3 else "tcp", offer=False) as lease:
                        for _ in range(2):
                            lease.offer()
                            lease.withdraw()
                            lease.step_aside()
                            lease.take_back()
                    with portlease.lease() as lease, lease.listen():
                        pass
                    with portlease.lease("udp", offer=False) as lease, lease.hand_over():
                        pass
            finally:
                over = True
                for thread in threads:
                    thread.join()
            """
        )
    )
    silent(done)


def test_a_plain_socket_is_the_childs_too() -> None:
    """The control: a bound socket that is no lease stays bound in a fork, whoever closes or dies.

    Its owner is killed with SIGKILL, and the port is not free while the child lives.
    """
    done = alone(
        script(
            """
            import signal
            def parent():
                sock = socket.socket()
                sock.bind(("127.0.0.1", place.port))
                pid = fork(child)
                sock.close()
                os.write(told_in, str(pid).encode())
                signal.pause()
            def child():
                os.close(end_in)
                os.read(end_out, 1)
            told_out, told_in = os.pipe()
            end_out, end_in = os.pipe()
            with portlease.lease() as place:
                pass
            middle = fork(parent)
            grandchild = int(os.read(told_out, 100))
            assert not is_free(place.port)
            os.kill(middle, signal.SIGKILL)
            os.waitpid(middle, 0)
            assert not is_free(place.port)
            """
        )
    )
    silent(done)


# --- exec ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["HELD", "OFFERED", "GUARDED", "HANDED_OVER"])
def test_nothing_is_inherited_through_exec(state: str) -> None:
    """A program started with close_fds=False has none of the lease's descriptors (PEP 446)."""
    need.capability("proc")
    done = alone(
        script(
            f"""
            import subprocess
            STATE = {state!r}
            with portlease.lease("both", offer=STATE == "OFFERED") as lease:
                if STATE == "GUARDED":
                    lease.step_aside()
                socks = lease.hand_over_all() if STATE == "HANDED_OVER" else ()
                assert not any(os.get_inheritable(sock.fileno()) for sock in socks)
                child = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, check=True,
                                       capture_output=True, text=True)
                assert "socket:" not in child.stdout, child.stdout
                for sock in socks:
                    sock.close()
            """
        )
    )
    silent(done)


def test_a_socket_handed_over_is_inherited_if_asked_for() -> None:
    """pass_fds= gives it to the server; the port is the server's then, whatever the lease does."""
    done = alone(
        script(
            """
            import subprocess
            SERVER = '''
            import socket, sys
            sock = socket.socket(fileno=int(sys.argv[1]))
            sock.accept()[0].close()
            '''
            import textwrap
            with portlease.lease() as lease:
                with lease.listen() as sock:
                    child = subprocess.Popen(
                        [sys.executable, "-I", "-S", "-W", "ignore", "-c", textwrap.dedent(SERVER),
                         str(sock.fileno())],
                        pass_fds=[sock.fileno()],
                    )
                lease.release()
            with socket.create_connection(("127.0.0.1", lease.port)) as client:
                assert client.recv(1) == b""
            assert child.wait() == 0
            """
        )
    )
    silent(done)
