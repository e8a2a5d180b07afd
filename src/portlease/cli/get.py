"""``portlease get``: numbers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from portlease.cli import _leases, _options, _say

if TYPE_CHECKING:
    from portlease._wish import Kind

_HELP = """\
Print the number of a port that is free, and of no interest to anybody.

\b
  port=$(portlease get)
  portlease get -n 3                    three numbers, a line each
  portlease get -n 6 --offsets 0,10000  for six nodes of a Redis cluster: 12

The number lies outside the range from which the system gives out ports by itself, so that no
bind(0) and no outgoing connection of anybody lands on it, and it is free as it is printed. That is
all: it is held by nobody once this command has ended, and another may be given the same number.

\b
For a port that stays yours:
  portlease run -- COMMAND {port}    the command, on a port leased for it
  portlease hold                     keeps the port while you use it
"""


@click.command("get", help=_HELP, short_help="Print the number of a free port.")
@_options.count("How many ports, all or none.")
@_options.kind
@_options.block
@_options.where
@_options.as_json
def command(  # noqa: PLR0913 - its options
    *,
    n: int,
    kind: Kind | None,
    block: bool,
    offsets: tuple[int, ...] | None,
    host: str | None,
    ports: tuple[int, ...] | None,
    as_json: bool,
) -> None:
    """Print while the ports are still held: then nothing that is printed was refused before."""
    with _leases.take(
        n,
        kind or "tcp",
        block=block,
        offsets=offsets,
        host=host,
        ports=ports,
        label="portlease get",
    ) as leases:
        if as_json:
            _say.write_json({"ports": leases.ports, "kind": kind or "tcp", "held": False})
        else:
            _say.write_numbers(leases.ports)
