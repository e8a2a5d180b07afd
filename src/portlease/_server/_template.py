"""Templates in a command's arguments and environment: ``{port}``, ``{admin}``, ``{fd}``.

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

FD: Final = "fd"
"""The reserved name of the main port's socket, where that is handed over: its descriptor."""

RESERVED: Final = frozenset({HOST, FD})
"""Names that are never ports; and none that ends in ``_fd`` is: see :func:`port_of_fd`."""

_OF_FD: Final = "_fd"

# The first alternative wins where both could begin: {{port}} is the literal, not {port} in braces.
# A dollar before the brace makes it the shell's.
_NAME: Final = re.compile(
    r"(?<!\$) (?: \{\{ (?P<literal> [a-z][a-z0-9_]* ) \}\} | \{ (?P<name> [a-z][a-z0-9_]* ) \} )",
    re.VERBOSE,
)

# Not the shell's ${PORT}, nor perl's $ENV{PORT}.
_SHOUTED: Final = re.compile(r"(?<![\w${])\{([A-Z][A-Z0-9_]*)\}(?!\})")


def names_in(texts: Iterable[str]) -> set[str]:
    """Return every name that occurs in *texts*, ``host`` included; literals do not count."""
    found = (match["name"] for text in texts for match in _NAME.finditer(text))
    return {name for name in found if name is not None}


def shouted_in(texts: Iterable[str]) -> set[str]:
    """Return what would be names in *texts* if it were in lower case: ``{PORT}`` gives ``PORT``."""
    return {name for text in texts for name in _SHOUTED.findall(text)}


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


def mentions_port(text: str) -> bool:
    """Whether *text* speaks of the variable PORT: ``$PORT``, ``process.env.PORT``."""
    return re.search(r"(?<![A-Za-z0-9_])PORT(?![A-Za-z0-9_])", text) is not None


def is_name(text: str) -> bool:
    """Whether *text* can be the name of a port."""
    return (
        text not in RESERVED
        and port_of_fd(text) is None
        and re.fullmatch("[a-z][a-z0-9_]*", text) is not None
    )


def port_of_fd(name: str) -> str | None:
    """The port whose descriptor *name* stands for: ``{fd}`` the main one's, ``{admin_fd}`` admin's.

    None if it stands for no descriptor.
    """
    if name == FD:
        return PORT
    return name.removesuffix(_OF_FD) if name.endswith(_OF_FD) else None
