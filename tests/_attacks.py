"""All attacks, fast and long, line by line of docs/promise.md: ``make attacks``.

    python tests/attacks [--fast] [--line NUMBER]... [--list] [--document FILE]

On a terminal it shows how far they are; in the end it prints a table: of each line how many attacks
there were, what became of them, how long they took, and what the control did, the same attack where
nothing is held. Exit status 1 if a line was broken, or not attacked, or its control shows no harm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import _promise
from _attack_report import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, TypeAlias

    Event: TypeAlias = dict[str, Any]
    """What `_attack_report` tells."""

_PER_SECOND: Final = 4
_WIDTH_IN_A_PIPE: Final = 140
_SHORT: Final = 64
_OTHERS: Final = 0
"""The number of the row for attacks that no line names."""

_MOST_JOBS: Final = 4
_TESTS_A_JOB: Final = 10


class Phase(NamedTuple):
    """A run of pytest."""

    marked: str
    """Which tests: pytest's -m."""
    side_by_side: bool


FAST: Final = Phase("not dropin_full and not long", side_by_side=True)
LONG: Final = Phase("long", side_by_side=False)
"""One after the other: a thief in a tight loop wants a processor of his own."""


class Result(NamedTuple):
    """What became of one test."""

    outcome: str
    """``"passed"``, ``"failed"`` or ``"skipped"``."""
    said: str
    """Why it failed or was skipped."""
    time_s: float
    figures: list[str]
    """What it has recorded (record_property)."""


class Row:
    """A line of the document, and the tests that belong to it."""

    def __init__(self, number: int, text: str, attacks: list[str], controls: list[str]) -> None:
        self.number = number
        self.text = text
        self._attacks = frozenset(attacks)
        self._controls = frozenset(controls)
        self.expected: set[str] = set()
        """The ids of its tests, parameters included."""
        self.attacks: dict[str, Result] = {}
        self.controls: dict[str, Result] = {}
        self._facts: dict[str, list[str]] = {}
        """Of each control that did its harm what it says, and what it has recorded."""

    def knows(self, test: str) -> bool:
        """Whether it is one of its tests."""
        return test in self._attacks or test in self._controls

    def take(self, test_id: str, result: Result) -> None:
        """One of its tests is over."""
        test = _without_parameters(test_id)
        if test in self._attacks:
            self.attacks[test_id] = result
        if test in self._controls:
            self.controls[test_id] = result
            if result.outcome == "passed":
                self._facts.setdefault(_fact(test), []).extend(result.figures)

    @property
    def did(self) -> str:
        """What its controls did, in words."""
        return " ".join(
            f"{fact} ({', '.join(figures)})" if figures else fact
            for fact, figures in self._facts.items()
        )

    @property
    def tests(self) -> set[str]:
        """Which tests it has, without parameters."""
        return {*self._attacks, *self._controls}

    @property
    def over(self) -> bool:
        """Whether all of its tests are."""
        return self.expected <= {*self.attacks, *self.controls}

    @property
    def time_s(self) -> float:
        """How long they took, all in all."""
        return sum(result.time_s for result in {**self.attacks, **self.controls}.values())

    def verdict(self) -> str:
        """What came of it, in few words; "held" is what it should be."""
        found = _verdict(self.attacks.values(), "attack")
        if found != "held" or self.number == _OTHERS:
            return found
        return "held" if _verdict(self.controls.values(), "control") == "held" else "no control"


def _verdict(results: Iterable[Result], what: str) -> str:
    given = list(results)
    broken = sum(one.outcome == "failed" for one in given)
    if broken:
        return f"BROKEN by {broken}"
    return "held" if any(one.outcome == "passed" for one in given) else f"no {what}"


def _without_parameters(test_id: str) -> str:
    return test_id.partition("[")[0].partition("@")[0]  # @: pytest-xdist's --dist=loadgroup


def _fact(test: str) -> str:
    """The first line of its docstring."""
    file, _, name = test.partition("::")
    return _promise.tests_of(file).get(name, "")


