"""What --fix may rewrite: tests whose hard-coded port is their own affair, and nobody else's.

Everything here is a reason to leave a test alone. A number is rewritten only where each place at
which the test has it is seen to be the port, and no place outside the test has it.
"""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from portlease._findings import _rules
from portlease._lint import _calls, _commands, _parts, _places, _programs
from portlease._lint._source import FUNCTIONS, unparsed
from portlease._lint._values import is_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    from portlease._lint._hard_coded import Use
    from portlease._lint._module import Module
    from portlease._lint._source import Function


class Plan(NamedTuple):
    """How one test is rewritten."""

    name: str
    line: int
    """Of its ``def``."""
    names: dict[int, str]
    """What takes the place of each number."""
    fixtures: tuple[str, ...]
    """The parameters that it gets, those that it has left out."""
    first: tuple[str, ...]
    """What is said first in its body: ``second_port = leased_ports()``."""
    origins: frozenset[ast.expr]
    """The literals that findings point at."""


class Refusal(NamedTuple):
    """Why a test is not rewritten."""

    name: str
    line: int
    why: str


class _No(Exception):  # noqa: N818 - never leaves this module
    """A reason to leave the test alone."""


_ORDINALS: Final = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_MOST: Final = len(_ORDINALS) + 2
_TCP: Final = "leased_port"
_UDP: Final = "leased_udp_port"
_MORE: Final = "leased_ports"
_OTHER_PROCESSES: Final = frozenset(
    {"Process", "ProcessPoolExecutor", "multiprocessing", "get_context", "run_in_subprocess"}
)


def plans(module: Module, uses: Iterable[Use]) -> tuple[list[Plan], list[Refusal]]:
    """Which tests can be rewritten, and why the others cannot."""
    of_test: dict[Function, list[Use]] = {}
    refused = []
    uses = list(uses)
    peers = {(use.origin, use.number) for use in uses if use.code == _rules.PEER}
    for use in uses:
        if use.code != _rules.BOUND:
            continue
        test = _test_of(module, use.origin)
        if test is not None:
            of_test.setdefault(test, []).append(use)
    found = []
    elsewhere = _Elsewhere(module, of_test) if of_test else None
    for test, its_uses in of_test.items():
        assert elsewhere is not None  # noqa: S101 - there are tests
        try:
            found.append(_plan(module, test, its_uses, elsewhere, peers))
        except _No as no:
            refused.append(Refusal(test.name, test.lineno, str(no)))
    return found, refused


class _Elsewhere:
    """What the whole module has, looked up once for all of its tests: thousands may be in a file.

    Attributes:
        names: at which line each name is used first.
        numbers: at which line each number, in a text or by itself, stands first that is in no test:
            those have ports of their own.
    """

    def __init__(self, module: Module, tests: Iterable[Function]) -> None:
        self.names: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        inside = {id(node) for test in tests for node in ast.walk(test)}
        for node in ast.walk(module.source.tree):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    self.names.setdefault(name, node.lineno)
                case ast.Constant(value=value) if id(node) not in inside:
                    if not _is_docstring(module, node) and _test_of(module, node) is None:
                        for number in _numbers_in(value):
                            self.numbers.setdefault(number, node.lineno)
                case _:
                    pass


def _numbers_in(value: object) -> Iterable[str]:
    """The numbers that `has` would find in a constant, those that can be ports."""
    if isinstance(value, int):
        return [str(value)] if is_port(value) else []
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return _places.NUMBER.findall(value) if isinstance(value, str) else []


def _test_of(module: Module, node: ast.AST) -> Function | None:
    """The outermost test function that *node* is in."""
    tests = [
        ancestor
        for ancestor in module.source.ancestors(node)
        if isinstance(ancestor, FUNCTIONS)
        and ancestor.name.startswith("test")
        and isinstance(module.source.parents.get(ancestor), ast.Module | ast.ClassDef)
        and node not in set(_heads(ancestor))
    ]
    return tests[-1] if tests else None


def _heads(function: Function) -> Iterator[ast.AST]:
    """All that is said of a function before its body."""
    for part in (*function.decorator_list, function.args, function.returns):
        if part is not None:
            yield from ast.walk(part)


