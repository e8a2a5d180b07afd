"""The proof of a rewriting: with its numbers put in again, a test says what it said before."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from portlease._lint import _plan
from portlease._lint._source import FUNCTIONS
from portlease._lint._values import is_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TypeAlias

    from portlease._lint._plan import Plan, Refusal
    from portlease._lint._source import Function

_Form: TypeAlias = "tuple[object, ...]"


def failures(before: ast.Module, after: bytes, plans: Iterable[Plan]) -> Iterator[Refusal]:
    """Those of *plans* that were carried out in part, or into something else."""
    old, new = _functions(before), _functions(ast.parse(after))
    places = {(one.name, one.lineno): at for at, one in enumerate(old)}
    for plan in plans:
        at = places[plan.name, plan.line]
        why = _failure(old[at], new[at], plan)
        if why is not None:
            yield _plan.Refusal(plan.name, plan.line, why)


def _functions(tree: ast.Module) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def _failure(before: Function, after: Function, plan: Plan) -> str | None:
    for number in plan.names:
        for node in _body(after):
            if isinstance(node, ast.Constant) and _plan.has(node.value, number):
                return f"its {number} stands where it cannot be rewritten"
    said = 1 if _plan.documentation(after) is not None else 0
    body = [*after.body[:said], *after.body[said + len(plan.first) :]]
    numbers = {name: number for number, name in plan.names.items()}
    if [_form(one, numbers) for one in body] != [_form(one, {}) for one in before.body]:
        return "rewritten, it would say something else"
    return None


def _body(test: Function) -> Iterator[ast.AST]:
    docstring = _plan.documentation(test)
    for statement in test.body:
        for node in ast.walk(statement):
            if node is not docstring:
                yield node


def _form(node: ast.AST, numbers: Mapping[str, int]) -> _Form:
    """The node as nested tuples, in which a number in a text is text, however it came there."""
    match node:
        case ast.Constant(value=value):
            return _constant(value)
        case ast.Name(id=name) if name in numbers:
            return _constant(numbers[name])
        case ast.Call(func=ast.Name(id="str"), args=[inner], keywords=[]):
            text = _as_text(_form(inner, numbers))
            if text is not None:
                return _constant(text)
        case ast.JoinedStr(values=values):
            return _joined([_form(value, numbers) for value in values])
        case ast.FormattedValue(value=inner, conversion=-1, format_spec=None):
            form = _form(inner, numbers)
            text = _as_text(form)
            return ("{}", form) if text is None else _constant(text)
        case _:
            pass
    return (
        type(node).__name__,
        *(_field(getattr(node, name, None), numbers) for name in node._fields),
    )


def _field(value: object, numbers: Mapping[str, int]) -> object:
    if isinstance(value, ast.AST):
        return _form(value, numbers)
    if isinstance(value, list):
        return tuple(_field(one, numbers) for one in value)
    return value


def _constant(value: object) -> _Form:
    return ("=", type(value).__name__, value)


def _as_text(form: _Form) -> str | None:
    """What a form of a text, or of a number that may be a port, is in a text."""
    value = form[2] if form[0] == "=" else None
    if isinstance(value, str):
        return value
    return str(value) if is_port(value) else None


def _joined(pieces: Iterable[_Form]) -> _Form:
    """An f-string: texts that meet are one, and one alone is a text."""
    found: list[_Form] = []
    for piece in pieces:
        text = _as_text(piece)
        if text is not None and found and (before := _as_text(found[-1])) is not None:
            found[-1] = _constant(before + text)
        else:
            found.append(piece)
    found = [piece for piece in found if piece != _constant("")]
    if not found:
        return _constant("")
    return found[0] if len(found) == 1 and found[0][0] == "=" else ("JoinedStr", *found)
