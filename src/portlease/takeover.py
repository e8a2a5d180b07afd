"""A pytest plugin: other libraries' port helpers get leases, without an edit of the suite.

Set ``portlease_takeover = true`` in the ini file, or run ``pytest -p portlease.takeover``. What is
taken over, and how, is in :mod:`portlease._takeover`; a line of the report's header says it too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from portlease import _takeover

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Begin; libraries that the suite imports later are seen to when it does."""
    del config
    _takeover.take_over()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End: every function is given back."""
    del config
    _takeover.undo()


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