def _plan(
    module: Module,
    test: Function,
    uses: list[Use],
    elsewhere: _Elsewhere,
    peers: set[tuple[ast.expr, int]],
) -> Plan:
    _check_test(module, test, elsewhere)
    udp: dict[int, bool] = {}
    for use in sorted(uses, key=lambda use: (use.origin.lineno, use.origin.col_offset)):
        _check_use(use)
        if udp.setdefault(use.number, use.sink.udp) != use.sink.udp:
            raise _No(f"port {use.number} is TCP and UDP in it")
    if len(udp) > _MOST:
        raise _No("it has too many ports")
    seen = {(use.origin, use.number) for use in uses} | peers
    for number in udp:
        _check_inside(module, test, number, {origin for origin, its in seen if its == number})
        if (line := elsewhere.numbers.get(str(number))) is not None:
            raise _No(f"line {line}, outside of it, has the {number}, too")
    return _named(test, udp, frozenset(use.origin for use in uses))


def _named(test: Function, udp: dict[int, bool], origins: frozenset[ast.expr]) -> Plan:
    has = {one.arg for one in (*test.args.posonlyargs, *test.args.args, *test.args.kwonlyargs)}
    taken = has | {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    names: dict[int, str] = {}
    fixtures: list[str] = []
    first: list[str] = []
    for number, is_udp in udp.items():
        fixture = _UDP if is_udp else _TCP
        if fixture not in taken:
            names[number] = fixture
            taken.add(fixture)
            fixtures.append(fixture)
            continue
        if _MORE not in has and _MORE not in fixtures:
            if _MORE in taken:
                raise _No(f"it has a {_MORE} of its own")
            fixtures.append(_MORE)
        ordinals = _ORDINALS[max(0, len(names) - 1) :]
        name = next((f"{one}_port" for one in ordinals if f"{one}_port" not in taken), None)
        if name is None:
            raise _No("it has too many ports")
        names[number] = name
        taken.add(name)
        first.append(f'{name} = {_MORE}("udp")' if is_udp else f"{name} = {_MORE}()")
    if first and test.body[0].lineno == test.lineno:
        raise _No("it stands on one line, and needs a second")
    return Plan(test.name, test.lineno, names, tuple(fixtures), tuple(first), origins)


# --- the test -----------------------------------------------------------------------------------


def _check_test(module: Module, test: Function, elsewhere: _Elsewhere) -> None:
    """Whether pytest gives it what its parameters name."""
    parent = module.source.parents.get(test)
    if isinstance(parent, ast.ClassDef):
        _check_class(module, parent)
    for decorator in test.decorator_list:
        named = decorator.func if isinstance(decorator, ast.Call) else decorator
        words = unparsed(named).split(".")
        if "given" in words:
            raise _No("hypothesis runs it many times, and a fixture of a function only once")
        if not ("mark" in words or "patch" in words or words[-1] == "staticmethod"):
            raise _No(f"the decorator {'.'.join(words)} may hide its parameters from pytest")
    if (line := elsewhere.names.get(test.name)) is not None:
        raise _No(f"it is called by others, in line {line}")
    for node in ast.walk(test):
        name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)
        if name in _OTHER_PROCESSES:
            raise _No(
                f"{name} starts other interpreters, whose servers may not set SO_REUSEADDR; start "
                "them with the fixture serve"
            )


def _check_class(module: Module, of: ast.ClassDef) -> None:
    seen: set[str] = set()
    waiting = [of]
    while waiting:
        one = waiting.pop()
        seen.add(one.name)
        for base in one.bases:
            name = unparsed(base)
            if "TestCase" in name:
                raise _No(f"{of.name} is a class of unittest, which has no fixtures as parameters")
            if name in module.scopes.classes and name not in seen:
                waiting.append(module.scopes.classes[name])
            elif name not in {"object", *seen}:
                raise _No(f"{name}, a base of {of.name}, may be a class of unittest")
    if not of.name.startswith("Test"):
        raise _No(f"{of.name} may be a class of unittest, or none of tests")


# --- its port -----------------------------------------------------------------------------------


def _check_use(use: Use) -> None:
    if _calls.leases_its_port(use.sink):
        raise _No(f'{use.sink.callee} leases the port itself; write "{{port}}" in its place')
    if use.program is not None:
        _check_program(use.program, udp=use.sink.udp)
    value = use.origin.value if isinstance(use.origin, ast.Constant) else None
    if isinstance(value, int) and value != use.number:
        raise _No(f"port {use.number} is reckoned from {value}")


def _check_program(program: str, *, udp: bool) -> None:
    if program in _programs.CONTAINERS:
        raise _No(f"{program} has its daemon bind it; give it a lease() that has stepped aside")
    if udp:
        raise _No(
            f"{program} binds it for UDP, which is not shared; start it with the fixture serve"
        )
    if program not in _programs.SHARING:
        who = _commands.NAMELESS if program.endswith("=") else program
        raise _No(f"{who} may not set SO_REUSEADDR; start it with the fixture serve")


