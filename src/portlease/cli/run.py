"""``portlease run``: a command on leased ports, alone, with a client, or many side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
import sys
import time
from typing import TYPE_CHECKING

import click

from portlease._errors import PortleaseError, UsageError
from portlease._server import _check, _template
from portlease.cli import (
    _env_file,
    _foreground,
    _lookup,
    _names,
    _options,
    _pair,
    _say,
    _signals,
    _status,
    _told,
)
from portlease.cli._names import Names
from portlease.cli._plan import TIMEOUT_S, Plan
from portlease.cli._started import StartedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portlease._server._check import Ready
    from portlease._server._command import How
    from portlease._server._server import Server

_THEN = "--then"
_PORTSERVER = "PORTSERVER_ADDRESS"
_TELLS_IT = {_template.PORT, _template.FD}

_HELP = """\
Run a command on a port that is leased for it.

\b
  portlease run -- python3 -m http.server {port}
  portlease run -e URL=http://127.0.0.1:{port} -- npm start
  portlease run --port admin -- ./server --port {port} --admin {admin}
  portlease run -- redis-server --port {port} --then redis-cli -p {port} ping
  portlease run --ready /health -- ./server {port} --then ./test {port}
  portlease run -n 8 -- ./server {port} --then ./test http://127.0.0.1:{port}
  portlease run --how broker -- ./server-without-reuseaddr {port}
  portlease run -- ./server --listen-fd {fd} --then ./test {port}
  portlease run --portserver -- bazel test //...
  portlease run --env-file .env --port WEB --port DB -- docker compose up

In the arguments and in the values of -e, {port} is the number, {NAME} that of a further port that
--port or --udp names, and {host} the address to bind, 127.0.0.1 unless --host says otherwise. {fd}
and {NAME_fd} are the descriptors of sockets that listen already and are handed over. Other braces
stay as they are; {{port}} is the text {port}. PORT and NAME_PORT are set in the environment; a name
in upper case (--port WEB) is a variable of its own, too.

Alone, the command runs in the foreground: the terminal, standard input and output, signals and
Ctrl-C are its own, and so is the exit status. What it leaves running in the background is ended
when it ends; a daemon that serves the port (within 2 s, or --timeout) keeps its lease until it
ends.

With --then, the server runs in the background, its output kept: the client is started, in the
foreground, once the server's own socket listens; then the server is stopped, and the exit status is
the client's. What the server wrote is shown if something failed, or with --verbose.

With -n, so many servers, or servers with their clients, run side by side, each on ports of its own,
with a table of them in the end; the exit status is the highest one. Without clients, the ports are
printed once all are ready, and the servers run until Ctrl-C.

How it gets its port is chosen for it; --verbose tells how, and why. A server that is known to take
a socket is handed one. Any other binds beside the hold, which takes SO_REUSEADDR; if it proves not
to set that, the lease steps aside and it is started once more. A command alone, of which nobody
sees why it fails, has its port GUARDED from the start: free for any server, kept from every other
lease. --how hand-over sets LISTEN_FDS for it, as systemd does; with --how broker its bind(2) is
done for it, so that the port is held all the time whatever the server is like (Linux; sudo and su
do not work below it).

--env-file writes the variables into a file as well, for whoever reads such: docker compose, dotenv,
direnv, `. ./.env.ports`. It is there before the command starts and gone when it has ended; a file
that portlease has not written is left alone, unless --force is said. Where a daemon binds the ports
(docker compose, systemd-run), --elsewhere makes --then wait until anybody listens on them.

--portserver serves ports to whatever the command starts, for as long as it runs: portpicker, Bazel
and C++ suites ask for them at PORTSERVER_ADDRESS.

\b
--json: with --then or -n, one document on standard output, with the clients'
output and errors in it; otherwise a line for each event on standard error.

\b
Exit status: the command's, or the client's; 128+N if signal N ended it;
  124 not ready in time, 126 cannot be executed, 127 not found, 125 no port,
  or the server ended with 0 before it was ready.
"""


class _Run(click.Command):
    """Knows the mistake that is easily made."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with a better hint than "no such option"."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if _THEN not in given:
                raise
            raise click.UsageError(
                f"{error.format_message().rstrip('.')}; if it is the client's, write -- COMMAND "
                f"ARGS... {_THEN} CLIENT ARGS..., or quote the client: {_THEN} 'CLIENT ARGS...'",
                ctx,
            ) from None


