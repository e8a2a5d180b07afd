"""All rules over one file: findings, in the order of its lines."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

from portlease._findings import _allow, _rules
from portlease._findings._finding import Finding, source_text
from portlease._lint import (
    _calls,
    _constants,
    _hard_coded,
    _places,
    _plan,
    _programs,
    _sleeps,
    _sockets,
    _unheld,
)
from portlease._lint._module import Module
from portlease._lint._source import FUNCTIONS, Source, UnreadableError, unparsed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from portlease._lint._hard_coded import Use


def check(
    data: bytes, path: str, codes: frozenset[str], *, takeover: bool = False
) -> list[Finding]:
    """What the rules *codes* find in a file.

    Args:
        data: the file, as it lies on the disk.
        path: as it is to be shown.
        codes: the rules that are looked for.
        takeover: whether the suite has other libraries' helpers served by leases, so that they do
            keep what they find.

    Returns:
        The findings, without those that a comment in the file allows. A file that is no Python is
        a finding itself. Nothing is raised, whatever is in the file.
    """
    try:
        source = Source(data)
        if not source.is_relevant:
            return []
        return of_module(Module(source), path, codes, takeover=takeover)
    except UnreadableError as error:
        return unreadable(path, error, codes)
    except RecursionError:
        return unreadable(path, UnreadableError("nested too deeply to be looked at"), codes)


def of_module(module: Module, path: str, codes: frozenset[str], *, takeover: bool) -> list[Finding]:
    """As `check`, for a file that is parsed already."""
    source = module.source
    allows = _allow.in_tree(source.text, source.tree)
    found = {
        finding
        for finding in _all(module, path, codes, takeover=takeover)
        if not allows.covers(finding.line, finding.code, finding.end_line)
    }
    return sorted(found, key=lambda one: (one.line or 0, one.column or 0, one.code))


def unreadable(path: str, error: UnreadableError, codes: frozenset[str]) -> list[Finding]:
    """The finding that a file cannot be read, if that is looked for."""
    if _rules.UNREADABLE not in codes:
        return []
    rule = _rules.RULES[_rules.UNREADABLE]
    place = (path, error.line, error.column, None, None)
    return [Finding(*place, rule.code, error.what, rule.remedy, error.what)]


def _all(module: Module, path: str, codes: frozenset[str], *, takeover: bool) -> Iterator[Finding]:
    if codes & {_rules.BOUND, _rules.PEER}:
        yield from _uses(module, path, codes)
    for code, node, what in _others(module, codes, takeover=takeover):
        yield _finding(module, path, code, node, what)


def _uses(module: Module, path: str, codes: frozenset[str]) -> Iterator[Finding]:
    uses = _hard_coded.uses(module)
    plans = _plan.plans(module, uses)[0] if _rules.BOUND in codes else []
    fixable = {origin for plan in plans for origin in plan.origins}
    places: _Places = {}
    for use in _told(uses):
        if use.code in codes:
            yield _of_use(module, path, use, places)._replace(fix=use.origin in fixable)
    if _rules.BOUND in codes:
        told = {use.origin for use in uses}
        for one in _constants.left(module, path):
            if one.node not in told:
                message = f"port {one.number} is hard-coded: {one.what}"
                yield _finding(module, path, _rules.BOUND, one.node, message)


def _told(uses: list[Use]) -> Iterator[Use]:
    """Each but what is reckoned from a number that is told itself, ``PORT + 1`` beside ``PORT``."""
    numbers: set[ast.expr] = set()
    for use in sorted(uses, key=lambda use: use.code == _rules.PEER):
        if isinstance(use.origin, ast.Constant) and isinstance(use.origin.value, int):
            if use.origin in numbers:
                continue
            numbers.add(use.origin)
        yield use


def _others(
    module: Module, codes: frozenset[str], *, takeover: bool
) -> Iterator[tuple[str, ast.AST, str]]:
    asked = codes & {_rules.UNHELD, _rules.EVERY_INTERFACE}
    unheld = list(_unheld.unheld(module)) if asked else []
    if _rules.UNHELD in codes:
        for helper in unheld:
            if not (takeover and helper.of_library):
                yield _rules.UNHELD, helper.node, helper.what
    if _rules.REUSED in codes:
        for shared in _sockets.reused(module):
            what = f"{shared.what} is switched on for a test's TCP socket"
            yield _rules.REUSED, shared.node, what
    if _rules.EVERY_INTERFACE in codes:
        for shared in _sockets.everywhere(module, unheld):
            what = f"{shared.what}: every interface of the machine"
            yield _rules.EVERY_INTERFACE, shared.node, what
    if _rules.SLEEP in codes:
        for sleep in _sleeps.sleeps(module):
            yield _rules.SLEEP, sleep.node, f"sleeps until {sleep.started} may be listening"


def _of_use(module: Module, path: str, use: Use, places: _Places) -> Finding:
    line = getattr(use.origin, "lineno", 0)
    where = f" in line {use.sink.call.lineno}" if use.sink.call.lineno != line else ""
    remedy = _rules.RULES[use.code].remedy
    if use.code == _rules.PEER:
        does = f"{use.sink.callee} goes to it{where}"
        if use.program is not None:
            does = f"{use.program} goes to it{where}"
    elif use.program is not None:
        does = (
            f"the environment of a program says {use.program}"
            if use.program.endswith("=")
            else f"{use.program} is started on it"
        ) + where
        serve = "serve_once" if _is_wide(module, use.sink.call) else "serve"
        remedy = (
            f'start it with the fixture {serve} or portlease.serve(), "{{port}}" in its arguments '
            "or environment"
        )
        if _calls.leases_its_port(use.sink):
            remedy = 'write "{port}" in its place'
        elif use.program in _programs.CONTAINERS:
            kind = '"udp"' if use.sink.udp else ""
            remedy = (
                f"give it a portlease.lease({kind}) that has stepped aside; serve does not see "
                "that its daemon binds it"
            )
    else:
        does = f"{use.sink.callee} binds it{where}"
        if _is_wide(module, use.sink.call):
            kind = '"udp"' if use.sink.udp else ""
            remedy = (
                f"take leased_port_factory({kind}), as leased_port is of a narrower scope than "
                f"this fixture, or portlease.lease({kind})"
            )
        elif use.sink.udp:
            remedy = 'take the fixture leased_udp_port, or portlease.lease("udp")'
    message = f"port {use.number} is hard-coded: {does}"
    finding = _finding(module, path, use.code, use.origin, message, remedy)
    if not (isinstance(use.origin, ast.Constant) and isinstance(use.origin.value, str | bytes)):
        return finding
    if use.origin not in places:
        places[use.origin] = _places_in(module.source, finding)
    place = places[use.origin].get(str(use.number))
    return finding if place is None else finding._replace(**place._asdict())


def _is_wide(module: Module, node: ast.AST) -> bool:
    """Whether it is in a fixture that outlives a test, which fixtures of a test are not given."""
    return any(
        keyword.arg == "scope"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value == "function")
        for function in module.source.ancestors(node)
        if isinstance(function, FUNCTIONS)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and unparsed(decorator.func).endswith("fixture")
        for keyword in decorator.keywords
    )


def _finding(  # noqa: PLR0913, PLR0917 - what makes a finding
    module: Module,
    path: str,
    code: str,
    node: ast.AST,
    message: str,
    remedy: str | None = None,
) -> Finding:
    source = module.source
    line: int = getattr(node, "lineno", 1)
    end_line: int = getattr(node, "end_lineno", None) or line
    column = source.column(line, getattr(node, "col_offset", 0))
    end_column = source.column(end_line, getattr(node, "end_col_offset", 0))
    return Finding(
        path,
        line,
        column,
        end_line,
        end_column,
        code,
        message,
        _rules.RULES[code].remedy if remedy is None else remedy,
        source_text(source.lines, line),
    )


class _Place(NamedTuple):
    """Where a number stands, as a finding says it."""

    line: int
    column: int
    end_line: int
    end_column: int
    text: str


_Places: TypeAlias = "dict[ast.expr, dict[str, _Place]]"


def _places_in(source: Source, whole: Finding) -> dict[str, _Place]:
    """Where each number first stands in the literal that *whole* is about."""
    places: dict[str, _Place] = {}
    first, last = whole.line or 1, whole.end_line or 1
    for line in range(first, min(last, len(source.lines)) + 1):
        text = source.lines[line - 1]
        lower = (whole.column or 1) - 1 if line == first else 0
        upper = (whole.end_column or 1) - 1 if line == last else len(text)
        shown = source_text(source.lines, line)
        for match in _places.NUMBER.finditer(text, lower, upper):
            place = _Place(line, match.start() + 1, line, match.end() + 1, shown)
            places.setdefault(match.group(), place)
    return places
