"""What each state of a lease keeps out and lets in, tried with every bind there is.

The control of each is GUARDED or RELEASED, where the same thieves all get in: a thief who never
gets anything proves nothing.
"""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import contextlib
import errno
import socket
import sys
from typing import TYPE_CHECKING

import pytest

import portlease
from _need import in_new_netns, need
from _thieves import Thief, equipped, expected, loot, refusal, server, steal, thieves

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("the whole promise is Linux's; see docs/promise.md", allow_module_level=True)

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
# Those who set both options are a chapter of their own, at the end.
SIMPLE = [thief for thief in thieves(TCP) if not (thief.reuseaddr and thief.reuseport)]
BOTH_OPTIONS = [thief for thief in thieves(TCP) if thief.reuseaddr and thief.reuseport]


def everybody(_: Thief) -> bool:
    """Every thief is refused."""
    return True


def no_one(_: Thief) -> bool:
    """Every thief gets in."""
    return False


def without_reuseaddr(thief: Thief) -> bool:
    """Only those are refused who do not set SO_REUSEADDR."""
    return not thief.reuseaddr


OFFERED = expected(TCP, refused=without_reuseaddr, crew=SIMPLE)

# --- HELD ---------------------------------------------------------------------------------------


def test_held_tcp_keeps_everybody_out() -> None:
    """No bind of any kind, on any address, gets into a port that is HELD."""
    with portlease.lease(offer=False) as lease:
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


def test_held_udp_keeps_everybody_out() -> None:
    """The same for UDP."""
    with portlease.lease("udp", offer=False) as lease:
        assert loot(UDP, lease.port) == expected(UDP, refused=everybody)


def test_held_both_keeps_everybody_out() -> None:
    """A lease of both transports holds both."""
    with portlease.lease("both", offer=False) as lease:
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)
        assert loot(UDP, lease.port) == expected(UDP, refused=everybody)


def test_a_lease_of_one_transport_leaves_the_other_alone() -> None:
    """TCP port P and UDP port P are two ports."""
    with portlease.lease(offer=False) as tcp, portlease.lease("udp", ports=[tcp.port]) as udp:
        assert udp.port == tcp.port
        assert loot(UDP, tcp.port) == expected(UDP, refused=no_one)
        assert loot(TCP, tcp.port) == expected(TCP, refused=everybody)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_hold_on_one_address_protects_that_address(kind: str) -> None:
    """On a given host, wildcards and that address are refused; other addresses are not held."""
    need.capability("ipv6")
    socktype = TCP if kind == "tcp" else UDP
    with portlease.lease("tcp" if kind == "tcp" else "udp", host="127.0.0.1", offer=False) as lease:
        covered = {"127.0.0.1", "0.0.0.0"}
        assert loot(socktype, lease.port) == expected(
            socktype,
            refused=lambda thief: (
                thief.host in covered or (thief.host == "::" and not thief.v6only)
            ),
        )


@pytest.mark.parametrize(
    ("family", "free"),
    [
        (socket.AF_INET, lambda thief: thief.v6only or thief.host == "::1"),
        (socket.AF_INET6, lambda thief: thief.family == socket.AF_INET),
    ],
)
def test_a_hold_in_one_family_protects_that_family(family: int, free: object) -> None:
    """With family= the other family's addresses stay free, except to a dual-stack bind."""
    need.capability("ipv6")
    assert callable(free)
    with portlease.lease(family=family, offer=False) as lease:
        assert loot(TCP, lease.port) == expected(TCP, refused=lambda thief: not free(thief))


def test_a_hold_beside_a_server_on_another_address_stays_exclusive() -> None:
    """A reusable listener on 127.0.0.2 does not make the hold on 127.0.0.1 reusable.

    The kernel keeps one bind bucket a port for all addresses, and a flag for its reuse in it.
    """
    with portlease.lease(host="127.0.0.2") as place, server(place.port, "127.0.0.2"):
        place.release()
        with portlease.lease(host="127.0.0.1", ports=[place.port], offer=False) as lease:
            for reuseaddr in (False, True):
                thief = Thief(socket.AF_INET, "127.0.0.1", reuseaddr=reuseaddr)
                with equipped(thief, TCP) as sock:
                    assert refusal(sock, lease.port) == "EADDRINUSE"


def test_a_withdrawn_lease_is_held_again() -> None:
    """After withdraw() nobody gets in any more, with SO_REUSEADDR neither."""
    with portlease.lease() as lease:
        lease.withdraw()
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


