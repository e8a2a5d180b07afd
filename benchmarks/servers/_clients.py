"""How a client knows that this very server answers: a question, and what only it would say.

A server that listens need not answer yet (PostgreSQL lets nobody in for another moment), and a
datagram may be lost, so a question is asked again until a deadline. The last answer is the error.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    # Asks host and port once; returns all that came back.
    Question = Callable[[str, int], bytes]

ANSWER_S: Final = 10.0
_PAUSE_S: Final = 0.02
_REPLY_S: Final = 1.0
_AT_MOST: Final = 1 << 16
TOKEN: Final = "portlease-matrix"  # noqa: S105 - no secret
"""What the servers answer that can be told what to answer."""


class Ask(NamedTuple):
    """One question to a server, over one transport."""

    what: str
    """In words, for the table."""
    question: Question
    expected: bytes


class NoAnswerError(Exception):
    """The server did not say what only it would say."""


def ask(one: Ask, host: str, port: int, *, within_s: float = ANSWER_S) -> float:
    """Ask until the answer is the expected one; return the seconds that took.

    Raises:
        NoAnswerError: it was not, *within_s*; with the last answer or error.
    """
    begun = time.monotonic()
    while True:
        try:
            last: object = one.question(host, port)
        except (OSError, subprocess.SubprocessError) as error:
            last = error
        elapsed_s = time.monotonic() - begun
        if isinstance(last, bytes) and one.expected in last:
            return elapsed_s
        if elapsed_s > within_s:
            raise NoAnswerError(f"{one.what}: {last!r:.200}")
        time.sleep(_PAUSE_S)


# --- TCP ----------------------------------------------------------------------------------------


def tcp(what: str, sent: bytes, expected: bytes) -> Ask:
    """Connect, say *sent*, and read until *expected* or the end."""

    def question(host: str, port: int) -> bytes:
        with socket.create_connection((host, port), timeout=_REPLY_S) as client:
            return _exchange(client, sent, expected)

    return Ask(what, question, expected)


def http(expected: str) -> Ask:
    """``GET /``, and a word in the answer."""
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    return tcp(f"GET /: {expected}", request, expected.encode())


def tls(what: str, sent: bytes, expected: bytes) -> Ask:
    """As :func:`tcp`, through TLS; the certificate is the server's own and is not checked."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def question(host: str, port: int) -> bytes:
        with (
            socket.create_connection((host, port), timeout=_REPLY_S) as plain,
            context.wrap_socket(plain) as client,
        ):
            return _exchange(client, sent, expected)

    return Ask(what, question, expected)


def _exchange(client: socket.socket, sent: bytes, expected: bytes) -> bytes:
    client.sendall(sent)
    answer = b""
    with contextlib.suppress(TimeoutError):
        while expected not in answer and len(answer) < _AT_MOST:
            more = client.recv(4096)
            if not more:
                break
            answer += more
    return answer


# PostgreSQL's protocol 3.0: a startup message for user and database; trusted, it tells its version.
_STARTUP: Final = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0\0"
postgresql: Final = tcp(
    "startup message: server_version",
    struct.pack("!I", 4 + len(_STARTUP)) + _STARTUP,
    b"server_version",
)

# MQTT 3.1.1: CONNECT with an empty client id and a clean session; CONNACK, accepted.
mqtt: Final = tcp(
    "CONNECT: CONNACK", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"\x20\x02\x00\x00"
)

# iperf3: a cookie of 37 bytes; the server answers with the state PARAM_EXCHANGE.
iperf: Final = tcp("cookie: PARAM_EXCHANGE", b"portlease".ljust(36, b"-") + b"\0", b"\x09")


# --- UDP ----------------------------------------------------------------------------------------


def udp(what: str, sent: bytes, expected: bytes) -> Ask:
    """Send a datagram, and look at the one that comes back."""

    def question(host: str, port: int) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect((host, port))
            client.send(sent)
            return client.recv(4096)

    return Ask(what, question, expected)


def dtls(openssl: str) -> Ask:
    """A handshake by openssl's own client: Python's ssl module has no DTLS."""

    def question(host: str, port: int) -> bytes:
        client = [openssl, "s_client", "-dtls1_2", "-connect", f"{host}:{port}"]
        done = subprocess.run(
            client,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=3,
            check=False,
        )
        return done.stdout

    return Ask("handshake by openssl s_client", question, b"CN = portlease-matrix")


# DNS (RFC 1035): which address has portlease-matrix.test? It is 192.0.2.7, an address for examples.
_NAME: Final = bytes([len(TOKEN)]) + TOKEN.encode() + b"\x04test\0"
_QUERY: Final = struct.pack("!6H", 0x4711, 0x0100, 1, 0, 0, 0) + _NAME + struct.pack("!2H", 1, 1)
_ADDRESS: Final = bytes([192, 0, 2, 7])
dns_udp: Final = udp("A record", _QUERY, _ADDRESS)
dns_tcp: Final = tcp("A record", struct.pack("!H", len(_QUERY)) + _QUERY, _ADDRESS)

# STUN (RFC 8489): a binding request; the success response bears its transaction id.
_TRANSACTION: Final = b"port-lease-!"
_BINDING: Final = struct.pack("!HHI", 1, 0, 0x2112A442) + _TRANSACTION
_BOUND: Final = b"\x21\x12\xa4\x42" + _TRANSACTION
stun_udp: Final = udp("STUN binding", _BINDING, _BOUND)
stun_tcp: Final = tcp("STUN binding", _BINDING, _BOUND)

# SNMP 2c (RFC 3416): get sysContact.0 (1.3.6.1.2.1.1.4.0) of community "public".
_BINDINGS: Final = b"\x30\x0e\x30\x0c\x06\x08\x2b\x06\x01\x02\x01\x01\x04\x00\x05\x00"
_PDU: Final = b"\x02\x01\x01\x02\x01\x00\x02\x01\x00" + _BINDINGS
_BODY: Final = b"\x02\x01\x01\x04\x06public\xa0" + bytes([len(_PDU)]) + _PDU
snmp: Final = udp("get sysContact", b"\x30" + bytes([len(_BODY)]) + _BODY, TOKEN.encode())

# memcached's frame: request id, sequence number, number of datagrams, reserved.
memcached_udp: Final = udp("version", struct.pack("!4H", 7, 0, 1, 0) + b"version\r\n", b"VERSION ")
