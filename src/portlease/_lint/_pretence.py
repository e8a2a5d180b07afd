"""Where a test only pretends: nothing is bound or connected there, whatever the numbers say."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from portlease._lint import _places
from portlease._lint._scopes import last_name
from portlease._lint._values import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._scopes import Scope, Scopes
    from portlease._lint._source import Function, Source
    from portlease._lint._values import Values

# Libraries that answer HTTP requests themselves, and the fixtures of their pytest plugins.
_HTTP_LIBRARIES: Final = frozenset(
    {"responses", "requests_mock", "respx", "httpretty", "aioresponses", "pytest_httpx", "vcr"}
    | {"betamax", "mocket", "pook", "sure", "pytest_responses", "urllib3_mock", "asgi_lifespan"}
)
_HTTP_FIXTURES: Final = re.compile(
    r"^(requests_mock|httpx_mock|respx_mock|responses|aioresponses|mocked_\w+|vcr\w*|cassette)$"
)
_FAKE: Final = re.compile(r"mock|fake|dummy|stub|memory|simulat", re.IGNORECASE)
# What a client or server that shall open nothing is given.
_UNOPENED: Final = {"connect": False, "_start": False, "start": False, "bind_and_activate": False}
_IN_PROCESS: Final = frozenset(
    {"transport", "app", "transport_cls", "connection_class", "_bulkclient", "asgi_app", "wsgi_app"}
)
_REACTOR_CALLS: Final = frozenset(
    {"listenTCP", "listenSSL", "listenUDP", "connectTCP", "connectSSL", "connectUDP"}
)
_MOCKED: Final = re.compile(
    r"socket|connect|bind|listen|serv|run|request|url|http|popen|subprocess|process|loop|reactor|"
    r"select|client|session|open|app|call|spawn|thread|system|exec|start",
    re.IGNORECASE,
)
# Whoever expects these expects the arguments to be refused before any port is touched.
_REFUSALS: Final = frozenset(
    {"TypeError", "ValueError", "OverflowError", "AttributeError", "NotImplementedError"}
    | {"ImportError", "ModuleNotFoundError", "KeyError", "SystemExit", "UsageError"}
)


class Pretence:
    """Tells what is pretended in a module."""

    def __init__(self, source: Source, scopes: Scopes, values: Values) -> None:
        self._source = source
        self._scopes = scopes
        self._values = values
        self._patched: dict[ast.AST, bool] = {}
        self._faked: dict[ast.AST, bool] = {}
        self._compared: dict[ast.AST, frozenset[str]] = {}
        tops = {name.lstrip(".").partition(".")[0] for name in scopes.imports.values()}
        self.no_http = bool(tops & _HTTP_LIBRARIES)
        """Whether HTTP requests are answered by a library of this module."""

    def covers(
        self, call: ast.Call, scope: Scope, *, http: bool = False, client: bool = False
    ) -> bool:
        """Whether *call* opens nothing; *http*: it is an HTTP request; *client*: or a client."""
        if (http and self.no_http) or self._is_fake(call, scope) or _is_unopened(call):
            return True
        return any(
            self._is_pretended_in(node, http=http, client=client)
            for node in self._source.ancestors(call)
        )

    def _is_pretended_in(self, node: ast.AST, *, http: bool, client: bool) -> bool:
        match node:
            case ast.With() | ast.AsyncWith():
                return self._refused_or_patched(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return (
                    self._has_patch(node)
                    or (http and self._has_http_fixture(node))
                    or (client and self._has_fakes(node))
                )
            case ast.ClassDef():
                return any(map(_is_patch, node.decorator_list))
            case _:
                return False

    def is_compared(self, call: ast.AST, number: int) -> bool:
        """Whether the function round *call* compares with *number*, as a test of parsing does."""
        function = self._source.function_of(call)
        if function is None:
            return False
        if function not in self._compared:
            self._compared[function] = frozenset(_compared(function))
        return any(map(_places.digits(number).search, self._compared[function]))

    def is_used(self, call: ast.Call) -> bool:
        """Whether what *call* makes is used: a method of it called, or it handed to a caller."""
        parent = self._source.parents.get(call)
        if isinstance(parent, ast.Await):
            parent = self._source.parents.get(parent)
        match parent:
            case ast.Attribute():
                return isinstance(self._source.parents.get(parent), ast.Call)
            case ast.Return() | ast.Yield():
                return True
            case ast.Assign(targets=[ast.Name(id=name)]):
                within: ast.AST = self._source.function_of(call) or self._source.tree
                return _calls_method(within, None, name, call.lineno)
            case ast.withitem(optional_vars=ast.Name(id=name)):
                within = self._source.function_of(call) or self._source.tree
                return _calls_method(within, None, name)
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=owner), attr=name)]):
                return _calls_method(self._class_of(call), owner, name)
            case _:
                return False

    def _class_of(self, node: ast.AST) -> ast.AST:
        for ancestor in self._source.ancestors(node):
            if isinstance(ancestor, ast.ClassDef):
                return ancestor
        return self._source.tree

    # --- fakes ----------------------------------------------------------------------------------

    def _is_fake(self, call: ast.Call, scope: Scope) -> bool:
        dotted = self._scopes.dotted(call.func, scope)
        owner, _, name = dotted.rpartition(".")
        if _FAKE.search(owner or name):
            return True
        if isinstance(call.func, ast.Attribute):
            of = call.func.value
            while isinstance(of, ast.Subscript):
                of = of.value
            if self._is_made_fake(of, scope):
                return True
            if name in _REACTOR_CALLS and not self._is_real_reactor(of, owner, scope):
                return True
        return any(self._is_made_fake(one, scope, bare=True) for one in call.args[:1])

    def _is_made_fake(self, expression: ast.expr, scope: Scope, *, bare: bool = False) -> bool:
        """Whether it was made by something called fake; *bare*: or is an ``object()``."""
        for binding in self._values.settled(expression, scope):
            made = binding.value
            if isinstance(made, ast.Await):
                made = made.value
            if isinstance(made, ast.Call) and (
                _is_unopened(made) or (bare and last_name(made.func) == "object")
            ):
                return True
            if isinstance(made, ast.Call | ast.List | ast.Tuple) and any(
                _FAKE.search(word) for word in _words(made)
            ):
                return True
        return False

    def _is_real_reactor(self, expression: ast.expr, owner: str, scope: Scope) -> bool:
        if owner.startswith("twisted.internet.reactor") or owner == "reactor":
            return True
        return any(
            isinstance(binding.value, ast.Call) and last_name(binding.value.func) == "buildReactor"
            for binding in self._values.settled(expression, scope)
        )

    def _has_http_fixture(self, function: Function) -> bool:
        return any(_HTTP_FIXTURES.match(one.arg) for one in function.args.args)

    def _has_patch(self, function: Function) -> bool:
        known = self._patched.get(function)
        if known is None:
            known = any(map(_is_patch, function.decorator_list)) or any(
                _is_patching(call) for call in self._calls_of(function)
            )
            self._patched[function] = known
        return known

    def _has_fakes(self, function: Function) -> bool:
        """Whether anything is patched or faked in it: more than enough to fool a client."""
        known = self._faked.get(function)
        if known is None:
            known = any(
                ("patch" in (words := _dotted_words(call.func)) and words[-1] != "dict")
                or _FAKE.search(words[-1])
                for call in self._calls_of(function)
            )
            self._faked[function] = known
        return known

    @staticmethod
    def _calls_of(function: ast.AST) -> list[ast.Call]:
        return [node for node in ast.walk(function) if isinstance(node, ast.Call)]

    def _refused_or_patched(self, node: ast.With | ast.AsyncWith) -> bool:
        for item in node.items:
            call = item.context_expr
            if not isinstance(call, ast.Call):
                continue
            name = last_name(call.func)
            if name in {"raises", "assertRaises", "assertRaisesRegex", "assertRaisesMessage"}:
                if call.args and set(_names(call.args[0])) & _REFUSALS:
                    return True
            elif _is_patch(call) or _FAKE.search(name):
                return True
        return False


_IDLE: Final = frozenset(
    {"close", "aclose", "disconnect", "stop", "shutdown", "cancel", "get_host", "as_uri", "info"}
    | {"clone", "copy", "geturl", "json", "dict"}
)


def _calls_method(within: ast.AST, owner: str | None, name: str, after: int = 0) -> bool:
    """Whether `name.method()` or `owner.name.method()` is called, or lies deeper: `name.a.b()`.

    Only below the line *after*: above it the name stood for something else.
    """
    for node in ast.walk(within):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        method = node.func.attr
        if method in _IDLE or method.startswith("_") or node.lineno <= after:
            continue
        at: ast.expr = node.func.value
        while isinstance(at, ast.Attribute) and not (at.attr == name and owner is not None):
            at = at.value
        match at:
            case ast.Name(id=found) if owner is None and found == name:
                return True
            case ast.Attribute(value=ast.Name(id=holder)) if holder == owner:
                return True
            case _:
                pass
    return False


def _is_unopened(call: ast.Call) -> bool:
    """Whether its arguments say that it opens nothing, or goes through no network."""
    return any(
        one.arg in _IN_PROCESS
        or (
            one.arg in _UNOPENED
            and isinstance(one.value, ast.Constant)
            and one.value.value is _UNOPENED[one.arg]
        )
        for one in call.keywords
    )


def _words(expression: ast.expr) -> Iterator[str]:
    """The names in an expression."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


