"""Servers in the process that has the lease: their bind must not fail against its own hold.

A server that sets SO_REUSEADDR binds beside an OFFERED hold; one that does not (a bare
``sock.bind()``, ``socketserver.TCPServer`` as it comes) is refused, which is right for strangers
and absurd for the owner. The interpreter announces each bind before it is made, as the audit event
``socket.bind`` (sys.addaudithook(); CPython, Modules/socketmodule.c): then SO_REUSEADDR is set on
that very socket, and the kernel lets it in. Nobody else's bind is changed, nor any other port's.

An audit hook cannot be taken away again, and is called for every event of the interpreter (open(),
import, ...): 0.15 us each, and 0.9 us a bind. So it is installed only by what hands out
numbers to code that cannot be asked, the pytest fixtures; see :func:`let_own_binds_in`.

Not reached: servers that bind without Python's socket module (a C extension), and other programs,
which :func:`portlease.serve` starts in the right way.
"""

from __future__ import annotations

import os
import socket
import sys

from portlease._grip import alive, live
from portlease._states import OFFERED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_BARE: Final = socket.SocketType
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class _Hook:
    installed = False
    active = False
    inherited: frozenset[int] = frozenset()
    """In a forked child: the ports that were OFFERED in its parents (multiprocessing's servers)."""
    before_fork: frozenset[int] = frozenset()


def let_own_binds_in() -> None:
    """Let this process, and its forked children, bind beside its OFFERED leases from now on.

    Sets SO_REUSEADDR on a TCP socket of this process that is about to be bound to the port of one
    of its OFFERED leases. May be called again. Cannot be undone; costs 0.15 us an audit event.
    """
    _Hook.active = True
    if not _Hook.installed:
        _Hook.installed = True
        sys.addaudithook(_on_event)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.bind" and _Hook.active:
        sock, address = arguments
        # A lease's own bind, which nothing may soften, is made on a bare one. All others are of
        # classes derived from it: of socket.socket, or of what a test or gevent has put there.
        if type(sock) is not _BARE and isinstance(sock, _BARE) and isinstance(address, tuple):
            _on_bind(sock, address)


def _on_bind(sock: socket.SocketType, address: tuple[object, ...]) -> None:
    port = address[1] if len(address) > 1 else None
    if (
        isinstance(port, int)
        and (port in live or port in _Hook.inherited)
        and sock.family in _FAMILIES
        and sock.type == socket.SOCK_STREAM
        and _is_offered(port)
    ):
        # On a closed socket this raises EBADF, as the bind would.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _is_offered(port: int) -> bool:
    if port in _Hook.inherited:
        return True
    return any((grip := known()) is not None and grip.state is OFFERED for known in live[port])


def _before_fork() -> None:
    mine = {grip.port for grip in alive() if grip.state is OFFERED}
    _Hook.before_fork = _Hook.inherited | mine


def _after_fork_in_child() -> None:
    _Hook.inherited = _Hook.before_fork
