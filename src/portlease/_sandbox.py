"""Why Linux does not let us broker a process's binds, in words, with the remedy.

What was refused is found out by an ordinary start of a server: :meth:`Process.start`, with holds.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

OUTER: Final = "the outer broker"
"""What refuses the holds of a broker inside another one."""


class Refusal(NamedTuple):
    """How far the child came."""

    stage: str
    """What it was that was refused: a system call, or a file that was written."""
    errno: int

    def __str__(self) -> str:
        return f"{self.stage}: {errno.errorcode.get(self.errno, self.errno)}"


_NO_KEEPER: Final = (
    "it needs a keeper, which is to be had on Linux with /proc and Python's ctypes",
    "leave it out: a lease is offered, or steps aside, without a broker too",
)
_PROFILE: Final = "in a container: --security-opt seccomp=unconfined, or --cap-add SYS_ADMIN"
_NEWER: Final = "use Linux 5.6 or later"
# By what was refused, and the errno.
_NO_BROKER: Final = {
    ("seccomp", errno.EPERM): ("a seccomp profile forbids seccomp(2)", _PROFILE),
    ("seccomp", errno.EACCES): (
        "seccomp(2) takes no_new_privs or CAP_SYS_ADMIN, and neither can be had",
        _PROFILE,
    ),
    ("seccomp", errno.EBUSY): (
        (
            "something else already watches the system calls of this process and its children (a "
            "container's seccomp agent, WSL2 in its mirrored network mode, another broker), and "
            "the kernel allows one"
        ),
        "start it outside of that",
    ),
    ("seccomp", errno.EINVAL): (
        "this kernel knows no seccomp user notification (gVisor, or Linux before 5.0)",
        f"{_NEWER}; in gVisor: another runtime, as runc",
    ),
    ("seccomp", errno.ENOSYS): (
        "this kernel has no seccomp filters, or a profile hides them",
        (
            "use a kernel with CONFIG_SECCOMP_FILTER; in a container: --security-opt "
            "seccomp=unconfined"
        ),
    ),
    ("prctl", errno.EPERM): ("a seccomp profile forbids no_new_privs", _PROFILE),
    ("pidfd_open", errno.EPERM): ("a seccomp profile forbids pidfd_open(2)", _PROFILE),
    ("pidfd_open", errno.ENOSYS): ("this kernel has no pidfd_open(2)", _NEWER),
    ("pidfd_getfd", errno.ENOSYS): (
        "this kernel has no pidfd_getfd(2), or a seccomp profile hides it",
        f"{_NEWER}; in a container: --cap-add SYS_PTRACE, or --security-opt seccomp=unconfined",
    ),
    ("pidfd_getfd", errno.EPERM): (
        "a seccomp profile forbids pidfd_getfd(2), as Docker's own does",
        "in a container: --cap-add SYS_PTRACE, or --security-opt seccomp=unconfined",
    ),
    (OUTER, errno.ECONNREFUSED): (
        "this process runs under a broker whose keeper has ended; nothing in it can bind any more",
        "start it anew, outside of what that keeper kept",
    ),
    (OUTER, errno.EPERM): (
        "this process runs under the broker of another user, which takes no holds from it",
        "start it outside of that, or as the same user",
    ),
}
_YAMA: Final = (
    "Yama forbids a process to look at its children (kernel.yama.ptrace_scope={scope})",
    "sysctl -w kernel.yama.ptrace_scope=1 (as root), or --cap-add SYS_PTRACE in a container",
)
_YAMA_STRICT: Final = frozenset({"2", "3"})


def explain_broker(refusal: Refusal | None, ptrace_scope: str | None = None) -> tuple[str, str]:
    """Why no broker is to be had, and the remedy.

    Args:
        refusal: what was refused; None where there is no keeper, in which the broker would be.
        ptrace_scope: the sysctl kernel.yama.ptrace_scope, if there is one.
    """
    if refusal is None:
        return _NO_KEEPER
    if refusal.stage.startswith("/proc/"):
        return (
            f"/proc/PID/mem of its own child is closed to this process ({refusal})",
            "mount /proc; in a container: --cap-add SYS_PTRACE",
        )
    denied = refusal.errno in {errno.EPERM, errno.EACCES}
    if refusal.stage == "pidfd_getfd" and denied and ptrace_scope in _YAMA_STRICT:
        why, remedy = _YAMA
        return why.format(scope=ptrace_scope), remedy
    why, remedy = _NO_BROKER.get(
        (refusal.stage, refusal.errno), (os.strerror(refusal.errno), "see seccomp_unotify(2)")
    )
    return f"{why} ({refusal})", remedy


def ptrace_scope() -> str | None:
    """Return Yama's setting, or None where there is no Yama."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return file.read().strip()
    except (FileNotFoundError, PermissionError):
        return None
