"""Real servers: how each is started, where Debian has it, and how a client knows it.

In ``args`` and ``env`` stand the templates of :func:`portlease.serve`; in ``files``, which are
written into its working directory first, ``@PORT@`` stands for its port. ``@DIRECTORY@`` is that
directory, there and in ``args``. ``python3`` is the interpreter that the worker itself runs on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from . import _clients
from ._clients import TOKEN, Ask, http, tcp, tls, udp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind: TypeAlias = Literal["tcp", "udp", "both"]
How: TypeAlias = Literal["offer", "step-aside", "broker", "hand-over"]
HOWS: Final[tuple[How, ...]] = ("offer", "step-aside", "broker", "hand-over")
ITSELF: Final = "itself"
"""No means is asked for: serve() chooses."""
NOBODY: Final = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How a server is told that it inherits its socket: what differs from the entry."""

    args: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One server."""

    name: str
    program: str
    """What must be in PATH (or where Debian keeps it)."""
    package: str
    """Debian's; several, with commas."""
    runs: str | None = None
    """What is executed, if not *program*: what *prepare* made of it, say."""
    args: tuple[str, ...]
    asks: tuple[Ask, ...]
    kind: Kind = "tcp"
    takes: Variant | str
    """How it takes a socket, or why it takes none."""
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    """Makes what it needs in its directory: keys, a database."""
    as_root: tuple[str, ...] = ()
    """Further arguments where root starts it."""
    not_as_root: bool = False
    """It refuses to run as root, who therefore starts it through setpriv(1) as nobody."""
    stop_signal: int = signal.SIGTERM

    def argv(self, directory: Path, variant: Variant | None = None) -> list[str]:
        """Its command: templates, the program looked up."""
        args = self.args if variant is None or variant.args is None else variant.args
        args = tuple(word.replace("@DIRECTORY@", str(directory)) for word in args)
        before = _as_root(*_AS_NOBODY) if self.not_as_root else ()
        program = self.runs or found(self.program) or self.program
        return [*before, program, *args, *_as_root(*self.as_root)]


_AS_NOBODY: Final = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


def found(program: str) -> str | None:
    """Where a program is, in PATH or where Debian keeps servers; None if nowhere."""
    if program == "python3":
        return sys.executable
    postgresql = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: int(path.parent.name)
    )
    places = [
        *os.get_exec_path(),
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        *map(str, postgresql[-1:]),
    ]
    return shutil.which(program, path=os.pathsep.join(places))


def _as_root(*words: str) -> tuple[str, ...]:
    return words if os.geteuid() == 0 else ()


# --- what is prepared ---------------------------------------------------------------------------


def _run(*command: str, directory: Path) -> None:
    path = found(command[0])
    if path is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    done = subprocess.run(
        [path, *command[1:]],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-1000:]}")


def _certificate(directory: Path) -> None:
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    files = ("-subj", f"/CN={TOKEN}", "-keyout", "key.pem", "-out", "cert.pem")
    _run("openssl", "req", "-x509", *kind, *files, directory=directory)


def _host_key(directory: Path) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key", directory=directory)


def _cluster(directory: Path) -> None:
    (directory / "data").mkdir()
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
        os.chown(directory / "data", NOBODY, NOBODY)
    options = ("-D", "data", "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C")
    initdb = found("initdb") or "initdb"
    _run(*_as_root(*_AS_NOBODY), initdb, *options, directory=directory)


def _mariadb(directory: Path) -> None:
    data = directory / "data"
    data.mkdir()
    options = ["--no-defaults", f"--datadir={data}", "--skip-test-db"]
    options += ["--auth-root-authentication-method=normal", *_as_root("--user=root")]
    _run("mariadb-install-db", *options, directory=directory)


def _java(directory: Path) -> None:
    (directory / "Server.java").write_text(_JAVA, encoding="utf-8")
    _run("javac", "-d", ".", "Server.java", directory=directory)


