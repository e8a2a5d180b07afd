"""Linux's socket tables: which TCP and UDP sockets have this local port, in which state.

Asked of sock_diag(7), the netlink interface that ss(8) reads, with the port and the states in the
question, so that the kernel answers with the one socket instead of all. Where netlink is refused
(``_REFUSED`` lists how) the same is read from /proc/net/{tcp,tcp6,udp,udp6}, which cannot filter.

What one call costs, measured on Linux 6.18 with 262,144 established and 16,384 listen buckets (the
tables grow with the machine's memory, and so does the walk through their empty buckets):

================================== ======== =============== ====================
sockets besides                    none     5,000 listeners 5,000 in ESTABLISHED
================================== ======== =============== ====================
``ListenWatch.look()``, TCP        28 us    154 us          28 us
``sockets()``, LISTEN alone        42 us    172 us          42 us
``sockets()``, every state of TCP  250 us   620 us          620 us
the same from /proc                6,600 us 15,000 us       23,000 us
================================== ======== =============== ====================

An answer is not a snapshot: sockets that come and go while the kernel walks its tables may be in it
or not. One that exists from before the question until after the answer is in it, as long as the
answer fits in one datagram (some 250 sockets). Beyond that, and in /proc, which is read a page at a
time, the kernel finds its place again by counting: while others come and go a socket can be told
twice (and is then given once) or be missed.

One kind of socket is missing from every list of older kernels: TCP sockets that are bound and do
nothing else. Linux lists them from 6.8 on (TCPF_BOUND_INACTIVE, net/ipv4/tcp_diag.c); before that,
and in /proc/net always, ``Survey.lists_bound`` is False.

The tables are those of the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import PortleaseError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Final, Literal, Self, TypeAlias

    Transport: TypeAlias = Literal["tcp", "udp"]

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

from portlease._platform._linux_proc import written_number  # noqa: E402

# include/net/tcp_states.h. The kernel reports a TCP socket that is only bound as 7 (CLOSE), and
# wants to be asked for it as 13 (BOUND_INACTIVE).
_TCP_STATES: Final = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "BOUND",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
}
_BOUND_INACTIVE: Final = 13
# UDP has but two of them (net/ipv4/udp.c): ESTABLISHED after connect(), CLOSE otherwise.
_UDP_STATES: Final = {1: "CONNECTED", 7: "BOUND"}
_STATES: Final = {"tcp": _TCP_STATES, "udp": _UDP_STATES}
STATES: Final = frozenset(_TCP_STATES.values()) | frozenset(_UDP_STATES.values())

# Every way in which netlink says "not here", at socket(), at sendto() or in its answer:
_REFUSED: Final = frozenset(
    {
        errno.EPROTONOSUPPORT,  # no NETLINK_SOCK_DIAG: gVisor, WSL 1
        errno.EPFNOSUPPORT,  # the same from older qemu-user
        errno.EAFNOSUPPORT,  # no AF_NETLINK: systemd's RestrictAddressFamilies=
        errno.EPERM,  # a seccomp profile
        errno.EACCES,  # SELinux (Android apps: class netlink_tcpdiag_socket)
        errno.ECONNREFUSED,  # nothing in the kernel listens on this netlink protocol
        errno.ENOENT,  # no module tcp_diag, udp_diag or inet_diag, and none could be loaded
        errno.EOPNOTSUPP,  # inet_diag itself is missing, asked with TCPDIAG_GETSOCK
    }
)

# Plain ints: an enum member compares slower, and prints longer in an entry.
_AF_INET: Final = int(socket.AF_INET)
_AF_INET6: Final = int(socket.AF_INET6)
_NETLINK_SOCK_DIAG: Final = 4
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_NOOP, _NLMSG_ERROR, _NLMSG_DONE = 1, 2, 3
_MAX_ERRNO: Final = 4095  # include/linux/err.h
_TCPDIAG_GETSOCK: Final = 18
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQ_BYTECODE: Final = 1
_BC_S_GE, _BC_S_LE = 2, 3
_SKV6ONLY: Final = 11
_TIMER_TIME_WAIT: Final = 3

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ERROR: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")
# inet_diag_msg: family, state, timer, -, ports, addresses, interface, -, expires, -, uid, inode
_MESSAGE: Final = struct.Struct("=BBBx2s2s16s16sI8xI8xII")
_ENTRY_TYPES: Final = frozenset({_TCPDIAG_GETSOCK, _SOCK_DIAG_BY_FAMILY})

_KERNEL: Final = (0, 0)  # netlink(7): its port id, no multicast group
# The kernel fills at most 32 KiB at a time (netlink_recvmsg() in net/netlink/af_netlink.c).
_BUFFER_BYTES: Final = 1 << 16
# The answer is there before sendto() returns; this only keeps a broken kernel from hanging us.
_HANG_GUARD_S: Final = 10.0


class SocketTableError(PortleaseError, OSError):
    """The kernel's socket tables cannot be read, or not be understood."""


