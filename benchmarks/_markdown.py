"""The parts that the pages of the benchmarks are made of."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def section(title: str, text: str) -> list[str]:
    """The lines of a heading, and of the paragraph below it."""
    return [f"## {title}", "", filled(text), ""]


def filled(text: str) -> str:
    """A paragraph, whatever its line breaks were."""
    return textwrap.fill(
        " ".join(text.split()), 100, break_on_hyphens=False, break_long_words=False
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def facts(told: Mapping[str, object]) -> list[str]:
    """The lines of a list of facts, such as those of the machine."""
    return [f"- {what}: {value}" for what, value in told.items()]
