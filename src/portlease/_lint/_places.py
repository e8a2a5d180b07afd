"""Hosts and ports in texts: ``127.0.0.1:8080``, ``http://localhost:8080/``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

# tcp://*:5555, 127.0.0.1:8080, [::1]:8080
PLACE: Final = re.compile(
    r"(?:(?:tcp|http|https|ws|udp|tls|ssl)://)?(?P<host>\[[0-9a-fA-F:]*\]|[\w.*-]*):(?P<port>\d+)/?"
)
URL: Final = re.compile(
    r"[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/@\s]*@)?(?P<host>\[[0-9a-fA-F:]*\]|[^/:@\s]+)"
    r":(?P<port>\d{1,5})(?!\d)"
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
        re.fullmatch(r"127(\.\d{1,3}){1,3}", lower) is not None
    )


def digits(number: int) -> re.Pattern[str]:
    """The number in a text, and no other that has its digits."""
    return re.compile(rf"(?<!\d){number}(?!\d)")