@click.command(
    "run",
    cls=_Run,
    help=_HELP,
    short_help="Run a command on a leased port.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--port",
    "tcp_names",
    multiple=True,
    type=_options.PortName(),
    metavar="NAME",
    help="Lease a further TCP port, {name} and NAME_PORT; a NAME in upper case is a variable, too. "
    "May be repeated.",
)
@click.option(
    "--udp",
    "udp_names",
    multiple=True,
    type=_options.PortName(),
    metavar="NAME",
    help="The same for UDP; `--udp port` makes {port} itself UDP, and with `--port port` both.",
)
@click.option(
    "--unix",
    "unix_names",
    multiple=True,
    type=_options.PortName(),
    metavar="NAME",
    help="Make a path for a Unix socket, {NAME}, and NAME_PATH in the environment. May be "
    "repeated.",
)
@click.option(
    "-e",
    "--env",
    multiple=True,
    type=_options.Assignment(),
    metavar="NAME=VALUE",
    help="Set a variable for the command and the client; {port} is filled in. May be repeated.",
)
@click.option(
    "--ready",
    multiple=True,
    metavar="PATH|CMD",
    help="Ready only when GET /PATH (or http://{host}:{admin}/PATH) is answered by 2xx or 3xx, or "
    "when CMD, a shell's words, exits with 0. It must listen first in any case. May be repeated.",
)
@click.option(
    "--ready-log",
    multiple=True,
    metavar="PATTERN",
    help="Ready only when this regular expression is found in what it has written. Not for a "
    "command alone, whose output is the terminal's. May be repeated.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=_options.Seconds(min=0),
    callback=_options.a_number,
    metavar="S",
    help=f"Seconds until it must be ready; {TIMEOUT_S:g} by default. Alone, it must be ready at "
    "all only with this or --ready.",
)
@click.option(
    "--wait-for",
    multiple=True,
    type=_options.PortName(),
    metavar="NAME",
    help="It is ready when it listens on these; by default on all of its ports. May be repeated.",
)
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=_options.Seconds(min=0),
    callback=_options.a_number,
    default=_foreground.STOP_TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Seconds from SIGTERM to SIGKILL when it is stopped.",
)
@click.option("--then", "then", metavar="'CLIENT ARGS'", help="The client, as a shell's words.")
@_options.count("So many of them, side by side.")
@_options.where
@_options.label
@_options.any_how
@click.option(
    "--env-file",
    metavar="FILE",
    help="Write the variables into a file as well, for docker compose and others that read one; "
    "it is there before the command starts, and gone when it has ended.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE, whoever has written it.")
