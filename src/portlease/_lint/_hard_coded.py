"""PL001 and PL002: numbers in the code that are bound, or gone to."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

from portlease._findings import _rules
from portlease._lint import _calls, _commands, _places
from portlease._lint._values import FIRST_UNPRIVILEGED, MAX_PORT, UNKNOWN, Text, is_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._lint._module import Module
    from portlease._lint._scopes import Parameter, Scope
    from portlease._lint._source import Function


class Use(NamedTuple):
    """One port in the code, and what becomes of it."""

    code: str
    number: int
    origin: ast.expr
    """The literal."""
    sink: _calls.Sink
    program: str | None = None
    """Which program is given it, if one is."""


_ROUNDS: Final = 3
"""How many functions of its own module a number is followed through."""

# Twisted's tcp:8080:interface=127.0.0.1
_ENDPOINT: Final = re.compile(
    rf"(?:tcp6?|ssl):(?:(?P<host>[a-zA-Z][\w.-]*|127[0-9.]+):)?(?:port=)?{_places.PORT}(?::.*)?"
)
_NAMED_HOST: Final = re.compile(
    r"host|local|loopback|addr|server|(^|_)ip|interface|bind", re.IGNORECASE
)


def uses(module: Module) -> list[Use]:
    """Every hard-coded port of *module* that goes somewhere."""
    found: list[Use] = []
    waiting = [sink for call in module.calls for sink in module.sinks(call)]
    told: set[tuple[Parameter, str]] = set()
    for _ in range(_ROUNDS):
        further: dict[tuple[Parameter, str], _calls.Sink] = {}
        for sink in waiting:
            if module.pretence.covers(
                sink.call, sink.scope, http=sink.shape == "url", client=sink.deed == "connect"
            ):
                continue
            found += _uses(module, sink)
            for parameter, shape, value in _parameters(module, sink):
                key = (parameter, shape)
                if key not in told:
                    told.add(key)
                    further[key] = sink._replace(shape=shape, value=value)
        waiting = [
            onward
            for (parameter, _), sink in further.items()
            for onward in _callers(module, parameter, sink)
        ]
        if not waiting:
            break
    return _once(found)


def _once(found: list[Use]) -> list[Use]:
    """One use for each port of a literal: that it is bound, before that it is gone to."""
    best: dict[tuple[ast.expr, int], Use] = {}
    for use in found:
        key = (use.origin, use.number)
        known = best.get(key)
        if known is None or (known.code == _rules.PEER and use.code == _rules.BOUND):
            best[key] = use
    return list(best.values())


# --- what a sink says ---------------------------------------------------------------------------


def _uses(module: Module, sink: _calls.Sink) -> Iterator[Use]:
    code = _rules.PEER if sink.deed == "connect" else _rules.BOUND
    match sink.shape:
        case "port" | "address":
            numbers = _numbers(module, sink)
        case "place" | "url":
            numbers = _in_texts(module, sink)
        case _:
            yield from _of_command(module, sink)
            return
    for number, origin, host in numbers:
        if not is_port(number) or not _host_counts(sink, host, number):
            continue
        if sink.lazy and not _is_real(module, sink, number):
            continue
        if sink.deed == "bind" and number < FIRST_UNPRIVILEGED:
            continue  # few may bind it, and no test counts on that: it is a fake's
        yield Use(code, number, origin, sink)


def _is_real(module: Module, sink: _calls.Sink, number: int) -> bool:
    """Whether a client that connects later ever does, as far as it can be seen."""
    return module.pretence.is_used(sink.call) and not module.pretence.is_compared(sink.call, number)


_Found = tuple[int, ast.expr, str | None]


def _numbers(module: Module, sink: _calls.Sink) -> Iterator[_Found]:
    values = module.values
    if sink.shape == "port":
        host = _host(module, sink.host, sink.scope)
        for number in values.numbers(sink.value, sink.scope):
            yield number.value, number.origin, host
        return
    for host_expression, port, scope in values.address(sink.value, sink.scope):
        host = _host(module, host_expression, scope)
        if not _is_text(port):
            for number in values.numbers(port, scope):
                yield number.value, number.origin, host


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _in_texts(module: Module, sink: _calls.Sink) -> Iterator[_Found]:
    for text in module.values.texts(sink.value, sink.scope):
        if sink.shape == "url":
            match = _places.URL.match(str(text))
        else:
            match = _ENDPOINT.fullmatch(str(text)) or _places.PLACE.fullmatch(str(text))
        if match is not None:
            host = "127.0.0.1" if match["host"] is None else match["host"]
            yield int(match["port"]), text.origin(match.start("port")), host


def _host(module: Module, expression: ast.expr | None, scope: Scope) -> str | None:
    """The host: as text; `UNKNOWN` where it is there, and not known; None where none is given."""
    if expression is None:
        return None
    if isinstance(expression, ast.Constant) and expression.value is None:
        return None
    known = module.values.host(expression, scope)
    if known is not None:
        return known
    name = module.scopes.dotted(expression, scope).rpartition(".")[2]
    return UNKNOWN if _NAMED_HOST.search(name) else UNKNOWN + name


def _host_counts(sink: _calls.Sink, host: str | None, number: int = MAX_PORT) -> bool:
    """Whether somebody on this machine listens there."""
    if host is None:  # the default, which is this machine with nearly all
        return sink.shape == "port"
    if host.startswith(UNKNOWN):
        return host == UNKNOWN and (
            sink.deed == "bind" or (not sink.udp and number >= FIRST_UNPRIVILEGED)
        )
    if sink.deed == "bind":
        return _places.is_loopback(host) or _places.is_everywhere(host)
    return _places.is_loopback(host)


# --- commands -----------------------------------------------------------------------------------


def _of_command(module: Module, sink: _calls.Sink) -> Iterator[Use]:
    match sink.shape:
        case "argv":
            for words in _words(module, sink.value, sink.scope, 0):
                for said in _commands.of_argv([str(word) for word in words]):
                    yield _said(sink, said, words[said.argument])
        case "shell":
            for text in module.values.texts(sink.value, sink.scope):
                for said in _commands.of_line(str(text)):
                    yield _said(sink, said, text)
        case "env":
            yield from _of_environment(module, sink)
        case _:
            pass


def _said(sink: _calls.Sink, said: _commands.Said, text: Text) -> Use:
    code = _rules.PEER if said.client else _rules.BOUND
    sink = sink._replace(udp=said.udp)
    return Use(code, said.port, text.origin(said.at), sink, said.program)


def _words(module: Module, expression: ast.expr, scope: Scope, depth: int) -> Iterator[list[Text]]:
    """The arguments in a list; several lists, where it may stand for several."""
    if depth > _ROUNDS:
        return
    for binding in module.values.settled(expression, scope):
        match binding.value:
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                yield [
                    word
                    for element in elements
                    for word in _word(module, element, binding.scope, depth)
                ]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                for one in _words(module, left, binding.scope, depth + 1):
                    for other in _words(module, right, binding.scope, depth + 1):
                        yield [*one, *other]
            case (
                ast.Call(func=ast.Attribute(attr="split"), args=[inner])
                | ast.Call(func=ast.Attribute(attr="split", value=inner), args=[])
            ):
                for text in module.values.texts(inner, binding.scope):
                    yield _split(text)
            case _:
                pass


def _split(text: Text) -> list[Text]:
    return [
        Text((text.pieces[0]._replace(text=match.group(), origin=text.origin(match.start())),))
        for match in re.finditer(r"\S+", str(text))
    ]


def _word(module: Module, element: ast.expr, scope: Scope, depth: int) -> list[Text]:
    if isinstance(element, ast.Starred):
        inner = next(_words(module, element.value, scope, depth + 1), None)
        return [module.values.part(element, scope)] if inner is None else inner
    return [module.values.part(element, scope)]


def _of_environment(module: Module, sink: _calls.Sink) -> Iterator[Use]:
    for binding in module.values.settled(sink.value, sink.scope):
        pairs: list[tuple[str, ast.expr]] = []
        match binding.value:
            case ast.Dict(keys=keys, values=given):
                pairs = [
                    (key.value, value)
                    for key, value in zip(keys, given, strict=True)
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                ]
            case ast.Call(func=ast.Name(id="dict"), keywords=keywords):
                pairs = [(one.arg, one.value) for one in keywords if one.arg is not None]
            case _:
                pass
        for name, value in pairs:
            if _commands.names_a_port(name):
                for number in module.values.port(value, binding.scope):
                    yield Use(_rules.BOUND, number.value, number.origin, sink, f"{name}=")


# --- through functions --------------------------------------------------------------------------


def _parameters(
    module: Module, sink: _calls.Sink
) -> Iterator[tuple[Parameter, _calls.Shape, ast.expr]]:
    """The parameters that what *sink* takes comes from."""
    values = module.values
    if sink.shape == "address":
        for _, port, scope in values.address(sink.value, sink.scope):
            for parameter in values.parameters(port, scope):
                yield parameter, "port", port
    if sink.shape in {"port", "address", "url"}:
        for parameter in values.parameters(sink.value, sink.scope):
            yield parameter, sink.shape, sink.value


def _callers(module: Module, parameter: Parameter, sink: _calls.Sink) -> Iterator[_calls.Sink]:
    """The calls of a function of this module, with what they give that parameter."""
    function = parameter.function
    if isinstance(function, ast.Lambda):
        return
    host = _host(module, sink.host, sink.scope) if sink.shape == "port" else None
    if sink.deed == "connect" and host is not None and not _host_counts(sink, host):
        return
    for call in module.calls_of(function):
        given = _given(module, function, parameter.name, call)
        if given is not None:
            yield sink._replace(
                value=given,
                scope=module.scopes.of_node[call],
                callee=f"{module.called(function)}()",
                call=call,
                host=None,
            )


def _given(module: Module, function: Function, name: str, call: ast.Call) -> ast.expr | None:
    """The argument that *call* gives the parameter *name*."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    positional = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    if module.is_method(function):
        positional = positional[1:]
    if name not in positional or any(isinstance(one, ast.Starred) for one in call.args):
        return None
    position = positional.index(name)
    return call.args[position] if position < len(call.args) else None
