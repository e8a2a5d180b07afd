"""A server in the process that has the lease binds without SO_REUSEADDR, and nobody else does."""

from __future__ import annotations

import errno
import http.server
import multiprocessing
import os
import socket
import socketserver
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import portlease
from portlease import _own_binds
from portlease._own_binds import let_own_binds_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="holds can be offered on Linux alone"
)

_BIND_BARE = """\
import socket, sys
with socket.socket() as sock:
    try:
        sock.bind(("127.0.0.1", int(sys.argv[1])))
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    let_own_binds_in()
    let_own_binds_in()
    yield
    _own_binds._Hook.active = False  # other tests of this process mean what they bind


def _reuse(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_the_stock_tcp_server_serves_on_an_offered_port() -> None:
    """socketserver.TCPServer does not set SO_REUSEADDR, and takes the port as a plain int."""
    with (
        portlease.lease() as lease,
        socketserver.TCPServer(
            ("127.0.0.1", lease.port), socketserver.StreamRequestHandler
        ) as server,
    ):
        assert not server.allow_reuse_address
        assert server.server_address == ("127.0.0.1", lease.port)
        with socket.create_connection(("127.0.0.1", lease.port)):
            pass
        assert str(lease.state) == "OFFERED"


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, ""),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
def test_a_bare_bind_and_listen(family: int, address: str) -> None:
    """Every family and address that the lease covers."""
    with portlease.lease() as lease, socket.socket(family) as sock:
        sock.bind((address, lease.port))
        sock.listen()
        assert sock.getsockname()[1] == lease.port


def test_a_server_that_answers() -> None:
    """http.server without allow_reuse_address, in a thread, twice on one lease."""

    class Plain(http.server.HTTPServer):
        allow_reuse_address = False

    with portlease.lease() as lease:
        for _ in range(2):
            with Plain(("127.0.0.1", lease.port), http.server.BaseHTTPRequestHandler) as server:
                thread = threading.Thread(target=server.handle_request)
                thread.start()
                with socket.create_connection(("127.0.0.1", lease.port)) as client:
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    assert client.recv(4096).startswith(b"HTTP/1.0 501")
                thread.join()


def test_a_second_server_is_refused_as_ever() -> None:
    """Beside a listener of one's own nobody gets in, the owner neither."""
    with portlease.lease() as lease, socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", lease.port))
        one.listen()
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            two.bind(("127.0.0.1", lease.port))


def test_held_means_held() -> None:
    """Of offer=False the owner is refused too: it has said so."""
    with portlease.lease(offer=False) as lease, socket.socket() as sock:
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            sock.bind(("127.0.0.1", lease.port))
        assert not _reuse(sock)


def test_no_lease_is_let_in_beside_another() -> None:
    """The hold of a second lease is bound as strictly as ever, in this process too."""
    with portlease.lease() as lease:
        with pytest.raises(portlease.PortUnavailableError):
            portlease.lease(ports=[lease.port])
        with pytest.raises(portlease.PortUnavailableError):
            portlease.lease("both", ports=[lease.port])
        lease.withdraw()
        lease.step_aside()
        with pytest.raises(portlease.PortUnavailableError):
            portlease.lease(ports=[lease.port])
        lease.take_back()
        lease.offer()


def test_other_sockets_are_left_alone() -> None:
    """Port 0, a number without a lease, UDP on a leased number, Unix sockets, odd arguments."""
    with portlease.lease() as lease, portlease.lease() as gone:
        pass
    with (
        portlease.lease() as lease,
        socket.socket() as zero,
        socket.socket() as free,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket() as odd,
    ):
        zero.bind(("127.0.0.1", 0))
        free.bind(("127.0.0.1", gone.port))
        udp.bind(("127.0.0.1", lease.port))
        unix.bind("")
        for address in ((), ("127.0.0.1",), ("127.0.0.1", "x"), ("127.0.0.1", None), None, 7):
            with pytest.raises(TypeError):
                odd.bind(address)  # type: ignore[arg-type]
        assert [_reuse(one) for one in (zero, free, udp, odd)] == [0, 0, 0, 0]


def test_a_closed_socket_says_what_it_always_said() -> None:
    """EBADF, not something of ours."""
    with portlease.lease() as lease:
        sock = socket.socket()
        sock.close()
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            sock.bind(("127.0.0.1", lease.port))


def test_another_process_is_refused() -> None:
    """The hook is the owner's; a stranger without SO_REUSEADDR meets the hold."""
    with portlease.lease() as lease:
        done = subprocess.run(
            [sys.executable, "-c", _BIND_BARE, str(lease)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == str(errno.EADDRINUSE)


def _serve_one(port: int, ready: Connection) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        sock.listen()
        ready.send(sock.getsockname()[1])
        sock.accept()[0].close()


def test_a_forked_server_is_let_in() -> None:
    """Multiprocessing's fork: the lease is the parent's, and the child serves on its port."""
    context = multiprocessing.get_context("fork")
    with portlease.lease() as lease:
        ours, theirs = context.Pipe()
        with ours, theirs:
            child = context.Process(target=_serve_one, args=(lease.port, theirs))
            child.start()
            assert ours.recv() == lease.port
            with socket.create_connection(("127.0.0.1", lease.port)):
                pass
            child.join()
            assert child.exitcode == 0
            child.close()
