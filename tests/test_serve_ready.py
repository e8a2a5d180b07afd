"""serve(ready=): what a server must pass besides listening."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _processes import HANG_S
from _serving import PYTHON, TINY, ask, get, never_ready, python
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from portlease import Http, ServerDiedError, ServerStartError, ServerTimeoutError, UsageError, serve
from portlease._server import _check

if TYPE_CHECKING:
    from portlease import Server

# Is ready at the third request of any kind. {stage} is what it answers until then.
STAGED = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
asked = []
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        if self.path == "/die": sys.exit(6)
        if self.path == "/silent" and len(asked) < 3: return
        print("asked", len(asked), self.path, flush=True)
        self.send_response(200 if len(asked) >= 3 else 503)
        self.end_headers()
    def log_message(self, *_): pass
class Server(HTTPServer):
    def handle_error(self, *_): raise
server = Server(("", {port}), Handler)
server.serve_forever()
"""
HTTP_SERVER = [sys.executable, "-c", STAGED]


def test_http_path() -> None:
    """It is asked again until it answers with 2xx or 3xx."""
    with serve(HTTP_SERVER, ready="/health?a={port}") as server:
        asked = server.output.splitlines()
        assert asked == [f"asked {n} /health?a={server.port}" for n in (1, 2, 3)]
        assert get(server) == b"HTTP/1.0 200 OK"
        server.restart()
        assert server.tail() == asked


def test_http_status_and_port() -> None:
    """The status that counts, and the port that is asked, can be said."""
    with serve(HTTP_SERVER, ready=Http("/", status=503)) as server:
        assert server.output == "asked 1 /\n"
    code = STAGED.replace("{port}", "{admin}").replace(
        "server.serve_forever",
        'import socket; main = socket.create_server(("", {port})); server.serve_forever',
    )
    command = [sys.executable, "-c", code]
    for check in (
        Http("/", port="admin"),
        Http("http://{host}:{admin}/"),
        "http://{host}:{admin}/",
    ):
        with serve(command, ready=check) as server:
            assert "asked 3 /" in server.output


def test_a_connection_that_is_closed_without_an_answer() -> None:
    """It is not ready yet."""
    with serve(HTTP_SERVER, ready="/silent") as server:
        assert server.output == "asked 3 /silent\n"


# Never ready, and up at once.
STUBBORN = TINY.replace(
    'client.sendall(b"tiny")',
    'client.recv(1000); client.sendall(b"HTTP/1.0 503 Service Unavailable\\r\\n\\r\\n")',
)

LATE = """
import threading
def say():
    sys.stdout.write("loading\\n"); sys.stdout.flush()
    threading.Event().wait(0.05)
    sys.stdout.write("loaded in 1 s\\n"); sys.stdout.flush()
threading.Thread(target=say).start()
"""


def test_log_pattern() -> None:
    """A pattern is looked for in what it has written since this start."""
    command = [sys.executable, "-c", TINY.replace("while True", LATE + "while True")]
    with serve(command, ready=re.compile(r"loaded in \d+ s")) as server:
        assert server.output == "loading\nloaded in 1 s\n"
        server.restart()
        assert server.output == "loading\nloaded in 1 s\n" * 2


def test_command() -> None:
    """A list of strings is a command, which gets the ports and the environment, too."""
    client = "import os, sys, urllib.request as r; r.urlopen(os.environ['URL'] + sys.argv[1])"
    check = [sys.executable, "-c", client, "?{port}"]
    with serve(HTTP_SERVER, env={"URL": "http://{host}:{port}/"}, ready=check) as server:
        assert f"asked 3 /?{server.port}" in server.output


def test_function() -> None:
    """A function is asked until it returns True; what it raises is a no."""
    answers: list[Any] = [ConnectionError("not yet"), False, None, True]
    seen: list[Server] = []

    def check(server: Server) -> bool:
        seen.append(server)
        assert server.port
        assert server.process.pid
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    with serve(python(TINY), ready=check) as server:
        assert seen == [server] * 4
        assert not answers


def test_a_mistake_in_the_function() -> None:
    """An error that says that the function is wrong is raised at once, and the server is ended."""
    seen: list[Server] = []

    def check(server: Server) -> bool:
        seen.append(server)
        return server.no_such_thing  # type: ignore[attr-defined, no-any-return] # wrong on purpose

    with pytest.raises(AttributeError, match="no_such_thing"):
        serve(python(TINY), ready=check)
    assert seen[0].process.ended
    assert seen[0].lease.state == "RELEASED"