def rows_of(document: str, numbers: Sequence[int]) -> list[Row]:
    """A row for each line of *document*, and one for the rest; or for those *numbers* alone."""
    every = _promise.lines(document)
    rows = [
        Row(
            line.number,
            _plain(line.text),
            _promise.expanded(line.attackers),
            _promise.expanded(line.controls),
        )
        for line in every
        if not numbers or line.number in numbers
    ]
    if not numbers:
        named = {test for row in rows for test in row.tests}
        attacks = _promise.expanded(tuple(_promise.attack_files()))
        rest = [test for test in attacks if test not in named]
        rows.append(Row(_OTHERS, "the rest of tests/attacks, which keeps no line alone", rest, []))
    return rows


def _plain(text: str) -> str:
    """The first sentence or so, without its marks."""
    return re.split(r"(?<=.{25})[.;:] ", text.replace("**", "").replace("`", ""))[0].rstrip(".")


# --- running them ---------------------------------------------------------------------------------


class Attacks:
    """The runs of pytest, and what they have told so far."""

    def __init__(self, rows: list[Row], phases: Sequence[Phase]) -> None:
        self.rows = rows
        self.phases = phases
        self.running: dict[str, float] = {}
        """What is under way, and since when."""
        self.done = 0
        self.total = 0
        self.failures: dict[str, str] = {}
        self.skips: dict[str, str] = {}

    def run(self) -> Iterator[None]:
        """Run them all; yields whenever something has happened."""
        chosen = sorted({test for row in self.rows for test in row.tests})
        jobs = []
        for phase in self.phases:  # all are collected first, to know how many there are
            before = self.total
            for event in _pytest(["-n", "0", "-m", phase.marked, "--collect-only", *chosen]):
                if event["what"] == "collected":
                    self._expect(event["ids"])
            found = self.total - before
            jobs.append(min(_MOST_JOBS, found // _TESTS_A_JOB) if phase.side_by_side else 0)
            yield
        for phase, count in zip(self.phases, jobs, strict=True):
            for event in _pytest(["-n", str(count), "-m", phase.marked, *chosen]):
                self._on_event(event)
                yield

    def _expect(self, ids: list[str]) -> None:
        self.total += len(ids)
        for row in self.rows:
            row.expected |= {one for one in ids if row.knows(_without_parameters(one))}

    def _on_event(self, event: Event) -> None:
        test_id = event.get("id", "")
        if event["what"] == "begun":
            self.running[test_id] = time.monotonic()
        elif event["what"] == "over":
            self.running.pop(test_id, None)
            self.done += 1
            result = Result(event["outcome"], event["said"], event["time_s"], event["figures"])
            if result.outcome == "failed":
                self.failures[test_id] = result.said
            elif result.outcome == "skipped":
                self.skips[test_id] = result.said
            for row in self.rows:
                if row.knows(_without_parameters(test_id)):
                    row.take(test_id, result)


def _pytest(arguments: Sequence[str]) -> Iterator[Event]:
    """Run pytest; yield what it tells. Its own output is shown where it does not come so far."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as output, os.fdopen(reader, "rb") as told:
        command = [sys.executable, "-m", "pytest", "-p", "_attack_report", "-p", "no:randomly"]
        command += ["-o", "faulthandler_timeout=3000", "--rootdir", str(_promise.ROOT), *arguments]
        popen = subprocess.Popen(
            command,
            cwd=_promise.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            env={
                **os.environ,
                VARIABLE: str(writer),
                "PYTHONPATH": str(Path(__file__).resolve().parent),
            },
        )
        os.close(writer)
        try:
            for line in told:
                yield json.loads(line)
            status = popen.wait()
        finally:
            if popen.poll() is None:  # we were interrupted, as it has been by the same Ctrl-C
                popen.terminate()
                popen.wait()
        if status not in {0, 1, 5}:  # tests have passed, have failed, were none
            output.seek(0)
            sys.exit(f"pytest ended with {status}:\n{output.read().decode(errors='replace')}")


# --- showing it -----------------------------------------------------------------------------------


class Picture:
    """What is seen of it while it runs: on a terminal a live picture, else a line for each line."""

    def __init__(self, attacks: Attacks, console: Console) -> None:
        self._attacks = attacks
        self._console = console
        self._told: set[int] = set()
        self._bar = Progress(
            TextColumn("attacks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._bar.add_task("attacks", total=None)

    def __rich__(self) -> Group:
        """The picture."""
        attacks = self._attacks
        self._bar.update(self._task, total=attacks.total or None, completed=attacks.done)
        now = time.monotonic()
        running = [
            Text(f"  {now - since:6.1f} s  {test}", no_wrap=True, overflow="ellipsis")
            for test, since in attacks.running.items()
        ]
        broken = [Text(f"BROKEN: {test}", style="bold red") for test in attacks.failures]
        return Group(*broken, self._bar, *running)

    def tell(self) -> None:
        """Say which lines are over, each once."""
        for row in self._attacks.rows:
            if row.number not in self._told and row.expected and row.over:
                self._told.add(row.number)
                self._console.print(
                    f"{_name(row)}: {row.verdict()}, {len(row.attacks)} attacks, "
                    f"{row.time_s:.1f} s: {row.text}",
                    no_wrap=True,
                    overflow="ellipsis",
                )


def _name(row: Row) -> str:
    return f"line {row.number}" if row.number else "others"


def summary(rows: Sequence[Row]) -> Table:
    """The table at the end."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, right in (
        ("line", True),
        ("promise", False),
        ("attacks", True),
        ("result", False),
    ):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("the control", overflow="fold")
    for row in rows:
        verdict = row.verdict()
        skipped = sum(one.outcome == "skipped" for one in row.attacks.values())
        table.add_row(
            str(row.number or "-"),
            row.text if len(row.text) <= _SHORT else row.text[: _SHORT - 1] + "…",
            str(len(row.attacks)),
            Text(
                verdict + (f", {skipped} skipped" if skipped else ""),
                style="green" if verdict == "held" else "bold red",
            ),
            f"{row.time_s:.1f} s",
            row.did,
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="make attacks", description="Attack every line of docs/promise.md."
    )
    parser.add_argument("--fast", action="store_true", help="leave out those that run for minutes")
    parser.add_argument(
        "--line", type=int, action="append", default=[], metavar="N", help="this line alone; again"
    )
    parser.add_argument("--list", action="store_true", help="say who attacks what, and run nothing")
    parser.add_argument(
        "--document", type=Path, default=_promise.DOCUMENT, metavar="FILE", help="another document"
    )
    options = parser.parse_args(arguments)
    rows = rows_of(options.document.read_text(encoding="utf-8"), options.line)
    if unknown := set(options.line) - {row.number for row in rows}:
        parser.error(f"docs/promise.md has no line {min(unknown)}")
    if options.list:
        for row in rows:
            print(f"{_name(row)}: {row.text}", *sorted(row.tests), sep="\n    ")  # noqa: T201
        return 0
    return _run(Attacks(rows, [FAST] if options.fast else [FAST, LONG]))


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_IN_A_PIPE
    return console


def _run(attacks: Attacks) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and pytest is ended on the way
    console = _console(stderr=True)
    picture = Picture(attacks, console)
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            stack.enter_context(
                Live(picture, console=console, refresh_per_second=_PER_SECOND, transient=True)
            )
        try:
            for _ in attacks.run():
                picture.tell()
        except KeyboardInterrupt:
            return 130
    for test, said in attacks.failures.items():
        console.rule(test)
        console.print(said)
    out = _console()
    out.print(summary(attacks.rows))
    for test, why in attacks.skips.items():
        out.print(f"skipped: {test}: {why}", soft_wrap=True)
    broken = [row for row in attacks.rows if row.tests and row.verdict() != "held"]
    held = f"{len(attacks.rows) - len(broken)} of {len(attacks.rows)} held"
    out.print(f"\n{attacks.done} tests: {held}")
    return 1 if broken else 0
