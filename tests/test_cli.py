"""What all commands have in common: help, completion, exit statuses, pipes, bad input."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import portlease as library
from _cli import PORTLEASE, environment, portlease
from _need import need
from portlease import cli
from portlease.cli import _say, _status

COMMANDS = (
    *("run", "get", "hold", "ls", "who", "recipe"),
    *("repeat", "isolate", "audit", "lint"),
    *("portserver", "doctor", "completion"),
)


def test_version() -> None:
    """--version tells the package's version."""
    done = portlease("--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, library.__version__)


def test_help_lists_every_command_and_every_exit_status() -> None:
    """`portlease --help` is where a newcomer learns what there is."""
    done = portlease("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    for status in ("0", "1", "2", "124", "125", "126", "127", "128+N"):
        assert f"    {status}  " in done.stdout
    assert "_PORTLEASE_COMPLETE=bash_source portlease" in done.stdout


def test_alone_it_prints_its_help_and_is_content() -> None:
    """Without a command it is a question, not a wrong call: standard output, status 0."""
    done = portlease()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == portlease("--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_teaches_with_an_example(name: str) -> None:
    """Each command's help shows how it is called."""
    done = CliRunner().invoke(cli.app, [name, "--help"])
    assert done.exit_code == 0
    assert f"  portlease {name}" in done.output or f"$(portlease {name}" in done.output
    assert done.output == CliRunner().invoke(cli.app, [name, "-h"]).output


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns(name: str) -> None:
    """No example of a command's help is broken by a terminal of the usual width."""
    done = portlease(*filter(None, [name]), "--help", env={"COLUMNS": "80"})
    assert [row for row in done.stdout.splitlines() if len(row) > 80] == []


def test_get_help_says_what_is_not_promised() -> None:
    """A number that `get` has printed is not held any more, and its help says so."""
    text = " ".join(CliRunner().invoke(cli.app, ["get", "--help"]).output.split())
    assert "it is held by nobody once this command has ended" in text
    assert "portlease run --" in text
    assert "portlease hold" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "portlease: no such command 'nosuch'; there are run, get, hold, "),
        (["rn"], "portlease: no such command 'rn'; did you mean run?"),
        (["--nosuch"], "portlease: no such option"),
        (["get", "--nosuch"], "portlease get: no such option"),
        (["get", "-n", "0"], "'-n'"),
        (["get", "-n", "x"], "'x' is not a valid whole number"),
        (["get", "--ports", "0"], "names no ports from 1 to 65535"),
        (["get", "--ports", "1-99999999999"], "names no ports"),
        (["get", "--ports", "9000-8000"], "runs backwards"),
        (["get", "--ports", "http"], "is no list of ports"),
        (["get", "--offsets", "a"], "is no list of offsets"),
        (["get", "-n", "2", "--offsets", "0,1"], "overlap"),
        (["get", "--host", "192.0.2.1"], "no address of this machine"),
        (["get", "--host", "nosuch.invalid"], "not known here"),
        (["who"], "'PORT'"),
        (["who", "0"], "'PORT'"),
        (["who", "65536"], "'PORT'"),
        (["who", "http"], "'PORT'"),
        (["who", "localhost:80"], "'localhost:80' is no number; leave out 'localhost:'"),
        (["who", "http://[::1]:80/"], "leave out 'http://[::1]:'"),
        (["hold", "8123"], "to hold port 8123 itself: --ports 8123"),
        (["hold", "--pid", "1", "--", "true"], "--pid and a command"),
        (["hold", "--"], "there is no command after --"),
        (["recipe", "redis", "--"], "there is no command after --"),
        (["hold", "--pid", "x"], "'x' is not a valid whole number"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
        (["run"], "there is no command"),
        (["run", "--"], "run: there is no command; it comes last: -- COMMAND ARGS"),
        (["audit", "--"], "audit: there is no command; it comes last: -- COMMAND ARGS"),
        (["repeat", "--"], "repeat: there is no command; it comes last: -- COMMAND ARGS"),
        (["isolate", "--"], "isolate: there is no command; it comes last: -- COMMAND ARGS"),
        (["run", "--port", "Admin", "--", "true"], "'Admin' cannot name a port"),
        (["run", "--port", "host", "--", "true"], "'host' cannot name a port"),
        (["run", "--port", "18999", "--", "true"], "on port 18999 itself: --ports 18999"),
        (["run", "--udp", "53", "--", "true"], "on port 53 itself: --udp port --ports 53"),
        (["run", "-e", "URL", "--", "true"], "no NAME=VALUE"),
        (["run", "--timeout", "-1", "--", "true"], "'--timeout'"),
        (["run", "--timeout", "x", "--", "true"], "'x' is not a valid number of seconds"),
        (["run", "--timeout", "nan", "--", "true"], "no number of seconds"),
        (["run", "--how", "ask", "--", "true"], "'ask' is not one of 'offer', 'step-aside'"),
        (["run", "--wait-for", "admin", "--", "true", "{port}"], "--wait-for names admin"),
        (["run", "--", "true", "--then"], "no client behind --then"),
        (["run", "--", "--then", "true"], "no command before --then"),
        (["run", "--then", "'", "--", "true"], "no shell words"),
        (["run", "--then", "a", "-p", "1", "--", "b"], "or quote the client"),
        (["run", "--ready", "http://x", "--", "true"], "http://{host}:{port}"),
        (["run", "--ready", "http://x:y/", "--", "true"], "http://{host}:{port}"),
        (["run", "--ready", "", "--", "true"], "--ready is empty"),
        (["run", "--ready", "'", "--", "true"], "no shell words"),
        (["run", "--ready", "true", "--ready", "", "--", "true"], "--ready is empty"),
        (["run", "--ready-log", "(", "--", "true", "--then", "true"], "no regular expression"),
        (["run", "--ready-log", "up", "--", "true"], "give it a client (--then)"),
        (["recipe"], "portlease recipe --list"),
        (["recipe", "nosuch"], "there is no recipe nosuch, only "),
        (["recipe", "asgi"], "must be told its app="),
        (["recipe", "--timeout", "nan", "redis"], "no number of seconds"),
    ],
    ids=" ".join,
)
def test_bad_input_is_told_in_clear_lines_with_status_2(arguments: list[str], says: str) -> None:
    """What can never work is said on standard error, with nothing on standard output."""
    done = portlease(*arguments)
    assert says in done.stderr, done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_no_port_is_status_125() -> None:
    """A port that somebody has: who has it is said, and that is no usage error."""
    with library.lease(offer=False, label="taken on purpose") as taken:
        done = portlease("get", "--ports", taken.port)
    assert (done.returncode, done.stdout) == (125, "")
    assert "taken on purpose" in done.stderr
    assert "portlease.lease(" not in done.stderr


def test_main_returns_the_status_and_leaves_sys_exit_to_its_caller() -> None:
    """`main` can be called in a process that goes on."""
    assert cli.main(["completion", "bash"]) == 0
    assert cli.main(["nosuch"]) == 2


def test_ctrl_c_while_its_libraries_are_loaded(tmp_path: Path) -> None:
    """It ends by the signal, and no traceback of ours is seen."""
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "click.py").write_text(source, encoding="utf-8")
    done = portlease("doctor", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_reader_of_a_pipe_may_go() -> None:
    """A closed pipe ends it as SIGPIPE would: quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*PORTLEASE, "doctor", "--json"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_full_disk_is_told() -> None:
    """Numbers that could not be written are an error, not a success."""
    need.capability("dev_full")
    with open("/dev/full", "w", encoding="ascii") as full:  # noqa: PTH123
        done = subprocess.run(
            [*PORTLEASE, "get"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    assert done.returncode == 125
    assert (
        done.stderr == f"portlease: cannot write to standard output: {os.strerror(errno.ENOSPC)}\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_clicks_own(shell: str) -> None:
    """`portlease completion SHELL` and the environment variable give the same script."""
    by_variable = portlease(env={"_PORTLEASE_COMPLETE": f"{shell}_source"})
    by_command = portlease("completion", shell)
    assert by_command.returncode == by_variable.returncode == 0
    assert by_command.stdout.strip() == by_variable.stdout.strip()


def test_bash_completes_our_commands_and_leased_ports(tmp_path: Path) -> None:
    """A real bash that has evaluated the script is offered the commands, and the leased ports."""
    bash = need.program("bash")
    program = tmp_path / "portlease"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PORTLEASE)} "$@"\n', encoding="ascii")
    program.chmod(0o755)
    script = """
    eval "$(portlease completion bash)"
    COMP_WORDS=(portlease "$@"); COMP_CWORD=$#; COMPREPLY=()
    _portlease_completion portlease
    printf '%s\n' "${COMPREPLY[@]}"
    """

    def complete(*words: str) -> list[str]:
        done = subprocess.run(
            [bash, "-c", script, "bash", *words],
            capture_output=True,
            text=True,
            env=environment({"PATH": f"{tmp_path}:{os.environ['PATH']}"}),
            check=True,
        )
        return done.stdout.split()

    with library.lease() as one:
        assert complete("") == list(COMMANDS)
        assert complete("do") == ["doctor"]
        assert complete("recipe", "red") == ["redis"]
        assert complete("run", "--how", "") == ["offer", "step-aside", "broker", "hand-over"]
        assert complete("hold", "--how", "") == ["offer", "step-aside"]
        assert str(one.port) in complete("who", str(one.port)[:2])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (library.UsageError("x"), 2),
        (library.ServerTimeoutError("x"), 124),
        (library.PortsExhaustedError("x"), 125),
        (library.PrivilegeError("x"), 125),
        (library.ServerStartError("x", errno=errno.EACCES), 126),
        (library.ServerStartError("x", errno=errno.ENOENT), 127),
        (library.ServerDiedError("x", returncode=3), 3),
        (library.ServerDiedError("x", returncode=-9), 137),
        (library.ServerDiedError("x", returncode=0), 125),
    ],
    ids=repr,
)
def test_each_error_has_its_status(error: library.PortleaseError, status: int) -> None:
    """The statuses are those that `portlease --help` lists."""
    assert _status.of_error(error) == status


def test_control_characters_of_others_do_not_reach_the_terminal() -> None:
    """A label may not write to the terminal of who lists it."""
    assert _say.printable("plain é") == "plain é"
    assert _say.printable("\x1b[2J\n") == r"\x1b[2J\n"


def test_importing_the_library_does_not_load_the_command_line() -> None:
    """Click and rich are the command line's alone."""
    code = "import sys, portlease, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"click", "rich", "portlease.cli"}


def test_every_phrase_that_is_told_otherwise_is_the_librarys() -> None:
    """The table of what errors say here and there follows the errors."""
    package = Path(library.__file__).parent
    modules = [path for part in (".", "_server", "_tree") for path in package.glob(f"{part}/*.py")]
    sources = [path.read_text(encoding="utf-8") for path in modules]
    # Adjacent literals are one text.
    text = re.sub(r'"\s*\n\s*(?:\+ )?f?"', "", "\n".join(sources))
    assert [phrase for phrase, _ in _say._SPOKEN if phrase not in text] == []


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(closed: str) -> None:
    """A closed descriptor is /dev/null, for us and for the command, and no pipe of ours."""
    source = "import os; print([os.fstat(fd).st_rdev for fd in (0, 1, 2)])"
    inner = shlex.join([*PORTLEASE, "run", "--", sys.executable, "-c", source])
    done = subprocess.run(
        ["sh", "-c", f"{inner} {closed}"], capture_output=True, text=True, check=True
    )
    if ">&-" not in closed.replace("2>&-", ""):
        assert str(os.stat(os.devnull).st_rdev) in done.stdout  # noqa: PTH116 - the device
    for command in (["get"], ["ls"], ["doctor"]):
        inner = shlex.join([*PORTLEASE, *command])
        done = subprocess.run(
            ["sh", "-c", f"{inner} {closed}"], capture_output=True, text=True, check=False
        )
        assert done.returncode in {0, 1}
        assert "Traceback" not in done.stderr
