"""For the scripts that attacks run: what is open, and whether a lease is what it says it is."""

from __future__ import annotations

from typing import Final

HELPERS: Final = """
import gc, os, resource, socket, sys, warnings
import portlease
from portlease import _grip

def open_fds():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:
            pass  # the one that listed the directory
    return found

def gets_in(port, socktype, reuse):
    with socket.socket(socket.AF_INET, socktype) as thief:
        if reuse:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            thief.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

TYPES = {"tcp": [socket.SOCK_STREAM], "udp": [socket.SOCK_DGRAM],
         "both": [socket.SOCK_STREAM, socket.SOCK_DGRAM]}

def wrongs(lease):
    "What is not as the lease's state says; nobody may get in whom the state keeps out."
    rows = [info.state for info in portlease.leases()
            if info.port == lease.port and info.pid == os.getpid()]
    found = [] if rows == [lease.state] else [("rows", rows)]
    for socktype in TYPES[lease.kind]:
        for reuse in (False, True):
            open_to = lease.state in ("GUARDED", "HANDED_OVER") or (
                lease.state == "OFFERED" and (reuse or socktype == socket.SOCK_DGRAM))
            if gets_in(lease.port, socktype, reuse) and not open_to:
                found.append(("got in", socktype, reuse))
    return found

def wrongs_later(lease):
    "The lease can be used as if nothing had been."
    if lease.state == "OFFERED":
        lease.withdraw()
    elif lease.state == "GUARDED":
        lease.take_back()
    return wrongs(lease)
"""
