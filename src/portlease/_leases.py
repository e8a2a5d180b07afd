"""``leases()``: every live lease, as its owner published it."""

from __future__ import annotations

import os
import sys
from collections import namedtuple
from os import getpid

from portlease import _grip, _refusal, _registry
from portlease._platform import backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    from portlease._registry import Row
    from portlease._states import State

    class LeaseInfo(NamedTuple):
        """A live lease of this network namespace, as ``leases()`` gives it.

        ``host`` is what the lease covers: ``"*"`` is every address, IPv4 and IPv6. ``pid`` is None
        where the owner lives in another PID namespace. ``uid`` and ``command`` are None where /proc
        does not show the owner. ``since`` is in seconds since the epoch.
        """

        port: int
        kind: str
        state: State
        host: str
        pid: int | None
        uid: int | None
        command: str | None
        label: str | None
        since: float
else:
    LeaseInfo = namedtuple(  # noqa: PYI024
        "LeaseInfo", "port kind state host pid uid command label since"
    )


def leases() -> list[LeaseInfo]:
    """Every live lease of this network namespace, of all processes and users, oldest first.

    Returns:
        One :class:`LeaseInfo` a lease. On macOS and Windows: those of this process only.

    Not guaranteed:
        A row is published by its owner, who may lie. The answer is as old as the call. Labels of
        other processes' leases are cut to what a row holds (about 50 bytes, the end is kept).

    Raises:
        LeasesUnseenError: /proc is not mounted, or closed to this process.
        ResourceLimitError: no descriptor is left to read it with.
    """
    own = {info[:3]: info for info in _own()}
    if not backend.BOARD:
        return sorted(own.values(), key=lambda info: info.since)
    try:
        found = _registry.rows()
    except OSError as error:
        _refusal.raise_unseen(error)
    infos = _describe(found)
    return [
        info._replace(label=own[info[:3]].label)
        if info.pid == getpid() and info[:3] in own
        else info
        for info in infos
    ]


def _describe(found: Iterable[Row]) -> list[LeaseInfo]:
    commands: dict[int, tuple[int | None, str | None]] = {}
    infos = []
    for row in found:
        uid, command = None, None
        if row.pid is not None:
            if row.pid not in commands:
                commands[row.pid] = _owner(row.pid)
            uid, command = commands[row.pid]
        infos.append(
            LeaseInfo(
                row.port,
                row.kind,
                row.state,
                row.scope,
                row.pid,
                uid,
                command,
                row.label,
                row.since,
            )
        )
    return infos


def _owner(pid: int) -> tuple[int | None, str | None]:
    if sys.platform != "linux":
        return None, None
    from portlease._platform import _linux_proc

    info = _linux_proc.process_info(pid)
    return (None, None) if info is None else (info.uid, info.command)


def _own() -> list[LeaseInfo]:
    """The live leases of this process, labels whole."""
    if sys.platform == "win32":
        uid = None
    else:
        uid = os.getuid()
    command = " ".join(sys.argv)
    return [
        LeaseInfo(
            grip.port,
            grip.wish.kind,
            grip.state,
            grip.wish.scope,
            getpid(),
            uid,
            command,
            grip.by[0],
            _registry.since(grip.born),
        )
        for grip in _grip.alive()
    ]
