"""A start that another thread can break off.

Who starts a server may wait for it in another thread than the one that decides: an event loop, or
the thread that starts a whole group. :class:`Cancel` is between the two. The starting side says
what must be ended for it to wake up; the deciding side calls :meth:`Cancel.cancel`, which does that
and returns at once. The starting side then cleans up as after any other error.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from portlease._errors import PortleaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class StartCancelledError(PortleaseError):
    """A start was broken off by :meth:`Cancel.cancel`; nothing of it is left. Never a user's."""


class Cancel:
    """Breaks a start off. Used once: a start that is to follow needs another."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may cancel what its thread starts
        self._over = threading.Event()
        self._ends: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._over.is_set()

    def cancel(self) -> None:
        """Break it off. From any thread, the event loop's too: it does not wait. Again: nothing."""
        with self._lock:
            if self._over.is_set():
                return
            self._over.set()
            for end in self._ends:
                end()

    def check(self) -> None:
        """Raise StartCancelledError if it was broken off."""
        if self._over.is_set():
            raise StartCancelledError("the start was broken off")

    def wait(self, timeout_s: float) -> None:
        """Sleep *timeout_s*, or until it is broken off; then raise StartCancelledError."""
        self._over.wait(timeout_s)
        self.check()

    @contextlib.contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """In the block, have :meth:`cancel` call *end*; at once if that was called already.

        *end* is called in the thread that cancels, with a lock held, and must not wait.
        """
        with self._lock:
            self._ends.append(end)
            if self._over.is_set():
                end()
        try:
            yield
        finally:
            with self._lock:
                self._ends.remove(end)
