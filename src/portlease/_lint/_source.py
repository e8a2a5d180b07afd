"""A source file as it is read: its text, its lines, its syntax tree and who contains whom there."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, TypeAlias

    Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


class UnreadableError(Exception):
    """A file that is no Python of this interpreter: what, and where."""

    def __init__(self, what: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.column = column


# Without one of these words there is nothing to find: a third of all test files.
_RELEVANT: Final = re.compile(
    r"(?<![a-z])(ports?|localhost|127\.0|socket|sleep|popen|subprocess|bind|listen\w*|connect|\w+_port"
    r"s?)(?![a-z])|Server|reuse_|unused_|free_|urlopen|https?://|::1|_port|pexpect|_process\("
    r"|\bos\.(system|exec|spawn|posix_spawn)",
    re.IGNORECASE,
)


class Source:
    """A parsed module.

    Raises:
        UnreadableError: it is not to be parsed.
    """

    def __init__(self, data: bytes) -> None:
        self.text, self.encoding = _decode(data)
        self.tree = _parse(self.text)
        self.is_relevant = _RELEVANT.search(self.text) is not None
        """Whether there can be anything to find in it."""
        self.lines = self.text.splitlines()
        # The tree counts lines as the tokenizer does, which knows no \f or \x1c at a line's end.
        if len(self.lines) != self.text.count("\n") + (not self.text.endswith("\n")):
            self.lines = self.text.split("\n")
        self.parents: dict[ast.AST, ast.AST] = {}
        self.children: dict[ast.AST, list[ast.AST]] = {}
        """Of each node, without contexts and operators, which are shared."""
        self._functions: dict[ast.AST, Function | None] = {self.tree: None}
        if self.is_relevant:
            self._grow()

    def _grow(self) -> None:
        parents, children, functions = self.parents, self.children, self._functions
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            function = node if isinstance(node, FUNCTIONS) else functions[node]
            below = children[node] = _children(node)
            for child in below:
                parents[child] = node
                functions[child] = function
            stack += below

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """What contains *node*, the nearest first."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def function_of(self, node: ast.AST) -> Function | None:
        """The innermost function that *node* is in."""
        return self._functions.get(node)

    def column(self, line: int, offset: int) -> int:
        """The tree's offset in UTF-8 bytes as a column in characters, from 1."""
        if not 0 < line <= len(self.lines):
            return offset + 1
        text = self.lines[line - 1]
        if text.isascii():
            return offset + 1
        return len(text.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore")) + 1


def unparsed(node: ast.AST) -> str:
    """As `ast.unparse`; "" where it has a number of more digits than str() gives."""
    try:
        return ast.unparse(node)
    except ValueError:
        return ""


_SHARED: Final = frozenset({"ctx", "op", "ops", "type_ignores"})


def _children(node: ast.AST) -> list[ast.AST]:
    # ast.iter_child_nodes() takes twice as long, and this is half of all that is done.
    found: list[ast.AST] = []
    for name in node._fields:
        if name in _SHARED:
            continue
        value = getattr(node, name, None)
        if value.__class__ is list:
            found += [one for one in value if isinstance(one, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def _decode(data: bytes) -> tuple[str, str]:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError as error:
        _decoded(data, "utf-8")  # says which byte, where the first lines name no encoding
        raise UnreadableError(f"its encoding: {error}", 1) from error
    text = _decoded(data, encoding)
    # As tokenize.open() does.
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UnreadableError(
            f"byte {data[error.start]:#04x} is not {error.encoding}, and no line says "
            "`# -*- coding: ... -*-`",
            line,
        ) from error
    except (LookupError, ValueError) as error:  # a codec that gives no text: `coding: hex`
        raise UnreadableError(f"its encoding: {error}", 1) from error


def _parse(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():  # invalid escapes are their author's business
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        line = error.lineno if error.lineno and error.lineno > 0 else None
        column = error.offset if line and error.offset and error.offset > 0 else None
        raise UnreadableError(f"no Python: {error.msg}", line, column) from error
    except ValueError as error:  # a null byte, to older parsers; a lone surrogate
        raise UnreadableError(f"no Python: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise UnreadableError("nested too deeply for this Python's parser") from error
