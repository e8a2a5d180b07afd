"""``portlease recipe``: with redis, which every machine that runs these tests has."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import portlease as library
from _cli import CTRL_C, Terminal, end, line, portlease, python, started
from _need import need
from _processes import wait_for, watched

SHOW = python("import os, sys; print(os.environ['REDIS_URL'], *sys.argv[1:])")


@pytest.fixture(autouse=True)
def _redis() -> None:
    need.program("redis-server")


def ping(port: int) -> bytes:
    """What the server answers."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"PING\r\n")
        return client.recv(16)


def test_a_command_runs_while_the_server_does() -> None:
    """Its client gets the URL by template; the answer and the status are the client's."""
    client = need.program("redis-cli")
    done = portlease("recipe", "redis", "--", client, "-u", "{url}", "ping")
    assert (done.returncode, done.stdout, done.stderr) == (0, "PONG\n", "")


def test_its_variables_and_templates_are_the_commands() -> None:
    """REDIS_URL is set, {url}, {host} and {port} are filled in, other braces stay."""
    done = portlease("recipe", "redis", "--", *SHOW, "{url}", "{host}:{port}", "{x}", "--help")
    url, again, place, other, flag = done.stdout.split()
    assert url == again == f"redis://{place}/0"
    assert (other, flag) == ("{x}", "--help")


def test_the_status_is_the_commands_and_nothing_is_left() -> None:
    """The server and its folder are gone when we are."""
    source = (
        "import os, sys; print(os.environ['REDIS_PORT']); "
        "print(next(iter(os.popen('redis-cli -u ' + os.environ['REDIS_URL'] + "
        "' config get dir | tail -1')))); sys.exit(7)"
    )
    done = portlease("recipe", "redis", "--", *python(source))
    assert done.returncode == 7
    port, home = done.stdout.split()
    assert library.who(int(port)).free
    assert home.startswith("/")
    assert not Path(home).exists()


def test_without_a_command_it_prints_the_url_and_runs_until_a_signal() -> None:
    """The URL alone is on standard output; SIGTERM stops the server."""
    with started("recipe", "redis") as run:
        port = int(line(run).removeprefix("redis://127.0.0.1:").removesuffix("/0"))
        assert ping(port) == b"+PONG\r\n"
        assert end(run, signal.SIGTERM) == (143, "", "")
    assert library.who(port).free


def test_interrupted_before_it_answers(tmp_path: Path) -> None:
    """What was waited for is told; here, a server that never listens."""
    told, program = tmp_path / "started", tmp_path / "redis-server"
    program.write_text(
        f"#!{sys.executable}\nimport signal; open({str(told)!r}, 'w').close(); signal.pause()\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with started("recipe", "redis", env={"PATH": path}) as run:
        wait_for(told.exists)
        assert end(run, signal.SIGTERM) == (
            143,
            "",
            "portlease: recipe redis was not ready yet; still waited for its first answer\n",
        )


def test_it_runs_until_standard_input_ends() -> None:
    """A pipe that is closed says that it is enough; --json is one document."""
    with started("recipe", "redis", "--json", stdin=-1) as run:
        told = json.loads(line(run))
        assert ping(told["ports"]["port"]) == b"+PONG\r\n"
        assert (told["recipe"], told["host"]) == ("redis", "127.0.0.1")
        assert told["env"]["REDIS_URL"] == told["url"]
        assert Path(told["home"]).is_dir()
        with watched([told["pid"]]) as all_ended:
            assert run.stdin is not None
            run.stdin.close()
            run.stdin = None
            assert end(run) == (0, "", "")
            assert all_ended() == []
    assert not Path(told["home"]).exists()


def test_it_ends_when_the_server_does() -> None:
    """A server that somebody else kills is told, and its status is ours."""
    with started("recipe", "redis", "--json") as run:
        told = json.loads(line(run))
        os.kill(told["pid"], signal.SIGKILL)
        status, _, err = end(run)
    assert status == 128 + signal.SIGKILL
    assert "was ended by SIGKILL by itself" in err
    assert "Warning" not in err
    assert not Path(told["home"]).exists()


def test_events_as_json() -> None:
    """With a command: a line when it is ready, and a last one, on standard error."""
    done = portlease("recipe", "--json", "redis", "--", *python("exit(3)"))
    ready, ended = map(json.loads, done.stderr.splitlines())
    assert (ready["event"], ready["recipe"]) == ("ready", "redis")
    assert ended == {"event": "ended", "status": 3}
    assert (done.returncode, done.stdout) == (3, "")


def test_its_data_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    """--home: what one run writes the next one finds."""
    client, home = need.program("redis-cli"), tmp_path / "home"
    words = ("recipe", "--home", home, "redis", "--", client, "-u", "{url}")
    assert portlease(*words, "set", "x", "kept").stdout == "OK\n"
    assert portlease(*words, "get", "x").stdout == "kept\n"


@pytest.mark.parametrize("how", ["offer", "step-aside"])
def test_how_and_label_and_host(how: str) -> None:
    """--how, --label and --host are the lease's."""
    source = """\
import os, portlease
port = int(os.environ["REDIS_PORT"])
print(*[(str(i.state), i.label, i.host) for i in portlease.leases() if i.port == port])
"""
    words = ("--how", how, "--label", "mine", "--host", "127.0.0.2")
    done = portlease("recipe", *words, "redis", "--", *python(source))
    state = {"offer": "OFFERED", "step-aside": "GUARDED"}[how]
    assert done.stdout == f"{(state, 'mine', '127.0.0.2')}\n"


def test_the_list_says_what_is_installed() -> None:
    """Each recipe with what it starts; for programs, what installs it, too."""
    rows = portlease("recipe", "--list").stdout.splitlines()
    (redis,) = [row.split() for row in rows if row.startswith("redis ")]
    assert redis[1] == "yes"
    told = {one["name"]: one for one in json.loads(portlease("recipe", "--list", "--json").stdout)}
    assert told["redis"]["missing"] == []
    assert told["redis"]["programs"]["redis-server"] == need.program("redis-server")
    assert told["postgresql"]["install"]["apt-get install"] == "postgresql"


def test_a_server_that_is_not_installed_is_status_127(tmp_path: Path) -> None:
    """How to install it is said. A file that is no program lies over redis-server meanwhile."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the folders where servers hide can be left out on Linux alone")
    need.capability("userns")
    unshare, mount = need.program("unshare"), need.program("mount")
    redis = need.program("redis-server")
    inner = shlex.join([sys.executable, "-m", "portlease", "recipe", "redis"])
    real = Path(redis).resolve()
    (tmp_path / "plain").write_text("no program", encoding="ascii")
    script = f"{mount} --bind {tmp_path}/plain {real} && exec {inner}"
    done = subprocess.run(
        [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 127, done.stderr
    assert "recipe redis: redis-server is not installed" in done.stderr
    assert "apt-get install redis-server" in done.stderr


def test_a_command_that_is_not_there_starts_nothing() -> None:
    """Status 127, before the server."""
    done = portlease("recipe", "redis", "--", "nosuch")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr.startswith("portlease: nosuch: command not found")


def test_at_a_terminal() -> None:
    """A person is told that it runs, and until when."""
    with Terminal(["recipe", "redis"]) as terminal:
        seen = terminal.expect("until Ctrl-C")
        assert "redis://127.0.0.1:" in seen
        terminal.type(CTRL_C)
        assert terminal.exit_status()[0] == 130
