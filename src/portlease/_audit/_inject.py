"""Bringing the hook into the Python programs of a tree: a folder in front of their PYTHONPATH.

Not reached are interpreters that do not look there: ``python -I``, ``-E`` and ``-S``, programs that
are started with an environment of their own making, and frozen ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from portlease import _trail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

OBSERVED: Final = "PORTLEASE_OBSERVED"
"""Names the trail to which an observer writes the binds: Python adds their places alone."""
FOLDER: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_site")
_PATH: Final = "PYTHONPATH"


def environment(env: Mapping[str, str], trail: str, *, observed: bool = False) -> dict[str, str]:
    """The environment of a command whose Python programs are to write to a trail.

    Args:
        env: the command's environment as it would be.
        trail: the path of the file; it must be there, the hook does not make it.
        observed: whether an observer sees the binds.
    """
    new = {**env, _trail.VARIABLE: trail, _PATH: python_path(env.get(_PATH))}
    new.pop(OBSERVED, None)
    if observed:
        new[OBSERVED] = trail
    return new


def python_path(before: str | None) -> str:
    """*before*, a PYTHONPATH or None for none, with our folder in front."""
    # An empty one is none; and an empty part would be the working directory.
    others = [part for part in (before or "").split(os.pathsep) if part and part != FOLDER]
    return os.pathsep.join([FOLDER, *others])
