"""What a caller asks for, checked once: which sockets, on which addresses, with which numbers."""

from __future__ import annotations

import errno
import socket
from _operator import index
from array import array

from portlease import _platform, _pool, _refusal
from portlease._errors import UsageError
from portlease._platform import backend
from portlease._registry import covers
from portlease._states import GUARDED, HELD, OFFERED, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Final, Literal, NamedTuple, TypeAlias

    from portlease._platform._types import Closable, Handle

    Kind: TypeAlias = Literal["tcp", "udp", "both"]

    class Address(NamedTuple):
        """Where to bind: the socket address without its port."""

        family: int
        host: str
        rest: tuple[int, ...]
        v6only: bool

    class Bind(NamedTuple):
        """One socket to bind."""

        transport: str
        socktype: int
        address: Address
else:
    from collections import namedtuple

    Address = namedtuple("Address", "family host rest v6only")  # noqa: PYI024
    Bind = namedtuple("Bind", "transport socktype address")  # noqa: PYI024

_AF_INET: Final = int(socket.AF_INET)
_AF_INET6: Final = int(socket.AF_INET6)
_STREAM: Final = int(socket.SOCK_STREAM)
_DGRAM: Final = int(socket.SOCK_DGRAM)
_SOCKET_TYPES: Final = {
    "tcp": (("tcp", _STREAM),),
    "udp": (("udp", _DGRAM),),
    "both": (("tcp", _STREAM), ("udp", _DGRAM)),
}
_ANY: Final = Address(_AF_INET6, "::", (), v6only=False)
_ANY_IPV6: Final = Address(_AF_INET6, "::", (), v6only=True)
_ANY_IPV4: Final = Address(_AF_INET, "0.0.0.0", (), v6only=False)  # noqa: S104 - to keep others out


class Wish:
    """The options of ``lease()``, checked.

    ``goal`` is the state that the lease shall be in, ``born`` the one that its row shows from the
    start, ``binds`` the sockets that make up its hold, ``named`` the ports it may have (None: any).
    """

    __slots__ = ("binds", "born", "goal", "host", "kind", "named", "scope", "transports")

    def __init__(
        self,
        kind: Kind,
        goal: State,
        *,
        host: str | Sequence[str] | None = None,
        family: int | None = None,
        ports: Iterable[int] | None = None,
    ) -> None:
        types = _SOCKET_TYPES[kind]
        self.kind: Kind = kind
        self.goal = goal
        # Only the common case gets there in the same breath; the others move on from HELD.
        self.born: State = goal if goal is OFFERED and kind == "tcp" else HELD
        self.transports = tuple(transport for transport, _ in types)
        self.host = host or None
        try:
            addresses = _addresses(host, family)
        except OSError as error:
            _refusal.raise_explained(error, 0)
        self.scope = ",".join(map(_scope, addresses))
        self.binds = tuple(
            Bind(transport, socktype, address)
            for transport, socktype in types
            for address in addresses
        )
        self.named = None if ports is None else _checked(ports)


_plain: dict[tuple[Kind, int | None, bool], Wish] = {}


def wish(
    kind: Kind,
    host: str | Sequence[str] | None,
    family: int | None,
    offer: bool,  # noqa: FBT001 - our own calls only; keywords would cost each of them 0.1 us
    ports: Iterable[int] | None,
) -> Wish:
    """The wish for these options; one object for all who want any port on every address."""
    plain = not host and ports is None
    try:
        if plain and (made := _plain.get((kind, family, offer))) is not None:
            return made
        known = kind in _SOCKET_TYPES
    except TypeError:  # unhashable: a list, say, for kind or family
        _check_family(family)
        known = False
    if not known:
        raise UsageError(f"kind={kind!r} is no kind of port; use 'tcp', 'udp' or 'both'")
    goal = HELD
    if offer:
        goal = OFFERED if kind != "udp" and backend.CAN_OFFER else GUARDED
    made = Wish(kind, goal, host=host, family=family, ports=ports)
    if plain:
        _plain[kind, family, offer] = made
    return made


def bind(what: Bind, port: int) -> Handle:
    """A new socket, bound exclusively."""
    _, socktype, (family, host, rest, v6only) = what
    address = (host, port, *rest) if rest else (host, port)
    return backend.bind(family, socktype, address, v6only=v6only)


def bind_unguarded(what: Bind, port: int, row: Closable) -> Handle | None:
    """The same, unless the port is guarded, before or after it: then None."""
    transport, socktype, (family, host, rest, v6only) = what
    address = (host, port, *rest) if rest else (host, port)
    return backend.bind_unguarded(row, transport, port, family, socktype, address, v6only)


