"""``portlease hold``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

import portlease as library
from _cli import end, line, portlease, python, started
from _need import need
from _processes import wait_for


def _leased(port: int) -> library.LeaseInfo | None:
    return next((info for info in library.leases() if info.port == port), None)


def test_holds_until_a_signal() -> None:
    """It prints the number, holds it, and gives it back at SIGTERM with status 128+15."""
    with started("hold", "--label", "a label") as hold:
        port = int(line(hold))
        info = _leased(port)
        assert info is not None
        assert (info.pid, info.label, info.state) == (hold.pid, "a label", "OFFERED")
        assert end(hold, signal.SIGTERM) == (128 + signal.SIGTERM, "", "")
    assert _leased(port) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_each_ending_signal_is_told_by_the_status(number: signal.Signals) -> None:
    """128+N, as shells have it."""
    with started("hold") as hold:
        line(hold)
        assert end(hold, number)[0] == 128 + number


def test_is_free_at_once_when_killed() -> None:
    """SIGKILL: the kernel gives the ports back."""
    with started("hold", "-n", 3) as hold:
        ports = [int(line(hold)) for _ in range(3)]
        end(hold, signal.SIGKILL)
    with library.lease_many(3, ports=ports) as again:
        assert sorted(again.ports) == sorted(ports)


def test_ends_with_its_standard_input() -> None:
    """A pipe that is closed ends it, with status 0; so it dies with whoever started it."""
    with started("hold", stdin=subprocess.PIPE) as hold:
        port = int(line(hold))
        assert hold.stdin is not None
        hold.stdin.write("what is written there is of no interest\n")
        hold.stdin.flush()
        assert _leased(port) is not None
        hold.stdin.close()
        hold.stdin = None
        assert end(hold) == (0, "", "")


def test_an_empty_standard_input_ends_nothing() -> None:
    """A shell script's background job has /dev/null there, and holds its port all the same."""
    with started("hold", stdin=subprocess.DEVNULL) as hold:
        port = int(line(hold))
        assert hold.poll() is None
        assert _leased(port) is not None
        end(hold, signal.SIGTERM)


def test_pid_holds_until_that_process_ends() -> None:
    """--pid: no child of ours is needed, and status 0."""
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other,
        started("hold", "--pid", other.pid) as hold,
    ):
        port = int(line(hold))
        assert _leased(port) is not None
        assert hold.poll() is None
        other.communicate(b"\n")
        assert end(hold) == (0, "", "")
    assert _leased(port) is None


def test_pid_of_nobody_is_bad_input() -> None:
    """A process that is not there is told at once."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    done = portlease("hold", "--pid", gone.pid)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"portlease: there is no process {gone.pid}\n"


def test_command_has_the_port_and_its_status_passes() -> None:
    """Hold -- CMD: PORT, PORTS and {port}; the output is the command's alone."""
    source = (
        "import os, sys; print(os.environ['PORT'], os.environ['PORTS'], *sys.argv[1:]); exit(7)"
    )
    done = portlease("hold", "-n", 2, "--", *python(source), "{port}", "{x}")
    port, first, second, argument, other = done.stdout.split()
    assert done.returncode == 7
    assert [text for text in done.stderr.splitlines() if "was OFFERED" not in text] == []
    assert port == first == argument
    assert second != first
    assert other == "{x}"


# Binds its port without SO_REUSEADDR, as few servers do.
PLAIN = """\
import os, socket
with socket.socket() as server:
    server.bind(("127.0.0.1", int(os.environ["PORT"])))
    server.listen()
"""


def test_a_command_that_fails_beside_an_offered_lease_gets_a_hint() -> None:
    """Its own words are "Address already in use" alone; the remedy that is named does help."""
    need.capability("subreaper")
    done = portlease("hold", "--", *python(PLAIN))
    assert done.returncode == 1
    assert "was OFFERED (how: offer): only a server that sets SO_REUSEADDR" in done.stderr
    assert "--how step-aside" in done.stderr.splitlines()[-1]
    done = portlease("hold", "--how", "step-aside", "--", *python(PLAIN))
    assert (done.returncode, done.stderr) == (0, "")
    assert "OFFERED" not in portlease("hold", "--how", "step-aside", "--", "false").stderr


def test_a_command_that_was_told_to_end_gets_none() -> None:
    """Whoever ends it knows why it ended."""
    with started(
        "hold", "--", *python("import signal; print(1, flush=True); signal.pause()")
    ) as it:
        line(it)
        assert end(it, signal.SIGTERM) == (128 + signal.SIGTERM, "", "")


def test_a_command_line_in_one_argument() -> None:
    """Not "install it": the words are to be written apart."""
    done = portlease("hold", "--", "echo {port}")
    assert (done.returncode, done.stdout) == (127, "")
    assert "'echo {port}' is one argument with blanks" in done.stderr
    assert "write the words apart: echo {port}" in done.stderr


def test_command_runs_while_the_lease_is_held() -> None:
    """The command itself sees the lease, of its parent; afterwards it is gone."""
    source = "import os, portlease as p; print(os.environ['PORT'], *(i.port for i in p.leases()))"
    port, *leased = map(int, portlease("hold", "--", *python(source)).stdout.split())
    assert port in leased
    assert _leased(port) is None


@pytest.mark.parametrize(
    ("how", "kind", "state"),
    [
        ([], [], "OFFERED"),
        (["--how", "step-aside"], [], "GUARDED"),
        ([], ["--udp"], "GUARDED"),
        ([], ["--both"], "OFFERED"),
        (["--how", "step-aside"], ["--both"], "GUARDED"),
    ],
)
def test_how(how: list[str], kind: list[str], state: str) -> None:
    """Offered by default; UDP, which cannot be, is guarded; --how step-aside guards all."""
    with started("hold", *how, *kind, "--json") as hold:
        told = json.loads(line(hold))
        assert told["state"] == state
        assert (told["held"], told["pid"]) == (True, hold.pid)
        info = _leased(told["ports"][0])
        assert info is not None
        assert info.state == state
        end(hold, signal.SIGTERM)


def test_host() -> None:
    """--host holds that address alone."""
    with started("hold", "--host", "127.0.0.2") as hold:
        port = int(line(hold))
        info = _leased(port)
        assert info is not None
        assert info.host == "127.0.0.2"
        with socket.socket() as other:
            other.bind(("127.0.0.3", port))
        end(hold, signal.SIGTERM)


def test_redis_takes_the_offered_port_and_a_stranger_does_not() -> None:
    """What hold is for: a server of another shell gets the number, other binds do not."""
    redis = need.program("redis-server")
    with started("hold") as hold:
        port = int(line(hold))
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        command = [redis, "--port", str(port), "--save", "", "--dir", os.sep]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(lambda: _answers(port))
            finally:
                server.terminate()
        end(hold, signal.SIGTERM)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"PING\r\n")
            return client.recv(16) == b"+PONG\r\n"
    except ConnectionRefusedError:
        return False
