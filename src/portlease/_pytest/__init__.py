"""The parts of the pytest plugin, each a plugin of its own: :mod:`portlease.pytest_plugin` is all.

``PARTS`` are registered in this order, so that what a later one asks of an earlier one is there.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

PARTS: Final = (
    "_options",
    "_current",
    "_isolate",
    "_ports",
    "_leases",
    "_serving",
    "_once",
    "_record",
    "_leaks",
    "_report",
    "_scopes",
)
