"""``portlease run --how``: each means, alone, with a client and many times; told, and why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from _cli import HTTP, PORTLEASE, end, environment, line, portlease, python, started
from _need import need

if sys.platform != "linux":
    pytest.skip("two of the four means are Linux's", allow_module_level=True)

FORBID = (sys.executable, str(Path(__file__).with_name("_forbid.py")))
PIDFD_GETFD, EPERM = 438, 1

# Tells the state of its lease, and serves one client on the port, whatever the means.
SERVER = """\
import os, socket, sys, portlease
port = int(os.environ["PORT"])
state = [str(one.state) for one in portlease.leases() if one.port == port]
if "LISTEN_FDS" in os.environ or len(sys.argv) > 1:
    server = socket.socket(fileno=int(sys.argv[1]) if len(sys.argv) > 1 else 3)
else:
    server = socket.socket()
    if "PLAIN" not in os.environ:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
client, _ = server.accept()
client.sendall(" ".join(state).encode())
client.recv(1)
"""
CLIENT = """\
import os, socket
with socket.create_connection(("127.0.0.1", int(os.environ["PORT"]))) as client:
    print(client.recv(99).decode())
"""

STATES = {"offer": "OFFERED", "step-aside": "GUARDED", "broker": "HELD", "hand-over": "HELD"}


def broker() -> None:
    """Skip where none can be had."""
    need.capability("subreaper")
    need.capability("seccomp")


@pytest.fixture(params=STATES)
def how(request: pytest.FixtureRequest) -> str:
    """Each of the four."""
    if request.param == "broker":
        broker()
    return str(request.param)


def test_each_with_a_client(how: str) -> None:
    """The server gets its port, its lease is in the state that this means has, and JSON tells."""
    done = portlease(
        "run", "--json", "--how", how, "--", *python(SERVER), "--then", *python(CLIENT)
    )
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["how"], run["output"]) == (how, f"{STATES[how]}\n"), run
    assert run["why"]
    assert done.stderr == ""


def test_each_many_times(how: str) -> None:
    """-n: each of them, and --verbose tells it for each."""
    done = portlease(
        "run", "-v", "-n", 2, "--how", how, "--", *python(SERVER), "--then", *python(CLIENT)
    )
    assert (done.returncode, done.stdout) == (0, f"{STATES[how]}\n" * 2), done.stderr
    for number in (1, 2):
        assert f"portlease: {number}: how: {how}, because " in done.stderr


@pytest.mark.parametrize("options", [(), ("--timeout", "30")])
def test_each_alone(how: str, options: tuple[str, ...]) -> None:
    """In the foreground: the output and the status are the command's; --verbose tells how."""
    show = (
        "import os, socket, portlease; port = int(os.environ['PORT'])\n"
        "if 'LISTEN_FDS' in os.environ: server = socket.socket(fileno=3)\n"
        "else: server = socket.create_server(('127.0.0.1', port))\n"
        "print(*[str(one.state) for one in portlease.leases() if one.port == port], flush=True)\n"
        "print(server.getsockname()[1] == port, flush=True)\n"
        "input(); os._exit(7)"
    )
    with started(
        "run", "-v", *options, "--how", how, "--", *python(show), stdin=subprocess.PIPE
    ) as run:
        assert [line(run), line(run)] == [STATES[how], "True"]
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
        status, _, err = end(run)
    assert status == 7
    assert f"portlease: how: {how}, because " in err


