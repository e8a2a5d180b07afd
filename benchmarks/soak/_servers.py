"""Servers by every means: started, asked who they are, restarted now and then, and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portlease import Lease, Server

_LITTLE: Final = str(Path(__file__).with_name("_little.py"))
_PYTHON: Final = (sys.executable, "-I", "-S")
_ANSWER_S: Final = 20.0
_START_S: Final = 120.0
_MANNERS: Final = {"offer": "reuse", "step-aside": "plain", "broker": "plain", "hand-over": "fd"}
_RESTARTED: Final = 10
_OWN_LEASE: Final = 3


class Means(NamedTuple):
    """By which means a server of which transport gets its port."""

    transport: str
    how: str

    def __str__(self) -> str:
        return f"{self.transport} {self.how}"


ALL: Final = (
    Means("tcp", "offer"),
    Means("udp", "step-aside"),
    Means("tcp", "broker"),
    Means("udp", "hand-over"),
    Means("tcp", "step-aside"),
    Means("udp", "broker"),
    Means("tcp", "hand-over"),
)


class WrongError(Exception):
    """A server was not what it should be."""


def serve(
    means: Means,
    number: int,
    *,
    claimed: Callable[[Sequence[tuple[str, int]]], Callable[[], None]],
    counted: Callable[[str], None],
    dies: Callable[[], None] | None,
) -> None:
    """Start a server, ask it, and stop it.

    Args:
        means: by which.
        number: of the server, which no other has.
        claimed: is called with the ports once they are ours, and returns what is to be called
            before they are given back.
        counted: counts.
        dies: ends this very process while the server runs; None to stop it.

    Raises:
        WrongError: it was served by other means, or somebody else answered.
        PortleaseError: it could not be served.
    """
    token = f"{os.getpid()}.{number}"
    # Every few are given a lease that was taken before, and outlives them.
    lease: Lease | None = None
    dropped: Callable[[], None] | None = None
    if number % _OWN_LEASE == 0:
        lease = portlease.lease(means.transport, label="soak")  # type: ignore[arg-type]
        dropped = claimed([(means.transport, lease.port)])
    try:
        server = _started(means, token, lease)
        with server:
            counted(str(means))
            counted("servers")
            drop = claimed([(means.transport, server.port)]) if lease is None else None
            _ask(server, means, token)
            if dies is not None:
                dies()
            if number % _RESTARTED == 0:
                server.restart()
                _ask(server, means, token)
                counted("restarted")
            if drop is not None:
                drop()
    finally:
        if dropped is not None and lease is not None:
            dropped()
            lease.release()


def _started(means: Means, token: str, lease: Lease | None) -> Server:
    manner = _MANNERS[means.how]
    number = "{fd}" if manner == "fd" else "{port}"
    with warnings.catch_warnings(record=True) as caught:
        server = portlease.serve(
            [*_PYTHON, _LITTLE, means.transport, manner, number, token],
            how=means.how,  # type: ignore[arg-type]
            lease=lease,
            ports=None if means.transport == "tcp" or lease is not None else {"port": "udp"},
            label="soak",
            timeout_s=_START_S,
        )
    if server.how != means.how:
        server.stop()
        said = "; ".join(str(one.message) for one in caught)
        raise WrongError(f"{server.how} instead of {means.how}: {said}")
    return server


def _ask(server: Server, means: Means, token: str) -> None:
    """Whose server answers on its port?"""
    address = ("127.0.0.1", server.port)
    if means.transport == "tcp":
        with socket.create_connection(address, timeout=_ANSWER_S) as client:
            answer = client.recv(64)
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(_ANSWER_S)
            client.connect(address)
            client.send(b"who?")
            answer = client.recv(64)
    if answer.decode() != token:
        raise WrongError(f"{means} port {server.port}: {answer!r} answered, not {token}")


def isolated() -> None:
    """A lease in a network of its own, which goes with the command.

    Raises:
        WrongError: the command failed.
    """
    script = "import portlease; portlease.lease().release()"
    done = subprocess.run(
        [sys.executable, "-m", "portlease", "isolate", "--", sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_START_S,
        check=False,
    )
    if done.returncode != 0:
        raise WrongError(f"isolate ended with {done.returncode}: {done.stderr.strip()}")


def kill_myself() -> None:
    """End this process by SIGKILL; does not return."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()
