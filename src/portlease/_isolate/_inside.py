"""Asked inside: which network this is, and to reach one more service of the host."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from portlease._errors import IsolationUnavailableError

if TYPE_CHECKING:
    import _socket
    from typing import Final

_lock: Final = threading.Lock()
_reached: Final[set[tuple[str, int]]] = set()
_control: list[_socket.socket] = []

_ENVIRONMENT: Final = "PORTLEASE_REACH"


def network() -> int | None:
    """Which network this process is in: a number that is another one's only if it is the same.

    Returns:
        The inode of /proc/self/ns/net, namespaces(7); None where there is none to be seen.
    """
    try:
        return os.stat("/proc/self/ns/net").st_ino
    except (FileNotFoundError, PermissionError):
        return None


def can_reach() -> bool:
    """Whether `reach` can be called: in a worker of ``pytest --isolate=worker``."""
    # The variable is inherited by those whom we start, and the descriptor is not.
    return bool(_control) or os.environ.get(_ENVIRONMENT, "").endswith(f":{os.getpid()}")


def adopt() -> None:
    """Keep what this process starts from inheriting its way out; call it early, in a worker."""
    if sys.platform == "linux" and can_reach():
        _channel()


def reach(host: str, port: int) -> None:
    """Lead a TCP port of this private network to the same one of the host's, from now on.

    Args:
        host: an address or a name, as the service has it outside.
        port: its number.

    Raises:
        IsolationUnavailableError: this process has no forwarder, or it has ended.
        UsageError: the host is unknown.
        OSError: the port cannot be listened on here; somebody else does, say.
    """
    if sys.platform == "linux" and can_reach():
        _reach(host, port)
        return
    raise IsolationUnavailableError(
        f"{host} port {port} cannot be reached: this process has no forwarder to the host",
        reason="no forwarder",
        remedy="only a worker of pytest --isolate=worker can ask for more to be reached",
    )


if sys.platform == "linux":

    def _reach(host: str, port: int) -> None:
        from portlease._isolate import _command, _forward
        from portlease._isolate._helper import RefusedError

        asked = _command.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        if not asked.is_loopback:
            for address in asked.addresses:
                _have(address)
        with _lock:
            for number, address in enumerate(asked.addresses):
                if (address, port) in _reached:
                    continue
                try:
                    _forward.listen(_channel(), address, port, asked.targets(address))
                except RefusedError as error:
                    raise IsolationUnavailableError(
                        f"{host} port {port} cannot be reached: the forwarder has ended",
                        reason="the forwarder has ended",
                        remedy="start the worker anew",
                    ) from error
                except OSError as error:
                    if number and error.errno in _forward.NO_SUCH_ADDRESS:  # ::1, without IPv6
                        continue
                    raise
                _reached.add((address, port))

    def _channel() -> _socket.socket:
        import _socket

        if not _control:
            number = int(os.environ[_ENVIRONMENT].partition(":")[0])
            os.set_inheritable(number, False)  # noqa: FBT003 - positional-only
            _control.append(_socket.socket(fileno=number))
            del os.environ[_ENVIRONMENT]
        return _control[0]

    def _have(address: str) -> None:
        """Have ``lo`` carry it; an ordinary user's worker may not: then it must do so already."""
        from portlease._isolate import _links

        links = _links.Links()
        try:
            links.give(address)
        except OSError as error:
            if error.errno not in _links.UNKNOWN:
                raise
        finally:
            links.close()
