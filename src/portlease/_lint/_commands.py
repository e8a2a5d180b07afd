"""Ports in commands: what the arguments, the command line and the environment of a program say."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint import _places, _programs
from portlease._lint._places import PORT
from portlease._lint._values import UNKNOWN, is_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from portlease._lint._programs import Program, Way


class Said(NamedTuple):
    """A port that a command says."""

    port: int
    argument: int
    """Which argument; 0 in a command line."""
    at: int
    """Where in it the number stands."""
    client: bool
    """Whether the program goes there, rather than listens."""
    program: str
    udp: bool


class _Found(NamedTuple):
    """A port that one argument says."""

    port: int
    at: int
    client: bool


_OPTION: Final = re.compile(
    r"(?P<dashes>--?)(?P<name>(?:[\w.-]*[-_.])?(?:port|p|P|listen|bind|addr|address|b|l|listen-on|"
    r"http-socket|http|listen-address|bind-addr|listener|port-number|web-port))(?:=(?P<value>.*))?",
    re.DOTALL,
)
# Of these a number alone is a size or a level more often than a port.
_VAGUE: Final = frozenset({"b", "l", "listen", "bind", "http"})
_SHORT: Final = re.compile(rf"-[pP]{PORT}")
_NUMBER: Final = re.compile(PORT)
_DEFINED: Final = re.compile(rf"(?:-D)?[\w.-]*\bport={PORT}", re.IGNORECASE)
_LISTENS: Final = re.compile(
    rf"(?:(?:TCP|UDP|OPENSSL)[46]?-(?:LISTEN|RECV\w*|L)|SSL-L):{PORT}(?:,.*)?", re.IGNORECASE
)
_UDP: Final = re.compile(r"udp.*|.*/udp", re.IGNORECASE | re.DOTALL)
_PORT_NAME: Final = re.compile(r"(?:[\w.-]*[-_.])?port", re.IGNORECASE)
_PORTS_NAME: Final = re.compile(r"(?:^|_)PORT$")

_SHELL: Final = re.compile(r"(?:ba|da|z|k)?sh")
_INTERPRETER: Final = re.compile(rf"python[0-9.]*|pypy[0-9.]*|{_SHELL.pattern}|.*{UNKNOWN}.*")
# Behind a wrapper or an interpreter: options, variables and times.
_SKIPPED: Final = re.compile(r"-.*|\w+=.*|[0-9.]+[smhd]?", re.DOTALL)
_SEPARATORS: Final = ";&|()\n"
NAMELESS: Final = "a program"


def of_line(line: str) -> Iterator[Said]:
    """The ports that a command line says, of each of its commands."""
    places = _places.firsts(line)
    for argv in _split(line):
        for said in of_argv(argv):
            at = places.get(str(said.port))
            if at is not None:
                yield said._replace(argument=0, at=at)


def _split(line: str) -> list[list[str]]:
    """The commands of a command line, in words; [] if it is none."""
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars=_SEPARATORS)
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word and set(word) <= set(_SEPARATORS):
                commands.append([])
            else:
                commands[-1].append(word)
    except ValueError:
        return []
    return commands


def of_argv(words: Sequence[str]) -> Iterator[Said]:
    """The ports that a command's arguments say; a part that is not known is `UNKNOWN`."""
    first = _first(words)
    name, program = _known(words[first:])
    if name in _programs.OTHERS:
        return
    goes = program.goes(words[first + 1 :])
    datagrams = program.datagrams is not None and any(map(program.datagrams.fullmatch, words))
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        if _SHELL.fullmatch(name) and re.fullmatch(r"-\w*c", before):
            yield from (said._replace(argument=number) for said in of_line(word))
            continue
        found = _by_a_way(program, word, before, goes=goes) if number > first else None
        if found is None and name not in _programs.CONTAINERS:
            found = _by_its_look(word, before, goes=goes)
        if found is not None and is_port(found.port):
            udp = datagrams or _UDP.fullmatch(word) is not None
            yield Said(found.port, number, found.at, found.client, name, udp)


