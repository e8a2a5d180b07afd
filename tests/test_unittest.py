"""The mixins for unittest, in unittest runs of their own and in this one."""

from __future__ import annotations

import gc
import io
import os
import socket
import socketserver
import sys
import unittest
from typing import TYPE_CHECKING, ClassVar

import pytest

import portlease
from portlease import _own_binds
from portlease.unittest import AsyncLeaseMixin, LeaseMixin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portlease import AsyncServer, Lease, Server

SERVER = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"]


@pytest.fixture(autouse=True)
def _own_binds_are_let_in_no_longer() -> Iterator[None]:
    yield
    _own_binds._Hook.active = False  # other tests of this process mean what they bind


def run(case: type[unittest.TestCase]) -> unittest.TestResult:
    """Run the tests of a class as `python -m unittest` does."""
    stream = io.StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TextTestRunner(stream=stream, verbosity=0).run(suite)
    assert result.wasSuccessful(), stream.getvalue()
    return result


def live() -> set[int]:
    """The ports that this process has leased now."""
    gc.collect()
    return {one.port for one in portlease.leases() if one.pid == os.getpid()}


class Plain(LeaseMixin, unittest.TestCase):
    """What the methods give; the ports are looked at from outside when the class is over."""

    __test__ = False  # not pytest's
    shared: ClassVar[Server]
    shared_lease: ClassVar[Lease]
    shared_port: ClassVar[int]
    seen: ClassVar[set[int]] = set()
    leased_before: ClassVar[set[int]] = set()

    @classmethod
    def setUpClass(cls) -> None:
        """What all tests share."""
        cls.shared = cls.class_serve(SERVER)
        cls.shared_lease = cls.class_lease()
        cls.shared_port = cls.class_leased_port("udp")

    def setUp(self) -> None:
        """Nothing of the test before is left."""
        assert not self.leased_before & live()

    def tearDown(self) -> None:
        """All of it is there still."""
        assert self.leased_before < live()

    def note(self, *ports: int) -> None:
        """They are to be gone after the test."""
        type(self).leased_before = set(ports)
        type(self).seen |= set(ports)

    def test_ports(self) -> None:
        """Leases, numbers and blocks, labelled with the test."""
        lease, port, udp = self.lease(), self.leased_port(), self.leased_port("udp", label="mine")
        block = self.lease_block(2, offsets=(0, 10))
        assert type(port) is int
        assert block.ports == tuple(block[0].port + step for step in (0, 1, 10, 11))
        labels = {one.port: one.label for one in portlease.leases()}
        assert labels[udp] == "mine"
        for one in (lease.port, port, *block.ports):
            assert str(lease.label).startswith(str(labels[one]))
        # Under pytest its test is the one that has them.
        assert lease.label in {self.id(), portlease._onlooker.look.label}
        self.note(lease.port, port, udp, *block.ports)

    def test_server(self) -> None:
        """Servers, of the test and of the class."""
        server = self.serve(SERVER)
        for one in (server, self.shared):
            with socket.create_connection((one.host, one.port)):
                pass
        self.note(server.port)

    def test_server_in_the_test_itself(self) -> None:
        """One that does not set SO_REUSEADDR binds its port all the same."""
        port = self.leased_port()
        with socketserver.TCPServer(("127.0.0.1", port), socketserver.BaseRequestHandler):
            pass
        self.note(port, self.leased_port())


class Async(AsyncLeaseMixin, unittest.IsolatedAsyncioTestCase):
    """In an event loop."""

    __test__ = False
    servers: ClassVar[list[AsyncServer]] = []

    async def test_server(self) -> None:
        """It is awaited, and stopped in the loop."""
        server = await self.aserve(SERVER)
        self.servers.append(server)
        with socket.create_connection((server.host, server.port)):
            pass
        assert type(self.leased_port()) is int


def label_of(case: type[unittest.TestCase], lease: Lease) -> bool:
    """Whether a lease is labelled with the class (under pytest: with the test that runs)."""
    return case.__qualname__ in str(lease.label) or "::" in str(lease.label)


def test_what_is_leased_ends_with_its_test_and_its_class() -> None:
    """Test by test, and in the end nothing is left of the class."""
    before = live()
    assert run(Plain).testsRun == 3
    assert len(Plain.seen) > 6
    assert label_of(Plain, Plain.shared_lease)
    assert live() <= before
    assert Plain.shared.process.ended
    assert portlease.who(Plain.shared_port).free


def test_servers_of_an_event_loop() -> None:
    """They end with their test."""
    assert run(Async).testsRun == 1
    (server,) = Async.servers
    assert server.process.ended
    Async.servers.clear()


def test_without_a_mixin() -> None:
    """enterContext() and enterClassContext() do, since leases and servers are context managers."""
    seen: list[Server] = []

    class Bare(unittest.TestCase):
        server: Server

        @classmethod
        def setUpClass(cls) -> None:
            cls.server = cls.enterClassContext(portlease.serve(SERVER))
            seen.append(cls.server)

        def test_it(self) -> None:
            lease = self.enterContext(portlease.lease())
            assert lease.port != self.server.port
            seen.append(self.enterContext(portlease.serve(SERVER, lease=lease)))

    run(Bare)
    assert [server.process.ended for server in seen] == [True, True]
