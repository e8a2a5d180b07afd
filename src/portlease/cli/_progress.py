"""How far many jobs are, on a terminal, while they run; nothing at all in a pipe."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from portlease.cli import _say
from portlease.cli._display import Display
from portlease.cli._job import HEADINGS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from rich.console import RenderableType

    from portlease.cli._job import Job

_PER_SECOND: Final = 8
_STATES: Final = ("starting", "ready", "client", "ok", "failed", "stopped")


class Progress(Display):
    """A table that is drawn anew as the jobs move on. Context manager.

    Args:
        jobs: read at every drawing.
        shown: False: never; True: if standard error is a terminal.
    """

    def __init__(self, jobs: Sequence[Job], *, shown: bool) -> None:
        self._jobs = jobs
        super().__init__(shown=shown, per_second=_PER_SECOND)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        count = Counter(job.state for job in self._jobs)
        summary = ", ".join(f"{count[state]} {state}" for state in _STATES if count[state])
        rows = [job.row() for job in self._jobs]
        return Group(Text(summary, style="bold"), _say.rich_table(HEADINGS, rows))
