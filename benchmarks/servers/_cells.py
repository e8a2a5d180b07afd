"""One cell of the table: one server, by one means, as one user; started a few times, and asked."""

from __future__ import annotations

import re
import shutil
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import portlease

from . import _clients
from ._catalogue import CATALOGUE, ITSELF, Entry, How, Variant, found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portlease import Lease, Server

_START_S: Final = 20.0
_ENOUGH_S: Final = 1.5
"""A cell whose starts have taken so long gets no more of them."""
_STATES: Final[dict[How, str]] = {
    "offer": "OFFERED",
    "step-aside": "GUARDED",
    "broker": "HELD",
    "hand-over": "HELD",
}
"""The lease's, while a server that was started by this means runs."""


@dataclass(slots=True)
class Cell:
    """What came of it."""

    name: str
    how: How | Literal["itself"]
    chosen: str = ""
    """By which means it was served."""
    served: bool = False
    """Whether it listened, by this means, and answered."""
    state: str = ""
    """The lease's while it ran."""
    starts: int = 0
    delays_ms: list[float] = field(default_factory=list)
    """From its own listen() (UDP: bind()) to the return of serve(), where that can be seen."""
    ready_ms: list[float] = field(default_factory=list)
    """From its start to the return of serve()."""
    reason: str = ""
    """Why not, or what was said."""
    detail: str = ""
    """The whole error."""


def measure(
    *,
    names: Sequence[str],
    hows: Sequence[How | Literal["itself"]],
    starts: int,
    directory: str,
    stamp: str | None,
) -> Iterator[dict[str, Any]]:
    """Make the cells, one after the other.

    Args:
        names: of the entries.
        hows: by which means.
        starts: how many for each cell.
        directory: to write in.
        stamp: the library that tells when a server has called listen().
    """
    for entry in CATALOGUE:
        if entry.name not in names:
            continue
        own = Path(directory) / re.sub(r"\W+", "-", entry.name)
        own.mkdir()
        try:
            trouble = _prepared(entry, own)
            for how in hows:
                cell = Cell(entry.name, how)
                if trouble is not None:
                    cell.reason = trouble
                else:
                    _make(entry, cell, own, starts, stamp)
                yield asdict(cell)
        finally:
            shutil.rmtree(own)


def _prepared(entry: Entry, directory: Path) -> str | None:
    """Why it cannot be started here, or None once all that it needs is there."""
    if found(entry.program) is None:
        return f"{entry.program} is not installed"
    try:
        if entry.prepare is not None:
            entry.prepare(directory)
    except (OSError, RuntimeError) as error:
        return f"could not be prepared: {error}"
    return None


def _make(entry: Entry, cell: Cell, directory: Path, starts: int, stamp: str | None) -> None:
    variant: Variant | None = None
    if cell.how == "hand-over":
        if isinstance(entry.takes, str):
            cell.reason = entry.takes
            return
        variant = entry.takes
    if cell.how == "offer" and entry.kind == "udp":
        cell.reason = "a UDP socket cannot be shared"
        return
    begun = time.monotonic()
    while cell.starts < starts and time.monotonic() - begun < _ENOUGH_S:
        try:
            with portlease.lease(entry.kind, label="matrix") as lease:
                _start(entry, variant, cell, lease, directory, stamp)
        except (portlease.PortleaseError, _clients.NoAnswerError, _OtherwiseError) as error:
            cell.served = False
            cell.reason = _reason(error)
            cell.detail = str(error)
            return
        cell.starts += 1
    cell.served = True


class _OtherwiseError(Exception):
    """It was served, but not by the means that was asked for."""


def _start(  # noqa: PLR0913, PLR0917 - one start, all that it needs
    entry: Entry,
    variant: Variant | None,
    cell: Cell,
    lease: Lease,
    directory: Path,
    stamp: str | None,
) -> None:
    files = dict(entry.files) | (dict(variant.files) if variant else {})
    for name, text in files.items():
        filled = text.replace("@PORT@", str(lease.port)).replace("@DIRECTORY@", str(directory))
        (directory / name).write_text(filled, encoding="utf-8")
    env = dict(entry.env) | (dict(variant.env) if variant else {})
    stamps = directory / "stamps"
    stamps.write_bytes(b"")
    stamps.chmod(0o666)  # some servers become another user first
    env["PORTLEASE_STAMP"] = str(stamps)
    if stamp is not None:
        env["LD_PRELOAD"] = stamp
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        server = portlease.serve(
            entry.argv(directory, variant),
            lease=lease,
            env=env,
            cwd=directory,
            how=None if cell.how == ITSELF else cell.how,
            timeout_s=_START_S,
            stop_signal=entry.stop_signal,
        )
        ready_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        with server:
            cell.state, cell.chosen = str(lease.state), server.how
            if cell.how not in {ITSELF, server.how} or cell.state != _STATES[server.how]:
                raise _OtherwiseError(f"{server.how}, {cell.state} instead: {_said(caught)}")
            _ask(entry, server)
            if troubles := server.process.broker_troubles:
                raise _OtherwiseError(f"the broker had trouble: {'; '.join(troubles)}")
    if caught or not server.process.ended:
        raise _OtherwiseError(f"served, but: {_said(caught) or 'something is left of it'}")
    cell.ready_ms.append(server.ready_after_s * 1000)
    if (listening_ns := _listening_ns(stamps, lease)) is not None:
        cell.delays_ms.append((ready_ns - listening_ns) / 1e6)


def _ask(entry: Entry, server: Server) -> None:
    host, port = server.host, server.port
    for one in entry.asks:
        try:
            _clients.ask(one, host, port)
        except _clients.NoAnswerError as error:
            if (status := server.process.returncode) is None:
                raise
            last = _last_line(server.output)
            raise _OtherwiseError(f"ended with status {status}: {last}") from error


def _said(caught: Sequence[warnings.WarningMessage]) -> str:
    return "; ".join(str(one.message) for one in caught)


def _listening_ns(stamps: Path, lease: Lease) -> int | None:
    """When the server was there on every transport of its port; None if that was not seen."""
    first: dict[str, int] = {}
    for line in stamps.read_text(encoding="ascii").splitlines():
        transport, port, nanoseconds = line.split()
        if int(port) == lease.port:
            first.setdefault(transport, int(nanoseconds))
    wanted = {"tcp", "udp"} if lease.kind == "both" else {lease.kind}
    return max(first.values()) if wanted <= first.keys() else None


def _reason(error: Exception) -> str:
    """One line of an error, with what the server itself said last."""
    text = str(error)
    if "it does not set SO_REUSEADDR" in text:
        return "does not set SO_REUSEADDR"
    first = text.partition("\n")[0].strip() or type(error).__name__
    last = _last_line(str(getattr(error, "output", "")))
    return re.sub(r" on (UDP )?port \d+.*", "", first) + (f": {last:.200}" if last else "")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