def _first(words: Sequence[str]) -> int:
    """Which word names the program: of ``sudo python -m http.server`` the module."""
    first = next(
        (
            at
            for at, word in enumerate(words)
            if _own_name(word) not in _programs.WRAPPERS and not _SKIPPED.fullmatch(word)
        ),
        0,
    )
    if words and _INTERPRETER.fullmatch(_own_name(words[first])):
        behind = range(first + 1, len(words))
        modules = (at for at in behind if words[at - 1] == "-m" and _is_name(words[at]))
        scripts = (at for at in behind if not _SKIPPED.fullmatch(words[at]))
        script = next(modules, next(scripts, first))
        return script if _is_name(words[script]) else first
    return first


def _own_name(word: str) -> str:
    return word.rpartition("/")[2]


def _is_name(word: str) -> bool:
    return re.search(rf"\s|{UNKNOWN}$|^[0-9.]*$", word) is None


def _known(words: Sequence[str]) -> tuple[str, Program]:
    """The program's name, that of a subcommand that is known, and what is known of it."""
    name = _own_name(words[0]) if words else ""
    if not (
        name in _programs.PROGRAMS
        or name in _programs.OTHERS
        or (name in _programs.CLIENTS and name not in _programs.PARENTS)
    ):
        command = _first_argument(words)
        name = command if command in _programs.SUBCOMMANDS else name
    known = _programs.PROGRAMS.get(name)
    if known is None:
        known = _CLIENT if name in _programs.CLIENTS else _NOTHING
    return NAMELESS if UNKNOWN in name else name, known


def _first_argument(words: Sequence[str]) -> str | None:
    """The first argument that is no option, and no option's value."""
    return next(
        (
            word
            for before, word in pairwise(words)
            if not word.startswith("-") and not _programs.takes_a_value(before)
        ),
        None,
    )


_NOTHING: Final = _programs.Program()
_CLIENT: Final = _programs.Program(client=True)


def _by_a_way(program: Program, word: str, before: str, *, goes: bool) -> _Found | None:
    """The port that *word* says in one of the program's own ways."""
    for way in program.ways:
        if program.listens is not None and way.client != goes:
            continue
        if way.before is None and not program.stands_alone(before):
            continue
        if found := _in_place(way, word, before):
            return found
    return None


def _in_place(way: Way, word: str, before: str) -> _Found | None:
    start = 0
    if way.before is not None and not way.before.fullmatch(before):
        joined = way.before.match(word)
        if joined is None:
            return None
        start = joined.end() + word.startswith("=", joined.end())
    return _found(way.value.fullmatch(word, start), client=way.client)


def _by_its_look(word: str, before: str, *, goes: bool) -> _Found | None:
    """The port that *word* says, whatever the program: ``-p8080``, ``--port=8080``."""
    for pattern in (_SHORT, _DEFINED, _LISTENS):
        if found := _found(pattern.fullmatch(word), client=goes):
            return found
    if goes:
        match = _places.URL.match(word) or _places.PLACE.fullmatch(word.partition("/")[0])
        if found := _found(match, client=True):
            return found
    option, start = _OPTION.fullmatch(word), 0
    if option is not None and option["value"] is not None:
        start = option.start("value")
    else:
        option = _OPTION.fullmatch(before)
        if option is None or option["value"] is not None:
            return None
        if ":" not in word and option["name"] in _VAGUE:
            return None
    match = _NUMBER.fullmatch(word, start) or _places.PLACE.fullmatch(word, start)
    return _found(match, client=goes)


def _found(match: re.Match[str] | None, *, client: bool) -> _Found | None:
    """The port of a match, if its host is this machine."""
    if match is None:
        return None
    host = match.groupdict().get("host")
    is_here = host is None or _places.is_loopback(host)
    if not is_here and not client:
        is_here = _places.is_everywhere(host) or UNKNOWN in str(host)
    return _Found(int(match["port"]), match.start("port"), client) if is_here else None


def asks_for_a_port(word: str) -> bool:
    """Whether what follows this argument is a port: ``--port``, ``-p``, ``PORT``, ``"port"``."""
    option = _OPTION.fullmatch(word)
    if option is not None:
        return option["value"] is None and option["name"] not in _VAGUE
    return _PORT_NAME.fullmatch(word) is not None


def names_a_port(variable: str) -> bool:
    """Whether an environment variable of this name holds a port."""
    return _PORTS_NAME.search(variable) is not None
