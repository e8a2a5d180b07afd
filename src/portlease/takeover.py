"""A pytest plugin: other libraries' port helpers get leases, without an edit of the suite.

Set ``portlease_takeover = true`` in the ini file, or run ``pytest -p portlease.takeover``. What is
taken over, and how, is in :mod:`portlease._takeover`; a line of the report's header says it too.

Other runners (:mod:`unittest`) call :func:`take_over`, and :func:`undo` if it is to end before the
process does. This module needs no pytest.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from portlease import _takeover
from portlease._takeover import take_over, undo

if TYPE_CHECKING:
    import pytest

__all__ = ["take_over", "undo"]

# The configuration that began it: a suite that runs pytest within pytest (pytester) has several.
_BEGAN = "_portlease_takeover_began"


def pytest_configure(config: pytest.Config) -> None:
    """Begin; libraries that the suite imports later are seen to when it does."""
    setattr(config, _BEGAN, take_over())


def pytest_unconfigure(config: pytest.Config) -> None:
    """End, where it was begun: every function is given back."""
    if getattr(config, _BEGAN, False):
        undo()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say whose helpers get leases, and which of them could not be found."""
    del config
    here = {name.partition(".")[0] for name in sys.modules}
    taken = "; ".join(
        f"{library}: {', '.join(names)}" for library, names in _takeover.taken_over().items()
    )
    lines = [f"portlease takes over: {taken or 'nothing yet'}"]
    later = sorted(
        {
            target.library
            for target in _takeover.TARGETS
            if target.module.partition(".")[0] not in here
        }
    )
    if later:
        lines[0] += f" (and {', '.join(later)}, if imported)"
    lines += [
        f"portlease: this version of {library} has no {', '.join(names)}; that is not taken over"
        for library, names in _takeover.not_found().items()
    ]
    return lines
