"""``portlease run -- SERVER --then CLIENT``."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from _cli import HTTP, end, line, portlease, python, started
from _need import need
from _processes import wait_for, watched, with_ever_more_time

if TYPE_CHECKING:
    from pathlib import Path

# Prints the status of GET, with the environment's port.
GET = python(
    "import os, urllib.request as u; "
    "print(u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/').status)"
)


def late(*words: str, says: str) -> subprocess.CompletedProcess[str]:
    """Serve one that is never ready, for a client; status 124, and the reason, a pattern."""

    def attempt(seconds: float) -> subprocess.CompletedProcess[str]:
        done = portlease("run", "--timeout", str(seconds), *words, "--then", "true")
        assert done.returncode == 124, done.stderr
        return done

    return with_ever_more_time(attempt, lambda done: re.search(says, done.stderr))


def test_the_client_finds_the_server_ready() -> None:
    """The client runs once the server listens; its output and status are ours."""
    done = portlease("run", "--", *HTTP, "--then", *GET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


@pytest.mark.parametrize("status", [1, 7, 125])
def test_the_status_is_the_clients(status: int) -> None:
    """And what the server wrote is shown when the client fails."""
    done = portlease("run", "--", *HTTP, "--then", *python(f"exit({status})"))
    assert (done.returncode, done.stdout) == (status, "")
    assert f"the last output of {sys.executable}:" in done.stderr
    assert "Serving HTTP" in done.stderr


def test_a_client_ended_by_a_signal() -> None:
    """128+N."""
    source = "import os; os.kill(os.getpid(), 9)"
    assert portlease("run", "--", *HTTP, "--then", *python(source)).returncode == 137


def test_both_have_the_same_templates_and_environment() -> None:
    """{port}, {admin}, PORT, ADMIN_PORT and -e are the server's and the client's alike."""
    names = ("PORT", "ADMIN_PORT", "X")
    show = f"import os, sys; print(*sys.argv[1:], *map(os.environ.get, {names}), flush=True)"
    serve = (
        f"{show}; import socket; s = socket.create_server(('', int(sys.argv[1]))); "
        "import signal; signal.pause()"
    )
    words = ("{port}", "{admin}", "{no}")
    done = portlease(
        *("run", "-v", "--port", "admin", "--wait-for", "port", "-e", "X={port}-{admin}"),
        *("--", *python(serve), *words, "--then", *python(show), *words),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in done.stderr


def test_then_may_be_one_quoted_word_before_the_command() -> None:
    """--then 'CLIENT ARGS' is split as a shell does."""
    client = f"{sys.executable} -c 'print(\"a b\", {{port}} > 0)'"
    done = portlease("run", "--then", client, "--", *HTTP)
    assert (done.returncode, done.stdout) == (0, "a b True\n")


def test_two_dashes_after_then_are_no_client() -> None:
    """`--then -- CLIENT` is taken as it is meant."""
    done = portlease("run", "--", *HTTP, "--then", "--", *python("print('done')"))
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_the_client_has_our_standard_input() -> None:
    """The server has none, the client has ours."""
    done = portlease("run", "--", *HTTP, "--then", *python("print(input())"), stdin="typed\n")
    assert done.stdout == "typed\n"


def test_a_server_that_dies_first() -> None:
    """No client is run; status, last output and port are told, and the status is the server's."""
    serve = python("import sys; print('no licence', file=sys.stderr); sys.exit(3)")
    done = portlease("run", "--", *serve, "--then", *python("print('never')"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "ended with exit status 3 before it listened" in done.stderr
    assert "no licence" in done.stderr


def test_a_server_that_is_late() -> None:
    """Status 124, and what to do."""
    serve = python("import signal; signal.pause()")
    done = portlease("run", "--timeout", "0.2", "--", *serve, "--then", "true")
    assert done.returncode == 124
    assert "does not listen on port" in done.stderr
    assert "timeout_s" not in done.stderr
    assert "wait_for=" not in done.stderr


def test_a_server_that_dies_while_the_client_runs() -> None:
    """It is told, with what it wrote; the status stays the client's."""
    serve = python(
        "import os, socket; s = socket.create_server(('', int(os.environ['PORT']))); s.accept(); "
        "print('out of luck', flush=True); os.kill(os.getpid(), 9)"
    )
    client = python(
        "import os, socket; s = socket.create_connection(('127.0.0.1', int(os.environ['PORT']))); "
        "s.recv(1)"
    )
    done = portlease("run", "--", *serve, "--then", *client)
    assert done.returncode == 0
    assert "ended with exit status 137 while the client ran" in done.stderr
    assert "out of luck" in done.stderr


@pytest.mark.parametrize(("server", "client"), [("nosuch", "true"), (None, "nosuch")])
def test_what_is_not_found_is_status_127(server: str | None, client: str) -> None:
    """The server's command or the client's."""
    words = HTTP if server is None else (server,)
    done = portlease("run", "--", *words, "--then", client)
    assert done.returncode == 127
    assert "nosuch" in done.stderr


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("client", ["nosuch", "{plain}"])
def test_a_client_that_cannot_run_is_noticed_before_the_server_starts(
    n: int, client: str, tmp_path: Path
) -> None:
    """It is looked up as its execution would: not found is 127, not executable 126."""
    plain, started = tmp_path / "plain", tmp_path / "started"
    plain.write_text("no program", encoding="ascii")
    serve = python(f"open({str(started)!r}, 'w')")
    done = portlease("run", "-n", n, "--", *serve, "--then", client.format(plain=plain))
    says = (127, "command not found") if client == "nosuch" else (126, "may not be executed")
    assert (done.returncode, done.stdout) == (says[0], "")
    assert says[1] in done.stderr
    assert not started.exists()


def test_a_check_that_cannot_run_is_noticed_before_the_server_starts(tmp_path: Path) -> None:
    """--ready CMD is looked up, too."""
    started = tmp_path / "started"
    serve = python(f"open({str(started)!r}, 'w')")
    done = portlease("run", "--ready", "nosuch -x {port}", "--", *serve, "--then", "true")
    assert (done.returncode, done.stdout) == (127, "")
    assert "nosuch: command not found" in done.stderr
    assert not started.exists()


def test_a_client_is_looked_up_in_its_own_path(tmp_path: Path) -> None:
    """What -e says of PATH counts."""
    program = tmp_path / "mytest"
    program.write_text("#!/bin/sh\necho found\n", encoding="ascii")
    program.chmod(0o755)
    done = portlease("run", "-e", f"PATH={tmp_path}", "--", *HTTP, "--then", "mytest")
    assert (done.returncode, done.stdout) == (0, "found\n"), done.stderr


# --- servers of all kinds -------------------------------------------------------------------------


def test_redis() -> None:
    """redis-server and its own client."""
    redis, client = need.program("redis-server"), need.program("redis-cli")
    done = portlease(
        *("run", "--", redis, "--port", "{port}", "--save", ""),
        *("--then", client, "-p", "{port}", "ping"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "PONG\n", "")


def test_socat_without_reuseaddr_is_served_by_default() -> None:
    """Its bind fails beside the hold; the lease steps aside and it is started once more."""
    socat = need.program("socat")
    client = python(
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); "
        "s.sendall(b'echo'); print(s.recv(9))"
    )
    server = (socat, "TCP-LISTEN:{port}", "EXEC:cat")
    done = portlease("run", "-v", "--", *server, "--then", *client, "{port}")
    assert (done.returncode, done.stdout) == (0, "b'echo'\n"), done.stderr
    assert "started twice" in done.stderr
    insisted = portlease("run", "--how", "offer", "--", *server, "--then", *client, "{port}")
    assert insisted.returncode == 1
    assert "--how step-aside" in insisted.stderr


def test_openssl_s_server(tmp_path: Path) -> None:
    """A TLS handshake with a certificate made here."""
    openssl = need.program("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        (
            f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
            f" -subj /CN=localhost -keyout {key} -out {certificate}"
        ).split(),
        check=True,
        capture_output=True,
    )
    client = python(
        "import socket, ssl, sys; c = ssl.create_default_context(cafile=sys.argv[1]); "
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[2]))); "
        "print(c.wrap_socket(s, server_hostname='localhost').version())"
    )
    done = portlease(
        *("run", "--", openssl, "s_server", "-accept", "{port}"),
        *("-key", str(key), "-cert", str(certificate), "--then", *client, certificate, "{port}"),
    )
    assert (done.returncode, done.stdout) == (0, "TLSv1.3\n"), done.stderr


