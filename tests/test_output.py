"""A server's output by lines: cut, decoded, waited for."""

from __future__ import annotations

import errno
import os
import pickle
import re
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _need import need
from _processes import HANG_S, wait_for
from portlease import ServerDiedError, ServerTimeoutError, UsageError, serve
from portlease._server import _lines, _output, _watch
from portlease._server._cancel import Cancel, StartCancelledError
from portlease._server._lines import Found, Line, Lines
from portlease._server._output import Follower, Output
from portlease._tree import _process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portlease import Server

# Writes each datagram that it gets to its standard output, just as it is.
ECHO = textwrap.dedent("""
    import _socket, os, sys
    server = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", {port}))
    mouth = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    mouth.bind(("127.0.0.1", {mouth}))
    os.write(1, b"begin\\n")
    server.listen(16)
    while True:
        said = mouth.recv(1 << 16)
        if said == b"die":
            sys.exit(3)
        os.write(1, said)
""")


@pytest.fixture
def echo() -> Iterator[Server]:
    """A server that writes what it is told."""
    with serve(
        [sys.executable, "-I", "-S", "-c", ECHO], ports={"mouth": "udp"}, stop_timeout_s=HANG_S
    ) as server:
        yield server


def say(server: Server, data: bytes) -> None:
    """Have the server write this."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, ("127.0.0.1", server.leases["mouth"].port))


class Bytes:
    """A source of lines that grows."""

    first = 0

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def size(self) -> int:
        """As a file's."""
        return len(self.data)

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """As a file's."""
        return self.data[start:][:length]


# --- cutting --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_come_whole_however_they_are_written(parts: list[bytes], block: int) -> None:
    """Whatever is written in whatever pieces: the same lines, each knowing where it ends."""
    source = Bytes()
    lines = Lines(source, 0)
    found: list[Line] = []
    whole, _lines.BLOCK_BYTES = _lines.BLOCK_BYTES, block  # type: ignore[misc]
    try:
        for part in parts:
            source.data += part
            found += lines.finished()
            assert len(found) == source.data.count(b"\n")
        found += lines.finished(end=True)
    finally:
        _lines.BLOCK_BYTES = whole  # type: ignore[misc]
    raws = source.data.split(b"\n")
    if not raws[-1]:
        raws.pop()
    assert found == [raw.removesuffix(b"\r").decode("utf-8", "replace") for raw in raws]
    end = 0
    for raw, line in zip(raws, found, strict=True):
        end = min(end + len(raw) + 1, source.size())
        assert line.end == end


@given(st.lists(st.binary(max_size=9)), st.integers(0, 9), st.integers(0, 20))
def test_tail_is_the_end_of_all_lines(parts: list[bytes], n: int, start: int) -> None:
    """The last lines are what reading all of them gives in the end."""
    source = Bytes(b"\n".join(parts))
    start = min(start, source.size())
    every = list(Lines(source, start).finished(end=True))
    last = _lines.last_lines(source, n, start, 1 << 24)
    assert last == (every[-n:] if n else [])
    assert [line.end for line in last] == [line.end for line in (every[-n:] if n else [])]


def test_tail_reads_no_more_than_it_needs() -> None:
    """Of a long output, its last lines cost one block."""
    source = Bytes(b"".join(b"%d\n" % n for n in range(100_000)))
    asked: list[int | None] = []

    class Watched(Bytes):
        def read(self, start: int = 0, length: int | None = None) -> bytes:
            asked.append(length)
            return super().read(start, length)

    assert _lines.last_lines(Watched(source.data), 3, 0, 1 << 24) == ["99997", "99998", "99999"]
    assert asked == [_lines.BLOCK_BYTES]


def test_a_line_without_end_comes_in_pieces() -> None:
    """One that is longer than 1 MiB is cut, between two characters, and no more is kept of it."""
    character = "ä".encode()
    source = Bytes(b"x" + character * (3 << 19) + b"\nnext\n")
    pieces = list(Lines(source, 0).finished())
    assert pieces[-1] == "next"
    assert "".join(pieces[:-1]) == "x" + "ä" * (3 << 19)
    assert len(pieces) == 5
    assert all(len(piece.encode()) <= _lines.LONGEST_BYTES + 2 for piece in pieces)


def test_a_truncated_output_begins_anew() -> None:
    """A server that truncates its log goes on being read, from its first byte."""
    source = Bytes(b"one\ntwo\nthr")
    lines = Lines(source, 0)
    assert list(lines.finished()) == ["one", "two"]
    source.data = b"new\n"
    assert list(lines.finished()) == ["new"]


def test_lines_are_text_and_can_be_pickled() -> None:
    """A line is a str; it, and one that was waited for, cross process boundaries."""
    line = Line("text", 7)
    copy = pickle.loads(pickle.dumps(line))  # noqa: S301 - our own
    assert (copy, copy.end, type(copy)) == ("text", 7, Line)
    found = Found("token=abc", 9, re.compile(r"token=(\w+)"))
    copy = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own
    assert (copy.match[1], copy.end) == ("abc", 9)
    assert line == "text"
    assert {line: 1}["text"] == 1  # type: ignore[index]


