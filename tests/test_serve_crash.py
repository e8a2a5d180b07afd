"""A server that ends by itself, or is killed: what is told of it, and how it comes back."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import textwrap
import warnings
from typing import TYPE_CHECKING

import pytest

from _processes import HANG_S, fork, watched
from _serving import PLAIN, PYTHON, TINY, ask, python
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from portlease import ServerDiedError, ServerDiedWarning, UsageError, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portlease import Server

# Says what it is asked, unless it is asked to crash.
FRAGILE = TINY.replace(
    'client.sendall(b"tiny")',
    """asked = client.recv(100)
    if asked == b"crash":
        sys.exit("I was asked to crash")
    if asked == b"end":
        sys.exit(0)
    client.sendall(asked)""",
)


def crash(server: Server, word: bytes = b"crash") -> None:
    """Have it end by itself, and wait for that."""
    assert ask(server, word) == b""
    server.process.wait(HANG_S)
    server.process.wait_ended(HANG_S)


@pytest.mark.parametrize(
    "use",
    [
        lambda server: server.port,
        lambda server: server.ports,
        lambda server: server.host,
        lambda server: server.url(),
    ],
    ids=["port", "ports", "host", "url"],
)
def test_a_crash_is_told_at_the_next_use(use: Callable[[Server], object]) -> None:
    """The error has its exit status and its last output, and can be pickled."""
    with serve(python(FRAGILE)) as server:
        assert use(server)
        crash(server)
        with pytest.raises(
            ServerDiedError, match=r"exit status 1 by itself.*\n.*\n.*asked"
        ) as told:
            use(server)
        assert told.value.returncode == 1
        assert "I was asked to crash" in told.value.output
        assert vars(told.value)["ports"] == {"port": server.lease.port}
        assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)  # noqa: S301 - ours
        server.restart()
        assert use(server)
        assert ask(server, b"hello") == b"hello"


def crash_and_raise(use: Callable[[Server], object]) -> None:
    """Have a server crash, and leave its block by what comes of this use of it."""
    with serve(python(FRAGILE)) as server:
        crash(server)
        use(server)


def test_the_block_is_left_by_an_exception() -> None:
    """It gets the crash as a note; another one's, not the crash itself."""
    with pytest.raises(ZeroDivisionError) as caught:
        crash_and_raise(lambda _: 1 / 0)
    (note,) = caught.value.__notes__
    assert "exit status 1 by itself" in note
    assert "I was asked to crash" in note
    with pytest.raises(ServerDiedError) as died:
        crash_and_raise(lambda server: server.port)
    assert not hasattr(died.value, "__notes__")


def test_the_block_is_left_without_one() -> None:
    """It warns, on behalf of the line that leaves the block, once everything is given back."""
    server = serve(python(FRAGILE))
    with pytest.warns(ServerDiedWarning, match="I was asked to crash") as told, server:
        crash(server)
    assert told[0].filename == __file__
    assert server.lease.state == "RELEASED"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert server.port  # it was told, and it is over


def test_a_launcher_that_fails_later(tmp_path: Path) -> None:
    """A command that fails is reported although what it has started serves on."""
    os.mkfifo(tmp_path / "fifo")
    script = '"$@" & read line < fifo; exit 7'
    with serve(["sh", "-c", script, "sh", *python(TINY)], cwd=tmp_path) as server:
        (tmp_path / "fifo").write_text("end\n", encoding="ascii")
        assert server.process.wait(HANG_S) == 7
        with pytest.raises(ServerDiedError, match="exit status 7"):
            assert server.port
        assert ask(server.lease.port) == b"tiny"


