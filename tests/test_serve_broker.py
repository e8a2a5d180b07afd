"""serve(how="broker"): the server binds by itself, and its lease is HELD all the time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portlease
from _need import need
from _processes import HANG_S, run_as, wait_for, watched
from _serving import HTTP, PLAIN, PYTHON, TINY, ask, beset, get, leave, python
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from portlease import HowWarning, ServerDiedError, ServerTimeoutError, UsageError, serve
from portlease._platform import backend
from portlease._server import _awaited
from portlease._tree import _process

if TYPE_CHECKING:
    from collections.abc import Callable

    from portlease import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the broker is Linux's alone")


@pytest.fixture(autouse=True)
def _broker() -> None:
    need.capability("seccomp")


UDP = """
import _socket
udp = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
udp.bind(("", {port}))
"""
ECHO = UDP + "while True:\n    data, sender = udp.recvfrom(1000)\n    udp.sendto(data, sender)\n"


def echoed(server: Server, text: bytes = b"hello") -> bytes:
    """Send a datagram to the server, and return its answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(HANG_S)
        client.sendto(text, ("127.0.0.1", server.lease.port))
        return client.recv(1000)


def socketserver() -> list[str]:
    """socketserver.TCPServer as it comes: no SO_REUSEADDR."""
    return python(
        """
        import socketserver
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.sendall(b"hello")
        socketserver.TCPServer(("", {port}), Handler).serve_forever()
        """
    )


def socat() -> list[str]:
    """Socat without `reuseaddr`."""
    return [need.program("socat"), "TCP-LISTEN:{port},fork", "SYSTEM:echo hello"]


def perl() -> list[str]:
    """Perl's IO::Socket without ReuseAddr."""
    code = """
        my $s = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 5) or die "no: $!";
        while (my $c = $s->accept) { print $c "hello"; close $c }
    """
    return [need.program("perl"), "-MIO::Socket::INET", "-e", code]


def redis() -> list[str]:
    """redis-server."""
    return [need.program("redis-server"), "--port", "{port}", "--save", ""]


@pytest.mark.parametrize("command", [socketserver, socat, perl], ids=lambda one: one.__name__)
def test_servers_without_so_reuseaddr(command: Callable[[], list[str]]) -> None:
    """They bind at the first start, and the lease is HELD before, while and after."""
    with serve(command(), how="broker") as server:
        assert (server.how, server.starts, server.lease.state) == ("broker", 1, "HELD")
        assert "broker" in server.why
        assert leave(server) == b"h"
        with beset(server.port, socket.SOCK_STREAM) as taken:
            server.restart()
            assert leave(server) == b"h"
            server.kill()
            server.restart()
        assert not taken
        assert leave(server) == b"h"


def test_restart_after_connections_that_it_closed() -> None:
    """Its own connections in TIME_WAIT are not in its way, though it does not set SO_REUSEADDR."""
    with serve(socketserver(), how="broker") as server:
        for _ in range(2):
            assert ask(server) == b"hello"
            server.restart()
        assert ask(server) == b"hello"


def test_redis_and_http() -> None:
    """Those that set SO_REUSEADDR are served all the same."""
    with serve(redis(), how="broker") as server:
        assert ask(server, b"PING\r\n") == b"+PONG\r\n"
        assert (server.how, server.lease.state) == ("broker", "HELD")
    with serve(HTTP, how="broker") as server:
        assert get(server) == b"HTTP/1.0 200 OK"


@pytest.mark.parametrize("daemon", ["on", "off"])
def test_nginx(tmp_path: Path, daemon: str) -> None:
    """Nginx with workers, as a daemon too, and reloaded."""
    script = """
        exec 2>&1
        cat > nginx.conf <<'end'
            daemon DAEMON;
            pid nginx.pid;
            error_log stderr;
            events {}
            http { access_log off; server { listen {port}; return 200 hello; } }
end
        exec "$0" -p "$PWD" -e stderr -c nginx.conf
    """.replace("DAEMON", daemon)
    command = ["sh", "-c", textwrap.dedent(script), need.program("nginx")]
    with serve(command, cwd=tmp_path, stop_signal=signal.SIGQUIT, how="broker") as server:
        assert get(server) == b"HTTP/1.1 200 OK"
        assert (server.how, server.lease.state) == ("broker", "HELD")
        with watched(server.process.tree()) as wait_all:
            server.restart()
            assert wait_all() == []
        assert get(server) == b"HTTP/1.1 200 OK"


def test_a_daemon() -> None:
    """A server that forks twice and leaves its session binds under the broker, and is ended."""
    code = """
        import os, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.chdir("/")
    """
    code = textwrap.dedent(code) + textwrap.indent(PLAIN, " " * 8) + "\nsys.exit(0)"
    with serve([sys.executable, "-c", code], how="broker") as server:
        assert ask(server) == b"tiny"
        assert server.process.wait(HANG_S) == 0
        with watched(server.process.tree()) as wait_all:
            server.stop()
            assert wait_all() == []


# --- UDP, and both on one number ------------------------------------------------------------------


