"""Addresses and routes of a network namespace: the little of rtnetlink(7) that isolation needs."""

import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import _socket as socket  # noqa: E402
import errno  # noqa: E402
from _struct import calcsize, pack, unpack_from  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_addr.h>
_NLMSG_ERROR: "Final" = 2
_NLMSG_DONE: "Final" = 3
_NLM_F_REQUEST: "Final" = 1
_NLM_F_ACK: "Final" = 4
_NLM_F_DUMP: "Final" = 0x300
_NLM_F_CREATE: "Final" = 0x400
_RTM_NEWADDR: "Final" = 20
_RTM_GETADDR: "Final" = 22
_RTM_NEWROUTE: "Final" = 24
_IFA_ADDRESS: "Final" = 1
_IFA_LOCAL: "Final" = 2
_IFA_F_NODAD: "Final" = 2
_RTA_DST: "Final" = 1
_RTA_OIF: "Final" = 4
_RTA_PREFSRC: "Final" = 7
_RT_TABLE_MAIN: "Final" = 254
_RT_SCOPE_UNIVERSE: "Final" = 0
_RT_SCOPE_LINK: "Final" = 253
_RTPROT_BOOT: "Final" = 3
_RTN_UNICAST: "Final" = 1
_RTN_BROADCAST: "Final" = 3

_HEADER: "Final" = "=IHHII"
_ADDRESS: "Final" = "=BBBBI"
_ROUTE: "Final" = "=BBBBBBBBI"
_ATTRIBUTE: "Final" = "=HH"
_LO: "Final" = 1
"""The index of ``lo``: the first interface of each namespace."""

_BITS: "Final" = {socket.AF_INET: 32, socket.AF_INET6: 128}
_MULTICAST: "Final" = (("224.0.0.0", 4, _RTN_UNICAST), ("255.255.255.255", 32, _RTN_BROADCAST))
_MOST_ADDRESSES: "Final" = 64

# A sandbox that hides netlink (gVisor knows little of it), a kernel without IPv6, or without it on
# this interface.
UNKNOWN: "Final" = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.EPROTONOSUPPORT,
        errno.EAFNOSUPPORT,
        errno.EPERM,
        errno.EACCES,
        errno.EINVAL,
        errno.ENODEV,
    }
)


def family(address: str) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def is_loopback(address: str) -> bool:
    """Whether ``lo`` has it from the start."""
    return address == "::1" or address.startswith("127.")


def own_addresses() -> "list[str]":
    """The addresses of this machine that are good for talking to others, as text.

    Empty where the kernel does not tell.
    """
    try:
        links = Links()
        try:
            return list(links.addresses())
        finally:
            links.close()
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
        return []


class Links:
    """A netlink socket into the network namespace that this process is in now."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def addresses(self) -> "Iterator[str]":
        """Those of global scope, at most 64."""
        body = pack(_ADDRESS, socket.AF_UNSPEC, 0, 0, 0, 0)
        self._send(_RTM_GETADDR, _NLM_F_DUMP, body)
        count = 0
        for kind, answer in self._answers():
            if kind != _RTM_NEWADDR:
                continue
            number, _, _, scope, _ = unpack_from(_ADDRESS, answer)
            attributes = dict(_attributes(answer[calcsize(_ADDRESS) :]))
            found = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
            if (
                scope == _RT_SCOPE_UNIVERSE
                and number in _BITS
                and found
                and count < _MOST_ADDRESSES
            ):
                count += 1
                yield socket.inet_ntop(number, found)

    def give(self, address: str) -> None:
        """Give ``lo`` an address; it may have it already."""
        number = family(address)
        packed = socket.inet_pton(number, address)
        body = pack(_ADDRESS, number, _BITS[number], _IFA_F_NODAD, _RT_SCOPE_UNIVERSE, _LO)
        self._do(
            _RTM_NEWADDR,
            body + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed),
        )

    def spread(self) -> None:
        """Lead multicast and broadcast of IPv4 through ``lo``, where the kernel has such a thing.

        (IPv6's comes back from ``lo`` by no route; without one, the caller is told ENODEV at once.)
        """
        for destination, bits, kind in _MULTICAST:
            body = pack(
                _ROUTE,
                *(socket.AF_INET, bits, 0, 0),
                *(_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_LINK, kind),
                0,
            )
            body += _attribute(_RTA_DST, socket.inet_aton(destination))
            body += _attribute(_RTA_OIF, pack("=I", _LO))
            body += _attribute(_RTA_PREFSRC, socket.inet_aton("127.0.0.1"))
            try:
                self._do(_RTM_NEWROUTE, body)
            except OSError as error:
                if error.errno not in UNKNOWN:
                    raise

    def _do(self, kind: int, body: bytes) -> None:
        self._send(kind, _NLM_F_ACK | _NLM_F_CREATE, body)
        try:
            for _ in self._answers():
                pass
        except FileExistsError:
            pass

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        length = calcsize(_HEADER) + len(body)
        header = pack(_HEADER, length, kind, _NLM_F_REQUEST | flags, 0, 0)
        self._socket.sendto(header + body, (0, 0))

    def _answers(self) -> "Iterator[tuple[int, bytes]]":
        """Every message up to the one that says that it was the last.

        Raises:
            OSError: the kernel answered that.
        """
        head = calcsize(_HEADER)
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                length, kind, *_ = unpack_from(_HEADER, data)
                body, data = data[head:length], data[(length + 3) & ~3 :]
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -unpack_from("=i", body)[0]
                    if number:
                        raise OSError(number, "rtnetlink")
                    return
                yield kind, body


def _attribute(kind: int, value: bytes) -> bytes:
    length = calcsize(_ATTRIBUTE) + len(value)
    return pack(_ATTRIBUTE, length, kind) + value + bytes(-length % 4)


def _attributes(data: bytes) -> "Iterator[tuple[int, bytes]]":
    head = calcsize(_ATTRIBUTE)
    while len(data) >= head:
        length, kind = unpack_from(_ATTRIBUTE, data)
        yield kind, data[head:length]
        data = data[(length + 3) & ~3 :]
