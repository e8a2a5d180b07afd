"""Signals, for a command line that runs others' commands.

Two ways to treat them, one after the other. While a server starts, a signal interrupts us: what was
started is stopped on the way out. While a command runs in the foreground, it passes through to the
command, and we end when the command does.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

from portlease.cli import _say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Final

    from portlease._tree._process import Process

SIGTERM: Final = int(signal.SIGTERM)
_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_PASSED: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


class Interrupted(BaseException):
    """One of SIGINT, SIGTERM and SIGHUP came; not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Have signals raise :class:`Interrupted` in the main thread, each but once.

    What was ignored when we were started (nohup, a script's background job) stays so.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        # The way out stops servers, which takes them a while: impatience must not break it off.
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {
        number: handler
        for number in _ENDING
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Followed(NamedTuple):
    """How a foreground command ended."""

    returncode: int
    """As in :mod:`subprocess`."""
    told_to_end: bool
    """Whether a signal that ends programs came meanwhile, for it or for us."""


def hold_back() -> set[int]:
    """Have signals wait, while a command starts: then they are for it. Undone by `follow`."""
    if sys.platform == "linux":
        return signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED, signal.SIGCHLD})
    return set()


def let_go(before: set[int]) -> None:
    """Have signals come again, those that waited at once; *before*: what hold_back() returned."""
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow(process: Process, before: set[int]) -> Followed:
    """Wait until a foreground command has ended, and pass it the signals that come for us.

    *before* is what hold_back() returned when the command was about to be started.

    What the terminal sends (the keyboard's signals, a hang-up) reaches our process group, and so
    the command itself: that is not passed on, or the command would see it twice.
    """
    if sys.platform == "linux":
        return _follow(process, before)
    return _follow_roughly(process)


if sys.platform == "linux":

    def _follow(process: Process, before: set[int]) -> Followed:
        # sigwaitinfo(2) tells who sent a signal, which no Python handler learns. It waits for
        # signals alone, so a thread turns the command's end into one.
        main_thread, ended = threading.get_ident(), threading.Event()
        told_to_end = False

        def wait_for_it() -> None:
            try:
                process.wait()
            finally:
                ended.set()
                signal.pthread_kill(main_thread, signal.SIGCHLD)

        waiter = threading.Thread(target=wait_for_it, name="portlease waits for the command")
        try:
            waiter.start()
            while not ended.is_set():
                news = signal.sigwaitinfo({*_PASSED, signal.SIGCHLD})
                # si_code, sigaction(2): above 0 it came from the kernel (a terminal), else from a
                # process (kill, sigqueue).
                told_to_end |= news.si_signo in _ENDING
                if news.si_signo != signal.SIGCHLD and news.si_code <= 0:
                    _pass_on(process, news.si_signo)
            waiter.join()
            # What else came while it ran is too late for it, and no reason to end otherwise.
            while (late := signal.sigtimedwait(_PASSED, 0)) is not None:
                told_to_end |= late.si_signo in _ENDING
        finally:
            let_go(before)
        return Followed(process.wait(), told_to_end)


def _follow_roughly(process: Process) -> Followed:
    """As `follow`, where nothing tells who sent a signal: the keyboard's are never passed on."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        came.add(number)
        if number not in keyboard:
            _pass_on(process, number)

    came: set[int] = set()
    keyboard = {signal.SIGINT, getattr(signal, "SIGQUIT", signal.SIGINT)}
    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
    try:
        for number in _PASSED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, pass_on)
        return Followed(process.wait(), not came.isdisjoint(_ENDING))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(process: Process, number: int) -> None:
    try:
        process.send_signal(number)
    except PermissionError as error:  # it has become another user, as sudo does
        _say.say(f"{error.strerror}; it runs as another user now")
