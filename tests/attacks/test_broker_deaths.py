"""The keeper and its deputy, killed or bothered at the worst of moments.

The control is in test_served_controls.py: what a filter does whose supervisor has gone.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import sys
import termios
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _brokered import brokered, need_broker, python, wait_until
from _processes import status, wait_for, watched
from _thieves import run_python, silent

if TYPE_CHECKING:
    from portlease._tree._process import Process

if sys.platform != "linux":
    pytest.skip("the broker is Linux's", allow_module_level=True)

from portlease._tree import _broker
from portlease._tree._process_linux import KeptProcess


@pytest.fixture(autouse=True)
def broker() -> None:
    """All of this needs one."""
    need_broker()


def keeper_of(process: Process) -> int:
    """The process that answers for it: the parent of its command."""
    return int(status(process.pid, "PPid"))


def unread(fd: int) -> int:
    """How many bytes wait in a socket to be read."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


BUSY = """
    for n in range(700):
        with socket.socket() as one:
            one.bind(("127.0.0.1" if n % 7 else "127.0.0.33", port))
    print("done", flush=True)
    signal.pause()
"""


def narrow(keeper: int) -> None:
    """Leave little room in the socket over which a keeper speaks, so that it is full soon."""
    number = Path(f"/proc/{keeper}/cmdline").read_bytes().split(b"\0")[5]
    with socket.socket(fileno=_broker.fetch(keeper, int(number))) as control:
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)


def test_the_keeper_dies_in_the_middle_of_a_word() -> None:
    """Half a message of its is the last of it; what its deputy says after that is understood.

    It comes to that where we have not read for long: the kernel takes as much as there is room for.
    """
    with brokered(python(BUSY), troubles=True) as told:
        process = told.process
        assert isinstance(process, KeptProcess)
        narrow(keeper_of(process))
        wait_for(lambda: b"done" in os.pread(told.output, 100, 0))
        sock = process._socket
        assert sock is not None
        process._inbox += sock.recv(unread(sock.fileno()))
        wait_for(lambda: unread(sock.fileno()) > 1000)  # a part of what the keeper had kept
        keeper = keeper_of(process)
        with watched([keeper]) as gone:
            os.kill(keeper, signal.SIGKILL)
            assert gone() == []
        tree = process.tree
        wait_for(lambda: process.lost is not None or process.ended or process.wait_for_news(0.1))
        assert process.lost is not None
        with watched(tree()) as wait_all:
            process.stop()
            assert wait_all() == []


def test_signals_while_keeper_and_deputy_part() -> None:
    """A storm of a signal that means nothing, from before the start on, disturbs nobody."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    over = threading.Event()
    sent = [0]

    def storm() -> None:
        while not over.is_set():
            for pid in children.read_text(encoding="ascii").split() * 100:
                try:
                    os.kill(int(pid), signal.SIGCHLD)
                except ProcessLookupError:
                    break
                sent[0] += 1

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for _ in range(12):
            with brokered(python("server = socket.create_server(('', port)); signal.pause()")):
                pass
    finally:
        over.set()
        thread.join()
    assert sent[0]


# What nobody who is one of us would say to the keeper: a message, its descriptors, the answer.
RUBBISH = """
    import errno, marshal
    pipe, _ = os.pipe()
    hold = socket.socket()
    hold.bind(("127.0.0.1", 0))
    number, fd = hold.getsockname()[1], hold.fileno()
    cases = [
        (b"\\0", [], "EPERM"),
        (b"", [pipe], "-"),
        (b"no marshal", [fd], "EPERM"),
        (b"[", [fd], "EPERM"),
        (marshal.dumps(7), [fd], "EPERM"),
        (marshal.dumps([7]), [fd], "EPERM"),
        (marshal.dumps([("tcp",)]), [fd], "EPERM"),
        (marshal.dumps([("tcp", "7")]), [fd], "EPERM"),
        (marshal.dumps([(b"tcp", number)]), [fd], "EPERM"),
        (marshal.dumps([("sctp", number)]), [fd], "EPERM"),
        (marshal.dumps([("tcp", number), ("tcp", number)]), [fd], "EMFILE"),
        (marshal.dumps([("tcp", number)]), [pipe], "ENOTSOCK"),
        (marshal.dumps([("tcp", number)] * 3), [fd, pipe, fd], "ENOTSOCK"),
        (marshal.dumps([("tcp", number)] * 2), [pipe, 0], "ENOTSOCK"),
    ]
    for message, fds, expected in cases:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.connect("\\0" + os.environ["PORTLEASE_BROKER"])
            socket.send_fds(door, [message], fds)
            answer = door.recv(1000)
            said = errno.errorcode[marshal.loads(answer)[0]] if answer else "-"
            assert said == expected, (message, fds, said)
    print("open", os.fstat(pipe).st_ino, os.fstat(fd).st_ino, flush=True)
    socket.create_server(("127.0.0.1", port))
    signal.pause()
