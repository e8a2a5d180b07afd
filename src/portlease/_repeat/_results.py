"""What became of the tests of one run: from JUnit XML, or from the lines that runners write."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import ParseError, parse

from junitparser import Error, Failure, JUnitXml, JUnitXmlError, Skipped, TestCase

from portlease._repeat import _spoken
from portlease._repeat._case import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final, Literal

    from portlease._repeat._case import Outcome

_MOST_TEXT: Final = 1 << 16
"""How much of one failure's text is kept: its end, where Python's errors are; and of a message."""


@dataclass(frozen=True, slots=True)
class Results:
    """What is known of a run's tests.

    Attributes:
        cases: each of its tests once; empty where the runner names none.
        source: ``"junit"``, ``"output"`` or ``"status"``: where that is from.
        trouble: why the JUnit XML that was to be there could not be read.
    """

    cases: tuple[Case, ...]
    source: Literal["junit", "output", "status"]
    trouble: str | None = None


class File(NamedTuple):
    """A file as it is at a time: what is written to it later makes it another."""

    path: str
    inode: int
    size: int
    changed: int


def files(junit: str) -> frozenset[File]:
    """The files of JUnit XML that are there, *junit* itself or what is in that folder."""
    found = set()
    for path in _paths(junit):
        # What may not be looked at is none of its user's results.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            status = os.stat(path)
            found.add(File(path, status.st_ino, status.st_size, status.st_mtime_ns))
    return frozenset(found)


def read(junit: str | None, output: str, old: frozenset[File] = frozenset()) -> Results:
    """The results of a run.

    Args:
        junit: the file that its runner was to write, or a folder of such; None: there is none.
        output: what it wrote to its standard output and error.
        old: the files that were there before it began: of another run.
    """
    trouble = None
    if junit is not None:
        try:
            paths = [file.path for file in sorted(files(junit) - old)]
            if not paths:
                raise FileNotFoundError(junit)  # noqa: TRY301 - as for a file that cannot be opened
            return Results(tuple(_merged(_cases(paths))), "junit")
        except FileNotFoundError:
            trouble = f"{junit} was not written"
        except (JUnitXmlError, ParseError, OSError, ValueError, LookupError) as error:
            trouble = f"{junit} cannot be read: {error}"
    cases = tuple(_merged(_spoken.failures(output)))
    return Results(cases, "output" if cases else "status", trouble)


# --- JUnit XML ------------------------------------------------------------------------------------


def _paths(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    # A file for each module, as Surefire and others write.
    return [
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if name.endswith(".xml")
    ]


def _cases(paths: Iterable[str]) -> Iterator[Case]:
    for one in paths:
        with open(one, "rb") as file:
            # By the library's own choice it would be lxml's where that is installed, which reads
            # the files that a document's entities name.
            root = JUnitXml.fromfile(file, parse)
        # Node's reporter puts tests outside of any suite, others suites into suites.
        for element in root._elem.iter("testcase"):
            case: TestCase = TestCase.fromelem(element)  # type: ignore[no-untyped-call]
            yield _case(case)


def _case(case: TestCase) -> Case:
    outcome: Outcome = "passed"
    message = text = ""
    for result in case.result:
        if isinstance(result, (Failure, Error)):
            outcome = "error" if isinstance(result, Error) else "failed"
            message, text = result.message or "", result.text or ""
            break
        if isinstance(result, Skipped):
            outcome, message = "skipped", result.message or ""
    if outcome in {"failed", "error"}:
        text = "\n".join(part for part in (text, case.system_err, case.system_out) if part)
    file, line = case._elem.get("file"), case._elem.get("line")
    return Case(
        name=_name(case, file),
        outcome=outcome,
        seconds=_seconds(case),
        message=(message or _last_line(text))[:_MOST_TEXT],
        text=text[-_MOST_TEXT:],
        file=file,
        line=None if line is None else _line(line),
    )


_MOST_DIGITS: Final = 9


def _line(text: str) -> int | None:
    """The line, from 1: pytest counts from 0."""
    if not text.isascii() or not text.isdecimal() or len(text) > _MOST_DIGITS:
        return None
    return int(text) + 1


_LONGEST_S: Final = 1e9


def _seconds(case: TestCase) -> float:
    try:
        seconds = float(case.time or 0.0)
    except ValueError:  # "1,234.5", as some runners write it
        return 0.0
    return seconds if 0.0 < seconds < _LONGEST_S else 0.0  # neither "inf" nor "nan"


def _name(case: TestCase, file: str | None) -> str:
    """The node id as pytest has it, where the file is said; else class and name with a dot."""
    name, path = case.name or "?", case.classname or ""
    if file is None:
        return f"{path}.{name}" if path and not name.startswith(path) else name
    # ``classname`` is the module's dotted path and then the classes.
    stem = re.sub(r"\.py$", "", file).replace("\\", "/").replace("/", ".")
    if path != stem and not path.startswith(stem + "."):
        return f"{path}.{name}" if path else name
    classes = path[len(stem) + 1 :].split(".") if path != stem else []
    return "::".join([file.replace("\\", "/"), *classes, name])


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


_WORST: Final = {"passed": 1, "skipped": 0, "failed": 2, "error": 3}


def _merged(cases: Iterable[Case]) -> Iterator[Case]:
    """Each test once, with the worst of its results: a test and its teardown are two for pytest."""
    found: dict[str, Case] = {}
    for case in cases:
        known = found.get(case.name)
        if known is None or _WORST[case.outcome] > _WORST[known.outcome]:
            found[case.name] = case
    yield from found.values()
