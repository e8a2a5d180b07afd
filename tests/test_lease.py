"""One lease: what it is to its holder, apart from the walk through its states."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import pickle
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import portlease
from _board import row
from _need import need
from _thieves import Thief, equipped, refusal, run_python, server, silent, steal
from portlease import _lease, _onlooker, _take


def open_fds() -> int:
    """How many descriptors this process has."""
    need.capability("proc")
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - in a hurry


# --- a number -----------------------------------------------------------------------------------


def test_it_stands_where_a_number_is_wanted() -> None:
    """str(), int(), format(), % and everything that takes an index."""
    with portlease.lease() as lease:
        port = lease.port
        assert type(port) is int
        assert (int(lease), str(lease), f"{lease}") == (port, str(port), str(port))
        assert f"{lease:>8}|{lease:x}" == f"{port:>8}|{port:x}"
        assert f"localhost:{lease}" == "localhost:{}".format(lease) == "localhost:%d" % lease  # noqa: UP031, UP032
        assert (hex(lease), range(lease)[-1], bytes(lease)[:1]) == (hex(port), port - 1, b"\0")
        assert ("127.0.0.1", int(lease)) == ("127.0.0.1", port)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", lease))  # takes any object with an index


def test_where_a_plain_int_is_demanded() -> None:
    """getaddrinfo() refuses everything else: there it is lease.port."""
    with portlease.lease() as lease:
        assert socket.getaddrinfo("127.0.0.1", lease.port)
        with pytest.raises(OSError, match="Int or String expected"):
            socket.getaddrinfo("127.0.0.1", lease)  # type: ignore[arg-type]


def test_it_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """repr() for people: number, kind, state, label."""
    monkeypatch.setattr(_onlooker.look, "label", None)  # or it would be this test's
    with portlease.lease(label="db") as lease:
        assert repr(lease) == f"<Lease port={lease.port} kind=tcp state=OFFERED label='db'>"
    assert repr(lease) == f"<Lease port={lease.port} kind=tcp state=RELEASED label='db'>"
    with portlease.lease("udp") as lease:
        assert repr(lease) == f"<Lease port={lease.port} kind=udp state=GUARDED>"


def test_its_facts_can_be_read_and_not_written() -> None:
    """Kind, label, host, scope, since, state; also after its release."""
    before = time.time()
    with portlease.lease("both", host="127.0.0.1", label="x", offer=False) as lease:
        pass
    assert (lease.kind, lease.label) == ("both", "x")
    assert (lease.host, lease.scope) == ("127.0.0.1", "127.0.0.1")
    assert before - 0.001 <= lease.since <= time.time()
    assert lease.state == "RELEASED"
    for name in ("kind", "label", "host", "scope", "since", "state"):
        with pytest.raises(AttributeError):
            setattr(lease, name, None)
    with pytest.raises(AttributeError):
        lease.nonsense = 1  # type: ignore[attr-defined]


def test_it_is_itself_and_no_other() -> None:
    """Leases compare by identity and can be kept in sets; a lease is not its number."""
    with portlease.lease() as one, portlease.lease() as other:
        assert one != other
        assert {one: 1}.get(one.port) is None  # type: ignore[call-overload]
        assert len({one, other, one}) == 2


@pytest.mark.parametrize(
    "double", [copy.copy, copy.deepcopy, pickle.dumps, lambda lease: pickle.dumps([lease])]
)
def test_it_cannot_have_two_owners(double: Any) -> None:  # noqa: ANN401 - of several modules
    """No copy and no pickle; the error says what to pass instead."""
    with portlease.lease() as lease:
        with pytest.raises(TypeError, match=r"lease\.port"):
            double(lease)
        assert lease.state == "OFFERED"


def test_it_is_made_by_lease_alone() -> None:
    """The class is public for annotations; calling it is a mistake, and leaves nothing behind."""
    with pytest.raises(TypeError):
        portlease.Lease()  # type: ignore[call-arg]


# --- a block ------------------------------------------------------------------------------------


def test_the_block_releases_whatever_happens_in_it() -> None:
    """Also on an exception, which is passed on."""
    with pytest.raises(ZeroDivisionError), portlease.lease() as lease:
        raise ZeroDivisionError
    assert lease.state == "RELEASED"
    assert not steal(Thief(socket.AF_INET, "127.0.0.1"), socket.SOCK_STREAM, lease.port)


def test_the_block_may_release_early() -> None:
    """The end of the block is then nothing more."""
    with portlease.lease() as lease:
        lease.release()
        with portlease.lease(ports=[lease.port]) as other:
            lease.release()
            assert other.state == "OFFERED"


def test_a_lease_costs_two_descriptors() -> None:
    """A row and a hold; guarded, a row and a guard; released, nothing."""
    portlease.lease().release()  # whatever is loaded once
    before = open_fds()
    with portlease.lease(offer=False) as lease:
        for move in (lease.offer, lease.withdraw, lease.step_aside, lease.take_back):
            assert open_fds() == before + 2
            move()
        assert open_fds() == before + 2
    assert open_fds() == before


def test_its_descriptors_are_above_the_standard_ones_and_not_inheritable() -> None:
    """PEP 446."""
    need.capability("proc")
    table = Path("/proc/self/fdinfo")
    before = {entry.name for entry in table.iterdir()}
    with portlease.lease("both"):
        ours = {entry.name for entry in table.iterdir()} - before
        assert len(ours) == 3
        for fd in ours:
            assert int(fd) > 2
            assert not os.get_inheritable(int(fd))


# --- a socket -----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [None, 5.0, 0.0])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_socket_handed_over_is_as_new(timeout_s: float | None, kind: str) -> None:
    """Blocking, also in the kernel, whatever the default is; bound; not inheritable; no options."""
    socket.setdefaulttimeout(timeout_s)
    try:
        lease = portlease.lease("tcp" if kind == "tcp" else "udp", offer=False)
        with lease, lease.hand_over() as sock:
            assert sock.gettimeout() is None
            assert sock.getblocking()
            if sys.platform != "win32":
                assert not fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK
            assert not sock.get_inheritable()
            assert sock.getsockname()[1] == lease.port
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            assert sock.family == socket.AF_INET6 or not socket.has_dualstack_ipv6()
            assert type(sock) is socket.socket
    finally:
        socket.setdefaulttimeout(None)


def test_a_backlog_is_the_kernels() -> None:
    """Clients are queued up to it before anybody accepts."""
    with portlease.lease() as lease, lease.listen(3) as sock:
        clients = [socket.create_connection(("127.0.0.1", lease.port)) for _ in range(3)]
        for client in clients:
            sock.accept()[0].close()
            client.close()


def test_datagrams_sent_to_a_held_port_are_not_the_servers() -> None:
    """What came before the socket was handed over is thrown away: its sender got no answer."""
    with (
        portlease.lease("udp", offer=False) as lease,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for number in range(20):
            client.sendto(b"early %d" % number, ("127.0.0.1", lease.port))
        with lease.hand_over() as sock:
            client.sendto(b"late", ("127.0.0.1", lease.port))
            assert sock.recv(100) == b"late"


def test_a_flood_of_datagrams_does_not_delay_the_handing_over() -> None:
    """Somebody sends without pause: hand_over() returns all the same."""
    done = run_python(
        """
        import socket, threading, portlease
        def flood(port):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                while not over:
                    client.sendto(b"x", ("127.0.0.1", port))
        over = False
        with portlease.lease("udp", offer=False) as lease:
            threads = [threading.Thread(target=flood, args=[lease.port]) for _ in range(3)]
            for thread in threads:
                thread.start()
            with lease.hand_over():
                over = True
            for thread in threads:
                thread.join()
        """
    )
    silent(done)


def test_all_sockets_are_handed_over_in_the_order_of_the_addresses() -> None:
    """TCP first."""
    with portlease.lease("both", host=["127.0.0.2", "127.0.0.1"], offer=False) as lease:
        socks = lease.hand_over_all()
        try:
            assert [(int(sock.type), sock.getsockname()[0]) for sock in socks] == [
                (1, "127.0.0.2"),
                (1, "127.0.0.1"),
                (2, "127.0.0.2"),
                (2, "127.0.0.1"),
            ]
        finally:
            for sock in socks:
                sock.close()


# --- what goes wrong ----------------------------------------------------------------------------

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="holds are not offered elsewhere")


@linux_only
def test_withdraw_of_both_needs_its_udp_part_back() -> None:
    """Somebody has the UDP port: the error says so, and the lease is OFFERED as before."""
    with portlease.lease("both") as lease:
        with equipped(Thief(socket.AF_INET, "127.0.0.1"), socket.SOCK_DGRAM) as sock:
            assert refusal(sock, lease.port) == ""
            for move in (lease.withdraw, lease.hand_over_all):
                with pytest.raises(portlease.PortUnavailableError, match="udp"):
                    move()
                assert lease.state == "OFFERED"
                with server(lease.port):  # still offered
                    pass
        lease.withdraw()
        assert lease.state == "HELD"


@linux_only
def test_a_failed_move_changes_nothing() -> None:
    """No descriptor more or less, and the same row."""
    with portlease.lease(offer=False) as lease:
        lease.step_aside()
        with equipped(Thief(socket.AF_INET, "127.0.0.1"), socket.SOCK_STREAM) as sock:
            assert refusal(sock, lease.port) == ""
            before = open_fds()
            for _ in range(3):
                with pytest.raises(portlease.PortUnavailableError):
                    lease.take_back()
            assert open_fds() == before
        rows = [info.state for info in portlease.leases() if info.port == lease.port]
        assert rows == ["GUARDED"]


@linux_only
def test_take_back_after_a_server_with_connections() -> None:
    """TIME_WAIT is in the way of an exclusive bind: the error says how long; it stays GUARDED."""
    need.capability("inet_diag")
    with portlease.lease(offer=False) as lease:
        lease.step_aside()
        with server(lease.port) as sock, socket.create_connection(("127.0.0.1", lease.port)):
            sock.accept()[0].close()  # first to close: the server's side waits
        with pytest.raises(portlease.PortUnavailableError, match="TIME_WAIT"):
            lease.take_back()
        assert lease.state == "GUARDED"
        with server(lease.port):  # it can start again
            pass


def test_take_back_gives_up_though_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that stops the time, as freezegun does, is told that somebody has the port."""
    with portlease.lease(offer=False) as lease:
        lease.step_aside()
        with server(lease.port), monkeypatch.context() as frozen:
            for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"):
                frozen.setattr(time, name, lambda: 1)
            with pytest.raises(portlease.PortUnavailableError):
                lease.take_back()
        assert lease.state == "GUARDED"


