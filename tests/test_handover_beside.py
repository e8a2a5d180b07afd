"""A second socket beside the hold, for a server to inherit: nobody else gets in, then or after."""

# ruff: noqa: S104 - everywhere on purpose, and nothing serves there
from __future__ import annotations

import contextlib
import socket
import sys

import pytest

import portlease
from _need import need
from _processes import HANG_S
from _thieves import Thief, expected, loot, run_python, server, silent, steal, thieves

if sys.platform != "linux":
    pytest.skip("elsewhere no hold can be shared", allow_module_level=True)

from portlease._platform import _linux, _linux_diag
from portlease._server._handed import _backlog_of

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
ADDRESSES = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"]
# A deaf hold does not keep out who is bound to one interface: a chapter of its own.
WITHOUT_DEVICE = [thief for thief in thieves(UDP) if not thief.device]


def everybody(_: Thief) -> bool:
    """Every thief is refused."""
    return True


def reuse(sock: object) -> int:
    """SO_REUSEADDR of a hold or a socket."""
    assert hasattr(sock, "getsockopt")
    return int(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))


def holds(lease: portlease.Lease) -> list[socket.SocketType]:
    """The lease's own sockets."""
    return [hold for _, hold in lease._grip.holds]


@pytest.fixture(params=ADDRESSES)
def address(request: pytest.FixtureRequest) -> str:
    """Each address that a server may bind."""
    if ":" in request.param:
        need.capability("ipv6")
    return str(request.param)


def client_address(address: str) -> str:
    """Where a client reaches a server on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)


# --- TCP ----------------------------------------------------------------------------------------


def test_tcp_listens_and_clients_may_connect_at_once(address: str) -> None:
    """It is bound to that address alone, and the kernel queues clients for it."""
    with (
        portlease.lease(offer=False) as lease,
        lease._beside(address, backlog=7) as made,
        socket.create_connection((client_address(address), lease.port), timeout=HANG_S) as client,
    ):
        assert made.getsockname()[:2] == (address, lease.port)
        assert (made.gettimeout(), made.get_inheritable()) == (None, False)
        (entry,) = _linux_diag.sockets(lease.port, "tcp", states=["LISTEN"])
        assert (entry.address, _backlog_of(made)) == (address, 7)
        accepted, _ = made.accept()
        with accepted:
            assert accepted.getpeername() == client.getsockname()


def test_tcp_nobody_gets_in_beside_it_or_after_it(address: str) -> None:
    """Hold and socket keep out every bind there is; so does the hold when the socket has gone."""
    with portlease.lease(offer=False) as lease:
        for _ in range(2):
            with lease._beside(address, backlog=None):
                assert lease.state == "HELD"
                assert loot(TCP, lease.port) == expected(TCP, refused=everybody)
            assert loot(TCP, lease.port) == expected(TCP, refused=everybody)
        assert [reuse(hold) for hold in holds(lease)] == [0]


def test_tcp_beside_an_offered_lease() -> None:
    """It stays offered: once the socket has gone, a server with SO_REUSEADDR gets in again."""
    with portlease.lease() as lease:
        with lease._beside("127.0.0.1", backlog=None):
            assert lease.state == "OFFERED"
            assert steal(Thief(socket.AF_INET, "127.0.0.1", reuseaddr=True), TCP, lease.port)
        with server(lease.port):
            assert [reuse(hold) for hold in holds(lease)] == [1]


def test_tcp_refused_where_a_server_listens() -> None:
    """It says who is there; the lease is as it was, and can be used once that has gone."""
    with portlease.lease() as lease:
        with server(lease.port), pytest.raises(portlease.PortUnavailableError) as caught:
            lease._beside("127.0.0.1", backlog=None)
        assert caught.value.port == lease.port
        assert isinstance(caught.value.__cause__, OSError)
        lease._beside("127.0.0.1", backlog=None).close()
        assert lease.state == "OFFERED"


def test_tcp_a_refused_one_shuts_the_hold_again() -> None:
    """A HELD lease is as exclusive after a failure as before: here an address that is nobody's."""
    with portlease.lease(offer=False) as lease:
        with pytest.raises(portlease.UsageError, match=r"192\.0\.2\.1"):
            lease._beside("192.0.2.1", backlog=None)
        assert [reuse(hold) for hold in holds(lease)] == [0]
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