def _static(directory: Path) -> None:
    source = str(Path(__file__).with_name("programs") / "tiny.c")
    _run("gcc", "-O2", "-static", "-o", "tiny", source, directory=directory)


# --- programs of our own, in other languages ----------------------------------------------------

_SOCKETSERVER: Final = f"""\
import socketserver
class Stream(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"{TOKEN}")
class Datagram(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(b"{TOKEN}")
"""
_SOCKETSERVER_FD: Final = """\
class Inherited(%s):
    def __init__(self, fd, handler):
        import socket
        super().__init__(("127.0.0.1", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=fd)
        self.server_activate()
Inherited({fd}, %s).serve_forever()
"""
_ASYNCIO: Final = f"""\
import asyncio, socket
async def answer(reader, writer):
    writer.write(b"{TOKEN}")
    await writer.drain()
    writer.close()
class Datagram(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(b"{TOKEN}", address)
async def main():
    loop = asyncio.get_running_loop()
    %s
    await asyncio.Event().wait()
asyncio.run(main())
"""
_PERL: Final = f"""\
while (my $client = $server->accept) {{ print $client "{TOKEN}"; close $client }}
"""
_PERL_BIND: Final = (
    "my $server = IO::Socket::INET->new(LocalAddr => '{host}', LocalPort => {port}, Listen => 5)"
    ' or die "no: $!";\n'
)
_PERL_FD: Final = (
    "my $server = IO::Socket::INET->new_from_fd({fd}, 'r+') or die \"no: $!\";"
    " $server->listen(5);\n"
)
_NODE: Final = (
    f"require('http').createServer((question, answer) => answer.end('{TOKEN}'))"
    ".listen({port}, '{host}')"
)
_NODE_UDP: Final = (
    "const server = require('dgram').createSocket('udp4');"
    f"server.on('message', (_, from) => server.send('{TOKEN}', from.port, from.address));"
    "server.bind({port}, '{host}')"
)
_JAVA: Final = f"""\
import java.net.*;
public class Server {{
    public static void main(String[] words) throws Exception {{
        InetAddress here = InetAddress.getByName(words[1]);
        int port = Integer.parseInt(words[2]);
        byte[] token = "{TOKEN}".getBytes();
        if (words[0].equals("udp")) {{
            DatagramSocket server = new DatagramSocket(port, here);
            while (true) {{
                DatagramPacket packet = new DatagramPacket(new byte[2048], 2048);
                server.receive(packet);
                packet.setData(token);
                server.send(packet);
            }}
        }}
        ServerSocket server = new ServerSocket(port, 16, here);
        while (true)
            try (Socket client = server.accept()) {{ client.getOutputStream().write(token); }}
    }}
}}
"""
_RUBY: Final = (
    "require 'socket'; server = TCPServer.new('{host}', {port});"
    f" loop {{ client = server.accept; client.write '{TOKEN}'; client.close }}"
)
_ASGI: Final = f"""\
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"{TOKEN}"}})
"""
_WSGI: Final = f"""\
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{TOKEN}"]
"""

# --- configurations -----------------------------------------------------------------------------

