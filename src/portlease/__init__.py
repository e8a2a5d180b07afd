"""Network ports that nobody else can take, for tests and the servers they start.

>>> import portlease
>>> with portlease.lease() as port:  # any server: Popen(["redis-server", "--port", str(port)])
...     url = f"redis://127.0.0.1:{port}"

What is promised, against whom and on which operating system: docs/promise.md.
"""

from __future__ import annotations

from portlease._errors import (
    LeaseStateError,
    PortleaseError,
    PortsExhaustedError,
    PortUnavailableError,
    PrivilegeError,
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
    from portlease import script_helper, socket_helper
    from portlease._server._serve import Server, ServerKilledWarning, serve
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
    "Lease",
    "LeaseGroup",
    "LeaseInfo",
    "LeaseStateError",
    "PortUnavailableError",
    "PortleaseError",
    "PortsExhaustedError",
    "PrivilegeError",
    "ResourceDenied",
    "ResourceLimitError",
    "Server",
    "ServerDiedError",
    "ServerError",
    "ServerKilledWarning",
    "ServerStartError",
    "ServerTimeoutError",
    "State",
    "UsageError",
    "Who",
    "bind_port",
    "bind_unix_socket",
    "find_unused_port",
    "lease",
    "lease_block",
    "lease_many",
    "leases",
    "script_helper",
    "serve",
    "skip_unless_bind_unix_socket",
    "socket_helper",
    "transient_internet",
    "who",
]

# What a bare lease does not need is loaded when it is first asked for: subprocess, dataclasses and
# unittest would make `import portlease` several times as long.
_LATER = {
    "Server": "_server._serve",
    "ServerKilledWarning": "_server._serve",
    "serve": "_server._serve",
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

    if name in ("script_helper", "socket_helper"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
