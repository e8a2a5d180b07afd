"""The first detector: a ledger of claims that knows nothing of portlease, nor of any port.

Who has been given a port claims it here, and drops the claim before the port is given back. A claim
is an abstract Unix socket named after transport and number: its bind is atomic, one only can have
it, and it goes with its owner, of whatever that dies. A claim that is refused is a double: the port
was given to two at once.

One case looks like it and is not. Of a process that is killed, the kernel may close the lease first
and the claim then; for that moment the port is free and the claim still there. Therefore each claim
has a word in the shared memory, +serial while it lasts and -serial from just before it is dropped,
which tells whose it is; and of that process the kernel says whether it is on its way out
(PF_EXITING in /proc/PID/stat), as it was before it closed anything. A claim of one that was alive
is a double.
"""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ._board import PORTS, TRANSPORTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._board import Board

# <linux/sched.h>; the flags are field 9 of /proc/PID/stat, proc_pid_stat(5).
_PF_EXITING: Final = 0x4
_PATIENCE_S: Final = 5.0
_PAUSE_S: Final = 0.0002
# A serial is the process's number, and this many bits for its claims.
_BITS: Final = 36


@dataclass(slots=True)
class Claim:
    """A port that this process says it has."""

    transport: int
    port: int
    serial: int
    mark: socket.socket | None
    """The socket; None where another had it."""


class Ledger:
    """The claims of one process.

    Args:
        board: the shared memory.
        run: what the names of this soak begin with.
        place: where the process counts.
        number: no other process of the soak ever has it.
        told: is called with what is known of a double.
    """

    def __init__(
        self, board: Board, run: str, place: int, number: int, told: Callable[[str], None]
    ) -> None:
        self._board = board
        self._run = run
        self._place = place
        self._serial = number << _BITS
        self._told = told

    def claim(self, transport: str, port: int) -> Claim:
        """Claim a port that was just given to us; counts a double if another has it."""
        self._serial += 1
        kind = TRANSPORTS.index(transport)
        name = f"\0soak/{self._run}/{transport}/{port}"
        mark = _bind(name)
        if mark is None:
            mark = self._contested(name, kind * PORTS + port, transport, port)
        if mark is not None:
            self._board.claims[kind * PORTS + port] = self._serial
        self._board.add(self._place, "claims")
        return Claim(kind, port, self._serial, mark)

    def drop(self, claim: Claim) -> None:
        """Drop it, while the port still is ours."""
        if claim.mark is not None:
            self._board.claims[claim.transport * PORTS + claim.port] = -claim.serial
            claim.mark.close()
            claim.mark = None

    def _contested(self, name: str, index: int, transport: str, port: int) -> socket.socket | None:
        """The claim of a process that has died; None, and a double, if its owner lives."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            # Of a word below 0 the owner is about to drop the claim, or has not written yet.
            word = self._board.claims[index]
            if word > 0 and self._lives(word >> _BITS):
                break
            if (mark := _bind(name)) is not None:
                if word > 0 or not self._lives(-word >> _BITS):
                    self._board.add(self._place, "inherited claims")
                    return mark
                mark.close()
                break
            if time.monotonic() > give_up:
                break
            time.sleep(_PAUSE_S)
        self._board.add(self._place, "ledger doubles")
        self._told(
            f"ledger: {transport} port {port} was given to process number {self._serial >> _BITS} "
            f"while number {abs(word) >> _BITS} had it"
        )
        return None

    def _lives(self, number: int) -> bool:
        """Whether the process of that number is not on its way out, nor gone."""
        pid = self._board.pid_of(number)
        if pid is None:
            return False
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return False
        state, *fields = stat.rpartition(")")[2].split()
        return state not in {"Z", "X"} and not int(fields[5]) & _PF_EXITING


def _bind(name: str) -> socket.socket | None:
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(name)
    except OSError as error:
        mark.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return mark
