"""A network namespace with a narrow ephemeral range: ``python _namespace.py LOW HIGH COMMAND...``.

In a network of one's own a storm of bind(0) disturbs nobody, and a range of 400 ports is soon
crowded. Root needs no user namespace; anybody else gets one in which he is root.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

# sched.h, linux/sockios.h, net/if.h
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def command(low: int, high: int, inner: list[str]) -> list[str]:
    """Return the command that runs *inner* in such a namespace."""
    return [sys.executable, __file__, str(low), str(high), *inner]


def why_not() -> str | None:
    """Return why there is no such namespace here, or None where there is."""
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    done = subprocess.run(
        command(40000, 40399, [sys.executable, "-c", "pass"]),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return (
        (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        if (done.returncode)
        else None
    )


def _enter(low: int, high: int) -> None:
    user, group = os.getuid(), os.getgid()
    try:
        _unshare(_CLONE_NEWNET)
    except PermissionError:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        _, flags = struct.unpack("16sh22x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{low} {high}", encoding="ascii")


def _unshare(flags: int) -> None:
    """unshare(2); os.unshare() came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        if number in {errno.EPERM, errno.EACCES}:
            raise PermissionError(number, os.strerror(number))
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    _enter(int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - no shell is wanted
