"""How far many jobs are, on a terminal, while they run; nothing at all in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from typing import TYPE_CHECKING

from portlease.cli import _say
from portlease.cli._job import HEADINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Final, Self

    from rich.console import Console, RenderableType
    from rich.live import Live

    from portlease.cli._job import Job

_PER_SECOND: Final = 8
_STATES: Final = ("starting", "ready", "client", "ok", "failed", "stopped")


class Progress:
    """A table that is drawn anew as the jobs move on. Context manager.

    Args:
        jobs: read at every drawing.
        shown: False: never; True: if standard error is a terminal.
    """

    def __init__(self, jobs: Sequence[Job], *, shown: bool) -> None:
        self._jobs = jobs
        self._console = _say.console(stderr=True) if shown and sys.stderr.isatty() else None
        self._live: Live | None = None if self._console is None else self._make(self._console)
        self._told = contextlib.ExitStack()

    def _make(self, console: Console) -> Live:
        from rich.live import Live

        return Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=_PER_SECOND,
            transient=True,
            # What others write to our descriptors is their business.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        count = Counter(job.state for job in self._jobs)
        summary = ", ".join(f"{count[state]} {state}" for state in _STATES if count[state])
        rows = [job.row() for job in self._jobs]
        return Group(Text(summary, style="bold"), _say.rich_table(HEADINGS, rows))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the table away while something else is written to the terminal."""
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