# --- without descriptors ------------------------------------------------------------------------

EMFILE = """
import gc, os, resource, socket, sys, warnings
import portlease

def lowest():
    with open("/dev/null") as file:
        return file.fileno()

class limited:
    "Leave room for so many descriptors more."
    def __init__(self, room):
        self.room = room
    def __enter__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.fill = []
        # Descriptors are given from below; holes in the table would be room unaccounted for.
        while (fd := os.dup(0)) < 63:
            self.fill.append(fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (63, self.limits[1]))
        for fd in self.fill[-self.room:] if self.room else []:
            os.close(fd)
        self.kept = self.fill[:len(self.fill) - self.room]
    def __exit__(self, *_):
        for fd in self.kept:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)

def open_fds():
    return sorted(os.listdir("/proc/self/fd"), key=int)

def attempt(room, function):
    "Whether it worked, or the error of ours that it raised; anything else is raised."
    before = open_fds()
    with limited(room):
        try:
            return function()
        except portlease.ResourceLimitError as error:
            assert error.errno == 24, error
            assert "ulimit" in str(error)
            failed = error
    del failed
    gc.collect()
    assert open_fds() == before, (room, before, open_fds())
    return None
"""


@linux_only
@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
def test_without_descriptors_a_take_fails_whole(kind: str) -> None:
    """With 0, 1, 2 ... free descriptors: ResourceLimitError and nothing open, or a lease.

    The first lease of a process, which reads the machine's rules, in a process for each; the ones
    after it in one.
    """
    for warm in (False, True):
        done = run_python(
            EMFILE
            + f"""
if {warm}:
    portlease.lease({kind!r}).release()
outcomes = []
for room in range(8):
    if not {warm} and os.fork():
        assert os.wait()[1] == 0
        continue
    lease = attempt(room, lambda: portlease.lease({kind!r}))
    outcomes.append(lease is not None)
    if lease:
        lease.release()
    if not {warm}:
        assert lease if room > 5 else (room > 1 or not lease), room
        os._exit(0)
if {warm}:
    assert not outcomes[1] and outcomes[-1], outcomes
    assert outcomes == sorted(outcomes), outcomes
"""
        )
        silent(done)


