"""What parses input, one function a parser: given any bytes, it must keep its word.

Each checks more than that nothing breaks: what is returned must be possible, the same as a second,
simpler reading, or read back as it was; and what is refused is refused by the error that the
parser's documentation names. Run briefly by `test_targets.py` and for long by `fuzz.run`.

Linux only.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import math
import os
import re
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import click

from portlease import UsageError, _pool, _registry, _trail
from portlease._findings import _allow, _baseline
from portlease._isolate import _command
from portlease._platform import _linux_proc
from portlease._platform._linux_diag import (
    MalformedAnswerError,
    NetlinkRefusedError,
    SocketEntry,
    parse_answer,
    parse_table,
)
from portlease._repeat import _results, _spoken
from portlease._server import _lines, _template
from portlease._states import State
from portlease._tree import _broker
from portlease.cli._options import Offsets, PortList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from portlease._platform._linux_diag import Transport

PORT: Final = 8080
SEQUENCE: Final = 7
_PID_MAX_LIMIT: Final = 1 << 22  # include/linux/threads.h


class Target(NamedTuple):
    """A parser: what is called with any bytes, and texts like those that it is to read."""

    check: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _text(data: bytes) -> str:
    """Any text at all, lone surrogates too."""
    return data.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[str]:
    """The path of a file with these bytes, which is nowhere on the disk."""
    fd = os.memfd_create("portlease-fuzz")
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


# --- the kernel's ---------------------------------------------------------------------------------


def sockaddr(data: bytes) -> None:
    """The broker's reading of a sockaddr: the port of an Internet address, and 0 of all else."""
    want = 0
    if len(data) >= struct.calcsize("=HH4s8s"):
        (family,) = struct.unpack_from("=H", data)
        if family in {socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6}:
            (want,) = struct.unpack_from("!H", data, 2)
    assert _broker.port_of(data) == want


def _is_possible(entry: SocketEntry) -> None:
    version = 4 if entry.family == socket.AF_INET else 6
    assert ipaddress.ip_address(entry.address).version == version
    if entry.peer is not None:
        assert ipaddress.ip_address(entry.peer[0]).version == version
        assert 0 <= entry.peer[1] <= _pool.MAX_PORT
    assert 0 <= entry.port <= _pool.MAX_PORT
    assert entry.inode >= 0
    assert entry.uid is None or entry.uid >= 0
    assert entry.timer_s is None or 0 <= entry.timer_s < math.inf
    assert re.fullmatch(r"[A-Z_0-9]+", entry.state)


def netlink(data: bytes) -> None:
    """An answer of sock_diag(7): sockets that can be, or an error by its name."""
    transports: tuple[Transport, ...] = ("tcp", "udp")
    for transport in transports:
        try:
            entries, _ = parse_answer(data, transport, SEQUENCE)
        except (MalformedAnswerError, NetlinkRefusedError):
            continue
        except OSError as error:
            code = error.errno or 0
            assert 0 < code <= 4095, "none of the kernel's"
            continue
        for entry in entries:
            _is_possible(entry)


def proc_net(data: bytes) -> None:
    """/proc/net/tcp and its like: sockets of this port that can be, or MalformedAnswerError."""
    both: tuple[tuple[Transport, int], ...] = (("tcp", socket.AF_INET), ("udp", socket.AF_INET6))
    for transport, family in both:
        with contextlib.suppress(MalformedAnswerError):
            for entry in parse_table(data, transport, family, PORT, ticks_per_s=100):
                _is_possible(entry)
                assert entry.port == PORT


def proc_stat(data: bytes) -> None:
    """/proc/PID/stat: the fields behind the *last* parenthesis, or ValueError."""
    try:
        stat = _linux_proc.parse_stat(data)
    except ValueError:
        return
    assert min(stat.pid, stat.ppid, stat.flags, stat.start_ticks) >= 0
    assert b") " not in data[data.rindex(b") ") + 2 :]
    assert stat.comm == data[data.index(b" (") + 2 : data.rindex(b") ")]


