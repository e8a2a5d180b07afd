"""The fixtures, in pytest runs of their own: what they give, label, and give back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from _inner import few_plugins as few_plugins  # noqa: PLC0414 - a fixture
from _need import need

if TYPE_CHECKING:
    from collections.abc import Sequence

ALONE = ("-p", "portlease", "-p", "xdist")


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
    return pytester.runpytest_subprocess("-W", "error", *ALONE, *arguments)


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


def test_a_failed_test_shows_what_its_servers_wrote(pytester: pytest.Pytester) -> None:
    """A section of its own, with the server's last lines."""
    pytester.makepyfile(
        """
        import sys

        def test_it(serve):
            source = "import os, signal, socket, sys; print('it says so', flush=True);"
            source += "s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); signal.pause()"
            serve([sys.executable, "-c", source, "{port}"])
            assert False
        """
    )
    result = pytester.runpytest_subprocess(*ALONE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Last output of <Server *", "it says so"])


def test_an_option_that_is_misspelt(pytester: pytest.Pytester) -> None:
    """The right one is named."""
    pytester.makepyfile("def test_it(serve): serve(['true'], timeout=2)")
    result = pytester.runpytest_subprocess(*ALONE)
    result.stdout.fnmatch_lines(["*keyword argument 'timeout'; did you mean 'timeout_s'[?]"])


def test_a_failed_test_says_that_its_server_wrote_nothing(pytester: pytest.Pytester) -> None:
    """An empty section would look like one that was lost."""
    source = "import signal, socket, sys; s = socket.create_server(('127.0.0.1', {port})); "
    pytester.makepyfile(
        f"""
        import sys

        def test_it(serve):
            serve([sys.executable, "-c", {source + "signal.pause()"!r}])
            assert False
        """
    )
    result = pytester.runpytest_subprocess(*ALONE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Last output of <Server *", "it wrote nothing"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\nportlease_takeover = true\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\nportlease_takeover = true\n"),
        ("pyproject.toml", "[tool.pytest]\nportlease_takeover = true\n"),
    ],
)
def test_takeover_in_every_kind_of_ini(pytester: pytest.Pytester, name: str, text: str) -> None:
    """As the README writes it, in pytest's own TOML too."""
    (pytester.path / name).write_text(text)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(*ALONE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["portlease takes over: *"])


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
    pytester.runpytest_subprocess("-n", "1", *ALONE).assert_outcomes(passed=1)


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
    result = pytester.runpytest_subprocess(*ALONE)
    result.assert_outcomes(passed=1, failed=1)


# --- the ini option portlease_how -----------------------------------------------------------------

SERVES = f"""
    SERVER = [{sys.executable!r}, "-m", "http.server", "--bind", "127.0.0.1", "{{port}}"]

    def test_how(serve):
        assert serve(SERVER).how == "HOW"

    def test_the_call_has_the_last_word(serve):
        assert serve(SERVER, how="offer").how == "offer"
        assert serve(SERVER, how=None).how == "offer"
"""


def run_with(
    pytester: pytest.Pytester, ini: str, *arguments: str, how: str = "offer"
) -> pytest.RunResult:
    """Run servers under an ini file with the line *ini*, with every warning an error."""
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile(SERVES.replace("HOW", how))
    return pytester.runpytest_subprocess("-W", "error", *ALONE, *arguments)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_how_is_for_the_fixture_serve(pytester: pytest.Pytester, arguments: Sequence[str]) -> None:
    """`portlease_how` is what servers get that say nothing else, and the header tells it."""
    result = run_with(pytester, "portlease_how = step-aside", *arguments, how="step-aside")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines("portlease_how: step-aside")


def test_how_broker_holds_the_port_of_each_server(pytester: pytest.Pytester) -> None:
    """`portlease_how = broker`: every server's lease stays HELD, under pytest-xdist too."""
    need.capability("subreaper")
    need.capability("seccomp")
    pytester.makeini("[pytest]\nportlease_how = broker\n")
    pytester.makepyfile(
        f"""
        SERVER = [{sys.executable!r}, "-m", "http.server", "--bind", "127.0.0.1", "{{port}}"]

        def test_held(serve):
            server = serve(SERVER)
            assert (server.how, str(server.lease.state)) == ("broker", "HELD")
            server.restart()
            assert (server.how, str(server.lease.state)) == ("broker", "HELD")
        """
    )
    for arguments in ((), ("-n", "1")):
        result = pytester.runpytest_subprocess("-W", "error", *ALONE, *arguments)
        result.assert_outcomes(passed=1)


@pytest.mark.parametrize("ini", ["", "portlease_how ="])
def test_without_how_serve_chooses(pytester: pytest.Pytester, ini: str) -> None:
    """Left out or empty: each server by its own means, and the header says nothing of it."""
    result = run_with(pytester, ini)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("portlease_how*")


def test_how_may_be_given_for_one_run(pytester: pytest.Pytester) -> None:
    """-o portlease_how=... wins over the file."""
    result = run_with(
        pytester, "portlease_how = offer", "-o", "portlease_how=step-aside", how="step-aside"
    )
    result.assert_outcomes(passed=2)


def test_a_how_that_is_none_ends_the_run_before_it_begins(pytester: pytest.Pytester) -> None:
    """The choices are named, and no test runs."""
    result = run_with(pytester, "portlease_how = brokered")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        "ERROR: portlease_how = brokered:*offer, step-aside, broker, hand-over*"
    )
    result.stdout.no_fnmatch_line("*test_how*")


def test_how_is_in_the_help(pytester: pytest.Pytester) -> None:
    """`pytest --help` lists the ini option with its choices."""
    pytester.makeini("[pytest]\n")
    result = pytester.runpytest_subprocess(*ALONE, "--help")
    result.stdout.fnmatch_lines("*portlease_how (string):*")
