"""Why no network of one's own is to be had, and the remedy; by what was refused, and the errno.

Used by the helper too, so it needs little.
"""

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, TypeAlias

    Settings: TypeAlias = Mapping[str, str | None]

APPARMOR: "Final" = "kernel/apparmor_restrict_unprivileged_userns"
CLONE: "Final" = "kernel/unprivileged_userns_clone"
MOST_USER: "Final" = "user/max_user_namespaces"
MOST_NET: "Final" = "user/max_net_namespaces"
SECCOMP: "Final" = "seccomp"
CHROOT: "Final" = "chroot"

_CONTAINER: "Final" = (
    "in a container: --security-opt seccomp=unconfined, or --cap-add SYS_ADMIN --cap-add NET_ADMIN"
)
_DENIED: "Final" = frozenset({errno.EPERM, errno.EACCES})
_NO_SUCH: "Final" = frozenset({errno.EINVAL, errno.ENOSYS})


def settings() -> "dict[str, str | None]":
    """What bears on it: sysctls by name, the seccomp mode of this process, whether it is chrooted.

    None for what this kernel does not have, or does not show.
    """
    found = {
        name: _first_line(f"/proc/sys/{name}") for name in (APPARMOR, CLONE, MOST_USER, MOST_NET)
    }
    found[SECCOMP] = _seccomp()
    found[CHROOT] = _chrooted()
    return found


def _first_line(path: str) -> "str | None":
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except (FileNotFoundError, PermissionError):
        return None


def _seccomp() -> "str | None":
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            pairs = (line.partition(":") for line in file)
            return next((value.strip() for name, _, value in pairs if name == "Seccomp"), None)
    except FileNotFoundError:
        return None


def _chrooted() -> "str | None":
    """``"1"`` if our root directory is no mount point, as chroot(2) leaves it."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            return "0" if any(line.split()[4] == "/" for line in file) else "1"
    except FileNotFoundError:
        return None


def elsewhere(platform: str) -> "tuple[str, str]":
    """Why there is none on another system."""
    return (
        f"network namespaces are Linux's, and this is {platform}",
        "run it on Linux, in a container or a virtual machine, or without isolation",
    )


def died(status: int, last_words: str) -> "tuple[str, str]":
    """Why, if the child that tried it said nothing."""
    told = last_words.strip().rpartition("\n")[2] or f"it ended with {status}"
    return (
        f"the child that tried it was stopped ({told})",
        "start it outside of the sandbox that stops it",
    )


def explain(stage: str, number: int, found: "Settings") -> "tuple[str, str]":
    """Return why, and the remedy.

    Args:
        stage: what was refused: a system call, a file that was written, what was set up.
        number: the errno.
        found: of `settings`.
    """
    name = errno.errorcode.get(number, str(number))
    why, remedy = _explain(stage, number, found)
    return f"{why} ({stage}: {name})", remedy


def _explain(stage: str, number: int, found: "Settings") -> "tuple[str, str]":
    if stage == "pasta":
        return _pasta(number)
    if stage in {"unshare", "setgroups", "uid_map", "gid_map", "lo"}:
        return _namespace(stage, number, found)
    if stage.startswith("/proc/sys/"):
        return (
            "/proc/sys is read-only here, so low ports cannot be opened"
            if number == errno.EROFS
            else "low ports cannot be opened",
            "leave --low-ports out, or in a container: --security-opt systempaths=unconfined",
        )
    if stage == "pidfd_open":
        return (
            "a forwarder needs pidfd_open(2), which this kernel or its seccomp profile refuses",
            "use Linux 5.3 or later, or leave --reach and --outside out",
        )
    return os.strerror(number), "leave out what asks for it, or see namespaces(7)"


def _pasta(number: int) -> "tuple[str, str]":
    if number == errno.ENOENT:
        return (
            "--outside needs pasta(1), which is not installed",
            "install it (Debian, Ubuntu, Fedora: passt), or leave --outside out",
        )
    return (
        "pasta(1) did not connect the new network",
        (
            "see whether /dev/net/tun can be opened (in a container: --device /dev/net/tun), and "
            "whether this machine has a default route; or leave --outside out"
        ),
    )


def _namespace(stage: str, number: int, found: "Settings") -> "tuple[str, str]":
    if number == errno.ENOSPC:
        return _limit(found)
    if number in _DENIED:
        return _denied(stage, found)
    if number in _NO_SUCH and stage == "unshare":
        return (
            "this kernel has no user or network namespaces",
            "use a kernel with CONFIG_USER_NS and CONFIG_NET_NS",
        )
    if number == errno.ENOENT:
        return f"/proc/self/{stage} is not there", "mount /proc"
    if number == errno.EROFS:
        return "/proc is read-only here", "in a container: --security-opt systempaths=unconfined"
    return os.strerror(number), "see user_namespaces(7) and network_namespaces(7)"


def _limit(found: "Settings") -> "tuple[str, str]":
    for name in (MOST_USER, MOST_NET):
        if found.get(name) == "0":
            dotted = name.replace("/", ".")
            return f"{dotted} is 0: there may be none", f"sysctl -w {dotted}=10000 (as root)"
    told = ", ".join(
        f"{name.replace('/', '.')}={value}"
        for name in (MOST_USER, MOST_NET)
        if (value := found.get(name)) is not None
    )
    return (
        f"the limit of namespaces is reached{f', here or further out: {told}' if told else ''}",
        "end some, or raise user.max_user_namespaces and user.max_net_namespaces (sysctl, as root)",
    )


def _denied(stage: str, found: "Settings") -> "tuple[str, str]":
    if found.get(CLONE) == "0":
        return (
            "ordinary users may make no user namespaces here (kernel.unprivileged_userns_clone=0)",
            "sysctl -w kernel.unprivileged_userns_clone=1 (as root), or run it as root",
        )
    if found.get(APPARMOR) not in {None, "0"}:
        return (
            (
                "AppArmor gives the user namespaces of ordinary users no rights, as Ubuntu has it "
                "since 24.04 (kernel.apparmor_restrict_unprivileged_userns=1)"
            ),
            (
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (as root), or run it as "
                "root and the command by setpriv(1)"
            ),
        )
    if found.get(CHROOT) == "1":
        return "this process is in a chroot, where there may be none", "start it outside of it"
    if found.get(SECCOMP) not in {None, "0"}:
        return "a seccomp profile forbids it, as in most containers", _CONTAINER
    if stage == "uid_map":
        return (
            "our own user id has no place in the user namespace that we are in",
            "start it as a user that has one",
        )
    return (
        "forbidden: by a security module, or a container without SYS_ADMIN and NET_ADMIN",
        _CONTAINER,
    )
