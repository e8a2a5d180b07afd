"""Types that the contract speaks of. Imported by the type checker only."""

from __future__ import annotations

from socket import SocketType
from typing import Protocol, TypeAlias

# The C type below socket.socket: what a hold needs and a microsecond cheaper, twice a lease.
Handle: TypeAlias = SocketType


class Closable(Protocol):
    """A row or a guard: given up by closing it."""

    def close(self) -> None:
        """Give it up; may be called again."""
