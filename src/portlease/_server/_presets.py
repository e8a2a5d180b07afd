"""Servers that are known to take a listening socket, and how their command says so.

A preset reads a command as its user wrote it, templates and all, and gives the command that does
the same on a socket handed over, or says why there is none. It changes nothing that it does not
understand: where the command can mean anything else than "listen on this one address and on
``{port}``", it says no, and the server binds its port itself.

What each takes was read in its source and tried with the real one (tests/test_presets.py):

========= ================================== ===================================================
server    how it is told                     what it does with the socket
========= ================================== ===================================================
uvicorn   ``--fd N``                         listen(2) again, once the application is up
hypercorn ``-b fd://N``                      listen(2) again, once the application is up
gunicorn  ``-b fd://N`` or LISTEN_FDS        O_NONBLOCK; no listen(2) on one that listens
Node      ``server.listen({fd: N})``         O_NONBLOCK, then listen(2) again
nginx     ``NGINX=N;`` in the environment    neither; its workers' epoll watches it. Must match a
                                             ``listen`` of its configuration, and be O_NONBLOCK
haproxy   ``bind fd@N`` in its configuration O_NONBLOCK; no listen(2) on one that listens
granian   (nothing)                          takes no socket (2.8)
========= ================================== ===================================================

Pure: no system calls.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Final, Literal, TypeAlias

    Sign: TypeAlias = Literal["listen", "nonblocking", "epoll", "exec"]
    """What the server does to the socket when it takes it over, see :mod:`._handover`."""

MOST_BACKLOG: Final = 4096
"""As systemd asks for "as many as there may be": the kernel takes net.core.somaxconn at most."""

BACKLOG: Final = 113
"""Ours, where the server is to call listen(2) again: an odd number, so that it will be another."""

FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START, sd_listen_fds(3); below are standard input, output and error."""


def own_backlog(somaxconn: int, words: Iterable[str]) -> int:
    """A backlog that the server will not ask for, whatever the kernel makes of its number.

    Args:
        somaxconn: net.core.somaxconn, to which the kernel cuts every backlog.
        words: the server's arguments and environment, in which it may be named.
    """
    named = {int(number) for word in words for number in re.findall(r"\d{1,9}", word)}
    own = min(BACKLOG, max(somaxconn - 1, 0))
    while own in named and own > 0:
        own -= 1
    return own


class Traits(NamedTuple):
    """What a server does with an inherited socket, and what it wants of it."""

    sign: Sign = "exec"
    backlog: int = MOST_BACKLOG
    """The queue it would have asked for itself; only for those that do not listen(2) again."""
    nonblocking: bool = False
    """It does not set O_NONBLOCK itself, and needs it."""
    nodelay: bool = False
    """It would have set TCP_NODELAY on the connections of a socket of its own, not on those of an
    inherited one; they inherit it from the socket that listens (tcp(7))."""


class Rewritten(NamedTuple):
    """A command for a server that takes a socket."""

    preset: str
    args: tuple[str, ...]
    env: dict[str, str]
    """What is added to its environment."""
    host: str | None
    """The address that the command named, a template maybe; None for ``{host}``."""
    v6only: bool
    traits: Traits
    how: str
    """How it is told, in words."""


class Known(NamedTuple):
    """A program that was recognised, and where its own arguments begin."""

    preset: str
    start: int


_PYTHON: Final = re.compile(r"(?:python|pypy)[0-9.]*(?:\.exe)?")
# Options of the interpreter that take no value, and those whose value is the next argument.
_BARE: Final = re.compile(r"-[bBdEiIOqsSuvxP]+")
_VALUED: Final = frozenset({"-W", "-X"})
_MODULES: Final = frozenset({"uvicorn", "gunicorn", "hypercorn", "granian"})
_PROGRAMS: Final = {
    **{name: name for name in ("uvicorn", "gunicorn", "hypercorn", "granian", "nginx", "haproxy")},
    "node": "node",
    "nodejs": "node",
}


def recognise(args: Sequence[str]) -> Known | None:
    """Which known server a command runs: by its name, or as ``python -m NAME``.

    A wrapper in front of it (``uv run``, ``npx``, ``env``, ``sh -c``) hides it.
    """
    program = os.path.basename(args[0])
    if _PYTHON.fullmatch(program):
        return _module(args)
    preset = _PROGRAMS.get(program.removesuffix(".exe"))
    return None if preset is None else Known(preset, 1)


