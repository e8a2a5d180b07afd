"""Ready-made starts for the servers that tests use most.

>>> from portlease import recipes
>>> with recipes.redis() as server:
...     connect(server.url)

Each starts one server on a leased port, with its data in a temporary folder, returns once it
answers, and leaves nothing behind: see docs/recipes.md. A recipe is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portlease.recipes._asgi import ASGIServer, asgi
    from portlease.recipes._etcd import EtcdServer, etcd
    from portlease.recipes._mariadb import MariaDBServer, mariadb
    from portlease.recipes._memcached import MemcachedServer, memcached
    from portlease.recipes._mosquitto import MosquittoServer, mosquitto
    from portlease.recipes._nginx import NginxServer, nginx
    from portlease.recipes._openssl import OpenSSLServer, openssl
    from portlease.recipes._postgresql import PostgreSQLServer, postgresql
    from portlease.recipes._rabbitmq import RabbitMQServer, rabbitmq
    from portlease.recipes._recipe import Recipe, RecipeServer, Settings
    from portlease.recipes._redis import RedisServer, redis

__all__ = [
    "ASGIServer",
    "EtcdServer",
    "MariaDBServer",
    "MemcachedServer",
    "MosquittoServer",
    "NginxServer",
    "OpenSSLServer",
    "PostgreSQLServer",
    "RabbitMQServer",
    "Recipe",
    "RecipeServer",
    "RedisServer",
    "Settings",
    "asgi",
    "available",
    "etcd",
    "mariadb",
    "memcached",
    "mosquitto",
    "names",
    "nginx",
    "openssl",
    "postgresql",
    "rabbitmq",
    "recipe",
    "redis",
]

_SERVERS = {
    "asgi": "ASGIServer",
    "etcd": "EtcdServer",
    "mariadb": "MariaDBServer",
    "memcached": "MemcachedServer",
    "mosquitto": "MosquittoServer",
    "nginx": "NginxServer",
    "openssl": "OpenSSLServer",
    "postgresql": "PostgreSQLServer",
    "rabbitmq": "RabbitMQServer",
    "redis": "RedisServer",
}
_MODULES = {
    **{name: f"_{name}" for name in _SERVERS},
    **{server: f"_{name}" for name, server in _SERVERS.items()},
    **dict.fromkeys(("Recipe", "RecipeServer", "Settings"), "_recipe"),
}


def names() -> tuple[str, ...]:
    """Return the names of all recipes, sorted. None of them is loaded for it."""
    return tuple(sorted(_SERVERS))


def recipe(name: str) -> Recipe:
    """Return what a recipe needs of the machine, by its name.

    Raises:
        KeyError: there is none of this name.
    """
    import importlib

    server: type[RecipeServer] = getattr(
        importlib.import_module(f"{__name__}.{_MODULES[name]}"), _SERVERS[name]
    )
    return server.recipe


def available() -> dict[Recipe, str | None]:
    """Say which recipes there are, and which of them this machine has the programs for.

    Returns:
        Every recipe, sorted by name, with the path of its server; None where it, or another
        program that it needs, is not installed: ``recipe.missing()`` names them, and
        ``recipe.packages`` what installs them.

    Not guaranteed: that the server starts. Nothing is executed to find out.
    """
    found = {}
    for one in map(recipe, names()):
        paths = [path for path in map(one.look_up, one.programs) if path is not None]
        found[one] = None if one.missing() else paths[0]
    return found


def __getattr__(name: str) -> object:
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
