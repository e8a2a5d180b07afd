"""Real servers, in many languages, told nothing but a number."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import need
from _processes import HANG_S, fork, wait_for, watched
from _serving import (
    HTTP,
    PLAIN,
    PYTHON,
    TINY,
    ask,
    beset,
    get,
    never_ready,
    python,
)
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from portlease import (
    LeaseStateError,
    PortUnavailableError,
    ResourceLimitError,
    ServerDiedError,
    ServerKilledWarning,
    ServerStartError,
    ServerTimeoutError,
    UsageError,
    _onlooker,
    serve,
)
from portlease._server import _attempt, _output
from portlease._tree import _process
from portlease._tree._process import Process

if sys.platform == "linux":
    from portlease._tree._process_linux import KeptProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# --- servers that set SO_REUSEADDR: the lease stays offered beside them ---------------------------


@pytest.mark.parametrize(
    ("function", "argument", "option"),
    [
        (portlease.serve_many, [{"a": ["true"]}], "timeout"),
        (portlease.Service, [["true"]], "redy"),
        (portlease.recipes.redis, [], "port"),
        (portlease.recipes.postgresql, [], "pasword"),
    ],
)
def test_an_option_that_is_misspelt_is_refused(
    function: Callable[..., object], argument: list[object], option: str
) -> None:
    """Everywhere, and not taken for nothing at all."""
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        function(*argument, **{option: 3})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lease": 12345}, "lease=12345 is no lease"),
        ({"lease": "udp"}, "is no lease"),
        ({"ports": ["admin"]}, "is no mapping"),
        ({"timeout_s": "3"}, "is no number of seconds"),
    ],
)
def test_an_option_of_a_wrong_kind_is_refused(options: dict[str, Any], words: str) -> None:
    """By one error that names it."""
    with pytest.raises(portlease.UsageError, match=words):
        portlease.serve(["true"], **options)
    with pytest.raises(portlease.UsageError, match="no mapping"):
        portlease.serve_many([["true"]])  # type: ignore[arg-type]
    with pytest.raises(portlease.UsageError, match="args is a mapping"):
        portlease.serve_many({"a": {"args": ["true"]}})  # type: ignore[dict-item]


def test_python_http_server() -> None:
    """Python's http.server is served, answers, and is gone afterwards."""
    with serve(HTTP) as server:
        assert get(server) == b"HTTP/1.0 200 OK"
        assert (server.how, server.starts) == ("offer", 1)
        assert server.lease.state == "OFFERED"
        assert server.argv[-1] == str(server.port)
        assert type(server.port) is int
        assert server.ports == {"port": server.port}
        assert 0 < server.ready_after_s < HANG_S
        tree = server.process.tree()
        with watched(tree) as wait_all:
            server.stop()
            assert wait_all() == []
    assert server.process.returncode == -signal.SIGTERM
    assert server.lease.state == "RELEASED"
    assert "GET / HTTP/1.0" in server.output


def test_redis() -> None:
    """redis-server answers PING at once."""
    with serve([need.program("redis-server"), "--port", "{port}", "--save", ""]) as server:
        assert ask(server, b"PING\r\n") == b"+PONG\r\n"
        assert server.how == "offer"
        assert "Ready to accept connections" in server.output
    assert server.process.returncode == 0


def test_memcached() -> None:
    """Memcached, which drops root's privileges, is served."""
    command = [need.program("memcached"), "-u", "nobody", "-l", "{host}", "-p", "{port}", "-U", "0"]
    with serve(command) as server:
        assert ask(server, b"version\r\n").startswith(b"VERSION")
        assert server.how == "offer"


NGINX = """
exec 2>&1
cat > nginx.conf <<'end'
    daemon {daemon};
    pid nginx.pid;
    error_log stderr;
    events {}
    http { access_log off; server { listen {port}; return 200 hello; } }
end
exec "$0" -p "$PWD" -e stderr -c nginx.conf
"""


@pytest.mark.parametrize("daemon", ["on", "off"])
def test_nginx(tmp_path: Path, daemon: str) -> None:
    """nginx, in the foreground and as a daemon that leaves its starter: master and workers."""
    script = NGINX.replace("{daemon}", daemon)
    command = ["sh", "-c", script, need.program("nginx")]
    with serve(command, cwd=tmp_path, stop_signal=signal.SIGQUIT) as server:
        assert get(server) == b"HTTP/1.1 200 OK"
        assert server.how == "offer"
        tree = server.process.tree()
        assert len(tree) >= 2
        if daemon == "on":  # it listens first, and its starter ends then
            assert server.process.wait(HANG_S) == 0
        else:
            assert server.process.poll() is None
        with watched(tree) as wait_all:
            server.stop()
            assert wait_all() == []


