"""``portlease portserver``: ports for suites that honour ``PORTSERVER_ADDRESS``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from portlease._errors import UsageError
from portlease.cli import _options, _say, _signals, _status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_ADDRESS: Final = "@portlease-portserver"

_HELP = f"""\
Serve portpicker's port server protocol, until Ctrl-C.

\b
  portlease portserver &
  export PORTSERVER_ADDRESS={_ADDRESS}
  bazel test //...               any suite that asks a port server
  ./test.py                      portpicker.pick_unused_port()

Whoever asks names a process; the port is leased for that process until it ends, by whatever means,
and is then free again. It is free for TCP and UDP, and GUARDED: no other lease is given it. Where
it cannot be had (no such process, garbage, no port left) the client is hung up on, which clients
take for "no", and the reason is told here.

Linux only. `portlease ls` shows what is out, and `portlease run --portserver -- CMD` serves for as
long as one command runs.
"""


@click.command("portserver", help=_HELP, short_help="Serve portpicker's protocol.")
@click.option(
    "--address",
    default=_ADDRESS,
    show_default=True,
    metavar="ADDRESS",
    help="@NAME for an abstract Unix socket, or a path.",
)
@click.option(
    "--ports",
    type=_options.PortList(),
    metavar="LIST",
    help="Give out these alone: 20000-20999,21500.",
)
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing.")
def command(*, address: str, ports: Sequence[int] | None, quiet: bool) -> int:
    """Serve, and say what happens."""
    if sys.platform == "linux":
        return _serve(address, ports, quiet=quiet)
    raise UsageError(f"a port server needs pidfds, which {sys.platform} does not have")


if sys.platform == "linux":

    def _serve(address: str, ports: Sequence[int] | None, *, quiet: bool) -> int:
        from portlease._portserver import PortServer, many_descriptors

        many_descriptors()
        tell = None if quiet else _say.say
        with _signals.interrupting(), PortServer(address, ports=ports, tell=tell) as server:
            if not quiet:
                _say.say(f"serves ports: export PORTSERVER_ADDRESS={address}")
            server.serve()
        return _status.OK
