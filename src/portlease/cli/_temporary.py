"""A temporary folder for what a command writes; it goes with us, whatever we end of."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from portlease._errors import PortleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def folder(name: str) -> Iterator[str]:
    """A new folder, whose path ends with *name*; gone when the block is left, or when we are.

    Raises:
        PortleaseError: it cannot be made.
    """
    from portlease._tree._home import Home

    try:
        home = Home(name, given=None, account=None)
    except OSError as error:
        raise PortleaseError(
            f"cannot make {error.filename or 'a temporary folder'}: {error.strerror}; make room "
            "there, or set TMPDIR to another folder"
        ) from error
    try:
        yield str(home.path)
    finally:
        home.close()
