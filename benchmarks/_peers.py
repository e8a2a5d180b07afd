"""The libraries that portlease is measured against: how each of them is asked for a port.

All of them answer with a number and hold nothing. Whoever is not installed is left out, and the
report says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What portserver.py manages unless it is told otherwise: its own default.
_SERVER_POOL: Final = "15000-24999"
_START_S: Final = 20.0

CPYTHON: Final = "CPython find_unused_port"
PORTSERVER: Final = "portpicker, its server"


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to get a port number; *milliseconds*: each call takes as long as that."""

    name: str
    take: Callable[[], int]
    milliseconds: bool = False


def installed(server_address: str | None = None) -> tuple[list[Peer], list[str]]:
    """Return the peers that are here, and for each that is not, why.

    Args:
        server_address: where :func:`portserver` listens; None leaves that peer out.
    """
    peers: list[Peer] = []
    missing: list[str] = []
    for name in [*_LOADERS, *([PORTSERVER] if server_address is not None else [])]:
        try:
            peers.append(Peer(name, load(name, server_address), milliseconds=name == _PORT_FOR))
        except (ImportError, AttributeError) as error:
            missing.append(f"{name} was left out: {error}")
    return peers, missing


def load(name: str, server_address: str | None = None) -> Callable[[], int]:
    """Import one of them and return its function.

    Raises:
        ImportError: it is not installed.
        AttributeError: this version of it has no such function.
    """
    if name == PORTSERVER:
        return _portpicker(server_address)
    return _LOADERS[name]()


def refusals() -> tuple[type[Exception], ...]:
    """Return what those that are loaded raise when they find no port, besides OSError."""
    portpicker = sys.modules.get("portpicker")
    return () if portpicker is None else (portpicker.NoFreePortFoundError,)


def _from(module: str, name: str) -> Any:  # noqa: ANN401 - other people's code, most of it untyped
    return getattr(importlib.import_module(module), name)


def _anyio() -> Callable[[], int]:
    factory: Callable[[], int] = _from("anyio.pytest_plugin", "FreePortFactory")(socket.SOCK_STREAM)
    return factory


def _pytest_asyncio() -> Callable[[], int]:
    unused_port = _from("pytest_asyncio.plugin", "_unused_port")
    return lambda: int(unused_port(socket.SOCK_STREAM))


def _tornado() -> Callable[[], int]:
    bind_unused_port = _from("tornado.testing", "bind_unused_port")

    def take() -> int:
        sock, port = bind_unused_port()
        sock.close()
        return int(port)

    return take


def _portpicker(server_address: str | None = None) -> Callable[[], int]:
    pick = _from("portpicker", "pick_unused_port")
    return lambda: int(pick(portserver_address=server_address))


_PORT_FOR: Final = "port-for"
_LOADERS: Final[dict[str, Callable[[], Callable[[], int]]]] = {
    CPYTHON: lambda: _from("test.support.socket_helper", "find_unused_port"),
    "aiohttp unused_port": lambda: _from("aiohttp.test_utils", "unused_port"),
    "pytest-asyncio unused_tcp_port": _pytest_asyncio,
    "tornado bind_unused_port": _tornado,
    "anyio free_tcp_port": _anyio,
    "portend": lambda: _from("portend", "find_available_local_port"),
    "ephemeral-port-reserve": lambda: _from("ephemeral_port_reserve", "reserve"),
    _PORT_FOR: lambda: _from("port_for", "select_random"),
    "portpicker": _portpicker,
}


def portserver_script() -> Path | None:
    """Return portpicker's server, which pip installs beside the interpreter; None: it did not."""
    script = Path(sys.executable).with_name("portserver.py")
    return script if script.exists() else None


@contextlib.contextmanager
def portserver() -> Iterator[str | None]:
    """Run portpicker's server; yield its address, or None where it is not installed."""
    script = portserver_script()
    if script is None:
        yield None
        return
    address = f"@portlease-benchmark-{os.getpid()}"
    command = [sys.executable, str(script), "--portserver_address", address]
    command += ["--portserver_static_pool", _SERVER_POOL]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            await_server(server, "\0" + address[1:])
            yield address
        finally:
            server.terminate()


def await_server(server: subprocess.Popen[bytes], address: str) -> None:
    """Return once *server* listens on the Unix socket *address*.

    Raises:
        ConnectionRefusedError: it never did.
    """
    give_up = time.monotonic() + _START_S
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(address)
            except ConnectionRefusedError:
                if server.poll() is not None or time.monotonic() > give_up:
                    raise
            else:
                return
        time.sleep(0.02)
