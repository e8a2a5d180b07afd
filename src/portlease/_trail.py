"""The trail: what happened to ports in a run, written by every process that took part in it.

A file of JSON lines whose path is in the environment, PORTLEASE_TRAIL. Its writers know nothing of
each other: the audit's observer, the hook in each Python interpreter (:mod:`._audit`), the pytest
plugin, all instances of a ``repeat``. Each appends whole lines, a write(2) a line, to a file opened
with O_APPEND, and lets go of it at once: a descriptor that stayed open in somebody else's program
would take a number from it, and be closed or overwritten by one that cleans up after itself.

Whatever is not known is left out of a line. Pages, tables and verdicts are drawn from the trail and
from nothing else.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

VARIABLE: Final = "PORTLEASE_TRAIL"
"""Names the file; where it is not set, nothing is gathered."""
INSTANCE: Final = "PORTLEASE_INSTANCE"
RUNNER: Final = "PORTLEASE_RUNNER"
"""The process id of the test runner that a process was started by."""

BIND: Final = "bind"
LISTEN: Final = "listen"
CONNECT: Final = "connect"
PLACE: Final = "place"
"""Where a Python program is about to bind: for the observer, which then tells of the bind."""
PROCESS: Final = "process"
TEST_START: Final = "test-start"
TEST_END: Final = "test-end"

IN_USE: Final = frozenset({"EADDRINUSE", "failed"})
"""The errors of a bind that may mean that somebody has the port."""

KERNEL: Final = "kernel"
"""An origin: the port was 0, the kernel chose."""
LEASE: Final = "lease"
UNHELD: Final = "unheld"
"""An origin: a number that was found to be free, and let go of before it was used."""
HARD_CODED: Final = "hard-coded"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a trail. None: not known, or of no meaning for this kind of event.

    Attributes:
        t: when, in nanoseconds of CLOCK_MONOTONIC: the same clock for all processes of a machine.
        what: the kind of event: `BIND`, `LISTEN`, `CONNECT`, `PLACE`, `PROCESS`, `TEST_START`,
            `TEST_END`.
        pid: the process it happened in, as that process's own PID namespace numbers it where the
            process itself tells, else as the observer's does.
        tid: the thread, likewise.
        port: the number that was asked for, 0 for any; of a connect: the one connected to.
        got: the number that was bound; None where the bind failed.
        address: the IP address, as asked for.
        transport: ``"tcp"`` or ``"udp"``.
        error: the errno's name if it failed; ``"failed"`` where only that much is known.
        reuseaddr: whether SO_REUSEADDR was set; of a socket about to be bound.
        reuseport: the same for SO_REUSEPORT.
        exe: the program's file.
        argv: its arguments, the first of them its name.
        file: of a Python program, the source that called for it: the first outside of the standard
            library and of installed packages, if there is one.
        line: its line there.
        inner_file: the source that made the call itself, where that is another.
        inner_line: its line there.
        test: the node id of the test that ran.
        outcome: of a test's end: ``"passed"``, ``"failed"``, ``"skipped"`` or ``"error"``.
        worker: the pytest-xdist worker.
        instance: which of several runs side by side, from 1 on.
        runner: the process id of the test runner.
        origin: where the number came from: `LEASE`, `KERNEL`, `UNHELD`, `HARD_CODED`, `UNKNOWN`.
        lease: the label of the lease, ``""`` for one without; None where it is no lease's.
        hold: whether it is the lease itself that takes its hold; the server's bind comes later.
        row: the lease's row as it was published, for who works the origin out.
        status: of a process's end: its exit status, as in :mod:`subprocess`.
        more: what a newer writer knows that we do not.
    """

    t: int
    what: str
    pid: int
    tid: int | None = None
    port: int | None = None
    got: int | None = None
    address: str | None = None
    transport: str | None = None
    error: str | None = None
    reuseaddr: bool | None = None
    reuseport: bool | None = None
    exe: str | None = None
    argv: tuple[str, ...] | None = None
    file: str | None = None
    line: int | None = None
    inner_file: str | None = None
    inner_line: int | None = None
    test: str | None = None
    outcome: str | None = None
    worker: str | None = None
    instance: int | None = None
    runner: int | None = None
    origin: str | None = None
    lease: str | None = None
    hold: bool | None = None
    row: str | None = None
    status: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What is known of it, as a line of the trail has it."""
        known = ((name, getattr(self, name)) for name in _NAMES)
        return {name: value for name, value in known if value is not None} | dict(self.more)


_KINDS: Final = {one.name: str(one.type).removesuffix(" | None") for one in fields(Event)}
"""Of each field, as it is annotated: ``"str"``, ``"int"``, ``"bool"``, ..."""
_NAMES: Final = tuple(name for name in _KINDS if name != "more")


class Damage(NamedTuple):
    """A line that is no event: two writers' at once on a network file system, or a full disk."""

    number: int
    """Of the line, from 1 on."""
    text: str
    """Its beginning."""


