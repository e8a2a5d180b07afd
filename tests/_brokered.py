"""Servers that run under the broker, for tests."""

from __future__ import annotations

import contextlib
import errno
import functools
import marshal
import os
import socket
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import portlease
from _processes import HANG_S, wait_for
from portlease._tree import _process
from portlease._tree._process import Brokered, Hold, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@functools.cache
def _why_no_broker() -> str | None:
    error = _process.why_no_broker()
    return None if error is None else error.reason


def need_broker() -> None:
    """Skip where none is to be had, or fail where it must be."""
    from _need import need  # which needs pytest; scripts that import this have none

    need.capability("subreaper")
    need.capability("seccomp")
    reason = _why_no_broker()
    if reason is not None:
        need.missing("the broker", reason)


class Told(NamedTuple):
    """A server on a leased port."""

    process: Process
    lease: portlease.Lease
    output: int

    @property
    def port(self) -> int:
        """The number."""
        return self.lease.port

    def said(self) -> str:
        """All that it has written."""
        return os.pread(self.output, 1 << 20, 0).decode()

    def wait_for(self, text: str) -> str:
        """Wait until it has written *text*; return all of it."""
        wait_for(lambda: text in self.said() or self.process.ended)
        assert text in self.said(), self.said()
        return self.said()

    def end(self) -> str:
        """Wait until the whole tree has ended; return what it has written."""
        assert self.process.wait_ended(HANG_S), "it still runs"
        return self.said()


def holds_of(lease: portlease.Lease) -> list[Hold]:
    """The holds of a lease, as the process wants them."""
    return [Hold(bind.transport, lease.port, hold.fileno()) for bind, hold in lease._grip.holds]


@contextlib.contextmanager
def brokered(
    argv: Sequence[str],
    kind: str = "tcp",
    *,
    leased: portlease.Lease | None = None,
    more: Sequence[portlease.Lease] = (),
    troubles: bool = False,
    **options: object,
) -> Iterator[Told]:
    """Start a command on a lease, and on *more*; ``{port}`` in it is the port of the first.

    The broker must have had no trouble in the end, unless *troubles* are expected.
    """
    with contextlib.ExitStack() as stack:
        lease = leased or stack.enter_context(portlease.lease(kind, offer=False))  # type: ignore[arg-type]
        file = stack.enter_context(tempfile.TemporaryFile())
        words = [word.replace("{port}", str(lease.port)) for word in argv]
        holds = [hold for one in (lease, *more) for hold in holds_of(one)]
        process = stack.enter_context(
            Process.start(words, output=file.fileno(), holds=holds, **options)  # type: ignore[arg-type]
        )
        yield Told(process, lease, file.fileno())
        assert troubles or not process.broker_troubles


def python(source: str, *arguments: str) -> list[str]:
    """The command that runs *source*, which finds the port in ``port`` and sockets imported."""
    begin = "import contextlib, os, signal, socket, sys, threading\nport = int(sys.argv[1])\n"
    return [sys.executable, "-I", "-S", "-c", begin + textwrap.dedent(source), "{port}", *arguments]


def wait_until(told: Told, *actions: str) -> list[Brokered]:
    """Wait until all of these, ``"tcp bind"``, were done."""

    def done() -> bool:
        return {f"{one.transport} {one.action}" for one in told.process.brokered} >= set(actions)

    wait_for_brokered(told, done)
    return told.process.brokered


def wait_for_brokered(told: Told, done: Callable[[], bool]) -> None:
    """Wait until what the broker has done makes *done* true."""
    while True:
        seen = len(told.process.brokered)
        if done():
            return
        assert not told.process.ended, told.said()  # a look, which may bring the news
        if len(told.process.brokered) == seen:
            told.process.wait_for_news(HANG_S)


def refused(port: int, kind: int = TCP, host: str = "127.0.0.1", *, reuse: bool = False) -> bool:
    """Whether a bind of the port is refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as thief:
        if reuse:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            thief.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
        return False


def free_port() -> int:
    """A port that nobody has just now; for natives, which are nobody's prey here."""
    with portlease.lease("both") as lease:
        return lease.port


# --- other kernels, other users -----------------------------------------------------------------


def before_5_19(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker as on a kernel without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV."""
    _altered(monkeypatch, '_WAIT_KILLABLE_RECV: "Final" = 1 << 5', "_WAIT_KILLABLE_RECV = 0")


def without_net_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker as an ordinary user has it: it sets sockets apart by SO_REUSEADDR."""
    _altered(
        monkeypatch, "self._by_interface = _may_choose_interface()", "self._by_interface = False"
    )


def before_6_17(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker as on a kernel that may forget an answer when a signal comes."""
    _altered(monkeypatch, "_release() < _SIGNALS_ARE_SAFE", "True")


def before_6_9(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker as on a kernel without pidfds of threads."""
    _altered(monkeypatch, "    threads = True", "    threads = False")


def _altered(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Run another broker's code in the keepers that are started from now on."""
    if sys.platform == "linux":
        from portlease._tree import _process_linux

        path = Path(_process.__file__).with_name("_broker.py")
        source = path.read_text(encoding="utf-8")
        assert source.count(old) == 1
        code = marshal.dumps(compile(source.replace(old, new), str(path), "exec"))
        monkeypatch.setitem(_process_linux._codes, _process_linux._BROKER, code)


def search_path() -> list[str]:
    """Where such a script finds portlease, and what tests can import."""
    return [str(Path(portlease.__file__).parents[1]), str(Path(__file__).parent)]
