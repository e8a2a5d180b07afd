"""``portlease run --elsewhere``: servers that a daemon runs, as dockerd does for docker compose."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from _cli import portlease, python
from _processes import with_ever_more_time

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

# Asks the daemon at a path for each port, tells what it said, and stays, as `docker compose up`.
CLIENT = """\
import socket, sys
path, stay, *ports = sys.argv[1:]
for port in ports:
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.connect(path)
        daemon.sendall(port.encode())
        print(daemon.recv(100).decode(), flush=True)
if stay == "stay":
    sys.stdin = open(0)
    import signal
    signal.pause()
"""


@pytest.fixture(params=[0, 1], ids=["bare", "SO_REUSEADDR"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The path of a daemon that listens on whatever port it is told; it is this process."""
    path = str(tmp_path / "daemon")
    servers: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        while True:
            with listener.accept()[0] as client:
                port = client.recv(100)
                if port == b"end":
                    return
                if not port:  # it was ended as it was about to ask
                    continue
                server = socket.socket()
                servers.append(server)
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, request.param)
                try:
                    server.bind(("127.0.0.1", int(port)))
                    server.listen()
                    said = b"up"
                except OSError as error:
                    said = str(error).encode()
                with contextlib.suppress(BrokenPipeError):  # or before it heard
                    client.sendall(said)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"end")
            thread.join()
            for server in servers:
                server.close()


def test_the_client_runs_when_the_daemon_listens(daemon: str) -> None:
    """On the ports that were named, whether it sets SO_REUSEADDR or not; not on {port}."""
    words = ["run", "--elsewhere", "--port", "WEB", "--port", "DB"]
    command = [*python(CLIENT), daemon, "stay", "{WEB}", "{db}"]
    client = python(
        "import os, socket\n"
        "for name in 'WEB', 'DB': socket.create_connection(('127.0.0.1', os.environ[name])).close()"
    )
    done = portlease(*words, "--json", "--", *command, "--then", *client)
    assert done.returncode == 0, done.stdout
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["server_output"], run["how"]) == ("up\nup\n", "step-aside")
    assert "--elsewhere" in run["why"]


def test_nobody_listens_in_time(daemon: str) -> None:
    """Told with the port's name; the command was ended."""
    words = ["run", "--elsewhere", "--timeout", "0.3", "--port", "WEB", "--port", "DB"]
    done = portlease(*words, "--", *python(CLIENT), daemon, "stay", "{WEB}", "--then", "echo", "no")
    assert (done.returncode, done.stdout) == (124, "")
    assert re.search(r"after 0.3 s nobody listens on .*tcp db \d+;", done.stderr)


def test_a_command_that_does_not_stay(daemon: str) -> None:
    """`docker compose up -d`: there is nothing to end then, so it is told to stay."""
    words = ["run", "--elsewhere", "--port", "WEB", "--port", "DB", "--"]
    done = portlease(*words, *python(CLIENT), daemon, "go", "{WEB}", "--then", "echo", "no")
    assert (done.returncode, done.stdout) == (125, "")
    assert "before anybody listened on tcp db" in done.stderr
    assert "let it run in the foreground" in done.stderr


def test_without_it_the_error_names_it(daemon: str) -> None:
    """Somebody else listens on the leased port: who, and what to say if that is right."""
    command = *python(CLIENT), daemon, "stay", "{port}", "--then", "echo", "no"

    def attempt(seconds: float) -> subprocess.CompletedProcess[str]:
        words = "run", "--how", "step-aside", "--timeout", str(seconds), "--"
        return portlease(*words, *command)

    done = with_ever_more_time(attempt, lambda done: "listening on 127.0.0.1" in done.stderr)
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr.splitlines()[-1].endswith("say --elsewhere")


def test_alone_it_tells_when(daemon: str) -> None:
    """With no client: the event "ready", and the command goes on."""
    words = ["run", "--elsewhere", "--port", "WEB", "--json", "--"]
    source = CLIENT.replace("signal.pause()", "signal.alarm(1); signal.pause()")
    done = portlease(*words, *python(source), daemon, "stay", "{WEB}")
    events = [json.loads(one)["event"] for one in done.stderr.splitlines()]
    assert events == ["started", "ready", "ended"]


@pytest.mark.parametrize("how", ["broker", "hand-over"])
def test_what_cannot_reach_it_is_refused(how: str) -> None:
    """Both act on the command's own processes."""
    done = portlease("run", "--elsewhere", "--how", how, "--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--how {how} reaches the command's own processes" in done.stderr
