"""``portlease isolate``: a command in a network of its own."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from portlease.cli import _options, _say, _status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from portlease._isolate._command import Reach

_HELP = """\
Run a command in a network of its own, so that any number of them may use the same ports.

\b
  portlease isolate -- pytest                 hard-codes 8080? so may the next
  portlease isolate --reach 5432 -- pytest    with the host's PostgreSQL
  portlease isolate --reach db.example:5432 -- go test ./...
  portlease isolate --low-ports -- ./server -p 80  as an ordinary user
  portlease isolate --outside -- npm test     with DNS and the internet
  portlease isolate --check                   can it be had here? why not?

The command itself is what runs: its process id is the one that was started, and user, files,
directory, environment, terminal, signals, Ctrl-C and exit status are its own. Nothing is left of
portlease once it has begun, and nothing of the network once it and its children have ended.

\b
Inside there are
  127.0.0.1, ::1 and this machine's own addresses, every port of them free;
  multicast and broadcast of IPv4, which stay inside;
  Unix sockets that have a path, and all files, as outside.
Not inside are
  the services of this machine's loopback: name each with --reach;
  other hosts, and DNS: --outside, or --reach HOST:PORT;
  abstract Unix sockets (@name) of others;
  for ordinary users: sudo, su, ping and whatever needs another user's rights.

--reach leads a TCP port of that address inside to the same one outside, by a small process that
ends with the command. Only the network is private: a fixed path, a shared database or the load of
the machine is not.

Linux: as root, or as anybody where user namespaces are allowed. Where not, it says why, and what
to do about it, and the command is not run: exit status 125. --if-possible runs it all the same, in
the shared network, and warns.

\b
Exit status: the command's; 125 no network of its own is to be had,
  126 the command cannot be executed, 127 not found, 2 a wrong --reach.
