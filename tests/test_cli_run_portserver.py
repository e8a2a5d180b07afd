"""``portlease run --portserver -- CMD``: a port server for as long as the command lives."""

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
from _processes import wait_for, watched
from portlease._platform import _linux_proc

if sys.platform != "linux":
    pytest.skip("Linux has pidfds and abstract sockets", allow_module_level=True)

# portpicker's own client, as it was released; the port is this process's own until it ends.
PICKS = """\
import os, portlease, portpicker, sys
port = portpicker.pick_unused_port()
(lease,) = [one for one in portlease.leases() if one.port == port]
print(port, lease.state, lease.label, os.getpid(), os.environ["PORTSERVER_ADDRESS"], flush=True)
sys.stdin.read()
"""


def test_portpickers_client_is_served() -> None:
    """GUARDED, for the asking process; the status is the command's, {port} has its own lease."""
    source = PICKS + "\nexit(int(sys.argv[1]) and 7)"
    done = portlease("run", "--portserver", "--", *python(source), "{port}")
    assert (done.returncode, done.stderr) == (7, "")
    port, state, *label, pid, address = done.stdout.split()
    assert (state, label) == ("GUARDED", ["portserver:", pid])
    assert address.startswith("@portlease-portserver-")
    assert not [one for one in library.leases() if one.port == int(port)]
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(f"\0{address[1:]}")


def test_its_children_are_served_and_reclaimed() -> None:
    """A child's port goes back when the child ends, while the command lives on."""
    source = f"""\
import subprocess, sys
child = subprocess.run([sys.executable, "-c", {PICKS!r}], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, check=True)
print(child.stdout, end="", flush=True)
sys.stdin.read()
"""
    with started("run", "--portserver", "--", *python(source), stdin=subprocess.PIPE) as run:
        port = int(line(run).split()[0])
        # The server gives it back as it learns of the child's end, some moments later.
        wait_for(lambda: all(one.port != port for one in library.leases()))
        with library.lease(ports=[port]):
            pass
        assert end(run)[0] == 0


def test_many_share_one() -> None:
    """-n: every server and client has the same address; --json tells it."""
    server = "import os, http.server as h; h.test(port=int(os.environ['PORT']), bind='127.0.0.1')"
    client = "import os; print(os.environ['PORTSERVER_ADDRESS'])"
    done = portlease(
        "run", "--portserver", "-n", 2, "--json", "--", *python(server), "--then", *python(client)
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [run["output"].strip() for run in told["runs"]] == [told["portserver"]] * 2


def test_events_tell_the_address() -> None:
    """--json, alone: in the line of the start."""
    done = portlease("run", "--portserver", "--json", "--", "sh", "-c", "echo $PORTSERVER_ADDRESS")
    began, ended = map(json.loads, done.stderr.splitlines())
    assert began["portserver"] == done.stdout.strip()
    assert ended == {"event": "ended", "status": 0}


def test_garbage_is_told_and_harms_nobody() -> None:
    """A request that means nothing: one line here, and the command goes on being served."""
    source = f"""\
import os, socket
with socket.socket(socket.AF_UNIX) as client:
    client.connect("\\0" + os.environ["PORTSERVER_ADDRESS"][1:])
    client.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    assert not client.recv(100).strip().isdigit()
{PICKS}
"""
    done = portlease("run", "--portserver", "--", *python(source))
    assert done.returncode == 0
    (told,) = done.stderr.splitlines()
    assert "GET / HTTP/1.1" in told
    assert done.stdout.split()[1] == "GUARDED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_still_the_commands(number: int) -> None:
    """The server's thread takes none of them away."""
    source = """\
import signal
for number in signal.SIGTERM, signal.SIGINT:
    signal.signal(number, lambda number, _: exit(number + 40))
print("up", flush=True)
while True:
    signal.sigtimedwait((), 0.01)  # not pause(): a signal just before it would be missed
"""
    with started("run", "--portserver", "--", *python(source)) as run:
        assert line(run) == "up"
        assert end(run, number)[0] == number + 40


def test_our_death_ends_it() -> None:
    """SIGKILL: the address and all leases are free, and no process is left."""
    with started("run", "--portserver", "--", *python(PICKS), stdin=subprocess.PIPE) as run:
        port, *_, address = line(run).split()
        with watched(_linux_proc.descendants(run.pid)) as all_gone:
            run.kill()
            run.wait()
            assert all_gone() == []
    assert not [one for one in library.leases() if one.port == int(port)]
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{address[1:]}")


def test_two_of_them_are_refused() -> None:
    """-e PORTSERVER_ADDRESS names another one; an inherited one is replaced."""
    done = portlease("run", "--portserver", "-e", "PORTSERVER_ADDRESS=@x", "--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert "-e PORTSERVER_ADDRESS and --portserver are two of them" in done.stderr
    words = ["run", "--portserver", "--", "sh", "-c", "echo $PORTSERVER_ADDRESS"]
    done = portlease(*words, env={"PORTSERVER_ADDRESS": "@nobody"})
    assert done.stdout.startswith("@portlease-portserver-")


def test_a_command_that_cannot_be_executed() -> None:
    """The server goes with it."""
    done = portlease("run", "--portserver", "--", "/nonexistent/bazel", "test", "//...")
    assert done.returncode == 127


def test_portpickers_own_script_asks_it() -> None:
    """`python -m portpicker`, as shell scripts and CMake call it, with a process id."""
    need.capability("subreaper")
    words = [sys.executable, "-m", "portpicker", str(os.getpid())]
    done = portlease("run", "--portserver", "--verbose", "--", *words)
    assert done.returncode == 0
    port = int(done.stdout)
    assert f"port {port} is process {os.getpid()}'s" in done.stderr