def test_tcp_connections_in_time_wait_are_not_in_the_way() -> None:
    """A server that closed its connections can be started again at once."""
    with portlease.lease(offer=False) as lease:
        for _ in range(3):
            with (
                lease._beside("127.0.0.1", backlog=None) as made,
                socket.create_connection(("127.0.0.1", lease.port), timeout=HANG_S) as client,
            ):
                accepted, _ = made.accept()
                accepted.close()
                assert client.recv(1) == b""
        states = {entry.state for entry in _linux_diag.sockets(lease.port, "tcp")}
        assert "TIME_WAIT" in states, "the control: nothing was in the way"


def test_tcp_a_server_may_listen_again() -> None:
    """listen(2) on the inherited socket changes its backlog, with the hold shut."""
    with portlease.lease(offer=False) as lease, lease._beside("127.0.0.1", backlog=7) as made:
        made.listen(9)
        assert _backlog_of(made) == 9


def test_tcp_ipv6_alone() -> None:
    """With v6only a socket on :: leaves IPv4 to another."""
    need.capability("ipv6")
    with (
        portlease.lease(offer=False) as lease,
        lease._beside("::", backlog=None, v6only=True),
        lease._beside("0.0.0.0", backlog=None),
    ):
        states = [e.address for e in _linux_diag.sockets(lease.port, "tcp", states=["LISTEN"])]
        assert sorted(states) == ["0.0.0.0", "::"]


def test_a_lease_on_several_addresses() -> None:
    """A socket for each, beside the holds of all."""
    hosts = ["127.0.0.1", "127.0.0.2"]
    with portlease.lease(host=hosts, offer=False) as lease, contextlib.ExitStack() as stack:
        for host in hosts:
            stack.enter_context(lease._beside(host, backlog=None))
        for host in hosts:
            for flag in (False, True):
                thief = Thief(socket.AF_INET, host, reuseaddr=flag)
                assert steal(thief, TCP, lease.port) == "EADDRINUSE"


THIEVES_AT_WORK = """
import os, socket, sys, portlease
from _thieves import Thief, meanwhile, steal

kind = {{"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}}[sys.argv[1]]
if sys.argv[2] == "user":
    "localhost".encode("idna")  # loaded while the Python library can be read
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
def thief(**options):
    def storm():
        for host in ("127.0.0.1", "0.0.0.0"):
            said = steal(Thief(socket.AF_INET, host, **options), kind, lease.port)
            assert said == "EADDRINUSE", said or "got in"
    return storm

with portlease.lease(sys.argv[1], offer=False) as lease:
    with meanwhile(thief(), thief(**{{option: True for option in sys.argv[3:]}})):
        {work}
"""
AT_WORK = """
        for _ in range(500):
            with lease._beside("127.0.0.1", backlog=None):
                pass
"""
CONTROL = """
        lease.step_aside()
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
"""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tcp", []),
        ("tcp", ["reuseport"]),
        ("udp", []),
        ("udp", ["reuseaddr"]),
    ],
)
def test_thieves_in_a_tight_loop_never_get_in(kind: str, options: list[str]) -> None:
    """Two of them bind this very number over and over while 500 sockets come and go.

    As an ordinary user, before whom there is a door for those of the other kind.
    """
    need.capability("other_user")
    assert not silent(
        run_python(THIEVES_AT_WORK.format(work=AT_WORK.strip()), kind, "user", *options)
    )


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("options", [["reuseaddr"], ["reuseport"], ["reuseaddr", "reuseport"]])
def test_with_cap_net_raw_no_option_helps_a_thief(kind: str, options: list[str]) -> None:
    """Where portlease may unbind a socket from an interface, there is no door for them at all."""
    need.capability("root")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, 62, 1)  # SO_BINDTOIFINDEX
        try:
            sock.setsockopt(socket.SOL_SOCKET, 62, 0)
        except PermissionError:
            need.missing("CAP_NET_RAW", "root without CAP_NET_RAW")
    assert not silent(
        run_python(THIEVES_AT_WORK.format(work=AT_WORK.strip()), kind, "root", *options)
    )


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_control_the_same_thieves_get_in_where_nothing_is_held(kind: str) -> None:
    """Beside a lease that has stepped aside one of them succeeds, and says so."""
    done = run_python(THIEVES_AT_WORK.format(work=CONTROL.strip()), kind, "root")
    assert "AssertionError: got in" in done.stderr


