"""Whether a network of one's own is to be had: tried, not guessed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from portlease._errors import IsolationUnavailableError
from portlease._isolate import _why
from portlease._isolate._command import build

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, Literal

RIGHTS: Final = {"root": "by our privileges", "user": "with a user namespace"}
"""What `require` returns, in words."""
_HANG_GUARD_S: Final = 30.0


def require(
    *,
    low_ports: bool = False,
    reach: Iterable[str] = (),
    outside: bool = False,
) -> Literal["root", "user"]:
    """Have a child enter a network of its own, with all that is asked for, and end.

    Takes as long as an interpreter's start; nothing is left of it.

    Args:
        low_ports: as for :func:`portlease._isolate.command`, and so the others.
        reach: what is to be reached; whether anybody listens there is not tried.
        outside: by pasta(1).

    Returns:
        By which rights: ``"root"``, or ``"user"``, with a user namespace.

    Raises:
        IsolationUnavailableError: it cannot be had; with the cause and the remedy.
        UsageError: something in *reach* means nothing.
    """
    if sys.platform != "linux":
        raise unavailable(*_why.elsewhere(sys.platform))
    words = build(["probe"], low_ports=low_ports, reach=reach, outside=outside, probe=True)
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_HANG_GUARD_S, check=False
        )
    except OSError as error:
        raise unavailable(*_why.explain(f"to start {words[0]}", error.errno or 0, {})) from error
    answer, _, rest = done.stdout.decode("utf-8", "replace").partition(" ")
    if answer == "ok":
        return "root" if rest == "root" else "user"
    if answer:
        raise unavailable(*_why.explain(rest, int(answer), _why.settings()))
    raise unavailable(*_why.died(done.returncode, done.stderr.decode("utf-8", "replace")))


def unavailable(reason: str, remedy: str) -> IsolationUnavailableError:
    """The error of these two."""
    return IsolationUnavailableError(
        f"no network of one's own is to be had: {reason}; {remedy}", reason=reason, remedy=remedy
    )