def bind_beside(
    holds: Sequence[Handle], what: Bind, port: int, backlog: int | None
) -> socket.socket:
    """A new socket, bound beside *holds*; see the backend's contract."""
    _, socktype, (family, host, rest, v6only) = what
    address = (host, port, *rest) if rest else (host, port)
    return backend.bind_beside(holds, family, socktype, address, v6only, backlog)


def beside(transport: str, host: str, *, v6only: bool) -> Bind:
    """The socket on one address that is to stand beside a hold.

    Args:
        transport: ``"tcp"`` or ``"udp"``.
        host: an address, or a name, of which the first address is taken.
        v6only: whether a socket on ``::`` leaves IPv4 alone.
    """
    try:
        address = next(iter(_resolved(host, None)))
    except OSError as error:
        _refusal.raise_explained(error, 0, host)
    if address.host == "::":
        address = address._replace(v6only=v6only or not _dual_stack())
    return Bind(transport, _STREAM if transport == "tcp" else _DGRAM, address)


def _scope(address: Address) -> str:
    return "*" if address.host == "::" and not address.v6only else address.host


def _addresses(hosts: str | Sequence[str] | None, family: int | None) -> tuple[Address, ...]:
    _check_family(family)
    if not hosts:
        return (_wildcard(family),)
    names = (hosts,) if isinstance(hosts, (str, bytes)) or not hasattr(hosts, "__iter__") else hosts
    found = dict.fromkeys(address for name in names for address in _resolved(name, family))
    # One that another covers would only be refused by it.
    return tuple(
        one
        for one in found
        if not any(one != other and covers(_scope(other), _scope(one)) for other in found)
    )


def _check_family(family: object) -> None:
    if family not in (None, _AF_INET, _AF_INET6):
        raise UsageError(f"family={family!r} is neither socket.AF_INET nor socket.AF_INET6")


def _wildcard(family: int | None) -> Address:
    if family == _AF_INET or (family is None and not _dual_stack()):
        return _ANY_IPV4
    return _ANY_IPV6 if family == _AF_INET6 else _ANY


def _dual_stack() -> bool:
    with _platform.spawn_lock:  # it binds a socket, which no fork shall copy
        return backend.dual_stack()


def _resolved(host: object, family: int | None) -> Iterator[Address]:
    if not isinstance(host, str):
        raise UsageError(f"host={host!r} is no host name or address, which is a str")
    if host == "::" and family is None and _dual_stack():
        yield _ANY
        return
    try:
        answers = socket.getaddrinfo(host, None, family or 0, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else "no valid host name"
        raise UsageError(
            f"host={host!r} is not known here ({why}); give an address of this machine"
        ) from error
    found = [
        Address(int(own), str(sockaddr[0]), tuple(map(int, sockaddr[2:])), own == _AF_INET6)
        for own, _, _, _, sockaddr in answers
        if own in (_AF_INET, _AF_INET6)
    ]
    # `localhost` means ::1 too, also where IPv6 is off: such an address is nobody's.
    local = found if len(found) == 1 else list(filter(_is_local, found))
    if not local:
        raise UsageError(
            f"host={host!r} is no address of this machine or network namespace, but "
            f"{', '.join(address.host for address in found)}; `ip address` lists them"
        )
    yield from local


def _is_local(address: Address) -> bool:
    try:
        with _platform.spawn_lock:
            bind(Bind("tcp", _STREAM, address), 0).close()
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EADDRINUSE):
            raise
        # EADDRINUSE: it is ours, only the ephemeral range is full.
        return error.errno == errno.EADDRINUSE
    return True


def _checked(ports: Iterable[int]) -> array[int]:
    if isinstance(ports, (str, bytes)):
        raise UsageError(f"ports={ports!r} is text and no set of ports; write ports=[8080]")
    try:
        numbers = sorted({_port_number(port) for port in ports})
    except TypeError:
        raise UsageError(f"ports={ports!r} is no set of ports; write ports=[8080]") from None
    if not numbers:
        raise UsageError("ports= names no port; leave it out for any port")
    return array("H", numbers)


def _port_number(port: object) -> int:
    try:
        number = index(port)  # type: ignore[arg-type] # whether it is one, it says itself
    except TypeError:
        raise UsageError(f"ports= holds {port!r}, which is no number") from None
    if not 0 < number <= _pool.MAX_PORT:
        raise UsageError(f"ports= holds {number}; a port is a number from 1 to {_pool.MAX_PORT}")
    return number
