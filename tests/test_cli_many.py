"""``portlease run -n N``: many side by side."""

from __future__ import annotations

import json
import signal
import sys

import pytest

import portlease as library
from _cli import HTTP, end, line, portlease, python, started
from _need import need
from _processes import wait_for, watched

SHOW = python("import os; print(os.environ['PORT'])")
WAIT = "import signal; signal.pause()"


def _rows(text: str) -> list[list[str]]:
    """The table at the end of standard error."""
    lines = text.splitlines()
    (head,) = (i for i, row in enumerate(lines) if row.startswith("#"))
    assert lines[head].split("  ")[0].strip() == "#"
    return [row.split() for row in lines[head + 1 :]]


def test_each_pair_has_ports_of_its_own() -> None:
    """Four servers, four clients, four numbers; a table of them on standard error."""
    done = portlease("run", "-n", 4, "--", *HTTP, "--then", *SHOW)
    assert done.returncode == 0, done.stderr
    ports = done.stdout.split()
    assert len(set(ports)) == 4
    rows = _rows(done.stderr)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert sorted(row[1] for row in rows) == sorted(ports)
    assert all(row[-2:] == ["0", "ok"] for row in rows)


def test_the_worst_status_is_ours() -> None:
    """Of clients that end differently, the highest; what failed is shown, with its server."""
    client = python("import os, sys; sys.exit(int(os.environ['PORT']) % 2)")
    with library.lease_block(2, offer=False) as block:
        even, odd = sorted(block.ports, key=lambda port: port % 2)
    done = portlease("run", "-n", 2, "--ports", f"{even},{odd}", "--", *HTTP, "--then", *client)
    assert (done.returncode, done.stdout) == (1, "")
    assert {row[1]: row[-2:] for row in _rows(done.stderr)} == {
        str(even): ["0", "ok"],
        str(odd): ["1", "failed"],
    }
    assert done.stderr.count("Serving HTTP") == 1


def test_a_server_that_fails_does_not_stop_the_others() -> None:
    """Its error is told, the others' clients run."""
    source = """\
import os, socketserver, sys
port = int(os.environ["PORT"])
if port % 2:
    sys.exit("odd")
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("", port), socketserver.BaseRequestHandler).serve_forever()
"""
    with library.lease_block(2, offer=False) as block:
        even, odd = sorted(block.ports, key=lambda port: port % 2)
    done = portlease(
        "run", "-n", 2, "--ports", f"{even},{odd}", "--", *python(source), "--then", *SHOW
    )
    assert (done.returncode, done.stdout) == (1, f"{even}\n")
    assert f"before it listened on port {odd}" in done.stderr


def test_json() -> None:
    """--json: one document, each run with its ports, times, statuses and outputs."""
    done = portlease(
        "run",
        "-n",
        3,
        "--json",
        "--port",
        "admin",
        "--wait-for",
        "port",
        "--",
        *HTTP,
        "--then",
        *SHOW,
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], done.stderr) == (0, 0, "")
    assert [run["number"] for run in told["runs"]] == [1, 2, 3]
    for run in told["runs"]:
        assert run["output"] == f"{run['ports']['port']}\n"
        assert set(run["ports"]) == {"port", "admin"}
        assert run["result"] == "ok"
        assert "Serving HTTP" in run["server_output"]
        assert run["client_s"] > 0


WRITES = python("import sys; print('out'); print('err', file=sys.stderr)")


def test_a_clients_output_and_errors_are_kept_apart() -> None:
    """In JSON by two fields, otherwise each where it belongs."""
    done = portlease("run", "-n", 2, "--json", "--", *HTTP, "--then", *WRITES)
    for run in json.loads(done.stdout)["runs"]:
        assert (run["output"], run["errors"]) == ("out\n", "err\n")
    done = portlease("run", "-q", "-n", 2, "--", *HTTP, "--then", *WRITES)
    assert (done.stdout, done.stderr) == ("out\n" * 2, "err\n" * 2)


def test_servers_tell_how_they_got_their_ports() -> None:
    """--json: how, and why so, for servers without clients as well."""
    with started("run", "-n", 2, "--json", "--how", "step-aside", "--", *HTTP) as run:
        for server in json.loads(line(run))["servers"]:
            assert server["how"] == "step-aside"
            assert server["why"] == "--how step-aside was asked for"
        end(run, signal.SIGINT)


