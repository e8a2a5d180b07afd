"""The contract between a lease and the operating system. Imported by the type checker only."""

from __future__ import annotations

from typing import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from portlease._platform._types import Closable, Handle
    from portlease._pool import Rules


class Backend(Protocol):
    """What every ``portlease._platform`` module provides.

    Transport is ``"tcp"`` or ``"udp"``; a port is a plain int. No function swallows an error: what
    it does not name here it lets through as the :class:`OSError` it was.
    """

    CAN_OFFER: bool
    """Whether a server with SO_REUSEADDR can bind and listen beside an unlistening hold."""

    BOARD: bool
    """Whether leases of other processes can be seen (publish() and published() do something)."""

    def rules(self, *, fresh: bool = False) -> Rules:
        """What this machine says about its ports; read anew at most once a second, or if *fresh*.

        The same object as long as it says the same.
        """

    def dual_stack(self) -> bool:
        """Whether one IPv6 socket here can cover IPv4 and IPv6 alike."""

    def publish(self, name: bytes) -> Closable | None:
        """Make *name* (at most ``NAME_BYTES`` bytes) readable by every process of this network.

        Returns a handle that unpublishes it when closed, at the latest by the kernel when the
        process dies; None where this very name is published already. On a system that has no such
        board, a handle that does nothing.
        """

    def published(self) -> list[bytes]:
        """All names that are published in this network namespace."""

    def published_for(self, port: int) -> list[bytes]:
        """Those that begin with this port; one may be missed while others come and go."""

    def guard(self, transport: str, port: int) -> Closable | None:
        """Take the guard of a port; None when somebody has it."""

    def is_guarded(self, row: Closable, transport: str, port: int) -> bool:
        """Whether anybody has the guard of a port. *row*: the asker's handle from publish()."""

    def bind(self, family: int, kind: int, address: tuple[object, ...], *, v6only: bool) -> Handle:
        """A new socket (*kind*: SOCK_STREAM or SOCK_DGRAM), bound exclusively. Not inheritable."""

    def bind_unguarded(  # noqa: PLR0913, PLR0917 - its parts
        self,
        row: Closable,
        transport: str,
        port: int,
        family: int,
        kind: int,
        address: tuple[object, ...],
        v6only: bool,  # noqa: FBT001 - as it is
    ) -> Handle | None:
        """As bind(), of a port that is_guarded() neither before nor after it; else None."""

    def offer(self, hold: Handle) -> None:
        """Let servers with SO_REUSEADDR bind beside this bound socket."""

    def withdraw(self, hold: Handle) -> None:
        """Undo offer() for all binds to come."""

    def withdraw_to_listen(self, hold: Handle) -> None:
        """The same for a socket that is to listen next."""

    def bind_beside(  # noqa: PLR0913, PLR0917 - its parts
        self,
        holds: Sequence[Handle],
        family: int,
        kind: int,
        address: tuple[object, ...],
        v6only: bool,  # noqa: FBT001 - as it is
        backlog: int | None,
    ) -> socket.socket:
        """A new socket, bound beside these holds, and listening unless *backlog* is None.

        The holds let others with SO_REUSEADDR in for these microseconds, and are as they were when
        it returns or raises. The new socket has SO_REUSEADDR. Not inheritable.
        """

    def deafen(self, hold: Handle) -> None:
        """From now on no datagram arrives at this UDP hold, and the port is held all the same."""

    def is_deaf(self, hold: Handle) -> bool:
        """Whether it was deafened; by another process's copy of it, too."""
