"""Ports to measure on."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

import portlease


def free_ports(count: int) -> list[int]:
    """Return *count* ports outside the ephemeral range that nobody has just now, shuffled.

    There may be fewer. A guarded one could be bound, but would be refused to a lease: this very
    process has such ports once it has called find_unused_port().
    """
    low, high = ephemeral_range()
    leased = {one.port for one in portlease.leases()}
    candidates = [
        port for port in range(10000, 65536) if not low <= port <= high and port not in leased
    ]
    random.SystemRandom().shuffle(candidates)
    free: list[int] = []
    for port in candidates:
        if len(free) == count:
            break
        if _is_free(port):
            free.append(port)
    return free


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind(("::", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def ephemeral_range() -> tuple[int, int]:
    """Return the first and last port that bind(0) deals out here."""
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    return int(low), int(high)
