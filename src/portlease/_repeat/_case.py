"""One test of one run, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, Literal, TypeAlias

    Outcome: TypeAlias = Literal["passed", "failed", "error", "skipped"]

THE_RUN: Final = "(the whole run)"
"""What stands for the tests of a run whose runner names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test's result in one run.

    ``name`` is pytest's node id where that can be had. ``text`` is everything that its runner said
    of a failure; ``line`` counts from 1.
    """

    name: str
    outcome: Outcome
    seconds: float = 0.0
    message: str = ""
    text: str = ""
    file: str | None = None
    line: int | None = None

    @property
    def bad(self) -> bool:
        """Whether it failed."""
        return self.outcome in {"failed", "error"}
