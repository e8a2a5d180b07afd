"""The libraries that portlease is measured against: how each of them is asked for a port.

All of them answer with a number; what keeps others from it meanwhile is told by :data:`HOLDS`.
Whoever is not installed is left out, and the report says so.
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
# anyio's factory gives no port twice, and would look for ever once it has given all.
_FACTORY_PORTS: Final = 2000

CPYTHON: Final = "CPython find_unused_port"
PORTSERVER: Final = "portpicker, its server"
RESERVE: Final = "ephemeral-port-reserve"
_AIOHTTP: Final = "aiohttp unused_port"
_ANYIO: Final = "anyio free_tcp_port"
_ASYNCIO: Final = "pytest-asyncio unused_tcp_port"
_PORT_FOR: Final = "port-for"
_PORTEND: Final = "portend"
_PORTPICKER: Final = "portpicker"
_RIG: Final = "rig reserve_port"
_RIG_LISTENER: Final = "rig allocate_listener"
_TORNADO: Final = "tornado bind_unused_port"

NOTHING: Final = "nothing"
MEMORY: Final = "own memory"
SOCKET: Final = "own socket"
HOLDS: Final = {
    CPYTHON: NOTHING,
    _AIOHTTP: NOTHING,
    _ASYNCIO: NOTHING,
    _PORTEND: NOTHING,
    _PORT_FOR: NOTHING,
    _RIG: NOTHING,
    _ANYIO: MEMORY,
    _PORTPICKER: MEMORY,
    RESERVE: "TIME_WAIT, 60 s",
    PORTSERVER: "its server's list",
    _TORNADO: SOCKET,
    _RIG_LISTENER: SOCKET,
}
"""What keeps anybody else from a port that was given out."""
HOLDERS: Final = tuple(name for name, hold in HOLDS.items() if hold not in {NOTHING, MEMORY})
"""Those whose hold means something to other processes."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to get a port number.

    Args:
        name: as the tables show it.
        take: returns a number.
        give_back: what is to be done so that the next one finds things as this one did.
        milliseconds: whether each call takes as long as that.
    """

    name: str
    take: Callable[[], int]
    give_back: Callable[[int], object] | None = None
    milliseconds: bool = False

    def take_and_give_back(self, calls: int) -> None:
        """Do both so many times."""
        take, give_back = self.take, self.give_back
        if give_back is None:
            for _ in range(calls):
                take()
        else:
            for _ in range(calls):
                give_back(take())


def installed(server_address: str | None = None) -> tuple[list[Peer], list[str]]:
    """Return the peers that are here, and for each that is not, why.

    Args:
        server_address: where :func:`portserver` listens; None leaves that peer out.
    """
    peers: list[Peer] = []
    missing: list[str] = []
    for name in [*_LOADERS, *([PORTSERVER] if server_address is not None else [])]:
        try:
            peers.append(load(name, server_address))
        except (ImportError, AttributeError) as error:
            missing.append(f"{name} was left out: {error}")
    return peers, missing


def load(name: str, server_address: str | None = None) -> Peer:
    """Import one of them.

    Raises:
        ImportError: it is not installed.
        AttributeError: this version of it has no such function.
    """
    if name == PORTSERVER:
        # Its client keeps what is returned for its own next question, and asks nobody. So nothing
        # is, and the server has it until the process ends.
        return Peer(name, _portpicker(server_address))
    give_back = _from("portpicker", "return_port") if name == _PORTPICKER else None
    return Peer(name, _LOADERS[name](), give_back, milliseconds=name == _PORT_FOR)


def refusals() -> tuple[type[Exception], ...]:
    """Return what those that are loaded raise when they find no port, besides OSError."""
    portpicker = sys.modules.get("portpicker")
    return () if portpicker is None else (portpicker.NoFreePortFoundError,)


def _from(module: str, name: str) -> Any:  # noqa: ANN401 - other people's code, most of it untyped
    return getattr(importlib.import_module(module), name)


def _anyio() -> Callable[[], int]:
    new = _from("anyio.pytest_plugin", "FreePortFactory")
    factory, given = new(socket.SOCK_STREAM), 0

    def take() -> int:
        nonlocal factory, given
        given += 1
        if given % _FACTORY_PORTS == 0:
            factory = new(socket.SOCK_STREAM)
        return int(factory())

    return take


def _pytest_asyncio() -> Callable[[], int]:
    unused_port = _from("pytest_asyncio.plugin", "_unused_port")
    return lambda: int(unused_port(socket.SOCK_STREAM))


def _closing(module: str, name: str) -> Callable[[], int]:
    """One that returns a socket and its port; the socket is closed at once."""
    bound = _from(module, name)

    def take() -> int:
        sock, port = bound()
        sock.close()
        return int(port)

    return take


def _portpicker(server_address: str | None = None) -> Callable[[], int]:
    pick = _from("portpicker", "pick_unused_port")
    return lambda: int(pick(portserver_address=server_address))


_LOADERS: Final[dict[str, Callable[[], Callable[[], int]]]] = {
    CPYTHON: lambda: _from("test.support.socket_helper", "find_unused_port"),
    _AIOHTTP: lambda: _from("aiohttp.test_utils", "unused_port"),
    _ASYNCIO: _pytest_asyncio,
    _TORNADO: lambda: _closing("tornado.testing", "bind_unused_port"),
    _ANYIO: _anyio,
    _RIG: lambda: _from("rig.net.ports", "reserve_port"),
    _RIG_LISTENER: lambda: _closing("rig.net.ports", "allocate_listener"),
    _PORTEND: lambda: _from("portend", "find_available_local_port"),
    RESERVE: lambda: _from("ephemeral_port_reserve", "reserve"),
    _PORT_FOR: lambda: _from("port_for", "select_random"),
    _PORTPICKER: _portpicker,
}


def portserver_script() -> Path | None:
    """Return portpicker's server, which pip installs beside the interpreter; None: it did not."""
    script = Path(sys.executable).with_name("portserver.py")
    return script if script.exists() else None


@contextlib.contextmanager
def portserver(pool: str = _SERVER_POOL) -> Iterator[str | None]:
    """Run portpicker's server with these ports; yield its address, None where there is none."""
    script = portserver_script()
    if script is None:
        yield None
        return
    address = f"@portlease-benchmark-{os.getpid()}"
    command = [sys.executable, str(script), "--portserver_address", address]
    command += ["--portserver_static_pool", pool]
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
