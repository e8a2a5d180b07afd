"""Who gets the port: a server that is started on it, or an adversary that names this very number?

The adversary (programs/thief.c) binds exactly that port in a tight loop, on a core of its own, from
before the server is started until it is up or has failed. A theft is a start at the end of which
the adversary has the port. The control is what everybody does: find a free port, close the socket,
start the server.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import portlease

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._catalogue import How

Transport: TypeAlias = Literal["tcp", "udp"]
Adversary: TypeAlias = Literal["plain", "reuse"]
CONTROL: Final = "close, then spawn"
_HANG_S: Final = 30.0
# How the smallest server is told its port. Where it matters (TCP), it sets SO_REUSEADDR for an
# offer and not otherwise.
_MANNER: Final = {
    CONTROL: "plain",
    "offer": "reuse",
    "step-aside": "plain",
    "broker": "plain",
    "hand-over": "fd",
}


@dataclass(slots=True)
class Series:
    """Many starts by one means, before one adversary."""

    user: str
    transport: Transport
    adversary: Adversary
    means: str
    wanted: int
    starts: int = 0
    thefts: int = 0
    failures: int = 0
    """Servers that did not come up, whoever had the port."""
    attempts: int = 0
    """Binds that the adversary tried."""
    seconds: float = 0.0
    reason: str = ""
    """Why there are no figures."""


_MEANS: Final = (CONTROL, "offer", "step-aside", "broker", "hand-over")
_TRANSPORTS: Final[tuple[Transport, ...]] = ("tcp", "udp")
_ADVERSARIES: Final[tuple[Adversary, ...]] = ("plain", "reuse")


def series(user: str, starts: int, against_reuse: int, *, everything: bool) -> list[Series]:
    """What is measured; if not everything, then the means that have other ways for a user.

    There is no offer for UDP: its sockets cannot be shared.
    """
    return [
        Series(user, transport, adversary, means, starts if adversary == "plain" else against_reuse)
        for adversary in _ADVERSARIES
        for transport in _TRANSPORTS
        for means in _MEANS
        if (transport, means) != ("udp", "offer")
        and (everything or means in {"broker", "hand-over"})
    ]


def rank(one: dict[str, Any]) -> tuple[int, ...]:
    """Where a series stands in the table."""
    return (
        _ADVERSARIES.index(one["adversary"]),
        _TRANSPORTS.index(one["transport"]),
        _MEANS.index(one["means"]),
        one["user"] != "root",
    )


def measure(*, thief: str, tiny: str, series: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Fill in the figures of each series."""
    for given in series:
        one = Series(**given)
        begun = time.monotonic()
        with Thief(thief) as adversary, _apart(adversary.pid):
            while one.starts < one.wanted and not one.reason:
                if one.means == CONTROL:
                    _control(one, adversary, tiny)
                else:
                    _served(one, adversary, tiny)
        one.seconds = time.monotonic() - begun
        yield asdict(one)


@contextlib.contextmanager
def _apart(pid: int) -> Iterator[None]:
    """A core for this process alone, the others for us and our servers; if there are two."""
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        yield
        return
    alone = {max(cores)}
    os.sched_setaffinity(pid, alone)
    os.sched_setaffinity(0, cores - alone)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _served(one: Series, thief: Thief, tiny: str) -> None:
    how: How = one.means  # type: ignore[assignment] # all means but the control are
    command = [tiny, one.transport, _MANNER[how], "{fd}" if how == "hand-over" else "{port}"]
    with (
        portlease.lease(one.transport, offer=False, label="thefts") as lease,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        thief.begin(one.transport, one.adversary, lease.port)
        try:
            server = portlease.serve(command, lease=lease, how=how, timeout_s=_HANG_S)
        except (portlease.ServerDiedError, portlease.PortUnavailableError):
            one.failures += 1
            _count(one, thief)
            return
        with server:
            if server.how != how:
                said = "; ".join(str(warning.message) for warning in caught)
                one.reason = f"{server.how} instead: {said}"
            _count(one, thief)


def _control(one: Series, thief: Thief, tiny: str) -> None:
    kind = socket.SOCK_STREAM if one.transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        thief.begin(one.transport, one.adversary, port)
    command = [tiny, one.transport, _MANNER[CONTROL], str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        if process.stdout is None:  # for the type checker: it is a pipe
            raise RuntimeError("no output")
        one.failures += process.stdout.readline() != b"listens\n"
        _count(one, thief)
        process.kill()


def _count(one: Series, thief: Thief) -> None:
    stolen, attempts = thief.end()
    one.starts += 1
    one.thefts += stolen
    one.attempts += attempts


class Thief:
    """The adversary; a context manager that ends it."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = self._process.pid

    def begin(self, transport: Transport, manner: Adversary, port: int) -> None:
        """Let it loop; return once its first attempt is over."""
        self._say(f"{transport} {manner} {port}\n")
        if self._line() != "loops":
            raise RuntimeError("the adversary does not loop")

    def end(self) -> tuple[bool, int]:
        """Stop it; return whether it has the port, and how often it tried."""
        self._say("\n")
        outcome, attempts = self._line().split()
        return outcome == "stolen", int(attempts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _say(self, text: str) -> None:
        if self._process.stdin is None:  # for the type checker: it is a pipe
            raise RuntimeError("no input")
        self._process.stdin.write(text.encode())

    def _line(self) -> str:
        output = self._process.stdout
        if output is None:  # for the type checker: it is a pipe
            raise RuntimeError("no output")
        if not select.select([output], [], [], _HANG_S)[0]:
            raise TimeoutError(f"the adversary said nothing for {_HANG_S:.0f} s")
        line = output.readline()
        if not line:
            raise RuntimeError(f"the adversary ended with {self._process.wait()}")
        return line.decode().strip()
