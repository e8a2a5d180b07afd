"""``portlease doctor``: what is promised on this machine, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from portlease.cli import _options, _say, _status

if TYPE_CHECKING:
    from typing import Final

    from portlease._doctor import Diagnosis, Fact

_HELP = """\
Tell what portlease promises on this machine, why, and what to do where that is less than all.

\b
  portlease doctor
  portlease doctor --json | jq -r '.facts[] | select(.level != "ok").remedy'

Each thing is tried, not looked up: a hold is taken and offered, a server binds beside it, a lease
steps aside, a command is started, a network namespace is made in a child process. Nothing is left
behind or changed.

\b
ok       as promised
limited  less than promised; what follows, and the remedy, is said
missing  not to be had

Exit status: 0 if all that is promised holds, 1 if something is limited or missing. What only later
parts of portlease need is shown, and does not count.
"""
_STYLES: Final = {"ok": "green", "limited": "yellow", "missing": "red"}


@click.command("doctor", help=_HELP, short_help="Tell what is promised on this machine.")
@_options.as_json
def command(*, as_json: bool) -> int:
    """Examine, and render."""
    from portlease import _doctor

    diagnosis = _doctor.examine()
    if as_json:
        _say.write_json(_as_dict(diagnosis))
    elif sys.stdout.isatty():
        _show(diagnosis)
    else:
        _say.write("".join(f"{_line(fact)}\n" for fact in diagnosis.facts))
    if not as_json and sys.stderr.isatty():
        _say.say(_verdict(diagnosis))
    return _status.OK if diagnosis.full else _status.NO


def _verdict(diagnosis: Diagnosis) -> str:
    if diagnosis.full:
        return "all that is promised holds here"
    less = [fact.name for fact in diagnosis.facts if fact.promised and fact.level != "ok"]
    return f"the promise is limited here: {', '.join(less)}"


def _as_dict(diagnosis: Diagnosis) -> dict[str, object]:
    import dataclasses

    return {
        "full": diagnosis.full,
        "facts": [dataclasses.asdict(fact) for fact in diagnosis.facts],
    }


def _line(fact: Fact) -> str:
    """One fact on one line, for a pipe."""
    parts = [f"{fact.level:<7}  {fact.name}: {fact.found}; {fact.follows}"]
    if fact.remedy is not None:
        parts.append(f"remedy: {fact.remedy}")
    return "; ".join(parts)


def _show(diagnosis: Diagnosis) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for fact in diagnosis.facts:
        words = Text(fact.found)
        words.append(f"\n{fact.follows}", style="dim")
        if fact.remedy is not None:
            words.append(f"\nremedy: {fact.remedy}", style="bold")
        name = fact.name if fact.promised else f"({fact.name})"
        grid.add_row(Text(fact.level, style=_STYLES[fact.level]), Text(name), words)
    _say.console().print(grid)