GO = {"hand_over": "return [sock.close() for sock in lease.hand_over_all()]"}


@linux_only
@pytest.mark.parametrize("move", ["offer", "step_aside", "take_back", "withdraw", "hand_over"])
@pytest.mark.parametrize("kind", ["tcp", "both"])
def test_without_descriptors_a_move_fails_whole(kind: str, move: str) -> None:
    """ResourceLimitError, the same state, the same protection; with more room it works."""
    start = {"offer": "HELD", "step_aside": "OFFERED", "take_back": "GUARDED"}.get(move, "OFFERED")
    done = run_python(
        EMFILE
        + f"""
outcomes = []
for room in range(8):
    lease = portlease.lease({kind!r}, offer=False)
    if {start!r} == "OFFERED":
        lease.offer()
    if {start!r} == "GUARDED":
        lease.step_aside()
    def go():
        {GO.get(move, f"return lease.{move}() or True")}
    worked = attempt(room, go) is not None
    if not worked:
        assert lease.state == {start!r}, lease.state
        with socket.socket() as sock:
            if {start!r} == "OFFERED":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            assert (sock.connect_ex(("127.0.0.1", lease.port)) == 111)
        rows = [info.state for info in portlease.leases()  if info.port == lease.port]
        assert rows == [{start!r}], rows
        go()
    outcomes.append(worked)
    lease.release()
assert not outcomes[0] and outcomes[-1], outcomes
assert outcomes == sorted(outcomes), outcomes
"""
    )
    silent(done)