def test_quiet() -> None:
    """-q: no table; errors are told all the same."""
    done = portlease("run", "-q", "-n", 2, "--", *HTTP, "--then", *SHOW)
    assert (done.returncode, done.stderr) == (0, "")


def test_leases_are_labelled_with_their_numbers() -> None:
    """`portlease ls` tells them apart."""
    with started("run", "-n", 2, "--label", "crowd", "--", *HTTP) as run:
        line(run)
        line(run)
        assert {i.label for i in library.leases() if i.pid == run.pid} == {"crowd 1", "crowd 2"}
        end(run, signal.SIGTERM)


# --- without clients ------------------------------------------------------------------------------


def test_servers_alone_print_their_ports_and_run_until_a_signal() -> None:
    """One number a line once all are ready; SIGTERM stops them all."""
    with started("run", "-n", 3, "--", *HTTP) as run:
        ports = [int(line(run)) for _ in range(3)]
        listeners = [
            process.pid
            for port in ports
            for one in library.who(port).occupants
            if one.kind == "listener"
            for process in one.processes
        ]
        assert len(set(listeners)) == 3
        with watched(set(listeners)) as all_ended:
            status, out, _ = end(run, signal.SIGTERM)
            assert all_ended() == []
    assert (status, out) == (143, "")
    assert all(library.who(port).free for port in ports)


def test_servers_alone_as_json() -> None:
    """--json: one line, once all are ready."""
    with started("run", "-n", 2, "--json", "--", *HTTP) as run:
        told = json.loads(line(run))
        assert [server["number"] for server in told["servers"]] == [1, 2]
        assert all(server["pid"] > 0 for server in told["servers"])
        end(run, signal.SIGINT)


def test_one_server_that_is_not_ready_ends_all() -> None:
    """Then there is nothing to use, and the status says why."""
    done = portlease("run", "-n", 2, "--timeout", "0.3", "--", *python(WAIT))
    assert (done.returncode, done.stdout) == (124, "")
    assert "does not listen" in done.stderr


def test_the_status_is_that_of_the_server_which_failed() -> None:
    """Not of those that were stopped because of it."""
    source = "import os, signal, sys\nint(os.environ['PORT']) % 2 and sys.exit(3)\nsignal.pause()"
    with library.lease_block(2, offer=False) as block:
        ports = "-".join(map(str, block.ports))
    done = portlease("run", "-n", 2, "--ports", ports, "--", *python(source))
    assert (done.returncode, done.stdout) == (3, "")


def test_all_servers_ended() -> None:
    """When the last one has ended, so do we, with the highest status."""
    source = (
        "import os, socket; s = socket.create_server(('', int(os.environ['PORT']))); s.accept(); "
        "os._exit(4)"
    )
    with started("run", "-n", 2, "--", *python(source)) as run:
        import socket

        for _ in range(2):
            socket.create_connection(("127.0.0.1", int(line(run)))).close()
        assert end(run)[0] == 4


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives(number: signal.Signals) -> None:
    """Servers and clients end with us, however we end."""
    client = python(WAIT)
    with started("run", "-n", 2, "--", *HTTP, "--then", *client) as run:
        wait_for(lambda: len(_children_that_run(run.pid)) == 4)
        with watched(_children_that_run(run.pid)) as all_ended:
            status, _, _ = end(run, number)
            assert all_ended() == []
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    assert not [info for info in library.leases() if info.pid == run.pid]


def _children_that_run(pid: int) -> list[int]:
    """The commands under our keepers: those whose arguments are the test's."""
    need.capability("proc")
    from portlease._platform import _linux_proc

    found = []
    for child in _linux_proc.descendants(pid):
        info = _linux_proc.process_info(child)
        command = "" if info is None else info.command or ""
        if command.startswith(sys.executable) and "-I" not in command.split():
            found.append(child)
    return found


def test_interrupted_while_they_start() -> None:
    """None of the servers that were starting stays behind."""
    with started("run", "-n", 4, "--timeout", "60", "--", *python(WAIT), "--then", "true") as run:
        wait_for(lambda: len(_children_that_run(run.pid)) == 4)
        with watched(_children_that_run(run.pid)) as all_ended:
            status, out, err = end(run, signal.SIGTERM)
            assert all_ended() == []
    assert (status, out) == (143, "")
    assert [row[-1] for row in _rows(err)] == ["stopped"] * 4
