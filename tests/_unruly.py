"""Servers that misbehave, one for each means by which a server gets its port.

A server here is a Python program in three parts: what it does first (its *manner*), how it comes by
its socket (its *way*), and a loop that answers whoever asks with the id of the process that does.
"""

from __future__ import annotations

import errno
import socket
import sys
import textwrap
from typing import TYPE_CHECKING, Final, NamedTuple

import _serving
from _brokered import need_broker
from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portlease import Lease, Server, ServerTimeoutError
    from portlease._server._command import How, PortKind
    from portlease._wish import Kind

_BEGIN: Final = "import os, select, signal, socket, sys\nNUMBER, FD = {port}, -1\n"
_BEGIN_WITH_FD: Final = "import os, select, signal, socket, sys\nNUMBER, FD = {port}, {fd}\n"

_BIND: Final = {
    "tcp": 'server.bind(("127.0.0.1", NUMBER))\nserver.listen(16)\n',
    "udp": 'server.bind(("127.0.0.1", NUMBER))\n',
}
_MAKE: Final = {
    "tcp": "server = socket.socket()\n",
    "udp": "server = socket.socket(type=socket.SOCK_DGRAM)\n",
}
_REUSE: Final = "server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"

ANSWER: Final = {
    "tcp": """
while True:
    client, _ = server.accept()
    with client:
        client.sendall(b"%d" % os.getpid())
""",
    "udp": """
while True:
    _, asker = server.recvfrom(100)
    server.sendto(b"%d" % os.getpid(), asker)
""",
}


class Way(NamedTuple):
    """A means, and the transport that it is tried with."""

    how: How
    transport: str

    def __str__(self) -> str:
        return f"{self.transport} {self.how}"

    @property
    def kind(self) -> socket.SocketKind:
        """Of its sockets."""
        return socket.SOCK_DGRAM if self.transport == "udp" else socket.SOCK_STREAM

    @property
    def lease_kind(self) -> Kind:
        """For lease()."""
        return "udp" if self.transport == "udp" else "tcp"

    @property
    def kinds(self) -> Mapping[str, PortKind]:
        """For serve(ports=)."""
        return {"port": "udp"} if self.transport == "udp" else {}

    @property
    def begin(self) -> str:
        """The first lines of its program: they set NUMBER, and FD, to -1 where none is handed."""
        return _BEGIN_WITH_FD if self.how == "hand-over" else _BEGIN

    @property
    def make(self) -> str:
        """Lines that make ``server``, not bound yet."""
        if self.how == "hand-over":
            return "server = socket.socket(fileno=FD)\n"
        return _MAKE[self.transport] + _REUSE * (self.how == "offer")

    @property
    def take(self) -> str:
        """Lines that make ``server``, on its port."""
        if self.how != "hand-over":
            return self.make + _BIND[self.transport]
        return self.make + "server.listen(16)\n" * (self.transport == "tcp")

    def command(self, manner: str = "", *, then: str | None = None) -> list[str]:
        """A server that does *manner* first; *then*, what it does in place of answering."""
        code = self.begin + textwrap.dedent(manner) + "\n" + self.take
        code += ANSWER[self.transport] if then is None else textwrap.dedent(then)
        return [sys.executable, "-I", "-S", "-c", code]

    def need(self) -> None:
        """Skip where this means is not to be had, or fail where it must be."""
        if self.how == "broker":
            need_broker()


TCP_OFFER: Final = Way("offer", "tcp")
TCP_ASIDE: Final = Way("step-aside", "tcp")
TCP_BROKER: Final = Way("broker", "tcp")
TCP_HANDED: Final = Way("hand-over", "tcp")
UDP_ASIDE: Final = Way("step-aside", "udp")
UDP_BROKER: Final = Way("broker", "udp")
UDP_HANDED: Final = Way("hand-over", "udp")

WAYS: Final = [TCP_OFFER, TCP_ASIDE, TCP_BROKER, TCP_HANDED, UDP_ASIDE, UDP_BROKER, UDP_HANDED]
BINDING: Final = [way for way in WAYS if way.how != "hand-over"]
"""Those in which the server binds by itself."""


def answerer(server: Server | int, way: Way) -> int:
    """Ask it who it is: the process id of whoever answers on the port."""
    port = server if isinstance(server, int) else server.lease.port
    with socket.socket(type=way.kind) as client:
        client.settimeout(HANG_S)
        client.connect(("127.0.0.1", port))
        if way.transport == "udp":
            client.send(b"who")
        return int(client.recv(100))


def refused(way: Way, port: int) -> bool:
    """Whether a plain bind of the number is refused."""
    with socket.socket(type=way.kind) as thief:
        try:
            thief.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
        return False


def never_ready(
    way: Way,
    command: list[str],
    came_so_far: Callable[[ServerTimeoutError], object],
    lease: Lease | None = None,
) -> ServerTimeoutError:
    """As `_serving.never_ready`, by this means, and stopped without much ado."""
    return _serving.never_ready(
        command, came_so_far, how=way.how, lease=lease, ports=way.kinds, stop_timeout_s=0.02
    )
