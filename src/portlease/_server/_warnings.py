"""What is worth saying though nothing failed, and whose line it is said of."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from portlease._server._command import Command

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
