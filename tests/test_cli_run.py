"""``portlease run`` with one command, in the foreground."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import portlease as library
from _cli import HTTP, end, line, portlease, python, started
from _need import need, netns_command
from _processes import descendants, wait_for, watched

# Says its name, then what it is told to do by signals, then ends with status 9.
SIGNALLED = """\
import os, signal, sys
seen = []
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, _: seen.append(number))
print(os.getpid(), flush=True)
while not seen:
    signal.sigtimedwait((), 0.01)  # not pause(): a signal just before it would be missed
print([signal.Signals(number).name for number in seen], flush=True)
sys.exit(9)
"""


# --- templates ------------------------------------------------------------------------------------


def test_fills_in_the_port_and_leaves_other_braces() -> None:
    """{port} in the arguments and PORT in the environment; {x}, {{port}} and JSON stay."""
    source = "import os, sys; print(os.environ['PORT'], *sys.argv[1:])"
    done = portlease(
        "run", "--", *python(source), "{port}", "{x}", "{{port}}", '{"p": {port}}', "${port}"
    )
    port = done.stdout.split()[0]
    assert done.stdout.split() == [port, port, "{x}", "{port}", '{"p":', f"{port}}}", "${port}"]
    assert (done.returncode, done.stderr) == (0, "")


def test_named_ports() -> None:
    """--port and --udp: {NAME} and NAME_PORT; each its own number; undeclared names stay."""
    names = ("PORT", "ADMIN_PORT", "DNS_PORT")
    source = f"import os, sys; print(*map(os.environ.get, {names}), *sys.argv[1:])"
    done = portlease(
        "run", "--port", "admin", "--udp", "dns", "--", *python(source), "{admin}", "{dns}", "{no}"
    )
    port, admin, dns, *arguments = done.stdout.split()
    assert len({port, admin, dns}) == 3
    assert arguments == [admin, dns, "{no}"]


def test_environment_is_a_template_too() -> None:
    """-e NAME=VALUE: ports filled in; {host} as well."""
    source = "import os; print(os.environ['PORT'], os.environ['URL'])"
    done = portlease("run", "-e", "URL=http://{host}:{port}/{x}?a=b", "--", *python(source))
    port, url = done.stdout.split()
    assert url == f"http://127.0.0.1:{port}/{{x}}?a=b"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ([], "tcp"),
        (["--udp", "port"], "udp"),
        (["--port", "port"], "tcp"),
        (["--port", "port", "--udp", "port"], "both"),
    ],
)
def test_the_main_port_may_be_udp_or_both(options: list[str], kind: str) -> None:
    """`--udp port` makes {port} itself UDP."""
    (info,) = _leases_seen("run", *options)
    assert info["kind"] == kind


def _leases_seen(*arguments: str) -> list[dict[str, object]]:
    """The leases of the command that runs us, seen from its command."""
    source = """\
import json, os, portlease
mine = [i for i in portlease.leases() if str(i.port) == os.environ["PORT"]]
print(json.dumps([i._asdict() for i in mine]))
"""
    done = portlease(*arguments, "--", *python(source))
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("options", "state"),
    [([], "GUARDED"), (["--how", "step-aside"], "GUARDED"), (["--how", "offer"], "OFFERED")],
)
def test_state_of_the_lease_in_the_foreground(options: list[str], state: str) -> None:
    """Guarded, since a failed bind would go unnoticed; held beside the server with --how offer."""
    (info,) = _leases_seen("run", *options)
    assert info["state"] == state


def test_inside_the_ephemeral_range_the_hold_is_kept() -> None:
    """Where bind(0) might land on a guarded port, it stays offered."""
    everything = (1024, 65535)
    command = netns_command([sys.executable, "-m", "portlease"], ephemeral=everything)
    source = "import portlease; print([str(i.state) for i in portlease.leases()])"
    done = subprocess.run(
        [*command, "run", "--", *python(source)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['OFFERED']\n"
    done = subprocess.run(
        [*command, "run", "--", *python("exit(3)")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "try --how step-aside" in done.stderr


def test_label_and_host() -> None:
    """--label is shown by ls, else the program's name; --host is what is held."""
    (info,) = _leases_seen("run", "--label", "mine", "--host", "127.0.0.2")
    assert (info["label"], info["host"]) == ("mine", "127.0.0.2")
    (info,) = _leases_seen("run")
    assert info["label"] == Path(sys.executable).name


# --- passing through ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 2, 42, 124, 255])
def test_exit_status_passes(status: int) -> None:
    """Whatever it is."""
    assert portlease("run", "--", *python(f"exit({status})")).returncode == status


