"""What /proc says of processes, held against processes that we have started ourselves."""

# ruff: noqa: E402 - what is imported last is for Linux alone
from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _need import in_new_netns, need

if sys.platform != "linux":
    pytest.skip("the /proc of Linux", allow_module_level=True)
assert sys.platform == "linux"  # for the type checker, which does not follow skip()

from _processes import HANG_S
from portlease._platform import _linux_proc
from portlease._platform._linux_proc import (
    Stat,
    can_bind_privileged,
    command_line,
    descendants,
    inode_owners,
    parse_capabilities,
    parse_stat,
    parse_uid,
    process_info,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
generous = settings(deadline=None, database=None, max_examples=200)

# Says "ready" and stays until its standard input ends.
STAY = "import sys; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def proc() -> None:
    """Every test here reads /proc."""
    need.capability("proc")


@contextlib.contextmanager
def running(
    script: str, *arguments: str, fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said its first line; it ends with its standard input."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def inode(one: socket.socket) -> int:
    """Return the number that stands in ``socket:[...]``."""
    return os.fstat(one.fileno()).st_ino


# --- who has a socket ---------------------------------------------------------------------------


def test_every_owner_of_a_socket() -> None:
    """A socket that a child inherited is told to be its parent's and its own."""
    with socket.create_server(("127.0.0.1", 0)) as shared, socket.socket() as alone:
        with running(STAY, fds=(shared.fileno(),)) as child:
            found = inode_owners([inode(shared), inode(alone)])
            assert found.pids == {
                inode(shared): sorted([os.getpid(), child.pid]),
                inode(alone): [os.getpid()],
            }
            assert not found.hidden
            among = inode_owners([inode(shared), inode(alone)], [child.pid])
            assert among.pids == {inode(shared): [child.pid], inode(alone): []}
            assert not among.refused
        assert inode_owners([inode(shared)], [os.getpid(), child.pid]).pids == {
            inode(shared): [os.getpid()]
        }


def test_a_socket_that_nobody_has() -> None:
    """An inode without an owner has an empty list, and no question has an empty answer."""
    with socket.socket() as one:
        gone = inode(one)
    assert inode_owners([gone]).pids == {gone: []}
    assert inode_owners([]).pids == {}


def test_processes_that_are_gone() -> None:
    """A zombie, and a number that is nobody's, are neither owners nor refusals."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child, socket.socket() as one:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        found = inode_owners([inode(one)], [child.pid, os.getpid(), 2**22 + 1])
        assert found.pids == {inode(one): [os.getpid()]}
        assert found.refused == frozenset()


# What a stranger sees: become nobody, then look.
STRANGER = f"""
import os, sys
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
from portlease._platform import _linux_proc
"""


def as_nobody(script: str, *arguments: str) -> list[str]:
    """Run a script as the user nobody, and return the lines it printed."""
    need.capability("other_user")
    # Modules are imported before the change of user: nobody may not be able to read them.
    early = "import ctypes, signal, portlease._platform._linux_proc"
    done = subprocess.run(
        [sys.executable, "-c", early + STRANGER + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_not_permitted_to_look() -> None:
    """Another user's processes are refusals; kernel threads and zombies, who have none, are not."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        subprocess.Popen([sys.executable, "-c", ""]) as zombie,
    ):
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        lines = as_nobody(
            """
            inode, owner, zombie = map(int, sys.argv[1:])
            found = _linux_proc.inode_owners([inode])
            print(found.pids[inode], owner in found.refused, zombie in found.refused, found.hidden)
            print(any(_linux_proc._stat(f"/proc/{pid}/stat").flags & 0x200000
                      for pid in found.refused if os.path.exists(f"/proc/{pid}/stat")))
            print(_linux_proc.process_info(owner).uid)
            """,
            str(inode(one)),
            str(os.getpid()),
            str(zombie.pid),
        )
    assert lines == ["[] True False False", "False", str(os.getuid())]


def test_an_undumpable_process_refuses_its_own_user() -> None:
    """prctl(PR_SET_DUMPABLE, 0) closes /proc/PID/fd to the same user: named, not taken for gone."""
    need.capability("other_user")
    lines = as_nobody(
        """
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            try:
                ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
                os.write(tell, b".")
                signal.pause()
            finally:
                os._exit(1)
        os.close(tell)
        try:
            os.read(told, 1)
            print(_linux_proc.inode_owners([1], [child]).refused == {child})
            print(_linux_proc.process_info(child).uid)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        """
    )
    assert lines == ["True", str(NOBODY)]


@pytest.mark.parametrize(
    ("hidepid", "expected"),
    [
        # Listed, but nothing more: (refused, hidden), what is known of it.
        ("1", "True False ProcessInfo(pid=1, command=None, uid=None, started_at=None)"),
        ("2", "False True None"),
    ],
)
def test_hidepid(hidepid: str, expected: str) -> None:
    """Where /proc hides other users' processes, the answer says so."""
    need.capability("other_user")
    unshare, mount = need.program("unshare"), need.program("mount")
    early = "import portlease._platform._linux_proc"
    script = (
        early
        + STRANGER
        + textwrap.dedent("""
        found = _linux_proc.inode_owners([1])
        print(1 in found.refused, found.hidden, _linux_proc.process_info(1))
        print(_linux_proc.process_info(os.getpid()).pid == os.getpid(), _linux_proc.descendants(1))
    """)
    )
    done = subprocess.run(
        [
            *(unshare, "--mount", "--pid", "--fork", "sh", "-c"),
            f'{mount} -t proc -o hidepid={hidepid} proc /proc && "$@"; exit $?',
            *("sh", sys.executable, "-c", script),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [expected, "True []"]


def test_without_proc() -> None:
    """Where /proc is not mounted nothing is found, and it is said that nothing could be."""
    need.capability("root")
    unshare, mount = need.program("unshare"), need.program("mount")
    script = """
import os, socket, sys
from portlease._platform import _linux_diag, _linux_proc
one = socket.create_server(("127.0.0.1", 0))
inode = os.fstat(one.fileno()).st_ino
print(_linux_proc.inode_owners([inode]) == ({inode: []}, frozenset(), True))
print(_linux_proc.process_info(os.getpid()), _linux_proc.descendants(1))
print(_linux_proc.can_bind_privileged())
print([entry.inode == inode for entry in _linux_diag.sockets(one.getsockname()[1])])
try:
    _linux_diag._from_proc("tcp", 1, 0xFFFF)
except _linux_diag.SocketTableError as error:
    print(error)
"""
    done = subprocess.run(
        [
            *(unshare, "--mount", "sh", "-c", f'{mount} -t tmpfs none /proc && exec "$@"'),
            *("sh", sys.executable, "-c", script),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    assert lines == ["True", "None []", "True", "[True]"]
    assert last.endswith("mount /proc")


# --- families -----------------------------------------------------------------------------------

FAMILY = """
import os, subprocess, sys, threading
# A child of the first thread, one of another, and a grandchild.
stay = "import sys; print('ready', flush=True); sys.stdin.read()"
stay = [sys.executable, "-I", "-S", "-c", stay]
parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
pipes = dict(stdin=0, stdout=subprocess.PIPE, text=True)
started = [subprocess.Popen([sys.executable, "-I", "-S", "-c", parent, *stay], **pipes)]
go = threading.Event()
def elsewhere():
    started.append(subprocess.Popen(stay, **pipes))
    go.wait()
thread = threading.Thread(target=elsewhere)
thread.start()
while len(started) < 2:
    pass
for one in started:
    one.stdout.readline()
print("ready", flush=True)
go.wait()
"""


def test_children_of_all_threads_and_their_children() -> None:
    """A child of a thread other than the first, and grandchildren, are descendants."""
    with running(FAMILY) as process:
        found = descendants(process.pid)
        assert len(found) == 3
        infos = [process_info(pid) for pid in found]
        assert all(info is not None and "ready" in str(info.command) for info in infos)
        # Both ways of asking the kernel see the same family.
        assert set(_linux_proc._descendants_by_parent(process.pid)) == set(found)
        assert set(found) < set(descendants(os.getpid()))
        for pid in found:
            os.kill(pid, signal.SIGKILL)
    assert descendants(process.pid) == []


def test_zombies_are_descendants() -> None:
    """Whoever has to be waited for is still there."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert child.pid in descendants(os.getpid())
        assert child.pid in _linux_proc._descendants_by_parent(os.getpid())


def test_nobody_is_his_own_descendant() -> None:
    """A childless process has none, and a number that is nobody's has none."""
    with running(STAY) as process:
        assert descendants(process.pid) == []
    assert descendants(2**22 + 1) == []


# --- one process --------------------------------------------------------------------------------


def test_what_a_process_is() -> None:
    """Its arguments, its user, and when it started, to the tick."""
    before = time.time()
    with running(STAY, "some", "arguments") as process:
        info = process_info(process.pid)
        after = time.time()
        assert info is not None
        assert (info.pid, info.uid) == (process.pid, os.getuid())
        assert info.command == f"{sys.executable} -c {STAY} some arguments"
        assert info.started_at is not None
        assert before - 0.02 <= info.started_at <= after + 0.02
    assert process_info(process.pid) is None


def test_boot_time_agrees_with_proc_stat() -> None:
    """What started_at is counted from is ``btime``, which the kernel gives in whole seconds."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("btime ")]
    assert abs(_linux_proc._booted_at() - int(line.split()[1])) <= 1.5


def test_zombies_and_kernel_threads_go_by_their_name() -> None:
    """A process without arguments is called what the kernel calls it."""
    with subprocess.Popen(["sleep", "0"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        info = process_info(child.pid)
        assert info is not None
        assert info.command == "sleep"


def test_the_effective_user_is_told() -> None:
    """A server that gave up root is its new user's."""
    need.capability("other_user")
    drop = f"import os; os.setegid({NOBODY}); os.seteuid({NOBODY}); "
    with running(drop + STAY) as process:
        info = process_info(process.pid)
        assert info is not None
        assert info.uid == NOBODY


def test_a_hostile_command_line() -> None:
    """Escape sequences and newlines in another's arguments do not reach our terminal."""
    with running(STAY, "\x1b[2J\n", "caf\u00e9", "\udcff") as process:
        info = process_info(process.pid)
        assert info is not None
        assert str(info.command).endswith(r" \x1b[2J\x0a café \udcff")


# --- privileged ports ---------------------------------------------------------------------------

# Prints what we say, and what the kernel does. In a namespace of its own, so the port is free.
MAY_BIND = """
import socket
from portlease._platform._linux_proc import can_bind_privileged
with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
    port = int(file.read()) - 1
with socket.socket() as one:
    try:
        one.bind(("127.0.0.1", port))
    except PermissionError:
        print(can_bind_privileged(), False)
    else:
        print(can_bind_privileged(), True)
"""


def test_root_in_its_own_network_may_bind_low_ports() -> None:
    """CAP_NET_BIND_SERVICE in the user namespace that owns the network."""
    result = in_new_netns(MAY_BIND)
    assert (result.stdout, result.stderr) == ("True True\n", "")


def test_root_in_a_user_namespace_alone_may_not() -> None:
    """All capabilities, but over a network that belongs to the namespace above."""
    need.capability("userns")
    done = subprocess.run(
        [need.program("unshare"), "--user", "--map-root-user", sys.executable, "-c", MAY_BIND],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_nobody_may_not_bind_low_ports() -> None:
    """An ordinary user lacks the capability."""
    assert as_nobody(MAY_BIND) == ["False False"]


def test_ourselves() -> None:
    """The answer fits what this very process is."""
    assert can_bind_privileged() in (True, False)


# --- pure parsers -------------------------------------------------------------------------------

STAT = (
    b"4711 (%s) S 12 4711 4711 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 200 "
    b"18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
)


@pytest.mark.parametrize("name", [b"redis-server", b"a b", b") S 1 (", b"", b"\xff\n"])
def test_stat_with_any_name(name: bytes) -> None:
    """A process may call itself anything; the fields behind its name are found all the same."""
    assert parse_stat(STAT % name) == Stat(4711, name, "S", 12, 4194560, 987654)


@generous
@given(st.binary(max_size=200) | st.integers(0, 200).map(lambda cut: (STAT % b"x")[:cut]))
def test_any_bytes_as_a_stat(text: bytes) -> None:
    """Bytes that are no stat are refused as such."""
    with contextlib.suppress(ValueError):
        parse_stat(text)


@generous
@given(st.binary(max_size=100), st.binary(max_size=16))
def test_any_bytes_as_a_command_line(arguments: bytes, comm: bytes) -> None:
    """Whatever a process writes over its arguments, the result can be printed."""
    assert command_line(arguments, comm).isprintable()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (b"redis-server *:6379\0\0\0\0", "redis-server *:6379"),
        (b"nginx: master process\0", "nginx: master process"),
        (b"/bin/sh\0-c\0\0", "/bin/sh -c"),
        (b"\0\0", "kworker/0:1"),
        (b"", "kworker/0:1"),
    ],
)
def test_command_lines(arguments: bytes, expected: str) -> None:
    """As processes write them: with padding, as one string, or not at all."""
    assert command_line(arguments, b"kworker/0:1") == expected


@generous
@given(st.binary(max_size=100))
def test_any_bytes_as_a_status(text: bytes) -> None:
    """Bytes that are no status are refused as such."""
    for parse in (parse_uid, parse_capabilities):
        with pytest.raises(ValueError, match="status"):
            parse(text.replace(b":", b""))
        with contextlib.suppress(ValueError):
            parse(b"Uid:" + text + b"\nCapEff:" + text)


def test_status() -> None:
    """The second user id is the effective one; capabilities are a hexadecimal mask."""
    status = b"Name:\tx\nUid:\t1\t2\t3\t4\nCapPrm:\t0\nCapEff:\t0000000000000400\n"
    assert parse_uid(status) == 2
    assert parse_capabilities(status) == 1 << 10
    assert parse_uid(Path("/proc/self/status").read_bytes()) == os.geteuid()
