"""All the runs: first alone, then in rounds, so many at once; nothing is left of them then."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from portlease import _trail
from portlease._errors import PortleaseError
from portlease._repeat import _verdict
from portlease._repeat._plan import Place
from portlease._repeat._run import Run
from portlease._repeat._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final, Protocol

    from portlease._repeat._plan import Plan
    from portlease._repeat._watch import Sights
    from portlease._trail import Event

    class Audience(Protocol):
        """Who is told how far it is."""

        def look(self, crowd: Crowd) -> None:
            """Called several times a second."""

        def over(self, run: Run, crowd: Crowd) -> None:
            """Called when a run is over."""


_LOOK_S: Final = 0.05
_MOST_ASKED: Final = 100
"""How often, at most, the kernel is asked who has a port that a bind has met in use."""
_ASK_AGAIN_S: Final = 1.0


class Crowd:
    """All the runs of one `repeat`.

    Attributes:
        runs: those that were started, baselines first; ``sights`` what was seen of each.
        outsiders: who, outside of all runs, was on a port when a bind of it failed.
        waiting: places whose turn has not come.
        trouble: why the kernel's tables were not looked at to the end, if so.
    """

    def __init__(self, plan: Plan, folder: str, audience: Audience) -> None:
        self.plan = plan
        self.runs: list[Run] = []
        self.sights: list[Sights] = []
        self.outsiders: dict[int, str] = {}
        self.waiting: list[Place] = []
        self.round = 0
        self.trouble: str | None = None
        self._folder = folder
        self._audience = audience
        self._watch = Watch(network=not plan.isolated)
        self._asked: dict[int, float] = {}
        self._asked_often = 0

    def run(self) -> None:
        """Run them all. On return, and on an error's or a signal's way out, nothing of them runs.

        Raises:
            ServerStartError: the command cannot be executed.
            PortleaseError: there is no room for what a run writes.
        """
        plan = self.plan
        try:
            with self._watch:
                for attempt in range(1, plan.baselines + 1):
                    self._see_through([Place(0, 1, 1, attempt)], 1)
                while plan.rounds is None or self.round < plan.rounds:
                    self.round += 1
                    places = [Place(self.round, n, plan.n) for n in range(1, plan.n + 1)]
                    self._see_through(places, plan.jobs)
                    if plan.until_failure:
                        if self._has_failed():
                            break
                        self._forget(self.round - 1)
        finally:
            self.trouble = self._watch.trouble
            self.end()

    def _see_through(self, places: Iterable[Place], jobs: int) -> None:
        self.waiting = list(places)
        live: list[Run] = []
        while self.waiting or live:
            while self.waiting and len(live) < jobs:
                live.append(self._start(self.waiting.pop(0)))
            for run in live:
                self._ask_about(run.look())
                if run.over:
                    self._watch.leave(run)
                    self._ask_at_the_end(run)
                    self._audience.over(run, self)
                    if self.plan.keep is None:
                        run.clean()
            live = [run for run in live if not run.over]
            self._audience.look(self)
            if live:
                time.sleep(_LOOK_S)

    def _start(self, place: Place) -> Run:
        try:
            run = Run(self.plan, place, os.path.join(self._folder, place.folder))
        except OSError as error:
            raise PortleaseError(
                f"no room for {place}: cannot make {error.filename}: {error.strerror}; make room "
                "there, or set TMPDIR to another folder"
            ) from error
        # First known, then started: a signal in between ends it all the same.
        self.sights.append(self._watch.follow(run))
        self.runs.append(run)
        run.start()
        return run

    def end(self) -> None:
        """End what still runs."""
        live = [run for run in self.runs if not run.over]
        for run in live:
            run.begin_stop()
        for run in live:
            run.stop()
            self._audience.over(run, self)

    # --- who has the port, now ---

    def _ask_about(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.what == _trail.BIND and event.error in _trail.IN_USE and event.port:
                self._ask(event.port)

    def _ask_at_the_end(self, run: Run) -> None:
        """Where a run has left no trail of it, whoever had the port may have it still."""
        from portlease._repeat import _causes

        if run.returncode != 0 and not any(event.what == _trail.BIND for event in run.events):
            port = _causes.port_of_text("", run.output)
            if port is not None and _causes.of_text("", run.output) == _causes.IN_USE:
                self._ask(port)

    def _ask(self, port: int) -> None:
        now = time.monotonic()
        if self.plan.isolated or self._asked_often >= _MOST_ASKED:
            return
        if now - self._asked.get(port, -_ASK_AGAIN_S) < _ASK_AGAIN_S:
            return
        from portlease._who import who

        self._asked[port], self._asked_often = now, self._asked_often + 1
        found = who(port)
        ours = {pid for run in self.runs if not run.over for pid in run.pids()}
        for occupant in found.occupants:
            pids = {process.pid for process in occupant.processes}
            if (
                occupant.kind != "reserved"
                and pids.isdisjoint(ours)
                and (pids or occupant.kind in {"privileged", "lease"} or occupant.not_permitted)
            ):
                self.outsiders[port] = occupant.describe()
                return

    # --- what became of them ---

    def told(self) -> list[_verdict.Told]:
        """What each run has told."""
        return [_told(run, self.plan) for run in self.runs]

    def _has_failed(self) -> bool:
        """Whether something failed in this round that never failed alone, or was misled."""
        both = [
            (run, sights)
            for run, sights in zip(self.runs, self.sights, strict=True)
            if run.place.round in {0, self.round}
        ]
        told = [_told(run, self.plan) for run, _ in both]
        return any(failure.blamed for failure in _verdict.compare(told)) or self._misled(told, both)

    def _misled(self, told: Sequence[_verdict.Told], both: Sequence[tuple[Run, Sights]]) -> bool:
        """Whether a test has passed against another instance's server."""
        if self.plan.isolated:
            return False
        from portlease._repeat import _culprits, _holdings, _misled

        ports = _culprits.Ports(
            holding
            for number, (run, sights) in enumerate(both)
            for holding in _holdings.of_run(
                number, run.events, sights.sockets, run.begun, run.ended or run.begun, "/"
            )
        )
        return bool(_misled.find(told, [run.events for run, _ in both], ports))

    def _forget(self, number: int) -> None:
        """Forget the ports of a round that went well: there may be thousands of rounds.

        Not of the last one, whose connections may still keep ports (TIME_WAIT).
        """
        for run, sights in zip(self.runs, self.sights, strict=True):
            if run.place.round == number > 0 and run.state == "passed":
                run.events.clear()
                sights.sockets.clear()


def _told(run: Run, plan: Plan) -> _verdict.Told:
    from portlease._repeat._results import Results

    results = run.results or Results((), "status")
    failed = None
    if run.state != "stopped":  # by us, for Ctrl-C: nothing is said of it
        failed = _verdict.run_failed(
            results,
            returncode=run.returncode,
            timeout_s=plan.timeout_s if run.state == "timeout" else None,
            running=run.pace.running(),
            pytest=plan.runner.name == "pytest",
            text=run.output,
        )
    return _verdict.Told(run.place.alone, results, failed)