def test_nginx(tmp_path: Path) -> None:
    """nginx, which forks, with the port in a file made of its environment by a shell."""
    nginx = need.program("nginx")
    config = (
        "pid nginx.pid; error_log stderr; daemon off; events {} http { access_log off; "
        "server { listen 127.0.0.1:$PORT; location / { return 204; } } }"
    )
    script = f"echo '{config}' | sed s/[$]PORT/$PORT/ >nginx.conf; exec {nginx} -p . -c nginx.conf"
    done = portlease(
        *("run", "--", "sh", "-c", f"cd {tmp_path}; {script}", "--then", *GET),
    )
    assert (done.returncode, done.stdout) == (0, "204\n"), done.stderr


# --- deeper readiness -----------------------------------------------------------------------------

# Listens at once, and answers /health with 503 three times before it says 200.
WARMS_UP = python("""\
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        print("asked", self.path, flush=True)
        self.send_response(503 if Handler.asked < 4 else 200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
""")


@pytest.mark.parametrize("ready", ["/health", "http://{host}:{port}/health"])
def test_ready_path_is_asked_until_it_is_answered(ready: str) -> None:
    """--ready /PATH, or a whole URL: the client starts after the first 2xx."""
    done = portlease("run", "-v", "--ready", ready, "--", *WARMS_UP, "--then", *GET)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert done.stderr.count("asked /health") == 4
    assert done.stderr.count("asked / ") + done.stderr.count("asked /\n") == 1