_NGINX: Final = f"""\
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{ listen 127.0.0.1:@PORT@; return 200 {TOKEN}; }}
}}
"""
_HAPROXY: Final = f"""\
defaults
    mode http
    timeout client 5s
    timeout server 5s
    timeout connect 5s
frontend matrix
    bind %s
    http-request return status 200 content-type text/plain string {TOKEN}
"""
_LIGHTTPD: Final = f"""\
server.document-root = var.CWD
server.bind = "127.0.0.1"
server.port = @PORT@
server.tag = "{TOKEN}"
"""
_APACHE: Final = f"""\
ServerRoot .
ServerName 127.0.0.1
Listen 127.0.0.1:@PORT@
PidFile httpd.pid
ErrorLog /dev/stderr
User nobody
Group nogroup
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
Redirect 302 / http://{TOKEN}/
"""
_CADDY: Final = f"""\
{{
    admin off
    auto_https off
}}
http://127.0.0.1:@PORT@ {{
    respond "{TOKEN}"
}}
"""
_UNBOUND: Final = f"""\
server:
    interface: 127.0.0.1
    port: @PORT@
    username: ""
    chroot: ""
    directory: "."
    pidfile: ""
    use-syslog: no
    do-daemonize: no
    module-config: "iterator"
    local-zone: "test." static
    local-data: "{TOKEN}.test. A 192.0.2.7"
remote-control:
    control-enable: no
"""
_ZONE: Final = f"""\
$ORIGIN test.
@ 60 SOA ns hostmaster 1 60 60 60 60
@ 60 NS ns
ns 60 A 127.0.0.1
{TOKEN} 60 A 192.0.2.7
"""
_NSD: Final = """\
server:
    ip-address: 127.0.0.1
    port: @PORT@
    server-count: 1
    username: ""
    zonesdir: "."
    database: ""
    pidfile: "nsd.pid"
    xfrdfile: "xfrd.state"
    zonelistfile: "zone.list"
    xfrdir: "."
remote-control:
    control-enable: no
zone:
    name: test
    zonefile: test.zone
"""
_KNOT: Final = """\
server:
    listen: 127.0.0.1@@PORT@
    rundir: "."
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "."
zone:
  - domain: test
    storage: "."
    file: test.zone
"""
_NAMED: Final = """\
options {
    directory ".";
    pid-file none;
    listen-on port @PORT@ { 127.0.0.1; };
    listen-on-v6 { none; };
    recursion no;
};
controls {};
zone "test" { type primary; file "test.zone"; };
"""
_TINYPROXY: Final = f"""\
Port @PORT@
Listen 127.0.0.1
Timeout 10
MaxClients 10
LogLevel Warning
ViaProxyName "{TOKEN}"
"""
_STUNNEL: Final = f"""\
foreground = yes
pid =
[matrix]
accept = 127.0.0.1:@PORT@
cert = cert.pem
key = key.pem
exec = /bin/echo
execArgs = echo {TOKEN}
"""
_SSHD: Final = """\
HostKey @DIRECTORY@/key
PidFile none
UsePAM no
"""
_SNMPD: Final = f"""\
rocommunity public 127.0.0.1
sysContact {TOKEN}
"""

# --- the catalogue ------------------------------------------------------------------------------

NO_SOCKET: Final = "takes no socket"
_TOKEN_TCP: Final = tcp("what it sends", b"hello\n", TOKEN.encode())
_TOKEN_UDP: Final = udp("what it answers", b"hello\n", TOKEN.encode())
_DNS: Final = (_clients.dns_udp, _clients.dns_tcp)
_PYTHON: Final = ("-I", "-S", "-c")

