"""serve(): the server inherits a socket that listens already, and its lease is HELD."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

import portlease
from _processes import HANG_S, watched
from _serving import HTTP, TINY, ask, beset, get, python
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from portlease import HowWarning, ServerDiedError, ServerTimeoutError, UsageError, serve
from portlease._platform import backend
from portlease._server import _handover

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="no second socket beside a hold elsewhere"
)

BY_NUMBER = """
import _socket
server = _socket.socket(fileno={fd})
server.listen(16)
while True:
    fd, _ = server._accept()
    client = _socket.socket(fileno=fd)
    client.sendall(b"tiny")
    client.close()
"""

BY_LISTEN_FDS = """
import os, _socket
assert int(os.environ["LISTEN_PID"]) == os.getpid()
names = os.environ["LISTEN_FDNAMES"].split(":")
print(names, os.environ["LISTEN_FDS"], flush=True)
server = _socket.socket(fileno=3 + names.index("port"))
server.listen(16)
while True:
    fd, _ = server._accept()
    client = _socket.socket(fileno=fd)
    client.sendall(b"tiny")
    client.close()
"""

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"asgi"})
"""


@pytest.fixture
def asgi(tmp_path: Path) -> Path:
    """A folder with the module app."""
    (tmp_path / "app.py").write_text(ASGI, encoding="utf-8")
    return tmp_path


def test_by_number() -> None:
    """{fd} in the command asks for it: the server serves on it, beside a lease that stays HELD."""
    with serve(python(BY_NUMBER)) as server:
        assert ask(server) == b"tiny"
        assert (server.how, server.starts, server.lease.state) == ("hand-over", 1, "HELD")
        assert "descriptor" in server.why


def test_by_listen_fds() -> None:
    """how="hand-over" tells any other command by LISTEN_FDS, as systemd does; all of its ports."""
    command = [sys.executable, "-c", BY_LISTEN_FDS]
    with serve(command, ports={"admin": "tcp"}, how="hand-over") as server:
        assert ask(server) == b"tiny"
        assert server.how == "hand-over"
        assert {one.state for one in server.leases.values()} == {"HELD"}
        assert server.output == "['port', 'admin'] 2\n"


def test_uvicorn(asgi: Path) -> None:
    """A known server is handed its socket by itself, and is ready when it has taken it over."""
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "{port}"]
    with serve(command, cwd=asgi) as server:
        assert get(server) == b"HTTP/1.1 200 OK"
        assert (server.how, server.starts, server.lease.state) == ("hand-over", 1, "HELD")
        assert "--fd" in server.argv
        assert "uvicorn" in server.why
        with watched(server.process.tree()) as wait_all:
            server.restart()
            assert wait_all() == []
        assert get(server) == b"HTTP/1.1 200 OK"
    with serve(command, cwd=asgi, how="offer") as server:
        assert get(server) == b"HTTP/1.1 200 OK"
        assert (server.how, server.lease.state) == ("offer", "OFFERED")
        assert "--port" in server.argv


def test_restarts_under_attack() -> None:
    """Between two starts nobody can bind the port, though the server's socket is a new one."""
    with serve(python(BY_NUMBER)) as server, beset(server.port, socket.SOCK_STREAM) as taken:
        for _ in range(2):
            server.restart()
            assert ask(server) == b"tiny"
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            ask(server)
        server.restart()
        assert ask(server) == b"tiny"
        assert not taken
        assert (server.how, server.lease.state) == ("hand-over", "HELD")


def test_a_dead_server_is_not_connected_to() -> None:
    """We keep no copy of its socket: once it has died clients are refused, and not queued."""
    with serve(python(BY_NUMBER)) as server:
        server.process.kill()
        server.process.wait(HANG_S)
        server.process.wait_ended(HANG_S)
        with pytest.raises(ConnectionRefusedError):
            ask(server.lease.port)


def test_another_port_beside_it() -> None:
    """A port that is not handed over is offered, or stepped aside for, as ever."""
    code = """
        import _socket
        admin = _socket.socket()
        admin.bind(("127.0.0.1", {admin}))
        admin.listen()
    """
    plain = python(code)[-1] + BY_NUMBER
    with serve(python(plain.replace("admin.bind", OPTION + "admin.bind"))) as server:
        assert ask(server) == b"tiny"
        states = {name: str(one.state) for name, one in server.leases.items()}
        assert states == {"port": "HELD", "admin": "OFFERED"}
        assert server.how == "hand-over"


OPTION = "admin.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)\n"