def test_openssl_s_server(tmp_path: Path) -> None:
    """Openssl s_server is served, and shakes hands with a real TLS client."""
    openssl = need.program("openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        (
            f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
            " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
            f" -keyout {key} -out {certificate}"
        ).split(),
        check=True,
        capture_output=True,
    )
    command = [
        openssl,
        "s_server",
        "-accept",
        "{port}",
        "-cert",
        str(certificate),
        "-key",
        str(key),
    ]
    with serve([*command, "-www"]) as server:
        assert server.how == "offer"
        context = ssl.create_default_context(cafile=certificate)
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 200")


def test_node() -> None:
    """Node's http module is served."""
    code = "require('http').createServer((q, s) => s.end('hi')).listen(process.env.PORT)"
    with serve([need.program("node"), "-e", code]) as server:
        assert get(server) == b"HTTP/1.1 200 OK"
        assert server.how == "offer"


# --- servers that do not: the lease steps aside for them ------------------------------------------

TCP_SERVER = """
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")
socketserver.TCPServer(("", {port}), Handler).serve_forever()
"""


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


@pytest.mark.parametrize(
    "command", [lambda: python(TCP_SERVER), socat, perl], ids=["socketserver", "socat", "perl"]
)
def test_without_so_reuseaddr(command: Callable[[], list[str]]) -> None:
    """It fails beside the offered lease, is started again alone, and it is remembered."""
    with serve(command()) as server:
        assert ask(server).startswith(b"hello")
        assert (server.how, server.starts) == ("step-aside", 2)
        assert server.lease.state == "GUARDED"
        assert "in use" in server.output
        # Nobody else's lease can have the port meanwhile.
        with pytest.raises(PortUnavailableError):
            portlease.lease(ports=[server.port])
    with serve(command()) as server:
        assert ask(server).startswith(b"hello")
        assert (server.how, server.starts) == ("step-aside", 1)
        assert "in use" not in server.output


def test_told_that_it_needs_the_port_alone() -> None:
    """how="step-aside" saves the first attempt."""
    with serve(python(PLAIN), how="step-aside") as server:
        assert ask(server) == b"tiny"
        assert (server.how, server.starts) == ("step-aside", 1)


def test_told_to_insist_on_the_offer() -> None:
    """how="offer" never gives the hold up, and the error says what to do."""
    with pytest.raises(
        ServerDiedError, match="does not set SO_REUSEADDR; leave how= out"
    ) as caught:
        serve(python(PLAIN), how="offer")
    assert vars(caught.value)["how"] == "offer"


def test_a_silent_failure_is_tried_again() -> None:
    """A server that ends without a word may have found its port in use: it gets a second start."""
    silent = (
        "import os, sys\ntry:\n" + textwrap.indent(PLAIN, "    ") + "\nexcept OSError: os._exit(7)"
    )
    with serve(python(silent)) as server:
        assert ask(server) == b"tiny"
        assert (server.how, server.starts) == ("step-aside", 2)


def test_a_failure_in_another_language_is_tried_again() -> None:
    """Where messages are not in English, what they say is not relied on."""
    german = PLAIN.replace("server.bind(", "bind(")
    german = (
        "def bind(where):\n    try:\n        server.bind(where)\n"
        "    except OSError:\n        sys.exit('Die Adresse wird bereits verwendet')\n"
    ) + german
    with pytest.raises(ServerDiedError, match="bereits verwendet"):
        serve(python(german), env={"LC_ALL": "C"})
    with serve(python(german), env={"LC_ALL": "de_DE.UTF-8"}) as server:
        assert server.starts == 2


def test_a_failure_for_another_reason_is_not_tried_again() -> None:
    """A server that says why it failed, and it is not the port, is started once."""
    with pytest.raises(ServerDiedError) as caught:
        serve(["sh", "-c", "echo once; echo 'unknown option' >&2; exit 2"])
    assert caught.value.output == "once\nunknown option\n"
    assert caught.value.returncode == 2
    assert "twice" not in str(caught.value)


RETRIES = """
import time
def bind(where):
    for _ in range(1000):
        try:
            return server.bind(where)
        except OSError as error:
            print(error, flush=True)
            time.sleep(0.01)
"""


def test_a_server_that_tries_again_by_itself() -> None:
    """While it says that the port is in use, the lease steps aside, and it goes on in one start."""
    code = RETRIES + PLAIN.replace("server.bind(", "bind(")
    with serve(python(code)) as server:
        assert ask(server) == b"tiny"
        assert (server.how, server.starts) == ("step-aside", 1)
        assert "[Errno 98]" in server.output
    with serve(python(code)) as server:
        assert "[Errno 98]" not in server.output