def test_what_is_left_of_a_closed_output_keeps_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once closed, its end stays readable, under the same byte numbers."""
    monkeypatch.setattr(_output, "KEPT_BYTES", 8)
    output = Output()
    os.write(output.fileno(), b"first\nsecond\nthird\n")
    output.close()
    assert (output.size(), output.first) == (19, 11)
    assert output.read(13) == b"third\n"
    assert output.text() == "d\nthird\n"
    assert output.tail(1) == ["third"]
    assert list(Lines(output, 0).finished(end=True)) == ["d", "third"]


# --- a real server --------------------------------------------------------------------------------


def test_tail_of_a_server(echo: Server) -> None:
    """Its last lines; an unfinished one too."""
    assert echo.tail() == ["begin"]
    say(echo, b"a\nb\nhalf")
    wait_for(lambda: echo.output.endswith("half"))
    assert echo.tail(2) == ["b", "half"]
    assert echo.tail(0) == []
    with pytest.raises(UsageError, match="n=-1 is no number of lines"):
        echo.tail(-1)


def test_follow_a_server(echo: Server) -> None:
    """Each line as soon as it is finished, UTF-8 and what is none, until the server ends."""
    lines = echo.follow()
    assert next(lines) == "begin"
    say(echo, "größe\r\n".encode())
    assert next(lines) == "größe"
    say(echo, b"hal")
    say(echo, b"f \xff\n\nlast")
    assert next(lines) == "half \ufffd"
    assert next(lines) == ""
    echo.kill()
    assert list(lines) == ["last"]


def test_follow_ends_when_another_thread_stops_the_server(echo: Server) -> None:
    """A thread that prints the log ends by itself."""
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(echo.follow()))
    thread.start()
    echo.stop()
    thread.join(HANG_S)
    assert not thread.is_alive()
    assert seen == ["begin"]
    assert list(echo.follow()) == ["begin"]  # and it can still be read


def test_several_follow_at_once(echo: Server) -> None:
    """Each reader gets every line."""
    seen: list[list[str]] = [[], [], []]
    threads = [threading.Thread(target=lambda s=s: s.extend(echo.follow())) for s in seen]
    for thread in threads:
        thread.start()
    for n in range(50):
        say(echo, b"%d\n" % n)
    echo.wait_for_line("^49$")
    echo.kill()
    for thread in threads:
        thread.join(HANG_S)
    assert seen == [["begin", *map(str, range(50))]] * 3


def test_wait_for_a_line(echo: Server) -> None:
    """One that is there counts; one that is to come is waited for; ``after`` looks on from it."""
    assert echo.wait_for_line("beg", HANG_S) == "begin"
    say(echo, b"token=1\n")
    first = echo.wait_for_line(r"token=(\d+)", HANG_S)
    assert first.match[1] == "1"

    def write() -> None:
        say(echo, b"unfinished token=2")
        wait_for(lambda: echo.output.endswith("=2"))
        say(echo, b"34\n")

    writer = threading.Thread(target=write)
    writer.start()
    second = echo.wait_for_line(re.compile(r"token=(\d+)"), HANG_S, after=first)
    assert second.match[1] == "234"
    writer.join()


def test_a_line_that_does_not_come(echo: Server) -> None:
    """ServerTimeoutError, with the output and the pattern."""
    with pytest.raises(ServerTimeoutError, match="has not written a line with 'never'") as caught:
        echo.wait_for_line("never", 0.01)
    assert caught.value.output == "begin\n"
    assert caught.value.timeout_s == 0.01
    assert caught.value.ports == {name: lease.port for name, lease in echo.leases.items()}
    assert "PYTHONUNBUFFERED" in str(caught.value)


def test_a_server_that_writes_faster_than_we_read(
    monkeypatch: pytest.MonkeyPatch, echo: Server
) -> None:
    """The wait ends in time all the same, and what was there by then is looked through."""
    output, block = echo._output, b"y" * 1023 + b"\n"
    left = [200]
    read = output.read

    def read_and_write(start: int = 0, length: int | None = None) -> bytes:
        found = read(start, length)
        if left[0]:
            left[0] -= 1
            os.write(output.fileno(), block * 64)
        return found

    os.write(output.fileno(), block * 150 + b"last\n")
    monkeypatch.setattr(output, "read", read_and_write)
    with pytest.raises(ServerTimeoutError):
        echo.wait_for_line("never", 0)
    assert left[0]
    assert echo.wait_for_line("last", 0)


def test_a_line_of_a_server_that_dies(echo: Server) -> None:
    """ServerDiedError at once, with the exit status and the output."""
    writer = threading.Timer(0.01, say, (echo, b"die"))
    writer.start()
    with pytest.raises(ServerDiedError, match="ended with exit status 3 before") as caught:
        echo.wait_for_line("never", HANG_S)
    assert (caught.value.returncode, caught.value.output) == (3, "begin\n")
    writer.join()
    echo.restart()
    assert echo.wait_for_line("begin", HANG_S)


def test_a_restart_begins_a_new_log(echo: Server) -> None:
    """What was written before it neither shows in the tail nor satisfies a wait."""
    say(echo, b"old\n")
    echo.wait_for_line("old", HANG_S)
    echo.restart()
    assert echo.tail() == ["begin"]
    with pytest.raises(ServerTimeoutError):
        echo.wait_for_line("old", 0)
    assert echo.output == "begin\nold\nbegin\n"


@pytest.mark.parametrize(
    ("pattern", "timeout_s", "text"),
    [
        ("(", 1.0, "is no regular expression"),
        (3, 1.0, "is no regular expression"),
        (rb"x", 1.0, "lines are text"),
        ("x", -1.0, "timeout_s=-1.0 is no number of seconds"),
        ("x", float("nan"), "timeout_s=nan is no number of seconds"),
    ],
)
def test_a_wait_that_can_never_work(
    echo: Server, pattern: str, timeout_s: float, text: str
) -> None:
    """UsageError, before anything is waited for."""
    with pytest.raises(UsageError, match=text):
        echo.wait_for_line(pattern, timeout_s)
    with pytest.raises(UsageError, match="is no line that tail"):
        echo.wait_for_line("x", after="begin")  # type: ignore[arg-type]


def test_redis_logs_what_it_does() -> None:
    """A real log: ready, and a save that was asked for."""
    with serve([need.program("redis-server"), "--port", "{port}", "--save", ""]) as server:
        assert "Ready to accept connections" in server.wait_for_line("Ready", HANG_S)
        assert server.wait_for_line(r"pid[=:]? ?(\d+)", HANG_S).match[1] == str(server.process.pid)


# --- what announces it ----------------------------------------------------------------------------


def test_the_kernel_announces_the_writes(echo: Server) -> None:
    """A reader that waits sleeps until there is something: it looks a few times, not for ever."""
    if sys.platform != "linux":
        pytest.skip("inotify is Linux's")
    with Follower(echo._output, echo.process) as follower:
        assert follower.wait() == ["begin"]
        follower._watch.wait(0)  # opens it
        begun = time.monotonic()
        say(echo, b"now\n")
        follower._watch.wait(HANG_S)
        late_s = time.monotonic() - begun
        assert follower.take() == ["now"]
        assert follower._watch._poll is not None
    print(f"a line came {late_s * 1e3:.2f} ms after it was sent for")  # noqa: T201


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC, errno.ENOSYS])
def test_without_inotify_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, echo: Server, code: int
) -> None:
    """Where no watch is to be had, the lines come all the same, and so does the end."""

    def refused(fd: int) -> int:
        raise OSError(code, os.strerror(code), str(fd))

    monkeypatch.setattr(_watch, "_watching", refused)
    lines = echo.follow()
    assert next(lines) == "begin"
    writer = threading.Timer(0.02, say, (echo, b"late\n"))
    writer.start()
    assert next(lines) == "late"
    writer.join()
    killer = threading.Timer(0.02, echo.kill)
    killer.start()
    assert list(lines) == []
    killer.join()


def test_without_a_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server is a child of our own, lines and end are looked for."""
    monkeypatch.setattr(_process._System, "has_subreapers", False)
    with serve([sys.executable, "-I", "-S", "-c", ECHO], ports={"mouth": "udp"}) as server:
        lines = server.follow()
        assert next(lines) == "begin"
        say(server, b"more\n")
        assert server.wait_for_line("more", HANG_S) == "more"
        server.kill()
        assert list(lines) == ["more"]


