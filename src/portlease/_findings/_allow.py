"""What a source file allows by comments: ``# portlease: allow[PL001, PL005] reason``.

- behind code: the statement that it stands in, however many lines that has;
- alone on its line: the next statement; if that is a ``def``, a ``class``, a ``with`` or another
  block, all of it;
- ``# portlease: allow-file``, alone on its line: the whole file.

Without codes in brackets every rule is allowed. Rules may be named by their names, too.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
import warnings
from typing import TYPE_CHECKING, NamedTuple

from portlease._findings import _rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_COMMENT: Final = re.compile(
    r"#\s*portlease:\s*allow(?P<file>-file)?\b(?!-)(?:\s*\[(?P<codes>[^\]]*)\])?", re.IGNORECASE
)
_MARK: Final = re.compile(r"portlease:\s*allow", re.IGNORECASE)


class _Span(NamedTuple):
    first: int
    last: int
    codes: frozenset[str] | None
    """None: all of them."""


class Allows:
    """What is allowed, and where."""

    def __init__(self, spans: tuple[_Span, ...] = ()) -> None:
        self._spans = spans

    def covers(self, line: int | None, code: str, end_line: int | None = None) -> bool:
        """Whether *code* is allowed at *line*, or at one of the lines up to *end_line*."""
        if line is None:
            return False
        last = line if end_line is None else end_line
        return any(
            span.first <= last and line <= span.last and (span.codes is None or code in span.codes)
            for span in self._spans
        )


_NOTHING: Final = Allows()


def read(source: str | None = None, *, path: str | None = None) -> Allows:
    """What *source*, or the file at *path*, allows.

    Never raises for a file that cannot be read, or is not Python: nothing is allowed in it then.
    """
    if source is None:
        assert path is not None  # noqa: S101 - one of the two
        try:
            with tokenize.open(path) as file:
                source = file.read()
        except (OSError, SyntaxError, ValueError):
            return _NOTHING
    if not _MARK.search(source):
        return _NOTHING
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: ast.Module | None = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    return in_tree(source, tree)


def in_tree(source: str, tree: ast.Module | None) -> Allows:
    """As `read`, for source that is parsed already; without a tree a comment covers its line."""
    if not _MARK.search(source):
        return _NOTHING
    return Allows(tuple(_spans(source, tree)))


@functools.lru_cache(maxsize=256)
def _of_path(path: str) -> Allows:
    return read(path=path)


def covers_path(path: str, line: int | None, code: str) -> bool:
    """Whether the file at *path* allows *code* at *line*; files are read once in a process."""
    return _of_path(path).covers(line, code)


def _spans(source: str, tree: ast.Module | None) -> Iterator[_Span]:
    statements = _statements(tree) if tree is not None else []
    for line, alone, text in _comments(source):
        if (match := _COMMENT.match(text)) is None:
            continue
        codes = _codes(match["codes"])
        if match["file"]:
            yield _Span(1, 1 << 60, codes)
        elif alone:
            following = [span for span in statements if span[0] > line]
            first, last, _ = min(following, default=(line, line, line), key=lambda span: span[0])
            yield _Span(line, max(last, first), codes)
        else:
            # The innermost statement whose own lines, not those of its block, hold the comment.
            around = [span for span in statements if span[0] <= line <= span[2]]
            first, _, last = max(around, default=(line, line, line), key=lambda span: span[0])
            yield _Span(first, last, codes)


def _codes(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    words = {word.strip() for word in text.split(",")} - {""}
    names = {rule.name: rule.code for rule in _rules.RULES.values()}
    return frozenset(names.get(word.lower(), word.upper()) for word in words)


def _comments(source: str) -> Iterator[tuple[int, bool, str]]:
    """Line, whether it stands alone there, and text of each comment."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                before = token.line[: token.start[1]]
                yield token.start[0], not before.strip(), token.string
    except (tokenize.TokenError, SyntaxError):
        return  # what is not Python further down allows nothing there


def _statements(tree: ast.Module) -> list[tuple[int, int, int]]:
    """First line, last line, and last line of the head (before its block) of each statement."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            decorators = getattr(node, "decorator_list", ())
            first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
            last = node.end_lineno or node.lineno
            found.append((first, last, max(first, _head_end(node, last))))
    return found


def _head_end(node: ast.stmt, last: int) -> int:
    match node:
        case ast.Match(cases=[first, *_]):
            inner = first.pattern.lineno
        case _:
            body: list[ast.stmt] = getattr(node, "body", [])
            if not body:
                return last
            decorators: list[ast.expr] = getattr(body[0], "decorator_list", [])
            inner = min([body[0].lineno, *(decorator.lineno for decorator in decorators)])
    return inner if inner == node.lineno else inner - 1
