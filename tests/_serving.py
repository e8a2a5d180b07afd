"""What the tests of serve() share: small servers, questions to them, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import struct
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _processes import HANG_S, with_ever_more_time
from portlease import ServerTimeoutError
from portlease._server import _starter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from portlease import Server

PYTHON = [sys.executable, "-I", "-S", "-c"]
HTTP = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]


def python(code: str) -> list[str]:
    """A server in Python; braces in it are templates."""
    return [*PYTHON, textwrap.dedent(code)]


# A small server that says what it does. {options} are more lines before the bind.
TINY = """
import _socket, sys
server = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", {port}))
server.listen(16)
while True:
    fd, _ = server._accept()
    client = _socket.socket(fileno=fd)
    client.sendall(b"tiny")
    client.close()
"""
PLAIN = TINY.replace("server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)\n", "")


def ask(server: Server | int, question: bytes = b"", *, host: str = "127.0.0.1") -> bytes:
    """Connect, say something, and return what comes back first."""
    port = server if isinstance(server, int) else server.port
    with socket.create_connection((host, port), timeout=HANG_S) as client:
        client.sendall(question)
        return client.recv(1000)


def get(server: Server) -> bytes:
    """The status line of an HTTP server."""
    return ask(server, b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test forgets what it learned about commands, and leaves no lease of ours."""
    monkeypatch.setattr(_starter, "_needs_step_aside", set())
    monkeypatch.setattr(_starter, "_takes_no_socket", set())
    before = own_leases()
    yield
    gc.collect()
    assert own_leases() == before


def own_leases() -> set[int]:
    """The ports that this process has leased."""
    return {one.port for one in portlease.leases() if one.pid == os.getpid()}


def never_ready(
    command: Sequence[str],
    came_so_far: Callable[[ServerTimeoutError], object],
    **options: Any,  # noqa: ANN401 - of serve()
) -> ServerTimeoutError:
    """Serve one that will never be ready; return the error once it *came_so_far*."""

    def attempt(timeout_s: float) -> ServerTimeoutError:
        with pytest.raises(ServerTimeoutError) as caught:
            portlease.serve(command, timeout_s=timeout_s, **options)
        assert caught.value.timeout_s == timeout_s
        return caught.value

    return with_ever_more_time(attempt, came_so_far)


def leave(server: Server) -> bytes:
    """As ask(), and go first, without a farewell: no TIME_WAIT stays on the server's side."""
    with socket.create_connection((server.host, server.port), timeout=HANG_S) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return client.recv(1)


@contextlib.contextmanager
def beset(port: int, *kinds: socket.SocketKind) -> Iterator[list[str]]:
    """Bind this very number again and again, without SO_REUSEADDR; what it got is in the list."""
    taken: list[str] = []
    done = threading.Event()

    def bind() -> None:
        while not done.is_set():
            for kind in kinds:
                with socket.socket(socket.AF_INET, kind) as thief:
                    try:
                        thief.bind(("127.0.0.1", port))
                    except OSError as error:
                        if error.errno != errno.EADDRINUSE:
                            raise
                    else:
                        taken.append(kind.name)

    thread = threading.Thread(target=bind)
    thread.start()
    try:
        yield taken
    finally:
        done.set()
        thread.join()
