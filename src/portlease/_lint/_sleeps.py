"""PL006: a sleep between the start of a server and the first client."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint import _calls
from portlease._lint._source import unparsed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._module import Module


class Sleep(NamedTuple):
    """The sleep, what it waits for and what follows."""

    node: ast.AST
    started: str


_SLEEPS: Final = frozenset(
    {"time.sleep", "asyncio.sleep", "trio.sleep", "anyio.sleep", "gevent.sleep"}
)
_NEAR: Final = 2
"""How many statements after the start a sleep still waits for it."""


def sleeps(module: Module) -> Iterator[Sleep]:
    """Every sleep that comes right after a start, and before a connection or a fixture's yield."""
    for node in module.scopes.of_node:
        if not isinstance(node, ast.stmt | ast.excepthandler | ast.Module | ast.match_case):
            continue
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and not isinstance(node, ast.While | ast.For):
                yield from _in_block(module, block)


def _in_block(module: Module, block: list[ast.stmt]) -> Iterator[Sleep]:
    for at, statement in enumerate(block):
        if not _is_sleep(module, statement):
            continue
        before = block[max(0, at - _NEAR) : at]
        started = next((name for one in reversed(before) if (name := _starts(module, one))), None)
        if started and any(_meets(module, one) for one in block[at + 1 :]):
            yield Sleep(statement, started)


def _is_sleep(module: Module, statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value.value if isinstance(statement.value, ast.Await) else statement.value
    return isinstance(value, ast.Call) and module.dotted(value) in _SLEEPS


def _starts(module: Module, statement: ast.stmt) -> str | None:
    """What *statement* starts, if it starts something: a process or a server."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return None
    for node in ast.walk(statement):
        if not isinstance(node, ast.Call):
            continue
        dotted = module.dotted(node)
        name = dotted.rpartition(".")[2]
        if any(sink.shape == "argv" for sink in module.sinks(node)) and name != "run":
            return f"{name}()"
        if _calls.is_server(name):
            return f"{name}()"
        if name == "start" and isinstance(node.func, ast.Attribute) and _serves(module, node.func):
            return f"{dotted.replace('?', '...')}()"
    return None


def _serves(module: Module, start: ast.Attribute) -> bool:
    """Whether ``x.start()`` starts a server: by the name of x, or of what its thread runs."""
    for binding in module.values.settled(start.value, module.scopes.of_node[start]):
        if isinstance(binding.value, ast.Call):
            target = _calls.keyword(binding.value, "target")
            if target is not None:
                return _SERVING.search(unparsed(target)) is not None
    return _SERVING.search(unparsed(start.value)) is not None


_SERVING: Final = re.compile(r"serv|listen|accept|proc|broker|daemon|dev|app|httpd", re.IGNORECASE)


def _meets(module: Module, statement: ast.stmt) -> bool:
    """Whether *statement* goes to a server: a client, or the yield of a fixture."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Yield) and module.source.function_of(node) is not None:
            return True
        if isinstance(node, ast.Call) and any(
            sink.deed == "connect" and not sink.lazy for sink in module.sinks(node)
        ):
            return not module.pretence.covers(node, module.scopes.of_node[node])
    return False
