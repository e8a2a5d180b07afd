"""Seeing other processes end, without sleeping and without mistaking a new one for the old."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_Result = TypeVar("_Result")

HANG_S = 240.0
"""A hang guard, never a speed claim: nothing takes so long, however busy the machine is.

Short of `faulthandler_timeout`, which ends the whole run."""


@contextlib.contextmanager
def watched(pids: Iterable[int]) -> Iterator[Callable[[], list[int]]]:
    """Keep hold of processes by pidfd_open(2).

    What it gives waits until all of them have ended, and returns those that have not in HANG_S. It
    ends those itself, so that a failed test leaves nothing behind.
    """
    fds: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            fds[pid] = os.pidfd_open(pid)

    def wait_all() -> list[int]:
        give_up = time.monotonic() + HANG_S
        return [
            pid for pid, fd in fds.items() if not readable(fd, max(0.0, give_up - time.monotonic()))
        ]

    try:
        yield wait_all
    finally:
        for fd in fds.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def run_as(
    user: int, command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as another user, in no group but his and in a folder that is everybody's."""
    return subprocess.run(
        command,
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        env=env,
        timeout=HANG_S,
        check=False,
    )


def readable(fd: int, timeout_s: float) -> bool:
    """Wait until *fd* can be read (a pidfd: until its process has ended)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that nothing announces; fail after HANG_S."""
    give_up = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < give_up, "it never came about"
        select.select([], [], [], 0.001)


def with_ever_more_time(
    attempt: Callable[[float], _Result], came_so_far: Callable[[_Result], object]
) -> _Result:
    """Do *attempt* in little time, and then in ever more, until its result *came_so_far*.

    For what waits in vain until its time is over: how long the others need until they are where
    they will stay, no busy machine tells.
    """
    for seconds in (0.3, 1.0, 5.0, 20.0):
        if came_so_far(result := attempt(seconds)):
            return result
    result = attempt(HANG_S / 3)
    assert came_so_far(result), f"it never came so far: {result}"
    return result


def fork() -> int:
    """As os.fork(), which warns from Python 3.12 on where there are threads (pytest-xdist's)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def descendants(pid: int) -> list[int]:
    """The children of all of its threads, and theirs, as they are now."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # or a thread has
                for child in map(int, (task / "children").read_text(encoding="ascii").split()):
                    found += [child, *descendants(child)]
    return found


def status(pid: int, field: str) -> str:
    """One field of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise KeyError(field)
