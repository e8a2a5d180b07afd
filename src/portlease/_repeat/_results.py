"""What became of the tests of one run: from JUnit XML, or from the lines that runners write."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from junitparser import Error, Failure, JUnitXml, JUnitXmlError, Skipped, TestCase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final, Literal, TypeAlias

    Outcome: TypeAlias = Literal["passed", "failed", "error", "skipped"]

THE_RUN: Final = "(the whole run)"
"""What stands for the tests of a run whose runner names none."""

_MOST_TEXT: Final = 1 << 16
"""How much of one failure's text is kept: its end, where Python's errors are."""


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


def read(junit: str | None, output: str) -> Results:
    """The results of a run.

    Args:
        junit: the file that its runner was to write, or a folder of such; None: there is none.
        output: what it wrote to its standard output and error.
    """
    trouble = None
    if junit is not None:
        try:
            return Results(tuple(_merged(_cases(junit))), "junit")
        except FileNotFoundError:
            trouble = f"{junit} was not written"
        except (JUnitXmlError, ParseError, OSError, ValueError) as error:
            trouble = f"{junit} cannot be read: {error}"
    from portlease._repeat import _spoken

    cases = tuple(_merged(_spoken.failures(output)))
    return Results(cases, "output" if cases else "status", trouble)


# --- JUnit XML ------------------------------------------------------------------------------------


def _cases(path: str) -> Iterator[Case]:
    paths = [path]
    if os.path.isdir(path):  # a file for each module, as Surefire and others write
        paths = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.endswith(".xml")
        )
        if not paths:
            raise FileNotFoundError(path)
    for one in paths:
        with open(one, "rb") as file:
            root = JUnitXml.fromfile(file)
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
        message=message or _last_line(text),
        text=text[-_MOST_TEXT:],
        file=file,
        # pytest counts from 0.
        line=int(line) + 1 if line is not None and line.isdecimal() else None,
    )


def _seconds(case: TestCase) -> float:
    try:
        return float(case.time or 0.0)
    except ValueError:  # "1,234.5", as some runners write it
        return 0.0


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