def proc_status(data: bytes) -> None:
    """/proc/PID/status: a user and 64 bits of capabilities, or ValueError."""
    with contextlib.suppress(ValueError):
        assert 0 <= _linux_proc.parse_uid(data) < 1 << 32
    with contextlib.suppress(ValueError):
        assert 0 <= _linux_proc.parse_capabilities(data) < 1 << 64


def command_line(data: bytes) -> None:
    """/proc/PID/cmdline and comm: a text that does nothing to a terminal."""
    arguments, _, comm = data.partition(b"\xfe")
    shown = _linux_proc.command_line(arguments, comm)
    assert shown.isprintable()
    plain = b" ".join(arguments.rstrip(b"\0 ").split(b"\0")) or comm
    with contextlib.suppress(UnicodeDecodeError):
        if (text := plain.decode()).isprintable():
            assert shown == text


# --- portlease's own ------------------------------------------------------------------------------


def row(data: bytes) -> None:
    """A name on the board, which anybody may bind: none of ours, or a lease that can be."""
    name = data.replace(b"\0", b"@")[:107]
    found = _registry.decode(name)
    if found is None:
        return
    assert 0 < found.port <= _pool.MAX_PORT
    assert found.kind in {"tcp", "udp", "both"}
    assert found.state in State
    assert found.state is not State.RELEASED
    assert found.pid is None or 0 < found.pid <= _PID_MAX_LIMIT
    assert 0 <= found.since < 1e10, "no clock can show it"
    _registry.covers(found.scope, "127.0.0.1")
    _registry.overlap(found.scope, "*")
    assert _registry.since(found.born) == found.since


def template(data: bytes) -> None:
    """A template, against a reading of it letter by letter."""
    text = _text(data)
    names = _template.names_in([text])
    values = {name: f"<{name}>" for name in names}
    assert _template.substitute(text, values, known_only=False) == _by_letters(text)
    assert _template.substitute(text, {}, known_only=True) == text
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in names)
    _template.mentions_port(text)
    assert not _template.is_name(text) or text in _template.names_in(["{" + text + "}"])


