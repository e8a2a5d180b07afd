"""Does the server listen? Looked up in the kernel, without a connection; elsewhere, by one.

On Linux a probe asks for the listening sockets on the port (sock_diag(7)) and then whether a
process of the server's tree has one of them open (/proc/PID/fd). The server sees no stray client,
and somebody else's server on the port is never taken for it.

Where that cannot be had a probe connects (UDP: sends an empty datagram, and is told by ICMP if
nobody is there). Then anybody's server passes.
"""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING, Protocol

from portlease._clock import now_s
from portlease._server import _ready
from portlease._server._ready import Listening

if sys.platform == "linux":
    from portlease._platform import _linux_diag, _linux_proc
    from portlease._tree._process_linux import KeptProcess

if TYPE_CHECKING:
    from typing import Final, Literal, TypeAlias

    from portlease._tree._process import Process

    Transport: TypeAlias = Literal["tcp", "udp"]

_FIRST_PAUSE_S: Final = 0.0005
_LONGEST_PAUSE_S: Final = 0.02
_CONNECT_TIMEOUT_S: Final = 1.0


class Probe(Protocol):
    """Looks at one port of one server; whoever makes it closes it."""

    def look(self) -> list[Listening]:
        """The server's own listening sockets on the port now."""

    def close(self) -> None:
        """Give up what it has open."""


def probe(process: Process, port: int, transport: Transport, scope: str) -> Probe:
    """The best probe there is here.

    Args:
        process: the server.
        port: its port.
        transport: ``"tcp"`` or ``"udp"``.
        scope: of the port's lease.
    """
    if sys.platform == "linux" and isinstance(process, KeptProcess):
        return KernelProbe(process, port, transport)
    return ConnectProbe(port, transport, scope)


if sys.platform == "linux":

    class KernelProbe:
        """Asks the kernel who listens."""

        def __init__(self, process: Process, port: int, transport: Transport) -> None:
            self._process = process
            self._watch = _linux_diag.ListenWatch(port, transport=transport)
            self._foreign: frozenset[int] = frozenset()
            self._pause_s = _FIRST_PAUSE_S
            self._not_before = 0.0

        def look(self) -> list[Listening]:
            """The sockets of the server's tree that listen on the port."""
            entries = self._watch.look()
            if not entries:
                return []
            inodes = frozenset(entry.inode for entry in entries)
            # Somebody else's: no need to read the tree's descriptors at every look.
            if inodes == self._foreign and now_s() < self._not_before:
                return []
            own = _own(entries, self._process.tree())
            if not own:
                self._pause_s = min(
                    self._pause_s * 2 if inodes == self._foreign else _FIRST_PAUSE_S,
                    _LONGEST_PAUSE_S,
                )
                self._foreign, self._not_before = inodes, now_s() + self._pause_s
            return [Listening(entry.address, entry.v6only) for entry in own]

        def close(self) -> None:
            """Close the netlink socket."""
            self._watch.close()

    def _own(
        entries: list[_linux_diag.SocketEntry], tree: list[int]
    ) -> list[_linux_diag.SocketEntry]:
        owners = _linux_proc.inode_owners((entry.inode for entry in entries), tree)
        own = [entry for entry in entries if owners.pids[entry.inode]]
        if own or not owners.refused:
            return own
        # A process of the tree hides its descriptors: it has changed its user, or is not dumpable
        # (PR_SET_DUMPABLE). Its socket bears its user's id, and nobody whom we can see has it.
        uids = {
            info.uid
            for pid in owners.refused
            if (info := _linux_proc.process_info(pid)) is not None and info.uid is not None
        }
        likely = [entry for entry in entries if entry.uid in uids]
        others = _linux_proc.inode_owners(entry.inode for entry in likely).pids
        return [entry for entry in likely if not others[entry.inode]]

    def ports_of(process: Process) -> dict[int, str]:
        """The ports that the server's tree listens on, with their transport."""
        found: dict[int, tuple[int, str]] = {}
        for transport in ("tcp", "udp"):
            for table in (transport, transport + "6"):
                try:
                    with open(f"/proc/thread-self/net/{table}", "rb") as file:
                        text = file.read()
                except FileNotFoundError:  # booted without IPv6
                    continue
                for inode, port in _ready.listening_inodes(text, transport).items():
                    found[inode] = (port, transport)
        owners = _linux_proc.inode_owners(found, process.tree()).pids
        return dict(found[inode] for inode, pids in owners.items() if pids)

else:

    def ports_of(process: Process) -> dict[int, str]:
        """Nothing: not to be had here."""
        del process
        return {}


class ConnectProbe:
    """Connects to the addresses that clients will use."""

    def __init__(self, port: int, transport: Transport, scope: str) -> None:
        self._port = port
        self._transport = transport
        self._targets = _ready.targets(scope)

    def look(self) -> list[Listening]:
        """The addresses where somebody answers."""
        answers = _answers_tcp if self._transport == "tcp" else _answers_udp
        return [Listening(target) for target in self._targets if answers(target, self._port)]

    def close(self) -> None:
        """Nothing is open between looks."""


# Nobody is there, or not yet, or not on this address.
_NOT_THERE: Final = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ETIMEDOUT}
)


def _answers_tcp(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S) as client:
            # A connection to oneself: TCP's simultaneous open, on an ephemeral port.
            return bool(client.getsockname() != client.getpeername())
    except TimeoutError:
        return False
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return False


def _answers_udp(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(_LONGEST_PAUSE_S)
        try:
            client.connect((host, port))
            client.send(b"")
            client.recv(1)
        except TimeoutError:
            return True  # nobody said that nobody is there
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return False
    return True
