"""The controls of what is promised of served processes: the same attacks where portlease is not.

Each shows what the usual way comes to: a Popen, a connection to see whether it is up, a temporary
folder, a filter whose supervisor has gone. An attack that does no harm here would prove nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

import portlease
from _brokered import _altered, brokered
from _brokered import python as a_python
from _need import need
from _processes import HANG_S, wait_for, watched
from _serving import PLAIN, PYTHON, TINY, ask, python
from _unruly import TCP_BROKER

if sys.platform != "linux":
    pytest.skip("the whole promise is Linux's; see docs/promise.md", allow_module_level=True)

from portlease._tree import _broker


def told(command: list[str], port: int) -> list[str]:
    """A command with its number filled in by hand."""
    return [word.replace("{port}", str(port)) for word in command]


def test_control_beside_a_hold_it_fails() -> None:
    """Two servers told the same held number by hand: one is up, and the other fails to bind."""
    with portlease.lease() as lease:
        plain = subprocess.run(
            told(python(PLAIN), lease.port), capture_output=True, text=True, check=False
        )
        assert plain.returncode == 1
        assert "Address already in use" in plain.stderr
        with subprocess.Popen(told(python(TINY), lease.port)) as popen:
            wait_for(lambda: is_up(lease.port))
            popen.kill()


def is_up(port: int) -> bool:
    """Whether somebody accepts a connection, which is the usual question."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_control_who_waits_for_the_port_learns_nothing() -> None:
    """Of a server that has died, its port says that nobody is there, and never why or since when.

    Before it died, while it comes up, and after it crashed, the answer is the same.
    """
    with portlease.lease() as lease:
        assert not is_up(lease.port)
        command = ["sh", "-c", 'echo oh no >&2; exec "$@"', "sh", *told(python(TINY), lease.port)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as popen:
            wait_for(lambda: is_up(lease.port))
            popen.kill()
            popen.wait(HANG_S)
            assert not is_up(lease.port)


KILLED: Final = """
    import os, signal, subprocess, sys, tempfile
    with (
        tempfile.TemporaryDirectory(dir=sys.argv[1]) as home,
        subprocess.Popen(sys.argv[2:], cwd=home, stdin=subprocess.DEVNULL) as server,
    ):
        print(server.pid, flush=True)
        server.wait()
"""


def test_control_what_a_killed_process_has_started_stays(tmp_path: Path) -> None:
    """`with` blocks end nothing on SIGKILL: server, port and temporary folder are still there."""
    with portlease.lease() as lease:
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
        command += told(python(TINY), lease.port)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as us:
            assert us.stdout is not None
            server = int(us.stdout.readline())
            with watched([server]):  # which kills it in the end
                wait_for(lambda: is_up(lease.port))
                us.kill()
                us.wait(HANG_S)
                assert ask(lease.port) == b"tiny"
                (home,) = tmp_path.iterdir()
        shutil.rmtree(home)


def test_control_two_in_one_network() -> None:
    """Of two commands on one number, not isolated, the second fails to bind it."""
    with portlease.lease() as lease:
        with subprocess.Popen(told(python(TINY), lease.port)) as first:
            wait_for(lambda: is_up(lease.port))
            second = subprocess.run(
                told(python(TINY), lease.port), capture_output=True, text=True, check=False
            )
            first.kill()
        assert second.returncode == 1
        assert "Address already in use" in second.stderr


def test_control_a_hold_that_hears_swallows_datagrams() -> None:
    """A UDP socket beside the server, bound as a hold is but not deaf, gets what is not its own."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as hold,
    ):
        for one in (server, hold):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.settimeout(HANG_S)
        server.bind(("0.0.0.0", 0))  # noqa: S104 - on this machine, for a moment
        hold.bind(("127.0.0.1", server.getsockname()[1]))
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"for the server", ("127.0.0.1", server.getsockname()[1]))
        assert hold.recv(100) == b"for the server"


# --- a filter without a broker --------------------------------------------------------------------

# The tree's own copy of the listener keeps the filter's calls waiting: it is what a supervisor
# leaves behind that was forked, or killed, without care.
UNANSWERED: Final = """
    import _socket, os, sys
    sys.path.insert(0, sys.argv[1])
    from portlease._tree import _broker
    listener, _ = _broker.install()
    if sys.argv[2] == "closed":
        os.close(listener)
    print("filtered", flush=True)
    sock = _socket.socket()
    try:
        sock.bind(("127.0.0.1", 0))
    except OSError as error:
        print(error.errno, flush=True)
"""


def test_control_a_filter_that_nobody_answers_hangs() -> None:
    """Its listener still open somewhere, a bind waits without end; closed, it gets ENOSYS."""
    need.capability("seccomp")
    TCP_BROKER.need()
    source = str(Path(portlease.__file__).parents[1])
    command = [*PYTHON, textwrap.dedent(UNANSWERED), source]
    closed = subprocess.run([*command, "closed"], capture_output=True, text=True, check=True)
    assert closed.stdout == "filtered\n38\n"  # ENOSYS
    bind = _broker.MACHINES[os.uname().machine][2]
    with subprocess.Popen([*command, "open"], stdout=subprocess.PIPE) as popen:
        try:
            assert popen.stdout is not None
            assert popen.stdout.readline() == b"filtered\n"
            call = Path(f"/proc/{popen.pid}/syscall")
            wait_for(lambda: call.read_text(encoding="ascii").startswith(f"{bind} "))
        finally:
            popen.kill()


PRETENDER: Final = (
    "                return None\n        elif self._bound:",
    "                return 0\n        elif self._bound:",
)


def test_control_a_broker_that_answers_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says 0 to every bind leaves sockets unbound, which the same programs notice."""
    TCP_BROKER.need()
    _altered(monkeypatch, *PRETENDER)
    code = """
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            print(other.getsockname()[1], flush=True)
    """
    with brokered(a_python(code)) as server:
        assert server.end() == "0\n"
