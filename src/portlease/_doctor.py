"""What is promised on this machine, and why: facts, each found out by trying the thing itself.

Nothing is printed here, and nothing is changed on the machine; what would change the process that
tries it (a namespace, a filter) is tried in a child. The command line renders what `examine` gives.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portlease import _pool, _registry
from portlease._errors import (
    IsolationUnavailableError,
    PortleaseError,
    PortUnavailableError,
)
from portlease._platform import backend
from portlease._take import lease
from portlease._tree import _process
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final, Literal, TypeAlias

    Level: TypeAlias = Literal["ok", "limited", "missing"]

_FEW_PORTS: Final = 256
_FEW_FILES: Final = 512
_HANG_GUARD_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that the promise rests on, or that later parts of portlease will.

    Attributes:
        name: what was looked at, in a word or two.
        found: what was found.
        level: ``ok``; ``limited``: there is less of it than is promised elsewhere; ``missing``.
        follows: what follows from it, a sentence.
        remedy: what would mend it; None where there is nothing to mend.
        promised: whether what is promised today depends on it.
        data: the same for a program.
    """

    name: str
    found: str
    level: Level = "ok"
    follows: str
    remedy: str | None = None
    promised: bool = True
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Every fact, in the order in which they are told."""

    facts: tuple[Fact, ...]

    @property
    def full(self) -> bool:
        """Whether all that is promised holds here (docs/promise.md)."""
        return all(fact.level == "ok" for fact in self.facts if fact.promised)

    def __getitem__(self, name: str) -> Fact:
        return next(fact for fact in self.facts if fact.name == name)


def examine() -> Diagnosis:
    """Find out everything; takes some tenths of a second, most of it for starting children."""
    return Diagnosis(tuple(_facts()))


def _facts() -> Iterator[Fact]:
    yield _system()
    yield _ephemeral()
    yield _candidates()
    yield _reserved()
    yield _unprivileged()
    yield _ipv6()
    yield _hold()
    yield _guard()
    yield _board()
    if sys.platform == "linux":
        yield _socket_tables()
        yield _processes()
    yield _keeper()
    if sys.platform != "win32":
        yield _files()
    if sys.platform == "linux":
        yield _namespaces()
        yield _broker()


# --- the system, and where ports come from --------------------------------------------------------


def _system() -> Fact:
    if sys.platform != "linux":
        return Fact(
            name="system",
            found=sys.platform,
            level="limited",
            follows="a hold cannot be shared with a server here: leases step aside for all of "
            "them, and only this process's own leases can be listed",
            remedy="run it on Linux where the whole promise is needed",
            data={"system": sys.platform},
        )
    name = os.uname()
    found = f"{name.sysname} {name.release}, {name.machine}"
    data = {"system": name.sysname, "release": name.release, "machine": name.machine}
    if not _can_open_pidfd():
        return Fact(
            name="system",
            found=found,
            level="limited",
            follows="`portlease hold --pid` cannot be had: pidfd_open(2) is refused or unknown",
            remedy="use Linux 5.3 or later, and a seccomp profile that knows pidfd_open",
            data=data,
        )
    return Fact(
        name="system", found=found, follows="the whole promise is to be had on Linux", data=data
    )


def _can_open_pidfd() -> bool:
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EPERM}:  # before 5.3; an old seccomp profile
            raise
        return False
    return True


def _ephemeral() -> Fact:
    low, high = backend.rules().ephemeral
    return Fact(
        name="ephemeral range",
        found=f"{low}-{high}, {high - low + 1} ports",
        follows="from it the system itself gives ports, to bind(0) and to outgoing connections",
        data={"low": low, "high": high},
    )


def _candidates() -> Fact:
    rules = backend.rules()
    pool = _pool.candidates(rules)
    count = len(pool)
    remedy = (
        "give the system a smaller range: "
        "sysctl -w net.ipv4.ip_local_port_range='32768 60999' (as root)"
    )
    if not count:
        return Fact(
            name="pool",
            found="no port is left outside the ephemeral range",
            level="limited",
            follows="leases take what bind(0) gives them: safe while held or offered, but on a "
            "port that is only guarded, and on every UDP port, anybody's bind(0) or connect() "
            "may land",
            remedy=remedy,
            data={"ports": 0, "from": "kernel"},
        )
    return Fact(
        name="pool",
        found=f"{count} ports, from {pool[0]} to {pool[-1]}",
        level="limited" if count < _FEW_PORTS else "ok",
        follows="leases come from outside the ephemeral range: nobody's bind(0) or connect() lands "
        "there" + (", but there are few" if count < _FEW_PORTS else ""),
        remedy=remedy if count < _FEW_PORTS else None,
        data={"ports": count, "first": pool[0], "last": pool[-1], "from": "pool"},
    )


def _reserved() -> Fact:
    reserved = sorted(backend.rules().reserved)
    return Fact(
        name="reserved ports",
        found=_ranges(reserved) or "none",
        follows="no lease is given them, unless it names them (ip_local_reserved_ports)",
        data={"ports": reserved},
    )


def _ranges(numbers: list[int]) -> str:
    """``[1, 2, 3, 7]`` as ``1-3, 7``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _unprivileged() -> Fact:
    first = backend.rules().first_unprivileged
    may = _may_bind_privileged()
    return Fact(
        name="first unprivileged port",
        found=str(first),
        follows="leases are taken from there on"
        + (", and lower ones too where they are named" if may else ""),
        data={"port": first, "lower_ones_too": may},
    )


