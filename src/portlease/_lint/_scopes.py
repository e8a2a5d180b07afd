"""Who is called what: names that are assigned once, in a module, a class or a function.

Deliberately simple. A name with two assignments, a loop's variable, a parameter without a default:
what it stands for is not known, and nothing is claimed of it.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint._source import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._source import Function, Source

_SCOPES: Final = (*FUNCTIONS, ast.Lambda, ast.ClassDef, ast.Module)
_BINDING: Final = (
    *(ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.AugAssign, ast.For, ast.AsyncFor),
    *(ast.comprehension, ast.withitem, ast.Import, ast.ImportFrom, ast.ExceptHandler),
    *(*FUNCTIONS, ast.Lambda),
)


class Parameter(NamedTuple):
    """A parameter of a function of this module."""

    function: Function | ast.Lambda
    name: str


class Binding(NamedTuple):
    """One thing that a name may stand for."""

    value: ast.expr | None
    """None: something, nobody knows what."""
    scope: Scope
    """Where *value* is to be understood."""
    parameter: Parameter | None = None
    """Which parameter it is, if it is one."""


class Scope:
    """The names of one module, class or function."""

    __slots__ = ("names", "node", "outer", "parent")

    def __init__(self, node: ast.AST, parent: Scope | None) -> None:
        self.node = node
        self.parent = parent
        self.names: dict[str, list[Binding]] = {}
        self.outer: set[str] = set()
        """Declared global or nonlocal here."""

    def bind(self, name: str, binding: Binding) -> None:
        """Note one more thing that *name* may stand for."""
        self.names.setdefault(name, []).append(binding)


class Scopes:
    """All scopes of a module."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.module = Scope(source.tree, None)
        self.of_node: dict[ast.AST, Scope] = {}
        self.inside: dict[ast.AST, Scope] = {source.tree: self.module}
        self.imports: dict[str, str] = {}
        self.attributes: dict[ast.ClassDef, dict[str, list[Binding]]] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.functions: dict[str, list[Function]] = {}
        self._walk()
        self._bind_all()

    # --- building -------------------------------------------------------------------------------

    def _walk(self) -> None:
        """Say for each node which scope it is understood in."""
        children = self._source.children
        stack: list[tuple[ast.AST, Scope]] = [(self._source.tree, self.module)]
        while stack:
            node, scope = stack.pop()
            self.of_node[node] = scope
            if isinstance(node, _SCOPES) and not isinstance(node, ast.Module):
                inner = self.inside[node] = Scope(node, scope)
                # Decorators, defaults, annotations and bases belong to the scope outside.
                body = {id(child) for child in _body(node)}
                stack += [
                    (child, inner if id(child) in body else scope) for child in children[node]
                ]
            else:
                stack += [(child, scope) for child in children[node]]
            if isinstance(node, ast.ClassDef):
                self.classes.setdefault(node.name, node)
            elif isinstance(node, FUNCTIONS):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Global | ast.Nonlocal):
                scope.outer.update(node.names)

    def _bind_all(self) -> None:  # noqa: C901, PLR0912 - one case for each kind of statement
        for node, scope in self.of_node.items():
            if not isinstance(node, _BINDING):
                continue
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._bind(target, value, scope)
                case ast.AnnAssign(target=target, value=value) if value is not None:
                    self._bind(target, value, scope)
                case ast.NamedExpr(target=target, value=value):
                    self._bind(target, value, scope)
                case ast.AugAssign(target=target) | ast.For(target=target):
                    self._bind(target, None, scope)
                case ast.AsyncFor(target=target) | ast.comprehension(target=target):
                    self._bind(target, None, scope)
                case ast.withitem(context_expr=value, optional_vars=target) if target is not None:
                    self._bind(target, value, scope)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    self._bind_parameters(node, scope)
                case ast.Import(names=names):
                    self._import(names, "", scope)
                case ast.ImportFrom(names=names, module=module, level=level):
                    self._import(names, "." * level + (module or "") + ".", scope)
                case ast.ExceptHandler(name=str(name)):
                    scope.bind(name, Binding(None, scope))
                case _:
                    pass

    def _import(self, names: list[ast.alias], prefix: str, scope: Scope) -> None:
        for alias in names:
            local = alias.asname or alias.name.partition(".")[0]
            full = alias.name if alias.asname or prefix else local
            self.imports.setdefault(local, prefix + full)
            scope.bind(local, Binding(None, scope))

    def _bind(self, target: ast.expr, value: ast.expr | None, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            owner = self._owner(target.id, scope)
            owner.bind(target.id, Binding(value, scope))
        elif isinstance(target, ast.Attribute):
            if (
                isinstance(target.value, ast.Name)
                and (owner_class := self._class_of(target.value.id, scope)) is not None
            ):
                of_class = self.attributes.setdefault(owner_class, {})
                of_class.setdefault(target.attr, []).append(Binding(value, scope))
        elif isinstance(target, ast.Tuple | ast.List):
            values: list[ast.expr | None] = [None] * len(target.elts)
            if (
                isinstance(value, ast.Tuple | ast.List)
                and len(value.elts) == len(target.elts)
                and not any(isinstance(one, ast.Starred) for one in [*value.elts, *target.elts])
            ):
                values = list(value.elts)
            for one, its_value in zip(target.elts, values, strict=True):
                self._bind(one, its_value, scope)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, None, scope)

    def _owner(self, name: str, scope: Scope) -> Scope:
        if name not in scope.outer:
            return scope
        at = scope.parent
        while at is not None and at.parent is not None:
            if name in at.names and not isinstance(at.node, ast.ClassDef):
                return at
            at = at.parent
        return self.module

    def _bind_parameters(self, node: Function | ast.Lambda, outside: Scope) -> None:
        inside = self.inside[node]
        arguments = node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        missing = len(positional) - len(arguments.defaults)
        defaults: list[ast.expr | None] = [*([None] * missing), *arguments.defaults]
        pairs = [*zip(positional, defaults, strict=True)]
        pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        many = {} if isinstance(node, ast.Lambda) else _parametrized(node)
        for argument, default in pairs:
            name = argument.arg
            if name in many:
                for value in many[name]:
                    inside.bind(name, Binding(value, outside, Parameter(node, name)))
            else:
                inside.bind(name, Binding(default, outside, Parameter(node, name)))
        for extra in (arguments.vararg, arguments.kwarg):
            if extra is not None:
                inside.bind(extra.arg, Binding(None, inside))

    # --- asking ---------------------------------------------------------------------------------

    def _class_of(self, name: str, scope: Scope) -> ast.ClassDef | None:
        """The class that *name*, ``self``, ``cls`` or its own name, stands for here."""
        if name in {"self", "cls"}:
            at: Scope | None = scope
            while at is not None:
                if isinstance(at.node, ast.ClassDef):
                    return at.node
                at = at.parent
            return None
        return self.classes.get(name)

    def lookup(self, name: str, scope: Scope) -> list[Binding]:
        """What *name* may stand for in *scope*; [] if it is not known at all."""
        at: Scope | None = scope
        while at is not None:
            if name in at.names and (at is scope or not isinstance(at.node, ast.ClassDef)):
                return at.names[name]
            at = at.parent
        return []

    def attribute(self, owner: str, name: str, scope: Scope) -> list[Binding]:
        """What ``owner.name`` may stand for: attributes of a class of this module, or its bases."""
        at = self._class_of(owner, scope)
        seen: set[ast.ClassDef] = set()
        while at is not None and at not in seen:
            seen.add(at)
            found = [
                *self.attributes.get(at, {}).get(name, ()),
                *self.inside[at].names.get(name, ()),
            ]
            if found:
                return found
            bases = [base.id for base in at.bases if isinstance(base, ast.Name)]
            at = next((self.classes[base] for base in bases if base in self.classes), None)
        return []

    def settle(self, expression: ast.expr, scope: Scope) -> Iterator[Binding]:
        """Follow names to what they were assigned once; what is no name is its own meaning.

        A parameter stands for whatever it is called with (a binding without a value), and for its
        default, or each value that it is parametrized with. Where nothing is known the expression
        itself comes back.
        """
        yield from self._settle(expression, scope, 0)

    def _settle(self, expression: ast.expr, scope: Scope, depth: int) -> Iterator[Binding]:
        bindings: list[Binding] = []
        if depth < _DEEPEST:
            if isinstance(expression, ast.Name):
                bindings = self.lookup(expression.id, scope)
            elif isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
                bindings = self.attribute(expression.value.id, expression.attr, scope)
        known = [binding for binding in bindings if binding.value is not None]
        single = len(bindings) == 1 or all(binding.parameter for binding in bindings)
        if bindings and single and len(known) == len(bindings):
            if bindings[0].parameter is not None:
                yield Binding(None, scope, bindings[0].parameter)
            for binding in known:
                assert binding.value is not None  # noqa: S101 - of the known ones
                yield from self._settle(binding.value, binding.scope, depth + 1)
        else:
            if len(bindings) == 1 and bindings[0].parameter is not None:
                yield Binding(None, scope, bindings[0].parameter)
            yield Binding(expression, scope)

    def dotted(self, expression: ast.expr, scope: Scope) -> str:
        """``socket.create_server``, whatever it was imported as; "?" for what has no name."""
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if isinstance(expression, ast.Name):
            name = expression.id
            imported = self.imports.get(name)
            bindings = self.lookup(name, scope)
            if imported is not None and all(binding.value is None for binding in bindings):
                name = imported
            parts.append(name)
        else:
            parts.append("?")
        return ".".join(reversed(parts))


