"""Sockets handed over: what is planned, what the server inherits, and when it counts as ready."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import portlease
from _need import need
from _processes import HANG_S
from _thieves import run_python, silent
from portlease._server._handover import Plan, UnixPaths, Wanted, plan
from portlease._server._presets import BACKLOG, own_backlog
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.platform != "linux":
    pytest.skip("elsewhere nothing is bound beside a hold", allow_module_level=True)

from portlease._server._handed import _backlog_of, _somaxconn

HOSTS = {"port": "127.0.0.1", "dns": "127.0.0.1", "admin": "/run/admin"}


def planned(
    *args: str,
    env: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    asked: bool = False,
) -> Plan:
    """The plan for a command, of which there is one."""
    found = plan(args, env or {}, kinds or {"port": "tcp"}, HOSTS, asked=asked)
    assert isinstance(found, Plan), found
    return found


# --- planning -----------------------------------------------------------------------------------


def test_a_descriptor_that_is_named_is_handed_over() -> None:
    """In arguments or environment, asked for or not: only the ports whose {NAME_fd} occurs."""
    kinds = {"port": "tcp", "dns": "both", "admin": "unix"}
    found = planned("server", "{port}", env={"ADMIN": "{admin_fd}"}, kinds=kinds)
    assert found.sockets == (Wanted("admin", "unix", "/run/admin"),)
    assert found.names == {"admin"}
    assert (found.by_number, found.args) == (True, ("server", "{port}"))
    assert found.env_added == {"ADMIN_FD": "{admin_fd}"}
    found = planned("server", "{fd}", "{dns_fd}", kinds=kinds)
    assert [(one.name, one.transport) for one in found.sockets] == [
        ("port", "tcp"),
        ("dns", "tcp"),
        ("dns", "udp"),
    ]


def test_which_texts_are_templates_can_be_told() -> None:
    """A variable of the user's that happens to hold braces asks for nothing."""
    env = {"PS1": "{fd}"}
    found = plan(["server"], env, {"port": "tcp"}, HOSTS, asked=False, written=())
    assert found == "server is no server that is known to take a socket"


def test_asked_for_without_a_word_it_is_listen_fds() -> None:
    """All ports, in their order."""
    found = planned("server", kinds={"port": "tcp", "dns": "udp", "admin": "unix"}, asked=True)
    assert not found.by_number
    assert [one.name for one in found.sockets] == ["port", "dns", "admin"]
    assert found.env_added == {"PORT_FD": "{fd}", "DNS_FD": "{dns_fd}", "ADMIN_FD": "{admin_fd}"}
    assert (found.preset, found.sign) == (None, "exec")
    assert "LISTEN_FDS" in found.why
    assert "LISTEN_FDS" in found.hint


def test_a_preset_hands_over_the_main_port_alone() -> None:
    """The others stay as they would be."""
    found = planned(
        "uvicorn",
        "app",
        "--port",
        "{port}",
        "--root-path",
        "{admin}",
        kinds={"admin": "tcp", "port": "tcp"},
    )
    assert found.sockets == (Wanted("port", "tcp", "127.0.0.1", v6only=True),)
    assert found.env_added == {}
    assert found.why == "uvicorn takes a socket (--fd)"
    assert "{fd}" in found.hint


def test_a_preset_binds_where_the_command_says() -> None:
    """Not where the lease is."""
    found = planned("gunicorn", "app", "-b", "[::1]:{port}")
    assert found.sockets == (Wanted("port", "tcp", "::1"),)
    assert planned("gunicorn", "app", "-b", "{host}:{port}").sockets[0].address == "127.0.0.1"


def test_a_known_server_that_ignores_listen_fds_is_not_given_it() -> None:
    """It would try to bind beside its own socket; asked for, the reason is told."""
    for words in (["uvicorn", "app"], ["granian", "app", "--port", "{port}"]):
        found = plan(words, {}, {"port": "tcp"}, HOSTS, asked=True)
        assert isinstance(found, str)
        assert found.startswith(words[0])
    assert not planned("gunicorn", "app", asked=True).by_number
    assert not planned("haproxy", "-f", "x", asked=True).by_number