def test_another_error_of_inotify_is_no_secret(
    monkeypatch: pytest.MonkeyPatch, echo: Server
) -> None:
    """An errno that nobody foresaw is raised, and leaves nothing open."""

    def broken(fd: int) -> int:
        raise OSError(errno.EIO, "broken", str(fd))

    monkeypatch.setattr(_watch, "_watching", broken)
    with pytest.raises(OSError, match="broken"):
        echo.wait_for_line("never", HANG_S)


@pytest.mark.parametrize("announced", [True, False])
def test_a_wait_can_be_broken_off(
    monkeypatch: pytest.MonkeyPatch, echo: Server, *, announced: bool
) -> None:
    """From another thread, at once; the server goes on."""
    if not announced:
        monkeypatch.setattr(_watch.Watch, "_open", lambda _: None)
    cancel = Cancel()
    breaker = threading.Timer(0.02, cancel.cancel)
    breaker.start()
    with pytest.raises(StartCancelledError):
        echo._wait_for_line("never", HANG_S, None, cancel)
    breaker.join()
    assert echo.process.returncode is None


def test_a_forked_child_reads_and_does_not_wait(echo: Server) -> None:
    """There the server counts as ended: the lines are there, and nothing is waited for."""
    from _processes import fork

    pid = fork()
    if pid == 0:
        os._exit(0 if list(echo.follow()) == ["begin"] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert echo.port  # and the parent has it