def test_a_client_of_a_held_port_is_refused_and_never_meets_itself() -> None:
    """A client that polls a held port gets ECONNREFUSED each time, also from that very number.

    On an ephemeral port that nobody holds it connects to itself sooner or later (TCP's
    simultaneous open), and then the server it waits for finds the port taken. In a namespace where
    one port is left, the first poll does; held, none does.
    """
    done = in_new_netns(
        """
        import errno, socket, portlease
        PORT = 40001
        def poll():
            for _ in range(200):
                with socket.socket() as client:
                    yield client.connect_ex(("127.0.0.1", PORT))
        for offer in (False, True):
            with portlease.lease(ports=[PORT], offer=offer):
                assert set(poll()) <= {errno.EADDRNOTAVAIL, errno.ECONNREFUSED}
                with socket.socket() as client:  # with a port to come from
                    client.bind(("127.0.0.1", 2000))
                    assert client.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED
        print("control:", set(poll()))
        """,
        ephemeral=(40001, 40001),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("control: {0"), "the control never connected to itself"


def test_a_client_of_an_unheld_port_connects_to_itself() -> None:
    """The control: where one ephemeral port is left and nobody holds it, a client gets it."""
    done = in_new_netns(
        """
        import socket
        with socket.socket() as client:
            client.connect(("127.0.0.1", 40001))
            assert client.getsockname() == client.getpeername() == ("127.0.0.1", 40001)
        """,
        ephemeral=(40001, 40001),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_limit_tcp_repair_binds_beside_a_hold_and_cannot_listen() -> None:
    """A limit: with CAP_NET_ADMIN, a socket in repair mode (CRIU's) binds wherever it likes.

    Nothing can be served from there: listen() asks the kernel's table again.
    """
    need.capability("root")
    with portlease.lease(offer=False) as lease, socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR, <linux/tcp.h>
        except PermissionError:
            need.missing("CAP_NET_ADMIN", "root without CAP_NET_ADMIN")
        assert refusal(sock, lease.port) == ""
        sock.setsockopt(socket.IPPROTO_TCP, 19, 0)
        with pytest.raises(OSError, match="in use"):
            sock.listen()


# --- OFFERED ------------------------------------------------------------------------------------


def test_offered_lets_in_only_reuseaddr() -> None:
    """Beside an offered hold only a bind with SO_REUSEADDR passes."""
    with portlease.lease() as lease:
        assert lease.state == "OFFERED"
        assert loot(TCP, lease.port, SIMPLE) == OFFERED


def test_offered_both_guards_its_udp_part() -> None:
    """kind="both": TCP is offered, UDP is free to bind (and guarded against leases)."""
    with portlease.lease("both") as lease:
        assert lease.state == "OFFERED"
        assert loot(TCP, lease.port, SIMPLE) == OFFERED
        assert loot(UDP, lease.port) == expected(UDP, refused=no_one)
        with pytest.raises(portlease.PortUnavailableError):
            portlease.lease("udp", ports=[lease.port])


def test_once_a_server_listens_nobody_else_gets_in() -> None:
    """Beside hold and listening server, no bind passes any more, with SO_REUSEADDR neither."""
    with portlease.lease() as lease, server(lease.port, "0.0.0.0"):
        told = loot(TCP, lease.port)
        on_ipv6_alone = {name for name, said in told.items() if not said}
        assert all(name.startswith(("::1", ":: v6only")) for name in on_ipv6_alone), told


def test_once_a_dual_stack_server_listens_nobody_else_gets_in() -> None:
    """The same, with a server on every address."""
    need.capability("ipv6")
    with portlease.lease() as lease:
        thief = Thief(socket.AF_INET6, "::", reuseaddr=True)
        with equipped(thief, TCP) as sock:
            assert refusal(sock, lease.port, "::") == ""
            sock.listen()
            assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


def test_of_two_servers_beside_the_hold_one_listens() -> None:
    """Two may bind before either listens; then the second listen() fails."""
    thief = Thief(socket.AF_INET, "127.0.0.1", reuseaddr=True)
    with portlease.lease() as lease, equipped(thief, TCP) as one, equipped(thief, TCP) as two:
        assert refusal(one, lease.port) == ""
        assert refusal(two, lease.port) == ""
        one.listen()
        with pytest.raises(OSError, match="in use") as caught:
            two.listen()
        assert caught.value.errno == errno.EADDRINUSE


def test_a_server_stops_and_starts_again_on_its_port() -> None:
    """The lease outlives the server, and TIME_WAIT does not keep the next one from the port."""
    with portlease.lease() as lease:
        for _ in range(3):
            with server(lease.port) as one, socket.create_connection(("127.0.0.1", lease.port)):
                # The side that closes first is left in TIME_WAIT: the server's.
                one.accept()[0].close()
            assert loot(TCP, lease.port, SIMPLE) == OFFERED


def test_a_second_lease_of_an_offered_port_is_refused() -> None:
    """Also of one on a single address, and of one that is to be offered itself."""
    with portlease.lease() as lease:
        for host in (None, "127.0.0.1"):
            with pytest.raises(portlease.PortUnavailableError):
                portlease.lease(ports=[lease.port], host=host)


# --- GUARDED ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "both"])
def test_guarded_tcp_lets_every_bind_in(kind: str) -> None:
    """Whatever a server sets or does not set, a guarded port is free for it."""
    with portlease.lease("tcp" if kind == "tcp" else "both", offer=False) as lease:
        lease.step_aside()
        assert loot(TCP, lease.port) == expected(TCP, refused=no_one)


@pytest.mark.parametrize("kind", ["udp", "both"])
def test_guarded_udp_lets_every_bind_in(kind: str) -> None:
    """The same for UDP."""
    with portlease.lease("udp" if kind == "udp" else "both", offer=False) as lease:
        lease.step_aside()
        assert loot(UDP, lease.port) == expected(UDP, refused=no_one)


@pytest.fixture(params=["tcp", "udp"])
def guarded(request: pytest.FixtureRequest) -> Iterator[portlease.Lease]:
    """A lease that has stepped aside."""
    with portlease.lease(request.param, offer=False) as lease:
        lease.step_aside()
        yield lease


@pytest.mark.parametrize("host", [None, "127.0.0.1", ["127.0.0.1", "127.0.0.2"]])
def test_no_lease_gets_a_guarded_port(guarded: portlease.Lease, host: list[str] | None) -> None:
    """Nobody sits on it, and yet no other lease is given it."""
    for kind in (guarded.kind, "both"):
        with pytest.raises(portlease.PortUnavailableError) as caught:
            portlease.lease("both" if kind == "both" else guarded.kind, ports=[guarded.port])
        assert caught.value.port == guarded.port
        with pytest.raises(portlease.PortUnavailableError):
            portlease.lease(guarded.kind, ports=[guarded.port], host=host)


def test_take_back_names_who_has_the_port(guarded: portlease.Lease) -> None:
    """take_back() fails while somebody is there, says who, leaves it GUARDED; then it works."""
    kind = TCP if guarded.kind == "tcp" else UDP
    with equipped(Thief(socket.AF_INET, "127.0.0.1"), kind) as sock:
        assert refusal(sock, guarded.port) == ""
        if kind == TCP:
            sock.listen()
        with pytest.raises(portlease.PortUnavailableError, match="pid") as caught:
            guarded.take_back()
        assert caught.value.port == guarded.port
        assert isinstance(caught.value.__cause__, OSError)
        assert guarded.state == "GUARDED"
    guarded.take_back()
    assert guarded.state == "HELD"
    assert loot(kind, guarded.port) == expected(kind, refused=everybody)


def test_step_aside_of_one_address_leaves_the_others_held() -> None:
    """Two leases of one number on two addresses: one guard for both, and the second is told so."""
    with (
        portlease.lease(host="127.0.0.1", offer=False) as one,
        portlease.lease(host="127.0.0.2", offer=False, ports=[one.port]) as other,
    ):
        one.step_aside()
        with pytest.raises(portlease.PortUnavailableError, match="guarded"):
            other.step_aside()
        assert other.state == "HELD"
        with equipped(Thief(socket.AF_INET, "127.0.0.2"), TCP) as sock:
            assert refusal(sock, other.port, "127.0.0.2") == "EADDRINUSE"
        one.release()
        other.step_aside()
        assert other.state == "GUARDED"


# --- HANDED_OVER --------------------------------------------------------------------------------


def test_a_listening_socket_accepts_and_keeps_everybody_out() -> None:
    """listen() gives the hold itself: clients connect at once, over IPv4 and IPv6."""
    with portlease.lease() as lease, lease.listen() as sock:
        for host in ("127.0.0.1", *(["::1"] if sock.family == socket.AF_INET6 else [])):
            with socket.create_connection((host, lease.port)) as client:
                accepted, address = sock.accept()
                with accepted:
                    assert address[1] == client.getsockname()[1]
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


def test_a_socket_handed_over_keeps_everybody_out_before_it_listens() -> None:
    """hand_over() takes the offer back first: SO_REUSEADDR gets nobody in, whoever is quick."""
    with portlease.lease() as lease, lease.hand_over() as sock:
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)
        sock.listen()
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


def test_the_socket_and_not_the_lease_keeps_a_port_that_was_handed_over() -> None:
    """release() leaves the socket alone; closing the socket frees the port."""
    lease = portlease.lease()
    with lease.listen():
        lease.release()
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)
    assert loot(TCP, lease.port) == expected(TCP, refused=no_one)