def test_ready_command_is_run_until_it_exits_with_0() -> None:
    """--ready CMD, with templates and the ports in its environment."""
    check = f"""{sys.executable} -c "
import os, sys, urllib.request as u
assert os.environ['PORT'] == sys.argv[1]
u.urlopen(f'http://127.0.0.1:{{port}}/health')" {{port}}"""
    done = portlease("run", "-v", "--ready", check, "--", *WARMS_UP, "--then", *GET)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert done.stderr.count("asked /health") == 4


@pytest.mark.parametrize(
    ("ready", "says"),
    [
        ("/nowhere", "GET http://127.0.0.1:"),
        ("sh -c 'echo no luck; exit 3'", "exit status 3, no luck"),
        ("sleep 60", "it took more than"),
    ],
)
def test_never_ready_is_status_124(ready: str, says: str) -> None:
    """What the last try was told is told."""
    done = late("--ready", ready, "--", *HTTP, says=says)
    assert "Serving HTTP" in done.stderr


def test_ready_may_be_repeated_and_look_at_the_log() -> None:
    """--ready and --ready-log: all of them, the log's first."""
    done = portlease(
        *("run", "-v", "--ready-log", "^asked /first", "--ready-log", "asked|never"),
        *("--ready", f"{sys.executable} -c ''", "--ready", "/second", "--", *python(TALKS)),
        *("--then", *GET),
    )
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    asked = [text for text in done.stderr.splitlines() if text.startswith("asked ")]
    assert asked == ["asked /first", "asked /second", "asked /"]


# Asks itself for /first, once it listens, and then serves.
TALKS = """\
import http.server, os, threading, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", self.path, flush=True)
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
url = f"http://127.0.0.1:{os.environ['PORT']}/first"
threading.Thread(target=lambda: urllib.request.urlopen(url).close()).start()
server.serve_forever()
"""


def test_a_pattern_that_never_comes_is_status_124() -> None:
    """It is told, in the words of the command line."""
    says = "'never' in its output: not written yet"
    done = late("--ready-log", "never", "--", *HTTP, says=says)
    assert "(--timeout), or another --ready" in done.stderr


def test_what_speaks_no_http_is_not_ready() -> None:
    """An answer that is none is told as such."""
    serve = python(
        "import os, socket; s = socket.create_server(('', int(os.environ['PORT'])))\n"
        "while True: s.accept()[0].sendall(b'SSH-2.0-x\\r\\n')"
    )
    late("--ready", "/", "--", *serve, says="no HTTP|reset")


def test_dying_before_it_is_ready_is_told_at_once() -> None:
    """A server that listens, and ends while it is asked."""
    serve = python(
        "import os, socket; s = socket.create_server(('', int(os.environ['PORT']))); s.accept(); "
        "os._exit(5)"
    )
    done = portlease("run", "--ready", "/", "--", *serve, "--then", "true")
    assert done.returncode == 5
    assert "before it was ready" in done.stderr


# --- signals, and nothing left behind -------------------------------------------------------------

SLEEPER = (
    "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "print(os.getpid(), flush=True); signal.pause()"
)