def _may_bind_privileged() -> bool:
    if sys.platform == "linux":
        from portlease._platform import _linux_proc

        return _linux_proc.can_bind_privileged()
    return sys.platform == "win32" or os.geteuid() == 0


def _ipv6() -> Fact:
    if backend.dual_stack():
        only = _sysctl("net/ipv6/bindv6only") == "1"
        return Fact(
            name="IPv6",
            found="dual stack" + (", bindv6only=1" if only else ""),
            follows="one hold covers every IPv4 and IPv6 address"
            + ("; a server that binds [::] gets no IPv4 unless it asks for it" if only else ""),
            data={"ipv6": True, "dual_stack": True, "bindv6only": only},
        )
    if _has_ipv6():
        return Fact(
            name="IPv6",
            found="IPv6, but no socket for it and IPv4 at once",
            level="limited",
            follows="a lease holds 0.0.0.0 alone; the same port on [::] is not held",
            remedy="name the address: --host ::1",
            data={"ipv6": True, "dual_stack": False},
        )
    return Fact(
        name="IPv6",
        found="off",
        follows="a lease holds 0.0.0.0, which is every address there is",
        data={"ipv6": False, "dual_stack": False},
    )


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        # EADDRINUSE: it is there, only the ephemeral range is full.
        no_ipv6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}
        if error.errno not in no_ipv6 | {errno.EADDRINUSE}:
            raise
        return error.errno == errno.EADDRINUSE
    return True


def _sysctl(name: str) -> str | None:
    try:
        with open("/proc/sys/" + name, encoding="ascii") as file:
            return file.read().strip()
    except (FileNotFoundError, PermissionError):
        return None


# --- leases, tried for real -----------------------------------------------------------------------


def _hold() -> Fact:
    if not backend.CAN_OFFER:
        return Fact(
            name="holds",
            found="cannot be shared with a server",
            level="limited",
            follows="a lease steps aside for every server",
            data={"exclusive": True, "offered": False},
        )
    try:
        with lease(offer=False, label="portlease doctor") as one:
            exclusive = not _binds(one.port, reuse=False) and not _binds(one.port, reuse=True)
            one.offer()
            offered = _binds(one.port, reuse=True) and not _binds(one.port, reuse=False)
    except (PortleaseError, OSError) as error:
        return _failed("holds", "no port can be leased here", error)
    data = {"exclusive": exclusive, "offered": offered}
    other_kernel = "use a Linux kernel of its own: this one (gVisor, an emulation?) binds otherwise"
    if not exclusive:
        return Fact(
            name="holds",
            found="not exclusive: another socket could be bound to a held port",
            level="missing",
            follows="a lease protects from other leases only",
            remedy=other_kernel,
            data=data,
        )
    if not offered:
        return Fact(
            name="holds",
            found="exclusive, but a server cannot listen beside one",
            level="limited",
            follows="every server needs --how step-aside",
            remedy=other_kernel,
            data=data,
        )
    return Fact(
        name="holds",
        found="exclusive, and offered to servers that set SO_REUSEADDR",
        follows="a port stays held while a server starts, runs and restarts on it",
        data=data,
    )


def _binds(port: int, *, reuse: bool) -> bool:
    """Whether a server could bind this port, and listen; on the address that servers use most."""
    with socket.socket() as server:
        if reuse:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
            server.listen()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def _failed(name: str, found: str, error: Exception) -> Fact:
    return Fact(
        name=name,
        found=f"{found}: {error}",
        level="missing",
        follows="nothing is promised",
        remedy="see what the error says",
        data={"error": str(error)},
    )


