"""The contrast: the same servers on unheld numbers and on leases, while others call bind(0).

Runs inside a private network namespace (demo.py makes it), so that a narrow ephemeral range and a
storm on it hurt nobody. Each round starts the servers at once; what counts as a collision is
counted for both sides alike: a server that cannot bind its number, or does not get it.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

import portlease

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

ROUNDS: Final = 5
RANGE: Final = (40000, 40255)
STORMERS: Final = 4
HELD_EACH: Final = 24
SERVER: Final = (sys.executable, "-I", "-S", "-m", "http.server", "--bind", "127.0.0.1")
HANG_GUARD_S: Final = 120.0
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)


def enter() -> None:
    """Raise lo and narrow the ephemeral range: this namespace is new and ours alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16s24x", b"lo"))
        name, flags = struct.unpack_from("16sh", answer)
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh22x", name, flags | IFF_UP))
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("{} {}".format(*RANGE))


def storm(stop: Event) -> None:
    """What other people's tests do: take ports with bind(0), keep each a little while."""
    held: deque[socket.socket] = deque()
    while not stop.is_set():
        taker = socket.socket()
        try:
            taker.bind(("127.0.0.1", 0))
        except OSError:  # EADDRINUSE: the range is full for a moment
            taker.close()
        else:
            held.append(taker)
        if len(held) > HELD_EACH:
            held.popleft().close()
        stop.wait(0.001)


def unheld_number() -> int:
    """What find_unused_port() does: bind port 0, read the number, close."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_unheld_number(_: int) -> str | None:
    """Start one server on a number that nobody holds; None, or how it went wrong."""
    port = unheld_number()
    with subprocess.Popen(
        [*SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            return wait_until_up(process, port)
        finally:
            process.terminate()


def wait_until_up(process: subprocess.Popen[bytes], port: int) -> str | None:
    """Until it listens, by the kernel's own table, or has died."""
    deadline = time.monotonic() + HANG_GUARD_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            text = b"" if process.stderr is None else process.stderr.read()
            return text.decode(errors="replace").strip().rpartition("\n")[2] or "died"
        if process.pid in listeners(port):
            return None
        time.sleep(0.005)
    return "never listened"


def listeners(port: int) -> set[int]:
    """The process ids that listen on *port*, as the kernel has them."""
    occupants = portlease.who(port).occupants
    return {who.pid for one in occupants if one.kind == "listener" for who in one.processes}


def on_lease(_: int) -> str | None:
    """Start the same server on a leased port."""
    try:
        with portlease.serve([*SERVER, "{port}"], timeout_s=HANG_GUARD_S):
            return None
    except portlease.PortleaseError as error:
        return str(error).splitlines()[0]


STARTS: Final = {"find_unused_port": on_unheld_number, "portlease": on_lease}


def main() -> int:
    """Both sides, in turn, under the same storm; status 1 if a leased server was lost."""
    instances = int(sys.argv[1])
    enter()
    stop = multiprocessing.Event()
    others = [multiprocessing.Process(target=storm, args=(stop,)) for _ in range(STORMERS)]
    for other in others:
        other.start()
    lost: dict[str, list[str]] = {name: [] for name in STARTS}
    try:
        with ThreadPoolExecutor(instances) as pool:
            for _ in range(ROUNDS):
                for name, start in STARTS.items():
                    lost[name] += filter(None, pool.map(start, range(instances)))
    finally:
        stop.set()
        for other in others:
            other.join()
    report(lost, instances)
    return 1 if lost["portlease"] else 0


def report(lost: dict[str, list[str]], instances: int) -> None:
    """A row for each side."""
    low, high = RANGE
    table = Table(
        title=f"{instances} http.servers at a time, {ROUNDS} rounds, while {STORMERS} processes "
        f"call bind(0) in a range of {high - low + 1} ports (a private network namespace)"
    )
    for column in ("port from", "servers", "lost their port", "for example"):
        table.add_column(column)
    for name, reasons in lost.items():
        example = reasons[0] if reasons else ""
        style = "bold red" if reasons else "green"
        table.add_row(name, str(instances * ROUNDS), str(len(reasons)), example, style=style)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    if os.environ.get("GITHUB_ACTIONS") and lost["portlease"]:
        print(f"::error::portlease lost {len(lost['portlease'])} servers")


if __name__ == "__main__":
    sys.exit(main())
