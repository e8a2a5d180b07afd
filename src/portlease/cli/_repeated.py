"""How far the runs of `repeat` are: one line an instance on a terminal, a line a run in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portlease.cli import _say
from portlease.cli._display import Display

if TYPE_CHECKING:
    from typing import Final

    from rich.console import RenderableType

    from portlease._repeat._crowd import Crowd
    from portlease._repeat._plan import Plan
    from portlease._repeat._run import Run

_PER_SECOND: Final = 5
_HEADINGS: Final = ("RUN", "RESULT", "TESTS", "FAILED", "SECONDS", "LAST OUTPUT")


class Shown(Display):
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
        super().__init__(shown=shown, per_second=_PER_SECOND)

    def look(self, crowd: Crowd) -> None:
        """How far it is, now."""
        self._crowd = crowd

    def over(self, run: Run, crowd: Crowd) -> None:
        """A run is over."""
        self._crowd = crowd
        if run.results is not None and run.results.source == "junit":
            self._total = max(self._total, len(run.results.cases))
        if self._shown and not self.is_drawn:
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
