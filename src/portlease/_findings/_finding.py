"""One finding, of lint or of the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Finding(NamedTuple):
    """Where what rule is broken, and what to do about it."""

    path: str
    """As it is shown, with ``/``; of a program without source the program."""
    line: int | None
    """From 1; None if it is not known."""
    column: int | None
    """From 1, in characters."""
    end_line: int | None
    end_column: int | None
    """The column after the last character, as SARIF and editors have it."""
    code: str
    message: str
    """The fact."""
    remedy: str
    text: str
    """The source line without the blanks round it; without source, what identifies the finding
    from run to run."""
    fix: bool = False
    """Whether --fix may rewrite it."""

    @property
    def place(self) -> str:
        """``path:line:column``, as far as it is known."""
        parts = [self.path, self.line, self.column]
        return ":".join(str(part) for part in parts if part is not None)


def source_text(lines: Sequence[str], number: int | None) -> str:
    """Line *number*, from 1, without the blanks round it; "" where there is none."""
    if number is None or not 0 < number <= len(lines):
        return ""
    return lines[number - 1].strip()
