"""Ports in commands: what the arguments, the command line and the environment of a program say."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint import _calls
from portlease._lint._values import UNKNOWN, is_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final


class Said(NamedTuple):
    """A port that a command says."""

    port: int
    argument: int
    """Which argument."""
    at: int
    """Where in it the number stands."""
    client: bool
    """Whether the program goes there, rather than listens."""
    program: str


# Programs that are clients: a port is where they go to.
_CLIENTS: Final = frozenset(
    {"redis-cli", "valkey-cli", "curl", "wget", "psql", "mysql", "mysqladmin", "mongo", "mongosh"}
    | {"pg_isready", "pg_dump", "createdb", "dropdb", "telnet", "ssh", "scp", "sftp", "ab", "wrk"}
    | {"mosquitto_pub", "mosquitto_sub", "http", "https", "openssl", "rabbitmqadmin", "etcdctl"}
    | {"kcat", "dig", "swaks", "hey", "websocat"}
)
# Where a number is something else.
_OTHERS: Final = frozenset(
    {"ps", "kill", "pgrep", "pkill", "mkdir", "cp", "tar", "make", "sleep", "pytest", "git", "head"}
    | {"tail", "lsof", "fuser", "ss", "netstat", "iptables", "timeout", "nice", "cc", "gcc", "pip"}
)
_OPTION: Final = re.compile(
    r"(?P<dashes>--?)(?P<name>(?:[\w.-]*[-_.])?(?:port|p|P|listen|bind|addr|address|b|l|listen-on|"
    r"http-socket|http|listen-address|bind-addr|listener|port-number|web-port))(?:=(?P<value>.*))?",
    re.DOTALL,
)
_SHORT: Final = re.compile(r"-[pP](?P<value>\d+)")
_DEFINED: Final = re.compile(r"(?:-D)?[\w.-]*\bport=(?P<value>\d+)", re.IGNORECASE)
_PLACE: Final = re.compile(
    r"(?:(?:tcp|http|https|ws|unix|tls|ssl)://)?(?P<host>[\w.*-]*|\[[0-9a-fA-F:]*\]):(?P<port>\d+)/?"
)
_MAPPED: Final = re.compile(r"(?:[\d.]+:)?(?P<port>\d+):\d+(?:/tcp|/udp)?")
_URL: Final = re.compile(r"[a-z][a-z0-9+]*://(?P<host>\[[0-9a-fA-F:]*\]|[^/:@\s]+):(?P<port>\d+)")
_LISTENS: Final = re.compile(r"(?:TCP|UDP)[46]?-(?:LISTEN|RECV\w*|L):(?P<port>\d+)", re.IGNORECASE)
_BARE: Final = frozenset({"http.server", "SimpleHTTPServer", "runserver", "nc", "ncat", "netcat"})
_PORTS_NAME: Final = re.compile(r"(?:^|_)PORT$")


def split(command: str) -> list[str]:
    """A command line, in words; [] if it is none."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def ports(argv: Sequence[str]) -> Iterator[Said]:
    """The ports that a command's arguments say; a part that is not known is `UNKNOWN`."""
    words = [word.replace(UNKNOWN, "\ufffd") for word in argv]
    program = _program(words)
    if program in _OTHERS:
        return
    client = program in _CLIENTS or (program in {"nc", "ncat"} and not _nc_listens(words))
    for number, word in enumerate(words):
        if number == 0:
            continue
        before = words[number - 1]
        found = _of_word(word, before, program)
        if found is not None and is_port(found[0]):
            yield Said(found[0], number, found[1], client, program)


def _program(words: Sequence[str]) -> str:
    """The program's own name: of `python -m http.server` the module, without `env` and `sudo`."""
    names = [word.rpartition("/")[2] for word in words]
    for number, word in enumerate(words):
        if word == "-m" and number + 1 < len(words):
            return words[number + 1]
    while names and names[0] in {"sudo", "env", "nohup", "exec", "setsid", "stdbuf"}:
        names = names[1:]
    name = names[0] if names else ""
    if "\ufffd" in name or re.fullmatch(r"python[\d.]*|sh|bash", name):
        script = next((one for one in names[1:] if not one.startswith("-")), name)
        return name if " " in script or "\n" in script or "\ufffd" in script else script
    return name


def _nc_listens(words: Sequence[str]) -> bool:
    return any(re.fullmatch(r"-\w*l\w*|--listen", word) for word in words)


def _of_word(word: str, before: str, program: str) -> tuple[int, int] | None:
    """The port that *word* says, and where in it."""
    if program in {"docker", "podman"}:
        published = _MAPPED.fullmatch(word) if before in {"-p", "--publish"} else None
        return None if published is None else (int(published["port"]), published.start("port"))
    option = _OPTION.fullmatch(word)
    if option is not None and option["value"] is not None:
        found = _number_or_place(option["value"])
        return None if found is None else (found[0], found[1] + option.start("value"))
    return _alone(word, program) or _after(word, before, program)


def _alone(word: str, program: str) -> tuple[int, int] | None:
    """The port that *word* says by itself: ``-p8080``, ``-Dserver.port=8080``."""
    for pattern in (_SHORT, _DEFINED):
        if match := pattern.fullmatch(word):
            return int(match["value"]), match.start("value")
    if match := _LISTENS.match(word):
        return int(match["port"]), match.start("port")
    if program in _CLIENTS and (match := _URL.match(word)) and _calls.is_loopback(match["host"]):
        return int(match["port"]), match.start("port")
    return None


def _after(word: str, before: str, program: str) -> tuple[int, int] | None:
    """The port that *word* says behind an option, or as the argument of a program we know."""
    if word.isdecimal() and word.isascii() and (before in _BARE or program in _BARE):
        return int(word), 0
    option = _OPTION.fullmatch(before)
    if option is None or option["value"] is not None:
        return None
    found = _number_or_place(word)
    # Of -b and -l a number alone is a size or a level more often than a port.
    return found if ":" in word or option["name"] not in _VAGUE else None


_VAGUE: Final = frozenset({"b", "l", "listen", "bind", "http"})


def _number_or_place(text: str) -> tuple[int, int] | None:
    if text.isdecimal() and text.isascii() and len(text) <= 5:  # noqa: PLR2004 - 65535
        return int(text), 0
    if m := _PLACE.fullmatch(text):
        host = m["host"]
        if _calls.is_loopback(host) or _calls.is_everywhere(host):
            return int(m["port"]), m.start("port")
    return None


def names_a_port(variable: str) -> bool:
    """Whether an environment variable of this name holds a port."""
    return _PORTS_NAME.search(variable) is not None
