"""``portlease run --env-file``: what its readers read, and whose file it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import dotenv
import pytest

import portlease as library
from _cli import end, line, portlease, python, started
from _need import need
from _processes import watched
from portlease import UsageError
from portlease._platform import _linux_proc
from portlease.cli import _env_file

# Tells what its environment has, then what the file has, and ends at the end of its input.
SHOWS = """\
import json, os, sys
text = open(sys.argv[1]).read()
print(json.dumps([dict(os.environ), text]), flush=True)
sys.stdin.read()
"""

# Of everything in here each reader must make the same.
VALUES = {
    "URL": "http://127.0.0.1:{WEB}/a?b=c&d=%20#e",
    "BLANKS": ' two  blanks; $HOME `id` $(id) ! * ~ "q" \\n \\t #',
    "TILDE": "~/a:~/b",
    "EMPTY": "",
}


def _environment(tmp_path: Path, *options: str) -> tuple[dict[str, str], str]:
    file = tmp_path / ".env.ports"
    done = portlease("run", "--env-file", file, *options, "--", *python(SHOWS), file)
    assert (done.returncode, done.stderr) == (0, "")
    env, text = json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []
    return env, text


def test_it_says_what_the_environment_says(tmp_path: Path) -> None:
    """NAME_PORT as ever; a name in upper case is a variable of its own; -e and paths too."""
    options = ["--port", "WEB", "--port", "DB_PORT", "--udp", "dns", "--unix", "ctl"]
    env, text = _environment(tmp_path, *options, "-e", "URL=http://localhost:{WEB}/")
    mark, *lines = text.splitlines()
    assert mark.startswith("# portlease ")
    read = dict(one.split("=", 1) for one in lines)
    names = {"PORT", "WEB", "WEB_PORT", "DB_PORT", "DNS_PORT", "CTL_PATH", "URL"}
    assert read.keys() == names
    assert {name: env[name] for name in names} == read
    assert read["WEB"] == read["WEB_PORT"]
    assert read["URL"] == f"http://localhost:{read['WEB']}/"
    assert len({read[name] for name in ("PORT", "WEB", "DB_PORT", "DNS_PORT")}) == 4


def test_its_mode_is_that_of_any_file(tmp_path: Path) -> None:
    """umask(2) decides, as for what an editor writes."""
    file = tmp_path / "ports"
    shows = "import os, sys; print(oct(os.stat(sys.argv[1]).st_mode & 0o777))"
    command = ["sh", "-c", 'umask "$0"; exec "$@"']
    for umask, mode in ("022", "0o644"), ("077", "0o600"):
        words = [*command, umask, *_PORTLEASE, "run", "--env-file", str(file), "--"]
        done = subprocess.run(
            [*words, *python(shows), str(file)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == mode


_PORTLEASE = (*python("import sys; from portlease.cli import main; sys.exit(main())"),)


def _written(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file with VALUES in it, and what they were."""
    options = [word for name, text in VALUES.items() for word in ("-e", f"{name}={text}")]
    env, text = _environment(tmp_path, "--port", "WEB", *options)
    file = tmp_path / "env"
    file.write_text(text)
    return file, {name: env[name] for name in ("PORT", "WEB", "WEB_PORT", *VALUES)}


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_reads_it(tmp_path: Path, shell: str) -> None:
    """`. ./.env.ports`: nothing is expanded or executed."""
    file, env = _written(tmp_path)
    script = 'set -a; . "$0"; exec "$@"'
    shows = python("import json, os; print(json.dumps(dict(os.environ)))")
    done = subprocess.run(
        [need.program(shell), "-c", script, str(file), *shows],
        capture_output=True,
        text=True,
        check=True,
    )
    read = json.loads(done.stdout)
    assert {name: read[name] for name in env} == env


def test_python_dotenv_reads_it(tmp_path: Path) -> None:
    """With its expansion of variables, which is on by default."""
    file, env = _written(tmp_path)
    assert dotenv.dotenv_values(file) == env


