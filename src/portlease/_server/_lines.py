"""The lines of a server's output: cut from its bytes, decoded, and none of them half.

Bounded: of an output of any size one block is in memory, and of a line that never ends one MiB.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from portlease._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, Protocol, Self

    class Source(Protocol):
        """Bytes that become more; see :class:`portlease._server._output.Output`."""

        first: int

        def size(self) -> int:
            """How many bytes there are."""

        def read(self, start: int = 0, length: int | None = None) -> bytes:
            """Those from *start* on."""


BLOCK_BYTES: Final = 1 << 16
LONGEST_BYTES: Final = 1 << 20
"""A line that is longer comes in pieces."""

_CONTINUATION: Final = 0x80
_CONTINUATION_MASK: Final = 0xC0
_LONGEST_CHARACTER: Final = 4


class Line(str):
    """A line of a server's output, without its end: text like any other, that knows its place."""

    __slots__ = ("end",)

    end: int
    """The byte of the output at which the next line begins."""

    def __new__(cls, text: str, end: int) -> Self:
        line = super().__new__(cls, text)
        line.end = end
        return line

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.end)


class Found(Line):
    """A line that was waited for."""

    __slots__ = ("pattern",)

    pattern: re.Pattern[str]

    def __new__(cls, text: str, end: int, pattern: re.Pattern[str]) -> Self:
        line = super().__new__(cls, text, end)
        line.pattern = pattern
        return line

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.end, self.pattern)

    @property
    def match(self) -> re.Match[str]:
        """Where the pattern was found in it: ``.match[1]`` is the first group."""
        match = self.pattern.search(self)
        if match is None:  # for the type checker: it was found by this very pattern
            raise ValueError(f"{self.pattern.pattern!r} is not in {self!r}")
        return match


def compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    """The pattern, checked.

    Raises:
        UsageError: it is no regular expression for text.
    """
    try:
        expression = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UsageError(
            f"pattern={pattern!r} is no regular expression: {error}; re.escape() makes one of text"
        ) from error
    if not isinstance(expression.pattern, str):
        raise UsageError(f"pattern={pattern!r} is one for bytes; lines are text, give a str")
    return expression


class Lines:
    """The lines of *source* from byte *start* on, each of them once."""

    def __init__(self, source: Source, start: int) -> None:
        self._source = source
        self._at = start
        """Where to read on; what was read before it is in ``_unfinished``, or was given out."""
        self._unfinished = b""

    def finished(self, *, end: bool = False) -> Iterator[Line]:
        """Those that have been finished since, without waiting for more; to be used up.

        Args:
            end: nothing more will be written, so the last line is finished as it is.
        """
        while lines := self.take(end=end):
            yield from lines

    def take(self, *, end: bool = False) -> list[Line]:
        """The next of them, a block's worth; empty if there are none."""
        while block := self._next_block():
            if lines := self._cut(block):
                return lines
        if not end or not self._unfinished:
            return []
        last = _line(self._unfinished, self._at)
        self._unfinished = b""
        return [last]

    def _next_block(self) -> bytes:
        source = self._source
        if source.size() < self._at:  # the server has truncated it, as a log file of its own
            self._at, self._unfinished = 0, b""
        if self._at < source.first:  # too old to have been kept
            self._at, self._unfinished = source.first, b""
        return source.read(self._at, BLOCK_BYTES)

    def _cut(self, block: bytes) -> list[Line]:
        begin = self._at - len(self._unfinished)
        self._at += len(block)
        *whole, self._unfinished = (self._unfinished + block).split(b"\n")
        lines = []
        for raw in whole:
            begin += len(raw) + 1
            lines.append(_line(raw, begin))
        if len(self._unfinished) > LONGEST_BYTES:
            cut = _cut(self._unfinished, LONGEST_BYTES)
            lines.append(_line(self._unfinished[:cut], begin + cut))
            self._unfinished = self._unfinished[cut:]
        return lines


def last_lines(source: Source, n: int, start: int, most_bytes: int) -> list[Line]:
    """The last *n* lines of what begins at byte *start*; of no more than *most_bytes* bytes."""
    size, span = source.size(), BLOCK_BYTES
    start = max(start, source.first)
    while True:
        begin = max(start, size - span)
        data = source.read(begin, max(0, size - begin))
        if begin == start or span >= min(most_bytes, n * LONGEST_BYTES) or data.count(b"\n") > n:
            break
        span *= 4
    raws = data.split(b"\n")
    lines = []
    for number, raw in enumerate(raws):
        for piece in _pieces(raw):
            begin += len(piece)
            lines.append(_line(piece, begin))
        if number < len(raws) - 1:
            begin += 1
            lines[-1].end = begin
    if not raws[-1]:  # behind the last line's end
        lines.pop()
    return lines[-n:] if n else []


def _pieces(raw: bytes) -> Iterator[bytes]:
    """A line whole, or a longer one than LONGEST_BYTES in pieces."""
    while len(raw) > LONGEST_BYTES:
        cut = _cut(raw, LONGEST_BYTES)
        yield raw[:cut]
        raw = raw[cut:]
    yield raw


def _line(raw: bytes, end: int) -> Line:
    return Line(raw.removesuffix(b"\r").decode("utf-8", "replace"), end)


def _cut(data: bytes, most: int) -> int:
    """Where to cut *data*: at *most* bytes, or up to three before, not within a character."""
    for cut in range(most, most - _LONGEST_CHARACTER, -1):
        if data[cut] & _CONTINUATION_MASK != _CONTINUATION:
            return cut
    return most  # no UTF-8 at all
