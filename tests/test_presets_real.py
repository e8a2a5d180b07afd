"""The servers that are known to take a socket, the real ones: each serves on what it was handed.

Each is started by serve() with its ordinary command. What is looked at: it was handed over, it
answers, it can be started again on the same port, clients may
connect before it is up, and it counts as ready no sooner than its application is.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

import portlease
from _need import need
from _processes import HANG_S
from portlease._server import _handover
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("elsewhere nothing is bound beside a hold", allow_module_level=True)

from portlease._platform import _linux_proc

# Up only when the file that UP names is there, and not before.
APP: Final = """\
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            while message["type"] == "lifespan.startup" and not os.path.exists(os.environ["UP"]):
                await asyncio.sleep(0.005)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
NODE: Final = """\
const http = require('http'), fs = require('fs');
const up = () => {
  if (!fs.existsSync(process.env.UP)) return setTimeout(up, 5);
  http.createServer((_, response) => response.end('ok')).listen({fd: Number(process.argv[2])});
};
up();
"""
NGINX: Final = """\
daemon off; worker_processes 3; pid {folder}/pid; error_log stderr; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}
}}
"""
HAPROXY: Final = """\
defaults
  mode http
  timeout client 9s
  timeout connect 9s
  timeout server 9s
frontend web
  bind "fd@${PORT_FD}"
  http-request return status 200 content-type text/plain string ok
"""


class Case:
    """One server in a folder of its own, with its ordinary command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.up = folder / "up"
        self.env = {"UP": str(self.up), "PYTHONPATH": str(folder)}
        (folder / "app.py").write_text(APP, encoding="utf-8")

    def serve(
        self,
        args: Sequence[str | Path],
        *,
        lease: portlease.Lease | None = None,
        asked: bool = False,
    ) -> portlease.Server:
        """Start it; up at once."""
        self.up.touch()
        return portlease.serve(
            args,
            lease=lease,
            env=self.env,
            cwd=self.folder,
            how="hand-over" if asked else None,
            timeout_s=HANG_S,
        )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A folder with the applications in it."""
    return Case(tmp_path)


def module(name: str, *args: str) -> list[str]:
    """A server of our test environment."""
    return [sys.executable, "-m", name, *args]


