"""What is left behind after many starts and stops, some by SIGKILL of the process that started it?

Counted before and after: this process's descriptors; the processes that bear our mark in their
environment; files in the temporary folder; abstract Unix sockets and bound ports of the network
namespace. A start that is ended by SIGKILL is a process of its own, killed once its server listens;
then its keeper and server must end by themselves, and its port must be free.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import portlease

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._catalogue import How

_MARK: Final = "PORTLEASE_MATRIX"
_END_S: Final = 10.0
_PARENT: Final = """
import os, sys, portlease
how, *command = sys.argv[1:]
with portlease.serve(command, how=how, label="leftovers") as server:
    children = open("/proc/self/task/%d/children" % os.getpid()).read().split()
    print(server.how, server.port, *children, *server.process.tree(), flush=True)
    sys.stdin.read()
"""


class Counts(NamedTuple):
    """What there is of each."""

    descriptors: int
    processes: int
    files: int
    abstract_sockets: int
    ports: int


def measure(*, tiny: str, how: How, starts: int, kills: int) -> Iterator[dict[str, Any]]:
    """Start and stop the smallest server, and kill the parent every few times.

    ``during`` is counted while one of them runs: what the counts would show if it were left behind.
    """
    manner = {"offer": "reuse", "hand-over": "fd"}.get(how, "plain")
    command = [tiny, "tcp", manner, "{fd}" if manner == "fd" else "{port}"]
    with _private_folder() as folder:
        with (
            warnings.catch_warnings(record=True) as caught,
            portlease.serve(command, how=how, label="leftovers") as server,
        ):
            during = _counts(folder)
        # From here on, since the first time something is imported, opened and remembered.
        before = _counts(folder)
        found: dict[str, Any] = {"how": how, "starts": 0, "killed": 0, "reason": ""}
        if server.how != how:
            said = "; ".join(str(one.message) for one in caught)
            found["reason"] = f"{server.how} instead: {said}"
        else:
            for number in range(starts):
                if number * kills // starts != (number + 1) * kills // starts:
                    _kill(command, how)
                else:
                    portlease.serve(command, how=how, label="leftovers").stop()
            found |= {"starts": starts, "killed": kills}
        after = _counts(folder)
    counts = {"before": before, "during": during, "after": after}
    yield found | {when: count._asdict() for when, count in counts.items()}


def _kill(command: list[str], how: How) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, how, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        if parent.stdout is None:  # for the type checker: it is a pipe
            raise RuntimeError("no output")
        try:
            served, port, *pids = parent.stdout.readline().split()
            watched = [fd for pid in set(pids) if (fd := _watched(int(pid))) is not None]
        finally:
            parent.kill()
    if served.decode() != how:
        raise RuntimeError(f"{served.decode()} instead of {how}")
    try:
        _wait_for_ends(watched)
    finally:
        for fd in watched:
            os.close(fd)
    portlease.lease(ports=[int(port)]).release()  # an error, if anybody has it still


def _watched(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _wait_for_ends(watched: Iterable[int]) -> None:
    give_up = time.monotonic() + _END_S
    for fd in watched:
        if not select.select([fd], [], [], max(0, give_up - time.monotonic()))[0]:
            return  # it will be counted


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A temporary folder of our own, and a mark on all that is started from here."""
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        before = {name: os.environ.get(name) for name in ("TMPDIR", _MARK)}
        chosen, tempfile.tempdir = tempfile.tempdir, folder
        os.environ |= {"TMPDIR": folder, _MARK: str(os.getpid())}
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = chosen
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _counts(folder: Path) -> Counts:
    mark = f"{_MARK}={os.getpid()}".encode()
    unix = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    return Counts(
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        processes=sum(mark in _environment(pid).split(b"\0") for pid in _processes()),
        files=len(list(folder.rglob("*"))),
        abstract_sockets=sum(" @" in line for line in unix.splitlines()),
        ports=len(_bound()),
    )


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours to see
        return b""


def _bound() -> set[str]:
    """Ports that are listened on (UDP: bound), and those that are leased."""
    found = {f"lease {lease.port}" for lease in portlease.leases()}
    for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        with contextlib.suppress(FileNotFoundError):  # booted without IPv6
            lines = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
            rows = [line.split() for line in lines]
            found |= {f"{table} {row[1]}" for row in rows if row[3] == state}
    return found
