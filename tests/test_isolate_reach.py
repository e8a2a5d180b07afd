"""What is reached from a network of one's own: services of the host, and the world by pasta."""

from __future__ import annotations

import contextlib
import functools
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
from _cli import portlease as command_line
from _isolated import as_user, forwarders, marked, run
from _need import in_new_netns, need
from _processes import HANG_S, wait_for
from portlease import _isolate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    need.capability("netns")


def as_we_are(command: Sequence[str]) -> list[str]:
    """Whoever runs the tests."""
    return list(command)


EVERYBODY = pytest.mark.parametrize(
    "by", [as_we_are, as_user] if os.geteuid() == 0 else [as_we_are]
)


@EVERYBODY
def test_a_redis_of_the_host(by: Callable[[Sequence[str]], list[str]]) -> None:
    """Reached under its own address, and only if it was asked for."""
    need.program("redis-server")
    need.program("redis-cli")
    with portlease.serve(["redis-server", "--port", "{port}", "--save", ""]) as server:
        port = str(server.port)
        ask = ["redis-cli", "-h", "localhost", "-p", port, "set", "by", "us"]
        done = run(by(_isolate.command(ask, reach=[f"localhost:{port}"])))
        assert (done.returncode, done.stdout) == (0, "OK\n"), done.stderr
        assert "refused" in run(by(_isolate.command(ask))).stderr
        done = command_line("isolate", "--reach", port, "--", "redis-cli", "-p", port, "get", "by")
        assert (done.returncode, done.stdout) == (0, "us\n"), done.stderr


class Echo:
    """A server that reads to the end of file, then answers how much that was, and sends its own."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family, backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._answering: list[threading.Thread] = []

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # shut down
                return
            one = threading.Thread(target=self._answer, args=(client,))
            self._answering.append(one)
            one.start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            count, last = 0, b""
            while data := client.recv(1 << 16):
                count, last = count + len(data), data
            self.received.append(last[-100:])
            with contextlib.suppress(ConnectionError):  # whoever left without listening
                client.sendall(b"%d" % count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for one in self._answering:
            one.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """On 127.0.0.1."""
    with Echo("127.0.0.1") as one:
        yield one


CLIENT = """
import socket, sys
host, port, size, count = sys.argv[1], *map(int, sys.argv[2:])
clients = [socket.create_connection((host, port)) for _ in range(count)]
for client in clients:
    client.sendall(bytes(size))
    client.shutdown(socket.SHUT_WR)
for client in clients:
    answer = b""
    while part := client.recv(99):
        answer += part
    assert int(answer) == size, answer
print("all")
"""


def client(reach: str, host: str, port: int, size: int, count: int) -> None:
    """Have so many connections send so much, end their side, and read the answer."""
    words = [sys.executable, "-c", CLIENT, host, *map(str, (port, size, count))]
    done = run(_isolate.command(words, reach=[f"{reach}:{port}"]))
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr


@pytest.mark.parametrize(("size", "count"), [(50_000_000, 1), (100_000, 100), (0, 300)])
def test_both_directions_end_on_their_own(echo: Echo, size: int, count: int) -> None:
    """One side's end of file passes, and the other side may still speak; many at once."""
    client("127.0.0.1", "127.0.0.1", echo.port, size, count)


def test_by_ipv6_and_by_name() -> None:
    """A service on ::1 alone is found at localhost, too, by either address."""
    need.capability("ipv6")
    with Echo("::1") as one:
        client("[::1]", "::1", one.port, 5, 1)
        client("localhost", "localhost", one.port, 5, 1)
        client("localhost", "127.0.0.1", one.port, 5, 1)


def test_an_address_that_is_not_loopback() -> None:
    """It is led from the same address inside."""
    need.capability("root")
    inner = _isolate.command(
        [
            sys.executable,
            "-c",
            "import socket; print(socket.create_connection(('198.51.100.7', 4242)).recv(9))",
        ],
        reach=["198.51.100.7:4242"],
    )
    done = in_new_netns(
        f"""
        import socket, subprocess, sys
        subprocess.run("ip addr add 198.51.100.7/24 dev lo", shell=True, check=True)
        with socket.create_server(("198.51.100.7", 4242)) as server:
            client = subprocess.Popen({inner!r})
            server.accept()[0].sendall(b"there")
            sys.exit(client.wait())
        """
    )
    assert (done.returncode, done.stdout) == (0, "b'there'\n"), done.stderr


def test_a_service_that_is_not_there() -> None:
    """The connection ends at once (RST); the command line says so before the run."""
    with portlease.lease() as one:
        script = (
            "import socket, sys\n"
            "try:\n"
            "    with socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as one:\n"
            "        print(one.recv(9))\n"
            "except ConnectionError as error:\n"
            "    print(error.__class__.__name__)"
        )
        words = ["--reach", str(one.port), "--", sys.executable, "-c", script, str(one.port)]
        done = command_line("isolate", *words)
    assert done.stdout == "ConnectionResetError\n"
    assert f"nobody listens on 127.0.0.1:{one.port} now" in done.stderr