def test_what_we_end_is_no_crash() -> None:
    """Nothing is reported of a server that was sent a signal through us, or that ended with 0."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1):
        with serve(python(FRAGILE)) as server:
            server.process.send_signal(number)
            assert server.process.wait(HANG_S) == -number
            assert server.port
    with serve(python(FRAGILE)) as server:
        crash(server, b"end")
        assert server.process.returncode == 0
        assert server.port
    handler = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
    with serve([sys.executable, "-c", "import sys\n" + handler + TINY]) as server:
        server.process.terminate()
        assert server.process.wait(HANG_S) == 3
        assert server.port


def test_a_crash_long_after_a_reload() -> None:
    """SIGHUP, which it was sent and survived, hides no crash by another signal."""
    handler = "import signal; signal.signal(signal.SIGHUP, lambda *_: None)\n"
    with serve([sys.executable, "-c", handler + TINY]) as server:
        server.process.send_signal(signal.SIGHUP)
        assert ask(server) == b"tiny"
        os.kill(server.process.pid, signal.SIGSEGV)
        server.process.wait(HANG_S)
        with pytest.raises(ServerDiedError, match="was ended by SIGSEGV by itself"):
            assert server.port


def test_somebody_else_kills_it() -> None:
    """A signal that did not come from us is told by its name."""
    with serve(python(FRAGILE)) as server:
        os.kill(server.process.pid, signal.SIGABRT)
        server.process.wait(HANG_S)
        with pytest.raises(ServerDiedError, match="was ended by SIGABRT by itself") as told:
            assert server.port
        assert told.value.returncode == -signal.SIGABRT


def test_in_a_forked_child_nothing_is_told() -> None:
    """The server is the parent's; the child reads numbers and no news."""
    with serve(python(FRAGILE)) as server:
        child = fork()
        if child == 0:
            os._exit(0 if server.port == server.lease.port else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- kill -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [TINY, PLAIN], ids=["offer", "step-aside"])
def test_kill(code: str) -> None:
    """SIGKILL to all of it, the lease is kept, nothing is reported, and it can start again."""
    script = '"$@" & wait'
    ignoring = "import _signal; _signal.signal(15, _signal.SIG_IGN)\n" + code
    with serve(["sh", "-c", script, "sh", *python(ignoring)]) as server:
        port, how, state = server.port, server.how, server.lease.state
        with watched(server.process.tree()) as wait_all:
            server.kill()
            assert wait_all() == []
        assert (server.port, server.lease.state) == (port, state)
        assert "stopped" in repr(server)
        with pytest.raises(ConnectionRefusedError):
            ask(server)
        server.kill()
        server.restart()
        assert (server.port, server.how) == (port, how)
        assert ask(server) == b"tiny"
        server.kill()
    assert server.lease.state == "RELEASED"
    with pytest.raises(UsageError, match="cannot be killed"):
        server.kill()


def test_a_signal_handler_stops_it_while_it_restarts(tmp_path: Path) -> None:
    """Then nothing runs on a port whose lease is gone."""
    signals = f"""
import os
if os.path.exists("again"):
    os.kill({os.getpid()}, {int(signal.SIGUSR1)})
"""
    with serve(python(signals + TINY), cwd=tmp_path) as server:
        (tmp_path / "again").touch()
        before = signal.signal(signal.SIGUSR1, lambda *_: server.stop())
        try:
            with pytest.raises(UsageError, match="was stopped"):
                server.restart()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert server.process.ended
        assert server.lease.state == "RELEASED"


def test_a_signal_handler_stops_it_while_its_end_is_waited_for() -> None:
    """The handler reads the news under the nose of its own thread, and both go on at once."""
    with serve(python(TINY)) as server:
        before = signal.signal(signal.SIGALRM, lambda *_: server.stop())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert server.process.wait(HANG_S) == -signal.SIGTERM
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert server.lease.state == "RELEASED"


# --- url ------------------------------------------------------------------------------------------


def test_url() -> None:
    """Where clients reach a port, by name; IPv6 in brackets."""
    with serve([*PYTHON, textwrap.dedent(TINY) + "# {admin}"], wait_for=["port"]) as server:
        port, admin = server.port, server.ports["admin"]
        assert server.url() == f"http://127.0.0.1:{port}"
        assert server.url("health") == server.url("/health") == f"http://127.0.0.1:{port}/health"
        assert server.url("0", scheme="redis", port="admin") == f"redis://127.0.0.1:{admin}/0"
        with pytest.raises(UsageError, match="no port is called 'web'"):
            server.url(port="web")
