"""The fixtures, in pytest runs of their own: what they give, label, and give back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from _need import need

if TYPE_CHECKING:
    from collections.abc import Sequence

USES = """
    import socket
    import sys

    import portlease

    SERVER = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"]


    def mine(port):
        return [one for one in portlease.leases() if one.port == port]


    def test_leased_port_is_a_plain_int_that_a_server_can_bind(leased_port):
        assert type(leased_port) is int
        with socket.create_server(("127.0.0.1", leased_port)):  # sets SO_REUSEADDR
            pass


    def test_leased_port_is_labelled_with_the_test(leased_port):
        (lease,) = mine(leased_port)
        assert lease.label.endswith("test_leased_port_is_labelled_with_the_test")


    def test_leased_udp_port_can_be_bound_by_anything(leased_udp_port):
        assert type(leased_udp_port) is int
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.bind(("127.0.0.1", leased_udp_port))


    def test_factory_gives_different_ports(leased_port_factory):
        ports = [leased_port_factory() for _ in range(3)] + [leased_port_factory("udp")]
        assert len(set(ports)) == 4
        assert all(mine(port) for port in ports)


    def test_serve_starts_a_server(serve):
        server = serve(SERVER)
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
        assert serve(SERVER).port != server.port
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the sample suite in a subprocess, with every warning an error."""
    pytester.makepyfile(USES)
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:randomly", *arguments)


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("-n", "2", "--dist", "loadgroup")])
def test_fixtures_work(pytester: pytest.Pytester, arguments: Sequence[str]) -> None:
    """Every fixture does what it says, with and without pytest-xdist."""
    result = run(pytester, *arguments)
    result.assert_outcomes(passed=5)


def test_nothing_is_left_after_the_session(pytester: pytest.Pytester) -> None:
    """When pytest has ended no lease and no server of it is left."""
    import portlease

    pytester.makeconftest(
        """
        import os
        import pathlib

        def pytest_sessionstart(session):
            pathlib.Path(session.config.rootpath, "pid").write_text(str(os.getpid()))
        """
    )
    run(pytester).assert_outcomes(passed=5)
    pid = int((pytester.path / "pid").read_text())
    assert not [one for one in portlease.leases() if one.pid == pid]


def test_worker_is_named_in_the_label(pytester: pytest.Pytester) -> None:
    """Under pytest-xdist the label begins with the worker that runs the test."""
    pytester.makepyfile(
        """
        import os

        import portlease

        def test_label(leased_port):
            (label,) = [one.label for one in portlease.leases() if one.port == leased_port]
            worker = os.environ["PYTEST_XDIST_WORKER"]
            assert label == f"{worker} test_worker_is_named_in_the_label.py::test_label"
        """
    )
    pytester.runpytest_subprocess("-n", "1", "-p", "no:randomly").assert_outcomes(passed=1)


def test_a_test_that_fails_gives_its_port_back(pytester: pytest.Pytester) -> None:
    """A failing test's lease and server end with it, before the next test begins."""
    need.capability("proc")
    pytester.makepyfile(
        f"""
        import portlease

        SERVER = [{sys.executable!r}, "-m", "http.server", "--bind", "127.0.0.1", "{{port}}"]
        seen = []

        def test_fails(leased_port, serve):
            seen.extend([leased_port, serve(SERVER).port])
            raise AssertionError

        def test_nothing_is_left():
            assert not [one for one in portlease.leases() if one.port in seen]
            assert all(portlease.who(port).free for port in seen)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=1, failed=1)
