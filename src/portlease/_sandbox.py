"""Whether Linux lets us make a network namespace, or watch a process's system calls.

Both would change the process that tries, so a child tries, for real, and says how far it came.
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

# The system calls' numbers are in asm/unistd.h; pidfd_getfd(2) has the same one everywhere. The
# filter allows everything: BPF_RET | BPF_K, SECCOMP_RET_ALLOW. PR_SET_NO_NEW_PRIVS is 38; then
# SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_NEW_LISTENER, seccomp_unotify(2).
_SECCOMP: Final = """\
numbers = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "loongarch64": 277, "s390x": 348,
           "ppc64le": 358}
number = numbers.get(os.uname().machine) if sys.maxsize > 2**32 else None
if number is None:
    print("this machine", 38)
    sys.exit()
def call(*arguments):
    return called(libc.syscall(*arguments))
me = stage("pidfd_open", os.pidfd_open, os.getpid())
stage("pidfd_getfd", call, 438, me, 0, 0)
libc.prctl(38, 1, 0, 0, 0)
allow = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(allow)))
stage("seccomp", call, number, 1, 8, program)
"""


def network_namespace(how: Literal["root", "user"]) -> Refusal | None:
    """Make a network namespace with ``lo`` up: by our own privileges, or in a user namespace.

    Returns:
        None if it can be had.
    """
    return _tried(_NAMESPACE, how)


def seccomp_notification() -> Refusal | None:
    """Install a filter with a listener, and fetch a descriptor by pidfd_getfd(2).

    Returns:
        None if it can be had.
    """
    return _tried(_SECCOMP)


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
