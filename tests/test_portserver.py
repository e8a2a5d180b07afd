"""The port server: portpicker's own client against it, and clients that mean no good."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portlease
from _cli import end, started
from _need import need
from _processes import HANG_S, watched

if sys.platform != "linux":
    pytest.skip("Linux has pidfds and abstract sockets", allow_module_level=True)

from portlease import UsageError, _portserver
from portlease._platform import _linux_proc, backend
from portlease._portserver import PortServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Told:
    """What the server says, and a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()

    def __call__(self, line: str) -> None:
        """Note a line."""
        with self._news:
            self.lines.append(line)
            self._news.notify_all()

    def wait_for(self, words: str) -> None:
        """Wait until a line has *words* in it."""
        with self._news:
            assert self._news.wait_for(lambda: any(words in x for x in self.lines), HANG_S), (
                self.lines
            )


@contextlib.contextmanager
def serving(**options: object) -> Iterator[tuple[PortServer, Told]]:
    """A port server in a thread, on an address of its own."""
    told = Told()
    address = f"@portlease-test-{secrets.token_hex(8)}"
    with (
        PortServer(address, tell=told, **options) as server,  # type: ignore[arg-type]
        server.in_background(),
    ):
        yield server, told


@contextlib.contextmanager
def connected(server: PortServer) -> Iterator[socket.socket]:
    """A client that has not asked yet."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_S)
        address = server.address
        client.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        yield client


def ask(server: PortServer, request: bytes) -> bytes:
    """Ask as portpicker does; what comes until the server hangs up."""
    with connected(server) as client:
        client.sendall(request)
        answer = b""
        while part := client.recv(1024):
            answer += part
        return answer


def mine(port: int) -> list[portlease.LeaseInfo]:
    """The leases of a port."""
    return [one for one in portlease.leases() if one.port == port]


def test_a_port_is_guarded_and_free_for_tcp_and_udp() -> None:
    """Outside the ephemeral range, labelled, and any bind of the number succeeds."""
    with serving() as (server, _):
        port = int(ask(server, b"%d\n" % os.getpid()))
        (info,) = mine(port)
        assert (str(info.state), info.kind) == ("GUARDED", "both")
        assert str(os.getpid()) in (info.label or "")
        assert not backend.rules().is_ephemeral(port)
        for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
            with socket.socket(type=kind) as sock:
                sock.bind(("", port))
        assert server.count == 1
    assert not mine(port)


def test_portpickers_own_client() -> None:
    """As it is released, by its environment variable: all ports different."""
    with serving() as (server, told):
        source = """
        import portpicker, sys
        ports = [portpicker.pick_unused_port() for _ in range(20)]
        assert len(set(ports)) == 20
        print(*ports)
        sys.stdin.read()
        """
        client = subprocess.Popen(
            [sys.executable, "-c", "\n".join(line[8:] for line in source.splitlines())],
            env={**os.environ, "PORTSERVER_ADDRESS": server.address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with client:
            assert client.stdout is not None
            ports = [int(word) for word in client.stdout.readline().split()]
            assert len(ports) == 20
            leased = {one.port for one in portlease.leases()}
            assert leased >= set(ports)
            client.kill()
        told.wait_for("20 of its ports are free again")
        assert server.count == 0
        assert not {one.port for one in portlease.leases()} & set(ports)


def test_ports_go_back_when_the_process_ends() -> None:
    """On SIGKILL, for each process its own."""
    with serving() as (server, told):
        with contextlib.ExitStack() as stack:
            first, second = (
                stack.enter_context(subprocess.Popen(["sleep", "60"])) for _ in range(2)
            )
            try:
                kept = int(ask(server, b"%d\n" % first.pid))
                gone = [int(ask(server, b"%d\n" % second.pid)) for _ in range(2)]
                second.send_signal(signal.SIGKILL)
                second.wait()
                told.wait_for("2 of its ports")
                assert mine(kept)
                assert not any(mine(port) for port in gone)
                assert server.count == 1
            finally:
                first.kill()
                second.kill()
        told.wait_for(f"process {first.pid} has ended")


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"x\n", b"-1\n", b"0\n", b"1\n", b"1 2\n", b"\xff\xfe", b"9" * 90, b"99999999\n",
     "٣\n".encode(), b"GET / HTTP/1.0\r\n\r\n"],
)  # fmt: skip
def test_garbage_gets_nothing(request_: bytes) -> None:
    """One line for the client, the same for the operator; and the next client is served."""
    with serving() as (server, told):
        before = int(ask(server, b"%d" % os.getpid()))
        answer = ask(server, request_).decode()
        assert answer.endswith("\n")
        assert not answer[0].isdigit()
        assert told.lines[1:] == answer.splitlines()
        assert mine(before)
        assert int(ask(server, b"%d" % os.getpid())) > 0


def test_a_silent_client_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing holds a descriptor for a while, and nobody up."""
    monkeypatch.setattr(_portserver, "_PATIENCE_S", 0.1)
    with serving() as (server, told), connected(server) as silent:
        assert int(ask(server, b"%d\n" % os.getpid())) > 0
        assert silent.recv(1) == b""
        told.wait_for("asked for nothing")


