"""Where no broker is to be had: it says exactly why, with the remedy, and nothing was started."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import portlease
from _brokered import need_broker
from portlease import _sandbox
from portlease._errors import BrokerUnavailableError
from portlease._sandbox import Refusal
from portlease._tree import _process
from portlease._tree._process import Hold, Process

if sys.platform != "linux":
    pytest.skip("the broker is Linux's", allow_module_level=True)

HERE = Path(__file__).parent
SECCOMP, PRCTL, PIDFD_OPEN, PIDFD_GETFD = {
    "x86_64": (317, 157, 434, 438),
    "aarch64": (277, 167, 434, 438),
}.get(os.uname().machine, (-1, -1, 434, 438))

TRY = """
import json, socket, sys
from portlease._errors import BrokerUnavailableError
from portlease._tree._process import Hold, Process
mark = sys.argv[1]
with socket.socket() as hold:
    hold.bind(("127.0.0.1", 0))
    holds = [Hold("tcp", hold.getsockname()[1], hold.fileno())]
    try:
        with Process.start(["touch", mark], holds=holds) as process:
            process.wait(200)
        print(json.dumps(["to be had", ""]))
    except BrokerUnavailableError as error:
        print(json.dumps([error.reason, error.remedy]))
"""


def tried(mark: Path, *before: str) -> tuple[str, str]:
    """Run TRY behind *before*; return the reason and the remedy."""
    done = subprocess.run(
        [*before, sys.executable, "-W", "error", "-c", TRY, str(mark)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    reason, remedy = json.loads(done.stdout)
    return reason, remedy


@pytest.mark.parametrize(
    ("number", "code", "words", "mend"),
    [
        (SECCOMP, errno.EPERM, "a seccomp profile forbids seccomp(2)", "seccomp=unconfined"),
        (SECCOMP, errno.EBUSY, "the kernel allows one", "outside"),
        (SECCOMP, errno.EINVAL, "gVisor", "5.6"),
        (SECCOMP, errno.ENOSYS, "no seccomp filters", "CONFIG_SECCOMP_FILTER"),
        (PIDFD_OPEN, errno.ENOSYS, "no pidfd_open(2)", "5.6"),
        (PIDFD_OPEN, errno.EPERM, "forbids pidfd_open(2)", "unconfined"),
        (PIDFD_GETFD, errno.ENOSYS, "no pidfd_getfd(2)", "5.6"),
        (PIDFD_GETFD, errno.EPERM, "forbids pidfd_getfd(2)", "--cap-add SYS_PTRACE"),
    ],
)
def test_a_system_call_that_is_refused(
    number: int, code: int, words: str, mend: str, tmp_path: Path
) -> None:
    """The reason names the call and its errno; the command was not executed."""
    need_broker()
    forbid = [sys.executable, str(HERE / "_forbid.py"), str(number), str(code)]
    mark = tmp_path / "mark"
    reason, remedy = tried(mark, *forbid)
    assert words in reason
    assert errno.errorcode[code] in reason
    assert mend in remedy
    assert not mark.exists()


def test_it_is_to_be_had_here(tmp_path: Path) -> None:
    """The control: where nothing is refused the same programs get a broker, without a word."""
    need_broker()
    assert tried(tmp_path / "mark") == ("to be had", "")
    assert (tmp_path / "mark").exists()
    assert _process.why_no_broker() is None


def test_without_a_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other systems, and on a Linux without /proc, there is none."""
    monkeypatch.setattr(_process, "_keeper_is_possible", lambda: False)
    with portlease.lease() as lease, pytest.raises(BrokerUnavailableError, match="keeper"):
        Process.start(["true"], holds=[Hold("tcp", lease.port, 0)])
    assert _process.why_no_broker() is not None


@pytest.mark.parametrize(
    ("refusal", "scope", "words"),
    [
        (Refusal("pidfd_getfd", errno.EPERM), "3", "ptrace_scope=3"),
        (Refusal("pidfd_getfd", errno.EPERM), "1", "Docker"),
        (Refusal("/proc/7/mem", errno.EACCES), None, "/proc/PID/mem"),
        (Refusal("seccomp on mips", errno.ENOSYS), None, "seccomp on mips: ENOSYS"),
        (Refusal(_sandbox.OUTER, errno.ECONNREFUSED), None, "has ended"),
        (None, None, "keeper"),
    ],
)
def test_words(refusal: Refusal | None, scope: str | None, words: str) -> None:
    """What is told of what this machine will not do on demand."""
    why, remedy = _sandbox.explain_broker(refusal, scope)
    assert words in why
    assert remedy
