"""What a benchmark found, how it is shown in a terminal, and how it is kept."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from _measure import Spread

Cell: TypeAlias = "str | int | float | None"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: where its cells come from, what stands above them, how they are written."""

    key: str
    heading: str
    form: str = "{}"

    def text(self, row: Mapping[str, Cell]) -> str:
        """Return the cell of *row*; empty where it has none."""
        value = row.get(self.key)
        return "" if value is None else self.form.format(value)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title; a row is a mapping from the columns' keys."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that portlease aims at. Told, never enforced: it depends on the machine."""

    what: str
    measured: float
    at_most: float
    unit: str = "x"

    @property
    def reached(self) -> bool:
        """Whether it was."""
        return self.measured <= self.at_most

    def text(self) -> str:
        """Return one line about it."""
        verdict = "reached" if self.reached else "NOT reached"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.what}: {self.measured:.4g}{unit}, goal <= {self.at_most:g}{unit}: {verdict}"


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found."""

    name: str
    title: str
    tables: Sequence[Table]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = field(default_factory=list)


def time_columns(first: str, unit: str) -> list[Column]:
    """Columns for :func:`time_cells`; *first* stands above the names."""
    return [
        Column("name", first),
        Column("median", f"median {unit}", "{:.2f}"),
        Column("quartiles", "quartiles"),
        Column("least", "least", "{:.2f}"),
    ]


def time_cells(name: str, figures: Spread) -> dict[str, Cell]:
    """Return the cells of one contestant, in the unit of its figures; the plots want the last."""
    return {
        "name": name,
        "median": figures.median,
        "quartiles": f"{figures.lower:.2f} - {figures.upper:.2f}",
        "least": figures.least,
        "lower": figures.lower,
        "upper": figures.upper,
    }


# --- terminal -----------------------------------------------------------------------------------


def show(result: Result) -> None:
    """Print it as tables: with rich where it is installed, plainly otherwise and into a pipe."""
    try:
        from rich import console, table
    except ImportError:
        _show_plainly(result)
        return
    screen = console.Console()
    if not screen.is_terminal:
        _show_plainly(result)
        return
    screen.rule(f"[bold]{result.title}")
    for one in result.tables:
        grid = table.Table(title=one.title, title_justify="left", title_style="italic")
        for index, column in enumerate(one.columns):
            grid.add_column(column.heading, justify="right" if index else "left")
        for row in one.rows:
            grid.add_row(*(column.text(row) for column in one.columns))
        screen.print(grid)
    for goal in result.goals:
        screen.print(goal.text(), style="green" if goal.reached else "yellow", markup=False)
    for note in result.notes:
        screen.print(f"- {note}", style="dim", markup=False)


def _show_plainly(result: Result) -> None:
    print(f"\n== {result.title}")
    for one in result.tables:
        print(f"\n{one.title}")
        lines = [[column.heading for column in one.columns], *_texts(one)]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        for line in lines:
            cells = [line[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            print("  " + "  ".join(cells).rstrip())
    print()
    for text in (*(goal.text() for goal in result.goals), *(f"- {n}" for n in result.notes)):
        print(text)


def _texts(table: Table) -> list[list[str]]:
    return [[column.text(row) for column in table.columns] for row in table.rows]


# --- files --------------------------------------------------------------------------------------


def to_json(machine: Mapping[str, str], results: Sequence[Result]) -> str:
    """Return everything as one JSON object; figures as they were measured, not rounded."""
    found = [_plain(result) for result in results]
    return json.dumps({"machine": dict(machine), "benchmarks": found}, indent=1)


def save(result: Result, machine: Mapping[str, str], seconds: float, directory: Path) -> Path:
    """Keep it as JSON, with what is known of the machine, and return the file."""
    version = ".".join(map(str, sys.version_info[:2]))
    path = directory / f"{result.name}-python{version}.json"
    directory.mkdir(parents=True, exist_ok=True)
    kept = {"machine": dict(machine), "seconds": round(seconds), "result": _plain(result)}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True)
class Kept:
    """A result that was saved, and what is known of its making."""

    python: tuple[int, ...]
    machine: Mapping[str, str]
    seconds: int
    result: Result


def kept(directory: Path) -> list[Kept]:
    """Read all that :func:`save` wrote there, the oldest Python first."""
    found = []
    for path in directory.glob("*-python*.json"):
        text = json.loads(path.read_text(encoding="utf-8"))
        python = tuple(map(int, path.stem.rpartition("-python")[2].split(".")))
        found.append(Kept(python, text["machine"], text["seconds"], _result(text["result"])))
    return sorted(found, key=lambda one: one.python)


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "title": result.title,
        "tables": [
            {
                "title": table.title,
                "columns": [[one.key, one.heading, one.form] for one in table.columns],
                "rows": [dict(row) for row in table.rows],
            }
            for table in result.tables
        ],
        "goals": [
            {
                "what": goal.what,
                "measured": goal.measured,
                "at_most": goal.at_most,
                "unit": goal.unit,
                "reached": goal.reached,
            }
            for goal in result.goals
        ],
        "notes": list(result.notes),
    }


def _result(plain: Mapping[str, Any]) -> Result:
    return Result(
        plain["name"],
        plain["title"],
        [
            Table(one["title"], [Column(*column) for column in one["columns"]], one["rows"])
            for one in plain["tables"]
        ],
        [
            Goal(goal["what"], goal["measured"], goal["at_most"], goal["unit"])
            for goal in plain["goals"]
        ],
        plain["notes"],
    )


def markdown(table: Table) -> list[str]:
    """Return the lines of it: numbers to the right."""
    lines = [[column.heading for column in table.columns], *_texts(table)]
    below = "|---|" + "---:|" * (len(table.columns) - 1)
    first, *others = ["| " + " | ".join(cells) + " |" for cells in lines]
    return [first, below, *others]
