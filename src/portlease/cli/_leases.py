"""Leases as the options of a command ask for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import portlease
from portlease.cli import _say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portlease import LeaseGroup, LeaseInfo
    from portlease._wish import Kind


def take(  # noqa: PLR0913 - the options of get and hold
    n: int,
    kind: Kind,
    *,
    block: bool,
    offsets: tuple[int, ...] | None,
    host: str | None,
    ports: tuple[int, ...] | None,
    label: str | None,
) -> LeaseGroup:
    """Take *n* leases, or a block of them; all or none."""
    if block or offsets is not None:
        return portlease.lease_block(
            n, kind, offsets=offsets or (0,), host=host, ports=ports, label=label
        )
    return portlease.lease_many(n, kind, host=host, ports=ports, label=label)


def as_dict(info: LeaseInfo) -> Mapping[str, object]:
    """A lease as JSON has it."""
    return {**info._asdict(), "state": str(info.state)}


def age(since: float) -> str:
    """How long ago that was, in two units at most; *since* in seconds since the epoch."""
    seconds = max(0, int(time.time() - since))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            smaller = {"d": (3600, "h"), "h": (60, "m"), "m": (1, "s")}[unit]
            rest = seconds % length // smaller[0]
            return f"{seconds // length}{unit}" + (f"{rest}{smaller[1]}" if rest else "")
    return f"{seconds}s"


def command_of(info: LeaseInfo) -> str:
    """The owner's command line, without the interpreter that runs a script of ours."""
    if info.command is None:
        return "-" if info.pid is None else "(not permitted to see)"
    words = info.command.split(" ")
    if len(words) > 1 and "/python" in f"/{words[0]}" and words[1].endswith("/portlease"):
        words = ["portlease", *words[2:]]
    return _say.printable(" ".join(words))