class Trail(NamedTuple):
    """What was read of one."""

    events: list[Event]
    """In the order in which they were written, which is each process's own order."""
    damaged: list[Damage]


def write(event: Event, path: str) -> None:
    """Append one event to the trail at *path*, which is made if it is not there.

    Raises:
        OSError: it cannot be written to.
    """
    line = json.dumps(event.as_dict(), separators=(",", ":")).encode() + b"\n"
    # 0o666: other users' processes may take part, as far as our umask lets them.
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def now() -> int:
    """The time of an event that happens now."""
    return time.monotonic_ns()


def number(text: str | None) -> int | None:
    """The number in a variable of the environment, as `INSTANCE`; None for anything else."""
    return int(text) if text and text.isascii() and text.isdecimal() else None


def read(path: str) -> Trail:
    """Read a whole trail.

    A last line without its end is left out: its writer was killed in the midst of it, or is not
    done yet. A line before it that is no event is told of, and passed over.

    Raises:
        OSError: it cannot be read.
    """
    return Follower(path).more()


class Follower:
    """Reads a trail while others still write to it. Holds nothing open between two calls.

    Args:
        path: the file, which need not be there yet.
        start: how many bytes of it are passed over: up to the end of a line.
    """

    def __init__(self, path: str, start: int = 0) -> None:
        self.path = path
        self._read_bytes = start
        self._lines = 0
        self._rest = b""

    def more(self) -> Trail:
        """What was written since the last call. The file must be there.

        Raises:
            OSError: it cannot be read.
        """
        with open(self.path, "rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        self._read_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        trail = Trail([], [])
        for line in lines:
            self._lines += 1
            event = _parsed(line)
            if event is not None:
                trail.events.append(event)
            else:
                text = line[:_SHOWN_BYTES].decode("utf-8", "replace")
                trail.damaged.append(Damage(self._lines, text))
        return trail


_SHOWN_BYTES: Final = 200


def _parsed(line: bytes) -> Event | None:
    """The event that a line is; None for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is one; "[[[[[..."
        return None
    return None if not isinstance(value, dict) else _event(value)


def _event(value: dict[str, Any]) -> Event | None:
    if not all(_is_right(name, value[name]) for name in value):
        return None
    known = {name: value[name] for name in _NAMES if name in value}
    if not known.keys() >= {"t", "what", "pid"}:
        return None
    if "argv" in known:
        known["argv"] = tuple(known["argv"])
    more = {name: value[name] for name in value.keys() - known.keys()}
    return Event(**known, more=more)


def _is_right(name: str, value: object) -> bool:
    """Whether a field may have this value; of fields that we do not know, any."""
    kind = _KINDS.get(name)
    if kind == "str":
        return isinstance(value, str)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "bool":
        return isinstance(value, bool)
    if name == "argv":
        return isinstance(value, list) and all(isinstance(word, str) for word in value)
    return name != "more"
