"""Real servers under the broker: told nothing but a number, and none of them knows."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portlease as library
from _brokered import (
    Told,
    brokered,
    need_broker,
    python,
    search_path,
    wait_for_brokered,
    wait_until,
)
from _need import need
from _processes import HANG_S, run_as, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("the broker is Linux's", allow_module_level=True)


@pytest.fixture(autouse=True)
def broker() -> None:
    """All of this needs one."""
    need_broker()


def listeners(told: Told) -> set[int]:
    """The processes whose listening sockets the broker has bound."""
    return {one.pid for one in told.process.brokered if one.action == "listen"}


def talks(told: Told, say: bytes, expect: bytes) -> None:
    """A client gets the answer that it expects."""
    with socket.create_connection(("127.0.0.1", told.port)) as client:
        client.settimeout(HANG_S)
        client.sendall(say)
        heard = b""
        while expect not in heard:
            data = client.recv(4096)
            assert data, heard
            heard += data


# --- programs of every make ---------------------------------------------------------------------


def test_redis() -> None:
    """C, with SO_REUSEADDR."""
    command = [need.program("redis-server"), "--port", "{port}", "--save", ""]
    with brokered(command) as told:
        wait_until(told, "tcp listen")
        talks(told, b"PING\r\n", b"+PONG")


def test_etcd(tmp_path: Path) -> None:
    """Go: a runtime with many threads, which makes its system calls itself."""
    with library.lease(offer=False) as peers:
        client, peer = "http://127.0.0.1:{port}", f"http://127.0.0.1:{peers.port}"
        command = [need.program("etcd"), "--data-dir", str(tmp_path)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"default={peer}", "--unsafe-no-fsync"]
        with brokered(command, more=[peers]) as told:
            wait_until(told, "tcp listen")
            wait_for(lambda: told.process.returncode is not None or len(listened(told)) == 2)
            assert listened(told) == {told.port, peers.port}


def listened(told: Told) -> set[int]:
    """The ports on which it has listened."""
    told.process.wait_for_news(0)
    return {one.port for one in told.process.brokered if one.action == "listen"}


JAVA = """
import java.net.*;
public class Server {
    public static void main(String[] words) throws Exception {
        ServerSocket server = new ServerSocket(Integer.parseInt(words[0]));
        DatagramSocket udp = new DatagramSocket(Integer.parseInt(words[0]));
        try (Socket client = server.accept()) {
            client.getOutputStream().write("hello".getBytes());
        }
    }
}
"""


def test_java(tmp_path: Path) -> None:
    """A JVM, TCP and UDP on one number."""
    java = need.program("java")
    (tmp_path / "Server.java").write_text(JAVA, encoding="utf-8")
    with brokered([java, "-Xshare:auto", str(tmp_path / "Server.java"), "{port}"], "both") as told:
        wait_until(told, "tcp listen", "udp bind")
        talks(told, b"", b"hello")


def test_node_cluster() -> None:
    """The workers' sockets are the primary's, sent to them."""
    source = """
        const cluster = require("cluster"), http = require("http");
        if (cluster.isPrimary) { cluster.fork(); cluster.fork(); }
        else http.createServer((_, answer) => answer.end("hello")).listen(Number(process.argv[1]));
    """
    with brokered([need.program("node"), "-e", source, "{port}"]) as told:
        wait_until(told, "tcp listen")
        talks(told, b"GET / HTTP/1.0\r\n\r\n", b"hello")


@pytest.mark.parametrize("daemon", ["on", "off"])
def test_nginx(daemon: str, tmp_path: Path) -> None:
    """It binds in the master, forks workers, and as a daemon leaves its parents behind."""
    nginx = need.program("nginx")
    (tmp_path / "conf").write_text(
        f"""
        daemon {daemon}; worker_processes 2; pid {tmp_path}/pid; error_log stderr;
        events {{ }}
        http {{
            access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;
            fastcgi_temp_path {tmp_path}/fast; uwsgi_temp_path {tmp_path}/uwsgi;
            scgi_temp_path {tmp_path}/scgi;
            server {{ listen 127.0.0.1:PORT reuseport; return 200 hello; }}
        }}
        """,
        encoding="ascii",
    )
    source = f"""
        path = {str(tmp_path / "conf")!r}
        text = open(path).read().replace("PORT", str(port))
        open(path, "w").write(text)
        os.execv({nginx!r}, ["nginx", "-p", {str(tmp_path)!r}, "-c", path])
    """
    with brokered(python(source)) as told:
        wait_until(told, "tcp listen")
        talks(told, b"GET / HTTP/1.0\r\n\r\n", b"hello")
        assert not told.process.ended
        assert (told.process.wait(HANG_S) == 0) if daemon == "on" else True


def test_a_shell_and_its_children() -> None:
    """`sh -c`, a pipeline, a background job: whoever of the tree binds it."""
    server = "import socket, sys; s = socket.create_server(('', int(sys.argv[1]))); s.accept()"
    shell = f'true | ({sys.executable} -c "{server}" "$0" & wait)'
    with brokered(["sh", "-c", shell, "{port}"]) as told:
        (_, listen) = wait_until(told, "tcp listen")
        assert listen.pid != told.process.pid
        assert listen.pid in told.process.tree()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str) -> None:
    """Workers of Python's multiprocessing, each with a SO_REUSEPORT socket of its own."""
    source = """
        import multiprocessing, socket, sys, time
        def work(port):
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            time.sleep(1000)
        if __name__ == "__main__":
            method = multiprocessing.get_context(sys.argv[2])
            for _ in range(3):
                method.Process(target=work, args=(int(sys.argv[1]),), daemon=True).start()
            time.sleep(1000)
    """
    with PythonFile(source) as path, brokered([sys.executable, path, "{port}", method]) as told:
        wait_for_brokered(told, lambda: len(listeners(told)) >= 3)


