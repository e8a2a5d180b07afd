"""Suites expect ``localhost`` to be ::1 too; where /etc/hosts lacks it, they get one that says so.

Nothing of the machine is changed: the file is bound over /etc/hosts in a mount namespace of the
suite's own, which needs root.
"""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_BIND = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


def prefix(cache: Path) -> tuple[list[str], str]:
    """What is put before a command, and what is to be said of it."""
    try:
        socket.getaddrinfo("localhost", None, socket.AF_INET6)
    except socket.gaierror:
        pass
    else:
        return [], "`localhost` is ::1 too"
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        return [], "/etc/hosts has no ::1 for `localhost`: tests that need it fail, on and off"
    hosts = cache / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="ascii")
    words = [unshare, "--mount", "--propagation", "private", "sh", "-c", _BIND, "sh", str(hosts)]
    return words, "`localhost` is ::1 too, in a mount namespace of the suite's own"