def test_a_preset_of_tcp_takes_no_udp_port() -> None:
    """It says so."""
    found = plan(["uvicorn", "a", "--port", "{port}"], {}, {"port": "udp"}, HOSTS, asked=False)
    assert found == "uvicorn takes a TCP socket, and the port is udp"


@given(st.integers(1, 10_000), st.lists(st.integers(0, 200).map(str)))
def test_our_backlog_is_nobody_elses(somaxconn: int, words: list[str]) -> None:
    """Not one that the command names, nor one that the kernel would cut to what it cuts theirs."""
    own = own_backlog(somaxconn, words)
    assert 0 <= own < somaxconn
    assert own == 0 or str(own) not in words
    assert own_backlog(4096, ["--port", "8000"]) == BACKLOG


# --- sockets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["node", "{fd}"], ["gunicorn", "{fd}"]])
def test_what_the_server_does_to_it_is_seen(words: list[str]) -> None:
    """Its listen(2), its O_NONBLOCK: on our copy, for they belong to the socket."""
    with (
        portlease.lease(offer=False) as lease,
        planned(*words).open({"port": lease}) as handed,
    ):
        (number,) = handed.values.values()
        assert handed.options == {"pass_fds": (number,)}
        assert not handed.adopted(tuple)
        with socket.socket(fileno=os.dup(number)) as copy:
            if words[0] == "node":
                os.set_blocking(number, False)  # as it does before; not enough
                assert not handed.adopted(tuple)
                copy.listen(7)
            else:
                copy.settimeout(0)
        assert handed.adopted(tuple)


def test_what_a_server_would_have_set_is_set_for_it() -> None:
    """uvicorn: TCP_NODELAY, which connections inherit. nginx: O_NONBLOCK. Others: neither.

    Without the first, each answer of uvicorn's in two writes takes 44 ms in place of 0.5.
    """
    found = []
    for words in (["uvicorn", "a", "--port", "{port}"], ["nginx", "{fd}"], ["server", "{fd}"]):
        with portlease.lease(offer=False) as lease, planned(*words).open({"port": lease}) as handed:
            number = handed.values["fd"]
            blocking = os.get_blocking(number)
            with (
                socket.socket(fileno=os.dup(number)) as copy,
                socket.create_connection(("127.0.0.1", lease.port), timeout=HANG_S),
            ):
                accepted, _ = copy.accept()
                with accepted:
                    nodelay = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            found.append((bool(nodelay), blocking))
    assert found == [(True, True), (False, False), (False, True)]


def test_of_an_unknown_server_nothing_is_awaited() -> None:
    """It is ready as soon as it was executed; its queue is as long as may be."""
    with (
        portlease.lease(offer=False) as lease,
        planned("server", asked=True).open({"port": lease}) as handed,
    ):
        assert handed.adopted(tuple)
        assert handed.values == {"fd": 3}
        ((name, number),) = handed.options["listen_fds"]
        assert name == "port"
        with socket.socket(fileno=os.dup(number)) as copy:
            assert _backlog_of(copy) == min(4096, _somaxconn())


def test_opening_fails_whole() -> None:
    """A lease that holds nothing: what was made before it is closed again."""
    need.capability("proc")
    found = planned("server", kinds={"port": "tcp", "dns": "tcp"}, asked=True)
    with portlease.lease(offer=False) as one, portlease.lease() as other:
        other.step_aside()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number
        with pytest.raises(portlease.LeaseStateError):
            found.open({"port": one, "dns": other})
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_with_standard_input_closed_the_number_is_still_above_two() -> None:
    """The server has its standard three there."""
    script = """
    import os, portlease
    from portlease._server._handover import plan
    with portlease.lease(offer=False) as lease:
        os.close(0)
        found = plan(["server", "{fd}"], {}, {"port": "tcp"}, {"port": "127.0.0.1"}, asked=False)
        with found.open({"port": lease}) as handed:
            print(handed.values["fd"] > 2)
    """
    assert silent(run_python(script)) == "True\n"


