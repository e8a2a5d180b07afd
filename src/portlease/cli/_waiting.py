"""What is waited for, and for how long: a line that moves on a terminal; nothing in a pipe."""

from __future__ import annotations

import errno
import sys
import threading
import time
from typing import TYPE_CHECKING

from portlease.cli import _say

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

    from rich.console import Console, RenderableType

_SILENT_S: Final = 0.4
"""Who is ready by then was not waited for; most are."""
_PER_SECOND: Final = 10


class Waiting:
    """A spinner with a sentence and the elapsed time. Context manager.

    A thread of its own draws it; it has ended, and the line has gone, when the block is left.

    Args:
        who: the program that is waited for.
        shown: False: never; True: if standard error is a terminal that can move its cursor.
    """

    def __init__(self, who: str, *, shown: bool) -> None:
        self._who = who
        self._what = ""
        self._begun = time.monotonic()
        self._over = threading.Event()
        console = _say.console(stderr=True) if shown and sys.stderr.isatty() else None
        if console is not None and console.is_dumb_terminal:
            console = None
        self._thread = (
            None
            if console is None
            else threading.Thread(target=self._draw, args=(console,), name="portlease spinner")
        )

    def tell(self, what: str) -> None:
        """What is waited for from now on; from any thread."""
        self._what = what

    def _draw(self, console: Console) -> None:
        if self._over.wait(_SILENT_S):
            return
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("line")  # of ASCII: not every terminal has Braille
        live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        try:
            with _say.drawing(console), live:
                while not self._over.wait(1 / _PER_SECOND):
                    spinner.update(text=self._line(console.width))
                    live.update(spinner, refresh=True)
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal has gone; its SIGHUP ends us
                raise

    def _line(self, width: int) -> RenderableType:
        from rich.text import Text

        elapsed = f" ({time.monotonic() - self._begun:.1f} s)"
        line = Text(f"{self._who} starts" + (f"; waiting for {self._what}" if self._what else ""))
        line.truncate(max(1, width - len(elapsed) - len("- ")), overflow="ellipsis")
        return line.append(elapsed)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