def test_udp() -> None:
    """A UDP port stays held until the server is bound, and after; the server gets its datagrams."""
    with serve(python(ECHO), ports={"port": "udp"}, how="broker") as server:
        assert (server.how, server.lease.state) == ("broker", "HELD")
        assert echoed(server) == b"hello"
        with beset(server.port, socket.SOCK_DGRAM) as taken:
            for _ in range(3):
                server.restart()
                assert echoed(server) == b"hello"
        assert not taken


def test_socat_udp() -> None:
    """Socat's UDP server, which sets nothing."""
    command = [need.program("socat"), "UDP-LISTEN:{port},fork", "EXEC:cat"]
    with serve(command, ports={"port": "udp"}, how="broker") as server:
        assert echoed(server) == b"hello"
        assert server.lease.state == "HELD"


def test_both_on_one_number() -> None:
    """TCP and UDP of one number: held until each is bound, and ready means both."""
    code = UDP + PLAIN
    with serve(python(code), ports={"port": "both"}, how="broker") as server:
        assert (server.how, server.lease.state) == ("broker", "HELD")
        assert ask(server) == b"tiny"
        assert {(one.transport, one.action) for one in server.process.brokered} == {
            ("udp", "bind"),
            ("tcp", "bind"),
            ("tcp", "listen"),
        }
    with pytest.raises(ServerTimeoutError, match=r"not listen on .*UDP port \d+"):
        serve(python(PLAIN), ports={"port": "both"}, how="broker", timeout_s=0.3)


def test_dnsmasq() -> None:
    """A DNS server: TCP and UDP of one number, asked by UDP, across a restart."""
    command = [need.program("dnsmasq"), "--keep-in-foreground", "--no-daemon", "--port={port}"]
    command += ["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=", "--pid-file="]
    command += ["--address=/x.test/192.0.2.7", "--listen-address={host}", "--bind-interfaces"]
    question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01x\x04test\0\0\x01\0\x01"
    with serve(command, ports={"port": "both"}, how="broker") as server:
        assert (server.how, server.lease.state) == ("broker", "HELD")
        assert echoed(server, question)[-4:] == bytes([192, 0, 2, 7])
        server.restart()
        assert echoed(server, question)[-4:] == bytes([192, 0, 2, 7])


def test_a_udp_lease_of_the_callers_hears_again() -> None:
    """Afterwards the hold of a lease that was given is as one that no server was ever beside."""
    with portlease.lease("udp", offer=False) as lease:
        with serve(python(ECHO), lease=lease, how="broker") as server:
            assert echoed(server) == b"hello"
        assert lease.state == "HELD"
        assert not any(backend.is_deaf(hold) for _, hold in lease._grip.holds)
        with lease.hand_over() as sock, socket.socket(type=socket.SOCK_DGRAM) as client:
            sock.settimeout(HANG_S)
            client.sendto(b"again", ("127.0.0.1", lease.port))
            assert sock.recv(100) == b"again"


# --- readiness ------------------------------------------------------------------------------------


def test_ready_by_the_broker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at again and again: one look before, one for each bind and listen.

    And one a second, for sockets that come to the server by another way.
    """
    looks: list[object] = []
    look = _awaited.ListeningAwaited.look

    def counted(self: _awaited.ListeningAwaited) -> bool:
        looks.append(self)
        return look(self)

    monkeypatch.setattr(_awaited.ListeningAwaited, "look", counted)
    slow = "import _socket, select\nselect.select([], [], [], 0.3)\n" + PLAIN
    with serve(python(slow), how="broker") as server:
        assert len(server.process.brokered) == 2
        assert len(looks) <= 2 + len(server.process.brokered) + server.ready_after_s
        assert server.ready_after_s > 0.3


def test_timeout_and_death() -> None:
    """Errors are as ever."""
    with pytest.raises(ServerTimeoutError, match="does not listen") as late:
        serve(["sleep", "1000"], how="broker", timeout_s=0.2)
    assert vars(late.value)["how"] == "broker"
    with pytest.raises(ServerDiedError, match="exit status 3") as died:
        serve(["sh", "-c", "echo oh no; exit 3"], how="broker")
    assert vars(died.value)["how"] == "broker"
    assert died.value.output == "oh no\n"


# --- leases of the caller's -----------------------------------------------------------------------


@pytest.mark.parametrize("state", ["HELD", "OFFERED", "GUARDED"])
def test_any_lease_is_held_for_it(state: str) -> None:
    """Whatever state a given lease is in, it is HELD once the broker has it."""
    with portlease.lease(offer=False) as lease:
        if state == "OFFERED":
            lease.offer()
        elif state == "GUARDED":
            lease.step_aside()
        with serve(python(PLAIN), lease=lease, how="broker") as server:
            assert ask(server) == b"tiny"
            assert (server.how, lease.state) == ("broker", "HELD")
        assert lease.state == "HELD"


def test_a_lease_that_cannot_be_held() -> None:
    """A port that somebody has while its lease is GUARDED: a warning names him, then an error."""
    with portlease.lease(offer=False) as lease:
        lease.step_aside()
        with (
            socket.create_server(("127.0.0.1", lease.port)),
            pytest.warns(HowWarning, match=f"must be HELD.*pid {os.getpid()}.*Instead"),
            pytest.raises(ServerDiedError, match=f"pid {os.getpid()}"),
        ):
            serve(python(TINY), lease=lease, how="broker")


# --- where there is none --------------------------------------------------------------------------


def test_without_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns once, saying why and what is done instead, and does that."""
    monkeypatch.setattr(_process, "_keeper_is_possible", lambda: False)
    with pytest.warns(HowWarning, match=r"how='broker' cannot be had .*Instead, it binds") as told:
        server = serve(python(PLAIN), how="broker")
    with server:
        assert len(told) == 1
        assert told[0].filename == __file__
        assert (server.how, server.starts) == ("step-aside", 2)
        assert ask(server) == b"tiny"
    with pytest.warns(HowWarning):
        server = serve(python(TINY), how="broker")
    with server:
        assert server.how == "offer"
        assert server.why.startswith("how='broker' cannot be had")
        server.restart()  # which does not warn again
        assert server.how == "offer"


