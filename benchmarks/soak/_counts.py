"""What there is of each thing that could be left behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import _kernel

MARK: Final = "PORTLEASE_SOAK"
"""The variable that every process of a soak inherits, with the soak's name."""


@dataclass(frozen=True, slots=True)
class Own:
    """Of one process."""

    descriptors: int
    children: int
    threads: int
    rss_kib: int


@dataclass(frozen=True, slots=True)
class Left:
    """Of all processes of a soak, and in its network."""

    descriptors: int
    """Of the controller."""
    processes: int
    networks: int
    """Network namespaces in which a process of the soak is."""
    files: int
    """In the temporary folder that they share."""
    abstract_sockets: int | None
    """Of portlease and of the ledger; None in a network that others are in as well."""
    ports: int | None
    """Sockets that are bound or listen, TCP and UDP; None as before."""


def of_this_process() -> Own:
    """Count what this one has."""
    threads = [path.name for path in Path("/proc/self/task").iterdir()]
    children = [
        child
        for thread in threads
        for child in Path(f"/proc/self/task/{thread}/children").read_text("ascii").split()
    ]
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return Own(
        descriptors=_descriptors(),
        children=len(children),
        threads=len(threads),
        rss_kib=pages * os.sysconf("SC_PAGE_SIZE") // 1024,
    )


def left(run: str, folder: Path, *, alone: bool) -> Left:
    """Count what there is of the soak *run*, this process excepted.

    Args:
        run: the soak's name.
        folder: the temporary folder that its processes share.
        alone: whether nobody else is in this network.
    """
    marked = [pid for pid in _processes() if _is_marked(pid, run)]
    networks = {inode for pid in (os.getpid(), *marked) if (inode := _network(pid)) is not None}
    return Left(
        descriptors=_descriptors(),
        processes=len([pid for pid in marked if pid != os.getpid()]),
        networks=len(networks),
        files=len(list(folder.rglob("*"))),
        abstract_sockets=_abstract_sockets() if alone else None,
        ports=len(_kernel.bound()) if alone else None,
    )


def _abstract_sockets() -> int:
    unix = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    return sum("@portlease/" in line or "@soak/" in line for line in unix.splitlines())


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _is_marked(pid: int, run: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours to see
        return False
    return f"{MARK}={run}".encode() in environment.split(b"\0")


def _network(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
