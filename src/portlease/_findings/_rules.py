"""The rules, for what is read in the text (lint) and for what is seen at run time (audit)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final, TypeAlias

Level: TypeAlias = 'Literal["error", "warning", "note"]'


class Rule(NamedTuple):
    """One rule."""

    code: str
    name: str
    level: Level
    """How bad it is, in SARIF's words."""
    summary: str
    """What is found, in a few words."""
    why: str
    """What comes of it."""
    remedy: str


UNREADABLE: Final = "PL000"
BOUND: Final = "PL001"
PEER: Final = "PL002"
UNHELD: Final = "PL003"
REUSED: Final = "PL004"
EVERY_INTERFACE: Final = "PL005"
SLEEP: Final = "PL006"

_ALL: Final = (
    Rule(
        UNREADABLE,
        "unreadable",
        "error",
        "a file that cannot be read as Python",
        "nothing in it is looked at",
        "mend it, or leave it out with --exclude",
    ),
    Rule(
        BOUND,
        "hard-coded-port",
        "error",
        "a port that is written in the code is bound, or given to a server",
        "a second run of the suite, another worker or any other program on that port fails it",
        "take the fixture leased_port, or portlease.lease(); start programs with the fixture serve",
    ),
    Rule(
        PEER,
        "hard-coded-peer",
        "warning",
        "a client goes to a loopback port that is written in the code",
        "the test talks to whatever listens there, which may be another run's server",
        "give the client the port that the server was given (leased_port, server.port)",
    ),
    Rule(
        UNHELD,
        "unheld-free-port",
        "warning",
        "a free port is found, and let go before the server binds it",
        "until then anybody may be given the same number",
        "take the fixture leased_port, or portlease.lease(), which keep it; for other libraries' "
        "helpers set portlease_takeover = true",
    ),
    Rule(
        REUSED,
        "reused-address",
        "note",
        "SO_REUSEADDR or SO_REUSEPORT is set on a TCP socket of a test",
        "a port that somebody else still uses is not noticed; with SO_REUSEPORT two suites share "
        "one port and get each other's clients",
        "leave it out, and bind port 0 or a leased port",
    ),
    Rule(
        EVERY_INTERFACE,
        "every-interface",
        "note",
        "a test's server is bound to every interface",
        "whoever reaches the machine reaches the server, and a firewall may ask or forbid",
        "bind to 127.0.0.1, ::1 or localhost",
    ),
    Rule(
        SLEEP,
        "sleep-for-server",
        "note",
        "a test sleeps until its server may be listening",
        "too short on a busy machine, too long on any other",
        "start it with the fixture serve, which returns when it listens",
    ),
)

RULES: Final[Mapping[str, Rule]] = {rule.code: rule for rule in _ALL}


def chosen(select: Iterable[str], ignore: Iterable[str]) -> frozenset[str]:
    """The codes that are looked for: *select*, or all, without *ignore*.

    Each is a code, the beginning of some (``PL00``) or a rule's name. PL000 is always among them,
    unless it is ignored: a file that was not looked at must not pass for a clean one.

    Raises:
        KeyError: there is no such rule; its argument is what was asked for.
    """
    wanted = {code for word in select for code in _meant(word)} or set(RULES)
    return frozenset(wanted | {UNREADABLE}) - {code for word in ignore for code in _meant(word)}


def _meant(word: str) -> list[str]:
    upper = word.upper()
    found = [
        rule.code
        for rule in _ALL
        if word.lower() == rule.name or (upper.startswith("PL") and rule.code.startswith(upper))
    ]
    if not found:
        raise KeyError(word)
    return found
