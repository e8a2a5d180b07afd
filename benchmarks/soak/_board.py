"""What the processes of a soak share: a piece of memory that outlives any of them.

It has the ledger's words (:mod:`._ledger`), and for each place (one of the 8 processes, and whoever
follows it there) who is in it, by pid and by number, and what was counted there. Nobody waits for
anybody: each number has one writer at a time, and is one aligned store.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

TRANSPORTS: Final = ("tcp", "udp")
PORTS: Final = 1 << 16
COUNTERS: Final = (
    # leases, by what was asked for
    "leases",
    "tcp",
    "udp",
    "both",
    "host",
    "family",
    "named",
    "many",
    "block",
    "unheld",
    # by the states they were in
    "HELD",
    "OFFERED",
    "GUARDED",
    "HANDED_OVER",
    # moves
    "offer",
    "withdraw",
    "step_aside",
    "take_back",
    "listen",
    "hand_over_all",
    # how they ended
    "with",
    "release",
    "garbage",
    # servers, by means
    "servers",
    "tcp offer",
    "tcp step-aside",
    "tcp broker",
    "tcp hand-over",
    "udp step-aside",
    "udp broker",
    "udp hand-over",
    "restarted",
    "isolated",
    # what became of the process
    "suicides",
    # what came of it
    "claims",
    "ledger doubles",
    "inherited claims",
    "refused",
    "troubles",
)
_INDEX: Final = {name: number for number, name in enumerate(COUNTERS)}
_WORD_BYTES: Final = 8
_PLACE_WORDS: Final = 2 + len(COUNTERS)


class Board:
    """The shared memory, mapped; made by :meth:`create`, and by every other process of its fd."""

    def __init__(self, fd: int, places: int) -> None:
        self.fd = fd
        self.places = places
        self._map = mmap.mmap(fd, self._size(places))
        self._words = memoryview(self._map).cast("q")
        self.claims = self._words[: len(TRANSPORTS) * PORTS]
        """The ledger's words, transport by transport."""
        self._counts = self._words[len(TRANSPORTS) * PORTS :]

    @classmethod
    def create(cls, places: int) -> Board:
        """A new one, all zeroes; nothing of it is in any file system."""
        fd = os.memfd_create("soak")
        os.ftruncate(fd, cls._size(places))
        return cls(fd, places)

    @staticmethod
    def _size(places: int) -> int:
        return _WORD_BYTES * (len(TRANSPORTS) * PORTS + places * _PLACE_WORDS)

    def pid(self, place: int) -> int:
        """Who is in that place."""
        return self._counts[place * _PLACE_WORDS]

    def pid_of(self, number: int) -> int | None:
        """The pid of the process of that number; None if another is in its place, so it is dead."""
        for place in range(self.places):
            if self._counts[place * _PLACE_WORDS + 1] == number:
                pid = self.pid(place)
                # Whoever enters writes the pid first: so this one is still the number's.
                return pid if self._counts[place * _PLACE_WORDS + 1] == number else None
        return None

    def enter(self, place: int, number: int) -> None:
        """Say that this process is in it now."""
        self._counts[place * _PLACE_WORDS + 1] = 0
        self._counts[place * _PLACE_WORDS] = os.getpid()
        self._counts[place * _PLACE_WORDS + 1] = number

    def add(self, place: int, name: str, number: int = 1) -> None:
        """Count something in a place."""
        self._counts[place * _PLACE_WORDS + 2 + _INDEX[name]] += number

    def get(self, place: int, name: str) -> int:
        """What was counted in a place, by everybody who was there."""
        return self._counts[place * _PLACE_WORDS + 2 + _INDEX[name]]

    def total(self, name: str) -> int:
        """What was counted in all of them."""
        return sum(self.get(place, name) for place in range(self.places))

    def totals(self) -> dict[str, int]:
        """All that was counted."""
        return {name: self.total(name) for name in COUNTERS}

    def close(self) -> None:
        """Unmap it and close the descriptor."""
        self.claims.release()
        self._counts.release()
        self._words.release()
        self._map.close()
        os.close(self.fd)
