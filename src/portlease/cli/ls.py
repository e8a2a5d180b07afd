"""``portlease ls``: the live leases."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

import portlease
from portlease.cli import _leases, _options, _say

if TYPE_CHECKING:
    from portlease import LeaseInfo

_HELP = """\
List every live lease of this network namespace, of all processes and users.

\b
  portlease ls
  portlease ls --json | jq -r '.[] | select(.state == "GUARDED").port'

\b
STATE says who can take the port besides its lessee:
  HELD         nobody
  OFFERED      only a server with SO_REUSEADDR that binds this very number
  GUARDED      only a bind of this very number; no lease, no bind(0)
  HANDED_OVER  nobody: the server owns the socket

A lease is gone from the list, by the kernel, as soon as its process is.
"""
_HEADINGS = ("PORT", "KIND", "STATE", "HOST", "PID", "USER", "AGE", "LABEL", "COMMAND")


@click.command("ls", help=_HELP, short_help="List the live leases.")
@_options.as_json
def command(*, as_json: bool) -> None:
    """List them, oldest first."""
    found = portlease.leases()
    if as_json:
        _say.write_json([_leases.as_dict(info) for info in found])
    elif found:
        _say.table(_HEADINGS, [_row(info) for info in found])
    elif sys.stderr.isatty():
        _say.say("no live leases in this network namespace")


def _row(info: LeaseInfo) -> tuple[str, ...]:
    return (
        str(info.port),
        info.kind,
        str(info.state),
        info.host,
        "-" if info.pid is None else str(info.pid),
        _user(info.uid),
        _leases.age(info.since),
        "-" if info.label is None else _say.printable(info.label),
        _leases.command_of(info),
    )


def _user(uid: int | None) -> str:
    if uid is None or sys.platform == "win32":
        return "-"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user that only another container knows
        return str(uid)
