"""The Sphinx extension of this site: what the pages show that the code alone knows.

- a fence ``mermaid``: a code host draws it; here it is the table of states, drawn by
  :mod:`._states_svg`, since nothing is fetched from elsewhere;
- ``{cli-help}``: what each command's ``--help`` prints;
- docstrings, read by :mod:`._docstrings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from portlease import _states
from portlease.cli import app as portlease_command

from . import _docstrings, _states_svg

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

_COLUMNS = 88


class _Diagram(SphinxDirective):
    """The one diagram there is."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        if "\n".join(self.content).strip() != _states.diagram():
            raise self.error("a diagram that is not the table of states: _states.diagram()")
        return [nodes.raw("", _states_svg.svg(), format="html")]


class _CliHelp(SphinxDirective):
    """A section for each command, with its help as a terminal shows it."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for name, text in help_texts().items():
            section = nodes.section(ids=[name.replace(" ", "-")], names=[name])
            section += nodes.title("", "", nodes.literal("", name))
            section += nodes.literal_block(text, text, language="text")
            self.state.document.note_implicit_target(section)
            found.append(section)
        return found


def help_texts() -> dict[str, str]:
    """What ``--help`` prints, of the program and of every command."""
    program = "portlease"
    settings = {**portlease_command.context_settings, "terminal_width": _COLUMNS}
    with click.Context(portlease_command, info_name=program, **settings) as top:
        texts = {program: portlease_command.get_help(top)}
        for name in portlease_command.list_commands(top):
            command = portlease_command.get_command(top, name)
            assert command is not None  # noqa: S101 - it has just been listed
            with click.Context(command, top, name, terminal_width=_COLUMNS) as below:
                texts[f"{program} {name}"] = command.get_help(below)
    return texts


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make it known to Sphinx."""
    app.add_directive("mermaid", _Diagram)
    app.add_directive("cli-help", _CliHelp)
    app.connect("autodoc-process-docstring", _docstrings.process)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
