"""``portlease recipe NAME``: a well-known server with data of its own, for a command or until told.

The server runs in the background, the command in the foreground, as with ``run --then``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from portlease._errors import UsageError
from portlease._server import _template
from portlease.cli import _foreground, _lookup, _options, _say, _signals, _status, _until
from portlease.cli._plan import TIMEOUT_S
from portlease.cli._waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from portlease._server._command import How
    from portlease._tree._process import Process
    from portlease.recipes import Recipe, RecipeServer, Settings

    Text: TypeAlias = click.ParamType[str]
else:
    Text = click.ParamType  # before click 8.4 it takes no type argument

_HELP = """\
Start a well-known server with data of its own, for a command or until told otherwise.

\b
  portlease recipe --list                  what there is, what is installed
  portlease recipe postgresql -- pytest    PGPORT and its like are set for it
  portlease recipe redis -- redis-cli -u {url} ping
  portlease recipe redis                   prints its URL; until Ctrl-C

Its port is leased, its data are in a temporary folder, and nothing of it is left when it has been
stopped. The command runs in the foreground once the server answers. The variables by which clients
customarily find such a server are set for it, and {url}, {host} and {port} are filled in in its
arguments.

With no command, the server runs until SIGINT, SIGTERM or SIGHUP, until standard input is closed, if
that is a pipe, or until it ends by itself.

--json: with no command, one document on standard output when it answers; with one, a line for each
event on standard error.

Exit status: the command's; 127 if the server or the command is not installed; 124 if the server
does not answer in time; 128+N by signal N.
"""
_HEADINGS = ("NAME", "HERE", "WHAT IT STARTS")


class _Name(Text):
    """The name of a recipe, completed."""

    name = "name"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Raise what click shows for anything else."""
        from portlease import recipes

        if value not in recipes.names():
            self.fail(f"there is no recipe {value}, only {', '.join(recipes.names())}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Those that begin so."""
        del ctx, param
        from click.shell_completion import CompletionItem

        from portlease import recipes

        return [
            CompletionItem(name, help=recipes.recipe(name).summary)
            for name in recipes.names()
            if name.startswith(incomplete)
        ]


def _function(name: str) -> Callable[..., RecipeServer]:
    """What starts it.

    Raises:
        UsageError: it cannot do without an argument, an application to serve, say.
    """
    import inspect

    from portlease import recipes

    function: Callable[..., RecipeServer] = getattr(recipes, name)
    for one in inspect.signature(function).parameters.values():
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD:
            raise UsageError(
                f"recipe {name} must be told its {one.name}=, which only Python can: "
                f"portlease.recipes.{name}(...)"
            )
    return function


@click.command(
    "recipe",
    cls=_options.MayCommand,
    help=_HELP,
    short_help="Start a well-known server, its data with it.",
)
@click.option("--list", "listed", is_flag=True, help="List what there is.")
@click.option("--host", metavar="HOST", help="The address to bind; 127.0.0.1 by default.")
@click.option(
    "--timeout",
    "timeout_s",
    type=_options.Seconds(min=0),
    callback=_options.a_number,
    default=TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Seconds until it must answer.",
)
@click.option(
    "--home",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Keep its data in this folder, and use what is there.",
)
@_options.label
@_options.any_how
@click.option("-q", "--quiet", is_flag=True, help="Tell of errors only.")
@_options.as_json
@click.argument("name", type=_Name(), required=False)
@click.argument("words", metavar="[-- COMMAND ARGS...]", nargs=-1, type=click.UNPROCESSED)
def command(  # noqa: PLR0913 - its options
    *,
    listed: bool,
    host: str | None,
    timeout_s: float,
    home: str | None,
    label: str | None,
    how: How | None,
    quiet: bool,
    as_json: bool,
    name: str | None,
    words: tuple[str, ...],
) -> int:
    """List, or start one."""
    if listed:
        _list(as_json=as_json)
        return _status.OK
    if name is None:
        raise click.UsageError("there is no NAME; `portlease recipe --list` lists them")
    settings: Settings = {
        "how": how,
        "host": host,
        "label": label,
        "timeout_s": timeout_s,
        "home": home,
    }
    if words and not _template.names_in(words[:1]):
        _lookup.must_be_there(words, os.environ)
    talks = sys.stderr.isatty() and not quiet and not as_json
    return _start(name, settings, words, talks=talks, as_json=as_json)


def _list(*, as_json: bool) -> None:
    from portlease import recipes

    found = [recipes.recipe(name) for name in recipes.names()]
    if as_json:
        _say.write_json([_as_dict(recipe) for recipe in found])
        return
    rows = [(one.name, "no" if one.missing() else "yes", one.summary) for one in found]
    _say.table(_HEADINGS, rows)


def _as_dict(recipe: Recipe) -> dict[str, object]:
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "programs": {program: recipe.look_up(program) for program in recipe.programs},
        "missing": recipe.missing(),
        "install": dict(recipe.packages),
    }


def _start(
    name: str, settings: Settings, words: tuple[str, ...], *, talks: bool, as_json: bool
) -> int:
    begin = _function(name)
    with _signals.interrupting():
        with Waiting(name, shown=talks) as waiting:
            waiting.tell("its first answer")
            try:
                running = begin(**settings)
            except _signals.Interrupted:
                _say.say(f"recipe {name} was not ready yet; still waited for its first answer")
                raise
        with running:
            if words:
                return _run(running, words, talks=talks, as_json=as_json)
            return _hold(running, talks=talks, as_json=as_json)


def _run(running: RecipeServer, words: tuple[str, ...], *, talks: bool, as_json: bool) -> int:
    """Run a command in the foreground, and tell it where the server is."""
    if as_json:
        _say.tell_json({"event": "ready", **_facts(running)})
    elif talks:
        _say.say(f"{running.recipe.name} is ready: {running.url}")
    values = {"url": running.url, "host": running.host, "port": running.port}
    argv = [_template.substitute(word, values, known_only=True) for word in words]
    status = _foreground.run(argv, {**os.environ, **running.env})
    if as_json:
        _say.tell_json({"event": "ended", "status": status})
    return status


def _hold(running: RecipeServer, *, talks: bool, as_json: bool) -> int:
    """Tell where the server is, and keep it until told otherwise, or until it ends."""
    if as_json:
        _say.write_json(_facts(running))
    else:
        _say.write(f"{running.url}\n")
    if talks:
        _say.say(f"{running.recipe.name} runs until Ctrl-C")
    process = running.process
    return _status.of_returncode(process.wait()) if _ends(process) else _status.OK


def _ends(process: Process) -> bool:
    """Wait until it ends by itself, or until it is enough; return whether it was the former."""
    if sys.platform != "linux":
        return _until.told()
    try:
        end = os.pidfd_open(process.pid)
    except ProcessLookupError:  # it has ended already, of which its keeper is about to tell
        return True
    try:
        return process.returncode is not None or _until.told(end)
    finally:
        os.close(end)


def _facts(running: RecipeServer) -> dict[str, object]:
    return {
        "recipe": running.recipe.name,
        "url": running.url,
        "host": running.host,
        "ports": {name: lease.port for name, lease in running.server.leases.items()},
        "env": running.env,
        "home": str(running.home),
        "pid": running.process.pid,
    }