def test_unix_paths() -> None:
    """In a folder of this user's alone, that goes with close()."""
    paths = UnixPaths(["admin", "log"])
    try:
        admin = Path(paths.paths["admin"])
        assert admin.parent == Path(paths.paths["log"]).parent
        assert stat.S_IMODE(admin.parent.stat().st_mode) == 0o700
    finally:
        paths.close()
    assert not admin.parent.exists()
    paths.close()
    nothing = UnixPaths([])
    assert nothing.paths == {}
    nothing.close()


def test_unix_paths_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what would help, and leaves nothing."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(portlease.UsageError, match="TMPDIR"):
        UnixPaths(["admin"])
    assert list(folder.iterdir()) == []


# --- real servers -------------------------------------------------------------------------------

# By the rules of sd_listen_fds(3), written anew: it answers each client with what it was given.
ACTIVATED = """\
import json, os, select, socket, sys
if "LISTEN_FDS" in os.environ:
    assert int(os.environ["LISTEN_PID"]) == os.getpid(), "not for us"
    count = int(os.environ["LISTEN_FDS"])
    names = os.environ["LISTEN_FDNAMES"].split(":")
    assert len(names) == count
    fds = dict(zip(range(3, 3 + count), names))
else:
    fds = {int(word): "by number" for word in sys.argv[1:]}
sockets = [socket.socket(fileno=fd) for fd in fds]
while True:
    for sock in select.select(sockets, [], [])[0]:
        said = {"name": fds[sock.fileno()], "argv": sys.argv[1:], "pid": os.getpid()}
        said["env"] = {k: v for k, v in os.environ.items() if k.endswith("_FD")}
        if sock.type == socket.SOCK_DGRAM:
            _, client = sock.recvfrom(99)
            sock.sendto(json.dumps(said).encode(), client)
        else:
            client, _ = sock.accept()
            client.sendall(json.dumps(said).encode())
            client.close()
"""


@pytest.fixture
def activated(tmp_path: Path) -> list[str]:
    """A server that knows sockets only by inheritance."""
    script = tmp_path / "activated.py"
    script.write_text(ACTIVATED, encoding="utf-8")
    return [sys.executable, "-I", str(script)]


def ask(port: int) -> Any:  # noqa: ANN401 - JSON
    """What it answers to a TCP client."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as client:
        return _read(client)


def ask_udp(port: int) -> Any:  # noqa: ANN401 - JSON
    """What it answers to a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(HANG_S)
        client.sendto(b"?", ("127.0.0.1", port))
        return json.loads(client.recv(9999))