class MalformedAnswerError(SocketTableError):
    """The kernel's answer is not what <linux/inet_diag.h> or proc(5) describe."""


class NetlinkRefusedError(SocketTableError):
    """sock_diag(7) is not to be had here; ``errno`` says how it was refused."""

    errno: int  # type: ignore[mutable-override] # always set, unlike the base's


class SocketEntry(NamedTuple):
    """One socket, as the kernel told of it.

    Attributes:
        transport: ``"tcp"`` or ``"udp"``.
        family: ``socket.AF_INET`` or ``socket.AF_INET6``.
        address: the local address; ``"0.0.0.0"`` or ``"::"`` for all.
        port: the local port.
        peer: address and port of the other end, or None.
        state: TCP: ``LISTEN``, ``ESTABLISHED``, ``TIME_WAIT`` and so on, in the kernel's spelling,
            and ``BOUND`` for a socket that is bound and does nothing else. UDP: ``BOUND`` or
            ``CONNECTED``.
        inode: the number in ``socket:[inode]`` of /proc/PID/fd; 0 once no process has the socket.
        uid: the user who made it, as the reader's user namespace numbers users (65534 where it has
            no number for them); None where no process has the socket and the kernel has forgotten.
        timer_s: seconds until the kernel removes it: TIME_WAIT, and FIN_WAIT2 after close().
            None for all others.
        interface: index of the one network interface that it is bound to, 0 for none in
            particular, None where the kernel did not say (/proc).
        v6only: whether an IPv6 socket that listens or is bound leaves IPv4 alone; None where that
            makes no sense or was not said.
    """

    transport: Transport
    family: int
    address: str
    port: int
    peer: tuple[str, int] | None
    state: str
    inode: int
    uid: int | None
    timer_s: float | None
    interface: int | None
    v6only: bool | None


class Survey(NamedTuple):
    """What was seen, and whether all of it could be.

    Attributes:
        entries: the sockets.
        lists_bound: whether TCP sockets that are bound and do nothing else would be among them.
        refused: why they were read from /proc; None where netlink answered.
    """

    entries: list[SocketEntry]
    lists_bound: bool
    refused: str | None


def sockets(
    port: int, transport: Transport | None = None, *, states: Iterable[str] | None = None
) -> list[SocketEntry]:
    """All sockets of this network namespace whose local port is *port*.

    Args:
        port: 1 to 65535.
        transport: ``"tcp"``, ``"udp"``, or None for both.
        states: names of `SocketEntry.state` to look for; None for all. Asking for ``LISTEN`` alone
            saves the walk through the table of connections.

    Raises:
        UsageError: no such port, transport or state.
        MalformedAnswerError: the kernel's answer could not be understood.
        SocketTableError: there is neither netlink nor /proc/net.
    """
    return survey(port, transport, states=states).entries


