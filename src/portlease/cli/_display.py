"""A picture on a terminal that is drawn anew while things move on; nothing at all in a pipe."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from portlease.cli import _say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from rich.console import Console, RenderableType
    from rich.live import Live


class Display(ABC):
    """What draws its picture on standard error, if that is a terminal. Context manager.

    Args:
        shown: False: never; True: if standard error is a terminal.
        per_second: how often it is drawn.
    """

    def __init__(self, *, shown: bool, per_second: int) -> None:
        self._per_second = per_second
        self._told = contextlib.ExitStack()
        self._console = _say.console(stderr=True) if shown and sys.stderr.isatty() else None
        self._live = None if self._console is None else self._make(self._console)

    def _make(self, console: Console) -> Live:
        from rich.live import Live

        return Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=self._per_second,
            transient=True,
            # What others write to our descriptors is their business.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @abstractmethod
    def _picture(self) -> RenderableType:
        """How things are now."""

    @property
    def is_drawn(self) -> bool:
        """Whether there is a terminal for it, and it is wanted."""
        return self._live is not None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the picture away while something else is written to the terminal."""
        if self._live is None:
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            self._live.start(refresh=True)

    def __enter__(self) -> Self:
        if self._live is not None and self._console is not None:
            self._told.enter_context(_say.drawing(self._console))
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._told:
            if self._live is not None:
                self._live.stop()
