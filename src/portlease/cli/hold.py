"""``portlease hold``: leases for as long as something else lives."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from portlease import _states
from portlease._errors import UsageError
from portlease._server import _command
from portlease._server._attempt import prepare
from portlease.cli import _foreground, _leases, _lookup, _options, _say, _signals, _status, _until

if TYPE_CHECKING:
    from portlease import LeaseGroup
    from portlease._server._command import How
    from portlease._wish import Kind

_HELP = """\
Keep ports leased while a command runs, a process lives, or until told otherwise.

\b
  portlease hold -- ./test-suite --port {port}   its exit status is ours
  portlease hold -n 3 -- sh -c 'echo $PORTS'     three; PORT is the first
  portlease hold --pid 4711                      until process 4711 ends
  portlease hold                                 until Ctrl-C
  coproc portlease hold; read -r port <&${COPROC[0]}   until the shell ends

With no command and no --pid, the leases are kept until SIGINT, SIGTERM or SIGHUP, or until
standard input is closed, if that is a pipe.

What it holds is OFFERED: a server that sets SO_REUSEADDR (most do) can bind the very number, and
nothing else can. --how step-aside frees it for any server, and keeps other leases away. `portlease
run` does more for a server: it waits until it is ready, and stops it.

Exit status: the command's; 0 after --pid or the end of standard input; 128+N by signal N.
"""


@click.command(
    "hold",
    cls=_options.MayCommand,
    help=_HELP,
    short_help="Keep ports leased while something lives.",
    context_settings={"allow_interspersed_args": False},
)
@_options.count("How many ports, all or none.")
@_options.kind
@_options.block
@_options.where
@_options.label
@_options.how
@click.option("--pid", type=_options.WholeNumber(min=1), metavar="PID", help="End when PID does.")
@_options.as_json
@click.argument("words", metavar="[-- COMMAND ARGS...]", nargs=-1, type=click.UNPROCESSED)
def command(  # noqa: PLR0913 - its options
    *,
    n: int,
    kind: Kind | None,
    block: bool,
    offsets: tuple[int, ...] | None,
    host: str | None,
    ports: tuple[int, ...] | None,
    label: str | None,
    how: How | None,
    pid: int | None,
    as_json: bool,
    words: tuple[str, ...],
) -> int:
    """Take, tell, wait."""
    if words and pid is not None:
        raise click.UsageError("--pid and a command are two ways to end: give one of them")
    if len(words) == 1 and words[0].isdecimal():
        raise click.UsageError(
            f"{words[0]} stands where a command does; to hold port {words[0]} itself: "
            f"--ports {words[0]}"
        )
    # A process that is not there is found out before anything is taken; a descriptor for it keeps
    # its number from meaning another one (pidfd_open(2)).
    end = None if pid is None else _open_process(pid)
    try:
        with (
            _signals.interrupting(),
            _leases.take(
                n, kind or "tcp", block=block, offsets=offsets, host=host, ports=ports, label=label
            ) as leases,
        ):
            prepare({str(one.port): one for one in leases}, how or "offer")
            if words:
                return _run(words, leases)
            _tell(leases, as_json=as_json)
            _until.told(end, stdin=end is None)
            return _status.OK
    finally:
        if end is not None:
            os.close(end)


def _open_process(pid: int) -> int:
    if sys.platform != "linux":
        raise UsageError(f"--pid needs pidfd_open(2), which {sys.platform} lacks; give a command")
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise UsageError(f"there is no process {pid}") from None
    except OSError as error:  # EINVAL: the id of a thread; ENOSYS: Linux before 5.3
        raise UsageError(f"process {pid} cannot be waited for: {error.strerror}") from error


def _run(words: tuple[str, ...], leases: LeaseGroup) -> int:
    asked = _command.Command(
        args=words, known_only=True, collect=False, own_stdin=False, mode="inherit"
    )
    argv, env = asked.filled({"port": leases.ports[0]}, asked.bind_host(leases[0].host))
    env["PORTS"] = " ".join(map(str, leases.ports))
    _lookup.must_be_apart(words, env)
    return _foreground.run(argv, env, if_failed=_of_the_lease(leases))


def _of_the_lease(leases: LeaseGroup) -> list[str]:
    """Why a server may have failed to bind its port: nobody sees what it writes."""
    if leases[0].state is not _states.OFFERED:
        return []
    text = (
        f"the lease of port {leases.ports[0]} was OFFERED (how: offer): only a server that sets "
        "SO_REUSEADDR binds beside it; if it does not, say --how step-aside"
    )
    return [text]


def _tell(leases: LeaseGroup, *, as_json: bool) -> None:
    if as_json:
        _say.write_json(
            {
                "ports": leases.ports,
                "kind": leases[0].kind,
                "state": str(leases[0].state),
                "held": True,
                "pid": os.getpid(),
            }
        )
    else:
        _say.write_numbers(leases.ports)
    if sys.stderr.isatty() and not as_json:
        states = ", ".join(f"{one.port} is {one.state}" for one in leases[:1])
        _say.say(f"{states}: can be taken by {_states.WHO_CAN_TAKE_IT[leases[0].state]}")
