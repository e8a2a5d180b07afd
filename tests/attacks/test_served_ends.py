"""Servers that never come up, hang, shout, stop, multiply, hide in another network, or kill.

What is promised of each: an error that says what it is, or ready as it is; never more memory than
is documented; and nothing of it left, however it fights its end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import pytest

import portlease
from _need import need
from _processes import HANG_S, status, wait_for, watched
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from _thieves import run_python, silent
from _unruly import (
    BINDING,
    TCP_ASIDE,
    TCP_BROKER,
    TCP_HANDED,
    TCP_OFFER,
    Way,
    answerer,
    never_ready,
)
from portlease import ServerDiedError, ServerError, ServerTimeoutError, serve
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("there is no keeper elsewhere; see docs/promise.md", allow_module_level=True)

from portlease._tree._process_linux import KeptProcess

SOON_S: Final = 0.3
"""How long one has that will never be ready."""
GRACE_S: Final = 0.02

# --- never ready ----------------------------------------------------------------------------------

PAUSE: Final = "print(os.getpid(), flush=True)\nsignal.pause()\n"
STOP: Final = "print(os.getpid(), flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\n"
ANOTHER_NETWORK: Final = """
    import ctypes
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    if unshare(0x40000000):  # CLONE_NEWNET
        assert unshare(0x50000000) == 0, ctypes.get_errno()  # and CLONE_NEWUSER
    print(os.getpid(), flush=True)
    inside = socket.socket(type=socket.SOCK_DGRAM if KIND == "udp" else socket.SOCK_STREAM)
    inside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    inside.bind(("0.0.0.0", NUMBER))
    if KIND == "tcp":
        inside.listen()
    signal.pause()
"""


@pytest.mark.parametrize("way", BINDING, ids=str)
@pytest.mark.parametrize("manner", [PAUSE, STOP, ANOTHER_NETWORK], ids=["never", "stops", "netns"])
def test_it_is_never_there(way: Way, manner: str) -> None:
    """It never binds, stops itself before it does, or binds in a network of its own: not ready."""
    way.need()
    if manner is ANOTHER_NETWORK:
        need.capability("netns")
    command = way.command(f"KIND = {way.transport!r}\n{textwrap.dedent(manner)}")
    error = never_ready(way, command, lambda error: error.output)
    assert "does not listen on" in str(error)
    assert error.listening == ()
    with pytest.raises(ProcessLookupError):
        os.kill(int(error.output), 0)


def test_control_who_only_connects_is_taken_in() -> None:
    """Somebody else listens on the number: by a connection the same silent server seems ready."""
    with portlease.lease() as lease, socket.create_server(("127.0.0.1", lease.port)):
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=-1) as popen:
            socket.create_connection(("127.0.0.1", lease.port), timeout=HANG_S).close()
            assert popen.poll() is None  # up, and answers: so the usual wait ends here
            popen.kill()
            assert popen.stdin is not None
            popen.stdin.close()
        with pytest.raises(ServerTimeoutError, match=f"pid {os.getpid()}"):
            serve(["sleep", "1000"], lease=lease, timeout_s=SOON_S)


@pytest.mark.parametrize("way", [TCP_ASIDE, TCP_BROKER], ids=str)
def test_it_binds_the_right_port_on_the_wrong_host(way: Way) -> None:
    """Where the lease is for one address, another is not ready, and the error says where it is."""
    way.need()
    with portlease.lease(host="127.0.0.2") as lease:
        error = never_ready(way, way.command(), lambda error: error.listening, lease)
        assert error.missing == ("port",)
        assert error.listening == (lease.port,)


# --- ready, and no more than that -----------------------------------------------------------------


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_ASIDE, TCP_BROKER, TCP_HANDED], ids=str)
@pytest.mark.parametrize("then", [PAUSE, STOP], ids=["hangs", "stops"])
def test_it_listens_and_hangs(way: Way, then: str) -> None:
    """Ready all the same; its client is queued, without an answer, and reset in the end."""
    way.need()
    with serve(way.command(then=then), how=way.how) as server:
        tree = server.process.tree()
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
            client.sendall(b"who")
            client.settimeout(0)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            server.wait_for_line(".")
            with watched(tree) as wait_all:
                server.stop()  # without a warning: the stopped one is continued, and sees SIGTERM
                assert wait_all() == []
            client.settimeout(HANG_S)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.lease.port))


# --- megabytes ------------------------------------------------------------------------------------

# Every byte there is but a line's end, so no line, no text, and no end of it.
SHOUT: Final = """
    noise = bytes(b for b in range(256) if b not in (10, 13)) * 4128
    def shout():
        for number in range(MEGABYTES):
            left = memoryview(noise)
            while left:
                left = left[os.write(1 + number % 2, left):]
    shout()
