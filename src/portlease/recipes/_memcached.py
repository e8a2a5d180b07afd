"""memcached: ``recipes.memcached()``."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Unpack

from portlease._tree._process import SIGKILL
from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

    from portlease._server._server import Server

RECIPE: Final = Recipe(
    name="memcached",
    summary="memcached",
    programs=("memcached",),
    packages={
        "apt-get install": "memcached",
        "dnf install": "memcached",
        "brew install": "memcached",
    },
)


class MemcachedServer(RecipeServer):
    """A running memcached. It keeps everything in memory: its home stays empty."""

    recipe = RECIPE

    def _plan(self, home: Path) -> Plan:
        del home
        argv = [RECIPE.find(), "-p", "{port}", "-l", "{host}", "-U", "0"]
        if sys.platform != "win32" and os.geteuid() == 0:
            argv += ["-u", "root"]  # it refuses to choose by itself
        # SIGTERM takes it up to a second, until its clock ticks, and it has nothing to save.
        return Plan(argv=argv, lives_at_home=False, stop_signal=SIGKILL)

    def _answers(self, server: Server) -> bool:
        with socket.create_connection((server.host, server.port), timeout=1) as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(64) != b""

    @property
    def url(self) -> str:
        """``127.0.0.1:PORT``, as its clients take it."""
        return self.netloc

    @property
    def env(self) -> dict[str, str]:
        """MEMCACHED_SERVERS, MEMCACHED_HOST and MEMCACHED_PORT."""
        return {
            "MEMCACHED_SERVERS": self.url,
            "MEMCACHED_HOST": self.host,
            "MEMCACHED_PORT": str(self.port),
        }


def memcached(**settings: Unpack[Settings]) -> MemcachedServer:
    """Start memcached on a leased port; TCP alone.

    Args:
        **settings: as for every recipe, see :class:`Settings`; ``args=["-m", "16"]`` are options of
            memcached.

    Returns:
        The server, once it answers. ``restart()`` empties it.

    Raises:
        RecipeUnavailableError: memcached is not installed.
        ServerError: as :func:`portlease.serve`.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    return MemcachedServer(settings)
