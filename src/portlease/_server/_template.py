"""Templates in a command's arguments and environment: ``{port}``, ``{admin}``, ``{host}``.

A *name* is an identifier in lower case between braces: ``[a-z][a-z0-9_]*``. Everything else that
has braces is somebody else's and passes through as it is: JSON (``{"port": {port}}`` has one name
in it), shell variables (``${HOME}``, and ``${port}`` too, because of its dollar), awk programs
(``{print $1}``). ``{{name}}`` is how one writes the text ``{name}`` itself.

Pure: no system calls, and no port is looked at here.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final

HOST: Final = "host"
"""The reserved name that stands for the address to bind, not for a port."""

PORT: Final = "port"
"""The name of a server's main port."""

RESERVED: Final = frozenset({HOST, "fd"})
"""Names that are never ports: ``{fd}`` is the descriptor of a socket that is handed over."""

# The first alternative wins where both could begin: {{port}} is the literal, not {port} in braces.
# A dollar before the brace makes it the shell's.
_NAME: Final = re.compile(
    r"(?<!\$) (?: \{\{ (?P<literal> [a-z][a-z0-9_]* ) \}\} | \{ (?P<name> [a-z][a-z0-9_]* ) \} )",
    re.VERBOSE,
)


def names_in(texts: Iterable[str]) -> set[str]:
    """Return every name that occurs in *texts*, ``host`` included; literals do not count."""
    found = (match["name"] for text in texts for match in _NAME.finditer(text))
    return {name for name in found if name is not None}


def substitute(text: str, values: Mapping[str, object], *, known_only: bool) -> str:
    """Return *text* with its names replaced.

    Args:
        text: one argument, or one value of the environment.
        values: what each name stands for; ``str()`` of it is put in.
        known_only: leave names that are not in *values* alone, doubled braces and all, because
            they may be another program's templates. Otherwise every doubled brace becomes a
            single one.

    Raises:
        KeyError: not *known_only*, and a name has no value.
    """

    def replacement(match: re.Match[str]) -> str:
        name = match["name"] or match["literal"]
        if known_only and name not in values:
            return match[0]
        return str(values[name]) if match["name"] is not None else "{" + name + "}"

    return _NAME.sub(replacement, text)


def is_name(text: str) -> bool:
    """Whether *text* can be the name of a port."""
    return text not in RESERVED and re.fullmatch("[a-z][a-z0-9_]*", text) is not None
