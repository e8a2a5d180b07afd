"""The account as which a server runs that refuses to run as root.

Nobody but root needs one. There is no setpriv(1), su(1) or sudo(1) to it: a few lines of Python
between us and the server change the user and then become the server, so its process id is the one
that we know.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Final

_NOBODY: Final = "nobody"

# PR_SET_PDEATHSIG (1) is what ends a server whose keeper is killed, unless that has a deputy. The
# kernel forgets it when a process changes its user (prctl(2)), so what was set (PR_GET_PDEATHSIG,
# 2) is said once more. All imports come before: the other user may not be able to read this
# interpreter's library. (execvp() needs warnings.)
_BECOME: Final = """\
# portlease: becomes another user, and then the command behind --
import os, sys, warnings
uid, gid, home = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
prctl = lambda *_: None
signal = at = 0
if sys.platform == "linux":
    import ctypes
    prctl = ctypes.CDLL(None).prctl
    signal = ctypes.c_int()
    at = ctypes.byref(signal)
prctl(2, at, 0, 0, 0)
os.setgroups([gid])
os.setgid(gid)
os.setuid(uid)
prctl(1, signal, 0, 0, 0)
os.environ["HOME"] = home
os.execvp(sys.argv[5], sys.argv[5:])
"""


class Account(NamedTuple):
    """An unprivileged user."""

    name: str
    uid: int
    gid: int

    def command(self, argv: Sequence[str], home: Path) -> tuple[str, ...]:
        """The command that runs *argv* as this user, with HOME=*home*; for root."""
        numbers = (str(self.uid), str(self.gid), str(home))
        return (sys.executable, "-I", "-S", "-c", _BECOME, *numbers, "--", *argv)

    def own(self, path: Path) -> None:
        """Make *path*, a file or folder, this user's."""
        if sys.platform != "win32":
            # Not what a link leads to: in a folder of that user's it could lead anywhere.
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def must_enter(self, path: Path) -> None:
        """Make sure that this user can reach what is in the folder *path*.

        Raises:
            UsageError: it cannot; with the folder that is closed to it.
        """
        for folder in (*reversed(path.parents), path):
            found = folder.stat()
            needed = stat.S_IXOTH
            if found.st_uid == self.uid:
                needed = stat.S_IXUSR
            elif found.st_gid == self.gid:
                needed = stat.S_IXGRP
            if not found.st_mode & needed:
                raise UsageError(
                    f"the server has to run as user {self.name}, who may not enter {folder} "
                    f"({stat.filemode(found.st_mode)}); set TMPDIR, or give a home=, outside of it"
                )


def unprivileged(*preferred: str) -> Account | None:
    """The account for a server that does not run as root.

    Args:
        *preferred: the names of users, such as that which the server's package makes; the first
            that exists here is taken, and ``nobody`` if none does.

    Returns:
        The account; None if we are not root, and so need none.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    for name in (*preferred, _NOBODY):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, found.pw_uid, found.pw_gid)
    return Account("65534", 65534, 65534)  # an image without /etc/passwd