def test_a_server_that_stays_without_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says so, does not try again and does not end either, is started once more."""
    monkeypatch.setattr(_attempt, "_RETRY_S", 0.05)
    code = "import time\ntry:\n" + textwrap.indent(PLAIN, "    ")
    code += "\nexcept OSError as error:\n    print(error, flush=True)\n    time.sleep(1000)"
    with serve(python(code)) as server:
        assert ask(server) == b"tiny"
        assert (server.how, server.starts) == ("step-aside", 2)


# --- UDP, several ports, the environment ----------------------------------------------------------

UDP = """
import _socket
server = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
server.bind(("", {port}))
while True:
    data, sender = server.recvfrom(1000)
    server.sendto(data.upper(), sender)
"""


def test_udp() -> None:
    """A UDP server is ready when its socket is bound; its lease is guarded from the start."""
    with (
        serve(python(UDP), ports={"port": "udp"}) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(HANG_S)
        client.sendto(b"hello", ("127.0.0.1", server.port))
        assert client.recv(100) == b"HELLO"
        assert (server.how, server.starts, server.lease.state) == ("step-aside", 1, "GUARDED")


def test_both_transports_on_one_number() -> None:
    """Ready means both; TCP stays offered, and UDP has stepped aside."""
    code = UDP.split("while", maxsplit=1)[0].replace("server", "udp") + TINY
    with serve(python(code), ports={"port": "both"}) as server:
        assert ask(server) == b"tiny"
        assert (server.how, server.starts, server.lease.state) == ("offer", 1, "OFFERED")
    only_tcp = python(TINY)
    error = never_ready(only_tcp, lambda error: len(error.missing) == 1, ports={"port": "both"})
    assert re.search(r"does not listen on UDP port \d+", str(error))
    assert error.missing == ("port",)


def test_named_ports_and_environment(tmp_path: Path) -> None:
    """Every name in arguments and env= is leased, filled in, and in the environment too."""
    code = """
        import posix, _socket
        listeners = []
        for number in ({port}, {admin}, int(posix.environ[b"SPARE_PORT"])):
            listeners.append(_socket.socket())
            listeners[-1].setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            listeners[-1].bind(("{host}", number))
            listeners[-1].listen()
        names = b"PORT", b"ADMIN_PORT", b"METRICS_PORT", b"SPARE_PORT", b"URL", b"LITERAL"
        print(*[posix.environ[name].decode() for name in names], posix.getcwd(), flush=True)
        listeners[0].accept if False else listeners[0]._accept()
    """
    with serve(
        python(code),
        env={"URL": "http://{host}:{metrics}/", "LITERAL": "{{port}} ${port}"},
        ports={"spare": "tcp"},
        wait_for=["port", "admin", "spare"],
        cwd=tmp_path,
    ) as server:
        ports = server.ports
        assert set(ports) == {"port", "admin", "metrics", "spare"}
        assert len(set(ports.values())) == 4
        assert {name: lease.port for name, lease in server.leases.items()} == ports
        expected: list[object] = [ports[n] for n in ("port", "admin", "metrics", "spare")]
        expected += [f"http://127.0.0.1:{ports['metrics']}/", "{port}", "${port}", tmp_path]
        wait_for(lambda: server.output.endswith("\n"))
        assert server.output == " ".join(map(str, expected)) + "\n"


def test_waits_for_the_ports_it_was_told_to(tmp_path: Path) -> None:
    """By default it must listen on all of its ports; wait_for= says which will do."""
    code = TINY + "# {admin}"
    error = never_ready(python(code), lambda error: len(error.missing) == 1)
    assert re.search(r"port \d+ \(admin\)", str(error))
    assert error.missing == ("admin",)
    for wait_for_it in (["port"], "port"):
        with serve(python(code), wait_for=wait_for_it) as server:
            assert ask(server) == b"tiny"
    with serve(["sleep", "1000"], wait_for=[], cwd=tmp_path) as server:
        assert server.process.poll() is None


def test_label_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases bear the program's name or the label, and cover the given host."""
    monkeypatch.setattr(_onlooker.look, "label", None)  # or this test's would stand before it
    with serve(python(TINY), host="127.0.0.1", label="mine") as server:
        assert server.host == "127.0.0.1"
        assert server.lease.scope == "127.0.0.1"
        assert server.lease.label == "mine"
    with serve(python(TINY)) as server:
        assert server.lease.scope in {"*", "0.0.0.0"}  # noqa: S104 - compared
        assert server.lease.label == Path(sys.executable).name


