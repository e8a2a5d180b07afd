"""What is worth saying though nothing failed, and whose line it is said of."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING

from portlease._onlooker import look

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from portlease._server._command import Command
    from portlease._server._group import ServerGroup
    from portlease._server._server import Server

_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep


class ServerKilledWarning(RuntimeWarning):
    """A server did not end when it was asked to, and was ended by SIGKILL."""


class ServerDiedWarning(RuntimeWarning):
    """A server had ended by itself, with a status other than 0, when it was to be stopped."""


class HowWarning(RuntimeWarning):
    """What ``how=`` asked for cannot be had here; the text says why, and what is done instead."""


class TemplateWarning(UserWarning):
    """A name in braces that may be misspelt: another than ``{port}``, which is nowhere, or PORT."""


def tell(text: str, category: type[Warning]) -> None:
    """Warn, on behalf of the first line up the stack that is not portlease's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level + 1)


def is_dropped(
    one: Server | ServerGroup, _finalizing: Callable[[], bool] = sys.is_finalizing
) -> bool:
    """Whether one that is collected as garbage was never stopped; it is warned of then.

    One whose making failed was closed there, or has nothing to close. When the interpreter ends,
    all that runs was stopped before, and modules may be empty by now.
    """
    if getattr(one, "_closed", True) or _finalizing() or one._owner != os.getpid():
        return False
    text = f"{one!r} was not stopped; use `with`, or stop()"
    if look.dropped is None or not look.dropped(text):
        warnings.warn(text, ResourceWarning, stacklevel=2, source=one)
    return True


def of_templates(command: Command) -> None:
    """Warn of each name that may have been meant for ``{port}``."""
    for name in sorted(command.suspicious()):
        tell(
            f"{{{name}}} is leased as a further port of {command.program}, and {{port}}, its main "
            "one, is nowhere in its command; if that was meant, write {port}; if not, declare the "
            f"other: ports={{{name!r}: 'tcp'}}",
            TemplateWarning,
        )
    for name in sorted(() if command.known_only else command.shouted()):
        tell(
            f"{{{name}}} stays as it is: the names of ports are in lower case; if it was meant "
            f"for one, write {{{name.lower()}}}",
            TemplateWarning,
        )
