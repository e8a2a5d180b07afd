"""Where no network of one's own is to be had: exactly why, the remedy, and nothing was run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from _cli import PORTLEASE, environment
from _isolated import run
from _need import need
from _processes import HANG_S
from portlease import _isolate
from portlease._errors import IsolationUnavailableError
from portlease._isolate import _require, _why

if sys.platform != "linux":
    pytest.skip("network namespaces are Linux's", allow_module_level=True)

HERE = Path(__file__).parent
UNSHARE, PIDFD_OPEN = {"x86_64": (272, 434), "aarch64": (97, 434)}.get(
    os.uname().machine, (-1, 434)
)


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    need.capability("netns")
    need.capability("seccomp")


def without(number: int, code: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where a system call fails."""
    forbid = [sys.executable, str(HERE / "_forbid.py"), str(number), str(code)]
    return subprocess.run(
        [*forbid, *PORTLEASE, *words],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=HANG_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("code", "words", "mend"),
    [
        (errno.EPERM, "a seccomp profile forbids it", "--cap-add SYS_ADMIN --cap-add NET_ADMIN"),
        (errno.ENOSPC, "the limit of namespaces is reached", "user.max_net_namespaces"),
        (errno.EINVAL, "no user or network namespaces", "CONFIG_NET_NS"),
    ],
)
def test_unshare_is_refused(code: int, words: str, mend: str) -> None:
    """The line names the cause, the errno and the remedy; status 125; the command is not run."""
    done = without(UNSHARE, code, "isolate", "--", "echo", "it ran")
    assert (done.returncode, done.stdout) == (125, "")
    (line,) = done.stderr.splitlines()
    assert words in line
    assert f"(unshare: {errno.errorcode[code]})" in line
    assert mend in line


def test_if_possible() -> None:
    """Then it is run in the shared network, with the same words as a warning."""
    done = without(UNSHARE, errno.EPERM, "isolate", "--if-possible", "--", "sh", "-c", "exit 4")
    assert done.returncode == 4
    assert "shares the network of this machine: a seccomp profile" in done.stderr
    done = run(_isolate.command(["readlink", "/proc/self/ns/net"], if_possible=True))
    assert done.stdout.strip() != str(Path("/proc/self/ns/net").readlink())
    assert not done.stderr


def test_check_says_the_same() -> None:
    """For a person and for a program."""
    done = without(UNSHARE, errno.EPERM, "isolate", "--check", "--json")
    assert done.returncode == 125
    told = json.loads(done.stdout)
    assert not told["available"]
    assert "seccomp" in told["reason"]
    assert "unconfined" in told["remedy"]


def test_a_forwarder_needs_pidfds() -> None:
    """Without pidfd_open(2) nothing would tell it that the command has ended."""
    done = without(PIDFD_OPEN, errno.ENOSYS, "isolate", "-q", "--reach", "1", "--", "true")
    assert done.returncode == 125
    assert "pidfd_open" in done.stderr


# In a user namespace of our own, in which the limit is ours to set: it holds for those below it.
LIMITED = """
import ctypes, os, sys
uid, gid = os.getuid(), os.getgid()
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000):
    sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
for name, text in ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
with open(f"/proc/sys/user/{sys.argv[1]}", "w") as file:
    file.write("0")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("name", ["max_user_namespaces", "max_net_namespaces"])
def test_a_limit_of_none(name: str) -> None:
    """The sysctl that is 0 is named, with what raises it."""
    if name == "max_user_namespaces":
        # Who has the capabilities needs no user namespace: take them away first.
        drop = (
            "import ctypes, os, sys\n"
            "libc = ctypes.CDLL(None)\n"
            "[libc.prctl(24, number, 0, 0, 0) for number in range(41)]\n"  # PR_CAPBSET_DROP
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        before = [sys.executable, "-I", "-S", "-c", drop]
    else:
        before = []
    inner = [*before, *_isolate.command(["echo", "it ran"])]
    done = run([sys.executable, "-I", "-S", "-c", LIMITED, name, *inner])
    if done.stderr.startswith("unshare: "):
        need.missing("user namespaces", done.stderr)
    assert (done.returncode, done.stdout) == (125, "")
    assert f"user.{name} is 0" in done.stderr
    assert f"sysctl -w user.{name}=" in done.stderr


def test_require_raises() -> None:
    """The library's error has the same as attributes, and can be pickled as all of them can."""
    script = (
        "import pickle\n"
        "from portlease import _isolate\n"
        "from portlease._errors import IsolationUnavailableError\n"
        "try:\n"
        "    _isolate.require()\n"
        "except IsolationUnavailableError as error:\n"
        "    error = pickle.loads(pickle.dumps(error))\n"
        "    print(error.reason); print(error.remedy); print(error)"
    )
    forbid = [sys.executable, str(HERE / "_forbid.py"), str(UNSHARE), str(errno.EPERM)]
    done = run([*forbid, sys.executable, "-c", script])
    reason, remedy, text = done.stdout.splitlines()
    assert reason in text
    assert remedy in text


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have none, and what to do instead is said."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationUnavailableError, match="this is darwin; run it on Linux"):
        _isolate.require()


def test_a_child_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that kills instead of refusing is told, too."""
    kill = f"import os; os.kill(os.getpid(), {int(signal.SIGSYS)})"
    monkeypatch.setattr(_require, "build", lambda *_, **__: [sys.executable, "-c", kill])
    with pytest.raises(IsolationUnavailableError, match=r"was stopped \(it ended with -31\)"):
        _isolate.require()


NONE = dict.fromkeys(
    (
        _why.APPARMOR,
        _why.CLONE,
        _why.MOST_USER,
        _why.MOST_NET,
        _why.SECCOMP,
        _why.CHROOT,
    )
)


@pytest.mark.parametrize(
    ("stage", "code", "found", "words", "mend"),
    [
        ("setgroups", errno.EACCES, {_why.APPARMOR: "1"}, "AppArmor", "userns=0"),
        ("lo", errno.EPERM, {_why.APPARMOR: "1"}, "Ubuntu", "setpriv"),
        ("unshare", errno.EPERM, {_why.CLONE: "0"}, "unprivileged_userns_clone=0", "clone=1"),
        ("unshare", errno.EPERM, {_why.CHROOT: "1"}, "chroot", "outside"),
        ("unshare", errno.EPERM, {_why.SECCOMP: "2"}, "seccomp", "unconfined"),
        ("unshare", errno.EPERM, {}, "security module", "--cap-add"),
        ("unshare", errno.ENOSPC, {_why.MOST_USER: "9"}, "user.max_user_namespaces=9", "raise"),
        ("uid_map", errno.EPERM, {}, "our own user id", "a user that has one"),
        ("setgroups", errno.ENOENT, {}, "not there", "mount /proc"),
        ("uid_map", errno.EROFS, {}, "read-only", "systempaths"),
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", errno.EROFS, {}, "read-only", "leave"),
        ("pasta", errno.ENOENT, {}, "not installed", "passt"),
        ("to listen on ::1 port 1", errno.EADDRINUSE, {}, "in use", "leave out"),
        ("unshare", errno.ENOMEM, {}, "memory", "namespaces(7)"),
    ],
)
def test_words(stage: str, code: int, found: dict[str, str], words: str, mend: str) -> None:
    """What is told of what this machine will not do on demand."""
    why, remedy = _why.explain(stage, code, NONE | found)
    assert words in why
    assert f"({stage}: {errno.errorcode[code]})" in why
    assert mend in remedy
