"""docs/promise.md as data: its lines, who attacks each, and what shows that the attack can harm.

Standard library only; the runner of the attacks and a test read it.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "promise.md"

# | number | promise | attacked by | control |
_ROW: Final = re.compile(r"\| (\d+) \| (.*) \| ([^|]*) \| ([^|]*) \|")
_QUOTED: Final = re.compile(r"`([^`]*)`")
_FULL: Final = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")

_MEMORY: Final = (
    "what its output may take is said by Server.output and Server.tail(), and no promise"
)
UNNAMED: Final[dict[str, str]] = {
    "tests/attacks/test_served_ends.py::test_it_prints_megabytes_without_a_line": _MEMORY,
    "tests/attacks/test_served_ends.py::test_it_prints_megabytes_without_a_line_long": _MEMORY,
}
"""Tests in tests/attacks that no line of the document names, and why."""


class Line(NamedTuple):
    """One promise."""

    number: int
    text: str
    attackers: tuple[str, ...]
    """Tests, as pytest calls them: ``tests/attacks/test_x.py::test_y``, or a whole file."""
    controls: tuple[str, ...]


def lines(document: str) -> list[Line]:
    """The lines of the tables in *document*, in its order.

    Raises:
        ValueError: what stands in the columns of tests is no name of one.
    """
    found = []
    for text in document.splitlines():
        row = _ROW.fullmatch(text)
        if row is not None:
            attackers, file = _references(row[3], "")
            controls, _ = _references(row[4], file)
            found.append(Line(int(row[1]), row[2], attackers, controls))
    return found


def mentioned(document: str) -> set[str]:
    """Every test, or file of tests, whose whole name stands somewhere in *document*."""
    return {match[0] for match in _FULL.finditer(document)}


def _references(cell: str, file: str) -> tuple[tuple[str, ...], str]:
    """The tests in one cell, and the file of the last; a name alone is in the file before it."""
    found = []
    for name in _QUOTED.findall(cell):
        full = _FULL.fullmatch(name)
        if full is not None:
            file = full[1]
            found.append(name)
        elif file and re.fullmatch(r"test_\w+", name):
            found.append(f"{file}::{name}")
        else:
            raise ValueError(f"`{name}` names no test")
    if re.sub(r"[\s,]", "", _QUOTED.sub("", cell)):
        raise ValueError(f"only names of tests belong there: {cell}")
    return tuple(found), file


@functools.cache
def tests_of(file: str) -> dict[str, str]:
    """The tests in a file of tests, and the first line of each one's docstring."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def expanded(references: tuple[str, ...]) -> list[str]:
    """*references* with every file in place of which all of its tests stand.

    Raises:
        ValueError: there is no such file or test.
    """
    found = []
    for reference in references:
        file, _, name = reference.partition("::")
        if not (ROOT / file).is_file():
            raise ValueError(f"there is no {file}")
        known = tests_of(file)
        if name and name not in known:
            raise ValueError(f"there is no {reference}")
        found += [f"{file}::{one}" for one in ([name] if name else known)]
    return list(dict.fromkeys(found))


def attack_files() -> list[str]:
    """The files of attacks, as names in the document."""
    folder = ROOT / "tests" / "attacks"
    return [str(path.relative_to(ROOT)) for path in sorted(folder.glob("test_*.py"))]