def test_the_means_is_told_alone_as_json() -> None:
    """--json: the event that says it runs has how and why."""
    done = portlease("run", "--json", "--how", "offer", "--", *python(""))
    events = [json.loads(text) for text in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["started", "ended"]
    assert events[0]["how"] == "offer"
    assert events[0]["why"] == "--how offer was asked for"


def test_a_plain_bind_is_held_by_the_broker_and_needs_no_second_start() -> None:
    """Without SO_REUSEADDR: the broker binds beside the hold; else the lease has to step aside."""
    broker()
    words = ("-e", "PLAIN=1", "--", *python(SERVER), "--then", *python(CLIENT))
    done = portlease("run", "--how", "broker", *words)
    assert (done.returncode, done.stdout) == (0, "HELD\n"), done.stderr
    done = portlease("run", "-v", *words)
    assert (done.returncode, done.stdout) == (0, "GUARDED\n"), done.stderr
    assert "started twice" in done.stderr
    assert "how: step-aside, because it does not set SO_REUSEADDR" in done.stderr


def test_redis_under_the_broker() -> None:
    """redis-server and its own client; the verbose output says what was done."""
    broker()
    redis, client = need.program("redis-server"), need.program("redis-cli")
    done = portlease(
        *("run", "-v", "--how", "broker", "--", redis, "--port", "{port}", "--save", ""),
        *("--then", client, "-p", "{port}", "ping"),
    )
    assert (done.returncode, done.stdout) == (0, "PONG\n"), done.stderr
    assert "portlease: how: broker, because --how broker was asked for" in done.stderr


# --- where it cannot be had -----------------------------------------------------------------------


def without_pidfd_getfd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run portlease where a seccomp profile forbids what the broker needs, as Docker's own does."""
    need.capability("seccomp")
    forbid = [*FORBID, str(PIDFD_GETFD), str(EPERM)]
    return subprocess.run(
        [*forbid, *PORTLEASE, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )


def test_a_broker_that_cannot_be_had_is_told_with_what_is_done_instead() -> None:
    """The reason, the remedy and the substitute, in the words of the command line, once."""
    done = without_pidfd_getfd(
        "run", "-v", "--how", "broker", "--", *HTTP, "--then", *python("print('done')")
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    told = [text for text in done.stderr.splitlines() if "cannot be had for" in text]
    assert len(told) == 1
    assert told[0].startswith("portlease: --how broker cannot be had for ")
    assert "pidfd_getfd" in told[0]
    assert "--cap-add SYS_PTRACE" in told[0]
    assert "how: offer, because --how broker cannot be had" in done.stderr
    assert "how=" not in done.stderr
    assert "Warning" not in done.stderr


def test_alone_without_a_broker_a_plain_bind_gets_its_port_all_the_same() -> None:
    """Nobody would see why it failed beside the hold, so the lease steps aside for it."""
    source = """\
import os, socket
with socket.socket() as server:
    server.bind(("127.0.0.1", int(os.environ["PORT"])))
    server.listen()
print("up")
"""
    done = without_pidfd_getfd("run", "--how", "broker", "--", *python(source))
    assert (done.returncode, done.stdout) == (0, "up\n"), done.stderr
    assert "--how broker cannot be had" in done.stderr


# --- sockets handed over --------------------------------------------------------------------------


def test_fd_in_the_arguments_is_a_socket_that_listens() -> None:
    """{fd}: nothing else has to be said; the client is the same."""
    done = portlease("run", "-v", "--", *python(SERVER), "{fd}", "--then", *python(CLIENT))
    assert (done.returncode, done.stdout) == (0, "HELD\n"), done.stderr
    assert "how: hand-over, because " in done.stderr
    assert "stays as it is" not in done.stderr


def test_fd_alone_in_the_foreground() -> None:
    """{fd} and {admin_fd}, without a client; PORT names the same port."""
    source = """\
import os, socket, sys
names = [socket.socket(fileno=int(fd)).getsockname()[1] for fd in sys.argv[1:]]
print(names == [int(os.environ["PORT"]), int(os.environ["ADMIN_PORT"])])
"""
    done = portlease("run", "--port", "admin", "--", *python(source), "{fd}", "{admin_fd}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_listen_fds_are_named_and_for_the_command_itself() -> None:
    """LISTEN_PID is its own pid, LISTEN_FDNAMES the ports' names."""
    source = """\
import os
print(os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_FDS"])
print(sorted(os.environ["LISTEN_FDNAMES"].split(":")))
"""
    done = portlease("run", "--how", "hand-over", "--port", "admin", "--", *python(source))
    assert (done.returncode, done.stdout) == (0, "True 2\n['admin', 'port']\n"), done.stderr


def test_another_means_with_fd_is_a_contradiction() -> None:
    """It is told before anything is started, with status 2."""
    done = portlease("run", "--how", "broker", "--", *python(""), "{fd}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "leave --how broker out" in done.stderr


def test_a_server_that_takes_no_socket_gets_a_hint() -> None:
    """One that binds all the same fails; whose fault that is is said."""
    redis, client = need.program("redis-server"), need.program("redis-cli")
    done = portlease(
        *("run", "--how", "hand-over", "--", redis, "--port", "{port}", "--save", ""),
        *("--then", client, "-p", "{port}", "-t", "1", "ping"),
    )
    assert done.returncode != 0
    assert "--how offer" in done.stderr


def test_alone_a_server_that_takes_no_socket_gets_the_same_hint() -> None:
    """The state of the lease, the means and the remedy in one line, behind the server's own."""
    redis = need.program("redis-server")
    done = portlease("run", "--how", "hand-over", "--", redis, "--port", "{port}", "--save", "")
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert "was HELD (how: hand-over): it is handed its sockets by LISTEN_FDS" in told
    assert told.endswith("; if it takes no socket, leave --how out, or say --how offer")


def test_alone_a_server_that_cannot_bind_beside_an_offer_gets_a_hint() -> None:
    """It sets no SO_REUSEADDR; the remedy that is named does help."""
    source = """\
import os, socket
with socket.socket() as server:
    server.bind(("127.0.0.1", int(os.environ["PORT"])))
"""
    done = portlease("run", "--how", "offer", "--", *python(source))
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert "was OFFERED (how: offer): only a server that sets SO_REUSEADDR" in told
    assert "leave --how out, or say --how step-aside" in told
    assert portlease("run", "--", *python(source)).returncode == 0


# --- Unix sockets ---------------------------------------------------------------------------------

# Serves one client on a Unix socket: by its path, or by its descriptor.
UNIX = """\
import os, socket, sys
with socket.create_server(("127.0.0.1", int(os.environ["PORT"]))):
    if sys.argv[1] == "path":
        assert sys.argv[2] == os.environ["CTL_PATH"]
        server = socket.socket(socket.AF_UNIX)
        server.bind(sys.argv[2])
        server.listen()
    else:
        server = socket.socket(fileno=int(sys.argv[2]))
    client, _ = server.accept()
    client.sendall(b"by " + sys.argv[1].encode())
    client.recv(1)
"""
UNIX_CLIENT = """\
import os, socket, sys
assert sys.argv[1] == os.environ["CTL_PATH"]
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    print(client.recv(99).decode(), sys.argv[1])
"""


@pytest.mark.parametrize(("by", "template"), [("path", "{ctl}"), ("fd", "{ctl_fd}")])
def test_a_unix_socket_has_a_path_for_both_and_is_gone_in_the_end(by: str, template: str) -> None:
    """--unix NAME: {NAME} and NAME_PATH are the path; {NAME_fd} is the socket itself."""
    done = portlease(
        *("run", "--unix", "ctl", "--", *python(UNIX), by, template),
        *("--then", *python(UNIX_CLIENT), "{ctl}"),
    )
    assert done.returncode == 0, done.stderr
    *answer, path = done.stdout.split()
    assert answer == ["by", by]
    assert not Path(path).parent.exists()


def test_a_unix_socket_alone_and_in_json() -> None:
    """In the foreground its path is told, by the event that says that the command runs."""
    show = python("import os, sys; print(sys.argv[1] == os.environ['CTL_PATH'])")
    done = portlease("run", "--json", "--unix", "ctl", "--", *show, "{ctl}")
    assert done.stdout == "True\n"
    told = json.loads(done.stderr.splitlines()[0])
    assert told["event"] == "started"
    assert list(told["ports"]) == ["port"]
    assert list(told["paths"]) == ["ctl"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--unix", "port"], "cannot be a Unix socket"),
        (["--unix", "ctl", "--port", "ctl"], "--unix ctl is the name of a port already"),
    ],
)
def test_a_unix_socket_has_a_name_of_its_own(options: list[str], says: str) -> None:
    """Not the main port's, nor another's."""
    done = portlease("run", *options, "--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
