"""RabbitMQ: ``recipes.rabbitmq()``."""

from __future__ import annotations

import glob
import json
import socket
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Unpack
from urllib.parse import quote

from portlease._errors import UsageError
from portlease.recipes import _login
from portlease.recipes._account import unprivileged
from portlease.recipes._login import Login, Wish
from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings, braces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Final

    from portlease._server._serve import Server

RECIPE: Final = Recipe(
    name="rabbitmq",
    summary="RabbitMQ, with a name server of its own",
    programs=("rabbitmq-server", "erl", "epmd"),
    packages={
        "apt-get install": "rabbitmq-server",
        "dnf install": "rabbitmq-server",
        "brew install": "rabbitmq",
    },
    user="rabbitmq",
)

# What Debian, Fedora and RabbitMQ itself put into PATH becomes user rabbitmq by su(1), and writes
# to /var/log. These are the scripts behind it, which run anywhere.
_SCRIPTS: Final = (
    "/usr/lib/rabbitmq/bin/{}",
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/{}",
)

_NODE: Final = "rabbit@localhost"
_COOKIE: Final = ".erlang.cookie"

# What a plugin listens on, where it would take a port of everybody's: the name of the leased port,
# and the words for Erlang that say it.
_LISTENERS: Final = {
    "rabbitmq_management": ("management", 'tcp_config [{ip,"{host}"},{port,{management}}]'),
    "rabbitmq_mqtt": ("mqtt", 'tcp_listeners [{"{host}",{mqtt}}]'),
    "rabbitmq_prometheus": ("prometheus", 'tcp_config [{ip,"{host}"},{port,{prometheus}}]'),
    "rabbitmq_stomp": ("stomp", 'tcp_listeners [{"{host}",{stomp}}]'),
    "rabbitmq_stream": ("stream", 'tcp_listeners [{"{host}",{stream}}]'),
    "rabbitmq_web_mqtt": ("web_mqtt", 'tcp_config [{ip,"{host}"},{port,{web_mqtt}}]'),
    "rabbitmq_web_stomp": ("web_stomp", 'tcp_config [{ip,"{host}"},{port,{web_stomp}}]'),
}
_MANAGEMENT: Final = "rabbitmq_management"


