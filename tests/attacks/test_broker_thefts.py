"""A thief in a tight loop on exactly the number of a server that is being started.

He is a C program with a processor of his own, told the port before the server is. The control is
what everybody does: close the socket, then spawn the server; there he gets the port nearly always.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

import portlease
from _brokered import holds_of, need_broker, without_net_raw
from _need import need
from _processes import HANG_S
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("the broker is Linux's", allow_module_level=True)

# Commands on standard input: "KIND PORT SQUAT" begins, and is answered by "ok" after the first
# attempt; an empty line ends it, and is answered by the numbers of attempts and of thefts. What he
# has got he keeps until then.
THIEF = r"""
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int steal(int kind, int port, int squat) {
    struct sockaddr_in there = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}};
    int one = 1, fd = socket(AF_INET, kind, 0);
    if (squat) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&there, sizeof there) == 0 &&
        (!squat || kind == SOCK_DGRAM || listen(fd, 5) == 0))
        return fd;
    close(fd);
    return -1;
}

int main(void) {
    char line[100];
    struct pollfd in = {0, POLLIN};
    while (fgets(line, sizeof line, stdin)) {
        int kind, port, squat, loot = -1;
        long attempts = 0;
        sscanf(line, "%d %d %d", &kind, &port, &squat);
        do {
            if (loot < 0) loot = steal(kind, port, squat);
            if (attempts++ == 0) { puts("ok"); fflush(stdout); }
        } while ((attempts & 15) || poll(&in, 1, 0) == 0);
        fgets(line, sizeof line, stdin);
        printf("%ld %d\n", attempts, loot >= 0);
        fflush(stdout);
        if (loot >= 0) close(loot);
    }
    return 0;
}
"""

# Binds as the worst of servers: at once, without SO_REUSEADDR, and ends if it cannot.
SERVER = r"""
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sockaddr_in here = {AF_INET, htons(atoi(argv[2])), {htonl(INADDR_LOOPBACK)}};
    int kind = atoi(argv[1]), fd = socket(AF_INET, kind, 0);
    if (bind(fd, (struct sockaddr *)&here, sizeof here)) return 1;
    if (kind == SOCK_STREAM && listen(fd, 5)) return 2;
    write(1, "", 1);
    pause();
    return 0;
}
"""

KINDS = {"tcp": 1, "udp": 2}
STARTS = 60
MANY_STARTS = 2000


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the two programs, static binaries."""
    need_broker()
    gcc = need.program("gcc")
    directory = tmp_path_factory.mktemp("thief")
    for name, source in (("thief", THIEF), ("server", SERVER)):
        (directory / f"{name}.c").write_text(source, encoding="utf-8")
        command = [gcc, "-O2", "-w", "-static", "-o", name, f"{name}.c"]
        subprocess.run(command, cwd=directory, check=True)
    return directory


class Thief(NamedTuple):
    """The running program."""

    popen: subprocess.Popen[str]

    def say(self, line: str) -> str:
        """Give him a command; return his answer."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()
        return self.popen.stdout.readline()

    @contextlib.contextmanager
    def at_work(self, kind: str, port: int, *, squat: bool) -> Iterator[list[int]]:
        """Let him try this port for as long as the block runs; gives whether he got it."""
        stolen: list[int] = []
        assert self.say(f"{KINDS[kind]} {port} {squat:d}") == "ok\n"
        try:
            yield stolen
        finally:
            attempts, got = map(int, self.say("").split())
            assert attempts
            stolen.append(got)


@pytest.fixture
def thief(programs: Path) -> Iterator[Thief]:
    """He, waiting for a command."""
    with subprocess.Popen(
        [programs / "thief"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as popen:
        yield Thief(popen)


def brokered(thief: Thief, programs: Path, kind: str, *, squat: bool) -> int:
    """Start a server under the broker; return whether the port was stolen."""
    with portlease.lease(kind, offer=False) as lease:  # type: ignore[arg-type]
        command = [str(programs / "server"), str(KINDS[kind]), str(lease.port)]
        awaited = "listen" if kind == "tcp" else "bind"
        with (
            thief.at_work(kind, lease.port, squat=squat) as stolen,
            Process.start(command, output=subprocess.DEVNULL, holds=holds_of(lease)) as process,
        ):
            while process.returncode is None:
                if any(one.action == awaited for one in process.brokered):
                    break
                process.wait_for_news(HANG_S)
            else:
                assert squat, "the server was refused its port, though nobody had it"
    return stolen[0]


def closed_first(thief: Thief, programs: Path, kind: str) -> int:
    """Close the socket, then spawn the server; return whether the port was stolen."""
    with portlease.lease(kind, offer=False) as lease:  # type: ignore[arg-type]
        command = [str(programs / "server"), str(KINDS[kind]), str(lease.port)]
        with thief.at_work(kind, lease.port, squat=False) as stolen:
            lease.release()
            with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
                assert server.stdout is not None
                server.stdout.read(1)
                server.kill()
    return stolen[0]


@pytest.fixture(params=["by interface", "by SO_REUSEADDR"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the broker sets the server's socket and the hold apart."""
    if request.param == "by SO_REUSEADDR":
        without_net_raw(monkeypatch)
    return str(request.param)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.usefixtures("way")
def test_nothing_is_stolen(thief: Thief, programs: Path, kind: str) -> None:
    """There is no moment at which an ordinary bind by somebody else succeeds."""
    assert sum(brokered(thief, programs, kind, squat=False) for _ in range(STARTS)) == 0


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_the_thief_beats_close_then_spawn(
    thief: Thief, programs: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    """The control: where the port is closed first, and the server spawned then, he has it."""
    thefts = sum(closed_first(thief, programs, kind) for _ in range(STARTS))
    record_property(f"{kind} thefts", f"{thefts} of {STARTS}")
    assert thefts > STARTS // 2


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_2000_starts(
    thief: Thief, programs: Path, kind: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of docs/broker.md. A squatter's, who sets SO_REUSEADDR himself, are only told."""
    control = sum(closed_first(thief, programs, kind) for _ in range(MANY_STARTS))
    ordinary = sum(brokered(thief, programs, kind, squat=False) for _ in range(MANY_STARTS))
    squatter = sum(brokered(thief, programs, kind, squat=True) for _ in range(MANY_STARTS))
    with capsys.disabled():
        print(  # noqa: T201 - it is what this test is run for
            f"\n{kind}, apart {way}, thefts in {MANY_STARTS} starts: close then spawn {control}, "
            f"brokered {ordinary}, brokered with a squatter {squatter}"
        )
    assert ordinary == 0
    if way == "by interface":
        assert squatter == 0  # the hold conflicts with him throughout
    assert control > MANY_STARTS // 2
