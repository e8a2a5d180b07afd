"""What holds for every test: it leaves no file descriptor and no child process behind."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["pytester", "_dropin_report"]

# A script's background job, nohup(1) and some CI runners start us with signals ignored, and every
# program that a test starts would inherit that. The tests are about those that a person starts.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number,
            signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL,
        )

# A CI runner's mark: pytest prints its summary otherwise where it finds one (_pytest/compat.py,
# running_on_ci), and the tests compare what a person sees.
for _name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_name, None)

_FD_DIRECTORY = Path("/proc/self/fd")
_TASK_DIRECTORY = Path("/proc/self/task")


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves an open file descriptor or a child process behind.

    Costs some 0.2 ms. Where there is no /proc it checks nothing. What a fixture of a wider
    scope opens is open before the test begins, if the test names it among its arguments. A test
    that must leave something, and says why, is marked ``leaks``.
    """
    if request.node.get_closest_marker("leaks") is not None or not _FD_DIRECTORY.is_dir():
        yield
        return
    fds_before, children_before = _open_fds(), _children()
    yield
    if _open_fds() - fds_before or _children() - children_before:
        gc.collect()  # what sits in a reference cycle is garbage, not yet a leak
    fds, children = _open_fds() - fds_before, _children() - children_before
    if fds or children:
        left = [f"fd {fd}: {target}" for fd, target in sorted(fds)]
        left += [f"child process {pid}: {_command(pid)}" for pid in sorted(children)]
        pytest.fail("the test left behind\n  " + "\n  ".join(left), pytrace=False)


def _open_fds() -> set[tuple[int, str]]:
    """Return every open descriptor and what it refers to."""
    found = set()
    for fd in _FD_DIRECTORY.iterdir():
        try:
            found.add((int(fd.name), str(fd.readlink())))
        except FileNotFoundError:
            continue  # the one that listed the directory, or another thread's, closed meanwhile
    return found


def _children() -> set[int]:
    """Return the process ids of the children, zombies included, of every thread."""
    found: set[int] = set()
    for task in _TASK_DIRECTORY.iterdir():
        try:
            text = (task / "children").read_text(encoding="ascii")
        except FileNotFoundError:
            continue  # the thread has ended, or the kernel was built without CONFIG_PROC_CHILDREN
        found.update(map(int, text.split()))
    return found


def _command(pid: int) -> str:
    """Return the command line of *pid*, for a person to read."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return "(ended)"
    return b" ".join(words).decode(errors="replace") or "(a zombie, not waited for)"
