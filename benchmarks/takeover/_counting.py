"""A pytest plugin that counts what a suite is given, so that a table can show that it was.

It is loaded by ``-p _counting``; at the end of each process of the run it adds a line to the file
that ``PORTLEASE_COUNT`` names.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path

from portlease import _takeover

_given: dict[str, int] = {}
_forward = _takeover.forward


def _counting(number: int, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    library = _takeover.TARGETS[number].library
    _given[library] = _given.get(library, 0) + 1
    return _forward(number, args, kwargs)


def _write(owner: int) -> None:
    if _given and os.getpid() == owner:
        with Path(os.environ["PORTLEASE_COUNT"]).open("a", encoding="utf-8") as file:
            file.write(f"{sum(_given.values())}\n")


_takeover.forward = _counting
atexit.register(_write, os.getpid())
