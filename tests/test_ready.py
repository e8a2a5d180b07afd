"""Decisions about a server that is starting: when to look, what counts, what its output says."""

from __future__ import annotations

import math
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portlease._server._ready import (
    Coverage,
    Listening,
    client_host,
    coverage,
    failed_in_use,
    listening_inodes,
    pause_s,
    says_in_use,
    signal_name,
    speaks_english,
    tail,
    targets,
)

LOCAL4, LOCAL6 = Listening("127.0.0.1"), Listening("::1", v6only=True)
ANY4, ANY6 = Listening("0.0.0.0"), Listening("::", v6only=True)  # noqa: S104 - not bound
DUAL = Listening("::", v6only=False)
OTHER = Listening("192.0.2.7")


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_pauses_grow_from_half_a_millisecond_to_two(elapsed_s: float) -> None:
    """Quick servers are seen quickly; slow ones are not watched more closely than is worth it."""
    assert 0.0005 <= pause_s(elapsed_s) <= 0.002
    assert pause_s(elapsed_s) <= pause_s(math.nextafter(elapsed_s, math.inf))
    assert pause_s(0) == 0.0005
    assert pause_s(1) == 0.002


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("*", ("127.0.0.1",)),
        (ANY4.address, ("127.0.0.1",)),
        ("::", ("::1",)),
        ("127.0.0.1,::1", ("127.0.0.1", "::1")),
        ("192.0.2.7", ("192.0.2.7",)),
    ],
)
def test_where_clients_go(scope: str, expected: tuple[str, ...]) -> None:
    """A lease on every address is reached by the loopback address, any other by its own."""
    assert targets(scope) == expected


@pytest.mark.parametrize(
    ("found", "scope", "expected"),
    [
        ([], "*", Coverage.NONE),
        ([LOCAL4], "*", Coverage.FULL),
        ([ANY4], "*", Coverage.FULL),
        ([DUAL], "*", Coverage.FULL),
        ([Listening("::ffff:127.0.0.1")], "*", Coverage.FULL),
        ([Listening("::")], "*", Coverage.FULL),  # /proc does not say v6only
        ([ANY6], "*", Coverage.PART),
        ([LOCAL6], "*", Coverage.PART),
        ([LOCAL6, LOCAL4], "*", Coverage.FULL),
        ([OTHER], "*", Coverage.PART),
        ([LOCAL6], "::", Coverage.FULL),
        ([ANY4], "::", Coverage.PART),
        ([LOCAL4], "127.0.0.1", Coverage.FULL),
        ([ANY4], "127.0.0.1", Coverage.FULL),
        ([DUAL], "127.0.0.1", Coverage.FULL),
        ([OTHER], "127.0.0.1", Coverage.NONE),
        ([LOCAL6], "127.0.0.1", Coverage.NONE),
        ([LOCAL6], "127.0.0.1,::1", Coverage.PART),
        ([LOCAL6, LOCAL4], "127.0.0.1,::1", Coverage.FULL),
        ([DUAL], "127.0.0.1,::1", Coverage.FULL),
        ([ANY4], "127.0.0.1,::1", Coverage.PART),
        ([LOCAL4], "127.0.0.2", Coverage.NONE),
    ],
)
def test_coverage(found: list[Listening], scope: str, expected: Coverage) -> None:
    """What counts is whether a client that goes where the lease is arrives at the server."""
    assert coverage(found, scope) is expected


@pytest.mark.parametrize(
    ("found", "scope", "expected"),
    [
        ([], "*", "127.0.0.1"),
        ([LOCAL4], "*", "127.0.0.1"),
        ([DUAL], "*", "127.0.0.1"),
        ([LOCAL6], "*", "::1"),
        ([ANY6], "*", "::1"),
        ([OTHER], "*", "192.0.2.7"),
        ([LOCAL6], "127.0.0.1,::1", "::1"),
        ([ANY4], ANY4.address, "127.0.0.1"),
    ],
)
def test_client_host(found: list[Listening], scope: str, expected: str) -> None:
    """The address that clients are told is one at which they are heard."""
    assert client_host(found, scope) == expected


# As programs, runtimes and C libraries word it.
IN_USE = [
    "OSError: [Errno 98] Address already in use",
    "OSError: [Errno 48] Address already in use",
    "[Errno 98] error while attempting to bind on ('127.0.0.1', 8000): address already in use",
    "# Warning: Could not create server TCP listening socket *:6379: bind: Address already in use",
    "nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)",
    'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use',
    "bind(): Address already in use\nfailed to listen on TCP port 11211: Address already in use",
    "1700000000: Error: Address already in use",
    "[ALERT] (1) : Binding [haproxy.cfg:4] for frontend f: cannot bind socket (Address in use)",
    "socat[1] E bind(5, {AF=2 0.0.0.0:80}, 16): Address already in use",
    "listen tcp :8080: bind: address already in use",
    "Error: listen EADDRINUSE: address already in use :::8080",
    "java.net.BindException: Address already in use",
    "Exception in thread main java.net.BindException: Adresse bereits verwendet",
    'Os { code: 98, kind: AddrInUse, message: "Address already in use" }',
    "Error: Io(Os { code: 98, kind: AddrInUse })",
    "** (Mix) could not start: :eaddrinuse",
    "Errno::EADDRINUSE (Address already in use - bind(2) for 127.0.0.1:3000)",
    "no socket: Address already in use at -e line 1.",
    "System.Net.Sockets.SocketException (98): Address already in use",
    "OSError: [WinError 10048] Only one usage of each socket address is normally permitted",
    "bind: Address in use",
    "Failed to listen on localhost:8000 (reason: Address already in use)",
]
FRAMEWORKS = [
    "Web server failed to start. Port 8080 was already in use.",
    "Error: Port 5173 is already in use",
    "Port 5000 is in use by another program. Either identify and stop that program",
    "Something is already running on port 3000, so the address is not available",
    "Can't start server: Bind on TCP/IP port: Address already in use",
    "Bind for 0.0.0.0:80 failed: port is already allocated",
    "Cannot start: port 9092 is occupied by process 17",
]