def test_last_words_arrive(echo: Echo) -> None:
    """What the command wrote just before its end is not lost with the forwarder."""
    script = (
        "import os, socket, sys\n"
        "one = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "one.sendall(b'x' * 3_000_000 + b'last words')\n"
        "os._exit(0)"
    )
    words = [sys.executable, "-c", script, str(echo.port)]
    assert run(_isolate.command(words, reach=[str(echo.port)])).returncode == 0
    wait_for(lambda: echo.received)
    assert echo.received[0].endswith(b"last words")


@pytest.mark.parametrize("descriptors", [19, 20])
def test_where_descriptors_run_out_clients_wait(echo: Echo, descriptors: int) -> None:
    """A forwarder with too few for all of them serves them one after the other; none is refused."""
    clients = " & ".join([f'"$0" -I -S -c "$1" 127.0.0.1 {echo.port} 10000 1'] * 6)
    inner = _isolate.command(
        ["sh", "-c", f"{clients} & wait", sys.executable, CLIENT], reach=[str(echo.port)]
    )
    limit = f"ulimit -n {descriptors}; " + 'exec "$@"'
    done = run(["sh", "-c", limit, "sh", *inner])
    assert (done.stdout, done.stderr) == ("all\n" * 6, "")


@contextlib.contextmanager
def waiting(port: int, script: str = "echo ready; read line") -> Iterator[subprocess.Popen[str]]:
    """A command that reaches *port*, and its forwarder, marked in their environments."""
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        _isolate.command(["sh", "-c", script], reach=[str(port)]),
        env={**os.environ, "MARK": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.args = mark
            yield process
        finally:
            process.kill()
    wait_for(lambda: not forwarders(mark))


def has_ended(pid: int) -> bool:
    """Whether it is gone, or waits for somebody to take note."""
    return not Path(f"/proc/{pid}/fd/0").exists()


def test_nothing_is_left_of_the_forwarder(echo: Echo) -> None:
    """It ends with the command, also when that is killed, and the network with it."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        with waiting(echo.port) as process:
            (forwarder,) = forwarders(str(process.args))
            process.send_signal(number)
            process.wait(HANG_S)
            wait_for(functools.partial(has_ended, forwarder))
        assert not marked(str(process.args))


def test_the_forwarders_death_is_a_refusal(echo: Echo) -> None:
    """Killed, it leaves the command alone, and who connects then is refused."""
    need.program("redis-cli")
    ask = f"echo ready; read line; redis-cli -p {echo.port} ping 2>&1"
    with waiting(echo.port, ask) as process:
        (forwarder,) = forwarders(str(process.args))
        os.kill(forwarder, signal.SIGKILL)
        wait_for(lambda: not forwarders(str(process.args)))
        out, _ = process.communicate("\n", timeout=HANG_S)
    assert "refused" in out


def test_it_is_nobodys_child_and_has_nobodys_descriptors(echo: Echo) -> None:
    """The command's wait(2) does not meet it, the terminal's signals neither; pipes can end."""
    with waiting(echo.port) as process:
        (forwarder,) = forwarders(str(process.args))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        assert not children.read_text(encoding="ascii")
        assert os.getsid(forwarder) != os.getsid(process.pid)
        kinds = {fd.readlink().name.split(":")[0] for fd in Path(f"/proc/{forwarder}/fd").iterdir()}
        assert kinds <= {"null", "socket", "anon_inode", "[pidfd]", "[eventpoll]"}
        assert not process.poll()


def test_sigchld_may_be_ignored(echo: Echo) -> None:
    """Started by somebody who ignores SIGCHLD, it works as well."""
    inner = _isolate.command(["echo", "done"], reach=[str(echo.port)])
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = run([sys.executable, "-c", script, *inner])
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# --- the world ------------------------------------------------------------------------------------

# A machine of its own, with a default route to nobody; in it, an isolated command.
OUTSIDE = """
import subprocess, sys
setup = (
    "ip link add out type veth peer name far",
    "ip link set out up", "ip link set far up",
    "ip addr add 192.0.2.2/24 dev out", "ip route add default via 192.0.2.1",
)
for line in setup:
    subprocess.run(line.split(), check=True)
inner = sys.argv[1:]
sys.exit(subprocess.run(inner).returncode)
"""


def test_outside_by_pasta() -> None:
    """A way out, and nothing that listens on the host for it; it ends with the command."""
    need.capability("root")
    need.program("pasta")
    need.program("ip")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        need.missing("/dev/net/tun", str(error))
    mark = secrets.token_hex(8)
    script = "ip route show default; ip -o addr show dev out; ss -lntuH | wc -l"
    inner = _isolate.command(["sh", "-c", script], outside=True)
    done = in_new_netns(OUTSIDE, *inner, env={"MARK": mark})
    assert done.returncode == 0, done.stderr
    assert "default via 192.0.2.1" in done.stdout
    assert "192.0.2.2/24" in done.stdout
    assert done.stdout.splitlines()[-1] == "0"
    wait_for(lambda: not forwarders(mark))


def test_outside_without_a_way_says_so() -> None:
    """A machine that has no default route cannot give one; the command is not run."""
    need.capability("root")
    need.program("pasta")
    done = in_new_netns(
        "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)",
        *_isolate.command(["echo", "it ran"], outside=True),
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "pasta(1) did not connect" in done.stderr