def _check_inside(module: Module, test: Function, number: int, origins: set[ast.expr]) -> None:
    """Whether every place at which the test has the number is seen to be the port."""
    for part in _heads(test):
        if isinstance(part, ast.Constant) and has(part.value, number):
            raise _No(f"{number} stands in its decorators or parameters, too")
    docstring = documentation(test)
    for statement in test.body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.Constant | ast.JoinedStr) or node is docstring:
                continue
            if not _parts.say_the_same(module.source, node, number, in_text(number)):
                raise _No(
                    f"the {number} in line {node.lineno} is in a text of several parts, or of "
                    "escapes"
                )
            if not isinstance(node, ast.Constant):
                continue
            if not has(node.value, number):
                continue
            if not (node in origins and isinstance(node.value, int)) and not _is_the_port(
                module, node, number, origins
            ):
                raise _No(f"the {number} in line {node.lineno} may be something else")


def documentation(test: Function) -> ast.expr | None:
    """The text that a function begins with."""
    match test.body[0]:
        case ast.Expr(value=ast.Constant(value=str()) as text):
            return text
        case _:
            return None


def has(value: object, number: int) -> bool:
    """Whether a constant is the number, or has it."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return value == number
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return isinstance(value, str) and _places.digits(number).search(value) is not None


def in_text(number: int) -> re.Pattern[str]:
    """The number as a port in a text: ``:8080``, ``port=8080``, ``-p 8080``, or all of it."""
    before = (r"[^:]:", "^:", "port=", "port ", "-p ")
    ahead = "|".join(rf"(?<={one})" for one in before)
    return re.compile(rf"(?:{ahead}){number}(?!\d)|^{number}$")


def _is_the_port(module: Module, node: ast.Constant, number: int, origins: set[ast.expr]) -> bool:
    """Whether a number, or a text with it, that no finding points at is the port all the same."""
    parent = module.source.parents.get(node)
    if isinstance(node.value, str):
        if node.value != str(number):
            return _is_in_text(module, node, node.value, number, parent)
        return node in origins or _is_called_a_port(node, parent)
    match parent:
        case ast.Compare() | ast.FormattedValue() | ast.Call(func=ast.Name(id="str" | "repr")):
            return isinstance(node.value, int)
        case ast.keyword(arg=str(name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return "port" in name.lower() and isinstance(node.value, int)
        case ast.Tuple(elts=[host, port]) | ast.Tuple(elts=[host, port, _, _]):
            return port is node and _may_be_a_host(host)
        case _:
            return False


def _is_called_a_port(node: ast.expr, parent: ast.AST | None) -> bool:
    """Whether a text that is all number is a port: ``["--port", "8080"]``, ``int("8080")``."""
    match parent:
        case ast.Compare() | ast.FormattedValue() | ast.Call(func=ast.Name(id="int"), args=[_]):
            return True
        case ast.keyword(arg=str(name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return "port" in name.lower()
        case ast.Assign(targets=[ast.Subscript(slice=key)]):
            pairs = [(key, node)]
        case ast.Dict(keys=keys, values=values):
            pairs = [(key, value) for key, value in zip(keys, values, strict=True) if key]
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Call(args=elements):
            pairs = list(pairwise(elements))
        case _:
            return False
    return any(value is node and _says_a_port(name) for name, value in pairs)


def _says_a_port(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _commands.asks_for_a_port(node.value)
    )


def _is_in_text(
    module: Module, node: ast.Constant, text: str, number: int, parent: ast.AST | None
) -> bool:
    if isinstance(parent, ast.JoinedStr):
        holder = module.source.parents.get(parent)
        if isinstance(holder, ast.FormattedValue) and holder.format_spec is parent:
            return False
    if isinstance(parent, ast.MatchValue):  # no place for an f-string
        return False
    # An f-string would read \N{...} as a name, too, but its braces must not be doubled.
    if "\\N{" in _segment(module, node):
        return False
    return len(in_text(number).findall(text)) == len(_places.digits(number).findall(text))


def _may_be_a_host(expression: ast.expr) -> bool:
    match expression:
        case ast.Constant(value=str()):
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return "host" in name.lower() or "addr" in name.lower()
        case _:
            return False


def _segment(module: Module, node: ast.expr) -> str:
    first, last = node.lineno, node.end_lineno or node.lineno
    return "\n".join(module.source.lines[first - 1 : last])


def _is_docstring(module: Module, node: ast.Constant) -> bool:
    return isinstance(node.value, str) and isinstance(module.source.parents.get(node), ast.Expr)