def fetch(port: int) -> bytes:
    """Get / twice on one connection; return the last answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def check(server: portlease.Server) -> None:
    """It serves what it was handed, and does so again after a restart and a kill."""
    with server:
        port = server.port
        assert server.how == "hand-over"
        for again in (server.restart, server.kill, None):
            assert fetch(port) == b"ok"
            assert server.port == port
            assert server.lease.state == "HELD"
            if again is not None:
                again()
            if again == server.kill:
                server.restart()


COMMANDS: Final = {
    "uvicorn": module("uvicorn", "app:app", "--port", "{port}", "--no-access-log"),
    "uvicorn, workers": module("uvicorn", "app:app", "--port={port}", "--workers", "2"),
    "hypercorn": module("hypercorn", "app:app", "-b", "{host}:{port}"),
    "hypercorn, workers": module("hypercorn", "app:app", "--bind=127.0.0.1:{port}", "-w", "2"),
    "gunicorn": module("gunicorn", "app:wsgi", "-b", "{host}:{port}"),
    "gunicorn, threads": module(
        "gunicorn", "app:wsgi", "--bind", "127.0.0.1:{port}", "-k", "gthread", "--threads", "2"
    ),
}


@pytest.mark.parametrize("args", COMMANDS.values(), ids=COMMANDS.keys())
def test_by_its_ordinary_command(case: Case, args: list[str]) -> None:
    """Nothing is asked for: the preset sees that nothing would change."""
    check(case.serve(args))


def test_node(case: Case) -> None:
    """listen({fd}), with the number in its arguments."""
    (case.folder / "app.js").write_text(NODE, encoding="utf-8")
    check(case.serve([need.program("node"), "app.js", "{fd}"]))


def test_haproxy(case: Case) -> None:
    """By ``bind fd@N`` in its configuration, with the number in its environment."""
    (case.folder / "haproxy.cfg").write_text(HAPROXY, encoding="utf-8")
    for master in ([], ["-W"]):
        check(case.serve([need.program("haproxy"), *master, "-f", "haproxy.cfg"], asked=True))


def test_nginx(case: Case) -> None:
    """NGINX= in its environment, with several workers; ready when one waits in epoll."""
    nginx = need.program("nginx")
    config = case.folder / "nginx.conf"
    with portlease.lease(host="127.0.0.1", offer=False) as lease:
        config.write_text(NGINX.format(folder=case.folder, port=lease.port), encoding="utf-8")
        check(case.serve([nginx, "-c", config], lease=lease, asked=True))
        assert lease.state == "HELD"


def test_granian_takes_none(case: Case) -> None:
    """It binds beside the offered hold as ever; asked for, a warning says why."""
    args = module("granian", "--interface", "asgi", "app:app", "--port", "{port}")
    with case.serve(args) as server:
        assert server.how == "offer"
        assert fetch(server.port) == b"ok"
    with pytest.warns(portlease.HowWarning, match="granian: it takes no socket"):
        server = case.serve(args, asked=True)
    with server:
        assert server.how == "offer"


# Those that say themselves when they are up.
SLOW: Final = {
    "uvicorn": COMMANDS["uvicorn"],
    "hypercorn": COMMANDS["hypercorn"],
    "node": ["node", "app.js", "{fd}"],
}


@pytest.mark.parametrize("args", SLOW.values(), ids=SLOW.keys())
def test_ready_no_sooner_than_the_application_is(case: Case, args: list[str]) -> None:
    """A client connects before it, is queued, and is answered; the sign comes only then."""
    if args[0] == "node":
        args = [need.program("node"), *args[1:]]
        (case.folder / "app.js").write_text(NODE, encoding="utf-8")
    found = _handover.plan(args, {}, {"port": "tcp"}, {"port": "127.0.0.1"}, asked=False)
    assert isinstance(found, _handover.Plan)
    with portlease.lease(offer=False) as lease, found.open({"port": lease}) as handed:
        argv = [word.replace("{fd}", str(handed.values["fd"])) for word in found.args]
        with (
            socket.create_connection(("127.0.0.1", lease.port), timeout=HANG_S) as client,
            Process.start(
                argv, env={**os.environ, **case.env}, cwd=case.folder, **handed.options
            ) as process,
        ):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            # Long enough for the interpreter to be there; the application waits for the file.
            _until(lambda: not _starting(process), process)
            assert not handed.adopted(process.tree)
            client.settimeout(0)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            case.up.touch()
            _until(lambda: handed.adopted(process.tree), process)
            client.settimeout(HANG_S)
            assert client.recv(12) == b"HTTP/1.1 200"


def _starting(process: Process) -> bool:
    """Whether it has not yet looked for the file: it has no event loop then."""
    return not any(_linux_proc._epolls(pid) for pid in process.tree())


def _until(done: Callable[[], bool], process: Process) -> None:
    give_up = time.monotonic() + HANG_S
    while not done():
        assert time.monotonic() < give_up
        assert process.returncode is None
        process.wait_for_news(0.002)


def test_a_server_that_cannot_start_is_reported_at_once(case: Case) -> None:
    """With its output, though clients could connect all the while."""
    with pytest.raises(portlease.ServerDiedError, match="nosuchmodule"):
        case.serve(module("uvicorn", "nosuchmodule:app", "--port", "{port}"))


def test_the_queue_of_one_that_failed_is_gone(case: Case) -> None:
    """Nobody keeps a client waiting for a server that will not come."""
    with portlease.lease(offer=False) as lease:
        with pytest.raises(portlease.ServerDiedError):
            case.serve(module("gunicorn", "--no-such-option", "-b", "{host}:{port}"), lease=lease)
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", lease.port))