def _server_that_tells(path: Path) -> tuple[str, ...]:
    """A server that writes its process id to a file before it listens."""
    return python(
        f"import os, signal, socket; open({str(path)!r}, 'w').write(str(os.getpid())); "
        "s = socket.create_server(('', int(os.environ['PORT']))); signal.pause()"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_server_does_not_outlive_us(number: signal.Signals, tmp_path: Path) -> None:
    """A signal reaches the client; the server is stopped, also when we are killed."""
    told = tmp_path / "pid"
    with started("run", "--", *_server_that_tells(told), "--then", *python(SLEEPER)) as run:
        pids = [int(line(run)), int(told.read_text())]
        with watched(pids) as all_ended:
            status, _, _ = end(run, number)
            assert all_ended() == []
    assert status == (-number if number == signal.SIGKILL else 128 + number)


def test_interrupted_before_the_server_is_ready(tmp_path: Path) -> None:
    """SIGINT while it starts: it is stopped, no client is run, status 130."""
    told = tmp_path / "pid"
    serve = python(
        "import os, signal; print('a look at the disk', flush=True); "
        f"open({str(told)!r}, 'w').write(f'{{os.getpid()}}.'); signal.pause()"
    )
    with started("run", "--", *serve, "{prt}", "--then", "echo", "never") as run:
        wait_for(lambda: told.exists() and told.read_text().endswith("."))
        with watched([int(told.read_text()[:-1])]) as all_ended:
            status, out, err = end(run, signal.SIGINT)
            assert all_ended() == []
    assert (status, out) == (130, "")
    waited, whose, said, hint = err.splitlines()
    # What is waited for first is that it has been started, which it may know sooner than we.
    assert re.search(r"was not ready yet; still waited for (port \d+ to listen|its start)$", waited)
    assert whose.startswith("portlease: the last output of ")
    assert said.strip() == "a look at the disk"
    assert "did you mean {port}?" in hint


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("whose", ["server", "client"])
def test_a_misspelt_template_is_told_when_something_fails(whose: str, n: int) -> None:
    """The server's or the client's, also without --verbose."""
    fails, passes = (*python("exit(3)"), "{prt}"), python("")
    server, client = (fails, passes) if whose == "server" else (HTTP, fails)
    done = portlease("run", "-n", n, "--", *server, "--then", *client)
    assert done.returncode == 3
    assert done.stderr.count("{prt} stays as it is; did you mean {port}? ") == 1


def test_a_server_that_is_done_before_it_listened_is_status_125() -> None:
    """There is no status of its own to pass on; `run --help` says so."""
    done = portlease("run", "--", "true", "{port}", "--then", "true")
    assert done.returncode == 125
    told = " ".join(portlease("run", "--help").stdout.split())
    assert "125 no port, or the server ended with 0 before it was ready." in told


def test_a_server_that_ends_with_its_standard_input_is_served() -> None:
    """Nobody types, but the terminal is not gone: the server's standard input does not end."""
    serve = python(
        "import os, socket, sys, threading as t; "
        "s = socket.create_server(('', int(os.environ['PORT']))); "
        "t.Thread(target=lambda: (sys.stdin.read(), os._exit(3))).start(); s.accept()[0].send(b'x')"
    )
    client = python(
        "import os, socket; s = socket.create_connection(('127.0.0.1', int(os.environ['PORT']))); "
        "print(s.recv(1))"
    )
    done = portlease("run", "--", *serve, "--then", *client)
    assert (done.returncode, done.stdout) == (0, "b'x'\n")


def test_a_server_that_does_not_end_is_killed_and_told() -> None:
    """SIGTERM, --stop-timeout, SIGKILL, and a sentence; the status stays the client's."""
    serve = python(
        "import os, signal, socket; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "s = socket.create_server(('', int(os.environ['PORT'])))\nwhile True: signal.pause()"
    )
    done = portlease("run", "--stop-timeout", "0.2", "--", *serve, "--then", "true")
    assert done.returncode == 0
    assert "was ended by SIGKILL" in done.stderr
    assert "--stop-timeout" in done.stderr
    assert "stop_" not in done.stderr
    assert "Warning" not in done.stderr


def test_json_is_one_document() -> None:
    """--json: the client's output is in it, and nothing else is on standard output."""
    done = portlease("run", "--json", "--", *HTTP, "--then", *GET)
    told = json.loads(done.stdout)
    (run,) = told["runs"]
    assert (done.returncode, told["status"], done.stderr) == (0, 0, "")
    assert (run["result"], run["status"], run["error"], run["starts"]) == ("ok", 0, None, 1)
    assert run["output"] == "200\n"
    assert (run["how"], run["errors"]) == ("offer", "")
    assert "SO_REUSEADDR" in run["why"]
    assert run["ready_s"] > 0
    assert list(run["ports"]) == ["port"]
