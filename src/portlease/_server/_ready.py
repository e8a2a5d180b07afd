"""Decisions about a server that is starting: pure functions over plain values.

When to look again, whether what listens is what was asked for, and what a failed server's output
says about its port. The looking itself is done by :mod:`portlease._server._probe`.
"""

from __future__ import annotations

import enum
import re
import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

LOOPBACK: Final = "127.0.0.1"
LOOPBACK_V6: Final = "::1"
ANY: Final = "0.0.0.0"  # noqa: S104 - compared with, never bound
ANY_V6: Final = "::"
EVERYWHERE: Final = "*"
"""A lease's scope: every IPv4 and IPv6 address."""

# --- when to look -------------------------------------------------------------------------------

# The kernel tells nobody that a socket has begun to listen, so it is asked again and again. One
# look takes 20 us (sock_diag of one port): 4 % of a core at first, 1 % in the long run.
_FIRST_PAUSE_S: Final = 0.0005
LONGEST_PAUSE_S: Final = 0.002
_SLOWING_DOWN: Final = 500.0


def pause_s(elapsed_s: float) -> float:
    """Seconds until the next look at a server that was started *elapsed_s* seconds ago.

    Half a millisecond at first, two milliseconds from one second on: what is added to a start that
    takes so long goes unnoticed.
    """
    return min(LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, elapsed_s / _SLOWING_DOWN))


# --- which sockets count ------------------------------------------------------------------------


class Listening(NamedTuple):
    """One listening (UDP: bound) socket of the server."""

    address: str
    v6only: bool | None = None
    """Whether a socket on ``::`` leaves IPv4 alone; None where that is not known."""


class Coverage(enum.Enum):
    """How much of what was asked for the server's sockets cover."""

    NONE = "none"
    PART = "part"
    """Some address is there, but not the one that clients will use, or not each of several."""
    FULL = "full"


SETTLE_S: Final = 0.05
"""How long PART is watched for more before it is taken for all there will be.

A server that listens on [::1] and then on 127.0.0.1 (``localhost``) is not ready in between; one
that listens on [::1] alone is.
"""


def targets(scope: str) -> tuple[str, ...]:
    """The addresses that clients of a lease with this scope will connect to."""
    loopbacks = {EVERYWHERE: LOOPBACK, ANY: LOOPBACK, ANY_V6: LOOPBACK_V6}
    return tuple(dict.fromkeys(loopbacks.get(part, part) for part in scope.split(",")))


def coverage(found: Sequence[Listening], scope: str) -> Coverage:
    """Whether sockets cover a lease's scope.

    A lease on every address is covered by 127.0.0.1; any other address counts in part. A lease on
    particular addresses is covered by all of them, and not at all by others.
    """
    wanted = targets(scope)
    reached = [any(reaches(one, target) for one in found) for target in wanted]
    if all(reached):
        return Coverage.FULL
    particular = not {EVERYWHERE, ANY, ANY_V6} & set(scope.split(","))
    return Coverage.PART if any(reached) or (found and not particular) else Coverage.NONE


def reaches(one: Listening, target: str) -> bool:
    """Whether a client that connects to *target* arrives at this socket."""
    if one.address in {target, f"::ffff:{target}"}:
        return True
    if one.address == ANY_V6:
        return ":" in target or not one.v6only
    return one.address == ANY and ":" not in target


def client_host(found: Sequence[Listening], scope: str) -> str:
    """The address at which a client reaches the server."""
    for target in targets(scope):
        if not found or any(reaches(one, target) for one in found):
            return target
    return {ANY: LOOPBACK, ANY_V6: LOOPBACK_V6}.get(found[0].address, found[0].address)


def url(scheme: str, host: str, port: int, path: str) -> str:
    """Where clients reach it; a slash comes before *path* if it has none."""
    place = f"[{host}]" if ":" in host else host
    slash = "/" if path and not path.startswith("/") else ""
    return f"{scheme}://{place}:{port}{slash}{path}"


# --- what a failed server says ------------------------------------------------------------------