@click.option(
    "--elsewhere",
    is_flag=True,
    help="Its servers are somebody else's, as docker compose's are dockerd's: ready when anybody "
    "listens on the ports that are named.",
)
@click.option(
    "--portserver",
    is_flag=True,
    help="Serve ports to whatever the command starts: PORTSERVER_ADDRESS, as portpicker, Bazel and "
    "C++ suites ask for them; see `portlease portserver --help`.",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell more, and show the server's output.")
@click.option("-q", "--quiet", is_flag=True, help="Tell of errors only.")
@_options.as_json
@click.argument(
    "words",
    metavar="-- COMMAND ARGS... [--then CLIENT ARGS...]",
    nargs=-1,
    type=click.UNPROCESSED,
)
def command(  # noqa: PLR0913 - its options
    *,
    tcp_names: tuple[str, ...],
    udp_names: tuple[str, ...],
    unix_names: tuple[str, ...],
    env: tuple[tuple[str, str], ...],
    ready: tuple[str, ...],
    ready_log: tuple[str, ...],
    timeout_s: float | None,
    wait_for: tuple[str, ...],
    stop_timeout_s: float,
    then: str | None,
    n: int,
    host: str | None,
    ports: tuple[int, ...] | None,
    label: str | None,
    how: How | None,
    verbose: bool,
    env_file: str | None,
    force: bool,
    elsewhere: bool,
    portserver: bool,
    quiet: bool,
    as_json: bool,
    words: tuple[str, ...],
) -> int:
    """Sort out what is to be run, and run it."""
    _options.must_be_given(words)
    names = Names(tcp_names, udp_names, unix_names)
    server, client = _split(
        tuple(map(names.in_templates, words)), then and names.in_templates(then)
    )
    if force and env_file is None:
        raise click.UsageError("--force is for --env-file, and there is none")
    if env_file is not None and n > 1:
        raise click.UsageError(
            f"one file cannot tell {n} servers' ports; leave -n or --env-file out"
        )
    if elsewhere and how in {"broker", "hand-over"}:
        raise click.UsageError(
            f"--how {how} reaches the command's own processes, and with --elsewhere others bind"
        )
    if ready_log and n == 1 and not client:
        raise click.UsageError(
            "--ready-log reads what the command writes, and alone it writes to our terminal or "
            "pipe; give it a client (--then)"
        )
    plan = Plan(
        server=server,
        client=client,
        kinds=names.kinds,
        env=names.variables | {name: names.in_templates(text) for name, text in env},
        host=host,
        ports=ports,
        label=label,
        how=how,
        ready=_ready(map(names.in_templates, ready), ready_log),
        wait_for=tuple(map(_names.in_lower_case, wait_for)) or None,
        timeout_s=timeout_s,
        stop_timeout_s=stop_timeout_s,
        n=n,
        verbose=verbose,
        quiet=quiet,
        as_json=as_json,
        elsewhere=elsewhere,
    )
    # What can never work is found out before anything is started.
    plan.command(foreground=n == 1 and not client)
    with contextlib.ExitStack() as stack:
        if portserver:
            plan = _with_portserver(plan, stack)
        if env_file is not None:
            plan = _with_env_file(plan, stack, env_file, force=force)
        return _run(plan)


def _with_portserver(plan: Plan, stack: contextlib.ExitStack) -> Plan:
    """A port server for as long as the command lives, and the command told of it."""
    if _PORTSERVER in plan.env:
        raise UsageError(f"-e {_PORTSERVER} and --portserver are two of them; leave one out")
    if sys.platform != "linux":
        raise UsageError(f"a port server needs pidfds, which {sys.platform} does not have")
    from portlease import _portserver

    # Signals are for the main thread: the server's gets our mask as it starts.
    before = _signals.hold_back()
    try:
        address = stack.enter_context(
            _portserver.serving(tell=_say.say if plan.verbose else None, refused=_say.say)
        )
    finally:
        _signals.let_go(before)
    if plan.talks:
        _say.say(f"serves ports to {plan.server[0]} and its children at {_PORTSERVER}={address}")
    return dataclasses.replace(plan, env={**plan.env, _PORTSERVER: address}, portserver=address)


def _with_env_file(plan: Plan, stack: contextlib.ExitStack, path: str, *, force: bool) -> Plan:
    """The file that is to tell its ports: can it be written, and say what it is to say?"""
    ports = {name: 1 for name, kind in plan.kinds.items() if kind != "unix"}
    _env_file.text(plan.variables(ports, "127.0.0.1", {}))
    file = stack.enter_context(_env_file.EnvFile(path, force=force))
    return dataclasses.replace(plan, env_file=file)


def _run(plan: Plan) -> int:
    for given in filter(None, (plan.server, plan.client)):
        _lookup.must_be_apart(given, plan.filled(given)[1])
    for words in (plan.client, *(one for one in plan.ready if isinstance(one, (list, tuple)))):
        if words and not _template.names_in(words[:1]):
            _lookup.must_be_there(*plan.filled(tuple(words)))
    for hint in plan.hints() if plan.verbose else ():
        _say.say(hint)
    if plan.n > 1 or (plan.as_json and plan.client):
        from portlease.cli import _many

        return _hinted(plan, _many.run)
    if plan.client:
        return _hinted(plan, _pair.run)
    try:
        status = _alone(plan)
    except _signals.Interrupted as interrupted:
        _tell_ended(plan, _status.of_signal(interrupted.signal))
        raise
    except PortleaseError as error:
        _told.hints(plan)
        _tell_ended(plan, _status.of_error(error))
        raise
    _tell_ended(plan, status)
    return status


def _hinted(plan: Plan, run: Callable[[Plan], int]) -> int:
    """Run it, and say what may be wrong with the templates if it fails."""
    try:
        status = run(plan)
    except PortleaseError:
        _told.hints(plan)
        raise
    if status not in {_status.OK, _status.of_signal(_status.SIGINT)}:
        _told.hints(plan)
    return status


def _split(words: Sequence[str], then: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The server's words and the client's."""
    if then is not None:
        client = tuple(_shell_words(then))
        server = tuple(words)
    elif _THEN in words:
        at = words.index(_THEN)
        server, client = tuple(words[:at]), tuple(words[at + 1 :])
        if client[:1] == ("--",):  # some write it there, too
            client = client[1:]
    else:
        return tuple(words), ()
    if not client:
        raise click.UsageError(f"there is no client behind {_THEN}")
    if not server:
        raise click.UsageError(f"there is no command before {_THEN}")
    return server, client


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise click.UsageError(f"{_THEN} {text!r} are no shell words: {error}") from error


def _ready(texts: Iterable[str], patterns: Iterable[str]) -> tuple[Ready, ...]:
    found: list[Ready] = []
    for pattern in patterns:
        try:
            found.append(re.compile(pattern, re.MULTILINE))
        except re.error as error:
            raise UsageError(
                f"--ready-log {pattern!r} is no regular expression: {error}"
            ) from error
    return (*found, *map(_check.of_text, texts))


# --- alone ----------------------------------------------------------------------------------------


def _alone(plan: Plan) -> int:
    """In the foreground, for as long as it runs; stopped if it must be ready in time and is not."""
    with _signals.interrupting(), plan.all_leases() as leases:
        begun = time.monotonic()
        numbers = {name: lease.port for name, lease in leases.items()}
        if plan.talks:
            _tell_ports(plan, numbers)
        if plan.as_json and plan.is_timed:
            started = {"event": "started", "ports": numbers, **plan.said_of_portserver()}
            _say.tell_json(started)
        # A signal that comes while the command starts is for the command; but one that is waited
        # for is not the command's alone.
        before = None if plan.is_timed else _signals.hold_back()
        try:
            server = StartedServer(plan, plan.command(foreground=True), leases=leases)
        except BaseException:
            if before is not None:
                _signals.let_go(before)
            raise
        try:
            _tell_up(plan, server, numbers)
            status = _foreground.see_out(
                server.process,
                begun,
                _signals.hold_back() if before is None else before,
                ports=numbers.values(),
                grace_s=plan.stop_timeout_s,
                if_failed=[*_of_the_lease(plan, server), *(() if plan.verbose else plan.hints())],
            )
        finally:
            server._shut()  # whom it took SIGKILL to end is told
        _told.troubles(plan, server)
    return status


def _of_the_lease(plan: Plan, server: Server) -> list[str]:
    """Why it may have failed to bind its port: nobody sees what it writes."""
    was = f"the lease of port {server.lease.port} was {server.lease.state} (how: {server.how})"
    if server.how == "offer" and plan.how is None:
        was += (
            ", since there was no port outside the ephemeral range; if it could not bind its "
            "port, try --how step-aside"
        )
    elif server.how == "offer":
        was += (
            ": only a server that sets SO_REUSEADDR binds beside it; if it does not, leave --how "
            "out, or say --how step-aside"
        )
    elif server.how == "hand-over" and plan.how is not None:
        why = _say.for_the_command_line(server.why)
        was += f": {why}; if it takes no socket, leave --how out, or say --how offer"
    else:
        return []
    return [was]


def _tell_ports(plan: Plan, ports: Mapping[str, int]) -> None:
    told = "" if plan.templates() & _TELLS_IT else ", which nothing but PORT tells it"
    _say.say(f"{plan.server[0]} gets port {_say.ports(ports)}{told}")


def _tell_up(plan: Plan, server: Server, ports: Mapping[str, int]) -> None:
    """It has been executed; it is ready, if that was asked for."""
    after_s = server.ready_after_s
    if plan.as_json:
        started = {"event": "started", "ports": ports, **plan.said_of_portserver()}
        event = {"event": "ready"} if plan.is_timed else started
        after = {"after_s": round(after_s, 4)} if plan.is_timed else {}
        _say.tell_json(
            {
                **event,
                "paths": server.paths,
                "pid": server.process.pid,
                "how": server.how,
                "why": _say.for_the_command_line(server.why),
                **after,
            }
        )
    if plan.talks and plan.is_timed:
        _say.say(f"{plan.server[0]} is ready after {after_s:.2f} s")
    if plan.verbose:
        _told.how(server)


def _tell_ended(plan: Plan, status: int) -> None:
    if plan.as_json:
        _say.tell_json({"event": "ended", "status": status})