def test_death_by_a_signal_is_128_and_its_number() -> None:
    """As shells have it."""
    source = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert portlease("run", "--", *python(source)).returncode == 137


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("nosuchcommand", 127, "command not found"),
        ("/etc/passwd", 126, "may not be executed"),
        ("/", 126, "is a directory"),
    ],
)
def test_a_command_that_cannot_run(command: str, status: int, says: str) -> None:
    """127 not found, 126 not executable, as env(1) has it."""
    done = portlease("run", "--", command, "{port}")
    assert (done.returncode, done.stdout) == (status, "")
    assert says in done.stderr


def test_standard_input_passes() -> None:
    """The command reads what we were given, all of it."""
    done = portlease("run", "--", *python("print(input()); print(input())"), stdin="a\nb\n")
    assert done.stdout == "a\nb\n"


def test_output_passes_where_it_belongs() -> None:
    """Its standard output is ours, its standard error is ours; we add nothing to either."""
    done = portlease("run", "--", *python("import sys; print('o'); print('e', file=sys.stderr)"))
    assert (done.stdout, done.stderr) == ("o\n", "e\n")


def test_options_end_where_the_command_begins() -> None:
    """The command's options are its own, with -- and without it."""
    source = "import sys; print(sys.argv[1:])"
    for dashes in ([], ["--"]):
        done = portlease("run", *dashes, *python(source), "-n", "3", "--help", "--")
        assert done.stdout == "['-n', '3', '--help', '--']\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"])
def test_a_signal_to_us_reaches_the_command(name: str) -> None:
    """Once; and the status is what the command makes of it."""
    with started("run", "--", *python(SIGNALLED), name) as run:
        line(run)
        assert end(run, getattr(signal, name)) == (9, f"['{name}']\n", "")


def test_signals_that_come_with_the_commands_end_change_nothing() -> None:
    """Its status is ours: what it did not see any more is no reason to end otherwise."""
    need.capability("subreaper")
    with started(
        "run", "--", *python("print(1, flush=True); input()"), stdin=subprocess.PIPE
    ) as run:
        line(run)
        (keeper,) = descendants(run.pid)[:1]
        (command,) = descendants(keeper)
        run.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, run.pid, os.WSTOPPED | os.WNOWAIT)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM):
            run.send_signal(number)
        with watched([command]) as ended:
            assert run.stdin is not None
            run.stdin.write("\n")
            run.stdin.close()
            run.stdin = None
            assert ended() == []
        run.send_signal(signal.SIGCONT)
        assert end(run) == (0, "", "")


def test_a_command_that_ignores_sigterm_keeps_running() -> None:
    """We end when it does: a wrapper does not know better."""
    source = (
        "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); print(input())"
    )
    with started("run", "--", *python(source), stdin=subprocess.PIPE) as run:
        line(run)
        run.send_signal(signal.SIGTERM)
        run.send_signal(signal.SIGTERM)
        assert run.stdin is not None
        run.stdin.write("still here\n")
        run.stdin.close()
        run.stdin = None
        assert end(run) == (0, "still here\n", "")


