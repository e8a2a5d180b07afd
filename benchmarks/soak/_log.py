"""The third detector: who had which port from when until when, compared when all is over.

Each process writes a file: a record when a port was given to it (after that), and one when it is
about to give it back (before that), by CLOCK_MONOTONIC, which all processes share. Intervals are
thus a little too short, never too long: two of one port that overlap were two owners at once. What
a killed process had ends at the moment before it was killed.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._board import TRANSPORTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ._ledger import Claim

# time in ns, serial, port, transport, what
_RECORD: Final = struct.Struct("=qqHBB")
_TAKEN: Final = 1
_GIVEN_BACK: Final = 0
_DEATH: Final = 2
_SHOWN: Final = 5


class Log:
    """The file of one process; what is written is there, whatever comes next."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def taken(self, claims: Iterable[Claim]) -> None:
        """These ports have been given to us."""
        self._write(claims, _TAKEN)

    def given_back(self, claims: Iterable[Claim]) -> None:
        """These will be given back now."""
        self._write(claims, _GIVEN_BACK)

    def death(self) -> None:
        """This process ends itself now."""
        os.write(self._fd, _RECORD.pack(time.monotonic_ns(), 0, 0, 0, _DEATH))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write(self, claims: Iterable[Claim], what: int) -> None:
        now = time.monotonic_ns()
        os.write(
            self._fd,
            b"".join(
                _RECORD.pack(now, claim.serial, claim.port, claim.transport, what)
                for claim in claims
            ),
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """What the files say together."""

    intervals: int
    ended_by_death: int
    most_at_once: int
    """Ports out at the same time."""
    overlaps: int
    shown: Sequence[str]
    """The first overlaps."""


def merged(directory: Path, killed_ns: Mapping[str, int]) -> Merged:
    """Compare all files of *directory*.

    Args:
        directory: the files, ``*.log``.
        killed_ns: of processes that others killed, by the file's name: the moment before that.
    """
    intervals: list[int] = []
    deaths = 0
    for path in sorted(directory.glob("*.log")):
        more, unended = _read(path.read_bytes(), killed_ns.get(path.name))
        intervals += more
        deaths += unended
    most = _most_at_once(intervals)
    intervals.sort()
    overlaps = 0
    shown: list[str] = []
    place, until = -1, 0
    for packed in intervals:
        port, start, end = packed >> 128, packed >> 64 & _MASK, packed & _MASK
        if port == place and start < until:
            overlaps += 1
            if len(shown) < _SHOWN:
                name = f"{TRANSPORTS[port >> 16]} port {port & 0xFFFF}"
                shown.append(f"log: {name} had two owners for {(min(until, end) - start) / 1e6} ms")
        until = max(until, end) if port == place else end
        place = port
    return Merged(len(intervals), deaths, most, overlaps, shown)


_MASK: Final = (1 << 64) - 1


def _read(data: bytes, killed_ns: int | None) -> tuple[list[int], int]:
    """The intervals of one file, and how many of them its owner's death ended.

    An interval is one number, to save memory: transport and port, start, end.
    """
    intervals: list[int] = []
    begun: dict[int, tuple[int, int]] = {}
    last = 0
    whole = len(data) - len(data) % _RECORD.size  # the last may be cut off by its owner's death
    for when, serial, port, transport, what in _RECORD.iter_unpack(data[:whole]):
        last = when
        if what == _TAKEN:
            begun[serial] = (transport << 16 | port, when)
        elif what == _GIVEN_BACK:
            key, start = begun.pop(serial)
            intervals.append(key << 128 | start << 64 | when)
    # Killed between two records: it may have written one after the killer looked at the clock.
    end = last if killed_ns is None else max(killed_ns, last)
    intervals += [key << 128 | start << 64 | max(start, end) for key, start in begun.values()]
    return intervals, len(begun)


def _most_at_once(intervals: Iterable[int]) -> int:
    changes: list[int] = []
    for packed in intervals:
        changes += ((packed >> 64 & _MASK) << 1 | 1, (packed & _MASK) << 1)
    changes.sort()
    most = now = 0
    for change in changes:
        now += 1 if change & 1 else -1
        most = max(most, now)
    return most