_DEEPEST: Final = 12


def last_name(expression: ast.expr) -> str:
    """The name, or the one behind the last dot; "" for what has none."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _body(node: ast.AST) -> list[ast.AST]:
    body = getattr(node, "body", [])
    inside: list[ast.AST] = list(body) if isinstance(body, list) else [body]
    return inside


def _parametrized(node: Function) -> dict[str, list[ast.expr]]:
    """What ``@pytest.mark.parametrize("port", [8080])`` gives each parameter."""
    found: dict[str, list[ast.expr]] = {}
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Attribute(attr="parametrize"),
                args=[
                    ast.Constant(value=str(names)),
                    ast.List(elts=rows) | ast.Tuple(elts=rows),
                    *_,
                ],
            ):
                _add_rows(found, [name.strip() for name in names.split(",")], rows)
            case _:
                pass
    return found


def _add_rows(found: dict[str, list[ast.expr]], names: list[str], rows: list[ast.expr]) -> None:
    for given in rows:
        row = given
        match row:
            case ast.Call(func=ast.Attribute(attr="param") | ast.Name(id="param"), args=args):
                cells = args
            case ast.Tuple(elts=cells) | ast.List(elts=cells) if len(names) > 1:
                pass
            case _:
                cells = [row]
        if len(cells) == len(names):
            for name, cell in zip(names, cells, strict=True):
                found.setdefault(name, []).append(cell)
