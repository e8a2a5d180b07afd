"""Which number or text an expression stands for, and where in the source that was written."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._scopes import Binding, Parameter, Scope, Scopes

FIRST_UNPRIVILEGED: Final = 1024
MAX_PORT: Final = 65535
_DEEPEST: Final = 40
_MOST: Final = 64
"""Values of one expression, and pieces of one text: more is no test's own port."""
UNKNOWN: Final = "\0"
"""In a text: a part that nobody knows."""


class Number(NamedTuple):
    """A number, and the literal that it comes from."""

    value: int
    origin: ast.expr


class Piece(NamedTuple):
    """Part of a text, and the literal that it comes from."""

    text: str
    origin: ast.expr


class Text(NamedTuple):
    """A text, of pieces; what is not known of it is `UNKNOWN`."""

    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def origin(self, at: int) -> ast.expr:
        """The literal that character *at* comes from."""
        for piece in self.pieces:
            if at < len(piece.text):
                return piece.origin
            at -= len(piece.text)
        return self.pieces[-1].origin


def is_port(value: object) -> bool:
    """Whether it can be a port that somebody chose."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_PORT


class Values:
    """Evaluates what can be known from the text."""

    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes
        self._numbers: dict[ast.expr, list[Number]] = {}
        self._texts: dict[ast.expr, list[Text]] = {}

    # --- numbers --------------------------------------------------------------------------------

    def numbers(self, expression: ast.expr, scope: Scope, depth: int = 0) -> list[Number]:
        """Each integer that it may stand for; none where it is not known."""
        known = self._numbers.get(expression)
        if known is None:
            self._numbers[expression] = []  # what a name that stands for itself stands for
            known = [
                number
                for value, where in self._settled(expression, scope, depth)
                for number in self._number(value, where, depth + 1)
            ][:_MOST]
            self._numbers[expression] = known
        return known

    def _settled(
        self, expression: ast.expr, scope: Scope, depth: int
    ) -> Iterator[tuple[ast.expr, Scope]]:
        if depth <= _DEEPEST:
            for binding in self._scopes.settle(expression, scope):
                if binding.value is not None:
                    yield binding.value, binding.scope

    def _number(self, node: ast.expr, scope: Scope, depth: int) -> Iterator[Number]:
        match node:
            case ast.Constant(value=int(value)) if _is_small(value):
                yield Number(value, node)
            case ast.Constant(value=str(text)) if _is_number(text):
                yield Number(int(text), node)
            case ast.Call(func=ast.Name(id="int" | "str"), args=[inner], keywords=[]):
                yield from self.numbers(inner, scope, depth)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as operator, right=right):
                lefts = self.numbers(left, scope, depth)
                rights = self.numbers(right, scope, depth)
                if len(lefts) == len(rights) == 1:
                    (one,), (other,) = lefts, rights
                    sign = 1 if isinstance(operator, ast.Add) else -1
                    bigger = one if one.value >= other.value else other
                    yield Number(one.value + sign * other.value, bigger.origin)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))) if _is_small(
                value
            ):
                yield Number(-value, node)
            case ast.JoinedStr(values=[ast.FormattedValue(value=inner, format_spec=None)]):
                yield from self.numbers(inner, scope, depth)
            case ast.IfExp(body=body, orelse=orelse):
                yield from self.numbers(body, scope, depth)
                yield from self.numbers(orelse, scope, depth)
            case _:
                pass

    def port(self, expression: ast.expr, scope: Scope) -> Iterator[Number]:
        """Each number that can be a port: not 0, which asks for a free one."""
        for number in self.numbers(expression, scope):
            if is_port(number.value):
                yield number

    # --- texts ----------------------------------------------------------------------------------

    def texts(self, expression: ast.expr, scope: Scope, depth: int = 0) -> list[Text]:
        """Each text that it may stand for."""
        known = self._texts.get(expression)
        if known is None:
            self._texts[expression] = []
            found = [
                self._text(value, where, depth + 1)
                for value, where in self._settled(expression, scope, depth)
            ]
            known = [text for text in found if text is not None][:_MOST]
            self._texts[expression] = known
        return known

    def _text(  # noqa: PLR0911 - one for each kind of expression
        self, node: ast.expr, scope: Scope, depth: int
    ) -> Text | None:
        match node:
            case ast.Constant(value=str(text)):
                return Text((Piece(text, node),))
            case ast.Constant(value=bytes(data)):
                return Text((Piece(data.decode("latin-1"), node),))
            case ast.JoinedStr(values=values):
                return _joined(self._formatted(one, scope, depth) for one in values)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return _joined([self._part(left, scope, depth), self._part(right, scope, depth)])
            case ast.BinOp(left=left, op=ast.Mod(), right=right):
                given = right.elts if isinstance(right, ast.Tuple) else [right]
                return self._filled(_PERCENT, left, given, scope, depth)
            case ast.Call(func=ast.Attribute(value=left, attr="format"), args=args, keywords=[]):
                return self._filled(_BRACES, left, args, scope, depth)
            case ast.Call(
                func=ast.Attribute(value=inner, attr="encode" | "decode" | "strip" | "rstrip")
            ):
                return self._one(inner, scope, depth)
            case ast.Call(func=ast.Name(id="str"), args=[inner]):
                return self._part(inner, scope, depth)
            case _:
                return None

    def _one(self, node: ast.expr, scope: Scope, depth: int) -> Text | None:
        return next(iter(self.texts(node, scope, depth)), None)

    def _part(self, node: ast.expr, scope: Scope, depth: int) -> Text:
        """As text within a text: numbers too, and `UNKNOWN` where it is not known."""
        if depth > _DEEPEST:
            return Text((Piece(UNKNOWN, node),))
        text = self._one(node, scope, depth)
        if text is not None:
            return text
        number = next(iter(self.numbers(node, scope, depth)), None)
        if number is not None:
            return Text((Piece(str(number.value), number.origin),))
        return Text((Piece(UNKNOWN, node),))

    def _formatted(self, node: ast.expr, scope: Scope, depth: int) -> Text:
        match node:
            case ast.FormattedValue(value=value, format_spec=None):
                return self._part(value, scope, depth)
            case ast.Constant(value=str(text)):
                return Text((Piece(text, node),))
            case _:
                return Text((Piece(UNKNOWN, node),))

    def _filled(
        self,
        places: re.Pattern[str],
        template: ast.expr,
        given: list[ast.expr],
        scope: Scope,
        depth: int,
    ) -> Text | None:
        text = self._one(template, scope, depth)
        if text is None or len(text.pieces) != 1:
            return text
        (piece,) = text.pieces
        found = list(places.finditer(piece.text))
        if len(found) != len(given):
            return text
        parts: list[Text] = []
        at = 0
        for match, one in zip(found, given, strict=True):
            parts.append(Text((Piece(piece.text[at : match.start()], piece.origin),)))
            parts.append(self._part(one, scope, depth))
            at = match.end()
        parts.append(Text((Piece(piece.text[at:], piece.origin),)))
        return _joined(parts)

    def part(self, node: ast.expr, scope: Scope) -> Text:
        """As text, whatever it is: numbers too, and `UNKNOWN` where it is not known."""
        return self._part(node, scope, 0)

    # --- sequences and addresses ----------------------------------------------------------------

    def dotted(self, expression: ast.expr, scope: Scope) -> str:
        """See `Scopes.dotted`."""
        return self._scopes.dotted(expression, scope)

    def settled(self, expression: ast.expr, scope: Scope) -> Iterator[Binding]:
        """See `Scopes.settle`."""
        return self._scopes.settle(expression, scope)

    def address(
        self, expression: ast.expr, scope: Scope
    ) -> Iterator[tuple[ast.expr, ast.expr, Scope]]:
        """Host, port and where they are understood, if it is an address: ``(host, port)``."""
        for binding in self._scopes.settle(expression, scope):
            match binding.value:
                case ast.Tuple(elts=[host, port]) | ast.List(elts=[host, port]):
                    yield host, port, binding.scope
                case ast.Tuple(elts=[host, port, _, _]):
                    yield host, port, binding.scope
                case _:
                    pass

    def parameters(self, expression: ast.expr, scope: Scope) -> Iterator[Parameter]:
        """The parameters whose values it hands on as they are, or as text."""
        match expression:
            case ast.Call(func=ast.Name(id="int" | "str"), args=[ast.expr() as inner]):
                expression = inner
            case ast.JoinedStr(values=[ast.FormattedValue(value=inner)]):
                expression = inner
            case _:
                pass
        for binding in self._scopes.settle(expression, scope):
            if binding.parameter is not None:
                yield binding.parameter

    def host(self, expression: ast.expr | None, scope: Scope) -> str | None:
        """The host as text, if it is known."""
        if expression is None:
            return None
        text = next(iter(self.texts(expression, scope)), None)
        if text is None or UNKNOWN in str(text):
            return None
        return str(text)


_PERCENT: Final = re.compile(r"%[sdri]")
_BRACES: Final = re.compile(r"\{[0-9]*\}")
_WIDEST: Final = 64


def _is_small(value: int) -> bool:
    """Whether it is a number, and one that can be written: str() of 0xfff... may be refused."""
    return not isinstance(value, bool) and value.bit_length() <= _WIDEST


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_PORT))


def _joined(parts: Iterator[Text] | list[Text]) -> Text | None:
    pieces = tuple(piece for part in parts for piece in part.pieces)
    return Text(pieces) if 0 < len(pieces) <= _MOST else None