def test_release_needs_no_descriptor() -> None:
    """The way out is always open."""
    done = run_python(
        EMFILE
        + """
with portlease.lease_many(5, "both") as leases:
    leases[0].step_aside()
    ports = leases.ports
    with limited(0):
        leases.release()
for port in ports:
    with socket.socket() as sock:
        sock.bind(("", port))
"""
    )
    silent(done)


# --- groups -------------------------------------------------------------------------------------


def test_a_group_is_a_tuple_that_releases() -> None:
    """In a with block, on an exception, by release(), twice."""
    with portlease.lease_many(3) as group:
        assert isinstance(group, tuple)
        assert isinstance(group, portlease.LeaseGroup)
        assert group.ports == tuple(lease.port for lease in group) == tuple(map(int, group))
        assert all(type(port) is int for port in group.ports)
        first, *_ = group
    assert first.state == "RELEASED"
    group.release()
    with pytest.raises(ZeroDivisionError), portlease.lease_many(3) as group:
        raise ZeroDivisionError
    assert {lease.state for lease in group} == {"RELEASED"}


def test_one_of_a_group_may_go_early() -> None:
    """Each is a lease of its own."""
    with portlease.lease_many(3) as group:
        group[1].release()
        assert [lease.state for lease in group] == ["OFFERED", "RELEASED", "OFFERED"]


# --- find_unused_port's guards ------------------------------------------------------------------


def test_guarded_ports_are_bounded_and_bindable_at_once() -> None:
    """A thousand of them: each can be bound by anything, and the descriptors stay bounded."""
    done = run_python(
        """
        import os, socket
        from portlease._take import guarded_port
        def fds():
            return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - in a hurry
        counts = []
        for number in range(1000):
            socktype = (socket.SOCK_STREAM, socket.SOCK_DGRAM)[number % 2]
            family = (socket.AF_INET, socket.AF_INET6)[number // 2 % 2]
            port = guarded_port(family, socktype)
            for reuse in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)):
                with socket.socket(family, socktype) as sock:
                    for option in reuse:
                        sock.setsockopt(socket.SOL_SOCKET, option, 1)
                    sock.bind(("", port))
                    if socktype == socket.SOCK_STREAM:
                        sock.listen()
            counts.append(fds())
        assert max(counts) == max(counts[100:200]) <= counts[0] + 2 * 64, (counts[0], max(counts))
        """
    )
    silent(done)