def survey(
    port: int, transport: Transport | None = None, *, states: Iterable[str] | None = None
) -> Survey:
    """As `sockets`, and whether the answer can be complete."""
    _check(port, transport)
    masks = _masks(STATES if states is None else frozenset(states), transport)
    entries: list[SocketEntry] = []
    lists_bound = _lists_bound()
    refused = None
    with _Channel() as channel:
        for each, mask in masks.items():
            try:
                entries += channel.ask(each, port, mask)
            except NetlinkRefusedError as error:
                entries += _from_proc(each, port, mask)
                lists_bound = lists_bound and each != "tcp"
                refused = str(error)
    return Survey(entries, lists_bound, refused)


class ListenWatch:
    """Looks again and again whether somebody listens on a port; keeps its netlink socket open.

    For UDP, which does not listen, it looks for sockets that are bound and not connected. One
    thread at a time; a process that was forked makes a watch of its own. It keeps looking into the
    network namespace in which it first looked.

    Args:
        port: 1 to 65535.
        transport: ``"tcp"`` or ``"udp"``.

    Raises:
        UsageError: no such port or transport.
    """

    __slots__ = ("_channel", "_mask", "_port", "_transport")

    def __init__(self, port: int, *, transport: Transport = "tcp") -> None:
        _check(port, transport)
        self._port = port
        self._transport: Transport = transport
        self._mask = _masks({"LISTEN" if transport == "tcp" else "BOUND"}, transport)[transport]
        self._channel = _Channel()

    def look(self) -> list[SocketEntry]:
        """The sockets that listen on the port now; raises as `sockets` does."""
        try:
            return self._channel.ask(self._transport, self._port, self._mask)
        except NetlinkRefusedError:
            return _from_proc(self._transport, self._port, self._mask)

    def close(self) -> None:
        """Close the netlink socket. A later look() opens it anew."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _once(entries: Iterable[SocketEntry]) -> list[SocketEntry]:
    """Each socket once, by all that identifies it: everything but the timer and what follows."""
    return list({entry[:7]: entry for entry in entries}.values())


def _check(port: int, transport: str | None) -> None:
    if not 1 <= port <= 65535:  # noqa: PLR2004 - a port is 16 bits, and 0 means none
        raise UsageError(f"port {port} is not between 1 and 65535", port=port)
    if transport not in ("tcp", "udp", None):
        raise UsageError(f"transport {transport!r} is neither 'tcp' nor 'udp'", transport=transport)


def _masks(states: Iterable[str], transport: Transport | None) -> dict[Transport, int]:
    """Which bits of idiag_states to ask each transport for; none for one with no such state."""
    wanted = frozenset(states)
    if unknown := wanted - STATES:
        raise UsageError(
            f"no such socket state: {', '.join(sorted(unknown))}; there are "
            + ", ".join(sorted(STATES)),
            states=sorted(unknown),
        )
    masks: dict[Transport, int] = {}
    transports: tuple[Transport, ...] = ("tcp", "udp") if transport is None else (transport,)
    for each in transports:
        mask = sum(1 << number for number, name in _STATES[each].items() if name in wanted)
        if each == "tcp" and "BOUND" in wanted:
            mask |= 1 << _BOUND_INACTIVE
        if mask:
            masks[each] = mask
    return masks


def _lists_bound() -> bool:
    """Whether this kernel is said to know TCPF_BOUND_INACTIVE; a backport of it goes unnoticed."""
    version: list[int] = []
    for part in os.uname().release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        version.append(int(digits or 0))
    return version >= [6, 8]


# --- sock_diag(7) -------------------------------------------------------------------------------


def request(
    transport: Transport, port: int, mask: int, *, family: int | None, sequence: int
) -> bytes:
    """The dump request for the sockets with this local port, in the states of *mask*.

    Args:
        transport: ``"tcp"`` or ``"udp"``.
        port: the local port.
        mask: 1 << state for each state.
        family: ``AF_INET`` or ``AF_INET6``; None for both at once, which TCP alone can
            (TCPDIAG_GETSOCK), and which takes one walk through the table instead of two.
        sequence: given back in every message of the answer.
    """
    # Two filters, for no part of the kernel heeds both: the listen, established and UDP tables go
    # by idiag_sport, the table of bound sockets by the bytecode alone.
    identity = struct.pack("!HH32x", port, 0) + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    if family is None:
        kind = _TCPDIAG_GETSOCK
        body = struct.pack("=4x") + identity + struct.pack("=II", mask, 0)
    else:
        kind = _SOCK_DIAG_BY_FAMILY
        protocol = socket.IPPROTO_TCP if transport == "tcp" else socket.IPPROTO_UDP
        body = struct.pack("=BBxxI", family, protocol, mask) + identity
    body += _bytecode(port)
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST_DUMP, sequence, 0) + body


def _bytecode(port: int) -> bytes:
    """A program for inet_diag_bc_run(): local port >= *port*, and <= *port*.

    Two comparisons, since INET_DIAG_BC_S_EQ is younger than they are. Each is two words, the
    operator and its operand. A true one goes on after itself (yes = 8 bytes); a false one goes to 4
    bytes behind the end, which is how such a program says no.
    """
    code = struct.pack("=BBHHH", _BC_S_GE, 8, 20, 0, port)
    code += struct.pack("=BBHHH", _BC_S_LE, 8, 12, 0, port)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(code), _REQ_BYTECODE) + code


def parse_answer(
    data: bytes | bytearray | memoryview, transport: Transport, sequence: int
) -> tuple[list[SocketEntry], bool]:
    """Read one datagram of an answer: the sockets in it, and whether the answer ends with it.

    Messages of another *sequence*, left over from a question that was broken off, are passed over.

    Raises:
        NetlinkRefusedError: it is an error message that means "not here".
        OSError: it is any other error message.
        MalformedAnswerError: it is none of netlink(7)'s messages, or a part of one is out of range.
    """
    entries: list[SocketEntry] = []
    for kind, told, body in _messages(memoryview(data)):
        if told != sequence or kind == _NLMSG_NOOP:
            continue
        if kind in (_NLMSG_DONE, _NLMSG_ERROR):
            # A dump that fails under way says so in the message that ends it.
            if len(body) < _ERROR.size:
                raise _malformed(f"a message of type {kind} is cut off", data)
            (code,) = _ERROR.unpack_from(body)
            if not -_MAX_ERRNO <= code <= 0:
                raise _malformed(f"a message with the error {code}, which is none", data)
            if -code in _REFUSED:
                raise _refusal(-code)
            if code:
                raise OSError(-code, f"sock_diag answers: {os.strerror(-code)}")
            return entries, True
        if kind not in _ENTRY_TYPES:
            raise _malformed(f"a message of unknown type {kind}", data)
        entries.append(_entry(body, transport))
    return entries, False


def _messages(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Type, sequence and body of each message."""
    start, end = 0, len(data)
    while start < end:
        if end - start < _HEADER.size:
            raise _malformed("a header is cut off", data)
        length, kind, _flags, sequence, _port_id = _HEADER.unpack_from(data, start)
        if not _HEADER.size <= length <= end - start:
            raise _malformed(f"a message says it has {length} bytes", data)
        yield kind, sequence, data[start + _HEADER.size : start + length]
        start += (length + 3) & ~3


