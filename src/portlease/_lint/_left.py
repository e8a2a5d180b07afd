"""Why --fix has left a finding where it is: each that is left gets a reason."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

from portlease._findings import _rules
from portlease._lint._source import FUNCTIONS, unparsed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Final

    from portlease._findings._finding import Finding
    from portlease._lint._source import Function

_WHY: Final = {
    _rules.PEER: "who listens there is not seen",
    _rules.UNHELD: (
        "where its number goes is not seen; take leased_port instead, or serve for a program"
    ),
}
_NOT_OURS: Final = "--fix rewrites hard-coded ports (PL001), and nothing else"


def left(before: Sequence[Finding], after: Iterable[Finding]) -> list[Finding]:
    """Those of *before* that are still there.

    Lines may have come in, so a finding is known by its rule, its line's text and its column.
    """
    there = Counter(map(_key, after))
    found = []
    for finding in before:
        if there[_key(finding)] > 0:
            there[_key(finding)] -= 1
            found.append(finding)
    return found


def _key(finding: Finding) -> tuple[str, str, int | None]:
    return finding.code, finding.text, finding.column


def reasons(
    tree: ast.Module, findings: Iterable[Finding], told: Collection[tuple[str, int]]
) -> Iterator[str]:
    """A line for each finding, but for what has one: the tests in *told*, by name and line."""
    # Functions of functions are in their walk as well: the outermost comes first.
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    for finding in findings:
        function = _function(functions, finding.line or 0)
        if finding.code != _rules.BOUND:
            why = _WHY.get(finding.code, _NOT_OURS)
        elif function is not None and (function.name, function.lineno) in told:
            continue
        else:
            why = _of_place(function, finding.line or 0)
        yield f"{finding.path}:{finding.line} {finding.code}: {why}"


def _function(functions: Iterable[Function], line: int) -> Function | None:
    """The outermost function that the line is in, its decorators included."""
    return next((one for one in functions if _first(one) <= line <= (one.end_lineno or 0)), None)


def _first(function: Function) -> int:
    return min([function.lineno, *(one.lineno for one in function.decorator_list)])


def _of_place(function: Function | None, line: int) -> str:
    """Why a hard-coded port is left that no test is refused for."""
    if function is None:
        return "it stands outside of the tests, and several may mean it; let each take leased_port"
    name = function.name
    if line < function.body[0].lineno:
        return f"it stands in the decorators or parameters of {name}"
    if any("fixture" in unparsed(one) for one in function.decorator_list):
        return (
            f"it stands in the fixture {name}, whose users are not all seen; let it take "
            "leased_port, or leased_port_factory where it is of a wider scope than a function's"
        )
    if name.startswith("test"):
        return "it is not seen to be bound by this test"
    return f"it stands in {name}(), which is no test; give it the port as an argument"
