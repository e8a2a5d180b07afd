"""Hosts and ports in texts: ``127.0.0.1:8080``, ``http://localhost:8080/``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

PORT: Final = r"(?P<port>[0-9]{1,5})"
"""In a pattern: a number that int() takes, and that may be a port."""
NUMBER: Final = re.compile(r"(?<!\d)[0-9]{1,5}(?!\d)")

# tcp://*:5555, 127.0.0.1:8080, [::1]:8080
PLACE: Final = re.compile(
    r"(?:(?:tcp|http|https|ws|udp|tls|ssl)://)?(?P<host>\[[0-9a-fA-F:]*\]|[\w.*-]*)"
    rf":{PORT}/?"
)
URL: Final = re.compile(
    r"[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/@\s]*@)?(?P<host>\[[0-9a-fA-F:]*\]|[^/:@\s]+)"
    rf":{PORT}(?!\d)"
)
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::", "[::]", "*", "::0"})  # noqa: S104 - looked for


def is_everywhere(host: str | None) -> bool:
    """Whether a server on this host is on every interface."""
    return host in _EVERYWHERE


def is_loopback(host: str | None) -> bool:
    """Whether it is this very machine."""
    if host is None:
        return False
    lower = host.strip("[]").lower().rstrip(".")
    return lower in {"localhost", "::1", "localhost.localdomain", "ip6-localhost"} or (
        re.fullmatch(r"127(\.[0-9]{1,3}){1,3}", lower) is not None
    )


def digits(number: int) -> re.Pattern[str]:
    """The number in a text, and no other that has its digits."""
    return re.compile(rf"(?<!\d){number}(?!\d)")


def firsts(text: str) -> dict[str, int]:
    """Where each number of a text stands first: of those that may be ports."""
    found: dict[str, int] = {}
    for match in NUMBER.finditer(text):
        found.setdefault(match.group(), match.start())
    return found