def _entry(body: memoryview, transport: Transport) -> SocketEntry:
    if len(body) < _MESSAGE.size:
        raise _malformed("an inet_diag_msg is cut off", body)
    family, state, timer, port, peer_port, address, peer, interface, expires_ms, uid, inode = (
        _MESSAGE.unpack_from(body)
    )
    if family not in (_AF_INET, _AF_INET6):
        raise _malformed(f"a socket of address family {family}", body)
    name = _STATES[transport].get(state, f"STATE_{state}")
    v6only = None
    if family == _AF_INET6 and name in ("LISTEN", "BOUND"):
        v6only = _v6only(body[_MESSAGE.size :])
    return SocketEntry(
        transport=transport,
        family=family,
        address=_text(family, address),
        port=int.from_bytes(port),
        peer=_peer(family, peer, int.from_bytes(peer_port)),
        state=name,
        inode=inode,
        uid=uid if inode else None,  # tcp_twsk_diag_fill() says 0 for what it does not know
        timer_s=expires_ms / 1000 if timer == _TIMER_TIME_WAIT else None,
        interface=interface,
        v6only=v6only,
    )


def _text(family: int, address: bytes) -> str:
    return socket.inet_ntop(family, address[: 4 if family == _AF_INET else 16])


def _peer(family: int, address: bytes, port: int) -> tuple[str, int] | None:
    return (_text(family, address), port) if port or any(address) else None


