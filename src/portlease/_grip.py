"""What a lease has of the kernel: its sockets, whose they are, and what becomes of them at a fork.

After a fork they are the parent's alone. The child closes its copies before anything else of it
runs, and os.fork() returns in the parent only then: a port that the parent releases right after it
is free, not bound by a copy still.
"""

from __future__ import annotations

import errno
import os
import select
import sys

from portlease import _platform
from portlease._states import HELD, RELEASED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _weakref import ref
    from types import CodeType
    from typing import Final, TypeAlias

    from portlease._platform._types import Closable, Handle
    from portlease._wish import Bind, Wish

    # On whose behalf: the label, and the code and instruction of the call.
    By: TypeAlias = tuple[str | None, CodeType, int]

_CHILD_PATIENCE_S: Final = 1.0


class Grip:
    """What a lease has of the kernel, and says about itself; :class:`Lease` is its handle."""

    __slots__ = (
        "__weakref__",
        "born",
        "by",
        "guards",
        "holds",
        "over",
        "port",
        "row",
        "state",
        "wish",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - its parts
        self,
        port: int,
        wish: Wish,
        row: Closable,
        holds: list[tuple[Bind, Handle]],
        born: bytes,
        by: By,
    ) -> None:
        self.port = port
        self.wish = wish
        self.row = row
        self.holds = holds
        self.guards: dict[str, Closable] = {}
        self.born = born
        self.by = by
        self.state = HELD
        self.over = False
        """Whether all of release() has been done; an interrupt may come anywhere in it."""

    def close(self) -> None:
        """Give everything back to the kernel; may be called again."""
        self.row.close()  # the row goes first: no row may outlive its lease
        for _, hold in self.holds:
            hold.close()
        for guard in self.guards.values():
            guard.close()


live: dict[int, list[ref[Grip]]] = {}
"""The live leases of this process, by port; several only on different addresses or transports.

Weak, so that a lease whose release() was interrupted (Ctrl-C, an alarm) is closed all the same,
when nobody knows it any more.
"""


def alive() -> list[Grip]:
    """Those of this process's live leases."""
    return [
        grip
        for grips in list(live.values())
        for known in list(grips)
        if (grip := known()) is not None
    ]


def forget(grip: Grip) -> None:
    """Take *grip* out of ``live``."""
    known = live.pop(grip.port, ())
    if len(known) == 1 and known[0]() is grip:
        return
    left = [one for one in known if one() not in (None, grip)]
    if left:
        live[grip.port] = left


class _Fork:
    """The pipe on which a forked child says, by closing it, that our sockets are ours alone."""

    pipe: tuple[int, int] | None = None


def _before_fork() -> None:
    try:
        _Fork.pipe = os.pipe() if live else None
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        _Fork.pipe = None  # then the copies in the child last until it runs


def _after_fork_in_parent() -> None:
    if _Fork.pipe is not None:
        reader, writer = _Fork.pipe
        os.close(writer)
        # A child that a debugger stops before it has run is not waited for any longer.
        try:
            _wait_readable(reader, _CHILD_PATIENCE_S)
        finally:
            os.close(reader)
            _Fork.pipe = None


def _wait_readable(fd: int, timeout_s: float) -> None:
    if sys.platform == "win32":
        return  # where nothing forks
    poll = select.poll()  # select() knows only the first 1024 descriptors
    poll.register(fd, select.POLLIN)
    poll.poll(timeout_s * 1000)


def _after_fork_in_child() -> None:
    """The parent owns them all: close the copies."""
    for grip in alive():
        grip.state = RELEASED
        grip.close()
    live.clear()
    if _Fork.pipe is not None:
        for end in _Fork.pipe:
            os.close(end)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
_platform.guard_forks()
