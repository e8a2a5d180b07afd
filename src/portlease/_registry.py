"""What a lease tells the machine about itself, and ``leases()``, which reads it back.

On Linux every lease publishes one *row*: an abstract Unix socket whose name is the row. Nobody
keeps a list, so no list can be stale: the kernel drops the row with its owner. A row is what its
owner says; on a machine shared with liars, compare it with ``ss``. Elsewhere the board is empty and
``leases()`` knows this process's own leases only.

A row reads ``PORT/KIND/STATE/PID/PIDNS/BIRTH.SERIAL/SCOPE/LABEL``, 95 bytes at the most. BIRTH (the
millisecond and a number) is the lease's for life. SERIAL makes every row a new name: a child that
another thread has just forked has a copy of the old one until its exec, and no name can be bound
twice.
"""

from __future__ import annotations

import os
from collections import namedtuple
from itertools import count
from time import sleep, time_ns

from portlease import _platform
from portlease._platform import backend
from portlease._pool import MAX_PORT
from portlease._states import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, NamedTuple

    class Row(NamedTuple):
        """A live lease, as its owner published it."""

        port: int
        kind: str
        state: State
        pid: int | None
        born: bytes
        since: float
        scope: str
        label: str | None
else:
    # collections.namedtuple, because importing `typing` would double the cost of our own import.
    Row = namedtuple("Row", "port kind state pid born since scope label")  # noqa: PYI024

# sizeof(sun_path) is 108 (unix(7)); the leading NUL and "portlease/1/" take 13 of it.
NAME_BYTES: Final = 95
_KINDS: Final = {"t": "tcp", "u": "udp", "b": "both"}
_HEX: Final = frozenset("0123456789abcdef")
_HEX_DIGITS: Final = 16
_MAX_PID: Final = 1 << 22  # PID_MAX_LIMIT, <linux/threads.h>
_MAX_MS: Final = 1 << 43  # a day in 2248, which every function for dates can do with
# How often, and after what pauses, to look again for rows that only pass by: microseconds if their
# owners run, some time slices if they were preempted just then. In all 0.1 s.
_LOOKS: Final = 15
_PAUSE_S: Final = 1e-3
_STATES: Final = {state.letter: state for state in State}


_serial: Final = count()


class _Here:
    """This process, as its rows name it."""

    pid: int = 0
    pid_namespace: str = ""
    forms: dict[tuple[str, str, str], bytes]
    """Its rows by kind, state's letter and scope: all but port, birth and serial filled in."""


def _where() -> type[_Here]:
    if _Here.pid != (pid := _platform.pid):  # the first call, or a forked child
        try:
            inode = os.stat("/proc/self/ns/pid").st_ino
        except (FileNotFoundError, PermissionError):
            inode = 0
        _Here.pid_namespace = f"{inode:x}"
        _Here.forms = {}
        _Here.pid = pid
    return _Here


def _form(here: type[_Here], kind: str, state: State, scope: str) -> bytes:
    constant = f"/{kind[0]}/{state.letter}/{here.pid}/{here.pid_namespace}/", f"/{scope}/"
    start, end = (text.replace("%", "%%").encode() for text in constant)
    form = here.forms[kind, state.letter, scope] = b"%d" + start + b"%b.%x" + end
    return form


