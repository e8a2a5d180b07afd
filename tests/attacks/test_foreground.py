"""A command in the foreground, among the processes of whoever called it.

It is in its caller's process group, as if nothing of ours were between: the keeper, its parent, is
to the kernel no shell that looks after that group (kill_orphaned_pgrp(), kernel/exit.c).
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from _brokered import need_broker
from _cli import CTRL_Z, PORTLEASE, Terminal, environment, python
from _need import need
from _processes import HANG_S

if sys.platform != "linux":
    pytest.skip("there is no keeper elsewhere; see docs/promise.md", allow_module_level=True)

BESIDE_A_STOPPED_PROCESS: Final = """
import os, signal, subprocess, sys
hangups = []
signal.signal(signal.SIGHUP, lambda *_: hangups.append("hung up"))
stopped = subprocess.Popen(["sleep", "1000"])
try:
    stopped.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    status = subprocess.run(sys.argv[1:]).returncode
    with open(f"/proc/{stopped.pid}/stat") as stat:
        state = stat.read().rpartition(")")[2].split()[0]
    print(status, {"T": "stopped"}.get(state, "continued"), *hangups)
finally:
    stopped.kill()
    stopped.wait()
"""

KILLS_ITS_KEEPER: Final = """
import os, signal, time
from pathlib import Path

def parent(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])

keeper = os.getppid()
deputy = parent(keeper)
# A deputy is on its own once the command has begun; one that comes too late is no matter here.
while os.getsid(deputy) != deputy:
    time.sleep(0.001)
os.kill(keeper, signal.SIGKILL)
while os.getppid() == keeper:
    time.sleep(0.001)
assert os.getppid() == deputy
"""


def beside_a_stopped_process(command: list[str]) -> str:
    """Run *command* in a process group that nobody looks after (CI, nohup), one of it stopped.

    Returns its exit status, what became of the stopped one, and what the group was sent.
    """
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_A_STOPPED_PROCESS, *command],
        start_new_session=True,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
        check=True,
        timeout=HANG_S,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "options",
    [["run"], ["run", "--how", "broker"], ["run", "--how", "offer"], ["hold"]],
    ids=" ".join,
)
def test_its_end_hangs_nobody_up(options: list[str]) -> None:
    """A stopped process of the same group stays as it is, and no SIGHUP comes."""
    need.capability("subreaper")
    if "broker" in options:
        need_broker()
    command = [*PORTLEASE, *options, "--", *python("raise SystemExit(7)")]
    assert beside_a_stopped_process(command) == "7 stopped"


def test_its_end_after_its_keepers_death_hangs_nobody_up() -> None:
    """The deputy, its parent then, is beyond the session, too."""
    need_broker()
    command = [*PORTLEASE, "run", "--how", "broker", "--", *python(KILLS_ITS_KEEPER)]
    assert beside_a_stopped_process(command).endswith("0 stopped")


def test_control_a_parent_in_another_group_hangs_all_up() -> None:
    """As a keeper of the same session would."""
    source = "import os; group = os.getpgrp(); os.setpgid(0, 0); "
    source += "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}, setpgroup=group), 0)"
    assert beside_a_stopped_process([*python(source)]) == "0 continued hung up"


@pytest.mark.parametrize("options", [["run"], ["run", "--how", "broker"], ["hold"]], ids=" ".join)
def test_stopped_by_ctrl_z_it_does_not_outlive_its_shell(options: list[str]) -> None:
    """The kernel hangs an orphaned group up that is stopped; nobody could ever continue it."""
    need.capability("subreaper")
    if "broker" in options:
        need_broker()
    with Terminal([*options, "--", *python("print('up', flush=True); input()")]) as terminal:
        terminal.expect("up")
        terminal.type(CTRL_Z)
        terminal.expect("[stopped by ")
        # Terminal's end: its shell is killed, and of all that it has started nothing is left.
