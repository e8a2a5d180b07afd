"""What a starting server is waited for: that it listens on a port, or takes over a socket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from portlease._clock import now_s
from portlease._server import _probe, _ready, _template, _unix
from portlease._server._ready import Coverage, Listening

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from portlease._lease import Lease
    from portlease._server._command import Command
    from portlease._server._handover import Handed, Plan, Wanted
    from portlease._server._probe import Probe, Transport
    from portlease._tree._process import Process

_TRANSPORTS: Final[dict[str, tuple[Transport, ...]]] = {
    "tcp": ("tcp",),
    "udp": ("udp",),
    "both": ("tcp", "udp"),
}


class Awaited(Protocol):
    """One transport of one leased port, and whether the server is there yet."""

    name: str
    done: bool
    found: list[Listening]
    """Where it is."""

    @property
    def lease(self) -> Lease | None:
        """Of its port; a Unix socket has none."""

    @property
    def place(self) -> str:
        """For messages."""

    def look(self) -> bool:
        """Look once more, unless it was seen already."""

    def due_in_s(self) -> float:
        """In how many seconds another look may say something else though nothing has happened."""

    def close(self) -> None:
        """Give up what is open for it."""


def all_of(
    process: Process,
    command: Command,
    leases: Mapping[str, Lease],
    paths: Mapping[str, str],
    handed: tuple[Plan, Handed] | None,
) -> Iterator[Awaited]:
    """What *process* is waited for; whoever iterates closes each.

    Args:
        process: the server's.
        command: with its ``wait_for``.
        leases: by name.
        paths: of its Unix sockets, by name.
        handed: what it was handed over, if it was.
    """
    inherited: dict[tuple[str, str], Wanted] = {}
    if handed is not None:
        inherited = {(one.name, one.transport): one for one in handed[0].sockets}
    for name, lease in leases.items():
        if command.wait_for is not None and name not in command.wait_for:
            continue
        for transport in _TRANSPORTS[lease.kind]:
            wanted = inherited.get((name, transport))
            if wanted is None or handed is None:
                probe = _probe.probe(process, lease.port, transport, lease.scope)
                yield ListeningAwaited(name, lease, transport, probe)
            else:
                yield HandedAwaited(wanted, lease, handed[1], process)
    for name, path in paths.items():
        if command.wait_for is None or name in command.wait_for:
            wanted = inherited.get((name, "unix"))
            if wanted is None or handed is None:
                yield UnixAwaited(name, path, process)
            else:
                yield HandedAwaited(wanted, None, handed[1], process)


def _place(name: str, lease: Lease, transport: str) -> str:
    called = "" if name == _template.PORT else f" ({name})"
    udp = "UDP " if transport == "udp" else ""
    return f"{udp}port {lease.port}{called}"


class ListeningAwaited:
    """The server is to bind the port itself, and listen."""

    def __init__(self, name: str, lease: Lease, transport: Transport, probe: Probe) -> None:
        self.name = name
        self.lease = lease
        self.transport = transport
        self.done = False
        self.found: list[Listening] = []
        self._probe = probe
        self._settled_at = math.inf

    @property
    def place(self) -> str:
        """For messages."""
        return _place(self.name, self.lease, self.transport)

    def look(self) -> bool:
        """Look once more, unless it was seen already."""
        if not self.done:
            self.found = self._probe.look()
            covered = _ready.coverage(self.found, self.lease.scope)
            now = now_s()
            if covered is not Coverage.PART:
                self._settled_at = math.inf
            elif self._settled_at == math.inf:
                self._settled_at = now + _ready.SETTLE_S
            self.done = covered is Coverage.FULL or now >= self._settled_at
        return self.done

    def due_in_s(self) -> float:
        """PART becomes all that there will be, in a while."""
        return math.inf if self.done else self._settled_at - now_s()

    def close(self) -> None:
        """Give up what the probe has open."""
        self._probe.close()


class HandedAwaited:
    """The server is to take over a socket that listens already, as that itself shows."""

    def __init__(
        self, wanted: Wanted, lease: Lease | None, handed: Handed, process: Process
    ) -> None:
        self.name = wanted.name
        self.lease = lease
        self.done = False
        self.found = [Listening(wanted.address, wanted.v6only)]
        self._wanted = wanted
        self._handed = handed
        self._process = process

    @property
    def place(self) -> str:
        """For messages."""
        if self.lease is None:
            return f"Unix socket {self._wanted.address} ({self.name})"
        return _place(self.name, self.lease, self._wanted.transport)

    def look(self) -> bool:
        """Look once more, unless it was seen already."""
        self.done = self.done or self._handed.adopted(self._process.tree)
        return self.done

    def due_in_s(self) -> float:
        """Any look may."""
        return math.inf

    def close(self) -> None:
        """Nothing of its own."""


class UnixAwaited:
    """The server is to listen at a path."""

    def __init__(self, name: str, path: str, process: Process) -> None:
        self.name = name
        self.lease: Lease | None = None
        self.found: list[Listening] = []  # a path has no address
        self.done = False
        self._path = path
        self._process = process

    @property
    def place(self) -> str:
        """For messages."""
        return f"Unix socket {self._path} ({self.name})"

    def look(self) -> bool:
        """Look once more, unless it was seen already."""
        self.done = self.done or _unix.listens(self._path, self._process)
        return self.done

    def due_in_s(self) -> float:
        """Any look may, and nothing tells of it."""
        return math.inf if self.done else _ready.LONGEST_PAUSE_S

    def close(self) -> None:
        """Nothing is open between looks."""