def test_docker_compose_reads_it(tmp_path: Path) -> None:
    """`--env-file` for a compose.yaml's variables, and a service's `env_file:`."""
    compose = need.program("docker-compose")
    file, env = _written(tmp_path)
    (tmp_path / "compose.yaml").write_text(
        "version: '3'\nservices:\n  web:\n    image: x\n    env_file: env\n"
        "    ports: ['${WEB}:80']\n    labels: {url: '$URL', blanks: '$BLANKS'}\n"
    )
    done = subprocess.run(
        [compose, "--env-file", str(file), "-f", "compose.yaml", "config"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{env['WEB']}:80" in done.stdout or f"published: {env['WEB']}" in done.stdout
    assert f"url: {env['URL']}\n" in done.stdout
    assert f"TILDE: {env['TILDE']}\n" in done.stdout


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("it's", "a single quote"),
        ("a\nb", "a line break"),
        ("a\\\\b", "two backslashes"),
        ("a ${HOME}", "${"),
        ("a b\\", "a backslash at its end"),
        ("a\udcff", "a character that cannot be printed, or a byte that is no UTF-8"),
        ("a\u2028b", "a character that cannot be printed"),
    ],
)
def test_what_readers_take_differently_is_refused(tmp_path: Path, value: str, what: str) -> None:
    """Before anything is started, with the name of the variable."""
    file = tmp_path / "ports"
    done = portlease("run", "--env-file", file, "-e", f"X={value}", "--", "touch", tmp_path / "ran")
    assert done.returncode == 2
    assert f"the value of X has {what}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_shell_takes_is_refused() -> None:
    """Such a variable can be in an environment, and in no file."""
    with pytest.raises(UsageError, match="A-B"):
        _env_file.text({"A-B": "1"})


def test_a_file_of_somebody_else_stays(tmp_path: Path) -> None:
    """Refused before anything is started; --force overwrites it, and removes it in the end."""
    file = tmp_path / ".env"
    file.write_text("SECRET=1\n")
    done = portlease("run", "--env-file", file, "--", "touch", tmp_path / "ran")
    assert done.returncode == 2
    assert "was not written by portlease" in done.stderr
    assert file.read_text() == "SECRET=1\n"
    done = portlease("run", "--env-file", file, "--force", "--", "cat", file)
    assert done.returncode == 0
    assert "PORT=" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a FIFO (which nobody waits for), a link to nowhere, a folder that is missing."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, words in {
        "folder": "is no ordinary file",
        "fifo": "is no ordinary file",
        "link": "is a link to nowhere",
        "missing/ports": "there is no folder",
    }.items():
        with pytest.raises(UsageError, match=words):
            _env_file.EnvFile(str(tmp_path / name), force=True)
    assert len(list(tmp_path.iterdir())) == 3


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    """The file of a run that lives is its own, and the second one says whose."""
    file = tmp_path / "ports"
    with started("run", "--env-file", file, "--", *python(SHOWS), file, stdin=subprocess.PIPE) as a:
        before = json.loads(line(a))[1]
        done = portlease("run", "--env-file", file, "--", "true")
        assert done.returncode == 2
        assert f"in use by process {a.pid}" in done.stderr
        assert file.read_text() == before
        assert end(a)[0] == 0
    assert not file.exists()


def test_our_death_removes_it(tmp_path: Path) -> None:
    """SIGKILL: nothing of it is left, and no process."""
    file = tmp_path / "ports"
    with started("run", "--env-file", file, "--", *python(SHOWS), file, stdin=subprocess.PIPE) as a:
        line(a)
        with watched(_linux_proc.descendants(a.pid)) as all_gone:
            a.kill()
            assert all_gone() == []
        assert list(tmp_path.iterdir()) == []


def test_what_a_dead_writer_left_is_replaced(tmp_path: Path) -> None:
    """Should the process that removes it be killed as well, the next run copes."""
    file = tmp_path / "ports"
    with started("run", "--env-file", file, "--", *python(SHOWS), file, stdin=subprocess.PIPE) as a:
        line(a)
        everybody = _linux_proc.descendants(a.pid)
        a.send_signal(signal.SIGSTOP)
        with watched(everybody) as all_gone:
            for pid in everybody:
                if b"removes the file behind" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            a.kill()
            all_gone()
    left = file.read_text()
    assert left.startswith("# portlease ")
    done = portlease("run", "--env-file", file, "--", "cat", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] not in left
    assert not file.exists()