"""


@click.command(
    "isolate",
    help=_HELP,
    short_help="Run a command in a network of its own.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--reach",
    multiple=True,
    metavar="HOST:PORT",
    help="A TCP service that stays reachable under its address: localhost:5432, 5432 (of "
    "127.0.0.1), [::1]:5432, 10.0.0.5:5432. May be repeated.",
)
@click.option("--low-ports", is_flag=True, help="Ports below 1024 for ordinary users.")
@click.option(
    "--outside", is_flag=True, help="DNS and outgoing connections, by pasta (package passt)."
)
@click.option(
    "--if-possible", is_flag=True, help="Warn and share the network where there can be none."
)
@click.option("--check", is_flag=True, help="Only try whether it is to be had, and say why not.")
@click.option("-q", "--quiet", is_flag=True, help="Do not tell what is out of reach inside.")
@_options.as_json
@click.argument("words", metavar="-- COMMAND ARGS...", nargs=-1, type=click.UNPROCESSED)
def command(  # noqa: PLR0913 - its options
    *,
    reach: tuple[str, ...],
    low_ports: bool,
    outside: bool,
    if_possible: bool,
    check: bool,
    quiet: bool,
    as_json: bool,
    words: tuple[str, ...],
) -> int:
    """Become the command, or only try."""
    from portlease._isolate import _command

    reached = tuple(_command.parse(one) for one in reach)
    if check:
        if words:
            raise click.UsageError("--check runs no command; leave one of them out")
        return _check(reach, low_ports=low_ports, outside=outside, as_json=as_json)
    _options.must_be_given(words)
    if as_json:
        raise click.UsageError("--json goes with --check; otherwise the output is the command's")
    if sys.platform == "linux":
        argv = _command.build(
            words,
            low_ports=low_ports,
            reach=reached,
            outside=outside,
            if_possible=if_possible,
            say="" if quiet else notice(words[0], reached, outside=outside),
        )
        if not quiet:
            for line in hints(reached, os.environ, outside=outside):
                _say.say(line)
        _become(argv)
    return _elsewhere(words, if_possible=if_possible)


if sys.platform == "linux":

    def _become(argv: list[str]) -> NoReturn:
        """Execute the helper, without what Python has put into our environment."""
        from portlease._isolate import _enter

        _say.flush()
        os.execve(argv[0], argv, _enter.original_environment())  # noqa: S606 - no shell is wanted


def _check(reach: Sequence[str], *, low_ports: bool, outside: bool, as_json: bool) -> int:
    from portlease._errors import IsolationUnavailableError
    from portlease._isolate import RIGHTS, require

    try:
        how = require(low_ports=low_ports, reach=reach, outside=outside)
    except IsolationUnavailableError as error:
        if not as_json:
            raise
        _say.write_json({"available": False, "reason": error.reason, "remedy": error.remedy})
        return _status.FAILED
    if as_json:
        _say.write_json({"available": True, "how": how})
    else:
        _say.write(f"a network of one's own is to be had, {RIGHTS[how]}\n")
    return _status.OK


def _elsewhere(words: Sequence[str], *, if_possible: bool) -> NoReturn:
    from portlease._isolate import _require, _why

    error = _require.unavailable(*_why.elsewhere(sys.platform))
    if not if_possible:
        raise error
    _say.say(f"{words[0]} shares the network of this machine: {error.reason}")
    os.execvp(words[0], list(words))  # noqa: S606 - no shell is wanted


# --- what cannot work inside ----------------------------------------------------------------------


def notice(program: str, reach: Sequence[Reach], *, outside: bool) -> str:
    """What is to be said before the command runs, a sentence."""
    led = ", ".join(f"{one.host}:{one.port}" for one in reach)
    what = f"{os.path.basename(program)} gets a network of its own"
    if outside:
        what += ", with DNS and outgoing connections"
    what += f"; of this machine it reaches {led}, and no" if led else "; out of its reach: the"
    what += " other service on its loopback" if led else " services on this machine's loopback"
    if not outside:
        what += ", nor other hosts and DNS" if led else ", other hosts, DNS"
    what += ", nor abstract Unix sockets" if led else ", abstract Unix sockets"
    return what


# A loopback address with a port, in the value of a variable: DATABASE_URL, http_proxy, ...
_LOOPBACK: Final = re.compile(
    r"(?<![\w.])(localhost|127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})(?![\d.\w])"
)


def hints(reach: Sequence[Reach], env: Mapping[str, str], *, outside: bool) -> list[str]:
    """What of the environment will lead nowhere inside, and what of *reach* is not there."""
    found = []
    led = {one.port for one in reach if one.is_loopback}
    for name in sorted(env):
        for host, number in _LOOPBACK.findall(env[name]):
            if int(number) not in led:
                found.append(
                    f"{name} leads to {host}:{number}, which is another's inside; if it is a "
                    f"service of this machine, say --reach {host}:{number}"
                )
    if outside and (server := _dns_on_loopback()) is not None:
        found.append(
            f"this machine's DNS server is on its loopback ({server}), so no name can be looked up "
            "inside"
        )
    for one in reach:
        if one.is_a_name and not outside:
            found.append(
                f"{one.host} can be looked up inside only if /etc/hosts has it; otherwise say "
                f"{one.addresses[0]}"
            )
        elif not _somebody_listens(one):
            found.append(f"nobody listens on {one.host}:{one.port} now")
    return found


def _dns_on_loopback() -> str | None:
    """The first server in resolv.conf(5), if all of them are there."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            words = [line.split() for line in file]
    except FileNotFoundError:
        return None
    servers = [line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1]
    on_loopback = [one for one in servers if one == "::1" or one.startswith("127.")]
    return servers[0] if servers and servers == on_loopback else None


def _somebody_listens(one: Reach) -> bool:
    """Of this machine's loopback, by its socket table; of other hosts it is not tried."""
    if sys.platform != "linux":
        return True
    from portlease._errors import PortleaseError
    from portlease._platform import _linux_diag

    if not one.is_loopback:
        return True
    try:
        return bool(_linux_diag.survey(one.port, "tcp", states={"LISTEN"}).entries)
    except PortleaseError:  # the tables are hidden here
        return True
