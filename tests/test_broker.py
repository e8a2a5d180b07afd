"""A server's own bind and listen, done for it beside a hold that stays exclusive."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

import portlease
from _brokered import (
    Told,
    before_5_19,
    before_6_9,
    before_6_17,
    brokered,
    free_port,
    holds_of,
    need_broker,
    python,
    refused,
    wait_for_brokered,
    wait_until,
    without_net_raw,
)
from _need import need
from _processes import HANG_S, status, wait_for
from portlease._tree._process import Process

if sys.platform != "linux":
    pytest.skip("the broker is Linux's", allow_module_level=True)

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture(autouse=True)
def broker() -> None:
    """All of this needs one."""
    need_broker()


# --- the core -----------------------------------------------------------------------------------

TCP_SERVER = """
    server = socket.socket()
    server.bind(("127.0.0.1", port))
    server.listen()
    while True:
        with server.accept()[0] as client:
            client.sendall(b"hello")
"""


def test_a_server_without_so_reuseaddr_binds_while_the_lease_is_held() -> None:
    """It serves, and before, meanwhile and afterwards nobody else can bind the port."""
    with brokered(python(TCP_SERVER)) as told:
        news = wait_until(told, "tcp listen")
        assert [(one.transport, one.port, one.address, one.pid, one.action) for one in news] == [
            ("tcp", told.port, "127.0.0.1", told.process.pid, "bind"),
            ("tcp", told.port, "127.0.0.1", told.process.pid, "listen"),
        ]
        assert str(told.lease.state) == "HELD"
        with socket.create_connection(("127.0.0.1", told.port)) as client:
            assert client.recv(100) == b"hello"
        for host in ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"):  # noqa: S104 - thieves
            assert refused(told.port, host=host)
            assert refused(told.port, host=host, reuse=True)
        told.process.stop()
        assert refused(told.port)


@pytest.mark.parametrize("way", ["by interface", "by SO_REUSEADDR"])
def test_udp(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A UDP server binds while the lease is held, and all datagrams are its own."""
    if way == "by SO_REUSEADDR":
        without_net_raw(monkeypatch)
    source = """
        server = socket.socket(type=socket.SOCK_DGRAM)
        server.bind((sys.argv[2], port))
        while True:
            data, sender = server.recvfrom(100)
            server.sendto(data, sender)
    """
    for host in ("0.0.0.0", "127.0.0.1"):  # noqa: S104 - the hold must not swallow what is for it
        with brokered(python(source, host), "udp") as told:
            wait_until(told, "udp bind")
            with socket.socket(type=UDP) as client:
                client.settimeout(HANG_S)
                client.connect(("127.0.0.1", told.port))
                for number in range(100):
                    client.send(b"%d" % number)
                    assert client.recv(100) == b"%d" % number
            assert refused(told.port, UDP)
            assert refused(told.port, UDP, reuse=True)
            told.process.stop()
            assert refused(told.port, UDP, "::")


def test_both_transports_on_one_number() -> None:
    """As DNS and QUIC servers do."""
    source = """
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        tcp.bind(("", port)), udp.bind(("", port)), tcp.listen()
        signal.pause()
    """
    with brokered(python(source), "both") as told:
        wait_until(told, "tcp listen", "udp bind")


def test_other_binds_pass() -> None:
    """Other ports, other families, and other transports of the port are the kernel's business."""
    source = """
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            one, other = socket.socket(type=kind), socket.socket(type=kind)
            one.bind(("127.0.0.1", 0))
            try:
                other.bind(one.getsockname())
            except OSError as error:
                print(error.errno)
        socket.socket(type=socket.SOCK_DGRAM).bind(("127.0.0.1", port))
        unix = socket.socket(socket.AF_UNIX)
        unix.bind("\\0" + "x" * 50)
        unix.listen()
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))
        socket.getaddrinfo("localhost", 80)
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname()).close()
    """
    with brokered(python(source)) as told:
        assert told.end() == f"{errno.EADDRINUSE}\n" * 2
        assert told.process.returncode == 0
        assert told.process.brokered == []