"""
SOME_MEGABYTES: Final = 10
MANY_MEGABYTES: Final = 128


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_BROKER], ids=str)
def test_it_prints_megabytes_without_a_line(way: Way) -> None:
    """Before it listens and after: ready; some lines of 1 MiB are in memory, then 16 MiB."""
    way.need()
    assert memory_for(way, SOME_MEGABYTES) == 16


@pytest.mark.long
@pytest.mark.parametrize("way", [TCP_OFFER, TCP_BROKER], ids=str)
def test_it_prints_megabytes_without_a_line_long(way: Way) -> None:
    """128 MiB before, and as much after: not a byte more is in memory."""
    way.need()
    assert memory_for(way, MANY_MEGABYTES) == 16


def memory_for(way: Way, megabytes: int) -> int:
    """Serve one that writes so much, twice; return how many MiB were kept of it."""
    script = """
        import resource, sys, portlease
        how, *command = sys.argv[1:]
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        with portlease.serve(["sh", "-c", "exec sleep 1000"], how="hand-over"):
            before = peak()
        with portlease.serve(command, how=how) as server:
            assert len(server.wait_for_line("^end")) == 3
            assert len(server.tail(3)) == 3
            assert max(len(line) for line in server.tail(3)) <= 1 << 20
            running = peak() - before
        size = len(server._output.read())
        print(running, peak() - before, size >> 20)
    """
    then = "\nshout()\nos.write(1, b'\\nend\\n')\nsignal.pause()\n"
    command = way.command(f"MEGABYTES = {megabytes}\n{textwrap.dedent(SHOUT)}", then=then)
    done = run_python(script, way.how, *command, options=())
    running, stopped, kept = map(int, silent(done).split())
    assert running < 32  # some lines of 1 MiB, with two bytes a character, and the bytes of them
    assert stopped < 64  # and what is kept, twice while it is read
    return kept


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_ASIDE, TCP_BROKER], ids=str)
def test_it_prints_megabytes_and_dies(way: Way) -> None:
    """The error has the last 64 KiB of it, and shows 40 lines of 500 characters at most."""
    way.need()
    with pytest.raises(ServerDiedError, match="exit status 3") as caught:
        serve(way.command(f"MEGABYTES = 2\n{textwrap.dedent(SHOUT)}os._exit(3)\n"), how=way.how)
    assert 0 < len(caught.value.output) <= 1 << 16
    assert len(str(caught.value)) < 40 * 600


# --- multiplying ----------------------------------------------------------------------------------

# Lives for microseconds only, and is another process then: whoever looks for it comes too late.
HARE: Final = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    for (int n = 1; n < 32; n++)
        signal(n, SIG_IGN);
    for (int n = atoi(argv[1]); n > 1; n--)
        if (fork() == 0) break;
    for (long life = 0;; life++) {
        int pid = fork();
        if (pid > 0) _exit(0);
        if (pid == 0 && argc > 2) setsid();
        if (life == 10) write(1, "off\n", 4);
    }
}
"""


@pytest.fixture(scope="module")
def hare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program: how many of them, and a word if each is to lead a session of its own."""
    directory = tmp_path_factory.mktemp("hare")
    (directory / "hare.c").write_text(HARE, encoding="utf-8")
    gcc = need.program("gcc")
    subprocess.run([gcc, "-O2", "-w", "-o", "hare", "hare.c"], cwd=directory, check=True)
    return str(directory / "hare")


@contextlib.contextmanager
def started(*argv: str) -> Iterator[tuple[Process, IO[bytes]]]:
    """A process and the pipe it writes to, whose end says that nobody of its tree is left."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as said:
        try:
            process = Process.start(argv, output=writer)
        finally:
            os.close(writer)
        with process:
            yield process, said


@pytest.mark.parametrize("sessions", [[], ["apart"]], ids=["one session", "sessions"])
def test_it_is_another_process_every_moment(hare: str, sessions: list[str]) -> None:
    """Eight that fork and exit without pause, deaf to all signals, are caught each time."""
    catch(hare, sessions, times=5)


@pytest.mark.long
@pytest.mark.parametrize("sessions", [[], ["apart"]], ids=["one session", "sessions"])
def test_it_is_another_process_every_moment_long(hare: str, sessions: list[str]) -> None:
    """The same five hundred times."""
    catch(hare, sessions, times=500)


def catch(hare: str, sessions: list[str], *, times: int) -> None:
    """Start and stop them; nothing is left."""
    for _ in range(times):
        with started(hare, "8", *sessions) as (process, said):
            assert said.readline() == b"off\n"
            process.stop(grace_s=0.0)
            assert set(said) <= {b"off\n"}  # and then the end: nobody has the pipe