NO_SECCOMP = """
import sys, warnings
sys.path[:0] = {paths}
import ctypes
import portlease
program = (ctypes.c_uint64 * 4)(
    0x00000020,  # LD seccomp_data.nr
    0x0000013D01000015,  # JEQ 317, seccomp of x86-64: the next, or the one after
    0x0005000100000006,  # RET ERRNO EPERM
    0x7FFF000000000006,  # RET ALLOW
)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(program))), 0, 0) == 0
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    with portlease.serve(sys.argv[1:], how="broker") as server:
        print(server.how, len(told), told[0].category.__name__, told[0].message)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter has x86-64's numbers")
def test_where_seccomp_is_forbidden() -> None:
    """As in a container that forbids it: said exactly, and served otherwise."""
    paths = [str(Path(portlease.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", NO_SECCOMP.replace("{paths}", repr(paths)), *python(PLAIN)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("step-aside 1 HowWarning how='broker' cannot be had"), done
    assert "seccomp" in done.stdout
    assert "Instead, it binds its port itself" in done.stdout


def test_descriptors_and_the_broker() -> None:
    """{fd} is for sockets that are handed over, so it is a mistake here."""
    with pytest.raises(UsageError, match="how='hand-over'"):
        serve([*PYTHON, "{fd}"], how="broker")


# --- an ordinary user -----------------------------------------------------------------------------

AS_USER = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import portlease
from _serving import beset, leave
from test_serve_broker import echoed, ECHO
import socket
tcp, udp = [[sys.executable, "-I", "-S", "-c", code] for code in sys.argv[2:]]
with portlease.serve(tcp, how="broker") as server:
    with beset(server.port, socket.SOCK_STREAM) as taken:
        for _ in range(3):
            assert leave(server) == b"t"
            server.restart()
    print(server.how, server.lease.state, taken)
with portlease.serve(udp, ports={"port": "udp"}, how="broker") as server:
    with beset(server.port, socket.SOCK_DGRAM) as taken:
        for _ in range(3):
            assert echoed(server) == b"hello"
            server.restart()
    print(server.how, server.lease.state, taken)
"""


def test_an_ordinary_user() -> None:
    """Without any privilege: TCP without SO_REUSEADDR and UDP, restarted under attack."""
    need.capability("other_user")
    paths = [str(Path(portlease.__file__).parents[1]), str(Path(__file__).parent)]
    paths += [str(Path(pytest.__file__).parents[1])]
    done = run_as(
        65534, [need.everybodys_python(), "-I", "-c", AS_USER, json.dumps(paths), PLAIN, ECHO]
    )
    assert done.stdout == "broker HELD []\n" * 2, done.stderr


# --- us -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["broker", "hand-over"])
def test_our_death_ends_it(how: str) -> None:
    """Killed by SIGKILL, we leave no process, no hold and no folder behind."""
    need.capability("subreaper")
    code = """
        import os, sys, portlease
        server = portlease.serve(sys.argv[2:], how=sys.argv[1], ports={"ctl": "unix"}, wait_for=[])
        print(os.path.dirname(server.paths["ctl"]), server.port, server.process._popen.pid)
        print(*server.process.tree(), flush=True)
        sys.stdin.read()
    """
    idle = "import signal, sys; {port}; {ctl!r}; signal.pause()".replace("{ctl!r}", "'{ctl}'")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), how, sys.executable, "-c", idle],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        try:
            assert popen.stdout is not None
            folder, port, keeper = popen.stdout.readline().split()
            tree = [int(keeper), *map(int, popen.stdout.readline().split())]
            assert Path(folder).is_dir()
            with watched(tree) as wait_all:
                popen.kill()
                assert wait_all() == []
            popen.wait()
            with portlease.lease("both", ports=[int(port)], offer=False):
                pass
            wait_for(lambda: not Path(folder).exists())
        finally:
            popen.kill()
