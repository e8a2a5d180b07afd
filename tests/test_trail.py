"""The trail: written by many at once, read while it grows, and after all kinds of accidents."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from _processes import HANG_S
from portlease import _trail
from portlease._trail import Event

FULL = Event(
    t=1,
    what=_trail.BIND,
    pid=2,
    tid=3,
    port=0,
    got=4,
    address="127.0.0.1",
    transport="tcp",
    reuseaddr=True,
    reuseport=False,
    exe="/bin/x",
    argv=("x", "\udcff\n"),
    file="/t.py",
    line=5,
    test="t.py::test[\u2028é]",
    origin=_trail.LEASE,
    lease="",
    hold=True,
    more={"new": [1, {"a": None}]},
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a trail will be."""
    return str(tmp_path / "trail.jsonl")


def test_what_is_written_is_read(path: str) -> None:
    """All fields, any text, and what a newer writer adds; what is not known is left out."""
    bare = Event(t=9, what="something new", pid=1)
    for event in (FULL, bare):
        _trail.write(event, path)
    assert _trail.read(path) == ([FULL, bare], [])
    first, second = Path(path).read_text(encoding="ascii").splitlines()
    assert json.loads(second) == {"t": 9, "what": "something new", "pid": 1}
    assert "error" not in json.loads(first)


def test_a_torn_last_line_is_left_out(path: str) -> None:
    """Its writer was killed in the midst of it; or will go on, and then it is there."""
    _trail.write(FULL, path)
    line = Path(path).read_bytes()
    follower = _trail.Follower(path)
    Path(path).write_bytes(line + line[:20])
    assert follower.more() == ([FULL], [])
    Path(path).write_bytes(line + line)
    assert follower.more() == ([FULL], [])
    assert follower.more() == ([], [])


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"nonsense", b"\xff\xfe", b"[1]", b"null", b'{"t": 1, "what": "bind"}'),
        *(b"[" * 100_000, b'{"t": 1' * 20_000),
        *(b'{"t": "1", "what": "bind", "pid": 1}', b'{"t": 1, "what": "bind", "pid": true}'),
        *(b'{"t": 1, "what": 2, "pid": 1}', b'{"t": 1, "what": "a", "pid": 1, "more": {}}'),
        *(b'{"t": 1, "what": "a", "pid": 1, "argv": "x"}', b'{"t":1,"wh{"t":1,"what":"x","pid":1}'),
    ],
)
def test_a_damaged_line_is_told_of(path: str, line: bytes) -> None:
    """By its number and beginning; those round it count."""
    _trail.write(FULL, path)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole + line + b"\n" + whole)
    events, damaged = _trail.read(path)
    assert events == [FULL, FULL]
    assert damaged == [(2, line[:200].decode("utf-8", "replace"))]


def test_many_writers_at_once(path: str) -> None:
    """No line is lost or torn, and each writer's are in its order."""
    script = (
        "import sys; from portlease import _trail\n"
        "for n in range(300):\n"
        "    event = _trail.Event(t=n, what='x', pid=int(sys.argv[2]), test='a' * 3000)\n"
        "    _trail.write(event, sys.argv[1])\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, path, str(number)]) for number in range(4)
    ]
    assert [writer.wait(HANG_S) for writer in writers] == [0] * 4
    events, damaged = _trail.read(path)
    assert not damaged
    assert len(events) == 1200
    for number in range(4):
        assert [event.t for event in events if event.pid == number] == list(range(300))


def test_nothing_stays_open(path: str) -> None:
    """Neither by writing nor by reading."""
    before = len(list(Path("/dev/fd").iterdir()))
    _trail.write(FULL, path)
    _trail.Follower(path).more()
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_follower_may_begin_later(path: str) -> None:
    """At the end of what another has written."""
    _trail.write(FULL, path)
    follower = _trail.Follower(path, Path(path).stat().st_size)
    later = dataclasses.replace(FULL, t=2)
    _trail.write(later, path)
    assert follower.more().events == [later]


def test_numbers_of_the_environment() -> None:
    """Whatever somebody may have put there."""
    texts = (None, "", "7", "-7", "x", "٣")
    assert [_trail.number(text) for text in texts] == [None, None, 7, None, None, None]
