"""Who looks on while leases are taken and servers started: nobody, unless a test runner asks.

The pytest plugin does: it labels leases with the test that runs, tells which test has forgotten to
release one, and reports them in the end. What is set here is asked for at the moment it is needed,
and may be changed at any time.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final


class Onlooker:
    """What is to be told, and to whom; None is nobody."""

    __slots__ = ("dropped", "label", "ready", "took")

    label: str | None
    """The label of leases that are given none: the test that runs."""
    took: Callable[[Any], None] | None
    """Told of each Lease that somebody has taken, once it is as it was asked for."""
    dropped: Callable[[str], bool] | None
    """Told of a lease or a server that is collected as garbage before it was released or stopped.
    Given the text of the warning; where it returns True, it sees to it, and nobody is warned."""
    ready: Callable[[Any], None] | None
    """Told of each Server that is ready, after each start; maybe in another thread."""

    def __init__(self) -> None:
        self.label = None
        self.took = None
        self.dropped = None
        self.ready = None

    def named(self, name: str) -> str:
        """The label of a lease for what is called *name*, if none was given."""
        return name if self.label is None else f"{self.label} {name}"


look: Final = Onlooker()
"""The one that there is in this process."""