def test_ipv6_only() -> None:
    """A server that listens on ::1 alone is ready, and says that this is where it is."""
    need.capability("ipv6")
    code = TINY.replace("AF_INET,", "AF_INET6,").replace('"127.0.0.1"', '"::1"')
    with serve(python(code)) as server:
        assert server.host == "::1"
        assert ask(server, host=server.host) == b"tiny"
    code = code.replace('"::1"', '"{host}"')
    with serve(python(code), host="::1") as server:
        assert server.host == "::1"
        assert ask(server, host="::1") == b"tiny"


def test_not_ready_between_two_addresses() -> None:
    """A server that listens on ::1 first is ready when 127.0.0.1 answers too, as a client asks."""
    need.capability("ipv6")
    code = TINY.replace("AF_INET,", "AF_INET6,").replace('"127.0.0.1"', '"::1"')
    code = code.split("while", maxsplit=1)[0].replace("server", "first") + TINY
    for _ in range(5):
        with serve(python(code)) as server:
            assert server.host == "127.0.0.1"
            assert ask(server) == b"tiny"


# --- what kind of process it is -------------------------------------------------------------------


def test_double_fork_daemon() -> None:
    """A server that becomes a daemon in a session of its own is served, and ended."""
    code = """
        import os, signal, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.chdir("/")
    """
    code = textwrap.dedent(code) + textwrap.indent(TINY, " " * 8) + "\nsys.exit(0)"
    with serve([sys.executable, "-c", code]) as server:
        assert ask(server) == b"tiny"
        assert server.process.wait(HANG_S) == 0
        with watched(server.process.tree()) as wait_all:
            server.stop()
            assert wait_all() == []


@pytest.mark.parametrize(
    "script",
    [
        '"$@"',
        '"$@"; echo after',
        '"$@" & wait',
        '("$@" &) ; sleep 1000',
        'sh -c \'"$@"; true\' sh "$@"; true',
        'setsid "$@" & wait',
    ],
)
def test_shell_chains(script: str) -> None:
    """However many shells stand before the server, it is found, and all of them are ended."""
    with serve(["sh", "-c", script, "sh", *python(TINY)]) as server:
        assert ask(server) == b"tiny"
        with watched(server.process.tree()) as wait_all:
            server.stop()
            assert wait_all() == []


def test_server_that_ignores_sigterm() -> None:
    """It is ended by SIGKILL after its time, which a warning says, with the remedy."""
    code = "import _signal; _signal.signal(15, _signal.SIG_IGN)\n" + TINY
    server = serve(python(code), stop_timeout_s=0.05)
    with watched(server.process.tree()) as wait_all:
        with pytest.warns(ServerKilledWarning, match="of SIGTERM.*stop_timeout_s=") as caught:
            server.stop()
        assert wait_all() == []
    assert caught[0].filename == __file__
    assert server.process.returncode == -signal.SIGKILL
    server.stop()


def test_stop_signal() -> None:
    """The signal that tells it to end can be chosen, SIGKILL too, which warns of nothing."""
    with serve(HTTP, stop_signal=signal.SIGINT) as server:
        assert get(server) == b"HTTP/1.0 200 OK"  # so it is in the loop that Ctrl-C ends
    assert "Keyboard interrupt received" in server.output
    with serve(python(TINY), stop_signal=signal.SIGKILL) as server:
        pass
    assert server.process.returncode == -signal.SIGKILL


def test_server_that_prints_megabytes() -> None:
    """Nobody has to read its output for it to go on; all of it can be read, while and after."""
    code = "import posix\nfor _ in range(64): posix.write(1, b'x' * 65535 + b'\\n')\n" + TINY
    with serve(python(code)) as server:
        assert ask(server) == b"tiny"
        assert len(server.output) == 64 << 16
    assert len(server.output) == 64 << 16