# --- UDP ----------------------------------------------------------------------------------------


def test_udp_every_datagram_goes_to_the_server(address: str) -> None:
    """Never to the hold, on whatever address either is; and the hold keeps everybody out."""
    wanted = client_address(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for host in (None, wanted):
        with (
            portlease.lease("udp", host=host, offer=False) as lease,
            lease._beside(address, backlog=None) as made,
            socket.socket(family, UDP) as client,
        ):
            made.settimeout(HANG_S)
            for number in range(20):
                client.sendto(b"%d" % number, (wanted, lease.port))
                assert made.recv(9) == b"%d" % number
            assert reuse(made) == 0
            for hold in holds(lease):
                assert reuse(hold) == 0
                with pytest.raises(BlockingIOError):
                    hold.recv(1, socket.MSG_DONTWAIT)


def test_udp_nobody_gets_in_beside_it_or_after_it(address: str) -> None:
    """Over and over; the hold stays deaf, and holds all the same."""
    with portlease.lease("udp", offer=False) as lease:
        for _ in range(2):
            with lease._beside(address, backlog=None):
                said = loot(UDP, lease.port, WITHOUT_DEVICE)
                assert said == expected(UDP, refused=everybody, crew=WITHOUT_DEVICE)
            said = loot(UDP, lease.port, WITHOUT_DEVICE)
            assert said == expected(UDP, refused=everybody, crew=WITHOUT_DEVICE)


def test_udp_limit_a_deaf_hold_does_not_see_who_is_bound_to_an_interface() -> None:
    """A limit: with SO_BINDTODEVICE one gets in beside it, but not beside the server."""
    thief = Thief(socket.AF_INET, "0.0.0.0", device="lo")
    with portlease.lease("udp", offer=False) as lease:
        with lease._beside("0.0.0.0", backlog=None):
            assert steal(thief, UDP, lease.port) == "EADDRINUSE"
        assert steal(thief, UDP, lease.port) == ""
        lease._hear()
        assert steal(thief, UDP, lease.port) == "EADDRINUSE"


def test_udp_a_deaf_hold_is_never_handed_over() -> None:
    """hand_over() replaces it by one that receives, whoever deafened it."""
    for deafen in (_by_us, _by_another_copy):
        with portlease.lease("udp", offer=False) as lease:
            deafen(lease)
            assert _linux.is_deaf(holds(lease)[0])
            with lease.hand_over() as sock, socket.socket(socket.AF_INET, UDP) as client:
                sock.settimeout(HANG_S)
                client.sendto(b"x", ("127.0.0.1", lease.port))
                assert sock.recv(9) == b"x"
                assert loot(UDP, lease.port) == expected(UDP, refused=everybody)


def _by_us(lease: portlease.Lease) -> None:
    lease._deafen()


def _by_another_copy(lease: portlease.Lease) -> None:
    """As a broker does, which was given a copy."""
    hold = holds(lease)[0]
    with socket.socket(fileno=socket.dup(hold.fileno())) as copy:
        copy.setsockopt(socket.SOL_SOCKET, 62, 0x7FFFFFFF)  # SO_BINDTOIFINDEX


def test_udp_no_fresh_hold_beside_a_server_that_is_still_there() -> None:
    """_hear() and hand_over() say who it is, and leave the lease as it was."""
    with portlease.lease("udp", offer=False) as lease:
        with lease._beside("127.0.0.1", backlog=None):
            for call in (lease._hear, lease.hand_over):
                with pytest.raises(portlease.PortUnavailableError, match="bound beside"):
                    call()
        assert lease.state == "HELD"
        lease._hear()
        assert not _linux.is_deaf(holds(lease)[0])
        assert loot(UDP, lease.port) == expected(UDP, refused=everybody)


def test_udp_taken_back_it_hears() -> None:
    """What steps aside comes back by a fresh bind."""
    with portlease.lease("udp", offer=False) as lease:
        lease._deafen()
        lease.step_aside()
        lease.take_back()
        assert not _linux.is_deaf(holds(lease)[0])
        lease._hear()  # there is nothing to do


# --- both, and neither --------------------------------------------------------------------------


def test_both_transports() -> None:
    """One of each, by name; the TCP hold is never deafened."""
    with (
        portlease.lease("both", offer=False) as lease,
        lease._beside("127.0.0.1", backlog=None, transport="tcp") as tcp,
        lease._beside("127.0.0.1", backlog=None, transport="udp") as udp,
    ):
        assert (tcp.type, udp.type) == (TCP, UDP)
        assert tcp.getsockname() == udp.getsockname()
        assert [_linux.is_deaf(hold) for hold in holds(lease)] == [False, True]


def test_a_lease_that_holds_nothing_cannot() -> None:
    """It says what it is, and what would help."""
    with portlease.lease() as lease:
        lease.step_aside()
        with pytest.raises(portlease.LeaseStateError, match="GUARDED") as caught:
            lease._beside("127.0.0.1", backlog=None)
        assert caught.value.state == "GUARDED"
        assert "take_back()" in caught.value.message
    with portlease.lease("both") as lease, pytest.raises(portlease.LeaseStateError, match="udp"):
        lease._beside("127.0.0.1", backlog=None, transport="udp")
    with pytest.raises(portlease.LeaseStateError, match="RELEASED"):
        lease._beside("127.0.0.1", backlog=None)


def test_a_name_is_bound_at_its_first_address() -> None:
    """An unknown one is refused."""
    with portlease.lease(offer=False) as lease:
        with lease._beside("localhost", backlog=None) as made:
            assert made.getsockname()[0] in {"127.0.0.1", "::1"}
        with pytest.raises(portlease.UsageError, match="not known here"):
            lease._beside("no.such.host.invalid", backlog=None)


def test_without_a_descriptor_it_fails_whole() -> None:
    """The limit is named, and the hold is shut."""
    script = """
    import resource, portlease
    with portlease.lease(offer=False) as lease:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            lease._beside("127.0.0.1", backlog=None)
        except portlease.ResourceLimitError:
            print("told")
        (_, hold), = lease._grip.holds
        assert not hold.getsockopt(1, 2)
        assert not hold.getsockopt(1, 62)
    """
    assert silent(run_python(script)) == "told\n"


INTERRUPTED = """
import gc, os, signal, socket, sys, warnings
import portlease
class Interrupt(BaseException): pass
def interrupt(*_):
    raise Interrupt
signal.signal(signal.SIGALRM, interrupt)
warnings.simplefilter("ignore")
def fds():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
hits, delay_s = 0, 5e-6
with portlease.lease("both", offer=False) as lease:
    for transport in ("tcp", "udp"):
        lease._beside("127.0.0.1", backlog=None, transport=transport).close()
    before = fds()
    for number in range(1500):
        transport = "tcp" if number % 2 else "udp"
        try:
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            lease._beside("127.0.0.1", backlog=None, transport=transport).close()
            signal.setitimer(signal.ITIMER_REAL, 0)
            delay_s = 5e-6
        except Interrupt:
            hits += 1
            delay_s += 1.3e-6
        for _, hold in lease._grip.holds:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                assert not hold.getsockopt(socket.SOL_SOCKET, option), number
            deaf = bool(hold.getsockopt(socket.SOL_SOCKET, 62))
            assert deaf == (hold.type == socket.SOCK_DGRAM), number
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert fds() == before, (fds(), before)
print(hits)
"""


def test_an_interrupt_leaves_the_hold_shut_and_nothing_open() -> None:
    """At any bytecode of it."""
    need.capability("proc")
    done = run_python(INTERRUPTED, options=[])
    assert done.returncode == 0, done.stderr[-600:]
    assert int(done.stdout) > 150, "hardly ever interrupted"