def test_udp_and_tcp() -> None:
    """Both transports of one number, each its own socket, in the order of LISTEN_FDS."""
    code = """
        import os, socket
        sockets = [socket.socket(fileno=3 + i) for i in range(int(os.environ["LISTEN_FDS"]))]
        print(*[one.type.name for one in sockets], flush=True)
        data, sender = sockets[1].recvfrom(100)
        sockets[1].sendto(data, sender)
        sockets[0].accept()
    """
    command = [sys.executable, "-c", python(code)[-1]]
    with (
        serve(command, ports={"port": "both"}, how="hand-over") as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(HANG_S)
        client.sendto(b"hello", ("127.0.0.1", server.port))
        assert client.recv(100) == b"hello"
        assert server.lease.state == "HELD"
        assert server.output == "SOCK_STREAM SOCK_DGRAM\n"


@pytest.mark.parametrize("state", ["HELD", "OFFERED", "GUARDED"])
def test_a_lease_of_the_callers(state: str) -> None:
    """A given lease, in whatever state, is HELD for it, and stays the caller's afterwards."""
    with portlease.lease(offer=False) as lease:
        if state == "OFFERED":
            lease.offer()
        elif state == "GUARDED":
            lease.step_aside()
        with serve(python(BY_NUMBER), lease=lease) as server:
            assert ask(server) == b"tiny"
            assert lease.state == "HELD"
        assert lease.state == "HELD"
        with serve(python(TINY), lease=lease) as server:
            assert server.how == "offer"


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_preset_that_is_wrong(tmp_path: Path) -> None:
    """A program that is called like a known server and knows no --fd gets its port another way."""
    program = tmp_path / "uvicorn"
    code = "import sys\nif '--fd' in sys.argv: sys.exit('usage: no such option: --fd')\n" + TINY
    port = "int(sys.argv[sys.argv.index('--port') + 1])"
    program.write_text(f"#!{sys.executable}\n" + code.replace("{port}", port), encoding="utf-8")
    program.chmod(0o755)
    command = [str(program), "app:app", "--port", "{port}"]
    with serve(command) as server:
        assert ask(server) == b"tiny"
        assert (server.how, server.starts) == ("offer", 2)
    with serve(command) as server:  # which was remembered
        assert (server.how, server.starts) == ("offer", 1)
    with pytest.raises(ServerDiedError, match="no such option: --fd"):
        serve(command, how="hand-over")


def test_an_error_of_the_application_is_no_reason_to_try_again(tmp_path: Path) -> None:
    """A known server that says what else is wrong is started once."""
    (tmp_path / "app.py").write_text("1 / 0\n", encoding="utf-8")
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "{port}"]
    with pytest.raises(ServerDiedError, match="ZeroDivisionError") as caught:
        serve(command, cwd=tmp_path)
    assert "twice" not in str(caught.value)
    assert vars(caught.value)["how"] == "hand-over"


def test_a_server_that_never_takes_it(tmp_path: Path) -> None:
    """A known server that gives no sign is late, and the error says what it was handed."""
    program = tmp_path / "uvicorn"
    program.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(ServerTimeoutError, match=r"it was handed its socket.*how='offer'"):
        serve([str(program), "app:app", "--port", "{port}"], timeout_s=0.2)


def test_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for where no socket can be bound beside a hold: a warning, and the other means."""
    monkeypatch.setattr(_handover, "plan", lambda *_, **__: "the system has none")
    with pytest.warns(HowWarning, match="hand-over.*the system has none.*Instead") as told:
        server = serve(HTTP, how="hand-over")
    with server:
        assert told[0].filename == __file__
        assert server.how == "offer"
        assert "the system has none" in server.why
    with pytest.raises(UsageError, match=r"\{fd\}.*the system has none"):
        serve(python(BY_NUMBER))


def test_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where holds cannot be shared the lease steps aside, which needs no word if nobody asked."""
    monkeypatch.setattr(backend, "CAN_OFFER", False)
    with serve(HTTP) as server:
        assert (server.how, server.lease.state) == ("step-aside", "GUARDED")
        assert sys.platform in server.why
    with pytest.warns(HowWarning, match=sys.platform), serve(HTTP, how="hand-over") as server:
        assert server.how == "step-aside"


def test_braces_in_our_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the caller wrote is a template; our environment goes on as it is."""
    monkeypatch.setenv("PROMPT", "{fd} {port}")
    script = 'echo "$PROMPT"; exec "$@"'
    with serve(["sh", "-c", script, "sh", *python(TINY)]) as server:
        assert server.how == "offer"
        assert server.output == "{fd} {port}\n"


def test_nothing_stays_open() -> None:
    """Every start and stop closes what it has made."""
    before = open_descriptors()
    with serve(python(BY_NUMBER)) as server:
        while_it_runs = open_descriptors()
        for _ in range(3):
            server.restart()
        assert open_descriptors() == while_it_runs
    assert open_descriptors() == before


def open_descriptors() -> int:
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# --- Unix sockets ---------------------------------------------------------------------------------


def ask_unix(path: str) -> bytes:
    """Connect to a Unix socket and return what comes first."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_S)
        client.connect(path)
        return client.recv(100)


def test_a_unix_socket_beside_its_port() -> None:
    """It gets a path, is ready when it listens there, and comes back after a crash."""
    code = """
        import os, _socket
        assert os.environ["CTL_PATH"] == "{ctl}"
        ctl = _socket.socket(_socket.AF_UNIX)
        ctl.bind("{ctl}")
        ctl.listen()
    """
    serving = TINY.replace("server._accept", "ctl._accept")
    command = [sys.executable, "-c", python(code)[-1] + serving]
    with serve(command, ports={"ctl": "unix"}) as server:
        path = server.paths["ctl"]
        assert ask_unix(path) == b"tiny"
        assert set(server.ports) == {"port"}
        server.kill()
        assert Path(path).exists()
        server.restart()
        assert server.paths["ctl"] == path
        assert ask_unix(path) == b"tiny"
    assert not Path(path).parent.exists()
    only_tcp = python(TINY + "# {ctl}")
    with pytest.raises(ServerTimeoutError, match=r"not listen on .*Unix socket .* \(ctl\)"):
        serve(only_tcp, ports={"ctl": "unix"}, timeout_s=0.3)
    with serve(only_tcp, ports={"ctl": "unix"}, wait_for=["port"]) as server:
        assert ask(server) == b"tiny"


def test_a_unix_socket_is_handed_over() -> None:
    """By its descriptor, as a port is; clients may connect to its path."""
    code = BY_NUMBER.replace("{fd}", "{ctl_fd}") + "# {fd}"
    with serve(python(code), ports={"ctl": "unix"}) as server:
        assert ask_unix(server.paths["ctl"]) == b"tiny"
        server.restart()
        assert ask_unix(server.paths["ctl"]) == b"tiny"
    with pytest.raises(UsageError, match="main port"):
        serve(python(code), ports={"port": "unix"})