def test_output_of_a_stopped_server_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is stopped its file is gone, and only the end of what was in it is kept."""
    monkeypatch.setattr(_output, "KEPT_BYTES", 5)
    with serve(["sh", "-c", 'echo 0123456789; exec "$@"', "sh", *python(TINY)]) as server:
        assert server.output == "0123456789\n"
    assert server.output == "6789\n"


def test_output_while_it_runs() -> None:
    """Both standard outputs, in their order, what is no UTF-8 too."""
    script = 'echo one; echo two >&2; printf "\\377\\n"; exec "$@"'
    with serve(["sh", "-c", script, "sh", *python(TINY)]) as server:
        assert server.output == "one\ntwo\n\ufffd\n"


def test_server_that_hides_its_descriptors(tmp_path: Path) -> None:
    """Where we may not look into the server (not dumpable), its user's socket is taken for its own.

    But never one that somebody has whom we can see.
    """
    need.capability("root")
    script = tmp_path / "hidden.py"
    script.write_text(
        textwrap.dedent(
            """
            import ctypes, os, signal, socket, sys
            import portlease
            for capability in (1, 2, 19):  # CAP_DAC_OVERRIDE, _DAC_READ_SEARCH, _SYS_PTRACE
                assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
            class Header(ctypes.Structure):
                _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
            header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
            assert ctypes.CDLL(None).capget(ctypes.byref(header), data) == 0
            for i in range(3):
                data[i] &= ~((1 << 1) | (1 << 2) | (1 << 19))
            assert ctypes.CDLL(None).capset(ctypes.byref(header), data) == 0
            hide = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\\n"  # PR_SET_DUMPABLE
            with portlease.serve([sys.executable, "-c", hide + sys.argv[1]]) as server:
                pid = server.process.pid
                try:
                    os.readlink(f"/proc/{pid}/fd/0")
                except PermissionError:
                    print("served, unseen")
            with portlease.lease() as lease, socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                thief.bind(("127.0.0.1", lease.port))
                thief.listen()
                idle = [sys.executable, "-c", hide + "import signal; signal.pause()"]
                try:
                    portlease.serve(idle, lease=lease, timeout_s=0.5)
                except portlease.ServerTimeoutError:
                    print("the thief was not taken for it")
            """
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script), TINY], capture_output=True, text=True, check=False
    )
    assert done.stdout == "served, unseen\nthe thief was not taken for it\n", done.stderr


# --- what goes wrong ------------------------------------------------------------------------------


def test_server_on_another_port() -> None:
    """A server that ignores the number is told from a slow one: the error says where it is."""
    error = never_ready(python(TINY.replace("{port}", "0")), lambda error: error.listening)
    assert len(error.listening) == 1
    assert f"it listens on {error.listening[0]} instead" in str(error)
    assert "nothing in its command" in str(error)
    assert error.missing == ("port",)


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is seen where it listens")
def test_server_on_another_port_that_it_was_told() -> None:
    """The number in the command is the culprit; the first line says what is the matter."""
    with portlease.lease() as lease:
        args = python(TINY.replace("{port}", str(lease.port)))
        error = never_ready(args, lambda error: error.listening)
    first, second, *_ = str(error).splitlines()
    port = error.ports["port"]
    assert f"not listen on port {port}; it listens on {lease.port} instead" in first
    assert second == f"{lease.port} stands in its arguments: write {{port}} in its place"
    assert "nothing in its command" not in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is seen where it listens")
def test_server_on_another_port_that_a_variable_tells() -> None:
    """The same of env=."""
    args = python(TINY.replace("{port}", "int(__import__('os').environ['AT'])"))
    with portlease.lease() as lease:
        env = {"AT": str(lease.port)}
        error = never_ready(args, lambda error: error.listening, env=env)
    assert f"{lease.port} stands in its variable AT: write {{port}} in its place" in str(error)


def test_server_on_another_address() -> None:
    """One that listens where the leased host is not is not ready, and the error says where."""
    address = "tell it to bind {host}, or lease the port where it binds"
    error = never_ready(python(TINY), lambda error: address in str(error), host="127.0.0.2")
    assert "it listens on 127.0.0.1 only, and the lease is for 127.0.0.2" in str(error)
    assert "it wrote nothing" in str(error)
    assert "more time" not in str(error)


def test_server_that_takes_too_long() -> None:
    """The error names the port, its output, and the remedy."""
    command = ["sh", "-c", "echo loading; : {port}; exec sleep 1000"]
    error = never_ready(command, lambda error: error.output)
    late = rf"(?s){error.timeout_s:g} s does not.*loading.*timeout_s="
    assert re.search(late, str(error))
    assert isinstance(error, TimeoutError)


def test_server_that_ends_first() -> None:
    """At once an error with its exit status and the last of its output."""
    script = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); done; exit 3"
    begun = time.monotonic()
    with pytest.raises(ServerDiedError, match="sh ended with exit status 3") as caught:
        serve(["sh", "-c", script], timeout_s=HANG_S)
    assert time.monotonic() - begun < HANG_S / 3
    error = caught.value
    assert error.returncode == 3
    assert "line 20\n" in str(error)
    assert "line 19\n" not in str(error)
    assert error.output.startswith("line 0\n")
    assert error.argv[0] == "sh"


def test_server_that_is_ended_by_a_signal() -> None:
    """The signal is called by its name."""
    with pytest.raises(ServerDiedError, match="was ended by SIGABRT") as caught:
        serve(["sh", "-c", "echo oh no; kill -ABRT $$"])
    assert caught.value.returncode == -signal.SIGABRT


def test_launcher_that_fails_and_leaves_something() -> None:
    """A command that fails is reported, even if a child of it still runs; that is ended too."""
    with pytest.raises(ServerDiedError, match="exit status 4"):
        serve(["sh", "-c", "sleep 1000 & echo no; exit 4"])


def test_program_that_is_not_there() -> None:
    """The error says which, and nothing stays leased."""
    with pytest.raises(ServerStartError, match="portlease-no-such: command not found"):
        serve(["portlease-no-such", "{port}", "{admin}"])


def test_out_of_descriptors() -> None:
    """Wherever on the way they run out, the error says what to do, and nothing is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serve(python(TINY)):  # everything is imported now
        pass
    with contextlib.ExitStack() as stack:
        lowest = os.dup(0)
        os.close(lowest)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for spare in range(1, 6):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
            with pytest.raises(ResourceLimitError, match="ulimit -n") as caught:
                serve(python(TINY))
            assert caught.value.errno == errno.EMFILE


