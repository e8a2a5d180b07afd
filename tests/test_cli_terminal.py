"""The command on a terminal: what passes through, job control, colours, the progress display."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

import portlease as library
from _cli import CTRL_C, CTRL_Z, HTTP, Terminal, portlease, python
from _need import need
from _processes import status, wait_for

if TYPE_CHECKING:
    from pathlib import Path

# Waits for SIGINT, then asks us, the leader of its process group, for SIGUSR1. Signals that came
# earlier are passed on earlier: a second SIGINT would be there by then.
COUNTS = python("""\
import os, signal, sys
mine = {signal.SIGINT, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, mine)
print("ready", flush=True)
signal.sigwait({signal.SIGINT})
os.kill(os.getpgrp(), signal.SIGUSR1)
signal.sigwait({signal.SIGUSR1})
print("count", 1 + (signal.SIGINT in signal.sigpending()), flush=True)
sys.exit(5)
""")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def _terminals() -> None:
    need.capability("proc")


def test_the_command_has_the_terminal() -> None:
    """Standard input, output and error are the terminal, and the command is at its foreground."""
    source = (
        "import os; print([os.isatty(fd) for fd in (0, 1, 2)], "
        "os.tcgetpgrp(0) == os.getpgrp(), os.get_terminal_size().columns)"
    )
    with Terminal(["run", "--", *python(source)]) as terminal:
        code, seen = terminal.exit_status()
    assert code == 0
    assert "[True, True, True] True 100" in seen


def test_the_command_reads_the_terminal() -> None:
    """What is typed is the command's."""
    with Terminal(["run", "--", *python("print(input('name? ').upper())")]) as terminal:
        terminal.expect("name? ")
        terminal.type("somebody\n")
        terminal.expect("SOMEBODY")
        assert terminal.exit_status()[0] == 0


def test_ctrl_c_reaches_the_command_once() -> None:
    """The terminal sends it; we do not send it again, and the status is the command's."""
    with Terminal(["run", "--", *COUNTS]) as terminal:
        terminal.expect("ready")
        terminal.type(CTRL_C)
        terminal.expect("count 1")
        assert terminal.exit_status()[0] == 5


def test_ctrl_c_ends_a_command_that_does_nothing_about_it() -> None:
    """Status 130, without a traceback of ours."""
    # No shell: `echo ready; sleep 60` may miss a SIGINT right after its echo (dash, also alone).
    wait = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "print('ready', flush=True); signal.pause()"
    )
    with Terminal(["run", "--", *python(wait)]) as terminal:
        terminal.expect("ready")
        terminal.type(CTRL_C)
        code, seen = terminal.exit_status()
    assert code == 130
    assert "Traceback" not in seen


def test_ctrl_c_in_a_client_stops_the_server_too() -> None:
    """The client sees it, the server does not; it is stopped when the client has ended."""
    with Terminal(["run", "--", *HTTP, "--then", *COUNTS]) as terminal:
        terminal.expect("ready")
        terminal.expect("ready")  # the server is, says portlease; then the client says so
        terminal.type(CTRL_C)
        terminal.expect("count 1")
        assert terminal.exit_status()[0] == 5


@pytest.mark.parametrize("command", ["run", "hold"])
def test_ctrl_z_stops_both_and_fg_goes_on(command: str) -> None:
    """Job control: the shell sees us stopped, and the command goes on with us."""
    source = "import os; print('pid', os.getpid(), 'reads', flush=True); print('got', input())"
    with Terminal([command, "--", *python(source)]) as terminal:
        pid = int(terminal.expect(" reads").split()[-2])
        terminal.type(CTRL_Z)
        terminal.expect("[stopped by 20]")
        wait_for(lambda: status(pid, "State").startswith("T"))
        terminal.type("fg\n")
        terminal.type("it back\n")
        terminal.expect("got it back")
        assert terminal.exit_status()[0] == 0


def test_ctrl_c_releases_a_hold() -> None:
    """`portlease hold` at a terminal says what it holds, and ends at Ctrl-C."""
    with Terminal(["hold"]) as terminal:
        seen = terminal.expect("SO_REUSEADDR")
        port = int(re.findall(r"^(\d+)\r$", seen, re.MULTILINE)[0])
        assert f"{port} is OFFERED" in seen
        terminal.type(CTRL_C)
        assert terminal.exit_status()[0] == 130
    assert library.who(port).free