def _module(args: Sequence[str]) -> Known | None:
    place = 1
    while place < len(args) and args[place].startswith("-"):
        word = args[place]
        if word == "-m":
            module = args[place + 1] if place + 1 < len(args) else ""
            return Known(module, place + 2) if module in _MODULES else None
        if not _BARE.fullmatch(word) and word not in _VALUED:
            return None
        place += 2 if word in _VALUED else 1
    return None


def traits(args: Sequence[str]) -> Traits:
    """What the server does with an inherited socket, as far as it is known."""
    known = recognise(args)
    made = Traits() if known is None else _TRAITS.get(known.preset, Traits())
    if known is not None and known.preset == "gunicorn":
        asked = _values(args[known.start :], ("--backlog",))
        if len(asked) == 1 and asked[0].value.isdecimal():
            made = made._replace(backlog=int(asked[0].value))
    return made


def rewrite(
    args: Sequence[str], env: Mapping[str, str], names: Sequence[str], *, asked: bool
) -> Rewritten | str:
    """The command that takes its main port as a socket.

    Args:
        args: templates, as the user wrote them.
        env: its whole environment.
        names: the ports that are handed over where the server is told by its environment (nginx).
        asked: whether the user has asked for a socket to be handed over. Then a host name stands
            for its first address; and what takes no word from the command line counts too.

    Returns:
        A str says why there is none.
    """
    known = recognise(args)
    if known is None:
        return f"{os.path.basename(args[0])} is no server that is known to take a socket"
    if known.preset in _NOT_BY_ARGUMENTS:
        return f"{known.preset}: {_NOT_BY_ARGUMENTS[known.preset]}"
    try:
        return _REWRITERS[known.preset](_Question(args, known, env, names, asked=asked))
    except _NoError as no:
        return f"{known.preset}: {no}"


class _NoError(Exception):
    """Why this command is left as it is."""


class _Question(NamedTuple):
    args: Sequence[str]
    known: Known
    env: Mapping[str, str]
    names: Sequence[str]
    asked: bool

    @property
    def own(self) -> Sequence[str]:
        """The server's own arguments."""
        return self.args[self.known.start :]


# --- options ------------------------------------------------------------------------------------


class _Value(NamedTuple):
    """An option's value, and which arguments it is made of."""

    value: str
    place: int
    length: int


def _values(args: Sequence[str], options: tuple[str, ...]) -> list[_Value]:
    """Where one of *options* is given: ``--port 1``, ``--port=1``, ``-b 1``."""
    found = []
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name not in options:
            continue
        if equals:
            found.append(_Value(value, place, 1))
        elif place + 1 < len(args):
            found.append(_Value(args[place + 1], place, 2))
    return found


def _only(question: _Question, options: tuple[str, ...]) -> _Value | None:
    found = _values(question.own, options)
    if len(found) > 1:
        raise _NoError(f"{options[0]} is given {len(found)} times")
    return found[0] if found else None


def _without(question: _Question, *parts: _Value) -> list[str]:
    """The whole command without these options."""
    gone = {place for part in parts for place in range(part.place, part.place + part.length)}
    kept = [word for place, word in enumerate(question.own) if place not in gone]
    return [*question.args[: question.known.start], *kept]


def _replaced(question: _Question, part: _Value, *words: str) -> list[str]:
    start = question.known.start + part.place
    return [*question.args[:start], *words, *question.args[start + part.length :]]


