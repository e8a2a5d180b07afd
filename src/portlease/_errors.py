"""What can go wrong, by whose fault.

Every error of portlease is a :class:`PortleaseError`. Its text states the fact, the culprit and the
remedy; the same facts are attributes, so that no caller has to parse a sentence. All of them can be
pickled: they cross the process boundary of pytest-xdist and of :mod:`multiprocessing`.

- the caller's fault: :class:`UsageError`, :class:`LeaseStateError`
- somebody else has it: :class:`PortUnavailableError`, :class:`PortsExhaustedError`
- this process or machine lacks something: :class:`PrivilegeError`, :class:`ResourceLimitError`
- the server's fault: :class:`ServerError` and its branches
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class PortleaseError(Exception):
    """Base of every error that portlease raises on purpose.

    Args:
        message: the fact, the culprit and the remedy, for a person.
        **facts: the same facts for a program; each becomes an attribute of this name.
    """

    message: str

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self._facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self._facts), self.__dict__)


def _rebuild(
    cls: type[PortleaseError], message: str, facts: Mapping[str, object]
) -> PortleaseError:
    return cls(message, **facts)


class UsageError(PortleaseError, ValueError):
    """An argument that can never work: a wrong kind, a port out of range, an unknown host."""


class LeaseStateError(PortleaseError, RuntimeError):
    """A move that the state does not allow: *action* in *state*; its text says what helps."""

    state: str
    action: str


class PortUnavailableError(PortleaseError):
    """A port that was asked for by number cannot be had now.

    Not an :class:`OSError`: the system call's error, if there was one, is ``__cause__``.
    """

    port: int
    ports: Sequence[int] = ()


class PortsExhaustedError(PortleaseError):
    """No port is left in any range that leases may come from."""

    tried: int


class PrivilegeError(PortleaseError, PermissionError):
    """The port is below the first that this user may bind (``ip_unprivileged_port_start``)."""

    port: int
    errno: int | None = errno.EACCES


class ResourceLimitError(PortleaseError):
    """The process or the system has run out of file descriptors, or the kernel of memory."""

    errno: int


class ServerError(PortleaseError):
    """A server that was to be served is not being served; its branches say why."""

    argv: Sequence[str]
    output: str = ""


class ServerStartError(ServerError):
    """The server's program could not be executed at all."""

    errno: int


class ServerDiedError(ServerError):
    """The server ended before it listened, or was found dead at its next use."""

    returncode: int
    """Its exit status, or minus the number of the signal that ended it."""
    ports: Mapping[str, int]
    how: str


class ServerTimeoutError(ServerError, TimeoutError):
    """The server lived, but did not listen on its leased port in time."""

    timeout_s: float
    ports: Mapping[str, int]
    how: str
    missing: Sequence[str]
    """The names of the ports on which it does not listen."""
    listening: Sequence[int]
    """The ports on which it does."""
    errno: int | None = errno.ETIMEDOUT


class BrokerUnavailableError(PortleaseError):
    """A broker was asked for where none can be had; nothing was started."""

    reason: str
    remedy: str


class RecipeUnavailableError(PortleaseError):
    """A program that a recipe needs is not installed; its text says how to install it."""

    recipe: str
    program: str
    packages: Mapping[str, str]
    """What installs it, by the command that does: ``{"apt-get install": "redis-server"}``."""


class IsolationUnavailableError(PortleaseError):
    """A network of one's own was asked for where none can be had; nothing was started."""

    reason: str
    remedy: str


class LeasesUnseenError(PortleaseError, OSError):
    """The leases of this network namespace cannot be listed: no /proc, or one that is closed to us.

    Leases can be taken all the same.
    """

    errno: int  # type: ignore[mutable-override] # always set, unlike the base's
