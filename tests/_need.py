"""What a test needs of the machine: looked for, never guessed from the name of the system.

Without it a test is skipped, with the reason. Where PORTLEASE_REQUIRE=1 is set, as on CI, it fails
instead, so that a test which silently stopped running is noticed.

A capability is decided by really doing the thing once in each process, in a child process wherever
the attempt changes the process that makes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import importlib.util
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from _processes import HANG_S
from _thieves import has_mptcp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REQUIRE_VARIABLE: Final = "PORTLEASE_REQUIRE"

# Debian puts these outside an ordinary user's PATH.
_SYSTEM_DIRECTORIES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
# PostgreSQL's own programs are in no PATH at all on Debian, but in one directory for each version.
_POSTGRESQL_ROOT: Final = Path("/usr/lib/postgresql")


class _Unavailable(Exception):  # noqa: N818 - never leaves this module
    """A probe's answer "no", with the reason as its text."""


# --- programs -----------------------------------------------------------------------------------


@functools.cache
def find_program(name: str) -> str | None:
    """Return the path of program *name*, or None; unlike `need.program` it never skips."""
    directories = [*os.get_exec_path(), *_SYSTEM_DIRECTORIES]
    if _POSTGRESQL_ROOT.is_dir():
        versions = sorted(
            (entry for entry in _POSTGRESQL_ROOT.iterdir() if entry.name.isdecimal()),
            key=lambda entry: int(entry.name),
            reverse=True,
        )
        directories += [str(version / "bin") for version in versions]
    return shutil.which(name, path=os.pathsep.join(directories))


# --- network namespaces -------------------------------------------------------------------------

# Runs inside the new namespace: raises lo (a fresh namespace has it down, and ::1 comes with it),
# sets the ephemeral range, and becomes the command, so that the process id stays the same.
# SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP: netdevice(7), <linux/sockios.h>.
_ENTER: Final = """\
import fcntl, os, socket, struct, sys
low, high, *command = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    answer = fcntl.ioctl(probe, 0x8913, struct.pack("16s24x", b"lo"))
    name, flags = struct.unpack_from("16sh", answer)
    fcntl.ioctl(probe, 0x8914, struct.pack("16sh22x", name, flags | 1))
if int(low):
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as setting:
        setting.write(f"{low} {high}")
os.execvp(command[0], command)
"""


def netns_command(command: Sequence[str], *, ephemeral: tuple[int, int] | None = None) -> list[str]:
    """Return the argument list that runs *command* in a new network namespace.

    ``lo`` is up in it, with 127.0.0.1 and ::1. *ephemeral* is its ``ip_local_port_range``, both
    ends included; None leaves the kernel's default. Who may not make a network namespace alone
    makes a user namespace with it, and is root in that. Every stage replaces itself by the next,
    so the process started is in the end *command* itself, under the same process id. Skips where
    the machine has no network namespaces to give.
    """
    need.capability("netns")
    return _netns_command(command, ephemeral=ephemeral)


def _netns_command(command: Sequence[str], *, ephemeral: tuple[int, int] | None) -> list[str]:
    low, high = ephemeral or (0, 0)
    enter = [sys.executable, "-I", "-S", "-c", _ENTER, str(low), str(high)]
    return [*_unshare(), *enter, *command]


@functools.cache
def _unshare() -> tuple[str, ...]:
    """Return the command that makes a network namespace: with a user namespace only if it must."""
    if not sys.platform.startswith("linux"):
        raise _Unavailable(f"{sys.platform} has no network namespaces")
    unshare = find_program("unshare")
    if unshare is None:
        raise _Unavailable("unshare (util-linux) is not installed")
    alone = (unshare, "--net")
    try:
        _run_probe([*alone, "true"])
    except _Unavailable:
        return (unshare, "--user", "--map-root-user", "--net")
    return alone


def in_new_netns(
    script: str,
    *arguments: str,
    ephemeral: tuple[int, int] | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = HANG_S,
) -> subprocess.CompletedProcess[str]:
    """Run the Python source *script* in a new network namespace and return how it ended.

    The script is dedented first, so it may be an indented triple-quoted string; it finds
    *arguments* in ``sys.argv[1:]`` and can import what a test can. See `netns_command` for
    *ephemeral*. *env* is added to this process's environment. *timeout_s* seconds are a hang guard:
    past them the script's whole process group is killed and the test fails. The exit status is not
    checked. Skips where the machine has no network namespaces to give.
    """
    need.capability("netns")
    return _run_in_netns(
        textwrap.dedent(script), *arguments, ephemeral=ephemeral, env=env, timeout_s=timeout_s
    )