def test_control_a_process_group_is_not_enough(hare: str) -> None:
    """Ended by its process group, as one does without a keeper, the same program goes on."""
    script = """
        import contextlib, os, select, signal, subprocess, sys
        with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, start_new_session=True) as hare:
            hare.stdout.readline()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(hare.pid, signal.SIGKILL)
            hare.wait()
            ended = bool(select.select([hare.stdout], [], [], 0)[0])
            os.write(1, b"ended" if ended else b"goes on")
            os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), hare, "1", "apart"]
    with started(*command) as (process, said):
        assert said.read(7) == b"goes on"
        process.stop(grace_s=0.0)  # our keeper is there to catch it


BOMB: Final = """
    import resource
    os.setgroups([])
    os.setresuid(*[100_000 + os.getpid()] * 3)  # nobody else is this user, so only ours are counted
    resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
    print("now", flush=True)
    while True:
        try:
            os.fork()
        except BlockingIOError:
            select.select([], [], [], 0.001)
"""


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_BROKER], ids=str)
def test_it_is_a_fork_bomb(way: Way) -> None:
    """Up to the limit of its user, which 60 processes fill anew as soon as one of them ends."""
    need.capability("other_user")
    way.need()
    with serve(way.command(then=BOMB), how=way.how, stop_timeout_s=GRACE_S) as server:
        wait_for(lambda: len(server.process.tree()) >= 59)
        user = 100_000 + server.process.pid
        server._shut()
    assert not [pid for pid in everybody() if user_of(pid) == user]


def everybody() -> list[int]:
    """All process ids."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def user_of(pid: int) -> int | None:
    """Whose process it is; None if it has ended."""
    try:
        return int(status(pid, "Uid").split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_our_death_catches_it_too(hare: str, number: signal.Signals) -> None:
    """Whoever started it dies, and the keeper catches all eight by itself."""
    script = """
        import signal, sys
        from portlease._tree._process import Process
        process = Process.start(sys.argv[1:], output=1)
        signal.pause()
    """
    argv = [sys.executable, "-c", textwrap.dedent(script), hare, "8", "apart"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as us:
        assert us.stdout is not None
        assert us.stdout.readline() == b"off\n"
        us.send_signal(number)
        assert set(us.stdout) <= {b"off\n"}


# --- against the keeper ---------------------------------------------------------------------------

LAWLESS: Final = """
    import ctypes
    assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0  # PR_SET_PDEATHSIG: none
    if os.fork() == 0:
        signal.pause()
"""


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_HANDED], ids=str)
def test_it_does_not_die_with_its_keeper(way: Way) -> None:
    """It has told the kernel so; then we end its process group, and say that the keeper is lost."""
    with serve(way.command(LAWLESS), how=way.how) as server:
        assert answerer(server, way) == server.process.pid
        wait_for(lambda: len(server.process.tree()) == 2)
        with watched(server.process.tree()) as wait_all:
            os.kill(int(status(server.process.pid, "PPid")), signal.SIGKILL)
            assert server.process.wait(HANG_S) == -signal.SIGKILL
            assert wait_all() == []
        with pytest.raises(ServerError, match=r"keeper .* was ended by signal 9"):
            server.stop()


KILL_KEEPER: Final = "os.kill(os.getppid(), signal.SIGKILL)\n"
KILL_BOTH: Final = """
    with open("/proc/%d/stat" % os.getppid()) as file:
        deputy = int(file.read().rpartition(")")[2].split()[1])
    os.kill(deputy, signal.SIGKILL)
    os.kill(os.getppid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("way", "manner"),
    # The kernel then kills the server, which may have bound by then unless it waits.
    [
        (TCP_OFFER, KILL_KEEPER + "signal.pause()\n"),
        (TCP_BROKER, KILL_KEEPER),
        (TCP_BROKER, KILL_BOTH),
    ],
    ids=["offer", "broker", "broker and deputy"],
)
def test_it_kills_its_keeper(way: Way, manner: str) -> None:
    """Before it binds: an error, at once, that names the keeper, and nothing of it is left."""
    way.need()
    with portlease.lease(offer=False) as lease:
        with pytest.raises(ServerError, match="keeper") as caught:
            serve(way.command(manner), how=way.how, lease=lease)
        assert not isinstance(caught.value, ServerTimeoutError)
        assert len(portlease.who(lease.port).occupants) == 1


@pytest.mark.parametrize("way", [TCP_OFFER, TCP_BROKER], ids=str)
def test_its_keeper_was_stopped(way: Way) -> None:
    """By SIGSTOP, as was its deputy: stop() continues them, and nothing of it is left."""
    way.need()
    with serve(way.command(), how=way.how) as server:
        assert isinstance(server.process, KeptProcess)
        keepers = {server.process._popen.pid, int(status(server.process.pid, "PPid"))}
        for keeper in keepers:
            stop_by_number(keeper)
        with watched(keepers | {server.process.pid}) as wait_all:
            server.stop()
            assert wait_all() == []


def stop_by_number(pid: int) -> None:
    """Send it SIGSTOP, and wait until that has been heeded."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: status(pid, "State").startswith("T"))
