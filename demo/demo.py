"""The main job: real servers, told nothing but a number, eight instances of each side by side.

Every server is checked by its own client for being *the one that was started*, by something only
that instance has: its certificate, its file, its process id, its data directory.

Then the contrast, in a private network namespace with a narrow ephemeral range, while other
processes call bind(0): the same servers on find_unused_port() numbers, and on leases.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

import portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSTANCES: Final = 8
TIMEOUT_S: Final = 60.0
console = Console()


class DemoError(Exception):
    """An instance answered with something that is not its own."""


@dataclass(frozen=True)
class Outcome:
    """How one instance went."""

    server: str
    port: int
    how: str
    ready_ms: float
    result: str
    good: bool


@dataclass(frozen=True)
class Kind:
    """A server program, how one instance of it is run and checked."""

    name: str
    program: str
    instance: Callable[[Path], contextlib.AbstractContextManager[tuple[portlease.Server, str]]]
    prepare: Callable[[Path], None] | None = None


def find(program: str) -> str | None:
    """Where *program* is, Debian's PostgreSQL directories and /usr/sbin included."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*os.get_exec_path(), "/usr/sbin", *map(str, versions)])
    return shutil.which(program, path=path)


def found(program: str) -> str:
    """As :func:`find`, for a program that is known to be there."""
    where = find(program)
    if where is None:
        raise DemoError(f"{program} has gone")
    return where