def _guard() -> Fact:
    try:
        with lease(label="portlease doctor") as one:
            one.step_aside()
            kept = _is_kept_from_leases(one.port)
            free = _binds(one.port, reuse=False)
    except (PortleaseError, OSError) as error:
        return _failed("guards", "no lease can step aside here", error)
    data = {"keeps_leases_away": kept, "frees_the_port": free}
    if not (kept and free):
        return Fact(
            name="guards",
            found="do not keep other leases away" if free else "do not free the port",
            level="missing",
            follows="a port that a lease stepped aside from may be leased twice, or not be served",
            remedy="leave abstract Unix sockets to this process (AppArmor, Landlock)",
            data=data,
        )
    return Fact(
        name="guards",
        found="work",
        follows="a lease can step aside for a server without SO_REUSEADDR, and no other lease gets "
        "its port meanwhile",
        data=data,
    )


def _is_kept_from_leases(port: int) -> bool:
    try:
        lease(ports=[port], offer=False, label="portlease doctor").release()
    except PortUnavailableError:
        return True
    return False


def _board() -> Fact:
    if not backend.BOARD:
        return Fact(
            name="list of leases",
            found="this process's own only",
            level="limited",
            follows="`portlease ls` and `who` do not know other processes' leases",
        )
    try:
        with lease(label="portlease doctor") as one:
            seen = any(row.port == one.port for row in _registry.rows())
    except (PortleaseError, OSError) as error:
        return _failed("list of leases", "cannot be read", error)
    if not seen:
        return Fact(
            name="list of leases",
            found="does not show our own lease",
            level="missing",
            follows="`portlease ls` shows nothing, and stepping aside is not safe from a lease "
            "that is being taken",
            remedy="let this process read /proc/net/unix",
            data={"readable": False},
        )
    return Fact(
        name="list of leases",
        found="readable",
        follows="`portlease ls` shows the leases of all processes and users of this network "
        "namespace",
        data={"readable": True},
    )


# --- seeing others, and running servers -----------------------------------------------------------

if sys.platform == "linux":

    def _socket_tables() -> Fact:
        from portlease._platform import _linux_diag

        try:
            # A lease's port: bind(0) gives none where the ephemeral range is full.
            with lease(offer=False, label="portlease doctor") as one, one.hand_over() as probe:
                lists_bound = bool(_linux_diag.sockets(one.port, "tcp"))
                probe.listen()
                survey = _linux_diag.survey(one.port, "tcp", states={"LISTEN"})
        except (PortleaseError, OSError) as error:
            return _no_socket_tables(f"cannot be read: {error}")
        if not survey.entries:
            return _no_socket_tables("do not show our own listening socket")
        data = {"netlink": survey.refused is None, "listening": True, "bound": lists_bound}
        if survey.refused is not None:
            return Fact(
                name="socket tables",
                found=f"in /proc alone: {survey.refused}",
                level="limited",
                follows="readiness is proved, more slowly; who has bound a port and does not "
                "listen, `who` cannot tell",
                remedy="allow netlink (NETLINK_SOCK_DIAG) in the sandbox",
                data=data,
            )
        if not lists_bound:
            return Fact(
                name="socket tables",
                found="by netlink, without sockets that are only bound",
                level="limited",
                follows="readiness is proved; who has bound a port and does not listen, `who` "
                "cannot tell",
                remedy="use Linux 6.8 or later",
                data=data,
            )
        return Fact(
            name="socket tables",
            found="by netlink",
            follows="readiness is proved, and `who` names every socket on a port",
            data=data,
        )

    def _no_socket_tables(found: str) -> Fact:
        return Fact(
            name="socket tables",
            found=found,
            level="missing",
            follows="no server is ever found ready, and who has a port cannot be told",
            remedy="allow netlink (NETLINK_SOCK_DIAG), or mount /proc",
            data={"netlink": False, "listening": False, "bound": False},
        )

    def _processes() -> Fact:
        try:
            hidden = _hidepid()
        except (FileNotFoundError, PermissionError) as error:
            return Fact(
                name="processes",
                found=f"cannot be seen: {error.filename}: {error.strerror}",
                level="missing",
                follows="neither leases nor whose a socket is can be told, and servers run as "
                "plain children",
                remedy="mount -t proc proc /proc",
                data={"hidepid": None, "sees_others_descriptors": False},
            )
        sees_all = _may_see_all()
        data = {"hidepid": hidden, "sees_others_descriptors": sees_all}
        if hidden not in {None, "0", "off"} and not sees_all:
            return Fact(
                name="processes",
                found=f"other users' are hidden (hidepid={hidden})",
                level="limited",
                follows="of other users' servers and leases, the process is not told",
                remedy="mount -o remount,hidepid=0 /proc, or be root",
                data=data,
            )
        return Fact(
            name="processes",
            found="all are visible",
            follows="servers and leases of others are told with their commands"
            if sees_all
            else "leases of others are told with their commands; whose another user's socket is, "
            "only root can see",
            data=data,
        )

    def _hidepid() -> str | None:
        """The mount option of /proc; None where it has none."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            return hidepid(file.read())

    def _may_see_all() -> bool:
        """Whether process 1's descriptors may be looked at: CAP_SYS_PTRACE, ptrace(2)."""
        try:
            os.listdir("/proc/1/fd")
        except (PermissionError, FileNotFoundError):
            return False
        return True