def test_errors_are_the_kernels_own() -> None:
    """What bind(2) and listen(2) say natively they say here: EINVAL, EFAULT, EBADF, ENOTSOCK..."""
    source = """
        import ctypes, struct
        libc = ctypes.CDLL(None, use_errno=True)
        def told(*arguments):
            print(0 if libc.bind(*arguments) == 0 else ctypes.get_errno(), flush=True)
        address = struct.pack("=H", 2) + port.to_bytes(2, "big") + bytes((127, 0, 0, 1)) + bytes(8)
        server, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        told(server.fileno(), address, 8)
        told(server.fileno(), None, 16)
        told(server.fileno(), address, 16)
        told(1000, address, 16)
        told(datagrams.fileno(), address, 16)
        told(server.fileno(), address, 16)
        told(0, address, 16)
        foreign = address[:4] + bytes((192, 0, 2, 77)) + bytes(8)
        other, six = socket.socket(), socket.socket(socket.AF_INET6)
        told(other.fileno(), foreign, 16)
        told(six.fileno(), address, 16)
        print(libc.listen(datagrams.fileno(), 5), ctypes.get_errno())
    """
    expected = f"{errno.EINVAL} {errno.EFAULT} 0 {errno.EBADF} 0 {errno.EINVAL} {errno.ENOTSOCK} "
    expected += f"{errno.EADDRNOTAVAIL} {errno.EINVAL} -1 {errno.EOPNOTSUPP}"
    natively = subprocess.run(
        [word.replace("{port}", str(free_port())) for word in python(source)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert natively.stdout.split() == expected.split()
    with brokered(python(source), "both") as told:
        assert told.end().split() == expected.split()


@pytest.mark.parametrize("way", ["by interface", "by SO_REUSEADDR"])
def test_options_are_put_back(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """getsockopt(2) says what the server itself has set; only SO_REUSEADDR stays on listeners."""
    if way == "by SO_REUSEADDR":
        without_net_raw(monkeypatch)
    source = """
        def options(server):
            read = lambda number: server.getsockopt(socket.SOL_SOCKET, number)
            print(read(socket.SO_REUSEADDR), read(socket.SO_REUSEPORT), read(62))
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for reuse in (0, 1):
                with socket.socket(type=kind) as server:
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                    server.bind(("127.0.0.1", port))
                    options(server)
                    if kind == socket.SOCK_STREAM:
                        server.listen()
                        options(server)
    """
    with brokered(python(source), "both") as told:
        assert told.end() == "0 0 0\n1 0 0\n1 0 0\n1 0 0\n0 0 0\n1 0 0\n"
        for _, hold in told.lease._grip.holds:
            assert not hold.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_listen_again() -> None:
    """To change the backlog is the kernel's business; it is told once that the server listens."""
    source = """
        server = socket.create_server(("127.0.0.1", port))
        for backlog in (1, 50, -1):
            server.listen(backlog)
        print("done")
    """
    with brokered(python(source)) as told:
        assert told.end() == "done\n"
        assert [one.action for one in told.process.brokered] == ["bind", "listen"]


def test_close_frees_the_port_for_the_server_at_once() -> None:
    """No copy of its socket outlives the answer: it binds and closes a thousand times."""
    source = """
        for number in range(500):
            with socket.socket() as server:
                server.bind(("127.0.0.1", port))
                server.listen()
            with socket.socket(type=socket.SOCK_DGRAM) as server:
                server.bind(("127.0.0.1", port))
        print("done")
    """
    with brokered(python(source), "both") as told:
        assert told.end() == "done\n"


@pytest.mark.parametrize("way", ["by interface", "by SO_REUSEADDR"])
def test_a_second_bind_fails_as_it_does_natively(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own sockets exclude each other as they would without us."""
    if way == "by SO_REUSEADDR":
        without_net_raw(monkeypatch)
    source = """
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            one, other = socket.socket(type=kind), socket.socket(type=kind)
            one.bind(("127.0.0.1", port))
            try:
                other.bind(("127.0.0.1", port))
            except OSError as error:
                print(error.errno)
            if kind == socket.SOCK_STREAM:
                one.listen()
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    other.bind(("127.0.0.1", port))
                except OSError as error:
                    print(error.errno)
        with one, other:
            pass
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=one.type) as other:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
            try:
                other.bind(("127.0.0.1", port))
            except OSError as error:
                print(error.errno)
    """
    with brokered(python(source), "both") as told:
        assert told.end() == f"{errno.EADDRINUSE}\n" * 4


@pytest.mark.parametrize("way", ["by interface", "by SO_REUSEADDR"])
def test_reuseport_workers_share_the_port(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO_REUSEPORT listeners of one server are balanced by the kernel, as ever."""
    if way == "by SO_REUSEADDR":
        without_net_raw(monkeypatch)
    source = """
        workers = []
        for number in range(4):
            worker = socket.socket()
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()
            workers.append(worker)
            worker = socket.socket(type=socket.SOCK_DGRAM)
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            workers.append(worker)
        try:
            socket.socket(type=socket.SOCK_DGRAM).bind(("127.0.0.1", port))
        except OSError as error:
            print(error.errno)
        print("up", flush=True)
        heard = {}
        while len(heard) < 40:
            import select
            for one in select.select(workers[1::2], [], [])[0]:
                heard[one.recv(10)] = one.fileno()
        print("heard by", len(set(heard.values())), flush=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        print("tcp", flush=True)
        signal.sigwait({signal.SIGUSR1})
        print("accepted by", len(select.select(workers[::2], [], [], 0)[0]), flush=True)
        signal.pause()
    """
    with brokered(python(source), "both") as told:
        told.wait_for("up")
        for number in range(40):
            with socket.socket(type=UDP) as client:
                client.sendto(b"%d" % number, ("127.0.0.1", told.port))
        said = told.wait_for("tcp")
        assert int(said.split()[-2]) > 1  # 40 clients, 4 workers, each by its hash
        for _ in range(40):
            socket.create_connection(("127.0.0.1", told.port)).close()
        told.process.send_signal(signal.SIGUSR1)
        assert int(told.wait_for("accepted by").split()[-1]) > 1


@pytest.mark.parametrize("how", ["::", "0.0.0.0", "::1", "::ffff:127.0.0.1", "v6only and v4"])  # noqa: S104
def test_addresses(how: str) -> None:
    """Every address of either family, and two sockets for the two."""
    need.capability("ipv6")
    source = """
        def serve(host, only=0):
            server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            if ":" in host:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            server.bind((host, port))
            server.listen()
            return server
        how = sys.argv[2]
        servers = [serve("0.0.0.0"), serve("::", 1)] if "only" in how else [serve(how)]
        print("up", flush=True)
        signal.pause()
    """
    with brokered(python(source, how)) as told:
        told.wait_for("up")
        client = "::1" if how in {"::", "::1"} else "127.0.0.1"
        socket.create_connection((client, told.port)).close()
        assert refused(told.port)


@pytest.mark.parametrize("way", ["by interface", "by SO_REUSEADDR"])
def test_every_address_of_this_machine(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its network cards, too; link-local ones with their interface."""
    if way == "by SO_REUSEADDR":
        without_net_raw(monkeypatch)
    source = """
        for host in sys.argv[2:]:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(type=kind, family=10 if ":" in host else 2) as server:
                    server.bind(socket.getaddrinfo(host, port)[0][4])
                    index = server.getsockopt(socket.SOL_SOCKET, 62)
                    if kind == socket.SOCK_STREAM:
                        server.listen()
                    assert server.getsockopt(socket.SOL_SOCKET, 62) == index
                    print(index, end=" ")
    """
    hosts = addresses()
    natively = run_natively(python(source, *hosts))
    with brokered(python(source, *hosts), "both") as told:
        assert told.end() == natively
        assert len(told.process.brokered) == 3 * len(hosts)


def addresses() -> list[str]:
    """Every address of every interface that is up."""
    found = ["127.0.0.1"]
    for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
        raw, _, _, _, flags, interface = line.split()
        if not int(flags, 16) & 0x40:  # IFA_F_TENTATIVE
            host = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw))
            found.append(f"{host}%{interface}" if host.startswith("fe80") else host)
    with socket.socket(type=UDP) as probe:
        if probe.connect_ex(("192.0.2.1", 9)) == 0:  # asks for the route, sends nothing
            found.append(probe.getsockname()[0])
    return found


def run_natively(command: list[str]) -> str:
    """Run it with a free port and no broker; return what it writes."""
    words = [word.replace("{port}", str(free_port())) for word in command]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_several_holds_and_leases() -> None:
    """One server on many ports."""
    source = """
        servers = [socket.create_server(("127.0.0.1", int(number))) for number in sys.argv[1:]]
        print("up", flush=True)
        signal.pause()
    """
    with portlease.lease_many(5, offer=False) as leases, tempfile.TemporaryFile() as file:
        command = [w for w in python(source) if w != "{port}"] + [str(one) for one in leases]
        holds = [hold for one in leases for hold in holds_of(one)]
        with Process.start(command, output=file.fileno(), holds=holds) as process:
            told = Told(process, leases[0], file.fileno())
            wait_for_brokered(told, lambda: len(process.brokered) >= 10)
            listening = {one.port for one in process.brokered if one.action == "listen"}
            assert listening == {one.port for one in leases}


def test_restart_on_the_same_port() -> None:
    """The lease goes from server to server; it is never anybody else's."""
    with portlease.lease("both", offer=False) as lease:
        source = "socket.create_server(('', port)); s = socket.socket(type=socket.SOCK_DGRAM)\n"
        source += "s.bind(('', port)); signal.pause()"
        for _ in range(5):
            with brokered(python(source), leased=lease) as told:
                wait_until(told, "udp bind")
            assert refused(lease.port)
            assert refused(lease.port, UDP)


@pytest.mark.parametrize("way", ["by interface", "by SO_REUSEADDR"])
def test_restart_beside_time_wait(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without SO_REUSEADDR comes back though the one before has closed a connection."""
    if way == "by SO_REUSEADDR":
        without_net_raw(monkeypatch)
    source = """
        server = socket.socket()
        server.bind(("127.0.0.1", port))
        server.listen()
        server.accept()[0].close()
        signal.pause()
    """
    with portlease.lease(offer=False) as lease:
        for _ in range(3):
            with brokered(python(source), leased=lease) as told:
                wait_until(told, "tcp listen")
                with socket.create_connection(("127.0.0.1", lease.port)) as client:
                    assert client.recv(1) == b""


def test_privileged_ports_are_the_servers_own_business() -> None:
    """A server that gave its privileges up is refused a low port, though the keeper has them."""
    need.capability("other_user")
    source = """
        if sys.argv[2] == "drop":
            os.setresuid(65534, 65534, 65534)
        try:
            socket.socket().bind(("127.0.0.1", port))
            print("bound")
        except OSError as error:
            print(error.errno)
    """
    with portlease.lease(ports=range(1, 1024), offer=False) as lease:
        for how, expected in (("keep", "bound\n"), ("drop", f"{errno.EACCES}\n")):
            with brokered(python(source, how), leased=lease) as told:
                assert told.end() == expected


@pytest.mark.parametrize("kernel", ["this", "before 6.17", "before 5.19"])
@pytest.mark.parametrize("restarts", ["SA_RESTART", "EINTR"])
def test_signals(kernel: str, restarts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process under a shower of signals binds exactly as often as it asked to.

    A signal that comes before the keeper has taken a call makes the kernel take it back, and so
    restart it, or fail with EINTR where the handler is without SA_RESTART. Before Linux 6.17, and
    before 5.19 (no SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) more often, that happens to calls that
    have been done, too.
    """
    if kernel == "before 5.19":
        before_5_19(monkeypatch)
    elif kernel == "before 6.17":
        before_6_17(monkeypatch)
    source = """
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, sys.argv[2] == "EINTR")
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        def insist(function, *arguments):
            while True:
                try:
                    return function(*arguments)
                except InterruptedError:
                    assert sys.argv[2] == "EINTR"
        for number in range(300):
            with socket.socket() as server:
                insist(server.bind, ("127.0.0.1", port))
                insist(server.listen)
        print("done")
    """
    with brokered(python(source, restarts)) as told:
        assert told.end() == "done\n"


@pytest.mark.parametrize("kernel", ["this", "before 6.9"])
def test_many_threads(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 threads, each of which binds 50 times, each its own address of the port."""
    if kernel != "this":
        before_6_9(monkeypatch)
    source = """
        def work(number):
            for _ in range(50):
                with socket.socket() as server:
                    server.bind((f"127.0.1.{number}", port))
                    server.listen()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 41)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        print("done")
    """
    with brokered(python(source)) as told:
        assert told.end() == "done\n"


def test_nothing_is_left_open() -> None:
    """The keeper has no copy of the server's sockets, and the server none of the keeper's."""
    with brokered(python(TCP_SERVER)) as told:
        wait_until(told, "tcp listen")
        links = links_of(told.process.pid)
        assert len([link for link in links if link.startswith("socket:")]) == 1
        assert not [link for link in links if "seccomp" in link]
        keeper = int(status(told.process.pid, "PPid"))
        links = links_of(keeper)
        assert len([link for link in links if "seccomp" in link]) == 1
        # The control socket, the hold, and where brokers inside the tree come in.
        assert len([link for link in links if link.startswith("socket:")]) == 3


def links_of(pid: int) -> list[str]:
    """What a process has open."""
    return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_stopped_parent_delays_nothing() -> None:
    """The server binds and listens while the process that started it is stopped."""
    script = """
        import os, signal, sys, portlease
        from portlease._tree._process import Hold, Process
        with portlease.lease("tcp", offer=False) as lease:
            holds = [Hold("tcp", lease.port, hold.fileno()) for _, hold in lease._grip.holds]
            command = [*sys.argv[1:], str(lease.port)]
            with Process.start(command, stdin=0, holds=holds) as process:
                os.write(1, b"%d\\n" % lease.port)
                os.kill(os.getpid(), signal.SIGSTOP)
                while not any(one.action == "listen" for one in process.brokered):
                    process.wait_for_news(60)
                os.write(1, b"%d\\n" % len(process.brokered))
    """
    server = python(
        """
        os.read(0, 1)
        for number in range(300):
            server = socket.create_server(("127.0.0.1", port))
            server.close()
        server = socket.create_server(("127.0.0.1", port))
        signal.pause()
        """
    )[:-1]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        try:
            assert parent.stdin is not None
            assert parent.stdout is not None
            port = int(parent.stdout.readline())
            os.waitid(os.P_PID, parent.pid, os.WSTOPPED | os.WNOWAIT)
            os.write(parent.stdin.fileno(), b".")
            wait_for(lambda: connects(port))
            os.kill(parent.pid, signal.SIGCONT)
            assert int(parent.stdout.readline()) >= 2
            assert parent.wait(HANG_S) == 0
        finally:
            parent.kill()


def connects(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
