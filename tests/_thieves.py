"""Those who want the port too: every way to ask the kernel for it, and what it answered.

Nothing here knows portlease: a thief is plain system calls, so that what keeps him out is the
kernel's table and not our good manners.
"""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

REUSEPORT: Final = getattr(socket, "SO_REUSEPORT", None)
_IPPROTO_MPTCP: Final = 262  # <linux/in.h>; socket.IPPROTO_MPTCP is newer than Python 3.11
_BINDTODEVICE: Final = 25  # SO_BINDTODEVICE, <asm-generic/socket.h>; not in every Python


class Thief(NamedTuple):
    """One way to bind: what is set on the socket, and on which address."""

    family: int
    host: str
    reuseaddr: bool = False
    reuseport: bool = False
    v6only: bool = False
    protocol: int = 0
    device: str = ""

    def __str__(self) -> str:
        words = [
            f"{self.host}{' v6only' if self.v6only else ''}",
            *(["reuseaddr"] if self.reuseaddr else []),
            *(["reuseport"] if self.reuseport else []),
            *(["mptcp"] if self.protocol else []),
            *([self.device] if self.device else []),
        ]
        return " ".join(words)


def thieves(kind: int) -> list[Thief]:
    """Every thief for this socket type, on every address of the machine's loopback."""
    places = [
        Thief(socket.AF_INET, "0.0.0.0"),
        Thief(socket.AF_INET, "127.0.0.1"),
        Thief(socket.AF_INET, "127.0.0.2"),
    ]
    if has_ipv6():
        places += [
            Thief(socket.AF_INET6, "::"),
            Thief(socket.AF_INET6, "::", v6only=True),
            Thief(socket.AF_INET6, "::1"),
        ]
    found = [
        place._replace(reuseaddr=reuseaddr, reuseport=reuseport)
        for place in places
        for reuseaddr in (False, True)
        for reuseport in ((False, True) if REUSEPORT is not None else (False,))
    ]
    if sys.platform == "linux":
        found += [
            Thief(socket.AF_INET, "0.0.0.0", reuseaddr=reuseaddr, device="lo")
            for reuseaddr in (False, True)
        ]
        if kind == socket.SOCK_STREAM and has_mptcp():
            found += [
                Thief(socket.AF_INET, "0.0.0.0", reuseaddr=reuseaddr, protocol=_IPPROTO_MPTCP)
                for reuseaddr in (False, True)
            ]
    return found


def has_ipv6() -> bool:
    """Whether ::1 is an address of this machine."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE}:
            raise
        return error.errno == errno.EADDRINUSE  # it is, only the ephemeral range is full
    return True


def has_mptcp() -> bool:
    """Whether the kernel has Multipath TCP, switched on."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP).close()
    except OSError as error:
        # Not built in: EPROTONOSUPPORT or EINVAL; switched off by net.mptcp.enabled: ENOPROTOOPT.
        if error.errno not in {errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOPROTOOPT}:
            raise
        return False
    return True


def equipped(thief: Thief, kind: int) -> socket.socket:
    """Return his socket, not bound yet; it is the caller's."""
    sock = socket.socket(thief.family, kind, thief.protocol)
    try:
        if thief.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, thief.v6only)
        if thief.reuseaddr:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if thief.reuseport:
            assert REUSEPORT is not None
            sock.setsockopt(socket.SOL_SOCKET, REUSEPORT, 1)
        if thief.device:
            sock.setsockopt(socket.SOL_SOCKET, _BINDTODEVICE, thief.device.encode())
    except BaseException:
        sock.close()
        raise
    return sock


def steal(thief: Thief, kind: int, port: int) -> str:
    """Bind *port* and let go again; return what the kernel said: "" or the name of the errno."""
    with equipped(thief, kind) as sock:
        return refusal(sock, port, thief.host)


def refusal(sock: socket.socket, port: int, host: str = "127.0.0.1") -> str:
    """Bind *sock*; return "" or the name of the errno."""
    try:
        sock.bind((host, port))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def loot(kind: int, port: int, crew: Iterable[Thief] | None = None) -> dict[str, str]:
    """Send every thief, or those of *crew*; return what each was told."""
    return {str(thief): steal(thief, kind, port) for thief in crew or thieves(kind)}


def expected(
    kind: int, *, refused: Callable[[Thief], bool], crew: Iterable[Thief] | None = None
) -> dict[str, str]:
    """What `loot` gives where those thieves are refused, and the others get in."""
    return {str(thief): "EADDRINUSE" if refused(thief) else "" for thief in crew or thieves(kind)}


