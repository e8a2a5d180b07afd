"""How far it is: one line that is written over on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._board import Board
    from ._crowd import Size

_TERMINAL_S: Final = 0.2
_FILE_S: Final = 10.0


class Progress:
    """Tells on stderr what the board says."""

    def __init__(self, size: Size, board: Board, begin: float, what: str) -> None:
        self._size = size
        self._board = board
        self._begin = begin
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._next = begin

    def show(self) -> None:
        """Tell it, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_S if self._terminal else _FILE_S)
        start, end = ("\r\033[K", "") if self._terminal else ("", "\n")
        print(start + self._line(now - self._begin), end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Tell the last of it, and let it stay."""
        self._next = 0.0
        self.show()
        if self._terminal:
            print(file=sys.stderr)

    def _line(self, seconds: float) -> str:
        board, size = self._board, self._size
        leases, servers = board.total("leases"), board.total("servers")
        minutes, rest = divmod(int(seconds), 60)
        doubles, troubles = board.total("ledger doubles"), board.total("troubles")
        return (
            f"{self._what} {minutes:02}:{rest:02}  {leases:,} of {size.leases:,} leases"
            f" ({leases / max(seconds, 1e-9):,.0f} a second)  {servers:,} of {size.servers:,}"
            f" servers  {doubles:,} doubles  {troubles:,} troubles"
        )
