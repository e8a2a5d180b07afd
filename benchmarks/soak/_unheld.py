"""The control: free ports that nobody holds, in place of leases.

What most helpers do, with a pool as small as the crowd makes it: bind a number to see that it is
free, close it, report it. A moment later the server binds it, SO_REUSEADDR set, and does not listen
yet. Every detector must find that two had the same port; else it would not have found it either
where there are leases.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

_START_S: Final = 0.005
_PORTS: Final = 64
_LOOPBACK: Final = "127.0.0.1"


class Held:
    """A port that was reported free, and is not held."""

    kind: Final = "unheld"

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: socket.socket | None = None

    def count(self) -> int:
        """One."""
        return 1

    def ports(self) -> list[tuple[str, int]]:
        """Its transport and number."""
        return [("tcp", self._port)]

    def states(self) -> list[str]:
        """It is in none."""
        return []

    def move(self, random: random.Random, counted: Callable[[str], None]) -> None:
        """Start a server, which takes a moment; it fails where another one got the port."""
        del random, counted
        if self._server is not None:
            return
        time.sleep(_START_S)
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((_LOOPBACK, self._port))
        except OSError as error:
            server.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            self._server = server

    def end(self, way: str) -> None:
        """Stop the server."""
        del way
        if self._server is not None:
            self._server.close()


class Lessor:
    """Reports free ports out of the first of *named*."""

    def __init__(self, named: Sequence[int], label: str) -> None:
        del label
        self._ports = list(named[:_PORTS])

    def take(self, random: random.Random) -> Held | None:
        """Find one that is free; None if none is."""
        for port in random.sample(self._ports, len(self._ports)):
            with socket.socket() as probe:
                try:
                    probe.bind((_LOOPBACK, port))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    continue
            return Held(port)
        return None
