"""PL001 where the number leaves the module: constants that others read, and defaults unsaid.

``PORT = 7780`` in the tests' own config.py, ``PORT = 9876`` in a class whose base reads it,
``port: int = 8025`` in a conftest's dataclass: nothing in the module binds them, and nothing in it
only compares them either. And servers that are started without any port have one all the same.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint._values import FIRST_UNPRIVILEGED, is_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._module import Module


class Left(NamedTuple):
    """A port that is bound elsewhere."""

    node: ast.expr
    number: int
    what: str


_NAME: Final = re.compile(r"(^|_)PORTS?(_|$)")
_UNSAID: Final = {"uvicorn.Config": 8000, "uvicorn.config.Config": 8000, "uvicorn.run": 8000}
_SAID: Final = frozenset({"port", "fd", "uds", None})


def left(module: Module, path: str) -> Iterator[Left]:
    """The ports that *module*, the file at *path*, leaves to others."""
    used = _used(module)
    helper = re.fullmatch(r"(test_.*|.*_tests?)\.pyw?", path.rpartition("/")[2]) is None
    for scope in (module.scopes.module, *module.scopes.inside.values()):
        of_module = isinstance(scope.node, ast.Module)
        if not (isinstance(scope.node, ast.ClassDef) or (of_module and helper)):
            continue
        for name, bindings in scope.names.items():
            if len(bindings) != 1 or not _is_told(name, of_module=of_module, helper=helper):
                continue
            value = bindings[0].value
            if (
                isinstance(value, ast.Constant)
                and isinstance(value.value, int)
                and is_port(value.value)
                and value.value >= FIRST_UNPRIVILEGED
                and name not in used
            ):
                yield Left(value, value.value, f"{name} is the port of others")
    yield from _unsaid(module)


def _is_told(name: str, *, of_module: bool, helper: bool) -> bool:
    if of_module:
        return _NAME.search(name) is not None
    return name == "PORT" or (helper and name == "port")


def _used(module: Module) -> set[str]:
    """The names that this module reads, but for those that it only puts into texts."""
    found = set()
    for node in module.scopes.of_node:
        parent = module.source.parents.get(node)
        if isinstance(parent, ast.FormattedValue):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
    return found


def _unsaid(module: Module) -> Iterator[Left]:
    """Servers that are started on the port that they have when none is said."""
    for call in module.calls:
        dotted = module.dotted(call)
        number = _UNSAID.get(dotted)
        if number is None or any(one.arg in _SAID for one in call.keywords):
            continue
        if dotted == "uvicorn.run" or _is_served(module, call):
            yield Left(call, number, f"{dotted}() has it where none is said")


def _is_served(module: Module, call: ast.Call) -> bool:
    """Whether a configuration is given to a server, in the same function."""
    parent = module.source.parents.get(call)
    match parent:
        case ast.Assign(targets=[ast.Name(id=name)]):
            pass
        case ast.Call():
            return re.search(r"serve", module.dotted(parent), re.IGNORECASE) is not None
        case _:
            return False
    function = module.source.function_of(call)
    return any(
        isinstance(argument, ast.Name) and argument.id == name
        for other in module.calls_in.get(function, ())
        if re.search(r"serve", module.dotted(other), re.IGNORECASE)
        for argument in (*other.args, *(one.value for one in other.keywords))
    )