@contextlib.contextmanager
def openssl(folder: Path) -> Iterator[tuple[portlease.Server, str]]:
    """`openssl s_server` with a certificate of its own; the handshake accepts no other."""
    name = f"{uuid.uuid4().hex[:12]}.test"
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        f"{found('openssl')} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
        f" -keyout {key} -out {cert} -subj /CN={name} -addext subjectAltName=DNS:{name}".split(),
        check=True,
        capture_output=True,
    )
    command = [found("openssl"), "s_server", "-accept", "{port}"]
    with portlease.serve([*command, "-cert", str(cert), "-key", str(key)]) as server:
        context = ssl.create_default_context(cafile=str(cert))
        with (
            socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            yield server, f"{tls.version()} handshake with its own certificate"


@contextlib.contextmanager
def http(folder: Path) -> Iterator[tuple[portlease.Server, str]]:
    """Python's http.server on a folder of its own."""
    secret = uuid.uuid4().hex
    (folder / "secret.txt").write_text(secret)
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
    with portlease.serve(command, cwd=folder) as server:
        yield server, fetch_own(server.port, secret)


def fetch_own(port: int, secret: str) -> str:
    """GET the file that only this instance has."""
    url = f"http://127.0.0.1:{port}/secret.txt"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        if answer.read().decode() != secret:
            raise DemoError(f"{url} is somebody else's server")
    return "GET of its own file"


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[tuple[portlease.Server, str]]:
    """Redis, asked over its protocol for the process id it has."""
    command = [found("redis-server"), "--port", "{port}", "--save", "", "--dir", str(folder)]
    with (
        portlease.serve(command) as server,
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as client,
    ):
        client.sendall(b"INFO server\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer and not answer.endswith(b"\r\n\r\n"):
            answer += client.recv(65536)
        if f"process_id:{server.process.pid}\r".encode() not in answer:
            raise DemoError(f"port {server.port} answers for another process")
        yield server, "INFO names its own process"


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[tuple[portlease.Server, str]]:
    """Nginx, which reads its port from a file: the lease comes first, then the file."""
    secret = uuid.uuid4().hex
    (folder / "secret.txt").write_text(secret)
    folder.chmod(0o755)  # its workers run as another user
    with portlease.lease(host="127.0.0.1") as port:
        config = folder / "nginx.conf"
        temporary = " ".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; events {{}}"
            f" http {{ access_log off; {temporary}"
            f" server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
        )
        command = [found("nginx"), "-p", str(folder), "-c", str(config)]
        with portlease.serve(command, lease=port) as server:
            yield server, fetch_own(server.port, secret)


def postgresql_template(folder: Path) -> None:
    """One initdb for all instances; each takes a copy."""
    own_by_postgres(folder)
    subprocess.run(
        as_postgres([found("initdb"), "-A", "trust", "-U", "demo", "-N", "-D", f"{folder}/data"]),
        check=True,
        capture_output=True,
        cwd=folder,
    )


def own_by_postgres(folder: Path) -> None:
    """PostgreSQL refuses to run as root: root gives the folder to the user `postgres`."""
    if os.geteuid() == 0:
        folder.parent.chmod(0o755)
        shutil.chown(folder, "postgres", "postgres")


def as_postgres(command: list[str]) -> list[str]:
    """*command*, run by the user `postgres` if we are root."""
    if os.geteuid() != 0:
        return command
    return [found("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[tuple[portlease.Server, str]]:
    """PostgreSQL on a data directory of its own, asked by psql which one it has."""
    own_by_postgres(folder)
    data = folder / "data"
    copy = ["cp", "-a", str(folder.parent / "template" / "data"), str(data)]
    subprocess.run(as_postgres(copy), check=True, capture_output=True, cwd=folder)
    settings = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
    command = [found("postgres"), "-D", str(data), "-p", "{port}", "-k", str(folder), *settings]
    with portlease.serve(as_postgres(command), cwd=folder) as server:
        served = data_directory(server.port)
        if served != str(data):
            raise DemoError(f"port {server.port} serves {served}")
        yield server, "SQL query shows its own data"


def data_directory(port: int) -> str:
    """Ask PostgreSQL, which listens a moment before it lets anybody in ("is starting up")."""
    where = ["-h", "127.0.0.1", "-p", str(port), "-U", "demo", "-d", "postgres"]
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        done = subprocess.run(
            [found("psql"), *where, "-Atc", "show data_directory"],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return done.stdout.strip()
        if "starting up" not in done.stderr or time.monotonic() > deadline:
            raise DemoError(f"psql on port {port}: {done.stderr.strip()}")


KINDS: Final = (
    Kind("openssl s_server", "openssl", openssl),
    Kind("python http.server", sys.executable, http),
    Kind("redis", "redis-server", redis),
    Kind("nginx", "nginx", nginx),
    Kind("PostgreSQL", "postgres", postgresql, prepare=postgresql_template),
)


def run_instance(kind: Kind, folder: Path) -> Outcome:
    """One server, one client, one verdict."""
    folder.mkdir()
    try:
        with kind.instance(folder) as (server, result):
            return Outcome(
                kind.name, server.port, server.how, server.ready_after_s * 1000, result, good=True
            )
    except (portlease.PortleaseError, DemoError, OSError, subprocess.SubprocessError) as error:
        text = str(error).splitlines()[0]
        return Outcome(kind.name, 0, "", 0.0, f"{type(error).__name__}: {text}", good=False)


def side_by_side(kind: Kind, root: Path) -> list[Outcome]:
    """All instances of one kind at once, from start to stop."""
    home = root / kind.name.replace(" ", "-")
    home.mkdir()
    if kind.prepare is not None:
        (home / "template").mkdir()
        kind.prepare(home / "template")
    with ThreadPoolExecutor(INSTANCES) as pool:
        folders = [home / str(number) for number in range(INSTANCES)]
        return list(pool.map(partial(run_instance, kind), folders))


def main_job() -> bool:
    """Every kind the machine has; a table; True if every instance was its own."""
    table = Table(title=f"{INSTANCES} instances of each server side by side, on leased ports")
    for column in ("server", "port", "how", "ready after ms", "result"):
        table.add_column(
            column, justify="right" if column in ("port", "ready after ms") else "left"
        )
    missing, outcomes = [], []
    with tempfile.TemporaryDirectory(prefix="portlease-demo-") as name:
        root = Path(name)
        root.chmod(0o755)
        for kind in KINDS:
            if find(kind.program) is None:
                missing.append(kind.name)
                continue
            console.print(f"{INSTANCES} x {kind.name} ...", style="dim")
            outcomes += side_by_side(kind, root)
            table.add_section()
            for one in outcomes[-INSTANCES:]:
                style = None if one.good else "bold red"
                ready = f"{one.ready_ms:.0f}"
                table.add_row(one.server, str(one.port), one.how, ready, one.result, style=style)
    console.print(table)
    if missing:
        console.print(f"not installed, so not shown: {', '.join(missing)}", style="yellow")
    good = sum(one.good for one in outcomes)
    console.print(f"{good} of {len(outcomes)} servers answered as the one that was started.\n")
    return good == len(outcomes)


def contrast() -> bool:
    """Run contrast.py where nobody else is hurt; True unless the leases lost a server."""
    script = Path(__file__).with_name("contrast.py")
    unshare = find("unshare")
    if unshare is None:
        console.print("no contrast: unshare (util-linux) is not installed", style="yellow")
        return True
    reasons = []
    for options in (["--net"], ["--user", "--map-root-user", "--net"]):
        probe = subprocess.run(
            [unshare, *options, "true"], capture_output=True, text=True, check=False
        )
        if probe.returncode == 0:
            command = [unshare, *options, sys.executable, str(script), str(INSTANCES)]
            return subprocess.run(command, check=False).returncode == 0
        reasons.append(probe.stderr.strip())
    console.print(f"no contrast: no network namespace is to be had ({reasons[-1]})", style="yellow")
    return True


def main() -> int:
    """Both parts; exit status 1 if a leased server was not what was started."""
    began = time.monotonic()
    good = main_job()
    good = contrast() and good
    console.print(f"{time.monotonic() - began:.0f} s in all", style="dim")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
