"""What ports are called: in templates in lower case, as variables in upper case.

``--port web`` is ``{web}``, and WEB_PORT in the environment. ``--port WEB`` is the same, with one
variable more that is called exactly so: WEB, for configurations (a compose.yaml) that say ``$WEB``.
``--port WEB_PORT`` is ``--port web``. In templates either spelling will do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from portlease._server import _template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portlease._server._command import PortKind


def in_lower_case(text: str) -> str:
    """The name in templates of what was declared as *text*."""
    if not text.isupper():
        return text
    lower = text.lower()
    for suffix in ("_port", "_path"):
        lower = lower.removesuffix(suffix) or lower
    return lower


class Names:
    """The ports and Unix sockets that were declared.

    Args:
        tcp: the names of TCP ports, as they were written.
        udp: of UDP ports; a name that is in both is of one port for both.
        unix: of Unix sockets.

    Raises:
        click.UsageError: two of them are one name.
    """

    def __init__(self, tcp: Iterable[str], udp: Iterable[str], unix: Iterable[str]) -> None:
        self._spelt: dict[str, str] = {}
        """As it was written, of each name in lower case."""
        kinds: dict[str, PortKind] = {self._add(name): "tcp" for name in tcp}
        for name in map(self._add, udp):
            kinds[name] = "both" if name in kinds else "udp"
        for name in map(self._add, unix):
            if name in kinds:
                raise click.UsageError(
                    f"--unix {name} is the name of a port already; give it another"
                )
            kinds[name] = "unix"
        main = kinds.pop(_template.PORT, "tcp")
        self.kinds: Mapping[str, PortKind] = {_template.PORT: main, **kinds}
        """Of each, by its name in lower case; the main port among them."""

    def _add(self, text: str) -> str:
        name = in_lower_case(text)
        if self._spelt.setdefault(name, text) != text:
            raise click.UsageError(
                f"the names {self._spelt[name]} and {text} are one; spell it in one way"
            )
        return name

    @property
    def variables(self) -> dict[str, str]:
        """The variables that are called as their names were written, as templates."""
        return {
            text: f"{{{name}}}"
            for name, text in self._spelt.items()
            if text.isupper() and text not in _set_anyway(name)
        }

    def in_templates(self, text: str) -> str:
        """*text* with the names that were written in upper case as templates know them.

        A dollar before the brace makes it the shell's, and doubled braces the text itself, as in
        :mod:`portlease._server._template`.
        """
        upper = [re.escape(text) for text in self._spelt.values() if text.isupper()]
        if not upper:
            return text
        names = "|".join(upper)
        found = re.compile(rf"(?<!\$)(?:\{{\{{(?P<literal>{names})\}}\}}|\{{(?P<name>{names})\}})")
        return found.sub(self._lowered, text)

    @staticmethod
    def _lowered(match: re.Match[str]) -> str:
        name = match["name"]
        return f"{{{match['literal']}}}" if name is None else f"{{{in_lower_case(name)}}}"


def _set_anyway(name: str) -> tuple[str, ...]:
    return "PORT", f"{name.upper()}_PORT", f"{name.upper()}_PATH"
