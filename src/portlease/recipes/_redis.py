"""Redis: ``recipes.redis()``."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Unpack

from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings, braces

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

    from portlease._server._server import Server

RECIPE: Final = Recipe(
    name="redis",
    summary="Redis, with its data on disk",
    programs=("redis-server",),
    packages={
        "apt-get install": "redis-server",
        "dnf install": "redis",
        "brew install": "redis",
    },
)


class RedisServer(RecipeServer):
    """A running Redis."""

    recipe = RECIPE
    socket: Path | None
    """Its Unix socket, if one was asked for."""

    def __init__(self, settings: Settings, *, unix: bool) -> None:
        self._unix = unix
        super().__init__(settings)

    def _plan(self, home: Path) -> Plan:
        self.socket = home / "redis.sock" if self._unix else None
        argv = [RECIPE.find(), "--port", "{port}", "--bind", "{host}", "--dir", braces(home)]
        # Every write is in the file before it is acknowledged to survive a kill(): that is what a
        # test that kills it wants to see. fsync would only help against a power cut.
        argv += ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
        argv += ["--daemonize", "no", "--protected-mode", "no"]
        # It looks ten times a second whether it has been told to end; this makes it a hundred.
        argv += ["--hz", "100"]
        if self.socket is not None:
            argv += ["--unixsocket", braces(self.socket), "--unixsocketperm", "700"]
        return Plan(argv=argv)

    def _answers(self, server: Server) -> bool:
        # It listens before it has loaded its data: until then it answers -LOADING.
        with socket.create_connection((server.host, server.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``."""
        return f"redis://{self.netloc}/0"

    @property
    def env(self) -> dict[str, str]:
        """REDIS_URL, REDIS_HOST and REDIS_PORT."""
        return {"REDIS_URL": self.url, "REDIS_HOST": self.host, "REDIS_PORT": str(self.port)}


def redis(*, unix: bool = False, **settings: Unpack[Settings]) -> RedisServer:
    """Start Redis on a leased port, its data in a temporary folder.

    Args:
        unix: have it listen on a Unix socket too, :attr:`RedisServer.socket`.
        **settings: as for every recipe, see :class:`Settings`; ``args=["--maxmemory", "1mb"]`` are
            options of redis-server.

    Returns:
        The server, once it answers PING. What it has acknowledged survives ``restart()``, and
        ``kill()`` too.

    Raises:
        RecipeUnavailableError: redis-server is not installed.
        ServerError: as :func:`portlease.serve`.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    return RedisServer(settings, unix=unix)
