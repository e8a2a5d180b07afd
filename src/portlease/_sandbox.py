"""Whether Linux lets us make a network namespace, or broker a process's binds; and why not.

Both would change the process that tries, so a child tries, for real, and says how far it came.
(For the broker that is an ordinary start of a server: :meth:`Process.start`, with holds.)
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Literal

_HANG_GUARD_S: Final = 30.0

OUTER: Final = "the outer broker"
"""What refuses the holds of a broker inside another one."""


class Refusal(NamedTuple):
    """How far the child came."""

    stage: str
    """What it was that was refused: a system call, or a file that was written."""
    errno: int

    def __str__(self) -> str:
        return f"{self.stage}: {errno.errorcode.get(self.errno, self.errno)}"


# What every child begins with. It prints STAGE ERRNO where it is stopped, and nothing at its end.
_BEGIN: Final = """\
import ctypes, fcntl, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def called(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")
    return answer
def stage(name, function, *arguments):
    try:
        return function(*arguments)
    except OSError as error:
        print(name, error.errno)
        sys.exit()
"""

# unshare(2) with CLONE_NEWNET, for a user with CLONE_NEWUSER, in which he keeps his own ids
# (user_namespaces(7)); then `lo` is raised (netdevice(7)), which takes CAP_NET_ADMIN.
_NAMESPACE: Final = """\
def unshare(flags):
    called(libc.unshare(flags))
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
def raise_lo():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, 0x8913, struct.pack("16s24x", b"lo"))
        name, flags = struct.unpack_from("16sh", answer)
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh22x", name, flags | 1))
uid, gid = os.geteuid(), os.getegid()
if sys.argv[1] == "user":
    stage("unshare", unshare, 0x10000000 | 0x40000000)
    stage("setgroups", write, "/proc/self/setgroups", "deny")
    stage("uid_map", write, "/proc/self/uid_map", f"{uid} {uid} 1")
    stage("gid_map", write, "/proc/self/gid_map", f"{gid} {gid} 1")
else:
    stage("unshare", unshare, 0x40000000)
stage("lo", raise_lo)
"""


def network_namespace(how: Literal["root", "user"]) -> Refusal | None:
    """Make a network namespace with ``lo`` up: by our own privileges, or in a user namespace.

    Returns:
        None if it can be had.
    """
    return _tried(_NAMESPACE, how)


def _tried(script: str, *arguments: str) -> Refusal | None:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BEGIN + script, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HANG_GUARD_S,
            check=False,
        )
    except OSError as error:  # no process for it, or no such interpreter
        return Refusal(f"a child process, {sys.executable}", error.errno or 0)
    stage, _, code = done.stdout.strip().rpartition(" ")
    if done.returncode:  # ended by a filter that kills, or no ctypes: what it was is on its stderr
        last_line = done.stderr.strip().rpartition("\n")[2]
        return Refusal(last_line or f"the probe ended with {done.returncode}", errno.ENOSYS)
    return Refusal(stage, int(code)) if stage else None


_BY_SETTING: Final = {
    ("kernel/apparmor_restrict_unprivileged_userns", "1"): (
        "AppArmor takes a user namespace its rights",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (as root)",
    ),
    ("kernel/unprivileged_userns_clone", "0"): (
        "users may make no user namespaces",
        "sysctl -w kernel.unprivileged_userns_clone=1 (as root)",
    ),
}
_FORBIDDEN: Final = (
    "forbidden, as in most containers",
    "in a container: --security-opt seccomp=unconfined, or --cap-add SYS_ADMIN --cap-add NET_ADMIN",
)
_UNKNOWN: Final = (
    "the kernel has none",
    "use a kernel with CONFIG_USER_NS and CONFIG_NET_NS",
)
_BY_ERRNO: Final = {
    errno.ENOSPC: (
        "the limit of namespaces is reached",
        "raise user.max_user_namespaces and user.max_net_namespaces (sysctl, as root)",
    ),
    errno.EPERM: _FORBIDDEN,
    errno.EACCES: _FORBIDDEN,
    errno.EINVAL: _UNKNOWN,
    errno.ENOSYS: _UNKNOWN,
}


def explain_namespace(refusal: Refusal, settings: Mapping[str, str | None]) -> tuple[str, str]:
    """Why no network namespace is to be had, and the remedy.

    Args:
        refusal: what the last attempt was told.
        settings: sysctls that bear on it, by name.
    """
    why, remedy = _BY_ERRNO.get(refusal.errno, (os.strerror(refusal.errno), "see namespaces(7)"))
    if refusal.errno in {errno.EPERM, errno.EACCES}:
        for (name, value), told in _BY_SETTING.items():
            if settings.get(name) == value:
                why, remedy = told
                break
    return f"{why} ({refusal})", remedy


# --- the broker ---------------------------------------------------------------------------------

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
