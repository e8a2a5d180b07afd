"""How far a run is, while it runs: from its trail, and from what it writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from portlease import _trail
from portlease._repeat import _spoken

if TYPE_CHECKING:
    from typing import Final

_MOST_BYTES: Final = 1 << 18
"""How much of the output is looked at in one go; of a run that writes more, the end of it."""

_LONGEST_LINE: Final = 200


class Pace:
    """Reads on with every :meth:`look`. Holds nothing open.

    Attributes:
        done: how many tests are done, 0 where nothing tells.
        bad: how many of them failed, as far as the trail tells.
        share: how far it says it is, ``"42%"``.
        last_line: the last line it wrote.
        events: all of its trail.
        damaged: how many lines of the trail are none.
    """

    def __init__(self, output: str, trail: str) -> None:
        self.done = self.bad = self.damaged = 0
        self.share: str | None = None
        self.last_line = ""
        self.events: list[_trail.Event] = []
        self._output = output
        self._at = 0
        self._unfinished = b""
        self._said_done = 0
        self._ended_tests: set[tuple[str | None, str | None]] = set()
        self._follower = _trail.Follower(trail)

    def look(self) -> list[_trail.Event]:
        """Take in what is new; return the trail's new events."""
        self._read_output()
        new = self._read_trail()
        for event in new:
            if event.what == _trail.TEST_END:
                self._ended_tests.add((event.test, event.worker))
                self.bad += event.outcome in {"failed", "error"}
        self.done = len(self._ended_tests) or self._said_done
        return new

    def _read_trail(self) -> list[_trail.Event]:
        try:
            trail = self._follower.more()
        except FileNotFoundError:  # nobody has written to it yet
            return []
        self.events += trail.events
        self.damaged += len(trail.damaged)
        return trail.events

    def _read_output(self) -> None:
        with open(self._output, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < self._at or size - self._at > _MOST_BYTES:  # truncated; or far ahead
                self._at, self._unfinished = max(0, size - _MOST_BYTES), b""
            file.seek(self._at)
            data = file.read(_MOST_BYTES)
        self._at += len(data)
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        # A line of dots grows without an end; its tail is enough.
        self._unfinished = self._unfinished[-_MOST_BYTES:]
        for raw in lines:
            self._take(raw.decode("utf-8", "replace"))
        if self._unfinished:
            self._show(self._unfinished.decode("utf-8", "replace"))

    def _take(self, line: str) -> None:
        self._said_done += _spoken.is_one_done(line)
        self.share = _spoken.share_done(line) or self.share
        self._show(line)

    def _show(self, line: str) -> None:
        if text := line.rpartition("\r")[2].strip():
            self.last_line = text[:_LONGEST_LINE]

    def running(self) -> str | None:
        """The test that had begun and not ended when it was last looked; None if none, or unknown.

        Of several (pytest-xdist's workers), the one that began first.
        """
        begun = {
            (event.test, event.worker): event.test
            for event in self.events
            if event.what == _trail.TEST_START
        }
        return next((test for key, test in begun.items() if key not in self._ended_tests), None)