def test_several() -> None:
    """One after the other, all of them."""
    checks: list[Any] = [
        re.compile("asked 1"),
        lambda server: "asked 2" in server.output,
        Http("/third"),
    ]
    with serve(HTTP_SERVER, ready=["/first", Http("/second")]) as server:
        assert server.output.splitlines()[-1] == "asked 4 /second"
    with serve(HTTP_SERVER, ready=["/first", *checks]) as server:
        assert server.output.splitlines()[-1] == "asked 4 /third"


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (Http("/", status=204), r"GET http://127.0.0.1:\d+/: .*status \d+"),
        (re.compile("no such line"), "'no such line' in its output: not written yet"),
        (["sh", "-c", "echo first; echo second; exit 9"], "exit status 9, second"),
        (["sleep", "1000"], "`sleep 1000`: it took more than"),
        (lambda _: False, r"<lambda>\(\): it returned False"),
    ],
    ids=["http", "log", "command", "slow command", "function"],
)
def test_never_ready(check: Any, words: str) -> None:  # noqa: ANN401 - any of them
    """The error says what was asked, what the last answer was, and the remedy."""
    error = never_ready(python(STUBBORN), lambda error: re.search(words, str(error)), ready=check)
    assert "listens on port" in str(error)
    assert "timeout_s=" in str(error)


def test_the_last_exception_is_the_cause() -> None:
    """Of a function that never stopped raising."""

    def check(_: Server) -> bool:
        raise OSError("the database is starting up")

    said = "OSError: the database is starting up"
    error = never_ready(python(TINY), lambda error: said in str(error), ready=check)
    assert isinstance(error.__cause__, OSError)


def test_it_ends_while_it_is_asked() -> None:
    """That is told at once, with its status."""
    with pytest.raises(ServerDiedError, match=r"listened on port.*status 6 before") as caught:
        serve(HTTP_SERVER, ready="/die")
    assert caught.value.returncode == 6


def test_a_command_that_is_not_there() -> None:
    """It will not come into being: no second try."""
    with pytest.raises(ServerStartError, match="portlease-no-such"):
        serve(python(TINY), ready=["portlease-no-such", "{port}"])


def test_a_restart_that_does_not_get_ready() -> None:
    """The error comes out, nothing runs, and the leases are there until the server is stopped."""
    answers = [True, False]
    with serve(python(TINY), ready=lambda _: answers[0], timeout_s=HANG_S) as server:
        del answers[0]
        patient = server._command
        server._command = dataclasses.replace(patient, timeout_s=0.3)
        with pytest.raises(ServerTimeoutError):
            server.restart()
        server._command = patient
        assert server.process.ended
        assert server.lease.state == "OFFERED"
        answers[0] = True
        server.restart()
        assert ask(server) == b"tiny"


@pytest.mark.parametrize(
    ("ready", "words"),
    [
        ("health", "neither a path nor a URL"),
        ("curl http://{host}:{port}/", "neither a path nor a URL"),
        ("http://{host}/", "lacks a host or a port"),
        ([], "empty command"),
        (["/health", "/ready"], r"Http\('/path'\)"),
        (17, "neither a path"),
        ([["true"], 17], "neither a path"),
        ([Http("/"), [Http("/")]], "list in a list"),
        (Http("/", port="web"), "'web'"),
        ("/a b", "no spaces"),
        ("/\u00fc", "ASCII"),
        (re.compile(b"x"), "for bytes"),
    ],
)
def test_what_can_never_be_passed(ready: Any, words: str) -> None:  # noqa: ANN401 - wrong on purpose
    """It is told before anything is started."""
    with pytest.raises(UsageError, match=words):
        serve([*PYTHON, "raise SystemExit('started')"], ready=ready)


def test_http_arguments() -> None:
    """Neither is a path that begins with no slash one, nor counts an answer without a status."""
    with pytest.raises(UsageError, match="no path"):
        Http("health")
    with pytest.raises(UsageError, match="status= is empty"):
        Http("/", status=())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/health", Http("/health")),
        ("http://{host}:{admin}/x", Http("http://{host}:{admin}/x")),
        ("redis-cli -p {port} 'a b'", ["redis-cli", "-p", "{port}", "a b"]),
        ("/bin/sh -c true", ["/bin/sh", "-c", "true"]),
    ],
)
def test_from_the_command_line(text: str, expected: object) -> None:
    """A text is a path, a URL, or a command as a shell's words."""
    assert _check.of_text(text) == expected


def test_progress_is_told() -> None:
    """Whoever wants to know is told what is waited for, and each new answer, once."""
    told: list[str] = []
    command = portlease._server._command.Command(args=tuple(HTTP_SERVER), ready="/")
    with portlease.Server(command, tell=told.append) as server:
        where = f"GET http://127.0.0.1:{server.port}/"
        assert told == [f"port {server.port} to listen", where, f"{where}: status 503"]
        assert server.process.poll() is None