def _by_letters(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        name = ""
        if text[at] == "{" and text[at - 1 : at] != "$":
            doubled = text[at + 1 : at + 2] == "{"
            begin = end = at + 1 + doubled
            while end < len(text) and (
                "a" <= text[end] <= "z" or (end > begin and text[end] in "0123456789_")
            ):
                end += 1
            closing = "}}" if doubled else "}"
            if end > begin and text.startswith(closing, end):
                name = text[begin:end]
                out.append(f"{{{name}}}" if doubled else f"<{name}>")
                at = end + len(closing)
        if not name:
            out.append(text[at])
            at += 1
    return "".join(out)


def trail(data: bytes) -> None:
    """A line of a trail: no event, or one that reads the same when it is written again."""
    for line in data.split(b"\n"):
        event = _trail._parsed(line)
        if event is not None:
            again = json.dumps(event.as_dict(), sort_keys=True)
            read = _trail._parsed(again.encode())
            assert read is not None
            assert json.dumps(read.as_dict(), sort_keys=True) == again


def baseline(data: bytes) -> None:
    """A baseline of lint or audit: it is one, or UsageError says that it is none."""
    with _file(data) as path, contextlib.suppress(UsageError):
        known = _baseline.read(path)._known
        assert all(times > 0 and type(times) is int for times in known.values())


def allow(data: bytes) -> None:
    """A source with `# portlease: allow` in it, or no source at all: whole lines are allowed."""
    # As a file is read: the tokenizer of Python 3.12 and later fails at a lone "\r" before a letter
    # that is not ASCII.
    text = io.StringIO(data.decode("utf-8", "replace"), newline=None).read()
    for span in _allow.read(text)._spans:
        assert 1 <= span.first <= span.last
    with _file(data) as path:
        _allow.read(path=path)


# --- people's, and other programs' ----------------------------------------------------------------


def junit(data: bytes) -> None:
    """JUnit XML: tests that can be, each once; or why it cannot be read."""
    with _file(data) as path:
        found = _results.read(path, "")
    if found.trouble is not None:
        assert found.source == "status"
        return
    assert len({case.name for case in found.cases}) == len(found.cases)
    for case in found.cases:
        assert 0 <= case.seconds < math.inf
        assert case.line is None or case.line > 0
        assert case.name


def spoken(data: bytes) -> None:
    """A runner's output: whoever is said to have failed is named in it."""
    text = data.decode("utf-8", "replace")
    for case in _spoken.failures(text):
        assert case.bad
        assert case.name
        assert case.name in text


def numbers(data: bytes) -> None:
    """Options that are numbers: ports, or what click shows; and the kernel's own lists."""
    text = _text(data)
    with contextlib.suppress(click.UsageError):
        ports = PortList().convert(text, None, None)
        assert ports
        assert all(0 < port <= _pool.MAX_PORT for port in ports)
        assert _spelt(text) == set(ports), text
    with contextlib.suppress(click.UsageError):
        assert all(offset >= 0 for offset in Offsets().convert(text, None, None))
    assert all(0 <= port <= _pool.MAX_PORT for port in _pool.parse_services(text))


def _spelt(text: str) -> set[int]:
    """What a list of ports says, read word by word."""
    found: set[int] = set()
    for word in re.split(r"[,\s]+", text.strip(", \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0")):
        one = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", word, re.ASCII)
        assert one is not None, f"{word!r} is no port and no range"
        assert int(one[1]) <= int(one[2] or one[1]), f"{word!r} is empty"
        found.update(range(int(one[1]), int(one[2] or one[1]) + 1))
    return found


def reach(data: bytes) -> None:
    """A service to be reached; of hosts only addresses, so that nobody's name server is asked."""
    text = _text(data)
    host, _, _ = text.rpartition(":")
    with contextlib.suppress(ValueError):
        if host:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        with contextlib.suppress(UsageError):
            found = _command.parse(text)
            assert 0 < found.port <= _pool.MAX_PORT
            assert found.addresses


class _Growing:
    """A server's output, as far as it has been written."""

    first = 0

    def __init__(self) -> None:
        self.data = b""

    def size(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """Those from *start* on."""
        return self.data[start:] if length is None else self.data[start : start + length]


def output_lines(data: bytes) -> None:
    """A server's lines: the same in whatever pieces they were written."""
    step, data = 1 + (data[0] if data else 0) % 7, data[1:]
    source = _Growing()
    lines = _lines.Lines(source, 0)
    found: list[_lines.Line] = []
    for at in range(0, len(data), step):
        source.data = data[: at + step]
        found += lines.finished()
    found += lines.finished(end=True)
    whole = _Growing()
    whole.data = data
    assert list(map(str, found)) == list(map(str, _lines.Lines(whole, 0).finished(end=True)))
    assert len(found) == data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    assert [line.end for line in found] == sorted({line.end for line in found})


_HEADER: Final = struct.Struct("=IHHII")
_ENTRY: Final = struct.Struct("=BBBx2s2s16s16sI8xI8xII")
LOOPBACK: Final = bytes((127, 0, 0, 1)).ljust(16, b"\0")


def message(kind: int, body: bytes, sequence: int = SEQUENCE, length: int | None = None) -> bytes:
    """A netlink message; *length* is what it says of itself."""
    size = _HEADER.size + len(body) if length is None else length
    padding = bytes(-len(body) % 4)
    return _HEADER.pack(size & 0xFFFFFFFF, kind, 2, sequence, 0) + body + padding


def entry(  # noqa: PLR0913 - the fields of inet_diag_msg
    *,
    family: int = socket.AF_INET,
    state: int = 10,
    timer: int = 0,
    port: int = PORT,
    peer_port: int = 0,
    address: bytes = LOOPBACK,
    peer: bytes = bytes(16),
    interface: int = 0,
    expires_ms: int = 0,
    uid: int = 0,
    inode: int = 1,
) -> bytes:
    """One socket, as the kernel tells of it."""
    ports = port.to_bytes(2, "big"), peer_port.to_bytes(2, "big")
    return _ENTRY.pack(
        family, state, timer, *ports, address, peer, interface, expires_ms, uid, inode
    )


DONE: Final = message(3, bytes(4))
_PROC_LINE: Final = (
    b"   0: 0100007F:1F90 00000000:0000 06 00000000:00000000 03:00000FA0 00000000"
    b"  1000        0 4711 1 0000000000000000 100 0 0 10 0\n"
)
_STAT: Final = b"42 (a) R 1 (b) S " + b" ".join(b"%d" % number for number in range(1, 50))
_BASELINE: Final = (
    b'{"portlease-baseline": 1, "findings": [{"path": "a.py", "code": "PL001", "text": "x",'
    b' "times": 2}]}'
)
_ALLOWED: Final = (
    b"x = (  # portlease: allow[PL001, hard-coded] why\n  1)\n"
    b"# portlease: allow\ndef f():\n    pass\n# portlease: allow-file[PL005]\n"
)
_JUNIT: Final = (
    b'<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="p" tests="2">'
    b'<testcase classname="t.test_a" name="test_b" time="0.1" file="t/test_a.py" line="3">'
    b'<failure message="m">text</failure><system-out>o</system-out></testcase>'
    b'<testcase name="c"><skipped/></testcase></testsuite></testsuites>'
)

TARGETS: Final = {
    "sockaddr": Target(
        sockaddr,
        (
            struct.pack("=H", socket.AF_INET) + b"\x1f\x90" + bytes(12),
            struct.pack("=H", socket.AF_INET6) + b"\x1f\x90" + bytes(24),
        ),
    ),
    "netlink": Target(
        netlink,
        (
            message(20, entry()) + DONE,
            message(20, entry(family=socket.AF_INET6) + struct.pack("=HHB3x", 5, 11, 1)) + DONE,
            message(2, struct.pack("=i", -2)),
            message(4, b"") + message(1, b"") + message(18, entry(state=6, timer=3)),
        ),
    ),
    "proc_net": Target(proc_net, (b"  sl local\n" + _PROC_LINE,)),
    "proc_stat": Target(proc_stat, (_STAT,)),
    "proc_status": Target(
        proc_status,
        (b"Name:\tx\nUid:\t1000\t1001\t1002\t1003\nCapEff:\t000001ffffffffff\n",),
    ),
    "command_line": Target(command_line, (b"redis-server\0--port\08080\0\xferedis",)),
    "row": Target(
        row,
        (
            b"20000/t/o/42/f0000001/18c2a.1.2/*/tests/test_x.py::test_a",
            _registry.encode(20000, "both", State.HELD, b"18c2a.1", "127.0.0.1,::1", "a%b\n"),
        ),
    ),
    "template": Target(template, (b'{"port": {port}, "a": {{name}} ${port} {admin_fd}}',)),
    "trail": Target(
        trail,
        (
            b'{"t":1,"what":"bind","pid":2,"port":8080,"argv":["x"],"hold":true,"new":[null]}\n',
            b'{"t":1,"what":"process","pid":2,"new":' + b"[" * 8 + b"]" * 8 + b"}",
        ),
    ),
    "baseline": Target(baseline, (_BASELINE,)),
    "allow": Target(allow, (_ALLOWED,)),
    "junit": Target(junit, (_JUNIT,)),
    "spoken": Target(
        spoken,
        (
            b"FAIL: test_a (t.T.test_a)\n" + b"-" * 70 + b"\nTraceback\nAssertionError: x\n",
            b"FAILED t/test_a.py::test_b[x - y] - assert\n--- FAIL: TestX/y (0.00s)\n",
            b"not ok 3 - name # time=1ms\n  not ok 4 x # TODO\n\xe2\x9c\x96 a (1.5ms)\n",
        ),
    ),
    "numbers": Target(numbers, (b"8000-8009,9000", b"0,10000", b"http 80/tcp www # x\n")),
    "reach": Target(reach, (b"5432", b"127.0.0.1:5432", b"[::1]:5432")),
    "output_lines": Target(output_lines, (b"\x02one\ntwo \xe2\x9c\x93\n\nlast",)),
}