def test_listen_is_refused_beside_a_server_that_listens() -> None:
    """Who was let in first and listens keeps the port; the lease stays OFFERED and open."""
    with portlease.lease() as lease:
        with server(lease.port), pytest.raises(portlease.PortUnavailableError, match="beside"):
            lease.listen()
        assert lease.state == "OFFERED"
        assert loot(TCP, lease.port, SIMPLE) == OFFERED


def test_listen_takes_the_port_from_a_server_that_is_about_to_listen() -> None:
    """A server that has only bound beside the hold cannot listen once the hold does."""
    thief = Thief(socket.AF_INET, "127.0.0.1", reuseaddr=True)
    with portlease.lease() as lease, equipped(thief, TCP) as late:
        assert refusal(late, lease.port) == ""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lease.listen())
            except portlease.PortUnavailableError:
                assert lease.state == "OFFERED"  # bound is enough to refuse us
            else:
                with pytest.raises(OSError, match="in use"):
                    late.listen()


# --- RELEASED -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
@pytest.mark.parametrize("offer", [True, False])
def test_a_released_port_is_free(kind: str, offer: bool) -> None:  # noqa: FBT001
    """After the block nothing is left in the kernel's table: everybody gets in."""
    chosen = {"tcp": "tcp", "udp": "udp", "both": "both"}[kind]
    with portlease.lease(chosen, offer=offer) as lease:  # type: ignore[arg-type]
        pass
    for socktype in (TCP, UDP):
        assert loot(socktype, lease.port) == expected(socktype, refused=no_one)


