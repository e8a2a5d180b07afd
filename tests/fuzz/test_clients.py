"""The port server, against clients that write anything, anyhow, and leave whenever they like."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("Linux has pidfds and abstract sockets", allow_module_level=True)

import portlease
from _processes import HANG_S
from fuzz.generous import generous

if TYPE_CHECKING:
    from collections.abc import Iterator


SERVER = """
import sys
from portlease._portserver import PortServer
with PortServer(sys.argv[1]) as server, server.in_background():
    print("serves", flush=True)
    sys.stdin.read()
"""


class Server(NamedTuple):
    """A port server in a process of its own, which ends when we do."""

    address: str
    pid: int

    def descriptors(self) -> int:
        """How many it has."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One for all clients: each must leave it as it was for the next."""
    with serving() as one:
        yield one


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Start one."""
    address = f"portlease-fuzz-{secrets.token_hex(8)}"
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", SERVER, f"@{address}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"serves\n":
            pytest.fail(process.communicate()[1].decode())
        yield Server(address, process.pid)
        _, errors = process.communicate()
    assert not errors.strip(), errors.decode()
    assert not process.returncode


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    """A client."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_S)
        client.connect(f"\0{server.address}")
        yield client


def answer(client: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    told = b""
    with contextlib.suppress(ConnectionResetError):  # it did not read all that we wrote
        while part := client.recv(1024):
            told += part
    return told


def is_right(request: bytes, told: bytes) -> None:
    """A port for our own process id; for all else one line that no client takes for a port."""
    whole = request.partition(b"\n")[0]
    if whole.strip().isdigit() and len(whole.strip()) < 10 and int(whole) == os.getpid():
        port = int(told)
        assert [one.label for one in portlease.leases() if one.port == port] == [
            f"portserver: {os.getpid()}"
        ]
    elif request:
        assert told.endswith(b"\n"), whole
        assert told.count(b"\n") == 1
        assert not told[:1].isdigit(), whole


ME = b"%d" % os.getpid()
requests = st.one_of(
    st.sampled_from(
        [
            *(
                ME,
                ME + b"\n",
                b" " + ME + b"\r\n",
                b"",
                b"\n",
                b"0\n",
                b"1\n",
                b"-1\n",
                b"4194304\n",
            ),
            *(
                b"9" * 90,
                b"\0",
                b"\xff\n",
                "\u0663\n".encode(),
                ME + b"\n" + ME + b"\n",
                ME + b" 1\n",
            ),
            *(b"GET / HTTP/1.1\r\n\r\n", b"+" + ME, b"0" * 5 + ME, b"x" * 100_000, b"1" * 100_000),
        ]
    ),
    st.binary(max_size=200).filter(lambda data: not data.partition(b"\n")[0].strip().isdigit()),
)


@generous
@given(requests, st.integers(1, 20), st.booleans())
def test_any_request_in_any_pieces(
    server: Server,
    request_: bytes,
    pieces: int,
    half_closed: bool,  # noqa: FBT001 - Hypothesis gives it
) -> None:
    """Cut anywhere, with the writing side closed or not: the whole is answered, never a part."""
    with connected(server) as client:
        size = max(1, len(request_) // pieces)
        with contextlib.suppress(BrokenPipeError):  # it has heard enough
            for at in range(0, len(request_), size):
                client.sendall(request_[at : at + size])
            if half_closed or not request_:
                client.shutdown(socket.SHUT_WR)
        told = answer(client)
    # What is longer is cut off, and so refused or answered by its beginning.
    if len(request_) <= 20:
        is_right(request_, told)
    assert not told or told.endswith(b"\n")


def test_a_number_in_two_pieces_is_one_number(server: Server) -> None:
    """The server waits for the rest: half a number is another process's."""
    with connected(server) as client:
        for at in range(len(ME)):
            client.sendall(ME[at : at + 1])
            # Whoever asks between has its turn, so that what came so far has been read.
            with connected(server) as other:
                other.sendall(b"x\n")
                assert answer(other).startswith(b"b'x")
        client.sendall(b"\n")
        is_right(ME + b"\n", answer(client))


@settings(generous, max_examples=30)
@given(st.lists(st.tuples(requests, st.sampled_from(["close", "reset", "stay"])), max_size=12))
def test_many_that_leave_in_the_midst(server: Server, clients: list[tuple[bytes, str]]) -> None:
    """Gone before the answer, before the question, or silent: the next one is served."""
    with contextlib.ExitStack() as stack:
        for request, end in clients:
            client = stack.enter_context(connected(server))
            client.setblocking(False)  # noqa: FBT003 - positional-only
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                client.send(request[:2000])
            if end == "close":
                client.close()
            elif end == "reset":
                client.shutdown(socket.SHUT_RDWR)
        with connected(server) as last:
            last.sendall(ME + b"\n")
            is_right(ME + b"\n", answer(last))


def test_200_at_once(server: Server) -> None:
    """As many connect before the first has asked; all are answered, and each port is another."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(200)]
        for client in reversed(clients):
            client.sendall(ME + b"\n")
        ports = [int(answer(client)) for client in clients]
    assert len(set(ports)) == 200


def test_nothing_stays_of_any_of_them() -> None:
    """A server that was asked nonsense has the descriptors that it began with, and no port out."""
    with serving() as server:
        before = server.descriptors()
        for request in (b"x", b"", b"1" * 5000, b"\n", b"x\n"):
            with connected(server) as client, contextlib.suppress(BrokenPipeError):
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                answer(client)
        # What the server has of the last one may be there for a moment more, but of no other.
        assert server.descriptors() <= before + 1