"""


def test_rubbish_at_the_brokers_door() -> None:
    """Whoever finds it may say what he likes: it is refused, and the keeper keeps none of it."""
    with brokered(python(RUBBISH)) as told:
        wait_until(told, "tcp listen")
        pipe, hold = told.said().split()[1:]
        fds = Path(f"/proc/{keeper_of(told.process)}/fd")
        wait_for(lambda: not mine(fds, pipe, hold))


def mine(fds: Path, pipe: str, hold: str) -> list[str]:
    """Which of these two a process has open."""
    links = [str(fd.readlink()) for fd in fds.iterdir()]
    return [link for link in links if link in {f"pipe:[{pipe}]", f"socket:[{hold}]"}]


SERVER = """
import os, signal, socket, sys
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.pause()
socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.pause()
"""
# Forks itself, who starts that server by the broker, and kills him, and one of keeper and deputy,
# in some order at some moment: then nobody may be left who has the pipe, and no keeper.
DEATHS = """
    import os, random, select, signal, sys, time
    import portlease
    from pathlib import Path
    from _brokered import holds_of
    from _processes import readable
    from portlease._tree._process import Process

    times, seed, note, server = int(sys.argv[1]), *sys.argv[2:]
    dice = random.Random(seed)
    alive, until_our_end = os.pipe()

    def below(pid):
        try:
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return None

    def we(writer):
        with portlease.lease(offer=False) as lease:
            command = [sys.executable, "-I", "-S", "-c", server, str(lease.port)]
            with Process.start(command, output=writer, holds=holds_of(lease), note=note):
                os.read(alive, 1)

    def kill(pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return 0
        return 1

    with portlease.lease(offer=False) as lease:  # all is loaded before the first fork
        begun = time.monotonic()
        with Process.start(["true"], holds=holds_of(lease)):
            usual_s = time.monotonic() - begun
    killed = {"we": 0, "first": 0, "second": 0}
    for number in range(times):
        reader, writer = os.pipe()
        us = os.fork()
        if us == 0:
            try:
                os.close(reader)
                os.close(until_our_end)
                we(writer)
            finally:
                os._exit(1)
        os.close(writer)
        select.select([], [], [], dice.random() * 2.5 * usual_s)
        first = below(us)
        victims = {"we": us, "first": first, "second": first and below(first)}
        order = ["we", ("first", "second")[number % 2]][:: dice.choice([1, -1])]
        for who in order:
            if victims[who]:
                killed[who] += kill(victims[who])
            if dice.random() < 0.5:
                select.select([], [], [], dice.random() * 0.01)
        os.waitpid(us, 0)
        while True:
            assert readable(reader, 200), f"somebody is left: {order} {victims}"
            if not os.read(reader, 1000):
                break
        os.close(reader)
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
                if note.encode() in line:
                    fd = os.pidfd_open(int(name))  # it has nothing left to do but end
                    assert readable(fd, 200), line
            except (FileNotFoundError, ProcessLookupError):
                pass
    print(*killed.values())
"""


def die(times: int, seed: int) -> list[int]:
    """Run that; return how often we, the first and the second below us were killed."""
    note = f"attack-{seed}-{os.getpid()}"
    done = run_python(DEATHS, str(times), str(seed), note, SERVER, options=())
    return [int(word) for word in silent(done).split()]


def test_deaths_at_any_moment() -> None:
    """We and one of keeper and deputy, whenever it may be: nothing of the tree is left."""
    us, first, second = die(20, 0)
    assert us == 20
    assert first + second > 5


@pytest.mark.long
def test_deaths_at_any_moment_long() -> None:
    """The same five hundred times."""
    for seed in range(1, 11):
        assert all(die(50, seed))