class RabbitMQServer(RecipeServer):
    """A running RabbitMQ. ``server.ports`` has those of its plugins, by name."""

    recipe = RECIPE
    user: str
    """The one user that it has, an administrator."""
    password: str
    """That one's password."""
    vhost: str
    """The virtual host that was made."""

    def __init__(
        self,
        settings: Settings,
        *,
        wish: Wish,
        options: Mapping[str, object],
        plugins: Sequence[str],
    ) -> None:
        self._wish = wish
        self._options = options
        self._plugins = plugins
        super().__init__(settings, unprivileged("rabbitmq"))

    def _plan(self, home: Path) -> Plan:
        login = _login.kept(home, self._wish)
        if login is None:
            login = _login.new(self._wish, user="guest", database="/")
        self.user, self.password, self.vhost = login
        self._write(home)
        for name in ("data", "log"):
            if not (home / name).exists():
                (home / name).mkdir(0o700)
                if self._account is not None:
                    self._account.own(home / name)
        return Plan(
            # Its folder is in its command only so that everything which runs there shows it.
            argv=[script("rabbitmq-server"), "-portlease", braces(home)],
            env=self._environment(home),
        )

    def _write(self, home: Path) -> None:
        definitions = home / "definitions.json"
        options: dict[str, object] = {
            "load_definitions": definitions,
            "loopback_users": "none",
            # It may use what there is: a test must not stand still because the disk is nearly full.
            "disk_free_limit.absolute": "1MB",
            **self._options,
        }
        lines = (f"{name} = {_word(value)}\n" for name, value in options.items())
        texts = {
            "definitions.json": json.dumps(self._definitions()),
            "rabbitmq.conf": "".join(lines),
            "rabbitmq-env.conf": "",
            "enabled_plugins": f"[{','.join(self._plugins)}].\n",
        }
        # Erlang's distribution lets in whoever knows the cookie. It wants the file to be private.
        if not (home / _COOKIE).exists():
            texts[_COOKIE] = _login.drawn_password()
        for name, text in texts.items():
            _login.write_private(home / name, text, self._account)

    def _definitions(self) -> dict[str, list[dict[str, str]]]:
        """What there is in it, from its first start: rabbitmq.conf could not write every name."""
        whole = dict.fromkeys(("configure", "write", "read"), ".*")
        user = {"name": self.user, "password": self.password, "tags": "administrator"}
        return {
            "users": [user],
            "vhosts": [{"name": self.vhost}],
            "permissions": [{"user": self.user, "vhost": self.vhost, **whole}],
        }

    def _environment(self, home: Path) -> dict[str, str]:
        words = [f"-kernel inet_dist_use_interface {self._interface()}"]
        words += [f"-{name} {_LISTENERS[name][1]}" for name in self._plugins if name in _LISTENERS]
        return {
            "HOME": braces(home),
            "RABBITMQ_NODENAME": _NODE,
            "RABBITMQ_NODE_IP_ADDRESS": "{host}",
            "RABBITMQ_NODE_PORT": "{port}",
            "RABBITMQ_DIST_PORT": "{dist}",
            # Nodes find each other through epmd, a daemon that the first of them starts, and that
            # all others of the machine then use. This one has its own, which ends with it.
            "ERL_EPMD_PORT": "{epmd}",
            "ERL_EPMD_ADDRESS": "{host}",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(words),
            # Nothing of the machine's own is read or written.
            "RABBITMQ_CONFIG_FILE": braces(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": braces(home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": braces(home / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": braces(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": braces(home / "data"),
            "RABBITMQ_LOG_BASE": braces(home / "log"),
            "RABBITMQ_LOGS": "-",
            "ERL_CRASH_DUMP": braces(home / "log" / "erl_crash.dump"),
            # The script becomes the server, instead of staying as its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _interface(self) -> str:
        """The address to bind, as Erlang writes it."""
        host = self._bind_host()
        try:
            address = IPv4Address(host)
        except AddressValueError:
            raise UsageError(
                f"host={host!r} is no IPv4 address, and Erlang's nodes talk IPv4 unless told "
                "otherwise; give another host="
            ) from None
        return "{" + str(address).replace(".", ",") + "}"

    # --- up ---

    def _came_up(self) -> None:
        _login.keep(self.home, Login(self.user, self.password, self.vhost))

    def _answers(self, server: Server) -> bool:
        # It answers the protocol's header by Connection.Start: a method (1) on channel 0.
        with socket.create_connection((server.host, server.port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(512)[:3] == b"\x01\x00\x00"

    # --- what a client needs ---

    @property
    def url(self) -> str:
        """``amqp://USER:PASSWORD@127.0.0.1:PORT/%2F``, the end being the virtual host."""
        user, password, vhost = (
            quote(text, safe="") for text in (self.user, self.password, self.vhost)
        )
        return f"amqp://{user}:{password}@{self.netloc}/{vhost}"

    @property
    def management_url(self) -> str:
        """``http://127.0.0.1:PORT`` of its management plugin: its pages, and its API at /api.

        Raises:
            UsageError: it was started without that plugin.
        """
        port = self.server.ports.get("management")
        if port is None:
            raise UsageError(f"no management plugin was started; give plugins=[{_MANAGEMENT!r}]")
        return f"http://{self.netloc.rpartition(':')[0]}:{port}"

    @property
    def env(self) -> dict[str, str]:
        """AMQP_URL and RABBITMQ_URL; and what rabbitmqctl needs.

        That is RABBITMQ_NODENAME, RABBITMQ_ERLANG_COOKIE and ERL_EPMD_PORT. The rabbitmqctl in PATH
        does not hand them on, if it is Debian's: the one in /usr/lib/rabbitmq/bin takes them.
        """
        cookie = (self.home / _COOKIE).read_text(encoding="utf-8")
        return {
            "AMQP_URL": self.url,
            "RABBITMQ_URL": self.url,
            "RABBITMQ_NODENAME": _NODE,
            "RABBITMQ_ERLANG_COOKIE": cookie,
            "ERL_EPMD_PORT": str(self.server.ports["epmd"]),
        }


def script(name: str) -> str:
    """Return the path of RabbitMQ's own script *name*.

    Raises:
        RecipeUnavailableError: it is not installed.
    """
    for pattern in _SCRIPTS:
        if found := sorted(glob.glob(pattern.format(name))):
            return found[-1]
    return RECIPE.find(name)


def _word(value: object) -> str:
    """Return *value* as it is written in rabbitmq.conf."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def rabbitmq(
    *,
    plugins: Sequence[str] = (),
    vhost: str | None = None,
    user: str | None = None,
    password: str | None = None,
    options: Mapping[str, object] | None = None,
    **settings: Unpack[Settings],
) -> RabbitMQServer:
    """Start RabbitMQ, one node alone, on leased ports, its data in a temporary folder.

    For root it is run as user rabbitmq, or nobody where there is none. It takes some five seconds
    to start, and one to stop; six, with a plugin that speaks HTTP. Its Erlang node has a port of
    its own, and so has the epmd by which nodes find each other: neither sees another node of the
    machine.

    Args:
        plugins: plugins to enable: ``["rabbitmq_management"]``. The ports of management, mqtt,
            prometheus, stomp, stream, web_mqtt and web_stomp are leased: ``server.ports["mqtt"]``.
        vhost: the virtual host that is made; ``/`` by default.
        user: the one user that there is, an administrator; ``guest`` by default.
        password: that one's; one is drawn by default.
        options: lines for rabbitmq.conf: ``{"channel_max": 20}``.
        **settings: as for every recipe, see :class:`Settings`; but by default ``timeout_s`` is 60
            and ``stop_timeout_s`` 20. In a ``home`` that is used again the user and the virtual
            host are there already.

    Returns:
        The server, once it speaks AMQP. Durable queues with persistent messages survive
        ``restart()``.

    Raises:
        RecipeUnavailableError: RabbitMQ or Erlang is not installed.
        UsageError: *home* is another's, or out of reach for the unprivileged user.
        ServerError: as :func:`portlease.serve`.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.

    Not guaranteed: the ports of other plugins, which are their own.
    """
    patient: Settings = {"timeout_s": 60.0, "stop_timeout_s": 20.0}
    return RabbitMQServer(
        {**patient, **settings},
        wish=Wish(user, password, vhost),
        options=dict(options or {}),
        plugins=tuple(plugins),
    )