def call_in_new_netns(
    module: str,
    call: str,
    *,
    ephemeral: tuple[int, int] | None = None,
    timeout_s: float = HANG_S,
) -> Any:  # noqa: ANN401 - what it returns, as JSON
    """Call a function of a module in a new network namespace, and return what it returns.

    *module* is the ``__file__`` of it, *call* such as ``"function(7)"``; what it returns must be
    fit for JSON, and it may print before. The rest is as in `in_new_netns`.
    """
    path = Path(module)
    done = in_new_netns(
        f"""
        import json, sys
        sys.path.insert(0, {str(path.parent)!r})
        import {path.stem}
        print(json.dumps({path.stem}.{call}))
        """,
        ephemeral=ephemeral,
        timeout_s=timeout_s,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def _run_in_netns(
    script: str,
    *arguments: str,
    ephemeral: tuple[int, int] | None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = HANG_S,
) -> subprocess.CompletedProcess[str]:
    command = _netns_command([sys.executable, "-c", script, *arguments], ephemeral=ephemeral)
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).parent), *([inherited] if inherited else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env or {})}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # one group, so that the hang guard reaches the script's children
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):  # the whole group has just ended
                os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                pytest.fail(
                    f"the script in the network namespace hung for {timeout_s} s\n"
                    f"--- stdout\n{stdout}\n--- stderr\n{stderr}"
                )
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _probe_netns() -> None:
    check = "import socket; socket.create_server(('127.0.0.1', 0)).close()"
    done = _run_in_netns(check, ephemeral=(40000, 40099))
    if done.returncode != 0:
        raise _Unavailable(f"no network namespace to be had: {_last_line(done.stderr)}")


# --- other capabilities -------------------------------------------------------------------------


def _probe_userns() -> None:
    unshare = find_program("unshare")
    if unshare is None:
        raise _Unavailable("unshare (util-linux) is not installed")
    _run_probe([unshare, "--user", "--map-root-user", "true"])


def _probe_root() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise _Unavailable("not root")


def _probe_ipv6() -> None:
    if not socket.has_ipv6:
        raise _Unavailable("this Python is built without IPv6")
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}:
            raise
        raise _Unavailable(f"no IPv6 here: {error}") from error


def _probe_proc() -> None:
    if not Path(f"/proc/{os.getpid()}/fd").is_dir():
        raise _Unavailable("no /proc here")
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").is_file():
        raise _Unavailable("/proc does not list children (CONFIG_PROC_CHILDREN)")


def _probe_inet_diag() -> None:
    """A listening socket of ours must be in the kernel's answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if port not in _diag_ports(1 << 10):  # TCP_LISTEN
            raise _Unavailable("sock_diag does not show a listening socket of this process")


def _probe_bound_inactive() -> None:
    """A socket that is bound but does not listen must be in the kernel's answer (Linux 6.8)."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if held.getsockname()[1] not in _diag_ports(1 << 13):  # TCP_BOUND_INACTIVE
            raise _Unavailable("sock_diag does not show bound sockets that do not listen")


def _diag_ports(states: int) -> set[int]:
    """Return the local IPv4 TCP ports that sock_diag(7) lists in *states*, a bit mask."""
    if not sys.platform.startswith("linux"):
        raise _Unavailable(f"{sys.platform} has no sock_diag")
    dump = struct.pack("=IHHII", 72, 20, 0x301, 1, 0)  # SOCK_DIAG_BY_FAMILY, REQUEST | DUMP
    request = struct.pack("=BBBxI48x", socket.AF_INET, socket.IPPROTO_TCP, 0, states)
    ports: set[int] = set()
    try:
        diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)  # NETLINK_SOCK_DIAG
    except OSError as error:
        if error.errno not in {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EPERM}:
            raise
        raise _Unavailable(f"no sock_diag here: {error}") from error
    with diag:
        diag.settimeout(10)
        diag.sendto(dump + request, (0, 0))
        while True:
            answer = diag.recv(1 << 17)
            while answer:
                length, kind = struct.unpack_from("=IH", answer)
                if kind == 3:  # NLMSG_DONE
                    return ports
                if kind == 2:  # NLMSG_ERROR
                    code = -struct.unpack_from("=i", answer, 16)[0]
                    raise _Unavailable(f"sock_diag answers: {os.strerror(code)}")
                ports.add(struct.unpack_from("!H", answer, 16 + 4)[0])
                answer = answer[(length + 3) & ~3 :]


# Installs a filter that allows everything and asks for its listener: seccomp_unotify(2).
_SECCOMP: Final = """\
import ctypes, os, struct, sys
number = {"x86_64": 317, "aarch64": 277}.get(os.uname().machine)
if number is None:
    sys.exit(f"seccomp's number on {os.uname().machine} is not known here")
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
    sys.exit("no_new_privs: " + os.strerror(ctypes.get_errno()))
allow = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(allow)))
# SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
if libc.syscall(number, 1, 8, program) < 0:
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
"""


