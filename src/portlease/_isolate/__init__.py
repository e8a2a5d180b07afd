"""A network of its own for a command, and for each worker of pytest-xdist.

:func:`command` gives what to execute instead of a command, :func:`require` tries once whether that
can be had, and says exactly why not. ``docs/isolate.md`` tells what is private and what is not.
"""

from __future__ import annotations

from portlease._isolate._command import command
from portlease._isolate._inside import adopt, can_reach, network, reach
from portlease._isolate._require import RIGHTS, require

__all__ = ["RIGHTS", "adopt", "can_reach", "command", "network", "reach", "require"]
