"""``portlease who PORT``: why it cannot be bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import portlease
from portlease.cli import _options, _say, _status

if TYPE_CHECKING:
    from portlease._platform._linux_diag import Transport

_HELP = """\
Tell who or what keeps PORT from being bound, and what to do about it.

\b
  portlease who 8080
  portlease who 8080 --json | jq '.occupants[].processes[].pid'
  until portlease who 5432 >/dev/null; do sleep 1; done

It tells of listeners and other sockets with their processes, of connections, of TIME_WAIT and how
long it lasts, of leases, of reserved and privileged ports, and of what it is not permitted to see.
It only looks: it binds nothing and connects to nobody.

Exit status: 0 if nothing that was seen prevents a bind, 1 otherwise.
"""


@click.command("who", help=_HELP, short_help="Tell who has a port.")
@click.argument("port", type=_options.PortNumber())
@click.option("--tcp", "transport", flag_value="tcp", help="Look at TCP alone.")
@click.option("--udp", "transport", flag_value="udp", help="Look at UDP alone.")
@_options.as_json
def command(*, port: int, transport: Transport | None, as_json: bool) -> int:
    """Look once."""
    found = portlease.who(port, transport=transport)
    if as_json:
        _say.write_json(found.as_dict())
    else:
        text = _say.for_the_command_line(str(found))
        _say.write("\n".join(map(_say.printable, text.splitlines())) + "\n")
    return _status.OK if found.free else _status.NO