def _probe_seccomp() -> None:
    if not sys.platform.startswith("linux"):
        raise _Unavailable(f"{sys.platform} has no seccomp")
    _run_probe([sys.executable, "-I", "-S", "-c", _SECCOMP])


def _probe_subreaper() -> None:
    if not sys.platform.startswith("linux"):
        raise _Unavailable(f"{sys.platform} has no PR_SET_CHILD_SUBREAPER")
    already = ctypes.c_int()
    if ctypes.CDLL(None).prctl(37, ctypes.byref(already), 0, 0, 0) != 0:  # PR_GET_CHILD_SUBREAPER
        raise _Unavailable("the kernel has no child subreapers")


def _probe_abstract_unix() -> None:
    if not sys.platform.startswith("linux"):
        raise _Unavailable(f"{sys.platform} has no abstract Unix sockets")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.bind("")  # autobind, unix(7)
        name = probe.getsockname()[1:].decode()
        if name not in Path("/proc/self/net/unix").read_text(encoding="utf-8"):
            raise _Unavailable("/proc/net/unix does not list this process's sockets")


def _probe_dev_full() -> None:
    if not Path("/dev/full").is_char_device():
        raise _Unavailable("no /dev/full here")


def _probe_mptcp() -> None:
    if not has_mptcp():
        raise _Unavailable("this kernel has no Multipath TCP")


def _probe_other_user() -> None:
    """Root may become nobody, so that a test can look at the machine as a stranger does."""
    _probe_root()
    become_nobody = "import os; os.setgroups([]); os.setresuid(65534, 65534, 65534)"
    _run_probe([sys.executable, "-I", "-S", "-c", become_nobody])


def _run_probe(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    if done.returncode != 0:
        raise _Unavailable(_last_line(done.stderr) or f"the probe ended with {done.returncode}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


_PROBES: Final[dict[str, Callable[[], None]]] = {
    "abstract_unix": _probe_abstract_unix,
    "bound_inactive": _probe_bound_inactive,
    "dev_full": _probe_dev_full,
    "inet_diag": _probe_inet_diag,
    "ipv6": _probe_ipv6,
    "mptcp": _probe_mptcp,
    "netns": _probe_netns,
    "other_user": _probe_other_user,
    "proc": _probe_proc,
    "root": _probe_root,
    "seccomp": _probe_seccomp,
    "subreaper": _probe_subreaper,
    "userns": _probe_userns,
}


@functools.cache
def why_not(capability: str) -> str | None:
    """Return why *capability* is not to be had, or None where it is; never skips.

    Raises `KeyError` for a capability that has no probe.
    """
    try:
        _PROBES[capability]()
    except _Unavailable as answer:
        return str(answer)
    return None


@functools.cache
def _python_of(uid: int) -> str | None:
    """The first Python from 3.11 on that the user may run."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for program in (sys.executable, find_program("python3"), "/usr/bin/python3"):
        if program is None:
            continue
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [program, "-c", check],
                user=uid,
                group=uid,
                extra_groups=[],
                cwd="/",
                stderr=subprocess.DEVNULL,
                timeout=HANG_S,
                check=False,
            )
            if done.returncode == 0:
                return program
    return None


# --- what tests call ----------------------------------------------------------------------------


class Need:
    """Asks for what a test cannot do without."""

    def program(self, name: str) -> str:
        """Return the path of program *name*; skip or fail the test where it is not installed."""
        path = find_program(name)
        if path is None:
            self.missing(f"{name} (not installed)", f"{name} is not installed")
        return path

    def capability(self, name: str) -> None:
        """Skip or fail the test where the machine cannot do *name*, one of `_PROBES`."""
        reason = why_not(name)
        if reason is not None:
            self.missing(f"{name} ({reason})", f"{name}: {reason}")

    def module(self, name: str) -> None:
        """Skip or fail the test where module *name* is not installed."""
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # not even the package that it would be in
            found = None
        if found is None:
            self.missing(f"{name} (not installed)", f"{name} is not installed")

    def everybodys_python(self, uid: int = 65534) -> str:
        """Return a Python that user *uid* may run; a virtual environment's may be root's own."""
        self.capability("other_user")
        path = _python_of(uid)
        if path is None:
            what = f"a Python from 3.11 on that user {uid} may run"
            self.missing(what, f"no {what.removeprefix('a ')}")
        return path

    def missing(self, what: str, reason: str) -> NoReturn:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"CI must have {what}", pytrace=False)
        pytest.skip(reason)


need = Need()