def test_errors_can_be_pickled() -> None:
    """They cross to the controller of pytest-xdist with all their facts."""
    with pytest.raises(ServerDiedError) as caught:
        serve(["sh", "-c", "echo oh no; exit 1"])
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert str(copy) == str(caught.value)
    assert (copy.argv, copy.returncode, copy.output) == (
        caught.value.argv,
        1,
        caught.value.output,
    )


@contextlib.contextmanager
def thief(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the port: it sets SO_REUSEADDR and listens."""
    code = TINY.replace("{port}", str(port)).replace("tiny", "thief")
    code = code.replace("while True", "print('listening', flush=True)\nwhile True")
    with subprocess.Popen([*PYTHON, code], stdout=subprocess.PIPE) as popen:
        try:
            assert popen.stdout is not None
            assert popen.stdout.readline() == b"listening\n"
            yield popen
        finally:
            popen.kill()


def test_somebody_elses_server_is_not_taken_for_ours() -> None:
    """A stranger who listens on the leased port makes nothing ready, and the error names him."""
    with portlease.lease() as lease, thief(lease.port) as stranger:
        assert ask(lease.port) == b"thief"
        with pytest.raises(ServerTimeoutError, match=f"pid {stranger.pid}"):
            serve(["sleep", "1000"], lease=lease, timeout_s=0.3)


def test_address_in_use_names_the_culprit() -> None:
    """A server that finds its port taken is tried both ways, and the error says who has it."""
    with portlease.lease() as lease, thief(lease.port) as stranger:
        with pytest.raises(ServerDiedError, match=f"pid {stranger.pid}") as caught:
            serve(python(TINY), lease=lease)
        assert "twice" in str(caught.value)
        assert "Address already in use" in str(caught.value)


def test_address_in_use_elsewhere() -> None:
    """Where nobody else has the leased port, the error says that it must be another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = TINY.replace("{port}", str(port))
        with pytest.raises(ServerDiedError, match="a hard-coded one") as caught:
            serve(python(code + "# {port}"))
    if sys.platform == "linux":
        assert f"{port} stands in its arguments: write {{port}} in its place" in str(caught.value)
        assert f"tcp {port}: listening on 127.0.0.1 by" in str(caught.value)


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        ("redis-server --port {port}", {}, "shlex"),
        ([], {}, "empty"),
        (["x"], {"how": "perhaps"}, "perhaps"),
        (["x"], {"timeout_s": float("nan")}, "timeout_s"),
        (["x"], {"timeout_s": -1}, "timeout_s"),
        (["x"], {"stop_timeout_s": -1}, "stop_timeout_s"),
        (["x"], {"stop_signal": 4711}, "4711"),
        (["x", "{fd}"], {"how": "offer"}, "fd"),
        (["x", "{admin_fd}"], {"how": "broker"}, "admin_fd"),
        (["x"], {"ports": {"Admin": "tcp"}}, "Admin"),
        (["x"], {"ports": {"admin": "sctp"}}, "sctp"),
        (["x"], {"wait_for": ["admin"]}, "admin"),
        (["x"], {"wait_for": "admin"}, "names admin"),
        (["x", 1], {}, r"args\[1\]=1 is no text"),
        (["x"], {"env": {"A": 1}}, r"env\['A'\]=1 is no text"),
        (["x"], {"host": "no.such.host.invalid"}, "no.such.host"),
    ],
)
def test_what_can_never_work(args: Any, options: dict[str, Any], words: str) -> None:  # noqa: ANN401 - wrong on purpose
    """Mistakes of the caller are told before anything is started."""
    with pytest.raises(UsageError, match=words):
        serve(args, **options)


