"""What a caller asks for, checked once: which sockets, on which addresses, with which numbers."""

from __future__ import annotations

import errno
import socket
from array import array

from portlease import _pool
from portlease._errors import UsageError
from portlease._platform import backend
from portlease._states import HELD, OFFERED, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Final, Literal, NamedTuple, TypeAlias

    from portlease._platform._types import Handle

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

    ``born`` is the state that its row shows from the start, ``binds`` the sockets that make up its
    hold, ``named`` the ports it may have (None: any).
    """

    __slots__ = ("binds", "born", "host", "kind", "named", "offer", "scope", "transports")

    def __init__(
        self,
        kind: Kind,
        *,
        host: str | Sequence[str] | None,
        family: int | None,
        offer: bool,
        ports: Iterable[int] | None,
    ) -> None:
        types = _SOCKET_TYPES.get(kind)
        if types is None:
            raise UsageError(f"kind={kind!r} is no kind of port; use 'tcp', 'udp' or 'both'")
        self.kind: Kind = kind
        self.transports = tuple(transport for transport, _ in types)
        self.host = host or None
        self.offer = offer
        # Only the common case is opened in the same breath; the others move on from HELD.
        self.born: State = OFFERED if offer and kind == "tcp" and backend.CAN_OFFER else HELD
        addresses = _addresses(host, family)
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
    *,
    host: str | Sequence[str] | None,
    family: int | None,
    offer: bool,
    ports: Iterable[int] | None,
) -> Wish:
    """The wish for these options; one object for all who want any port on every address."""
    if host or ports is not None:
        return Wish(kind, host=host, family=family, offer=offer, ports=ports)
    try:
        return _plain[kind, family, offer]
    except KeyError:
        made = Wish(kind, host=None, family=family, offer=offer, ports=None)
        _plain[kind, family, offer] = made
        return made


def bind(what: Bind, port: int) -> Handle:
    """A new socket, bound exclusively."""
    _, socktype, (family, host, rest, v6only) = what
    address = (host, port, *rest) if rest else (host, port)
    return backend.bind(family, socktype, address, v6only=v6only)


def _scope(address: Address) -> str:
    return "*" if address.host == "::" and not address.v6only else address.host


def _addresses(hosts: str | Sequence[str] | None, family: int | None) -> tuple[Address, ...]:
    if family not in (None, _AF_INET, _AF_INET6):
        raise UsageError(f"family={family!r} is neither socket.AF_INET nor socket.AF_INET6")
    if not hosts:
        return (_wildcard(family),)
    names = (hosts,) if isinstance(hosts, str) else hosts
    return tuple(dict.fromkeys(found for name in names for found in _resolved(name, family)))


def _wildcard(family: int | None) -> Address:
    if family == _AF_INET or (family is None and not backend.dual_stack()):
        return _ANY_IPV4
    return _ANY_IPV6 if family == _AF_INET6 else _ANY


def _resolved(host: str, family: int | None) -> Iterator[Address]:
    if host == "::":
        yield _ANY if family is None and backend.dual_stack() else _ANY_IPV6
        return
    try:
        answers = socket.getaddrinfo(host, None, family or 0, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UsageError(
            f"host={host!r} is not known here ({error.strerror}); give an address of this machine"
        ) from error
    found = [
        Address(int(own), str(sockaddr[0]), tuple(map(int, sockaddr[2:])), own == _AF_INET6)
        for own, _, _, _, sockaddr in answers
        if own in (_AF_INET, _AF_INET6)
    ]
    # `localhost` means ::1 too, also where IPv6 is off: such an address is nobody's.
    yield from found if len(found) == 1 else filter(_is_local, found)


def _is_local(address: Address) -> bool:
    try:
        bind(Bind("tcp", _STREAM, address), 0).close()
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
        return False
    return True


def _checked(ports: Iterable[int]) -> array[int]:
    numbers = sorted({_port_number(port) for port in ports})
    if not numbers:
        raise UsageError("ports= names no port; leave it out for any port")
    return array("H", numbers)


def _port_number(port: object) -> int:
    try:
        number = port.__index__()  # type: ignore[attr-defined]
    except AttributeError:
        raise UsageError(f"ports= holds {port!r}, which is no number") from None
    if not 0 < number <= _pool.MAX_PORT:
        raise UsageError(f"ports= holds {number}; a port is a number from 1 to {_pool.MAX_PORT}")
    return int(number)
