"""Mosquitto, an MQTT broker: ``recipes.mosquitto()``."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Unpack

from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings, braces

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

    from portlease._server._server import Server

RECIPE: Final = Recipe(
    name="mosquitto",
    summary="Mosquitto, an MQTT broker that lets everybody in",
    programs=("mosquitto",),
    packages={
        "apt-get install": "mosquitto",
        "dnf install": "mosquitto",
        "brew install": "mosquitto",
    },
    places=("/opt/homebrew/opt/mosquitto/sbin", "/usr/local/opt/mosquitto/sbin"),
)

# MQTT 3.1.1, section 3.1: CONNECT, a clean session, keep-alive 10 s, no client id.
_CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"
_CONNACK: Final = b"\x20"
_DISCONNECT: Final = b"\xe0\x00"


class MosquittoServer(RecipeServer):
    """A running Mosquitto."""

    recipe = RECIPE

    def __init__(self, settings: Settings, *, config: str) -> None:
        self._config = config
        super().__init__(settings)

    def _plan(self, home: Path) -> Plan:
        lines = [
            f"listener {self._lease.port} {self._bind_host()}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {home}/",
            # Its database is written after every change, not twice an hour: a kill() loses little.
            "autosave_on_changes true",
            "autosave_interval 1",
            "log_dest stderr",
        ]
        if sys.platform != "win32" and os.geteuid() == 0:
            lines.append("user root")  # else it becomes another, who may not write here
        lines.append(self._config)
        file = home / "mosquitto.conf"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Plan(argv=[RECIPE.find(), "-c", braces(file)])

    def _answers(self, server: Server) -> bool:
        with socket.create_connection((server.host, server.port), timeout=1) as connection:
            connection.sendall(_CONNECT)
            answered = connection.recv(4).startswith(_CONNACK)
            connection.sendall(_DISCONNECT)
            return answered

    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:PORT``."""
        return f"mqtt://{self.netloc}"

    @property
    def env(self) -> dict[str, str]:
        """MQTT_URL, MQTT_HOST and MQTT_PORT."""
        return {"MQTT_URL": self.url, "MQTT_HOST": self.host, "MQTT_PORT": str(self.port)}


def mosquitto(*, config: str = "", **settings: Unpack[Settings]) -> MosquittoServer:
    """Start Mosquitto on a leased port, its database in a temporary folder.

    Args:
        config: further lines for its mosquitto.conf(5).
        **settings: as for every recipe, see :class:`Settings`; ``args=["-v"]`` are options of
            mosquitto.

    Returns:
        The server, once it lets a client in. Retained messages survive ``restart()``.

    Raises:
        RecipeUnavailableError: mosquitto is not installed.
        ServerError: as :func:`portlease.serve`.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    return MosquittoServer(settings, config=config)
