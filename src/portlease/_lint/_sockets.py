"""PL004 and PL005: options and addresses of a test's sockets that meet others."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint import _places
from portlease._lint._scopes import last_name
from portlease._lint._source import unparsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    from portlease._lint._calls import Sink
    from portlease._lint._module import Module
    from portlease._lint._scopes import Scope
    from portlease._lint._unheld import Unheld


class Shared(NamedTuple):
    """A socket that others can meet, and how."""

    node: ast.AST
    what: str


_OPTIONS: Final = frozenset({"SO_REUSEADDR", "SO_REUSEPORT"})
_KEYWORDS: Final = {"reuse_address": "SO_REUSEADDR", "reuse_port": "SO_REUSEPORT"}
_FLAGS: Final = {"allow_reuse_address": "SO_REUSEADDR", "allow_reuse_port": "SO_REUSEPORT"}
_OF_REUSE: Final = re.compile(r"reuse|rebind", re.IGNORECASE)
# Multicast and broadcast want the address shared, and every interface.
_MANY: Final = re.compile(
    r"IP_ADD_MEMBERSHIP|IPV6_JOIN_GROUP|SO_BROADCAST|multicast", re.IGNORECASE
)

_ASKS: Final = re.compile(r"^getsockopt$")


def reused(module: Module) -> Iterator[Shared]:
    """Where SO_REUSEADDR or SO_REUSEPORT is switched on for a TCP socket."""
    for call in module.calls:
        scope = module.scopes.of_node[call]
        if module.dotted(call).endswith(".setsockopt"):
            option = next((name for one in call.args if (name := last_name(one)) in _OPTIONS), None)
            if option and _is_on(call.args[-1]) and not _is_exempt(module, call, scope):
                yield Shared(call, option)
            continue
        for keyword in call.keywords:
            option = _KEYWORDS.get(keyword.arg or "")
            if (
                option
                and _is_on(keyword.value)
                and any(sink.deed == "bind" and not sink.udp for sink in module.sinks(call))
                and not _is_exempt(module, call, scope)
            ):
                yield Shared(keyword.value, option)
    for node in module.scopes.of_node:
        match node:
            case ast.Assign(targets=[target], value=value) if last_name(target) in _FLAGS:
                if _is_on(value):
                    yield Shared(node, _FLAGS[last_name(target)])
            case _:
                pass


def everywhere(module: Module, unheld: Iterable[Unheld]) -> Iterator[Shared]:
    """Where a server is bound to every interface, and not only to find a free port."""
    let_go = {helper.node for helper in unheld}
    for call in module.calls:
        for sink in module.sinks(call) if call not in let_go else ():
            if sink.deed != "bind" or module.pretence.covers(call, sink.scope):
                continue
            if _concerns_many(module, call):
                continue
            yield from _hosts(module, sink)


def _hosts(module: Module, sink: Sink) -> Iterator[Shared]:
    given: list[tuple[ast.expr, Scope]] = []
    if sink.shape == "address":
        given = [
            (host, scope)
            for host, port, scope in module.values.address(sink.value, sink.scope)
            if module.values.numbers(port, scope) or not isinstance(port, ast.Constant)
        ]
    elif sink.shape == "port" and sink.host is not None:
        given = [(sink.host, sink.scope)]
    for host, scope in given:
        texts = module.values.texts(host, scope)
        for text in texts if len(texts) == 1 else ():  # of several the test tries each
            if _places.is_everywhere(str(text)) and str(text) != "*":
                shown = f'"{text}"' if not str(text) else str(text)
                yield Shared(text.pieces[0].origin, f"{sink.callee} binds {shown}")


def _is_on(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value == 1


def _is_exempt(module: Module, call: ast.Call, scope: Scope) -> bool:
    """Whether it is a UDP socket, the option itself is what is tested, or nothing is real."""
    if module.pretence.covers(call, scope) or _concerns_many(module, call):
        return True
    if isinstance(call.func, ast.Attribute):
        for binding in module.values.settled(call.func.value, scope):
            if isinstance(binding.value, ast.Call):
                made = unparsed(binding.value)
                if "SOCK_DGRAM" in made or "AF_UNIX" in made or "SOCK_RAW" in made:
                    return True
    function = module.source.function_of(call)
    if function is None:
        return False
    return _OF_REUSE.search(function.name) is not None or module.mentions(function, _ASKS)


def _concerns_many(module: Module, call: ast.Call) -> bool:
    function = module.source.function_of(call)
    if function is None:
        return False
    return module.mentions(function, _MANY)