def test_a_client_that_hangs_up_before_the_answer_leaves_no_lease() -> None:
    """The port that nobody will read goes back at once."""
    with serving() as (server, told):
        with connected(server) as client:
            client.sendall(b"%d\n" % os.getpid())
            client.shutdown(socket.SHUT_RD)
            client.close()
        assert int(ask(server, b"%d\n" % os.getpid())) > 0
        told.wait_for("is process")
        assert server.count in {1, 2}  # the answer may have come before the end


def test_given_ports_run_out() -> None:
    """When all are out the client gets nothing, and the operator learns why."""
    with portlease.lease_many(2, "both", offer=False) as group:
        ports = group.ports
    with serving(ports=ports) as (server, told):
        me = b"%d\n" % os.getpid()
        assert {int(ask(server, me)) for _ in range(2)} == set(ports)
        assert b"gets no port" in ask(server, me)
        assert "gets no port" in told.lines[-1]


def test_another_users_process_is_not_spoken_for() -> None:
    """An ordinary user's request on behalf of root's process is refused."""
    need.capability("other_user")
    with serving() as (server, told):
        source = (
            "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
            "with socket.socket(socket.AF_UNIX) as s:\n"
            "    s.connect('\\0' + sys.argv[1]); s.sendall(sys.argv[2].encode())\n"
            "    print(s.recv(100))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", source, server.address[1:], f"{os.getpid()}\n"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "it is not user 65534's" in done.stdout
        assert "it is not user 65534's" in told.lines[-1]


def test_an_address_that_is_taken_is_one_clear_error() -> None:
    """And an empty one, and one that is no file name."""
    with serving() as (server, _), pytest.raises(UsageError, match="serves at"):
        PortServer(server.address)
    for address in "", "@", "a\0b", "/nowhere/at/all":
        with pytest.raises(UsageError):
            PortServer(address)


def test_a_path_is_gone_afterwards(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Unix socket in the file system is removed in the end."""
    path = tmp_path_factory.mktemp("s") / "ports"
    with PortServer(str(path)) as server, server.in_background():
        assert int(ask(server, b"%d\n" % os.getpid())) > 0
        assert path.is_socket()
        with pytest.raises(UsageError, match="somebody serves at"):
            PortServer(str(path))
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with pytest.raises(UsageError, match="remove the file"):
        PortServer(str(path))
    path.unlink()
    path.touch()
    with pytest.raises(UsageError, match="remove the file"):
        PortServer(str(path))


def test_from_the_command_line() -> None:
    """`portlease portserver` says what to export, serves, and ends at SIGTERM with nothing left."""
    address = f"@portlease-test-{secrets.token_hex(8)}"
    with started("portserver", "--address", address) as process:
        assert process.stderr is not None
        assert f"export PORTSERVER_ADDRESS={address}" in process.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{address[1:]}")
            client.sendall(b"%d\n" % os.getpid())
            port = int(client.recv(100))
        assert mine(port)
        status, _, _ = end(process, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert not mine(port)


# --- more leases than descriptors -----------------------------------------------------------------

# A server that may have 256 descriptors, and says where it serves.
CRAMPED = """
import resource, sys
from portlease import _portserver
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with _portserver.serving(tell=lambda line: print(line, flush=True)) as address:
    print(address, flush=True)
    sys.stdin.read()
"""
MANY = 500


@contextlib.contextmanager
def cramped() -> Iterator[tuple[subprocess.Popen[str], Callable[[int], int]]]:
    """Such a server, and what asks it for a port."""
    with subprocess.Popen(
        [sys.executable, "-c", CRAMPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()

            def asked(owner: int) -> int:
                assert process.stdout is not None
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(f"\0{address[1:]}")
                    client.sendall(b"%d\n" % owner)
                    answer = client.recv(100)
                assert process.stdout.readline().split()[-1] == f"{owner}'s"
                return int(answer)

            yield process, asked
        finally:
            process.kill()


def holders_of(pid: int) -> list[int]:
    """The processes that keep its leases' sockets."""
    return _linux_proc.descendants(pid)


def rows_of(pid: int) -> set[int]:
    """The ports of its leases."""
    return {one.port for one in portlease.leases() if one.pid == pid}


def test_more_leases_than_descriptors() -> None:
    """They are kept by another process, and go back when the process that asked has ended."""
    with cramped() as (server, asked), subprocess.Popen(["sleep", "60"]) as owner:
        try:
            assert server.stdout is not None
            ports = {asked(owner.pid) for _ in range(MANY)}
            kept = asked(os.getpid())
            assert len(ports) == MANY
            assert rows_of(server.pid) == ports | {kept}
            labels = {one.label for one in portlease.leases() if one.port in ports}
            assert labels == {f"portserver: {owner.pid}"}
            assert len(list(Path(f"/proc/{server.pid}/fd").iterdir())) < 256
            assert len(holders_of(server.pid)) == 1
            with pytest.raises(portlease.PortUnavailableError):
                portlease.lease(ports=[min(ports)])
        finally:
            owner.kill()
        assert f"{MANY} of its ports are free again" in server.stdout.readline()
        assert rows_of(server.pid) == {kept}
        portlease.lease(ports=[min(ports)]).release()
        with watched(holders_of(server.pid)) as all_gone:
            server.communicate()
            assert all_gone() == []
        assert server.returncode == 0


def test_a_holder_that_is_killed() -> None:
    """Its leases are taken anew at once, but for those that somebody else has got."""
    with cramped() as (server, asked):
        assert server.stdout is not None
        ports = {asked(os.getpid()) for _ in range(MANY)}
        for holder in holders_of(server.pid):
            os.kill(holder, signal.SIGKILL)
        line = server.stdout.readline()
        assert "was killed" in line
        # "a process that kept 462 ports was killed; 462 of them are kept again"
        lost, again = (int(word) for word in line.split() if word.isdigit())
        assert MANY * 3 > 256 > (MANY - lost) * 3
        assert again > lost / 2  # other tests lease ports as well
        kept = rows_of(server.pid)
        assert kept <= ports
        assert len(kept) == MANY - (lost - again)


def test_the_servers_death_leaves_nothing() -> None:
    """By SIGKILL: the processes that keep its sockets end with it."""
    with cramped() as (server, asked):
        for _ in range(MANY):
            asked(os.getpid())
        holders = holders_of(server.pid)
        assert holders
        with watched(holders) as all_gone:
            server.kill()
            assert all_gone() == []
        server.wait(HANG_S)  # it may be the last to be done with its end
        assert not rows_of(server.pid)