def server(port: int, host: str = "127.0.0.1", *, reuseaddr: bool = True) -> socket.socket:
    """Return a socket that listens on *port*, set up as servers do; it is the caller's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = equipped(Thief(family, host, reuseaddr=reuseaddr), socket.SOCK_STREAM)
    try:
        sock.bind((host, port))
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


# --- storms -------------------------------------------------------------------------------------


def bind_zero(thief: Thief, kind: int, *, most: int = 2000) -> set[int]:
    """Bind port 0 until the kernel has none left, keep all until then; return the ports given."""
    with contextlib.ExitStack() as stack:
        given = set()
        for _ in range(most):
            sock = stack.enter_context(equipped(thief, kind))
            if said := refusal(sock, 0, thief.host):
                assert said == "EADDRINUSE", said  # what an exhausted range says, bind(2)
                break
            given.add(sock.getsockname()[1])
        return given


def connect_out(family: int, kind: int, to: tuple[str, int], *, most: int = 2000) -> set[int]:
    """Connect to one place until the kernel has no port left; return the ports used."""
    with contextlib.ExitStack() as stack:
        used = set()
        for _ in range(most):
            sock = stack.enter_context(socket.socket(family, kind))
            if kind == socket.SOCK_STREAM:
                # Closed by a reset, or 60 s of TIME_WAIT would keep the port from the next round.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                sock.connect(to)
            except OSError as error:
                # EADDRNOTAVAIL: connect(2) of TCP; EAGAIN: of UDP, from its autobind.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAGAIN}:
                    raise
                break
            used.add(sock.getsockname()[1])
        return used


# --- processes ----------------------------------------------------------------------------------


def run_python(
    source: str, *arguments: str, options: Iterable[str] = ("-W", "error", "-X", "dev")
) -> subprocess.CompletedProcess[str]:
    """Run the Python source *source* with every warning an error; return how it ended.

    It is dedented first, finds *arguments* in ``sys.argv[1:]``, and can import what a test can.
    """
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def silent(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a script ended well and without a word on stderr; return its output."""
    assert done.returncode == 0 and not done.stderr, f"exit {done.returncode}\n{done.stderr}"  # noqa: PT018
    return done.stdout


class Child(NamedTuple):
    """A process of ours, and what it told us."""

    pid: int
    told: Any


@contextlib.contextmanager
def holding(count: int, work: Callable[[int], tuple[Any, object]]) -> Iterator[list[Child]]:
    """Run ``work(0)`` ... ``work(count - 1)`` in forked processes, which start together.

    Each returns what it tells us, which must be fit for pickle, and what it keeps until the block
    ends. For single-threaded scripts: a test runner's process must not fork.
    """
    start_out, start_in = os.pipe()
    end_out, end_in = os.pipe()
    answers: dict[int, int] = {}
    for number in range(count):
        answer_out, answer_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(start_in)
            os.close(end_in)
            os.read(start_out, 1)
            _live(work, number, answer_in, end_out)
        os.close(answer_in)
        answers[pid] = answer_out
    for fd in (start_out, start_in, end_out):
        os.close(fd)
    try:
        children = []
        for pid, answer_out in answers.items():
            with open(answer_out, "rb") as answer:  # noqa: PTH123 - a descriptor has no path
                told = answer.read()
            assert told, f"child {pid} died; its last words are on stderr"
            children.append(Child(pid, pickle.loads(told)))  # noqa: S301 - our own child wrote it
        yield children
    finally:
        os.close(end_in)
        for pid in answers:
            os.waitpid(pid, 0)


def _live(
    work: Callable[[int], tuple[Any, object]], number: int, answer_in: int, end_out: int
) -> NoReturn:
    """The life of one child."""
    try:
        told, kept = work(number)
        with open(answer_in, "wb") as answer:
            pickle.dump(told, answer)
        os.read(end_out, 1)  # comes back when our parent closes the other end, or dies
        del kept
    except BaseException:  # noqa: BLE001 - told to the parent by the missing answer
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def in_children(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(0)`` ... ``work(count - 1)`` in forked processes; return what they return."""
    with holding(count, lambda number: (work(number), None)) as children:
        return [child.told for child in children]


@contextlib.contextmanager
def meanwhile(*storms: Callable[[], object]) -> Iterator[None]:
    """Run each of *storms* over and over in a forked process until the block ends."""
    pids = []
    for storm in storms:
        pid = os.fork()
        if pid == 0:
            try:
                while True:
                    storm()
            except BaseException:  # noqa: BLE001 - told to the parent by the death itself
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        pids.append(pid)
    try:
        yield
    finally:
        ended = [os.waitpid(pid, os.WNOHANG)[0] for pid in pids]
        for pid in set(pids) - set(ended):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert not any(ended), "a storm died before its time"


def acceptor(hosts: Iterable[str]) -> tuple[int, list[socket.socket]]:
    """Return a port below the ephemeral range, and a socket on each host that listens there.

    Nobody ever accepts: the kernel completes connections up to the backlog without.
    """
    for port in itertools.count(2000):
        made: list[socket.socket] = []
        try:
            for host in hosts:
                made.append(server(port, host))
                made[-1].listen(4096)
        except OSError as error:
            for sock in made:
                sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return port, made
    raise AssertionError