def birth() -> bytes:
    """What tells a lease of this process from all others: when it was born, and a number."""
    return b"%x.%x" % (time_ns() // 1_000_000, next(_serial))


def since(born: bytes) -> float:
    """When the lease of that birth was taken, in seconds since the epoch."""
    return int(born.partition(b".")[0], 16) / 1000


def encode(  # noqa: PLR0913, PLR0917 - the fields of a row
    port: int, kind: str, state: State, born: bytes, scope: str, label: str | None
) -> bytes:
    """A row of a lease of this process, never twice the same."""
    here = _where()
    form = here.forms.get((kind, state.letter, scope)) or _form(here, kind, state, scope)
    head = form % (port, born, next(_serial))  # bytes: half the time that text and encode() take
    if label is None and len(head) <= NAME_BYTES:
        return head
    if len(head) > NAME_BYTES:
        # Only a lease on many given hosts: what it covers is then told as a whole.
        return encode(port, kind, state, born, "*", label)
    tail = _printable(label or "").encode("utf-8", "surrogatepass")
    room = NAME_BYTES - len(head)
    if len(tail) > room:
        # The end of a test's node id says more than its beginning.
        tail = b"..." + tail[len(tail) - room + 3 :] if room > 3 else b""  # noqa: PLR2004
    return head + tail


def _printable(label: str) -> str:
    """*label* on one line: ``%`` and what cannot be printed as percent-encoded UTF-8."""
    if label.isprintable() and "%" not in label:
        return label
    return "".join(c if c.isprintable() and c != "%" else _percent(c) for c in label)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


def decode(name: bytes) -> Row | None:
    """The row that *name* is, or None for a name that portlease did not write."""
    fields = name.decode("utf-8", "ignore").split("/", 7)
    if len(fields) != 8:  # noqa: PLR2004 - see the module's docstring
        return None
    port, kind, state, pid, pid_namespace, birth_and_serial, scope, label = fields
    try:
        since_ms, _number, _serial = map(_hexadecimal, birth_and_serial.split("."))
        owner = _decimal(pid, _MAX_PID)
        row = Row(
            _decimal(port, MAX_PORT),
            _KINDS[kind],
            _STATES[state],
            owner if pid_namespace == _where().pid_namespace else None,
            birth_and_serial.rpartition(".")[0].encode(),
            since_ms / 1000,
            scope,
            (_unprintable(label) if "%" in label else label) or None,
        )
    except (KeyError, ValueError):
        return None
    # What follows from a row is shown to people, so not more of it is believed than we write.
    believable = since_ms < _MAX_MS and row.state is not State.RELEASED
    return row if believable and scope.isascii() and scope.isprintable() and scope else None


def _decimal(text: str, most: int) -> int:
    """A number from 1 to *most*; none of the other forms that int() takes."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most))):
        raise ValueError(text)
    number = int(text)
    if not 0 < number <= most:
        raise ValueError(text)
    return number


def _hexadecimal(text: str) -> int:
    if not (text and len(text) <= _HEX_DIGITS and _HEX.issuperset(text)):
        raise ValueError(text)
    return int(text, 16)


def _unprintable(label: str) -> str:
    first, *rest = label.encode().split(b"%")
    parts = [first]
    for part in rest:
        try:
            parts.append(bytes([int(part[:2], 16)]) + part[2:])
        except ValueError:  # a label that was cut in the middle of a code
            parts.append(b"%" + part)
    # "replace": one that was cut in the middle of a character, or held half a surrogate pair.
    return b"".join(parts).decode("utf-8", "replace")


def rows() -> list[Row]:
    """Every row on the board of this network namespace, oldest first, one for each lease.

    A lease that is moving on has its old and its new row there for a moment, and a taker shows the
    row of a port that it is about to be refused. Of rows that cannot both be true those stay that
    are there at every look, since a taker's soon goes; of several such (a taker that
    was stopped) the older, by its owner's clock, which may have been set meanwhile.
    """
    found = _read()
    kept = _first_of_each_ground(found)
    for number in range(_LOOKS):
        if _births(found) == _births(kept):
            break
        sleep(_PAUSE_S * number)
        there = _births(_read())
        found = [row for row in found if (row.pid, row.born) in there]
        kept = _first_of_each_ground(found)
    return kept


def _read() -> list[Row]:
    rows = (decode(name) for name in backend.published())
    return sorted((row for row in rows if row is not None), key=lambda row: row.since)


def _births(rows: Iterable[Row]) -> set[tuple[int | None, bytes]]:
    return {(row.pid, row.born) for row in rows}


def _first_of_each_ground(found: Iterable[Row]) -> list[Row]:
    kept: list[Row] = []
    by_port: dict[int, list[Row]] = {}
    for row in found:
        others = by_port.setdefault(row.port, [])
        if not any(_displaces(other, row) for other in others):
            others.append(row)
            kept.append(row)
    return kept


def _displaces(older: Row, younger: Row) -> bool:
    """Whether *younger* is *older* again, or a taker's that *older* will be refused for."""
    if (older.pid, older.born) == (younger.pid, younger.born):
        return True
    # Of a port that was handed over, and whose new owner closed it, a new lease may be real.
    return older.state is not State.HANDED_OVER and same_ground(older, younger.kind, younger.scope)


def same_ground(row: Row, kind: str, scope: str) -> bool:
    """Whether *row* claims its port for a transport and on an address that these cover too."""
    return (row.kind == kind or "both" in (row.kind, kind)) and overlap(row.scope, scope)


def overlap(one: str, other: str) -> bool:
    """Whether two scopes share an address: ``*``, a wildcard of one family, or addresses."""
    return any(covers(a, b) or covers(b, a) for a in one.split(",") for b in other.split(","))


def covers(wide: str, narrow: str) -> bool:
    """Whether a socket on the address or wildcard *wide* is also on *narrow*."""
    if wide in ("*", narrow):
        return True
    families = {"0.0.0.0": False, "::": True}  # noqa: S104 - names, nothing is bound
    return narrow != "*" and families.get(wide) is (":" in narrow)