@pytest.mark.parametrize("output", IN_USE)
def test_in_use_in_many_tongues(output: str) -> None:
    """EADDRINUSE is recognised whatever the program and its language, for better and for worse."""
    noise = "2026-01-01 starting up\nloading configuration\n"
    assert says_in_use(noise + output + "\nbye\n")
    assert failed_in_use(noise + output + "\nbye\n", {}) is True


@pytest.mark.parametrize("output", FRAMEWORKS)
def test_in_use_in_a_frameworks_words(output: str) -> None:
    """A server that failed may say it in its own words; one that runs is not judged by them."""
    assert failed_in_use(output, {}) is True


@pytest.mark.parametrize(
    ("output", "env"),
    [
        ("", {}),
        (" \n\n", {"LANG": "C"}),
        ("Fatal error: cannot bind", {}),
        ("could not listen: giving up", {}),
        ("unable to open the port", {}),
        ("Datei nicht gefunden", {"LANG": "de_DE.UTF-8"}),
        ("quelque chose", {"LANG": "en_US.UTF-8", "LC_ALL": "fr_FR.UTF-8"}),
        ("algo", {"LANG": "en_US.UTF-8", "LANGUAGE": "es:en"}),
    ],
)
def test_who_does_not_say_may_have_failed_for_it(output: str, env: dict[str, str]) -> None:
    """Silence, a bind that failed without a reason, and other languages leave it open."""
    assert failed_in_use(output, env) is None


@pytest.mark.parametrize(
    "output",
    [
        "error: unknown option --prot",
        "Traceback (most recent call last):\nModuleNotFoundError: No module named 'flask'",
        "FATAL: data directory has wrong ownership",
        "cannot open configuration file: No such file or directory",
        "connection from port 8080 closed",
        "error: support is not compiled in",
    ],
)
def test_other_failures_are_no_reason_to_try_again(output: str) -> None:
    """A server that says in English why it failed, and it is something else, is believed."""
    assert failed_in_use(output, {"LANG": "en_US.UTF-8"}) is False


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, True),
        ({"LANG": ""}, True),
        ({"LANG": "C.UTF-8"}, True),
        ({"LANG": "en_GB.UTF-8", "LANGUAGE": "en_GB:en"}, True),
        ({"LANG": "de_DE.UTF-8"}, False),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, True),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "en_US"}, True),
        ({"LANG": "C", "LANGUAGE": "de"}, True),
        ({"LANG": "Cs_CZ"}, False),
    ],
)
def test_which_language_messages_are_in(env: dict[str, str], expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """LC_ALL, LC_MESSAGES and LANG, in this order; LANGUAGE before them unless that is C."""
    assert speaks_english(env) is expected


@given(st.text())
def test_any_output_can_be_judged(output: str) -> None:
    """Nothing that a server prints makes the judgement fail, and its end is shown whole."""
    assert failed_in_use(output, {}) in {True, False, None}
    assert len(tail(output).split("\n")) <= 41


def test_long_output_is_judged_in_linear_time() -> None:
    """A megabyte on one line that repeats the words we look for is no trap."""
    assert failed_in_use("port error " * 100_000, {}) is None


def test_tail() -> None:
    """The last forty lines, indented, and none of them endless."""
    lines = [f"line {i}" for i in range(100)]
    assert tail("\n".join(lines)) == "\n".join(f"    line {i}" for i in range(60, 100))
    assert tail("x" * 10_000) == "    " + "x" * 500 + "..."
    assert tail("\n \n") == ""


def test_signal_names() -> None:
    """A signal is called by its name, where it has one."""
    assert signal_name(signal.SIGTERM) == "SIGTERM"
    assert signal_name(4711) == "signal 4711"


def test_listening_inodes() -> None:
    """From the text of /proc/net/tcp: who listens, by inode."""
    table = (
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
        b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000"
        b"        0 4711 1 0000000000000000 100 0 0 10 0\n"
        b"   1: 0100007F:1F91 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000"
        b"        0 4712 1 0000000000000000 100 0 0 10 0\n"
    )
    assert listening_inodes(table, "tcp") == {4711: 8080}
    assert listening_inodes(b"", "udp") == {}
