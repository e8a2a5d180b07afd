"""Rows that tests put on the board themselves, in the name of lessees that do not exist."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from portlease import _platform, _registry
from portlease._states import State

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def row(  # the fields of a row
    port: int,
    kind: str = "tcp",
    state: State = State.OFFERED,
    *,
    scope: str = "*",
    label: str | None = None,
) -> Iterator[None]:
    """Show the row of a lease that does not exist, taken in 1970, until the block ends."""
    with name(_registry.encode(port, kind, state, b"1.0", scope, label)):
        yield


@contextlib.contextmanager
def name(text: bytes) -> Iterator[None]:
    """Put any name at all on the board until the block ends."""
    published = _platform.backend.publish(text)
    assert published is not None, "it is there already"
    try:
        yield
    finally:
        published.close()