def test_a_unix_socket_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no AF_UNIX there, which is told before anything is started."""
    monkeypatch.setattr("portlease._server._command.sys.platform", "win32")
    with pytest.raises(UsageError, match="ctl cannot be a Unix socket"):
        portlease._server._serve.command_of(["x", "{ctl}"], ports={"ctl": "unix"})


def test_interrupted_while_it_waits() -> None:
    """Ctrl-C during the wait ends the server and gives the ports back."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupt):
            serve(["sleep", "1000"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- leases of the caller's -----------------------------------------------------------------------


def test_a_given_lease_stays_the_callers() -> None:
    """It is used and not released; two servers in turn can have it."""
    with portlease.lease() as lease:
        for _ in range(2):
            with serve(python(TINY), lease=lease) as server:
                assert server.port == lease.port
                assert server.lease is lease
            assert lease.state == "OFFERED"
        with serve(python(PLAIN), lease=lease) as server:
            assert server.how == "step-aside"
        assert lease.state == "GUARDED"
        with serve(python(TINY), lease=lease) as server:
            assert server.how == "step-aside"


def test_a_held_lease_is_offered() -> None:
    """A lease that is HELD is opened as the server needs it."""
    with portlease.lease(offer=False) as lease, serve(python(TINY), lease=lease) as server:
        assert (server.how, lease.state) == ("offer", "OFFERED")
    with portlease.lease("udp", offer=False) as lease, serve(python(UDP), lease=lease) as server:
        assert (server.how, lease.state) == ("step-aside", "GUARDED")


def test_a_lease_that_is_over() -> None:
    """A released lease, or one handed over, cannot be served on."""
    with portlease.lease() as lease:
        pass
    with pytest.raises(LeaseStateError, match="RELEASED"):
        serve(python(TINY), lease=lease)
    with (
        portlease.lease() as lease,
        lease.listen(),
        pytest.raises(LeaseStateError, match="HANDED_OVER"),
    ):
        serve(python(TINY), lease=lease)
    with portlease.lease() as lease, pytest.raises(UsageError, match="host="):
        serve(python(TINY), lease=lease, host="127.0.0.1")


@pytest.mark.parametrize("code", [TINY, PLAIN], ids=["offer", "step-aside"])
def test_restart(code: str) -> None:
    """A new process on the same port, which stays leased in between."""
    with serve(python(code)) as server:
        port, pid, how = server.port, server.process.pid, server.how
        losses: list[object] = []
        done = threading.Event()

        def steal() -> None:
            while not done.is_set():
                with contextlib.suppress(PortUnavailableError):
                    losses.append(portlease.lease(ports=[port]))

        with watched([pid]) as wait_all:
            thread = threading.Thread(target=steal)
            thread.start()
            try:
                server.restart()
            finally:
                done.set()
                thread.join()
            assert wait_all() == []
        assert not losses
        assert (server.port, server.how, server.starts) == (port, how, 1)
        assert server.process.pid != pid
        assert ask(server) == b"tiny"
    with pytest.raises(UsageError, match="cannot be restarted"):
        server.restart()


def test_restarts_under_attack() -> None:
    """Beside an offered lease, nobody without SO_REUSEADDR can bind between two starts."""
    with serve(python(TINY)) as server, beset(server.port, socket.SOCK_STREAM) as taken:
        for _ in range(2):
            server.restart()
            assert ask(server) == b"tiny"
        server.kill()
        server.restart()
        assert ask(server) == b"tiny"
        assert not taken
        assert (server.how, server.lease.state) == ("offer", "OFFERED")


def test_restart_that_fails() -> None:
    """The error comes out, and the leases are there until the server is stopped."""
    script = 'test -e once && echo oh no && exit 1; : > once; exec "$@"'
    with contextlib.ExitStack() as stack:
        import tempfile

        directory = stack.enter_context(tempfile.TemporaryDirectory())
        server = serve(["sh", "-c", script, "sh", *python(TINY)], cwd=directory)
        stack.enter_context(server)
        with pytest.raises(ServerDiedError, match="oh no"):
            server.restart()
        assert server.lease.state != "RELEASED"
    assert server.lease.state == "RELEASED"


# --- us ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", ["on", "off"])
def test_our_death_ends_the_server(tmp_path: Path, daemon: str) -> None:
    """Killed by SIGKILL, we leave no server, no worker and no lease behind."""
    need.capability("subreaper")
    code = """
        import os, sys, portlease
        server = portlease.serve(sys.argv[1:])
        print(server.port, server.process._popen.pid, *server.process.tree(), flush=True)
        sys.stdin.read()
    """
    command = ["sh", "-c", NGINX.replace("{daemon}", daemon), need.program("nginx")]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as popen:
        try:
            assert popen.stdout is not None
            port, *tree = map(int, popen.stdout.readline().split())
            with watched(tree) as wait_all:
                popen.kill()
                assert wait_all() == []
            popen.wait()
            with portlease.lease(ports=[port]):
                pass
        finally:
            popen.kill()


def test_a_fork_while_a_server_runs() -> None:
    """A forked child that ends leaves server and leases alone, whatever it does with them."""
    with serve(python(TINY)) as server:
        child = fork()
        if child == 0:
            code = 1
            try:
                server.stop()
                server.__exit__(None, None, None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ask(server) == b"tiny"
        assert server.lease.state == "OFFERED"


def test_a_clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that stops the time, as freezegun does, is served, and told of what never listens."""
    with monkeypatch.context() as frozen:
        for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"):
            frozen.setattr(time, name, lambda: 1)
        with serve(python(TINY)) as server:
            assert ask(server) == b"tiny"
            server.restart()
        with pytest.raises(ServerTimeoutError):
            serve(["sleep", "1000"], timeout_s=0.1)


def test_a_process_whose_descriptors_were_closed_has_a_repr() -> None:
    """Whoever closed them is in trouble enough."""
    with Process.start(["sleep", "1000"]) as process:
        assert isinstance(process, KeptProcess)
        sock = process._socket
        assert sock is not None
        copy = os.dup(sock.fileno())
        os.close(sock.fileno())
        try:
            assert "Bad file descriptor" in repr(process)
        finally:
            os.dup2(copy, sock.fileno(), inheritable=False)
            os.close(copy)
        assert "running" in repr(process)


def test_many_threads_serve_at_once() -> None:
    """Sixteen threads, servers of both kinds: each gets its own port and its own server."""
    ports: list[int] = []
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            with serve(python(PLAIN if i % 2 else TINY)) as server:
                assert ask(server) == b"tiny"
                ports.append(server.port)
                barrier.wait()
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)
            barrier.abort()

    barrier = threading.Barrier(16, timeout=HANG_S)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(set(ports)) == 16


def test_garbage_is_ended_with_a_warning() -> None:
    """A server that nobody has a handle on any more is ended, with one warning that says so."""
    need.capability("subreaper")
    servers = [serve(python(TINY))]
    port = servers[0].port
    process = servers[0].process
    assert isinstance(process, KeptProcess)
    with watched([process.pid, process._popen.pid]) as wait_all:
        with pytest.warns(ResourceWarning, match=f"port={port}.*was not stopped") as caught:
            servers.clear()
        gc.collect()
        assert len(caught) == 1
        assert wait_all() == []
    del process
    _process._reap_abandoned()


def test_stop_twice_and_from_threads() -> None:
    """stop() may be called again, and by several at once."""
    server = serve(python(TINY))
    threads = [threading.Thread(target=server.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.stop()
    assert server.process.ended
    assert "stopped" in repr(server)


# --- where there is no keeper ---------------------------------------------------------------------


@pytest.fixture
def no_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows: our own child, found ready by connecting."""
    monkeypatch.setattr(_process, "_keeper_is_possible", lambda: False)


@pytest.mark.usefixtures("no_keeper")
def test_ready_by_connecting() -> None:
    """Without a look into the kernel, a server is ready when it accepts a connection."""
    with serve(HTTP) as server:
        assert get(server) == b"HTTP/1.0 200 OK"
    with serve(python(PLAIN)) as server:
        assert ask(server) == b"tiny"
        assert server.starts == 2


@pytest.mark.usefixtures("no_keeper")
def test_udp_ready_by_asking() -> None:
    """A UDP server is there when no ICMP message says that it is not."""
    with serve(python(UDP), ports={"port": "udp"}) as server:
        assert server.process.poll() is None


@pytest.mark.usefixtures("no_keeper")
def test_failures_without_a_keeper() -> None:
    """Errors are the same."""
    with pytest.raises(ServerDiedError, match="exit status 3"):
        serve(["sh", "-c", "echo no; exit 3"])
    with pytest.raises(ServerTimeoutError):
        serve(["sleep", "1000"], timeout_s=0.1)
    with pytest.raises(ServerStartError):
        serve(["portlease-no-such"])
