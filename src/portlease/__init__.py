"""Network ports that nobody else can take, for tests and the servers they start.

>>> import portlease
>>> with portlease.lease() as port:  # any server: Popen(["redis-server", "--port", str(port)])
...     url = f"redis://127.0.0.1:{port}"

What is promised, against whom and on which operating system: docs/promise.md.
"""

from __future__ import annotations

from portlease._errors import (
    LeaseStateError,
    LeasesUnseenError,
    PortleaseError,
    PortsExhaustedError,
    PortUnavailableError,
    PrivilegeError,
    RecipeUnavailableError,
    ResourceLimitError,
    ServerDiedError,
    ServerError,
    ServerStartError,
    ServerTimeoutError,
    UsageError,
)
from portlease._lease import Lease, LeaseGroup
from portlease._leases import LeaseInfo, leases
from portlease._states import State
from portlease._take import lease, lease_block, lease_many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portlease import recipes, script_helper, socket_helper
    from portlease._server._async import AsyncServer, AsyncServerGroup, aserve, aserve_many
    from portlease._server._check import Http
    from portlease._server._group import ServerGroup, serve_many
    from portlease._server._serve import serve
    from portlease._server._server import Server
    from portlease._server._service import Service
    from portlease._server._warnings import (
        HowWarning,
        ServerDiedWarning,
        ServerKilledWarning,
        TemplateWarning,
    )
    from portlease._who import Who, who
    from portlease.socket_helper import (
        HOST,
        ResourceDenied,
        bind_port,
        bind_unix_socket,
        find_unused_port,
        skip_unless_bind_unix_socket,
        transient_internet,
    )

__version__ = "0.1.0"

__all__ = [
    "HOST",
    "AsyncServer",
    "AsyncServerGroup",
    "HowWarning",
    "Http",
    "Lease",
    "LeaseGroup",
    "LeaseInfo",
    "LeaseStateError",
    "LeasesUnseenError",
    "PortUnavailableError",
    "PortleaseError",
    "PortsExhaustedError",
    "PrivilegeError",
    "RecipeUnavailableError",
    "ResourceDenied",
    "ResourceLimitError",
    "Server",
    "ServerDiedError",
    "ServerDiedWarning",
    "ServerError",
    "ServerGroup",
    "ServerKilledWarning",
    "ServerStartError",
    "ServerTimeoutError",
    "Service",
    "State",
    "TemplateWarning",
    "UsageError",
    "Who",
    "aserve",
    "aserve_many",
    "bind_port",
    "bind_unix_socket",
    "find_unused_port",
    "lease",
    "lease_block",
    "lease_many",
    "leases",
    "recipes",
    "script_helper",
    "serve",
    "serve_many",
    "skip_unless_bind_unix_socket",
    "socket_helper",
    "transient_internet",
    "who",
]

# What a bare lease does not need is loaded when it is first asked for: subprocess, dataclasses and
# unittest would make `import portlease` several times as long.
_LATER = {
    "AsyncServer": "_server._async",
    "AsyncServerGroup": "_server._async",
    "aserve": "_server._async",
    "aserve_many": "_server._async",
    "HowWarning": "_server._warnings",
    "Http": "_server._check",
    "Server": "_server._server",
    "ServerGroup": "_server._group",
    "Service": "_server._service",
    "ServerDiedWarning": "_server._warnings",
    "ServerKilledWarning": "_server._warnings",
    "TemplateWarning": "_server._warnings",
    "serve": "_server._serve",
    "serve_many": "_server._group",
    "Who": "_who",
    "who": "_who",
    "HOST": "socket_helper",
    "ResourceDenied": "socket_helper",
    "bind_port": "socket_helper",
    "bind_unix_socket": "socket_helper",
    "find_unused_port": "socket_helper",
    "skip_unless_bind_unix_socket": "socket_helper",
    "transient_internet": "socket_helper",
}


def __getattr__(name: str) -> object:
    import importlib

    if name in ("recipes", "script_helper", "socket_helper"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