def test_what_is_ignored_stays_ignored() -> None:
    """nohup(1) in front of us is in front of the command."""
    nohup = need.program("nohup")
    source = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    done = subprocess.run(
        [nohup, sys.executable, "-m", "portlease", "run", "--", *python(source)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


# --- nothing stays behind -------------------------------------------------------------------------

# Three generations, the last in a session of its own; all print their pids, none ends by itself.
FAMILY = """\
import os, signal, sys
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.write(1, f"{os.getpid()}\\n".encode())
while True:
    signal.pause()
"""


def test_nothing_survives_when_we_are_killed() -> None:
    """SIGKILL to us: the command, its children, a daemon of it end too."""
    with started("run", "--", *python(FAMILY)) as run:
        pids = [int(line(run)) for _ in range(3)]
        with watched(pids) as all_ended:
            end(run, signal.SIGKILL)
            assert all_ended() == []


def test_what_the_command_leaves_behind_is_ended() -> None:
    """A background job of the command does not outlive it, and we do not wait for it."""
    source = """\
import os, signal
pid = os.fork()
if pid == 0:
    os.setsid()
    os.close(1)
    while True: signal.pause()
print(pid)
"""
    with started("run", "--", *python(source)) as run, watched([int(line(run))]) as all_ended:
        assert all_ended() == []
        assert end(run) == (0, "", "")


def test_an_interrupt_ends_a_background_job_that_ignores_it() -> None:
    """What a shell starts in the background ignores SIGINT; it is asked by SIGTERM, at once."""
    server = shlex.join([sys.executable, "-m", "http.server"])
    with (
        started("run", "--", "sh", "-c", f"{server} {{port}} 2>/dev/null & echo $!") as run,
        watched([int(line(run))]) as all_ended,
    ):
        assert run.stderr is not None
        assert "has gone into the background" in run.stderr.readline()
        status, _, err = end(run, signal.SIGINT)
        assert all_ended() == []
    assert (status, err) == (130, "")


def test_a_daemon_that_serves_the_port_keeps_its_lease(tmp_path: Path) -> None:
    """`redis-server --daemonize yes` ends at once, and is served until it is told to end."""
    redis = need.program("redis-server")
    words = (redis, "--port", "{port}", "--save", "", "--dir", str(tmp_path), "--daemonize", "yes")
    with started("run", "--", *words) as run:
        assert run.stderr is not None
        assert "has gone into the background" in run.stderr.readline()
        (info,) = _leases_of(run.pid)
        with watched(_listening_on(info.port)) as all_ended:
            status, _, _ = end(run, signal.SIGTERM)
            assert all_ended() == []
    assert status == 128 + signal.SIGTERM
    assert library.who(info.port).free


def test_a_signal_while_the_command_goes_into_the_background_is_not_lost() -> None:
    """It reaches a command that has just ended: then its daemon is not waited for."""
    source = """\
import os, signal, socket, time
server = socket.create_server(("", int(os.environ["PORT"])))
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
    signal.pause()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    signal.sigtimedwait((), 0.01)  # not pause(): a signal just before it would be missed
"""
    with started("run", "--", *python(source)) as run, watched([int(line(run))]) as all_ended:
        assert end(run, signal.SIGTERM)[0] == 0
        assert all_ended() == []


def _leases_of(pid: int) -> list[library.LeaseInfo]:
    return [info for info in library.leases() if info.pid == pid]


def _listening_on(*ports: int) -> list[int]:
    occupants = [one for port in ports for one in library.who(port).occupants]
    return sorted({p.pid for one in occupants if one.kind == "listener" for p in one.processes})


# --- real servers ---------------------------------------------------------------------------------


def test_a_server_without_reuseaddr_needs_no_flag() -> None:
    """A bare bind(2) gets the port that was leased for it."""
    source = """\
import os, socket
server = socket.socket()
server.bind(("", int(os.environ["PORT"])))
server.listen()
print("up")
"""
    done = portlease("run", "--", *python(source))
    assert (done.returncode, done.stdout, done.stderr) == (0, "up\n", "")


def test_socat_needs_no_flag() -> None:
    """Socat without `reuseaddr`, in the foreground."""
    socat = need.program("socat")
    with started("run", "--", socat, "TCP-LISTEN:{port}", "EXEC:cat") as run:
        wait_for(lambda: _listening_on(*(info.port for info in _leases_of(run.pid))))
        (info,) = _leases_of(run.pid)
        with socket.create_connection(("127.0.0.1", info.port)) as client:
            client.sendall(b"echo")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(16) == b"echo"
        assert end(run) == (0, "", "")


def test_many_runs_at_once_get_different_ports() -> None:
    """Runs of the same moment do not meet."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "portlease", "run", "--", *python("input()")],
            stdin=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    pids = {run.pid for run in runs}
    try:
        wait_for(lambda: len([i for i in library.leases() if i.pid in pids]) == len(pids))
        ports = [info.port for info in library.leases() if info.pid in pids]
        assert len(set(ports)) == len(pids)
    finally:
        for run in runs:
            run.communicate("\n")


# --- readiness in the foreground ------------------------------------------------------------------


def test_not_ready_in_time_is_status_124() -> None:
    """--timeout: a command that never listens is stopped."""
    done = portlease("run", "--timeout", "0.2", "--", *python("import signal; signal.pause()"))
    assert (done.returncode, done.stdout) == (124, "")
    assert "does not listen" in done.stderr
    assert "--timeout" in done.stderr


def test_ready_in_the_foreground_is_told_as_json() -> None:
    """--json: a line for each event, on standard error."""
    with started(
        "run", "--json", "--ready", "/", "--port", "admin", "--wait-for", "port", "--", *HTTP
    ) as run:
        assert run.stderr is not None
        first = json.loads(run.stderr.readline())
        assert first["event"] == "started"
        assert set(first["ports"]) == {"port", "admin"}
        while '"event"' not in (text := run.stderr.readline()):
            pass  # the server's own words
        ready = json.loads(text)
        assert ready["event"] == "ready"
        assert [ready["pid"]] == _listening_on(first["ports"]["port"])
        status, _, err = end(run, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert json.loads(err.splitlines()[-1]) == {"event": "ended", "status": status}


def test_interrupted_while_it_starts() -> None:
    """SIGTERM before it is ready stops it, with status 143."""
    with (
        started("run", "--timeout", "60", "--", *python(SIGNALLED), "SIGUSR1") as run,
        watched([int(line(run))]) as all_ended,
    ):
        status, _, err = end(run, signal.SIGTERM)
        assert all_ended() == []
    assert status == 143
    assert re.search(r"was not ready yet; still waited for (port \d+|its start)", err), err


def test_quiet_in_a_pipe_without_being_told() -> None:
    """Nothing of ours is mixed into a pipe, unless --verbose asks for it."""
    assert portlease("run", "--", *python("")).stderr == ""
    told = portlease("run", "-v", "--", *python("")).stderr
    assert told.startswith(f"portlease: {sys.executable} gets port ")


def test_hints_for_who_asks() -> None:
    """A name that was not declared, and a port that nothing but PORT tells the command."""
    told = portlease("run", "-v", "--", *python(""), "{admin}").stderr
    assert "say --port admin" in told
    assert "nothing but PORT tells it" in told
    assert "nothing but PORT" not in portlease("run", "-v", "--", *python(""), "{port}").stderr


def test_a_misspelt_template_is_told_when_it_fails() -> None:
    """Not only with --verbose; and not at all if nothing failed."""
    failed = portlease("run", "--", *python("exit(3)"), "{prt}")
    assert failed.returncode == 3
    assert failed.stderr == (
        "portlease: {prt} stays as it is; did you mean {port}? if it is to be a port, say --port "
        "prt\n"
    )
    assert portlease("run", "-v", "--", *python("exit(3)"), "{prt}").stderr.count("{prt}") == 1
    failed = portlease("run", "--", *python("exit(3)"), "{PORT}")
    assert failed.stderr == "portlease: {PORT} stays as it is; did you mean {port}?\n"
    assert portlease("run", "--", *python(""), "{prt}").stderr == ""


def test_a_command_line_in_one_argument() -> None:
    """Not "install it": the words are to be written apart; before anything is started."""
    for words in (["true {port}"], ["true {port}", "--then", "true"], ["true", "--then", "a {b}"]):
        done = portlease("run", "--", *words)
        assert (done.returncode, done.stdout) == (127, "")
        assert "is one argument with blanks" in done.stderr
        assert "write the words apart: " in done.stderr


def test_a_program_may_have_blanks_in_its_name(tmp_path: Path) -> None:
    """One that is there is run."""
    program = tmp_path / "my server"
    program.write_text("#!/bin/sh\necho found\n", encoding="ascii")
    program.chmod(0o755)
    done = portlease("run", "--", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "found\n", "")


def test_arguments_that_are_no_text_pass() -> None:
    """Bytes that are no UTF-8 reach the command as they are."""
    source = "import os, sys; print(os.fsencode(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-m", "portlease", "run", "--", *python(source), b"a\xffb{port}"[:3]],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"b'a\\xffb'\n"


def test_our_working_directory_is_the_commands() -> None:
    """It is not moved elsewhere."""
    done = portlease("run", "--", *python("import os; print(os.getcwd())"))
    assert done.stdout == f"{os.getcwd()}\n"  # noqa: PTH109 - the very same text


# --- where there is neither a keeper nor sigwaitinfo(2) -------------------------------------------

# As on macOS: the same command, with what that system's branches are made of.
ELSEWHERE = """\
import sys
from portlease._tree import _process
from portlease.cli import _signals, main
_process._keeper_is_possible = lambda: False
_signals._follow = lambda process, _: _signals._follow_roughly(process)
_signals.hold_back = set
sys.exit(main(sys.argv[1:]))
"""


def test_elsewhere_status_and_signals_pass_too() -> None:
    """Without a keeper and without sigwaitinfo: SIGTERM reaches the command, its status us."""
    with subprocess.Popen(
        [*python(ELSEWHERE), "run", "--", *python(SIGNALLED), "SIGTERM"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        line(run)
        assert end(run, signal.SIGTERM) == (9, "['SIGTERM']\n", "")


def test_elsewhere_a_client_is_run_too() -> None:
    """The whole of --then."""
    done = subprocess.run(
        [*python(ELSEWHERE), "run", "--", *HTTP, "--then", *python("print('done'); exit(3)")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "done\n")
