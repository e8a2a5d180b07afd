"""Imports point one way: no module leads back to itself, by whatever others, at whatever time."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import portlease

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(portlease.__file__).parent


def _modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(tree: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    """Its import statements' modules, those in functions too, those for type checkers not."""
    ahead: list[ast.AST] = [tree]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are written out"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            ahead += node.orelse
        elif not isinstance(node, ast.expr):  # which have no statements in them
            ahead += ast.iter_child_nodes(node)


def _graph() -> dict[str, set[str]]:
    modules = _modules()
    return {
        name: set(_imported(ast.parse(path.read_bytes()), modules)) & set(modules) - {name}
        for name, path in modules.items()
    }


def _circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The modules from which one comes back to them, those of one circle together."""
    reached: dict[str, set[str]] = {}
    for name in graph:
        seen: set[str] = set()
        ahead = list(graph[name])
        while ahead:
            one = ahead.pop()
            if one not in seen:
                seen.add(one)
                ahead += graph[one]
        reached[name] = seen
    circles = {
        tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph
    }
    return sorted(list(circle) for circle in circles if circle)


CONTRACT = "portlease._tree._process"
"""Its factory chooses between its subclasses, by the system that it finds itself on."""


def test_there_are_no_circles() -> None:
    """Lazy imports count: a module that needs another needs it whenever that is."""
    graph = _graph()
    assert len(graph) > 100
    assert graph["portlease._take"] >= {"portlease._lease", "portlease._pool"}
    chosen = {f"{CONTRACT}_linux", f"{CONTRACT}_portable"}
    assert chosen <= graph[CONTRACT]
    graph[CONTRACT] -= chosen
    assert _circles(graph) == []


def test_a_circle_would_be_seen() -> None:
    """Of a to b to c to a, whatever hangs on it."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert _circles(graph) == [["a", "b", "c"]]