def _v6only(attributes: memoryview) -> bool | None:
    start, end = 0, len(attributes)
    while end - start >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes, start)
        if not _ATTRIBUTE.size <= length <= end - start:
            raise _malformed(f"an attribute says it has {length} bytes", attributes)
        if kind == _SKV6ONLY and length > _ATTRIBUTE.size:
            return bool(attributes[start + _ATTRIBUTE.size])
        start += (length + 3) & ~3
    return None


def _refusal(code: int) -> NetlinkRefusedError:
    return NetlinkRefusedError(f"sock_diag is refused: {os.strerror(code)}", errno=code)


def _malformed(what: str, data: bytes | bytearray | memoryview) -> MalformedAnswerError:
    start = bytes(data[:64])
    return MalformedAnswerError(
        f"the kernel's list of sockets cannot be read: {what}; it begins with {start!r}",
        data=start,
    )


class _Channel:
    """A netlink socket, opened at the first question and closed whenever one went wrong.

    What is left of an unfinished answer would otherwise meet the next question, with EBUSY.
    """

    __slots__ = ("_buffer", "_refused", "_sequence", "_socket")

    def __init__(self) -> None:
        self._socket: socket.SocketType | None = None
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._sequence = 0
        self._refused: dict[str, int] = {}

    def ask(self, transport: Transport, port: int, mask: int) -> list[SocketEntry]:
        """The sockets with this local port in the states of *mask*; raises as parse_answer does.

        What was refused once is not asked for again.
        """
        if transport in self._refused:
            raise _refusal(self._refused[transport])
        try:
            if self._socket is None:
                self._socket = _open()
            families = (None,) if transport == "tcp" else (_AF_INET, _AF_INET6)
            entries: list[SocketEntry] = []
            for family in families:
                entries += self._dump(self._socket, transport, port, mask, family)
        except BaseException as error:
            self.close()
            if isinstance(error, NetlinkRefusedError):
                self._refused[transport] = error.errno
            raise
        # The kernel has filtered already; but nobody shall be called ready by one that did not.
        return _once(entry for entry in entries if entry.port == port)

    def _dump(
        self,
        channel: socket.SocketType,
        transport: Transport,
        port: int,
        mask: int,
        family: int | None,
    ) -> list[SocketEntry]:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        question = request(transport, port, mask, family=family, sequence=self._sequence)
        try:
            channel.sendto(question, _KERNEL)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            raise _refusal(error.errno) from error
        entries: list[SocketEntry] = []
        done = False
        while not done:
            size, _, flags, sender = channel.recvmsg_into([self._buffer])
            if sender != _KERNEL:  # any process that is root may send here too, netlink(7)
                continue
            if flags & socket.MSG_TRUNC:
                raise _malformed("a datagram did not fit", self._buffer)
            more, done = parse_answer(self._buffer[:size], transport, self._sequence)
            entries += more
        return entries

    def close(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open() -> socket.SocketType:
    try:
        # The class below socket.socket, in whose place a test runner may have put one that refuses.
        opened = socket.SocketType(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise _refusal(error.errno) from error
    try:
        opened.settimeout(_HANG_GUARD_S)
    except BaseException:
        opened.close()
        raise
    return opened


# --- /proc/net ----------------------------------------------------------------------------------

# /proc/net is that of the process's first thread; each thread's own came with Linux 3.17.
_PROC_NET: Final = ("/proc/thread-self/net/", "/proc/net/")
_FIELDS: Final = 10


def _from_proc(transport: Transport, port: int, mask: int) -> list[SocketEntry]:
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    ipv4 = read_table(transport)
    if ipv4 is None:
        raise SocketTableError(
            f"the kernel's list of {transport} sockets cannot be read: netlink is refused and "
            "there is no /proc/net; mount /proc"
        )
    # Without IPv6 there is no second file.
    tables = ((_AF_INET, ipv4), (_AF_INET6, read_table(transport + "6") or b""))
    wanted = {name for number, name in _STATES[transport].items() if mask & (1 << number)}
    return _once(
        entry
        for family, text in tables
        for entry in parse_table(text, transport, family, port, ticks_per_s=ticks_per_s)
        if entry.state in wanted
    )


def read_table(name: str) -> bytes | None:
    """The text of /proc/net/tcp or one of its like; None where there is none."""
    for directory in _PROC_NET:
        try:
            with open(directory + name, "rb") as file:
                return file.read()
        except FileNotFoundError:
            continue
    return None


def parse_table(
    text: bytes, transport: Transport, family: int, port: int, *, ticks_per_s: int
) -> list[SocketEntry]:
    """The sockets with this local port in the text of /proc/net/tcp or one of its like.

    Args:
        text: the whole file: a line of headings, and one for each socket.
        transport: ``"tcp"`` or ``"udp"``.
        family: ``AF_INET`` or ``AF_INET6``.
        port: the local port. Lines without it are not looked at any closer.
        ticks_per_s: the unit of the file's timers, sysconf(_SC_CLK_TCK).

    Raises:
        MalformedAnswerError: a line with this port is not as proc(5) describes it.
    """
    needle = b":%04X " % port
    entries = []
    for line in text.split(b"\n"):
        if needle not in line:
            continue
        fields = line.split()
        if len(fields) < _FIELDS:
            raise _malformed(f"a line with {len(fields)} columns", line)
        try:
            local, peer = _endpoint(fields[1], family), _endpoint(fields[2], family)
            state = written_number(fields[3], 16)
            uid, inode = written_number(fields[7]), written_number(fields[9])
            kind, _, expires = fields[5].partition(b":")
            closing = written_number(kind, 16) == _TIMER_TIME_WAIT
            timer_s = written_number(expires, 16) / ticks_per_s if closing else None
        except ValueError as error:
            raise _malformed(f"a line with a column that is none ({error})", line) from error
        if local[1] != port:
            continue  # it was the other end's
        entries.append(
            SocketEntry(
                transport=transport,
                family=family,
                address=_text(family, local[0]),
                port=port,
                peer=_peer(family, *peer),
                state=_STATES[transport].get(state, f"STATE_{state}"),
                inode=inode,
                uid=uid if inode else None,
                timer_s=timer_s,
                interface=None,
                v6only=None,
            )
        )
    return entries


def endpoint(text: bytes, family: int) -> tuple[str, int]:
    """The address and the port in such a table's column.

    Raises:
        ValueError: it is none.
    """
    address, port = _endpoint(text, family)
    return _text(family, address), port


def _endpoint(text: bytes, family: int) -> tuple[bytes, int]:
    """``0100007F:1F90``: 32-bit words as this machine prints them, then the port in plain."""
    address, _, port = text.partition(b":")
    size = 4 if family == _AF_INET else 16
    raw = bytes.fromhex(address.decode("ascii"))
    if len(raw) != size:
        raise ValueError(f"an address of {len(raw)} bytes")
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, size, 4))
    return raw, written_number(port, 16, bits=16)