_NUMERIC: Final = re.compile(r"\d+(?:\.\d+){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
_HOST: Final = "{host}"
_PORT: Final = "{port}"


def _check_host(question: _Question, host: str) -> None:
    if host == _HOST or _NUMERIC.fullmatch(host) or (question.asked and host):
        return
    raise _NoError(f"the host {host!r} may be several addresses, and a socket is one")


def _check_port(port: str) -> None:
    if port != _PORT:
        raise _NoError(f"its arguments name the port {port!r} and not {_PORT!r}")


def _refuse(question: _Question, options: tuple[str, ...], variables: tuple[str, ...] = ()) -> None:
    """Raise where an option or a variable already says what it shall listen on."""
    for word in question.own:
        if word.partition("=")[0] in options:
            raise _NoError(f"{word.partition('=')[0]} says already what it listens on")
    for name in variables:
        if name in question.env:
            raise _NoError(f"{name} in its environment says already what it listens on")


# --- one function for each ----------------------------------------------------------------------


def _uvicorn(question: _Question) -> Rewritten:
    _refuse(question, ("--uds", "--fd"), ("UVICORN_UDS", "UVICORN_FD"))
    port, host = _only(question, ("--port",)), _only(question, ("--host",))
    if port is None:
        raise _NoError(f"its arguments have no --port {_PORT}")
    _check_port(port.value)
    if host is None:
        _refuse(question, (), ("UVICORN_HOST",))
    address = "127.0.0.1" if host is None else host.value  # its own default
    _check_host(question, address)
    return Rewritten(
        preset="uvicorn",
        args=(*_without(question, port, *((host,) if host else ())), "--fd", "{fd}"),
        env={},
        host=address,
        v6only=True,  # as asyncio's create_server() sets it
        traits=traits(question.args),
        how="--fd",
    )


# -b127.0.0.1:80 in one word, and the abbreviations that argparse understands.
_OTHER_BIND: Final = re.compile(r"-b.+|--b(?:i|in)?(?:=.*)?")
_BIND: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^\[\]:]*|\{host\})):(?P<port>[^:]*)")


def _bind(question: _Question) -> Rewritten:
    """-b HOST:PORT of gunicorn and hypercorn."""
    if any(_OTHER_BIND.fullmatch(word) for word in question.own):
        raise _NoError("an argument names what it listens on in a way that is not understood")
    bind = _only(question, ("-b", "--bind"))
    if bind is None:
        raise _NoError(f"its arguments have no -b {_HOST}:{_PORT}")
    parts = _BIND.fullmatch(bind.value)
    if parts is None:
        raise _NoError(f"it listens on {bind.value!r}, which is not HOST:{_PORT}")
    _check_port(parts["port"])
    address = parts["v6"] or parts["host"]
    _check_host(question, address)
    option = question.own[bind.place].partition("=")[0]
    return Rewritten(
        preset=question.known.preset,
        args=tuple(_replaced(question, bind, option, "fd://{fd}")),
        env={},
        host=address,
        v6only=False,
        traits=traits(question.args),
        how=f"{option} fd://",
    )


def _nginx(question: _Question) -> Rewritten:
    if not question.asked:
        raise _NoError("what it listens on is in its configuration file; ask for it by how=")
    return Rewritten(
        preset="nginx",
        args=tuple(question.args),
        env={"NGINX": "".join(f"{{{fd_name(name)}}};" for name in question.names)},
        host=None,
        v6only=True,  # as its `listen [::]:80` means; ipv6only=on
        traits=traits(question.args),
        how="NGINX= in its environment",
    )


def fd_name(port: str) -> str:
    """What stands between braces for the descriptor of a port: ``fd``, ``admin_fd``."""
    return "fd" if port == "port" else f"{port}_fd"


_REWRITERS: Final[dict[str, Callable[[_Question], Rewritten]]] = {
    "uvicorn": _uvicorn,
    "gunicorn": _bind,
    "hypercorn": _bind,
    "nginx": _nginx,
}
_NOT_BY_ARGUMENTS: Final = {
    "granian": "it takes no socket",
    "node": "what a script listens on is in the script; write {fd} in its arguments",
    "haproxy": (
        "what it listens on is in its configuration file; ask for it by how=, and write "
        "bind fd@${PORT_FD} there"
    ),
}
_TRAITS: Final[dict[str, Traits]] = {
    # It takes every inherited socket for AF_UNIX, and asyncio then sets no TCP_NODELAY: an answer
    # in two writes, headers and body, took 44 ms instead of 0.5 (measured with 0.54).
    "uvicorn": Traits(sign="listen", nodelay=True),
    "hypercorn": Traits(sign="listen"),
    "gunicorn": Traits(sign="nonblocking", backlog=2048),
    "node": Traits(sign="listen"),
    "nginx": Traits(sign="epoll", backlog=511, nonblocking=True),
    "haproxy": Traits(sign="nonblocking"),
}
IGNORES_LISTEN_FDS: Final = frozenset({"uvicorn", "hypercorn", "granian", "nginx"})
"""Known servers that LISTEN_FDS says nothing to."""
