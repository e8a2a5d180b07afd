"""Texts that are written in several parts, ``"a" "b"``: the tree has one, a rewriter sees each."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._source import Source

# f-strings are several tokens from Python 3.12 on, t-strings are new in 3.14.
_STARTS: Final = frozenset(
    {getattr(tokenize, f"{kind}_START", -1) for kind in ("FSTRING", "TSTRING")}
)
_ENDS: Final = frozenset({getattr(tokenize, f"{kind}_END", -1) for kind in ("FSTRING", "TSTRING")})
_QUOTE: Final = re.compile(r"(?P<prefix>[A-Za-z]*)(?P<quote>'''|\"\"\"|'|\")")


def say_the_same(
    source: Source, node: ast.Constant | ast.JoinedStr, number: int, pattern: re.Pattern[str]
) -> bool:
    """Whether the parts of a text have *pattern*, a *number*, as often as all of it has."""
    if isinstance(node, ast.Constant) and not isinstance(node.value, str):
        return True
    parent = source.parents.get(node)
    if isinstance(parent, ast.JoinedStr) or (
        isinstance(parent, ast.FormattedValue) and parent.format_spec is node
    ):
        return True  # its own text is looked at
    joined = _constants(node)
    whole = sum(len(pattern.findall(text)) for text in joined)
    written = _segment(source, node)
    if not whole and str(number) not in written:
        return True
    try:
        parts = [text for literal in _literals(written) for text in _texts(literal)]
    except (SyntaxError, ValueError, tokenize.TokenError):
        return False
    return sum(len(pattern.findall(text)) for text in parts) == whole


def _constants(node: ast.expr) -> list[str]:
    values = node.values if isinstance(node, ast.JoinedStr) else [node]
    return [
        one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


def _segment(source: Source, node: ast.expr) -> str:
    first, last = node.lineno, node.end_lineno or node.lineno
    lines = source.lines[first - 1 : last]
    if not lines:
        return ""
    lines[-1] = lines[-1][: source.column(last, node.end_col_offset or 0) - 1]
    lines[0] = lines[0][source.column(first, node.col_offset) - 1 :]
    return "\n".join(lines)


def _literals(written: str) -> Iterator[str]:
    """Each literal of an implicit concatenation, as it is written."""
    lines = f"({written})".splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    text = "".join(lines)
    depth = begin = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        at = starts[token.start[0] - 1] + token.start[1]
        if token.type in _STARTS:
            begin = begin if depth else at
            depth += 1
        elif token.type in _ENDS:
            depth -= 1
        elif token.type == tokenize.STRING and not depth:
            begin = at
        else:
            continue
        if not depth:
            yield text[begin : starts[token.end[0] - 1] + token.end[1]]


def _texts(literal: str) -> list[str]:
    """What a rewriter sees of a literal: what is between the quotes, without f-strings' names."""
    start = _QUOTE.match(literal)
    if start is None or "f" in start["prefix"].lower():
        return _constants(ast.parse(literal, mode="eval").body)
    return [literal[start.end() : -len(start["quote"])]]
