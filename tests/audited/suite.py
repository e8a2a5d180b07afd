"""A suite with each kind of port, for the tests of the audit: copied to test_suite.py and run."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = "import socket; socket.create_server(('127.0.0.1', 18202)).close()"


def free_port() -> int:
    """What everybody writes once."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_hard_coded() -> None:
    """A number in the test itself."""
    with socket.create_server(("127.0.0.1", 18201)):
        pass


def test_in_a_child() -> None:
    """A number in a program that the test starts."""
    subprocess.run([sys.executable, "-c", CHILD], check=True)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A number in a fixture, with SO_REUSEADDR, on every interface."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 18203))
        sock.listen()
        yield sock


def test_in_a_fixture(server: socket.socket) -> None:
    """Its setup fails."""
    assert server.fileno() >= 0


def test_allowed() -> None:
    """A number that is meant."""
    with socket.create_server(("127.0.0.1", 18204)):  # portlease: allow
        pass


def test_unheld() -> None:
    """A number that was free a moment ago."""
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_kernel() -> None:
    """As it should be."""
    with socket.create_server(("127.0.0.1", 0)):
        pass


def test_leased(leased_port: int) -> None:
    """As it may be."""
    with socket.create_server(("127.0.0.1", leased_port)):
        pass
