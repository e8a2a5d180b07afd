"""What each test has taken: ports and servers, as they come (:mod:`._leaks`, :mod:`._report`)."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, NamedTuple
from weakref import ref

import pytest

from portlease._lease import place
from portlease._onlooker import look
from portlease._pytest._current import now
from portlease._pytest._options import leaks, report

if TYPE_CHECKING:
    from typing import Final

    from portlease._grip import By, Grip
    from portlease._lease import Lease
    from portlease._server._server import Server


class TakenLease(NamedTuple):
    """A lease that somebody took while a test ran."""

    port: int
    kind: str
    fixture: str | None
    """``"the fixture leased_port"``, if one of ours took it."""
    by: By
    scope: str
    grip: ref[Grip]

    def place(self, here: str) -> str:
        """Who took it: the fixture, or else file and line, relative to *here* if below it."""
        return self.fixture or place(self.by).removeprefix(here + os.sep)


class StartedServer(NamedTuple):
    """A server that came up while a test ran."""

    program: str
    argv: tuple[str, ...]
    ports: dict[str, int]
    how: str
    starts: int
    ready_after_s: float
    scope: str
    server: ref[Server]
    grips: frozenset[int]
    """The identities of its leases' grips."""


class Record:
    """What the test that runs has taken so far; begun anew by :meth:`begin`."""

    def __init__(self) -> None:
        self.leases: list[TakenLease] = []
        self.servers: list[StartedServer] = []
        self.dropped: list[str] = []
        """What was said of leases and servers that nobody gave back, and nobody knew any more."""
        self.reported: list[str] = []
        """What was said of leaks in this test."""
        self._recorder: object = None
        """Where warnings of the test that runs go, if it does not say otherwise."""
        self._told: set[tuple[int, str]] = set()

    def begin(self) -> None:
        """A test begins."""
        self.leases, self.servers, self.dropped, self.reported = [], [], [], []
        self._recorder = _recorder()

    def took(self, lease: Lease) -> None:
        """See :class:`portlease._onlooker.Onlooker`."""
        if now.item is not None:
            grip = lease._grip
            self.leases.append(
                TakenLease(lease.port, lease.kind, now.fixture, grip.by, now.scope, ref(grip))
            )

    def ready(self, server: Server) -> None:
        """See :class:`portlease._onlooker.Onlooker`."""
        if now.item is not None:
            self.servers.append(
                StartedServer(
                    server._command.program,
                    server.argv,
                    server._numbers(),
                    server.how,
                    server.starts,
                    server.ready_after_s,
                    now.scope,
                    ref(server),
                    frozenset(id(lease._grip) for lease in server.leases.values()),
                )
            )

    def lost(self, text: str) -> bool:
        """See :class:`portlease._onlooker.Onlooker`.

        A test that records warnings itself (``pytest.warns()``) gets it, and leaks nothing.
        """
        if now.item is None or _recorder() is not self._recorder:
            return False
        if not any(f"port {port} " in text and where in text for port, where in self._told):
            self.dropped.append(text)
        return True

    def tell(self, lease: TakenLease) -> None:
        """It is reported now; so it is not once more, when it is collected as garbage."""
        self._told.add((lease.port, place(lease.by)))

    def own_leases(self) -> list[TakenLease]:
        """Those that are no server's."""
        taken = {port for server in self.servers for port in server.ports.values()}
        return [one for one in self.leases if one.port not in taken]


def _recorder() -> object:
    """What gets the warnings now: another one inside of ``warnings.catch_warnings(record=True)``.

    Named so in CPython's Lib/warnings.py; where there is none, nobody is taken for recording.
    """
    return getattr(warnings, "_showwarnmsg_impl", None)


_RECORD: Final = pytest.StashKey[Record]()
_BEFORE: Final = pytest.StashKey["tuple[object, object, object]"]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Look on, if somebody wants to know."""
    config.stash[_RECORD] = record = Record()
    config.stash[_BEFORE] = look.took, look.ready, look.dropped
    watched = leaks(config) != "off"
    if watched or report(config) is not None:
        look.took, look.ready = record.took, record.ready
    if watched:
        look.dropped = record.lost


def pytest_unconfigure(config: pytest.Config) -> None:
    """Look away."""
    if _BEFORE in config.stash:
        look.took, look.ready, look.dropped = config.stash[_BEFORE]  # type: ignore[assignment]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test begins; once more, if it is run again."""
    of(item.config).begin()


def of(config: pytest.Config) -> Record:
    """The record of this session's tests."""
    return config.stash[_RECORD]