def test_run_tells_its_port_at_a_terminal() -> None:
    """A person wants to know the number; -q does not."""
    with Terminal(["run", "--", "true"]) as terminal:
        assert "true gets port " in terminal.exit_status()[1]
    with Terminal(["run", "-q", "--", "true"]) as terminal:
        assert "port" not in terminal.exit_status()[1]


@pytest.mark.parametrize("command", ["ls", "doctor"])
def test_colours_at_a_terminal_and_none_in_a_pipe(command: str) -> None:
    """NO_COLOR and TERM=dumb are heeded."""
    with library.lease():
        with Terminal([command]) as terminal:
            assert COLOUR.search(terminal.exit_status()[1])
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            with Terminal([command], env=env) as terminal:
                # Bold and dim are no colours (https://no-color.org).
                codes = COLOUR.findall(terminal.exit_status()[1])
            assert not [code for code in codes if re.search(r"[\[;][349]\d", code)]
        assert "\x1b" not in portlease(command).stdout


def test_progress_at_a_terminal_and_none_in_a_pipe() -> None:
    """-n N draws a table anew while they run; in a pipe there is the table at the end alone."""
    words = ["run", "-n", "3", "--", *HTTP, "--then", "true"]
    with Terminal(words) as terminal:
        code, seen = terminal.exit_status()
    assert code == 0
    assert re.search(r"\d starting", seen)
    assert "\x1b[?25l" in seen  # the cursor is hidden while it is drawn
    assert "\x1b[?25h" in seen
    done = portlease(*words)
    assert "\x1b" not in done.stdout + done.stderr
    assert "starting" not in done.stderr


# Listens at once, and answers /health by 503 until a file is there.
SLOW = """\
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists(sys.argv[1]) else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_a_server_that_takes_its_time_is_waited_for_with_a_clock(tmp_path: Path) -> None:
    """On a terminal it is told what is waited for, and for how long; then the line goes."""
    go = tmp_path / "go"
    words = ["run", "--ready", "/health", "--", *python(SLOW), str(go), "--then", "echo", "done"]
    with Terminal(words) as terminal:
        terminal.expect("waiting for GET http://127.0.0.1:")
        terminal.expect("/health: status 503 (")
        assert re.fullmatch(r"\d+\.\d s\)", terminal.expect(" s)"))
        go.touch()
        terminal.expect("is ready on port")
        code, seen = terminal.exit_status()
    assert code == 0
    assert "done" in seen
    assert "\x1b" not in seen
    for env in ({}, {"FORCE_COLOR": "1"}):
        done = portlease(*words, env=env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_long_columns_give_way_and_numbers_do_not() -> None:
    """At 80 columns `ls` shows ports, states and process ids whole; labels wrap, commands end."""
    label = "tests/test_something.py::test_with_a_name_that_is_long[and-its-parameters]"
    with library.lease(label=label) as one:
        with Terminal(["ls"], env={"COLUMNS": "80"}) as terminal:
            seen = COLOUR.sub("", terminal.exit_status()[1])
        assert re.search(rf"^ *{one.port} +tcp +OFFERED +\* +{os.getpid()} ", seen, re.MULTILINE)
    assert max(map(len, seen.splitlines())) <= 80
    assert "…" in seen


def test_waiting_can_be_interrupted_and_be_quiet() -> None:
    """Ctrl-C while it is drawn leaves the terminal as it was; -q and TERM=dumb draw nothing."""
    words = ["run", "--", *python("import signal; signal.pause()"), "--then", "true"]
    with Terminal(words) as terminal:
        terminal.expect("waiting for port ")
        terminal.type(CTRL_C)
        code, seen = terminal.exit_status()
    assert code == 130
    assert "\x1b[?25h" in seen
    words[1:1] = ["--timeout", "0.7"]
    for options, env in ((["-q"], {}), ([], {"TERM": "dumb"})):
        with Terminal(["run", *options, *words[1:]], env=env) as terminal:
            code, seen = terminal.exit_status()
        assert code == 124
        assert "waiting for" not in seen


def test_the_cursor_comes_back_after_ctrl_c() -> None:
    """The progress display leaves the terminal as it was, and nothing runs on."""
    wait = python("import signal; signal.pause()")
    with Terminal(["run", "-n", "2", "--", *HTTP, "--then", *wait]) as terminal:
        terminal.expect("2 client")
        terminal.type(CTRL_C)
        code, seen = terminal.exit_status()
    assert code == 130
    assert "\x1b[?25h" in seen
    assert "stopped" in seen
