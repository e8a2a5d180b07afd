"""etcd: ``recipes.etcd()``."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Unpack

from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings, braces, dial_host

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

    from portlease._server._serve import Server

RECIPE: Final = Recipe(
    name="etcd",
    summary="etcd, a cluster of one",
    programs=("etcd",),
    packages={"apt-get install": "etcd-server", "dnf install": "etcd", "brew install": "etcd"},
)


class EtcdServer(RecipeServer):
    """A running etcd. Its second port, that of its peers, is ``server.ports["peer"]``."""

    recipe = RECIPE

    def _plan(self, home: Path) -> Plan:
        host = dial_host(self._bind_host())
        client, peer = f"http://{host}:{{port}}", f"http://{host}:{{peer}}"
        argv = [RECIPE.find(), "--data-dir", braces(home / "data"), "--name", "default"]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
        argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        argv += ["--initial-cluster", f"default={peer}"]
        # It elects itself, and serves nothing before: 0.2 to 0.8 s by default, 0.05 s so.
        argv += ["--heartbeat-interval", "10", "--election-timeout", "100"]
        # Only a power cut can tell. As a variable, because 3.3 does not know it, and would refuse
        # an option that it does not know.
        return Plan(argv=argv, env={"ETCD_UNSAFE_NO_FSYNC": "true"})

    def _answers(self, server: Server) -> bool:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=1)
        try:
            connection.request("GET", "/health")
            answer = json.load(connection.getresponse())
        except (http.client.HTTPException, ValueError):
            return False  # it ended in the middle of its answer
        finally:
            connection.close()
        return bool(answer.get("health") in {"true", True})

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``: an endpoint, for its clients and its JSON gateway."""
        return f"http://{self.netloc}"

    @property
    def env(self) -> dict[str, str]:
        """ETCDCTL_API and ETCDCTL_ENDPOINTS."""
        return {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self.url}


def etcd(**settings: Unpack[Settings]) -> EtcdServer:
    """Start etcd, one member alone, on leased ports, its data in a temporary folder.

    Args:
        **settings: as for every recipe, see :class:`Settings`; ``args=["--auto-compaction-mode",
            "revision"]`` are options of etcd.

    Returns:
        The server, once it says that it is healthy: it has elected itself, and takes requests. What
        it has acknowledged survives ``restart()``, and ``kill()`` too; fsync is off where etcd can
        do without (3.4.8).

    Raises:
        RecipeUnavailableError: etcd is not installed.
        ServerError: as :func:`portlease.serve`.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.

    Not guaranteed: the default timing of an election. It is ten times as fast here, with the effect
    that a lease can be as short as one second.
    """
    return EtcdServer(settings)