def ask_unix(path: str) -> Any:  # noqa: ANN401 - JSON
    """What it answers at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_S)
        client.connect(path)
        return _read(client)


def _read(client: socket.socket) -> Any:  # noqa: ANN401 - JSON
    with client.makefile() as file:
        return json.loads(file.read())


def test_listen_fds_several_named_sockets_and_restarts(activated: list[str]) -> None:
    """TCP, another, both on one number; after a restart and a kill on the same ports, all HELD."""
    with portlease.serve(
        activated, ports={"admin": "tcp", "dns": "both"}, how="hand-over"
    ) as server:
        assert server.how == "hand-over"
        pids = set()
        for again in (server.restart, server.restart, lambda: None):
            admin, dns = server.ports["admin"], server.ports["dns"]
            assert ask(server.port)["name"] == "port"
            assert ask(admin)["name"] == "admin"
            assert ask(dns)["name"] == ask_udp(dns)["name"] == "dns"
            said = ask(admin)
            assert sorted(said["env"]) == ["ADMIN_FD", "DNS_FD", "PORT_FD"]
            assert set(said["env"].values()) < {"3", "4", "5", "6"}
            pids.add(said["pid"])
            assert {lease.state for lease in server.leases.values()} == {"HELD"}
            again()
        assert len(pids) == 3


def test_by_number_in_arguments(activated: list[str]) -> None:
    """{fd} and {admin_fd} are what it sees them as; LISTEN_FDS is not set beside."""
    with portlease.serve([*activated, "{fd}", "{admin_fd}"]) as server:
        for port in server.ports.values():
            said = ask(port)
            assert said["name"] == "by number"
            assert [said["env"]["PORT_FD"], said["env"]["ADMIN_FD"]] == said["argv"]
        assert (server.how, server.lease.state) == ("hand-over", "HELD")


def test_clients_connect_before_the_server_is_up(activated: list[str]) -> None:
    """The queue keeps them: here each connects while the interpreter still starts."""
    with portlease.lease(offer=False) as lease:
        with planned(*activated, asked=True).open({"port": lease}) as handed:
            clients = [socket.create_connection(("127.0.0.1", lease.port)) for _ in range(5)]
            process = Process.start(activated, **handed.options)
        with process:
            for client in clients:
                with client:
                    client.settimeout(HANG_S)
                    assert _read(client)["pid"] == process.pid
        assert lease.state == "HELD"


def test_unix_sockets_beside_tcp(activated: list[str]) -> None:
    """Named as the ports are; one that was left there by an earlier start is replaced."""
    paths = UnixPaths(["admin"])
    try:
        kinds, hosts = {"port": "tcp", "admin": "unix"}, {"port": "127.0.0.1", **paths.paths}
        found = plan(activated, {}, kinds, hosts, asked=True)
        assert isinstance(found, Plan)
        with portlease.lease(offer=False) as lease:
            for _ in range(2):
                with found.open({"port": lease}) as handed:
                    process = Process.start(activated, **handed.options)
                with process:
                    assert ask(lease.port)["name"] == "port"
                    assert ask_unix(paths.paths["admin"])["name"] == "admin"
    finally:
        paths.close()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    """The bind fails instead."""
    path = tmp_path / "precious"
    path.write_text("data", encoding="utf-8")
    found = plan(["s", "{x_fd}"], {}, {"port": "tcp", "x": "unix"}, {"x": str(path)}, asked=False)
    assert isinstance(found, Plan)
    with pytest.raises(OSError, match="in use"):
        found.open({})
    assert path.read_text(encoding="utf-8") == "data"


def test_a_server_that_dies_leaves_no_queue_behind(activated: list[str]) -> None:
    """Nobody but the server has the socket then: its clients are told at once."""
    with portlease.serve([*activated, "{fd}"]) as server:
        port = server.port
        server.kill()
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", port))
        server.restart()
        assert ask(port)["name"] == "by number"


LIGHTTPD = """\
server.document-root = "{folder}"
server.errorlog = "/dev/stderr"
server.systemd-socket-activation = "enable"
server.port = {port}
server.bind = "127.0.0.1"
"""


def test_lighttpd_by_listen_fds(tmp_path: Path) -> None:
    """A server that we did not write, by the protocol alone."""
    lighttpd = need.program("lighttpd")
    (tmp_path / "x.txt").write_text("yes", encoding="utf-8")
    config = tmp_path / "lighttpd.conf"
    with portlease.lease(host="127.0.0.1", offer=False) as lease:
        config.write_text(LIGHTTPD.format(folder=tmp_path, port=lease.port), encoding="utf-8")
        with portlease.serve(
            [lighttpd, "-D", "-f", config], lease=lease, how="hand-over"
        ) as server:
            for _ in range(2):
                url = f"{server.url()}/x.txt"
                with urllib.request.urlopen(url, timeout=HANG_S) as answer:  # noqa: S310 - ours
                    assert answer.read() == b"yes"
                server.restart()
            assert lease.state == "HELD"