CATALOGUE: Final[tuple[Entry, ...]] = (
    # --- Python
    Entry(
        name="Python http.server",
        program="python3",
        package="python3",
        args=("-m", "http.server", "--bind", "{host}", "{port}"),
        asks=(http("SimpleHTTP/"),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="Python socketserver.TCPServer",
        program="python3",
        package="python3",
        args=(
            *_PYTHON,
            _SOCKETSERVER + "socketserver.TCPServer(('{host}', {port}), Stream).serve_forever()",
        ),
        asks=(_TOKEN_TCP,),
        takes=Variant(
            args=(
                *_PYTHON,
                _SOCKETSERVER + _SOCKETSERVER_FD % ("socketserver.TCPServer", "Stream"),
            )
        ),
    ),
    Entry(
        name="Python socketserver.UDPServer",
        program="python3",
        package="python3",
        kind="udp",
        args=(
            *_PYTHON,
            _SOCKETSERVER + "socketserver.UDPServer(('{host}', {port}), Datagram).serve_forever()",
        ),
        asks=(_TOKEN_UDP,),
        takes=Variant(
            args=(
                *_PYTHON,
                _SOCKETSERVER + _SOCKETSERVER_FD % ("socketserver.UDPServer", "Datagram"),
            )
        ),
    ),
    Entry(
        name="Python asyncio.start_server",
        program="python3",
        package="python3",
        args=(*_PYTHON, _ASYNCIO % "await asyncio.start_server(answer, '{host}', {port})"),
        asks=(_TOKEN_TCP,),
        takes=Variant(
            args=(
                *_PYTHON,
                _ASYNCIO
                % "await asyncio.start_server(answer, sock=socket.socket(fileno={fd}), backlog=7)",
            )
        ),
    ),
    Entry(
        name="Python asyncio datagrams",
        program="python3",
        package="python3",
        kind="udp",
        args=(
            *_PYTHON,
            _ASYNCIO
            % "await loop.create_datagram_endpoint(Datagram, local_addr=('{host}', {port}))",
        ),
        asks=(_TOKEN_UDP,),
        takes=Variant(
            args=(
                *_PYTHON,
                _ASYNCIO
                % "await loop.create_datagram_endpoint(Datagram, sock=socket.socket(fileno={fd}))",
            )
        ),
    ),
    Entry(
        name="uvicorn",
        program="uvicorn",
        package="uvicorn",
        args=("--host", "{host}", "--port", "{port}", "matrix:app"),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        files={"matrix.py": _ASGI},
        asks=(http(TOKEN),),
        takes=Variant(),
    ),
    Entry(
        name="gunicorn",
        program="gunicorn",
        package="gunicorn",
        args=("--bind", "{host}:{port}", "matrix:app"),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        files={"matrix.py": _WSGI},
        asks=(http(TOKEN),),
        takes=Variant(),
    ),
    # --- other languages
    Entry(
        name="Perl IO::Socket::INET",
        program="perl",
        package="perl",
        args=("-MIO::Socket::INET", "-e", _PERL_BIND + _PERL),
        asks=(_TOKEN_TCP,),
        takes=Variant(args=("-MIO::Socket::INET", "-e", _PERL_FD + _PERL)),
    ),
    Entry(
        name="Node http",
        program="node",
        package="nodejs",
        args=("-e", _NODE),
        asks=(http(TOKEN),),
        takes=Variant(
            args=("-e", _NODE.replace(".listen({port}, '{host}')", ".listen({fd: {fd}})"))
        ),
    ),
    Entry(
        name="Node dgram",
        program="node",
        package="nodejs",
        kind="udp",
        args=("-e", _NODE_UDP),
        asks=(_TOKEN_UDP,),
        takes=Variant(args=("-e", _NODE_UDP.replace("bind({port}, '{host}')", "bind({fd: {fd}})"))),
    ),
    Entry(
        name="Java ServerSocket",
        program="java",
        package="default-jdk-headless",
        args=("-XX:TieredStopAtLevel=1", "-cp", ".", "Server", "tcp", "{host}", "{port}"),
        asks=(_TOKEN_TCP,),
        prepare=_java,
        takes=NO_SOCKET,
    ),
    Entry(
        name="Java DatagramSocket",
        program="java",
        package="default-jdk-headless",
        kind="udp",
        args=("-XX:TieredStopAtLevel=1", "-cp", ".", "Server", "udp", "{host}", "{port}"),
        asks=(_TOKEN_UDP,),
        prepare=_java,
        takes=NO_SOCKET,
    ),
    Entry(
        name="PHP's own web server",
        program="php",
        package="php-cli",
        args=("-S", "{host}:{port}", "-t", "."),
        files={"index.php": f"<?php echo '{TOKEN}';"},
        asks=(http(TOKEN),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="Ruby TCPServer",
        program="ruby",
        package="ruby",
        args=("-e", _RUBY),
        asks=(_TOKEN_TCP,),
        takes=Variant(
            args=(
                "-e",
                _RUBY.replace("TCPServer.new('{host}', {port})", "TCPServer.for_fd({fd})"),
            )
        ),
    ),
    Entry(
        name="static C, SO_REUSEADDR",
        program="gcc",
        package="gcc,libc6-dev",
        runs="./tiny",
        args=("tcp", "reuse", "{port}"),
        asks=(_TOKEN_TCP,),
        prepare=_static,
        takes=Variant(args=("tcp", "fd", "{fd}")),
    ),
    Entry(
        name="static C, a bare bind",
        program="gcc",
        package="gcc,libc6-dev",
        runs="./tiny",
        args=("tcp", "plain", "{port}"),
        asks=(_TOKEN_TCP,),
        prepare=_static,
        takes=Variant(args=("tcp", "fd", "{fd}")),
    ),
    Entry(
        name="static C, UDP",
        program="gcc",
        package="gcc,libc6-dev",
        kind="udp",
        runs="./tiny",
        args=("udp", "plain", "{port}"),
        asks=(_TOKEN_UDP,),
        prepare=_static,
        takes=Variant(args=("udp", "fd", "{fd}")),
    ),
    # --- written in Go, which makes its system calls itself
    Entry(
        name="Caddy (Go)",
        program="caddy",
        package="caddy",
        args=("run", "--config", "Caddyfile", "--adapter", "caddyfile"),
        files={"Caddyfile": _CADDY},
        env={"HOME": ".", "XDG_DATA_HOME": ".", "XDG_CONFIG_HOME": "."},
        asks=(http(TOKEN),),
        takes="takes none before 2.9",
    ),
    Entry(
        name="etcd (Go)",
        program="etcd",
        package="etcd-server",
        args=(
            *("--data-dir", "data-{port}", "--log-level", "error", "--unsafe-no-fsync"),
            *("--listen-client-urls", "http://{host}:{port}"),
            *("--advertise-client-urls", "http://{host}:{port}"),
            *("--listen-peer-urls", "http://{host}:{peer}"),
            *("--initial-advertise-peer-urls", "http://{host}:{peer}"),
            *("--initial-cluster", "default=http://{host}:{peer}"),
        ),
        asks=(tcp("GET /version", b"GET /version HTTP/1.0\r\n\r\n", b"etcdserver"),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="nats-server (Go)",
        program="nats-server",
        package="nats-server",
        args=("-a", "{host}", "-p", "{port}"),
        asks=(tcp("INFO", b"", b'INFO {"server_id"'),),
        takes=NO_SOCKET,
    ),
    # --- web servers and proxies
    Entry(
        name="nginx",
        program="nginx",
        package="nginx-light",
        args=("-p", ".", "-e", "stderr", "-c", "nginx.conf"),
        files={"nginx.conf": _NGINX},
        asks=(http(TOKEN),),
        takes=Variant(),
    ),
    Entry(
        name="Apache httpd",
        program="apache2",
        package="apache2-bin",
        args=("-d", ".", "-f", "httpd.conf", "-DFOREGROUND"),
        files={"httpd.conf": _APACHE},
        asks=(http(TOKEN),),
        takes="takes none without mod_systemd, which Debian leaves out",
    ),
    Entry(
        name="lighttpd",
        program="lighttpd",
        package="lighttpd",
        args=("-D", "-f", "lighttpd.conf"),
        files={"lighttpd.conf": _LIGHTTPD},
        asks=(http(TOKEN),),
        takes=Variant(
            files={"lighttpd.conf": _LIGHTTPD + 'server.systemd-socket-activation = "enable"\n'}
        ),
    ),
    Entry(
        name="HAProxy",
        program="haproxy",
        package="haproxy",
        args=("-db", "-f", "haproxy.cfg"),
        files={"haproxy.cfg": _HAPROXY % "127.0.0.1:@PORT@"},
        asks=(http(TOKEN),),
        takes=Variant(
            env={"MATRIX_FD": "{fd}"}, files={"haproxy.cfg": _HAPROXY % 'fd@"$MATRIX_FD"'}
        ),
    ),
    Entry(
        name="tinyproxy",
        program="tinyproxy",
        package="tinyproxy-bin",
        args=("-d", "-c", "tinyproxy.conf"),
        files={"tinyproxy.conf": _TINYPROXY},
        asks=(http("tinyproxy"),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="stunnel",
        program="stunnel",
        package="stunnel4",
        args=("stunnel.conf",),
        files={"stunnel.conf": _STUNNEL},
        prepare=_certificate,
        asks=(tls("TLS, what it sends", b"", TOKEN.encode()),),
        takes=Variant(),
    ),
    # --- databases, queues
    Entry(
        name="Redis",
        program="redis-server",
        package="redis-server",
        args=("--port", "{port}", "--bind", "{host}", "--save", "", "--appendonly", "no"),
        asks=(tcp("INFO: redis_version", b"INFO server\r\n", b"redis_version"),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="PostgreSQL",
        program="postgres",
        package="postgresql",
        args=("-D", "data", "-h", "{host}", "-p", "{port}", "-k", "", "-F"),
        prepare=_cluster,
        asks=(_clients.postgresql,),
        takes=NO_SOCKET,
        not_as_root=True,
        stop_signal=signal.SIGINT,
    ),
    Entry(
        name="MariaDB",
        program="mariadbd",
        package="mariadb-server-core",
        args=(
            *("--no-defaults", "--datadir=@DIRECTORY@/data", "--pid-file=mariadb.pid"),
            "--socket=mariadb.sock",
            *("--bind-address={host}", "--port={port}", "--innodb-flush-log-at-trx-commit=0"),
        ),
        as_root=("--user=root",),
        prepare=_mariadb,
        asks=(tcp("greeting", b"", b"MariaDB"),),
        takes=Variant(),
    ),
    Entry(
        name="memcached, TCP and UDP",
        program="memcached",
        package="memcached",
        kind="both",
        args=("-l", "{host}", "-p", "{port}", "-U", "{port}"),
        as_root=("-u", "nobody"),
        asks=(tcp("version", b"version\r\n", b"VERSION "), _clients.memcached_udp),
        takes=NO_SOCKET,
    ),
    Entry(
        name="Mosquitto",
        program="mosquitto",
        package="mosquitto",
        args=("-p", "{port}"),
        asks=(_clients.mqtt,),
        takes=NO_SOCKET,
    ),
    Entry(
        name="beanstalkd",
        program="beanstalkd",
        package="beanstalkd",
        args=("-l", "{host}", "-p", "{port}"),
        asks=(tcp("stats", b"stats\r\n", b"current-jobs-urgent"),),
        takes=Variant(),
    ),
    # --- names, and other servers of datagrams
    Entry(
        name="dnsmasq, TCP and UDP",
        program="dnsmasq",
        package="dnsmasq-base",
        kind="both",
        args=(
            *("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
            *("--log-facility=-", "--pid-file=", f"--address=/{TOKEN}.test/192.0.2.7"),
            *("--listen-address={host}", "--bind-interfaces", "--port={port}"),
        ),
        as_root=("--user=nobody",),
        asks=_DNS,
        takes=NO_SOCKET,
    ),
    Entry(
        name="Unbound, TCP and UDP",
        program="unbound",
        package="unbound",
        kind="both",
        args=("-d", "-c", "unbound.conf"),
        files={"unbound.conf": _UNBOUND},
        asks=_DNS,
        takes=NO_SOCKET,
    ),
    Entry(
        name="NSD, TCP and UDP",
        program="nsd",
        package="nsd",
        kind="both",
        args=("-d", "-c", "nsd.conf"),
        files={"nsd.conf": _NSD, "test.zone": _ZONE},
        asks=_DNS,
        takes=NO_SOCKET,
    ),
    Entry(
        name="Knot DNS, TCP and UDP",
        program="knotd",
        package="knot",
        kind="both",
        args=("-c", "knot.conf"),
        files={"knot.conf": _KNOT, "test.zone": _ZONE},
        asks=_DNS,
        takes=NO_SOCKET,
    ),
    Entry(
        name="BIND named, TCP and UDP",
        program="named",
        package="bind9",
        kind="both",
        args=("-g", "-n", "1", "-c", "named.conf"),
        files={"named.conf": _NAMED, "test.zone": _ZONE},
        asks=_DNS,
        takes=NO_SOCKET,
    ),
    Entry(
        name="coturn, TCP and UDP",
        program="turnserver",
        package="coturn",
        kind="both",
        args=(
            *("-n", "-L", "{host}", "-p", "{port}", "-m", "1", "--no-tls", "--no-dtls"),
            *("--no-cli", "--no-rfc5780", "--no-auth", "--log-file", "stdout"),
            *("--pidfile", "turn.pid", "--userdb", "turn.db"),
        ),
        asks=(_clients.stun_udp, _clients.stun_tcp),
        takes=NO_SOCKET,
    ),
    Entry(
        name="snmpd (UDP)",
        program="snmpd",
        package="snmpd",
        kind="udp",
        args=("-f", "-Lo", "-C", "-c", "snmpd.conf", "-p", "snmpd.pid", "udp:{host}:{port}"),
        env={"SNMP_PERSISTENT_DIR": "."},
        files={"snmpd.conf": _SNMPD},
        asks=(_clients.snmp,),
        takes=NO_SOCKET,
    ),
    # --- tools
    Entry(
        name="openssl s_server",
        program="openssl",
        package="openssl",
        args=(
            "s_server",
            "-accept",
            "{host}:{port}",
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
            "-www",
        ),
        prepare=_certificate,
        asks=(tls("TLS, GET /", b"GET / HTTP/1.0\r\n\r\n", b"s_server"),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="openssl s_server, DTLS",
        program="openssl",
        package="openssl",
        kind="udp",
        args=(
            *("s_server", "-dtls1_2", "-listen", "-accept", "{host}:{port}"),
            *("-cert", "cert.pem", "-key", "key.pem"),
        ),
        prepare=_certificate,
        asks=(_clients.dtls("openssl"),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="socat with reuseaddr",
        program="socat",
        package="socat",
        args=("TCP-LISTEN:{port},bind={host},reuseaddr,fork", f"SYSTEM:echo {TOKEN}"),
        asks=(_TOKEN_TCP,),
        takes="takes none before 1.8",
    ),
    Entry(
        name="socat as it comes",
        program="socat",
        package="socat",
        args=("TCP-LISTEN:{port},bind={host},fork", f"SYSTEM:echo {TOKEN}"),
        asks=(_TOKEN_TCP,),
        takes="takes none before 1.8",
    ),
    Entry(
        name="socat, UDP",
        program="socat",
        package="socat",
        kind="udp",
        args=("UDP-RECVFROM:{port},bind={host},fork", f"SYSTEM:echo {TOKEN}"),
        asks=(_TOKEN_UDP,),
        takes=NO_SOCKET,
    ),
    Entry(
        name="ncat",
        program="ncat",
        package="ncat",
        args=("--listen", "--keep-open", "{host}", "{port}", "--sh-exec", f"echo {TOKEN}"),
        asks=(_TOKEN_TCP,),
        takes=NO_SOCKET,
    ),
    Entry(
        name="OpenSSH sshd",
        program="sshd",
        package="openssh-server",
        args=("-D", "-e", "-f", "sshd_config", "-o", "ListenAddress={host}:{port}"),
        files={"sshd_config": _SSHD},
        prepare=_host_key,
        asks=(tcp("banner", b"", b"SSH-2.0-OpenSSH"),),
        takes=NO_SOCKET,
    ),
    Entry(
        name="iperf3",
        program="iperf3",
        package="iperf3",
        args=("-s", "-B", "{host}", "-p", "{port}"),
        asks=(_clients.iperf,),
        takes=NO_SOCKET,
    ),
)