class PythonFile:
    """A script in a file, which multiprocessing's spawn needs."""

    def __init__(self, source: str) -> None:
        self._file = tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8")  # noqa: SIM115 - __exit__
        self._file.write(textwrap.dedent(source))
        self._file.flush()

    def __enter__(self) -> str:
        return self._file.name

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_a_daemon() -> None:
    """It forks twice, is nobody's child, and only then binds."""
    source = """
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)
        server = socket.create_server(("127.0.0.1", port))
        signal.pause()
    """
    with brokered(python(source)) as told:
        (_, listen) = wait_until(told, "tcp listen")
        assert told.process.wait(HANG_S) == 0
        assert listen.pid != told.process.pid


def test_mptcp() -> None:
    """Multipath TCP, which takes the port of TCP."""
    need.capability("mptcp")
    source = """
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        server.bind(("127.0.0.1", port))
        server.listen()
        print(server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), flush=True)
        server.accept()[0].sendall(b"hello")
    """
    with brokered(python(source)) as told:
        wait_until(told, "tcp listen")
        talks(told, b"", b"hello")
        assert told.said() == "1\n"  # it listens


def test_another_network_is_not_ours() -> None:
    """The same number in a network namespace that the server made for itself is another port."""
    need.capability("netns")
    need.capability("root")
    source = """
        import ctypes
        assert ctypes.CDLL(None).unshare(0x40000000) == 0
        server = socket.create_server(("0.0.0.0", port))
        print("up")
    """
    with brokered(python(source)) as told:
        assert told.end() == "up\n"
        assert told.process.brokered == []


# --- an ordinary user ---------------------------------------------------------------------------

AS_USER = """
import json, os, socket, sys, tempfile
sys.path[:0] = json.loads(sys.argv[1])
import portlease
from _brokered import brokered, need_broker, python, wait_until
source, kind, awaited = sys.argv[2:5]
with brokered(python(source, *sys.argv[5:]), kind) as told:
    if awaited:
        wait_until(told, *awaited.split(","))
    else:
        told.end()
    print(json.dumps([told.said(), len(told.process.brokered)]))
"""


def as_user(user: int, source: str, kind: str, awaited: str, *arguments: str) -> tuple[str, int]:
    """Do it as another user; return what the server has written, and how often it was brokered."""
    words = [json.dumps(search_path()), source, kind, awaited]
    done = run_as(user, [need.everybodys_python(), "-I", "-c", AS_USER, *words, *arguments])
    assert done.returncode == 0, done.stderr
    said, count = json.loads(done.stdout)
    return said, count


def test_an_ordinary_user() -> None:
    """TCP and UDP, without any privilege: options put back, restarts, second binds."""
    need.capability("other_user")
    source = """
        for _ in range(3):
            with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
                for one in (tcp, udp):
                    one.bind(("127.0.0.1", port))
                    print(one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
                    with socket.socket(type=one.type) as other:
                        try:
                            other.bind(("127.0.0.1", port))
                        except OSError as error:
                            print(error.errno)
                tcp.listen()
    """
    said, count = as_user(65534, source, "both", "")
    assert said == f"0\n{errno.EADDRINUSE}\n" * 6
    assert count == 9


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can look into, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


TROUBLED = """
import json, sys, tempfile
sys.path[:0] = json.loads(sys.argv[1])
import portlease
from _brokered import holds_of, python
from portlease._tree._process import Process
source = sys.argv[2]
with portlease.lease(offer=False) as lease, tempfile.TemporaryFile() as file:
    command = [word.replace("{port}", str(lease.port)) for word in python(source)]
    with Process.start(command, output=file.fileno(), holds=holds_of(lease)) as process:
        process.wait(200)
        process.wait_ended(200)
        file.seek(0)
        print(json.dumps([file.read().decode(), process.broker_troubles]))
"""


def test_what_cannot_be_looked_at_is_left_to_the_kernel() -> None:
    """A process that is closed to its own user binds as it would without us, and that is told."""
    need.capability("other_user")
    source = """
        import ctypes
        assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
        for number in (0, port):
            try:
                socket.socket().bind(("127.0.0.1", number))
                print("bound")
            except OSError as error:
                print(error.errno)
    """
    done = run_as(
        65534, [need.everybodys_python(), "-I", "-c", TROUBLED, json.dumps(search_path()), source]
    )
    assert done.returncode == 0, done.stderr
    said, (*_, trouble) = json.loads(done.stdout)
    assert said == f"bound\n{errno.EADDRINUSE}\n"
    assert "bind of thread" in trouble
    assert "Permission denied" in trouble


def test_setuid_programs_lose_their_power(public: Path) -> None:
    """An ordinary user's tree has no_new_privs: sudo, su and their like are mere programs in it."""
    need.capability("other_user")
    gcc = need.program("gcc")
    source = '#include <stdio.h>\n#include <unistd.h>\nint main(void){printf("%d", geteuid());}'
    (public / "who.c").write_text(source, encoding="ascii")
    program = public / "who"
    subprocess.run([gcc, "-o", program, public / "who.c"], check=True)
    program.chmod(0o4755)
    natively = subprocess.run([program], user=65534, capture_output=True, text=True, check=True)
    if natively.stdout != "0":
        need.missing("a place for setuid programs", f"{public} is mounted nosuid")
    run = "import subprocess; print(subprocess.check_output(sys.argv[2]).decode())"
    assert as_user(65534, run, "tcp", "", str(program))[0] == "65534\n"
    assert as_user(0, run, "tcp", "", str(program))[0] == "0\n"
