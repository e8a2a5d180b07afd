"""The command line: ``portlease``. One command a module; click and rich are loaded here alone.

Numbers for scripts stand alone on standard output, words for people go to standard error. What the
exit statuses mean is said once, in :mod:`portlease.cli._status`.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

import click

import portlease
from portlease._errors import PortleaseError
from portlease.cli import _say, _status
from portlease.cli._signals import Interrupted

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = (
    "run",
    "get",
    "hold",
    "ls",
    "who",
    "recipe",
    "repeat",
    "isolate",
    "audit",
    "lint",
    "portserver",
    "doctor",
    "completion",
)

_HELP = """\
Ports that nobody else can take, for tests and the servers they start.

\b
  portlease run -- npm start               a server on a leased port: $PORT
  portlease run -- memcached -p {port} --then ./test {port}
  port=$(portlease get)                    a number, free now
  portlease hold -n 3                      three ports, until Ctrl-C
  portlease who 8080                       who has it?
  portlease recipe postgresql -- pytest    a PostgreSQL of its own for pytest
  portlease repeat -n 8 -- pytest          what fails only in company?
  portlease isolate -- pytest              in a network of its own
  portlease audit -- pytest                every bind: is its port hard-coded?
  portlease lint tests                     the same, from the text

Numbers for scripts stand alone on standard output, words for people go to standard error, and
--json speaks to programs. `portlease COMMAND --help` tells more, `portlease` alone this.
"""

_EPILOG = f"""\
\b
Exit status:
{_status.TABLE}

\b
Completion, for bash (zsh and fish alike; `portlease completion --help`):
  eval "$(_PORTLEASE_COMPLETE=bash_source portlease)"
"""


class _Commands(click.Group):
    """Loads a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: object = importlib.import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101 - each of our modules has one
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the name that a misspelt one may have been meant for."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            name = args[0]
            if name.startswith("-"):
                raise
            import difflib

            near = difflib.get_close_matches(name, _COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_COMMANDS)}"
            raise click.UsageError(f"no such command {name!r}; {hint}", ctx) from None


@click.group(
    cls=_Commands,
    help=_HELP,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(portlease.__version__, "-V", "--version", prog_name="portlease")
@click.pass_context
def app(ctx: click.Context) -> None:
    """The group of all commands; what it says of itself is ``_HELP``.

    Without a command it is no wrong call, as click has it (status 2), but a question: help on
    standard output, and status 0, as cargo, docker, gh and pip have it.
    """
    if ctx.invoked_subcommand is None:
        _say.write(ctx.get_help() + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for ``sys.argv``'s.

    Returns:
        The exit status, see :mod:`portlease.cli._status`.
    """
    _say.open_standard_streams()
    with warnings.catch_warnings():
        warnings.showwarning = _say.show_warning
        warnings.simplefilter("always", RuntimeWarning)  # ServerKilledWarning, each time
        try:
            status = app.main(
                args=None if arguments is None else list(arguments),
                prog_name="portlease",
                standalone_mode=False,
            )
            _say.flush()
        except BaseException as error:
            told = _tell(error)
            if told is None:
                raise
            return told
    return status if isinstance(status, int) else _status.OK


def _tell(error: BaseException) -> int | None:
    """Tell of an error, and return its exit status; None for a defect of ours."""
    match error:
        case click.UsageError():
            return _say.usage_error(error)
        case click.ClickException():
            _say.say(error.format_message())
            return error.exit_code
        case PortleaseError():
            _say.say(_say.for_the_command_line(str(error)))
            return _status.of_error(error)
        case _say.NobodyReadsError():  # as if SIGPIPE had ended us, which Python ignores
            return _status.of_signal(_status.SIGPIPE)
        case Interrupted() | KeyboardInterrupt() | click.Abort():
            return _status.of_signal(getattr(error, "signal", _status.SIGINT))
    return None