@linux_only
def test_guarded_ports_go_on_where_descriptors_are_few() -> None:
    """With room for some 20 guards, 300 ports are given all the same: the oldest go first."""
    done = run_python(
        """
        import os, resource, socket
        from portlease._take import guarded_port
        guarded_port(socket.AF_INET, socket.SOCK_STREAM)  # loads what it needs
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
        for _ in range(300):
            guarded_port(socket.AF_INET, socket.SOCK_STREAM)
        """
    )
    silent(done)


def test_no_other_lessee_is_given_a_guarded_port() -> None:
    """Of this process or another, by number or by chance; the latest 64 of them."""
    ports = [_take.guarded_port(socket.AF_INET, socket.SOCK_STREAM) for _ in range(64)]
    try:
        assert len(set(ports)) == 64
        with pytest.raises(portlease.PortUnavailableError, match="find_unused_port"):
            portlease.lease(ports=ports)
        done = run_python(
            """
            import sys, portlease
            ports = [int(word) for word in sys.argv[1:]]
            try:
                portlease.lease(ports=ports)
            except portlease.PortUnavailableError:
                pass
            else:
                raise AssertionError
            """,
            *map(str, ports),
        )
        silent(done)
        late = _take.guarded_port(socket.AF_INET, socket.SOCK_STREAM)  # the first one's guard goes
        assert late not in ports
        with portlease.lease(ports=[ports[0]]):
            pass
    finally:
        _take._guarded.release()
    with portlease.lease_many(64, ports=ports):
        pass


def test_a_contested_guarded_port_is_another() -> None:
    """Of given ports: a taker that is stuck on the number drawn first costs a draw, no error."""
    if sys.platform != "linux":
        pytest.skip("only Linux has a board")
    rows = contextlib.ExitStack()
    drawn: list[int] = []
    hold = _take._hold

    def contested(port: int, *args: Any) -> Any:  # noqa: ANN401 - as the original
        if not drawn:
            rows.enter_context(row(port, label="stuck"))
        drawn.append(port)
        return hold(port, *args)

    with portlease.lease_many(2) as group:
        free = group.ports
    with rows, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lease, "_STUCK_S", 0.02)
        patch.setattr(_take, "_hold", contested)
        port = _take.guarded("tcp", "contested", free)
    _take._guarded.release()
    assert port == drawn[-1] != drawn[0]


# --- an interrupt -------------------------------------------------------------------------------

HANDED_OVER_UNDER_FIRE = """
import gc, os, signal, warnings
import portlease
class Interrupt(BaseException): pass
def interrupt(*_):
    raise Interrupt
signal.signal(signal.SIGALRM, interrupt)
warnings.simplefilter("ignore")
def fds():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
def work():
    with portlease.lease("both", offer=False) as lease:
        for sock in lease.hand_over_all():
            sock.close()
work()
before, hits, delay_s = fds(), 0, 20e-6
for _ in range(1500):
    try:
        signal.setitimer(signal.ITIMER_REAL, delay_s)
        work()
        signal.setitimer(signal.ITIMER_REAL, 0)
        delay_s = 20e-6
    except Interrupt:
        hits += 1
        delay_s += 1.1e-6
signal.setitimer(signal.ITIMER_REAL, 0)
assert fds() == before, (fds(), before)
assert not [info for info in portlease.leases() if info.pid == os.getpid()]
print(hits)
"""


def test_an_interrupt_in_hand_over_loses_no_descriptor() -> None:
    """At no bytecode does the socket belong to nobody."""
    need.capability("proc")
    done = run_python(HANDED_OVER_UNDER_FIRE, options=[])
    assert done.returncode == 0, done.stderr[-600:]
    assert int(done.stdout) > 150, "hardly ever interrupted"
