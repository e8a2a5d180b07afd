"""How far the runs of `repeat` are: one line an instance on a terminal, a line a run in a pipe."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from portlease.cli import _say

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

    from rich.console import Console, RenderableType
    from rich.live import Live

    from portlease._repeat._crowd import Crowd
    from portlease._repeat._plan import Plan
    from portlease._repeat._run import Run

_PER_SECOND: Final = 5
_HEADINGS: Final = ("RUN", "RESULT", "TESTS", "FAILED", "SECONDS", "LAST OUTPUT")


class Shown:
    """The audience of a crowd. Context manager.

    Args:
        plan: what is run.
        shown: False: nothing is told of the progress.
    """

    def __init__(self, plan: Plan, *, shown: bool) -> None:
        self._plan = plan
        self._shown = shown
        self._crowd: Crowd | None = None
        self._total = 0
        self._told = contextlib.ExitStack()
        on_terminal = shown and sys.stderr.isatty()
        self._console = _say.console(stderr=True) if on_terminal else None
        self._live = None if self._console is None else self._make(self._console)

    def _make(self, console: Console) -> Live:
        from rich.live import Live

        return Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def look(self, crowd: Crowd) -> None:
        """How far it is, now."""
        self._crowd = crowd

    def over(self, run: Run, crowd: Crowd) -> None:
        """A run is over."""
        self._crowd = crowd
        if run.results is not None and run.results.source == "junit":
            self._total = max(self._total, len(run.results.cases))
        if self._shown and self._live is None:
            _say.say(self._sentence(run))

    def _sentence(self, run: Run) -> str:
        where = str(run.place)
        if not run.place.alone and self._plan.rounds != 1:
            where += f" of round {run.place.round}"
        text = f"{where}: {run.state}"
        if run.results is not None and run.results.source == "junit":
            bad = sum(case.bad for case in run.results.cases)
            text += f", {bad} of {len(run.results.cases)} tests failed"
        elif run.returncode is not None:
            text += f", exit status {run.returncode}"
        return f"{text}, {run.seconds:.1f} s"

    # --- on a terminal ---

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        crowd = self._crowd
        if crowd is None or not crowd.runs:
            return Text("")
        last = crowd.runs[-1].place.round
        runs = [run for run in crowd.runs if run.place.round == last]
        of = "" if self._plan.rounds is None else f" of {self._plan.rounds}"
        title = "alone" if last == 0 else f"round {last}{of}"
        waiting = f", {len(crowd.waiting)} waiting" if crowd.waiting else ""
        table = _say.rich_table(_HEADINGS, [self._row(run) for run in runs])
        return Group(Text(title + waiting, style="bold"), table)

    def _row(self, run: Run) -> tuple[str, ...]:
        tests, failed = self._tests(run)
        return (
            str(run.place),
            "ok" if run.state == "passed" else run.state,
            tests,
            failed,
            f"{run.seconds:.1f}",
            "" if run.over else _say.printable(run.pace.last_line),
        )

    def _tests(self, run: Run) -> tuple[str, str]:
        if run.results is not None and run.results.source == "junit":
            bad = sum(case.bad for case in run.results.cases)
            return str(len(run.results.cases)), str(bad)
        pace = run.pace
        of = f"/{self._total}" if self._total else ""
        done = f"{pace.done}{of}" if pace.done else pace.share or "-"
        return done, str(pace.bad) if pace.done else "-"

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
