"""The second detector: does the kernel list one port as bound by two of the processes?

``python -m benchmarks.soak._kernel FD PLACES FOLDER`` looks again and again, until told to end, at
all TCP sockets that are bound or listen and all UDP sockets that are not connected (sock_diag(7)),
and at the descriptors of each process (/proc/PID/fd), which say whose they are. It reads both by
itself, and knows neither portlease nor the ledger. It writes what it found as a line of JSON. If
its input ends without a word, the controller was killed: then it removes the soak's folder, which
nobody else is left to do.

A list is no snapshot: a port can change hands while it is made. So what looks double is looked at
once more. A socket's inode is never another's, so two sockets that are in both lists were there at
the same time.

TCP sockets that are bound and do not listen are listed since Linux 6.8; before that, leases of TCP
are out of its sight until a server listens.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import struct
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from ._board import Board

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAUSE_S: Final = 0.02
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x301
_ERROR: Final = 2
_DONE: Final = 3
# <net/tcp_states.h>: LISTEN, BOUND_INACTIVE; UDP sockets that are not connected are "closed".
_TCP: Final = 1 << 10 | 1 << 13
_UDP: Final = 1 << 7
_HEADER: Final = struct.Struct("=IHHII")
# struct inet_diag_msg, of <linux/inet_diag.h>: only the local port and the inode
_ENTRY: Final = struct.Struct("!4xH62x")
_INODE: Final = struct.Struct("=I")
_INODE_AT: Final = 68
_SHOWN: Final = 5


class Bound(NamedTuple):
    """A socket, as the kernel lists it."""

    transport: str
    port: int
    inode: int


@dataclass(slots=True)
class Seen:
    """What was seen in all the looks."""

    looks: int = 0
    sockets: int = 0
    """Of the processes, in all looks together."""
    most: int = 0
    """Ports that they had at the same time."""
    doubles: int = 0
    shown: list[str] = field(default_factory=list)
    """The first doubles."""
    told: set[tuple[Bound, Bound]] = field(default_factory=set)


def bound() -> list[Bound]:
    """Every socket of this network namespace that is bound and not connected."""
    found: list[Bound] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(10)
        for transport, protocol, states in (
            ("tcp", socket.IPPROTO_TCP, _TCP),
            ("udp", socket.IPPROTO_UDP, _UDP),
        ):
            for family in (socket.AF_INET, socket.AF_INET6):
                entries = _dump(diag, family, protocol, states)
                found += [Bound(transport, port, inode) for port, inode in entries]
    return found


def _dump(
    diag: socket.socket, family: int, protocol: int, states: int
) -> Iterator[tuple[int, int]]:
    question = struct.pack("=BBBxI48x", family, protocol, 0, states)
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    diag.sendto(header + question, (0, 0))
    while True:
        answer = diag.recv(1 << 17)
        start = 0
        while start < len(answer):
            length, kind, *_ = _HEADER.unpack_from(answer, start)
            body = start + _HEADER.size
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", answer, body)[0]
                raise OSError(code, f"sock_diag answers: {os.strerror(code)}")
            (port,) = _ENTRY.unpack_from(answer, body)
            (inode,) = _INODE.unpack_from(answer, body + _INODE_AT)
            yield port, inode
            start += (length + 3) & ~3


def owners(pids: list[int]) -> dict[int, int]:
    """The sockets of these processes: whose is each inode."""
    found: dict[int, int] = {}
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - thousands of them, often
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is about to
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # closed meanwhile
            if target.startswith("socket:["):
                found[int(target[8:-1])] = pid
    return found


def look(pids: list[int], seen: Seen) -> None:
    """Look once, and once more if anything looks double."""
    whose = owners(pids)
    mine = [one for one in bound() if one.inode in whose]
    seen.looks += 1
    seen.sockets += len(mine)
    by_port: dict[tuple[str, int], list[Bound]] = {}
    for one in mine:
        by_port.setdefault(one[:2], []).append(one)
    seen.most = max(seen.most, len(by_port))
    pairs = [
        (one, other)
        for sockets in by_port.values()
        for number, one in enumerate(sockets)
        for other in sockets[number + 1 :]
        if whose[one.inode] != whose[other.inode]
    ]
    if not pairs:
        return
    still = set(bound())
    for pair in pairs:
        if still.issuperset(pair) and pair not in seen.told:
            seen.told.add(pair)
            seen.doubles += 1
            if len(seen.shown) < _SHOWN:
                one, other = pair
                pids_of_it = f"processes {whose[one.inode]} and {whose[other.inode]}"
                seen.shown.append(f"kernel: {one.transport} port {one.port} is had by {pids_of_it}")


def main() -> None:
    """Look until the end; write what was seen."""
    fd, places, folder = sys.argv[1:]
    board = Board(int(fd), int(places))
    seen = Seen()
    print("ready", flush=True)
    while not select.select([0], [], [], _PAUSE_S)[0]:
        look([pid for place in range(board.places) if (pid := board.pid(place))], seen)
    board.close()
    if not os.read(0, 1):
        shutil.rmtree(folder, ignore_errors=True)
        return
    figures = asdict(seen)
    del figures["told"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