def test_a_released_port_can_be_leased_again_at_once() -> None:
    """Also 200 times in a row: nothing of a lease lingers."""
    with portlease.lease() as lease:
        port = lease.port
    for _ in range(200):
        with portlease.lease(ports=[port]) as again:
            assert again.port == port


# --- SO_REUSEADDR and SO_REUSEPORT together -----------------------------------------------------
#
# The kernel's bind bucket remembers of the last socket with SO_REUSEPORT that "more of the kind may
# come": inet_csk_update_fastreuse() and sk_reuseport_match(), net/ipv4/inet_connection_sock.c. From
# then on it lets a bind with SO_REUSEPORT by the same user in without looking at who is there.


@pytest.mark.parametrize("guest", BOTH_OPTIONS, ids=str)
def test_after_a_reuseport_server_a_withdrawn_lease_is_held(guest: Thief) -> None:
    """A server with both options came and went; after withdraw() nobody gets in."""
    with portlease.lease() as lease:
        assert steal(guest, TCP, lease.port) == ""
        lease.withdraw()
        assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


@pytest.mark.parametrize("guest", BOTH_OPTIONS, ids=str)
def test_after_a_reuseport_server_a_socket_handed_over_is_alone(guest: Thief) -> None:
    """The same for hand_over() and listen()."""
    for action in ("hand_over", "listen"):
        with portlease.lease() as lease:
            assert steal(guest, TCP, lease.port) == ""
            with getattr(lease, action)():
                assert loot(TCP, lease.port) == expected(TCP, refused=everybody)


def test_a_reuseport_server_can_stop_and_start_again() -> None:
    """And while it listens, one without SO_REUSEPORT is refused on its address."""
    guest = Thief(socket.AF_INET, "127.0.0.1", reuseaddr=True, reuseport=True)
    with portlease.lease() as lease:
        for _ in range(3):
            with equipped(guest, TCP) as sock:
                assert refusal(sock, lease.port) == ""
                sock.listen()
                plain = [thief for thief in SIMPLE if thief.host == guest.host]
                plain = [thief for thief in plain if not thief.reuseport]
                assert set(loot(TCP, lease.port, plain).values()) == {"EADDRINUSE"}
