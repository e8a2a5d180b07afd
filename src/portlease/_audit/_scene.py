"""The scene of a call: which program made it, in which test, and in which line of Python.

Program and family are read from /proc; the rest is in the trail already when the call is made,
since the Python hook and the pytest plugin write before they go on.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from portlease import _trail

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

from portlease._platform import _linux_proc  # noqa: E402

if TYPE_CHECKING:
    from typing import Any, Final

    from portlease._trail import Event

_MOST_ANCESTORS: Final = 64
_MOST_WORDS: Final = 30
_LONGEST_WORD: Final = 200
_CURRENT_TEST: Final = "PYTEST_CURRENT_TEST"
"""pytest's own: ``tests/test_it.py::test_it (call)``."""


class Test(NamedTuple):
    """A test that runs now."""

    name: str | None
    worker: str | None


class Scene:
    """What the trail at *path* has told so far, and /proc tells now."""

    def __init__(self, path: str) -> None:
        self._trail = _trail.Follower(path)
        self._places: dict[int, Event] = {}
        """By thread: where in Python its next bind is made."""
        self._tests: dict[int, Test] = {}
        """By the process that runs them: the test that runs there; nameless between two."""

    def catch_up(self) -> list[_trail.Damage]:
        """Read what others have written meanwhile; return what of it was damaged.

        Raises:
            OSError: the trail cannot be read any more.
        """
        events, damaged = self._trail.more()
        for event in events:
            if event.what == _trail.PLACE and event.tid is not None:
                self._places[event.tid] = event
            elif event.what == _trail.TEST_START:
                self._tests[event.pid] = Test(event.test, event.worker)
            elif event.what == _trail.TEST_END:
                self._tests[event.pid] = Test(None, event.worker)
        return damaged

    def place(self, tid: int, port: int, transport: str) -> Event | None:
        """Where in Python the bind is made that thread *tid* is making; once."""
        place = self._places.pop(tid, None)
        if place is None or (place.port, place.transport) != (port, transport):
            return None
        return place

    def facts(self, pid: int) -> dict[str, Any]:
        """What an event says of a process: its program and the test it belongs to."""
        environ = _environment(pid)
        facts: dict[str, Any] = {
            "exe": _link(f"/proc/{pid}/exe"),
            "argv": _words(pid),
            "instance": _trail.number(environ.get(_trail.INSTANCE)),
        }
        if current := environ.get(_CURRENT_TEST):  # as it was when the process was started
            facts["test"] = current.rpartition(" (")[0]
        runner = self._runner(pid, _trail.number(environ.get(_trail.RUNNER)))
        if runner is not None:
            test = self._tests[runner]
            facts.update(runner=runner, test=test.name, worker=test.worker)
        return facts

    def _runner(self, pid: int, named: int | None) -> int | None:
        """The test runner that a process belongs to: it, an ancestor, or the one it was told of."""
        if not self._tests:
            return None
        for _ in range(_MOST_ANCESTORS):
            if pid in self._tests:
                return pid
            pid = _parent(pid)
            if pid <= 1:
                break
        return named if named in self._tests else None


def _parent(pid: int) -> int:
    try:
        stat = _linux_proc._stat(f"/proc/{pid}/stat")
    except PermissionError:  # hidepid=1
        return 0
    return 0 if stat is None else stat.ppid


def _words(pid: int) -> tuple[str, ...] | None:
    words = _read(f"/proc/{pid}/cmdline").rstrip(b"\0").split(b"\0")[:_MOST_WORDS]
    return tuple(os.fsdecode(word)[:_LONGEST_WORD] for word in words)


def _environment(pid: int) -> dict[str, str]:
    """What concerns us of the environment that a process was started with, if it can be seen."""
    text = b"\0" + _read(f"/proc/{pid}/environ")
    found = {}
    for name in (_trail.INSTANCE, _trail.RUNNER, _CURRENT_TEST):
        _, there, rest = text.partition(f"\0{name}=".encode())
        if there:
            found[name] = os.fsdecode(rest.partition(b"\0")[0])
    return found


def _read(path: str) -> bytes:
    """A file of /proc; nothing where it has gone or is closed to us."""
    try:
        return _linux_proc._read(path) or b""
    except PermissionError:
        return b""


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