def _names(expression: ast.expr) -> Iterator[str]:
    if isinstance(expression, ast.Tuple):
        for one in expression.elts:
            yield from _names(one)
    else:
        yield last_name(expression)


def _is_patch(decorator: ast.expr) -> bool:
    """``@patch("socket.socket")``, ``@mock.patch.object(asyncio, "run")`` and their like."""
    if not isinstance(decorator, ast.Call):
        return False
    words = _dotted_words(decorator.func)
    if "patch" not in words or words[-1] in {"dict", "stopall"}:
        return words[-1:] == ["activate"] and words[0] in _HTTP_LIBRARIES
    told = [one.value for one in decorator.args if isinstance(one, ast.Constant)]
    names = [str(one) for one in told if isinstance(one, str)]
    return not names or any(_MOCKED.search(name) for name in names)


def _is_patching(call: ast.Call) -> bool:
    """``mocker.patch("socket.socket")``, ``monkeypatch.setattr(os, "system", ...)``."""
    if not isinstance(call.func, ast.Attribute):
        return False
    words = _dotted_words(call.func)
    if words[0] in {"mocker", "class_mocker", "module_mocker"} and "patch" in words:
        return _is_patch(call)
    if words[-1] == "setattr" and "monkeypatch" in words[0].lower():
        names = [one.value for one in call.args[:2] if isinstance(one, ast.Constant)]
        return any(_MOCKED.search(str(name)) for name in names)
    return words[-2:] == ["patch", "object"] and _is_patch(call)


def _dotted_words(expression: ast.expr) -> list[str]:
    """The names of ``a.b.c``; "" for what has none."""
    words: list[str] = []
    while isinstance(expression, ast.Attribute):
        words.append(expression.attr)
        expression = expression.value
    words.append(expression.id if isinstance(expression, ast.Name) else "")
    return words[::-1]


def _compared(function: ast.AST) -> Iterator[str]:
    """The constants that a function compares with."""
    for node in ast.walk(function):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and re.match(
            r"assert_?(\w*(equal|call|called)|is$|in$|that)", last_name(node.func), re.IGNORECASE
        ):
            parts = [*node.args, *(one.value for one in node.keywords)]
        for part in parts:
            for inner in ast.walk(part):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, int | str):
                    yield str(inner.value).replace(UNKNOWN, " ")
