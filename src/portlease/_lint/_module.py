"""A module under examination: all that the checks ask of it."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from portlease._lint import _calls
from portlease._lint._pretence import Pretence
from portlease._lint._scopes import Scopes
from portlease._lint._source import unparsed
from portlease._lint._values import Values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._scopes import Scope
    from portlease._lint._source import Function, Source

_OTHER_FAMILY: Final = re.compile(r"\bAF_(?!INET)")


class Module:
    """A parsed source with its names, its values and its calls."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.scopes = Scopes(source)
        self.values = Values(self.scopes)
        self.pretence = Pretence(source, self.scopes, self.values)
        self._dotted: dict[ast.Call, str] = {}
        self._sinks: dict[ast.Call, list[_calls.Sink]] = {}
        self._names: dict[Function, set[str]] = {}
        by_hand = {id(node) for block in self._by_hand() for node in ast.walk(block)}
        self.calls = [
            node
            for node in self.scopes.of_node
            if isinstance(node, ast.Call) and id(node) not in by_hand
        ]
        self.calls.sort(key=lambda call: (call.lineno, call.col_offset))
        self._by_name: dict[str, list[ast.Call]] = {}
        for call in self.calls:
            self._by_name.setdefault(self.dotted(call).rpartition(".")[2], []).append(call)
        self.calls_in: dict[Function | None, list[ast.Call]] = {}
        """The calls in each function, without those in functions of its own."""
        for call in self.calls:
            self.calls_in.setdefault(source.function_of(call), []).append(call)

    def _by_hand(self) -> Iterator[ast.If]:
        """What runs only when the file is started as a program: ``if __name__ == "__main__"``."""
        for node in self.source.tree.body:
            match node:
                case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                    yield node
                case _:
                    pass

    def dotted(self, call: ast.Call) -> str:
        """The name of what is called."""
        known = self._dotted.get(call)
        if known is None:
            known = self.scopes.dotted(call.func, self.scopes.of_node[call])
            self._dotted[call] = known
        return known

    def sinks(self, call: ast.Call) -> list[_calls.Sink]:
        """See `_calls.sinks`."""
        known = self._sinks.get(call)
        if known is None:
            scope = self.scopes.of_node[call]
            known = list(_calls.sinks(call, self.dotted(call), scope, self.values))
            made = self._socket_of(call, scope) if known else ""
            if _OTHER_FAMILY.search(made):
                known = []
            elif "SOCK_DGRAM" in made:
                known = [sink._replace(udp=True) for sink in known]
            self._sinks[call] = known
        return known

    def _socket_of(self, call: ast.Call, scope: Scope) -> str:
        """How the socket was made that *call* is a method of; "" where it is not seen."""
        if not isinstance(call.func, ast.Attribute):
            return ""
        for binding in self.values.settled(call.func.value, scope):
            if isinstance(binding.value, ast.Call):
                return unparsed(binding.value)
        return ""

    def mentions(self, function: Function, pattern: re.Pattern[str]) -> bool:
        """Whether a name in *function*, also one behind a dot, is like *pattern*.

        Each function is walked through once: one that many calls are in would be for each of them.
        """
        names = self._names.get(function)
        if names is None:
            names = self._names[function] = {
                node.attr if isinstance(node, ast.Attribute) else node.id
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute | ast.Name)
            }
        return any(pattern.search(name) for name in names)

    def is_method(self, function: Function) -> bool:
        """Whether its first parameter is the instance or the class."""
        if not isinstance(self.source.parents.get(function), ast.ClassDef):
            return False
        names = [
            decorator.id for decorator in function.decorator_list if isinstance(decorator, ast.Name)
        ]
        return "staticmethod" not in names

    def called(self, function: Function) -> str:
        """By which name it is called: a class by its own."""
        parent = self.source.parents.get(function)
        if function.name == "__init__" and isinstance(parent, ast.ClassDef):
            return parent.name
        return function.name

    def calls_of(self, function: Function) -> Iterator[ast.Call]:
        """The calls of a function of this module, where it is plain that it is that one."""
        name = self.called(function)
        if name == function.name and len(self.scopes.functions.get(name, ())) != 1:
            return
        in_class = isinstance(self.source.parents.get(function), ast.ClassDef)
        for call in self._by_name.get(name, ()):
            match call.func:
                case ast.Name() if not in_class or name != function.name:
                    yield call
                case ast.Attribute(value=ast.Name(id=owner)) if in_class and (
                    owner in {"self", "cls"} or owner in self.scopes.classes
                ):
                    yield call
                case _:
                    pass
