"""Homes of recipes: seeing that they are gone, with all that lived there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from _processes import fork, watched
from portlease._tree import _janitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    import pytest


@contextlib.contextmanager
def folder_for_homes(monkeypatch: pytest.MonkeyPatch, prefix: str = "pl-") -> Iterator[Path]:
    """Have this process make its temporary files in a folder of its own, empty in the end.

    It is open to all, and its path short: pytest's own are root's alone, and too long for a Unix
    socket.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    try:
        yield path
        assert list(path.iterdir()) == []
        assert marked(path) == []
    finally:
        shutil.rmtree(path)


def marked(path: Path) -> list[int]:
    """The processes in whose command line *path* is: servers, keepers, janitors."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and os.fsencode(path) in _janitor._command_line(int(entry.name))
    ]


def die(*_: object, **__: object) -> NoReturn:
    """End this process at once, as nothing can be done against."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def killed(work: Callable[[], object]) -> None:
    """Do *work* in a child process, which must end by SIGKILL."""
    pid = fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - whatever it is, it is shown
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def nothing_is_left(path: Path) -> None:
    """Wait until all that mention the folder have ended; then nothing is in it."""
    with watched(marked(path)) as wait_all:
        assert wait_all() == []
    assert marked(path) == []
    assert list(path.iterdir()) == []