# strerror(EADDRINUSE) of glibc, macOS and the BSDs; of musl; of Windows; and the name that Node,
# Ruby, Erlang, Rust, Java and .NET give it. With the number alone: OCaml, PHP, and old C programs.
_IN_USE: Final = (
    "address already in use",
    "address in use",
    "only one usage of each socket address",
    "eaddrinuse",
    "addrinuse",
    "addressalreadyinuse",
    "address_in_use",
    "java.net.bindexception",
    "errno 98",
    "errno=98",
    "errno: 98",
    "os error 98",
    "(98)",
    "errno 48",
    "os error 48",
    "10048",
)
# "Port 8080 is already in use", "port 5000 is in use by another program", "could not bind to port
# 80: already bound": frameworks that hide the system's words. Both in one line.
_PLACE: Final = re.compile(r"\b(?:port|address|bind|listen|socket|endpoint)\b", re.IGNORECASE)
_TAKEN: Final = re.compile(
    r"\bin use\b|\balready (?:used|bound|taken|allocated|occupied|listening)\b"
    r"|\bnot available\b|\bunavailable\b|\b(?:taken|occupied) by\b",
    re.IGNORECASE,
)
# Failed at the port for a reason that is not said. Both in one line.
_FAILED: Final = re.compile(
    r"\b(?:fail\w*|errors?|cannot|can't|can not|couldn't|could not|unable|refus\w*)\b",
    re.IGNORECASE,
)
_BINDING: Final = re.compile(r"\b(?:bind\w*|listen\w*|ports?)\b", re.IGNORECASE)
_ENGLISH: Final = re.compile(r"(?:C|POSIX|en)(?:[._@].*)?", re.IGNORECASE)
_EXAMINED_CHARACTERS: Final = 20_000


def says_in_use(output: str) -> bool:
    """Whether a server's output says, in words that mean nothing else, that its port is in use."""
    text = output.lower()
    return any(words in text for words in _IN_USE)


def failed_in_use(output: str, env: Mapping[str, str]) -> bool | None:
    """Whether a server that ended before it listened did so because its port was in use.

    Args:
        output: what it wrote; the last 20,000 characters are looked at.
        env: its environment, for the language that its messages are in.

    Returns:
        None where that cannot be told: it said nothing, or it said that it failed to bind and not
        why, or it speaks another language than English.
    """
    text = output[-_EXAMINED_CHARACTERS:]
    if says_in_use(text) or _has_line_with(text, _PLACE, _TAKEN):
        return True
    if not text.strip() or not speaks_english(env) or _has_line_with(text, _FAILED, _BINDING):
        return None
    return False


# uvicorn, argparse, click and getopt on an option that they do not know; EBADF, EINVAL, ENOTSOCK.
_NO_SOCKET: Final = re.compile(
    r"\b(?:fds?|file descriptors?|sockets?|usage|errno (?:9|22|88)"
    r"|(?:no such|unknown|unrecogni[sz]ed|invalid|illegal) (?:option|argument)s?)\b",
    re.IGNORECASE,
)


def refuses_sockets(output: str) -> bool:
    """Whether a server that was handed a socket, and ended, may have done so because of it."""
    text = output[-_EXAMINED_CHARACTERS:]
    return not text.strip() or says_in_use(text) or _NO_SOCKET.search(text) is not None


def _has_line_with(text: str, *patterns: re.Pattern[str]) -> bool:
    return any(all(one.search(line) for one in patterns) for line in text.splitlines())


def speaks_english(env: Mapping[str, str]) -> bool:
    """Whether messages come in English, by the variables of locale(7) and gettext."""
    locale = next(filter(None, (env.get(n) for n in ("LC_ALL", "LC_MESSAGES", "LANG"))), "C")
    if not _ENGLISH.fullmatch(locale):
        return False
    # gettext heeds LANGUAGE in every locale but C.
    language = env.get("LANGUAGE", "").partition(":")[0]
    return locale in {"C", "POSIX"} or not language or bool(_ENGLISH.fullmatch(language))


_TAIL_LINES: Final = 40
_LINE_CHARACTERS: Final = 500


def tail(output: str) -> str:
    """The last 40 lines of a server's output, for an error's text."""
    lines = output[-_TAIL_LINES * _LINE_CHARACTERS * 4 :].rstrip().splitlines()
    shown = [
        line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + "..."
        for line in lines[-_TAIL_LINES:]
    ]
    return "\n".join("    " + line for line in shown)


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; ``signal 40`` for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def how_ended(returncode: int | None) -> str:
    """``ended with exit status 3``, ``was ended by SIGKILL``."""
    if returncode is None:  # the tree has ended, so this one has
        return "ended"
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    return f"was ended by {signal_name(-returncode)}"


# --- which ports it listens on instead -----------------------------------------------------------

_LISTEN_STATE: Final = {"tcp": b"0A", "udp": b"07"}
_FIELDS: Final = 10


def listening_inodes(table: bytes, transport: str) -> dict[int, int]:
    """The sockets that listen (UDP: are bound), from the text of /proc/net/tcp or one of its like.

    Returns:
        Inode number: local port.
    """
    rows = (line.split() for line in table.split(b"\n")[1:])
    return {
        int(row[9]): int(row[1].rpartition(b":")[2], 16)
        for row in rows
        if len(row) >= _FIELDS and row[3] == _LISTEN_STATE[transport]
    }


def sorted_ports(ports: Iterable[int]) -> str:
    """Ports for an error's text."""
    return ", ".join(map(str, sorted(set(ports))))
