"""nginx, serving a folder or in front of another server: ``recipes.nginx()``."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from portlease._errors import UsageError
from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings, braces

if TYPE_CHECKING:
    from typing import Final

    from portlease._server._server import Server
    from portlease._tree._process import StrPath

RECIPE: Final = Recipe(
    name="nginx",
    summary="nginx, serving a folder or in front of another server",
    programs=("nginx",),
    packages={"apt-get install": "nginx", "dnf install": "nginx", "brew install": "nginx"},
)

_READY: Final = "/.portlease-ready"
"""What the recipe itself asks for; neither the folder nor the upstream sees it."""

_TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

_TYPES: Final = {
    "text/html": "html htm",
    "text/css": "css",
    "text/plain": "txt md log",
    "text/csv": "csv",
    "text/javascript": "js mjs",
    "application/json": "json map",
    "application/xml": "xml",
    "application/pdf": "pdf",
    "application/wasm": "wasm",
    "application/zip": "zip whl",
    "application/gzip": "gz tgz",
    "image/png": "png",
    "image/jpeg": "jpg jpeg",
    "image/gif": "gif",
    "image/svg+xml": "svg",
    "image/webp": "webp",
    "image/x-icon": "ico",
    "font/woff2": "woff2",
    "video/mp4": "mp4",
}

_CONFIG: Final = """\
{user}
pid {pid};
daemon off;
worker_processes 1;
error_log stderr;
events {{
}}
http {{
    access_log /dev/stdout;
{temporary}
    types {{
{types}
    }}
    default_type application/octet-stream;
    map $http_upgrade $portlease_connection {{
        default upgrade;
        "" "";
    }}
    server {{
        listen {address};
        location = {ready} {{
            access_log off;
            return 204;
        }}
        location / {{
{location}
        }}
{config}
    }}
}}
"""

_FOLDER: Final = """\
            root {folder};
            autoindex on;"""

_PROXY: Final = """\
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $portlease_connection;"""


class NginxServer(RecipeServer):
    """A running nginx."""

    recipe = RECIPE

    def __init__(
        self, settings: Settings, *, folder: Path | None, upstream: str | None, config: str
    ) -> None:
        self._folder = folder
        self._upstream = upstream
        self._config = config
        super().__init__(settings)

    def _plan(self, home: Path) -> Plan:
        as_root = sys.platform != "win32" and os.geteuid() == 0
        text = _CONFIG.format(
            # Its workers would become another user, who may not read the caller's folder.
            user="user root;" if as_root else "",
            pid=_quoted(home / "nginx.pid"),
            temporary="\n".join(
                f"    {name}_temp_path {_quoted(home / name)};" for name in _TEMPORARY
            ),
            types="\n".join(f"        {kind} {names};" for kind, names in _TYPES.items()),
            address=self._bind_address(),
            ready=_READY,
            location=self._location(home),
            config=self._config,
        )
        file = home / "nginx.conf"
        file.write_text(text, encoding="utf-8")
        # -e: what goes wrong before it has read its configuration would go to /var/log.
        argv = [RECIPE.find(), "-p", braces(home), "-e", "stderr", "-c", braces(file)]
        return Plan(argv=argv)

    def _location(self, home: Path) -> str:
        if self._upstream is not None:
            return _PROXY.format(upstream=self._upstream)
        folder = self._folder
        if folder is None:
            folder = home / "www"
            folder.mkdir(exist_ok=True)
        return _FOLDER.format(folder=_quoted(folder))

    def _answers(self, server: Server) -> bool:
        # It listens before its master process blocks signals, and a SIGTERM that comes in between
        # sets a flag that nobody looks at until the next signal (nginx 1.22). Workers are forked
        # later than that.
        with socket.create_connection((server.host, server.port), timeout=1) as connection:
            connection.sendall(f"GET {_READY} HTTP/1.0\r\n\r\n".encode())
            return connection.recv(64).startswith(b"HTTP/")

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://{self.netloc}"

    @property
    def env(self) -> dict[str, str]:
        """BASE_URL."""
        return {"BASE_URL": self.url}


def nginx(
    folder: StrPath | None = None,
    *,
    upstream: str | None = None,
    config: str = "",
    **settings: Unpack[Settings],
) -> NginxServer:
    """Start nginx on a leased port, with a configuration of its own; none of the machine's is read.

    Args:
        folder: what it serves, with listings; by default an empty folder, ``server.home / "www"``.
        upstream: instead of a folder, the URL of a server that it stands in front of, as
            ``proxy_pass`` takes it. WebSockets pass, and X-Forwarded-For and -Proto are set.
        config: further lines for the ``server`` block of its configuration.
        **settings: as for every recipe, see :class:`Settings`.

    Returns:
        The server, once it listens. Its access log is in ``server.output``. It runs as the caller,
        also where that is root.

    Raises:
        RecipeUnavailableError: nginx is not installed.
        UsageError: both a folder and an upstream, or a path that its configuration cannot name.
        ServerError: as :func:`portlease.serve`; with nginx's own words if *config* is wrong.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    if folder is not None and upstream is not None:
        raise UsageError("nginx either serves folder= or stands in front of upstream=")
    served = None if folder is None else Path(folder).absolute()
    if served is not None and not served.is_dir():
        raise UsageError(f"nginx cannot serve {served}: it is no folder")
    return NginxServer(settings, folder=served, upstream=upstream, config=config)


def _quoted(path: Path) -> str:
    """Return *path* as nginx's configuration has it."""
    text = str(path)
    if "$" in text:
        raise UsageError(f"nginx's configuration cannot name {text}: a $ begins a variable there")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
