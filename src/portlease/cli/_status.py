"""What the exit status says, in one place: the numbers, and which error leads to which."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING

from portlease._errors import (
    PortleaseError,
    RecipeUnavailableError,
    ServerDiedError,
    ServerStartError,
    ServerTimeoutError,
    UsageError,
)

if TYPE_CHECKING:
    from typing import Final

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
NOT_READY: Final = 124
FAILED: Final = 125
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127
_SIGNAL: Final = 128
SIGINT: Final = int(signal.SIGINT)
SIGPIPE: Final = 13  # Windows has no name for it

# As env(1), timeout(1) and nohup(1) have them.
TABLE: Final = """\
  0      done; of `run`, `hold`, `recipe`: the command's own status passes
  1      who: the port cannot be bound; doctor: the promise is limited here;
         repeat: something failed only in company; lint, audit --strict:
         there are findings
  2      an argument that can never work
  124    the server was not ready in time
  125    portlease itself could not do it: no port, no resource, no permission
  126    the command cannot be executed
  127    the command, or a recipe's server, is not found
  128+N  the command, or portlease, was ended by signal N"""


def of_signal(number: int) -> int:
    """The status of what was ended by a signal, as shells give it."""
    return _SIGNAL + number


def of_returncode(code: int) -> int:
    """The status that passes a child's on; *code* as in :mod:`subprocess`."""
    return code if code >= 0 else of_signal(-code)


def of_error(error: PortleaseError) -> int:
    """The status that tells of an error."""
    match error:
        case UsageError():
            return USAGE
        case ServerTimeoutError():
            return NOT_READY
        case ServerStartError(errno=errno.ENOENT) | RecipeUnavailableError():
            return NOT_FOUND
        case ServerStartError():
            return CANNOT_EXECUTE
        case ServerDiedError(returncode=int(code)) if code != 0:
            return of_returncode(code)
    return FAILED
