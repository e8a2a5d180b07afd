"""``portlease ls`` and ``portlease who``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

import portlease as library
from _cli import portlease
from _need import need, netns_command
from portlease import LeaseInfo
from portlease.cli import _leases, _say


def test_ls_lists_what_is_held() -> None:
    """A row for each lease, of this process too, under the columns' names."""
    with library.lease(label="seen by ls") as one:
        done = portlease("ls")
    head, *rows = (row.split() for row in done.stdout.splitlines())
    assert head == ["PORT", "KIND", "STATE", "HOST", "PID", "USER", "AGE", "LABEL", "COMMAND"]
    (row,) = (row for row in rows if row[0] == str(one.port))
    assert row[1:5] == ["tcp", "OFFERED", "*", str(os.getpid())]
    assert " ".join(row).find("seen by ls") > 0


def test_ls_json_is_a_list_of_leases() -> None:
    """The same facts as `portlease.leases()`, by name."""
    with library.lease("udp", label="l") as one:
        done = portlease("ls", "--json")
        (told,) = (told for told in json.loads(done.stdout) if told["port"] == one.port)
    assert set(told) == set(LeaseInfo._fields)
    assert (told["kind"], told["state"], told["label"]) == ("udp", "GUARDED", "l")
    assert abs(told["since"] - time.time()) < 60


def test_ls_of_none_is_silent_in_a_pipe() -> None:
    """Nothing held, nothing printed; JSON is an empty list."""
    command = netns_command([sys.executable, "-m", "portlease", "ls"])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_ls_escapes_what_a_label_would_do_to_the_terminal() -> None:
    """A label with an escape sequence stays on its line, and is seen as it is."""
    with library.lease(label="\x1b[31mred\nnext"):
        done = portlease("ls")
    assert r"\x1b[31mred\nnext" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (90061, "1d1h"), (-5, "0s")],
)
def test_age(seconds: float, text: str) -> None:
    """Two units at most."""
    assert _leases.age(time.time() - seconds) == text


@pytest.mark.parametrize(
    ("command", "pid", "shown"),
    [
        ("/x/python3 /x/bin/portlease hold -n 3", 1, "portlease hold -n 3"),
        ("python3 test.py", 1, "python3 test.py"),
        (None, 1, "(not permitted to see)"),
        (None, None, "-"),
    ],
)
def test_command_of_a_lease_is_told_without_our_interpreter(
    command: str | None, pid: int | None, shown: str
) -> None:
    """What a person typed, not what the system made of it."""
    lease = LeaseInfo(1, "tcp", library.State.HELD, "*", pid, 0, command, None, 0.0)
    assert _leases.command_of(lease) == shown


def test_tables_in_a_pipe_are_aligned() -> None:
    """Numbers to the right, the rest to the left, no blanks at the end."""
    assert _say.plain_table(("PORT", "X"), [("1", "long one"), ("65535", "b")]) == (
        " PORT  X\n    1  long one\n65535  b"
    )


# --- who ------------------------------------------------------------------------------------------


def test_who_of_a_free_port() -> None:
    """Status 0, and it says so."""
    with library.lease(offer=False) as one:
        port = one.port
    done = portlease("who", port)
    assert (done.returncode, done.stdout) == (0, f"port {port}: free\n")


def test_who_of_a_lease() -> None:
    """Status 1, with label, process and what to do."""
    with library.lease(label="whose") as one:
        done = portlease("who", one.port)
    assert done.returncode == 1
    assert "leased for 'whose'" in done.stdout
    assert f"pid {os.getpid()}" in done.stdout


def test_who_of_a_listener_as_json() -> None:
    """--json gives every occupant with its processes."""
    need.capability("proc")
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = portlease("who", server.getsockname()[1], "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["free"]) == (1, False)
    (listener,) = (one for one in told["occupants"] if one["kind"] == "listener")
    assert [process["pid"] for process in listener["processes"]] == [os.getpid()]


def test_who_looks_at_one_transport_if_told() -> None:
    """A TCP listener is not in the way of UDP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert portlease("who", port, "--udp").returncode == 0
        assert portlease("who", port, "--tcp").returncode == 1
