"""``portlease completion SHELL``: the script that teaches a shell our words."""

from __future__ import annotations

import click

from portlease.cli import _say

_HELP = """\
Print the completion script of a shell.

\b
  eval "$(portlease completion bash)"      in ~/.bashrc (bash 4.4 and later)
  eval "$(portlease completion zsh)"       in ~/.zshrc
  portlease completion fish > ~/.config/fish/completions/portlease.fish

It is the same as `_PORTLEASE_COMPLETE=bash_source portlease`, and so on.
"""


@click.command("completion", help=_HELP, short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, *, shell: str) -> None:
    """Print it."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has the three of them
    _say.write(kind(ctx.find_root().command, {}, "portlease", "_PORTLEASE_COMPLETE").source())