def test_a_file_that_was_changed_meanwhile_stays(tmp_path: Path) -> None:
    """Whoever replaced it meant it; that is told."""
    file = tmp_path / "ports"
    done = portlease("run", "--env-file", file, "--", "sh", "-c", f"rm {file}; echo A=1 > {file}")
    assert done.returncode == 0
    assert "it stays" in done.stderr
    assert file.read_text() == "A=1\n"


def test_a_daemon_elsewhere_can_bind(tmp_path: Path) -> None:
    """Whoever is not below the command, as dockerd: bare binds and no other lease get the port."""
    file = tmp_path / "ports"
    with started(
        "run",
        "--env-file",
        file,
        "--port",
        "WEB",
        "--",
        *python(SHOWS),
        file,
        stdin=subprocess.PIPE,
    ) as run:
        web = int(json.loads(line(run))[0]["WEB"])
        with socket.create_server(("0.0.0.0", web), reuse_port=False) as bare:  # noqa: S104
            assert bare.getsockname()[1] == web
        with socket.socket() as bare:
            bare.bind(("127.0.0.1", web))
        with pytest.raises(library.PortUnavailableError):
            library.lease(ports=[web])
        end(run)


def test_client_and_server_find_it(tmp_path: Path) -> None:
    """With --then, alone and with --json: there for both, gone in the end."""
    file = tmp_path / "ports"
    server = "import os, http.server as h; h.test(port=int(os.environ['PORT']), bind='127.0.0.1')"
    for options in [], ["--json"]:
        done = portlease(
            "run", "--env-file", file, *options, "--", *python(server), "--then", "cat", file
        )
        assert done.returncode == 0, done.stderr
        output = json.loads(done.stdout)["runs"][0]["output"] if options else done.stdout
        assert "\nPORT=" in output
        assert list(tmp_path.iterdir()) == []


def test_sockets_are_handed_over_as_well(tmp_path: Path) -> None:
    """LISTEN_FDS is the command's alone; the file has the numbers."""
    env, text = _environment(tmp_path, "--port", "WEB", "--how", "hand-over", "-e", "MY_FD={fd}")
    assert int(env["MY_FD"]) > 2
    assert "WEB=" in text
    assert "_FD" not in text
    env, text = _environment(tmp_path, "--port", "web", "--how", "hand-over")
    assert (env["LISTEN_FDS"], env["LISTEN_FDNAMES"]) == ("2", "port:web")
    assert "LISTEN" not in text


def test_names_in_either_case() -> None:
    """{WEB} and {web} are one; the shell's ${WEB} and doubled braces are not ours."""
    done = portlease(
        "run", "--port", "WEB", "--", "echo", "{WEB}", "{web}", "${WEB}", "{{WEB}}", '{"p": {WEB}}'
    )
    upper, lower, *others = done.stdout.split()
    assert upper == lower
    assert others == ["${WEB}", "{WEB}", '{"p":', f"{upper}}}"]
    done = portlease("run", "--port", "WEB_PORT", "--wait-for", "WEB", "--", "sh", "-c", "env")
    assert "\nWEB_PORT=" in done.stdout
    assert "WEB_PORT_PORT" not in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "WEB", "--port", "web"], "are one; spell it in one way"),
        (["--port", "Web"], "cannot name a port"),
        (["--port", "HOST"], "cannot name a port"),
        (["--env-file", "x", "-n", "2"], "one file cannot tell 2 servers' ports"),
        (["--force"], "--force is for --env-file"),
    ],
)
def test_wrong_calls(options: list[str], words: str) -> None:
    """Each gets one clear line, and status 2."""
    done = portlease("run", *options, "--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_where_it_cannot_be_written() -> None:
    """A folder in which the kernel lets nobody make a file: told, and nothing was started."""
    done = portlease("run", "--env-file", "/sys/portlease-test", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--env-file /sys/portlease-test cannot be written: " in done.stderr