def hidepid(mountinfo: str) -> str | None:
    """The value of ``hidepid`` in the last mount on /proc, from the text of proc_pid_mountinfo(5).

    None where it is not given.
    """
    value = None
    for line in mountinfo.splitlines():
        mount, _, tail = line.partition(" - ")
        fields, rest = mount.split(), tail.split()
        if len(fields) > 4 and fields[4] == "/proc" and rest[:1] == ["proc"]:  # noqa: PLR2004
            options = dict(part.partition("=")[::2] for part in rest[-1].split(","))
            value = options.get("hidepid")
    return value


def _keeper() -> Fact:
    """Start a command that does nothing, and see what kept it."""
    try:
        with Process.start([sys.executable, "-I", "-S", "-c", ""]) as process:
            returncode = process.wait(_HANG_GUARD_S)
    except (PortleaseError, OSError) as error:
        return _failed("servers", "cannot be started", error)
    kept = type(process).__name__ == "KeptProcess" and returncode == 0
    return Fact(
        name="servers",
        found="run under a keeper" if kept else "run as plain children",
        level="ok" if kept else "limited",
        follows="nothing of a server is left behind, daemons included, even if we are killed"
        if kept
        else "a daemon that leaves its process group is not found, and if we are killed, the "
        "server stays",
        remedy=None if kept else "Linux with /proc and Python's ctypes",
        data={"keeper": kept},
    )


if sys.platform != "win32":

    def _files() -> Fact:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = soft != resource.RLIM_INFINITY and soft < _FEW_FILES
        words = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft}"
        return Fact(
            name="open files",
            found=f"{words} for a process (RLIMIT_NOFILE)",
            level="limited" if few else "ok",
            follows="a lease needs two"
            + ("" if soft == resource.RLIM_INFINITY else f": {soft // 2} leases at most"),
            remedy="raise it: ulimit -n 4096" if few else None,
            data={"soft": soft, "hard": hard},
        )


# --- what later parts need ------------------------------------------------------------------------

if sys.platform == "linux":

    def _namespaces() -> Fact:
        from portlease import _isolate

        try:
            how = _isolate.require()
        except IsolationUnavailableError as error:
            return Fact(
                name="private networks",
                found=f"not to be had: {error.reason}",
                level="missing",
                follows="`portlease isolate`, `repeat --isolate` and pytest's --isolate=worker "
                "stop with this reason",
                remedy=error.remedy,
                promised=False,
                data={"how": None, "refused": error.reason},
            )
        return Fact(
            name="private networks",
            found=f"to be had, {_isolate.RIGHTS[how]}",
            follows="any number of suites may use the same ports at once: `portlease isolate`, "
            "`repeat --isolate`, pytest's --isolate=worker",
            promised=False,
            data={"how": how},
        )

    def _broker() -> Fact:
        refused = _process.why_no_broker()
        if refused is not None:
            return Fact(
                name="broker",
                found=f"not to be had: {refused.reason}",
                level="missing",
                follows="--how broker does what is done without it: the lease is offered, or steps "
                "aside",
                remedy=refused.remedy,
                promised=False,
                data={"available": False, "refused": refused.reason},
            )
        alone = _has_capability(_CAP_NET_RAW)
        powers = _has_capability(_CAP_SYS_ADMIN)
        return Fact(
            name="broker",
            found="to be had" + ("" if powers else ", with no_new_privs"),
            follows="with --how broker a server binds while its port is held: no bind of anybody "
            + ("else succeeds" if alone else "else succeeds that does not set SO_REUSEADDR")
            + ("" if powers else "; sudo, su and setuid programs have no power in it"),
            promised=False,
            data={
                "available": True,
                "apart": "by interface" if alone else "by SO_REUSEADDR",
                "no_new_privs": not powers,
            },
        )

    _CAP_NET_RAW: Final = 13
    _CAP_SYS_ADMIN: Final = 21

    def _has_capability(number: int) -> bool:
        """Whether a child of ours would have it: capabilities(7)."""
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            pairs = (line.partition(":") for line in file)
            value = next(value for name, _, value in pairs if name == "CapEff")
        return bool(int(value, 16) >> number & 1)
