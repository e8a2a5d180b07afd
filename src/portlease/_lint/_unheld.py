"""PL003: a free port is found, and let go."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint._source import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._module import Module
    from portlease._lint._source import Function


class Unheld(NamedTuple):
    """Where a port is let go, and how."""

    node: ast.AST
    what: str
    of_library: bool = False
    """Whether another library's helper does it, which takeover serves."""


# What finds a port and does not keep it, by the package that it is imported from. tornado's
# bind_unused_port() is none of them: it returns the socket, too.
_HELPERS: Final = {
    "portpicker": {"pick_unused_port", "PickUnusedPort"},
    "portend": {"find_available_local_port"},
    "port_for": {"select_random", "get_port"},
    "ephemeral_port_reserve": {"reserve"},
    "aiohttp": {"unused_port"},
    "test": {"find_unused_port"},
    "pytest_asyncio": {"unused_port", "_unused_port"},
    "xprocess": {"get_free_port"},
    "freeport": {"get"},
    "free_port": {"get_free_port", "find_free_port"},
    "torch": {"find_free_port", "get_free_port"},
    "distributed": {"open_port"},
    "selenium": {"free_port"},
    "testing": {"get_unused_port"},
    "anyio": {"get_free_port"},
}
_FIXTURES: Final = frozenset(
    {"unused_tcp_port", "unused_udp_port", "unused_tcp_port_factory", "unused_udp_port_factory"}
    | {"free_tcp_port", "free_udp_port", "free_tcp_port_factory", "free_udp_port_factory"}
    | {"aiohttp_unused_port"}
)


def unheld(module: Module) -> Iterator[Unheld]:
    """Every place of *module* where a free port is found and not kept."""
    for call in module.calls:
        package, _, name = module.dotted(call).rpartition(".")
        if name in _HELPERS.get(package.partition(".")[0], ()):
            what = f"{name}() finds a free port and does not keep it"
            yield Unheld(call, what, of_library=True)
    yield from _fixtures(module)
    for node in module.scopes.inside:
        if isinstance(node, FUNCTIONS):
            yield from _let_go(module, node)


def _fixtures(module: Module) -> Iterator[Unheld]:
    """The first use of each library's fixture in this file."""
    told: set[str] = set()
    for node in sorted(
        (node for node in module.scopes.inside if isinstance(node, FUNCTIONS)),
        key=lambda node: node.lineno,
    ):
        if not (node.name.startswith("test") or node.decorator_list):
            continue
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            name = argument.arg
            if name in _FIXTURES - told and name not in module.scopes.functions:
                told.add(name)
                what = f"the fixture {name} finds a free port and does not keep it"
                yield Unheld(argument, what, of_library=True)


def _let_go(module: Module, function: Function) -> Iterator[Unheld]:
    for call in module.calls_in.get(function, ()):
        owner = _bound_to_any(module, call)
        if owner is None:
            continue
        uses = list(_uses(module, function, owner))
        named = [node for node, how in uses if how == "getsockname"]
        closed = _closed(module, uses)
        if not named or closed is None or any(how == "else" for _, how in uses):
            continue
        if _is_used_after(module, function, named[0], closed):
            yield Unheld(
                call, f"a free port is found, and let go in line {closed[1]}, before it is used"
            )


def _bound_to_any(module: Module, call: ast.Call) -> str | None:
    """The name of the socket that is bound to port 0, if this is such a bind."""
    for sink in module.sinks(call):
        if sink.deed != "bind" or sink.shape != "address":
            continue
        for _, port, where in module.values.address(sink.value, sink.scope):
            numbers = module.values.numbers(port, where)
            if len(numbers) == 1 and numbers[0].value == 0:
                return _socket_name(module, call)
    return None


def _socket_name(module: Module, call: ast.Call) -> str | None:
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr="bind"):
            return name
        case _:
            pass
    if module.dotted(call) != "socket.create_server":
        return None
    match module.source.parents.get(call):
        case ast.withitem(optional_vars=ast.Name(id=name)):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case _:
            return None


def _uses(module: Module, function: Function, name: str) -> Iterator[tuple[ast.AST, str]]:
    """What is done with the socket *name* in *function*."""
    for node in ast.walk(function):
        if not (isinstance(node, ast.Name) and node.id == name):
            continue
        parent = module.source.parents.get(node)
        match parent:
            case ast.Attribute(attr="getsockname" | "close" as attr):
                yield node, attr
            case ast.Attribute(attr="bind" | "setsockopt" | "settimeout" | "listen" | "family"):
                yield node, "set up"
            case (
                ast.withitem()
                | ast.Call(func=ast.Attribute(attr="closing") | ast.Name(id="closing"))
            ):
                yield node, "with"
            case _ if isinstance(node.ctx, ast.Store):
                yield node, "set up"
            case _:
                yield node, "else"


def _closed(module: Module, uses: list[tuple[ast.AST, str]]) -> tuple[ast.AST, int] | None:
    """What closes the socket, and the line after which it is closed."""
    for node, how in uses:
        if how == "close":
            return node, getattr(node, "lineno", 0)
        if how == "with":
            for ancestor in module.source.ancestors(node):
                if isinstance(ancestor, ast.With | ast.AsyncWith):
                    return ancestor, ancestor.end_lineno or 0
    return None


def _is_used_after(
    module: Module, function: Function, named: ast.AST, closed: tuple[ast.AST, int]
) -> bool:
    """Whether the number goes on after the socket is closed: returned, or used further down."""
    statement = next(
        (node for node in module.source.ancestors(named) if isinstance(node, ast.stmt)), None
    )
    if isinstance(statement, ast.Return):
        return _tells_the_port(statement.value)
    if not isinstance(statement, ast.Assign) or not _tells_the_port(statement.value):
        return False
    names = set()
    for target in statement.targets:
        names |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(target) if isinstance(node, ast.Attribute)}
    inside = isinstance(closed[0], ast.With | ast.AsyncWith)
    for node in ast.walk(function):
        used = node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)
        if used not in names or not isinstance(getattr(node, "ctx", None), ast.Load):
            continue
        if getattr(node, "lineno", 0) > closed[1]:
            return True
        if inside and any(isinstance(at, ast.Return) for at in module.source.ancestors(node)):
            return True
    return False


def _tells_the_port(value: ast.expr | None) -> bool:
    """Whether an expression is the port of a ``getsockname()``, or all of that."""
    match value:
        case ast.Await(value=inner):
            return _tells_the_port(inner)
        case ast.Subscript(value=inner, slice=ast.Constant(value=int(index))):
            return index != 0 and _tells_the_port(inner)
        case ast.Subscript(value=inner):
            return _tells_the_port(inner)
        case ast.Call(func=ast.Attribute(attr="getsockname")):
            return True
        case ast.Call(func=ast.Name(), args=args) | ast.Tuple(elts=args):  # int(), cast()
            return any(map(_tells_the_port, args))
        case _:
            return False
