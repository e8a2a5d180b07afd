"""A command with everything it starts: run as one thing, and ended as one thing."""

from __future__ import annotations

import contextlib
import errno
import gc
import marshal
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from _need import need
from _processes import HANG_S, fork, readable, status, wait_for, watched
from portlease._errors import (
    ResourceLimitError,
    ServerError,
    ServerStartError,
    UsageError,
)
from portlease._tree import _process
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform == "linux":
    from portlease._tree import _keeper, _process_linux
    from portlease._tree._process_linux import KeptProcess

PYTHON = [sys.executable, "-I", "-S", "-c"]
SLEEP = ["sleep", "1000"]


@pytest.fixture(params=["kept", "portable"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same under a keeper and without one."""
    if request.param == "kept":
        need.capability("subreaper")
    else:
        monkeypatch.setattr(_process, "_keeper_is_possible", lambda: False)
    return str(request.param)


@pytest.fixture
def kept() -> None:
    """Only a keeper can do that."""
    need.capability("subreaper")


@pytest.fixture
def output() -> Iterator[Output]:
    """A file for a command to write to."""
    with tempfile.TemporaryFile() as file:
        yield Output(file.fileno())


class Output:
    """What a command has written."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def text(self) -> str:
        """All of it."""
        return os.pread(self.fd, 1 << 20, 0).decode()

    def wait_for(self, text: str) -> None:
        """Wait until it has written *text*."""
        wait_for(lambda: text in self.text())


def keeper_of(process: Process) -> int:
    """The process id of its keeper."""
    assert isinstance(process, KeptProcess)
    return process._popen.pid


# --- starting -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
def test_returncode_is_the_commands_own() -> None:
    """An exit status, or minus the number of the signal, as subprocess has it."""
    with Process.start(["sh", "-c", "exit 3"]) as process:
        assert process.wait(HANG_S) == 3
        assert process.poll() == 3
        assert process.wait_ended(HANG_S)
    with Process.start(["sh", "-c", "kill -USR1 $$"]) as process:
        assert process.wait(HANG_S) == -signal.SIGUSR1


@pytest.mark.usefixtures("either")
def test_pid_and_session(output: Output) -> None:
    """The pid is the command's own, and it leads a session."""
    with Process.start(["sh", "-c", "echo $$; exec sleep 1000"], output=output.fd) as process:
        output.wait_for("\n")
        assert int(output.text()) == process.pid
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
        assert process.returncode is None
        assert process.tree() == [process.pid]


@pytest.mark.usefixtures("either")
def test_environment_directory_and_output(output: Output, tmp_path: Path) -> None:
    """The environment is exactly what was given, the directory too; both outputs are collected."""
    code = "import posix; print(posix.environ, posix.getcwd(), flush=True); posix.write(2, b'err')"
    env = {"ONE": "1", "TWO": "zwei ü"}
    with Process.start([*PYTHON, code], env=env, cwd=tmp_path, output=output.fd) as process:
        assert process.wait(HANG_S) == 0
    expected = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    # PEP 538: the interpreter itself may add LC_CTYPE when there is no locale.
    text = output.text().replace(", b'LC_CTYPE': b'C.UTF-8'", "")
    assert text == f"{expected} {tmp_path}\nerr"


@pytest.mark.usefixtures("either")
def test_our_environment_is_the_default(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without env= it has ours, as it is at that moment."""
    monkeypatch.setenv("PORTLEASE_TEST_MARK", "here")
    with Process.start(["sh", "-c", "echo $PORTLEASE_TEST_MARK"], output=output.fd) as process:
        process.wait(HANG_S)
    assert output.text() == "here\n"


@pytest.mark.usefixtures("kept")
def test_environment_never_reaches_the_keeper() -> None:
    """A server's LD_PRELOAD or PYTHONHOME is for the server alone."""
    env = {"PATH": os.environ["PATH"], "PYTHONHOME": "/nowhere", "PORTLEASE_TEST_MARK": "here"}
    with Process.start(SLEEP, env=env) as process:
        assert b"PORTLEASE_TEST_MARK" in Path(f"/proc/{process.pid}/environ").read_bytes()
        of_keeper = Path(f"/proc/{keeper_of(process)}/environ").read_bytes()
        assert b"PORTLEASE_TEST_MARK" not in of_keeper


@pytest.mark.usefixtures("either")
def test_program_is_looked_up_in_the_commands_own_path(tmp_path: Path, output: Output) -> None:
    """PATH is the one in env=; directories without the program are passed over."""
    program = tmp_path / "portlease-test-program"
    program.write_text("#!/bin/sh\necho found\n", encoding="utf-8")
    program.chmod(0o755)
    env = {"PATH": f"/nowhere:/etc/passwd:{tmp_path}:/bin"}
    with Process.start([program.name], env=env, output=output.fd) as process:
        assert process.wait(HANG_S) == 0
    assert output.text() == "found\n"


@pytest.mark.usefixtures("either")
def test_stdin_is_empty_unless_given(output: Output) -> None:
    """By default it reads end-of-file at once; a given descriptor is its standard input."""
    with Process.start(["cat"], output=output.fd) as process:
        assert process.wait(HANG_S) == 0
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    with Process.start(["cat"], stdin=reader, output=output.fd) as process:
        os.close(reader)
        assert process.wait(HANG_S) == 0
    assert output.text() == "hello"


@pytest.mark.parametrize(
    ("argv", "cwd", "code", "words"),
    [
        (["portlease-no-such-program"], None, errno.ENOENT, "command not found;"),
        (["/no/such/program"], None, errno.ENOENT, "no such file"),
        (["/etc/passwd"], None, errno.EACCES, "chmod"),
        (["./no-first-line"], ".", errno.ENOEXEC, "#!"),
        (["./lost-interpreter"], ".", errno.ENOENT, "interpreter"),
        (["sh"], "/no/such/directory", errno.ENOENT, "cwd="),
        (["sh", "x" * 3_000_000], None, errno.E2BIG, "cannot start sh"),
    ],
)
@pytest.mark.usefixtures("either")
def test_what_cannot_be_executed(
    argv: list[str], cwd: str | None, code: int, words: str, tmp_path: Path
) -> None:
    """The error has the errno and the remedy, and nothing is left running."""
    for name, text in (("no-first-line", "echo hi\n"), ("lost-interpreter", "#!/no/such\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ServerStartError, match=words) as caught:
        Process.start(argv, cwd=tmp_path if cwd == "." else cwd)
    assert caught.value.errno == code
    assert caught.value.argv == tuple(argv)


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        ([], {}),
        ([""], {}),
        (["a\0b"], {}),
        (["a"], {"env": {"A": "\0"}}),
        (["a"], {"env": {"A=B": ""}}),
        (["a"], {"mode": "tty"}),
    ],
)
def test_what_can_never_work(argv: list[str], options: dict[str, Any]) -> None:
    """Mistakes of the caller are told before anything is started."""
    with pytest.raises(UsageError):
        Process.start(argv, **options)


def test_out_of_descriptors() -> None:
    """Too many open files is an error that says what to do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        lowest = os.dup(0)
        os.close(lowest)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
        with pytest.raises(ResourceLimitError, match="ulimit -n") as caught:
            Process.start(SLEEP)
    assert caught.value.errno == errno.EMFILE


LISTEN_FDS = """
import os, socket
n = int(os.environ["LISTEN_FDS"])
assert int(os.environ["LISTEN_PID"]) == os.getpid()
names = os.environ["LISTEN_FDNAMES"].split(":")
made = [socket.socket(fileno=fd) for fd in range(3, 3 + n)]
for one, name in zip(made, names):
    print(name, one.getsockname()[1])
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])
"""


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("count", [1, 2, 12])
def test_listen_fds(output: Output, count: int) -> None:
    """Sockets are inherited from 3 on, in their order, for the command's own process id."""
    need.capability("proc")
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        made.reverse()  # the highest goes to the lowest place
        named = [(f"name{number}", sock.fileno()) for number, sock in enumerate(made)]
        expected = [f"name{number} {sock.getsockname()[1]}" for number, sock in enumerate(made)]
        command = [*PYTHON, LISTEN_FDS]
        with Process.start(command, output=output.fd, listen_fds=named) as process:
            for sock in made:
                sock.close()
            assert process.wait(HANG_S) == 0, output.text()
    assert output.text().splitlines() == [*expected, str(list(range(3 + count)))]


@pytest.mark.usefixtures("either")
def test_listen_fds_of_what_cannot_be_executed() -> None:
    """The error is the same as ever."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        named = [("one", sock.fileno())]
        with pytest.raises(ServerStartError, match="command not found"):
            Process.start(["portlease-no-such-program"], listen_fds=named)
        with pytest.raises(UsageError, match="LISTEN_FDNAMES"):
            Process.start(["true"], listen_fds=[("a:b", sock.fileno())])
        with pytest.raises(UsageError, match="pass_fds"):
            Process.start(["true"], listen_fds=named, pass_fds=[3])


@pytest.mark.usefixtures("kept")
def test_sockets_passed_on_die_with_the_command() -> None:
    """The keeper has no copy: who connects is refused when the command has ended."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        with Process.start(SLEEP, listen_fds=[("one", sock.fileno())]) as process:
            sock.close()
            with socket.create_connection(address):
                assert process.returncode is None
        with socket.socket() as client:
            assert client.connect_ex(address) == errno.ECONNREFUSED


@pytest.mark.usefixtures("either")
def test_errors_apart(output: Output) -> None:
    """Standard error can have a descriptor of its own."""
    with tempfile.TemporaryFile() as errors:
        command = ["sh", "-c", "echo out; echo err >&2"]
        with Process.start(command, output=output.fd, errors=errors.fileno()) as process:
            assert process.wait(HANG_S) == 0
        assert output.text() == "out\n"
        assert os.pread(errors.fileno(), 100, 0) == b"err\n"


@pytest.mark.usefixtures("either")
def test_signals_sent_are_remembered() -> None:
    """By whatever method: who asks later why it ended can tell a crash from a wish."""
    with Process.start(SLEEP) as process:
        assert process.signals_sent == []
        process.send_signal(signal.SIGCONT)
        process.begin_stop()
        process.wait(HANG_S)
        process.stop(signal.SIGINT)
        process.begin_stop()
        assert process.signals_sent[:2] == [signal.SIGCONT, signal.SIGTERM]
        assert process.returncode == -signal.SIGTERM


# --- descriptors and signals --------------------------------------------------------------------


def open_fds(pid: int) -> dict[int, str]:
    """What a process has open."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists the directory
            found[int(link.name)] = str(link.readlink())
    return found


@pytest.mark.usefixtures("kept")
def test_pass_fds_and_nothing_else(output: Output) -> None:
    """The command has what it was given, under the same number; the keeper holds none of it."""
    reader, writer = os.pipe()
    stray = os.dup(reader)
    os.set_inheritable(stray, True)  # noqa: FBT003 - positional-only
    try:
        with Process.start(SLEEP, output=output.fd, pass_fds=[writer]) as process:
            pipe = open_fds(os.getpid())[writer]
            file = open_fds(os.getpid())[output.fd]
            expected = {0: "/dev/null", 1: file, 2: file, writer: pipe}
            assert open_fds(process.pid) == expected
            held = set(open_fds(keeper_of(process)).values())
            assert not held & {pipe, file}
            os.close(writer)
            assert not readable(reader, 0)
            process.kill()
            process.wait(HANG_S)
            # The last descriptor of the pipe was the command's: the keeper holds none.
            assert readable(reader, HANG_S)
            assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
        os.close(stray)


@pytest.mark.usefixtures("kept")
def test_a_note_is_seen_behind_the_command() -> None:
    """However long the command is: a janitor looks for its folder there."""
    with Process.start(["sleep", "1000", "9" * 5000], note="/a folder") as process:
        shown = Path(f"/proc/{keeper_of(process)}/cmdline").read_bytes()
        assert shown.endswith(b"99 /a folder\0")
        assert b"folder" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


@pytest.mark.usefixtures("kept")
def test_the_keeper_keeps_no_directory_busy(tmp_path: Path) -> None:
    """A file system that the server left can be unmounted."""
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with Process.start(["sh", "-c", "cd /; exec sleep 1000"]) as process:
            assert Path(f"/proc/{keeper_of(process)}/cwd").readlink() == Path("/")
    finally:
        os.chdir(before)


@contextlib.contextmanager
def unusual_signals() -> Iterator[None]:
    """SIGINT ignored, as by a shell's `&`; SIGUSR1 blocked."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("mode", "ignored"), [("session", 0), ("group", 0), ("inherit", 1 << (signal.SIGINT - 1))]
)
@pytest.mark.usefixtures("either")
def test_signals_at_their_defaults(mode: _process.Mode, ignored: int) -> None:
    """Nothing is ignored or blocked, whatever is so here; only "inherit" keeps what is ignored."""
    with unusual_signals(), Process.start(SLEEP, mode=mode) as process:
        # glibc keeps two signals for itself, and its posix_spawn(3) leaves them ignored.
        real = sum(1 << (number - 1) for number in signal.valid_signals())
        assert int(status(process.pid, "SigIgn"), 16) & real == ignored
        assert int(status(process.pid, "SigBlk"), 16) == 0


@pytest.mark.usefixtures("either")
def test_modes() -> None:
    """A session of its own, a process group of its own, or ours."""
    with Process.start(SLEEP, mode="group") as process:
        assert os.getsid(process.pid) == os.getsid(0)
        assert os.getpgid(process.pid) == process.pid
    with Process.start(SLEEP, mode="inherit") as process:
        assert os.getsid(process.pid) == os.getsid(0)
        assert os.getpgid(process.pid) == os.getpgrp()


@pytest.mark.parametrize("mode", ["session", "group", "inherit"])
@pytest.mark.usefixtures("kept")
def test_the_keeper_is_in_nobodys_group(mode: _process.Mode) -> None:
    """No signal for our process group or for the command's reaches the keeper."""
    with Process.start(SLEEP, mode=mode) as process:
        assert os.getpgid(keeper_of(process)) not in {os.getpgrp(), os.getpgid(process.pid)}


@pytest.mark.usefixtures("either")
def test_send_signal(output: Output) -> None:
    """A signal goes to the command; once it has ended, to nobody, and that is no error."""
    script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.01; done"
    with Process.start(["sh", "-c", script], output=output.fd) as process:
        output.wait_for("ready")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(HANG_S) == 5
        process.send_signal(signal.SIGUSR1)
        process.terminate()
        process.kill()
    assert output.text() == "ready\ngot it\n"


@pytest.mark.usefixtures("kept")
def test_signal_that_does_not_exist() -> None:
    """The kernel's refusal comes back as the error it is; stop() does not even try."""
    with Process.start(SLEEP) as process:
        with pytest.raises(UsageError, match="4711"):
            process.stop(4711)
        with pytest.raises(OSError, match="signal 4711") as caught:
            process.send_signal(4711)
        assert caught.value.errno == errno.EINVAL
        assert process.poll() is None


# --- waiting ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
def test_wait_times_out() -> None:
    """wait() gives up after its time, and the command goes on."""
    with Process.start(SLEEP) as process:
        with pytest.raises(TimeoutError, match="still runs after 0"):
            process.wait(0.02)
        assert not process.wait_ended(0.0)
        assert process.poll() is None


@pytest.mark.usefixtures("either")
def test_many_threads_wait_for_one_process() -> None:
    """Each of them learns of its end, also those that came to wait for different things."""
    codes: list[int | bool] = []
    with Process.start(SLEEP) as process:
        threads = [
            threading.Thread(target=lambda i=i: codes.append(waiters[i % 2]())) for i in range(12)
        ]
        waiters = [lambda: process.wait(HANG_S), lambda: process.wait_ended(HANG_S)]
        for thread in threads:
            thread.start()
        process.terminate()
        for thread in threads:
            thread.join()
    assert codes.count(-signal.SIGTERM) == codes.count(True) == 6


@pytest.mark.usefixtures("either")
def test_many_threads_start_and_stop() -> None:
    """Threads that start and stop processes at the same time do not disturb one another."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(4):
                with Process.start(SLEEP) as process:
                    assert process.poll() is None
                assert process.returncode == -signal.SIGTERM
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.usefixtures("kept")
def test_waiting_on_a_high_descriptor() -> None:
    """select(2) knows only the first 1024 descriptors; ours may be beyond them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100:
        need.missing("1,100 descriptors", f"at most {hard} descriptors here")
    import fcntl

    with contextlib.ExitStack() as stack:
        if soft != resource.RLIM_INFINITY and soft < 1100:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1100, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        high = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 1050)
        stack.callback(os.close, high)
        begun = time.monotonic()
        _process_linux._wait_readable(high, 0.01)
        assert time.monotonic() - begun >= 0.01
        theirs.send(b"x")
        _process_linux._wait_readable(high, None)


# --- ending -------------------------------------------------------------------------------------

# Goes away from its parent as a daemon does, twice forked and in a session of its own.
DAEMON = """
import os, signal, sys
def daemon(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work()
        os._exit(0)
    os.wait()
def report():
    print(os.getpid(), flush=True)
"""


@pytest.mark.usefixtures("kept")
def test_a_daemon_does_not_get_away(output: Output) -> None:
    """What forked twice into another session is in the tree, and is ended with it."""
    code = DAEMON + "daemon(lambda: (report(), signal.pause()))\nsignal.pause()"
    with Process.start([sys.executable, "-c", code], output=output.fd) as process:
        output.wait_for("\n")
        daemon = int(output.text())
        assert os.getsid(daemon) != os.getsid(process.pid)
        assert daemon in process.tree()
        with watched([daemon, keeper_of(process)]) as wait_all:
            assert process.stop() == ()
            assert wait_all() == []
    assert process.tree() == []


@pytest.mark.usefixtures("kept")
def test_the_tree_outlives_the_command(output: Output) -> None:
    """A command that leaves a daemon behind has a return code, but has not ended as a whole."""
    code = DAEMON + "daemon(lambda: (report(), signal.pause()))"
    with Process.start([sys.executable, "-c", code], output=output.fd) as process:
        assert process.wait(HANG_S) == 0
        assert not process.ended
        output.wait_for("\n")
        daemon = int(output.text())
        assert process.tree() == [daemon]
        process.send_signal(signal.SIGKILL)  # for the command, which is no more
        with watched([daemon]) as wait_all:
            assert process.stop() == ()
            assert wait_all() == []
    assert process.ended


@pytest.mark.usefixtures("kept")
def test_the_command_is_asked_first(output: Output) -> None:
    """Its children are asked only once it has gone, and each once: it may end them itself."""
    code = DAEMON + textwrap.dedent(
        """
        def say(text):
            os.write(1, text)
        def quit(text):
            say(text)
            os._exit(0)
        reader, writer = os.pipe()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, lambda *_: quit(b"child asked;"))
            os.write(writer, b"r")
            while True:
                signal.sigtimedwait((), 0.01)  # pause() misses a signal just before it
        os.read(reader, 1)
        signal.signal(signal.SIGTERM, lambda *_: (say(b"command asked;"), quit(b"it ends;")))
        say(b"ready;")
        while True:
            signal.sigtimedwait((), 0.01)
        """
    )
    with Process.start([sys.executable, "-c", code], output=output.fd) as process:
        output.wait_for("ready;")
        assert process.stop() == ()
    assert output.text() == "ready;command asked;it ends;child asked;"


@pytest.mark.usefixtures("kept")
def test_the_signal_is_for_the_daemon_where_the_command_has_ended(output: Output) -> None:
    """An nginx that daemonized wants SIGQUIT as one in the foreground does."""
    code = DAEMON + textwrap.dedent(
        """
        def work():
            signal.signal(signal.SIGQUIT, lambda *_: (print("quit", flush=True), os._exit(0)))
            print("ready", flush=True)
            while True:
                signal.sigtimedwait((), 0.01)  # pause() misses a signal just before it
        daemon(work)
        """
    )
    with Process.start([sys.executable, "-c", code], output=output.fd) as process:
        process.wait(HANG_S)
        output.wait_for("ready\n")
        assert process.stop(signal.SIGQUIT) == ()
    assert output.text() == "ready\nquit\n"


@pytest.mark.usefixtures("either")
def test_who_does_not_end_is_killed(output: Output) -> None:
    """After the grace SIGKILL ends what is left, and the answer says whom it took it for."""
    script = "trap '' TERM; echo ready; sleep 1000 & wait; while :; do sleep 1000; done"
    with Process.start(["sh", "-c", script], output=output.fd) as process:
        output.wait_for("ready")
        tree = process.tree()
        with watched(tree) as wait_all:
            killed = process.stop(grace_s=0.05)
            assert wait_all() == []
        assert (process.pid, "sh") in killed
        assert process.returncode == -signal.SIGKILL
        assert process.stop() == killed or process.stop() == ()


@pytest.mark.usefixtures("kept")
def test_a_stopped_process_can_be_ended_kindly(output: Output) -> None:
    """A process in SIGSTOP is continued, so that it sees the SIGTERM before the SIGKILL."""
    script = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    with Process.start(["sh", "-c", script], output=output.fd) as process:
        output.wait_for("ready")
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: status(process.pid, "State").startswith("T"))
        assert process.stop(grace_s=HANG_S) == ()
        assert process.returncode == 0
    assert "asked" in output.text()


@pytest.mark.usefixtures("kept")
def test_a_subreaper_within_the_tree(output: Output) -> None:
    """Orphans that another subreaper adopted come to the keeper when that one is ended."""
    code = DAEMON + textwrap.dedent(
        """
        import ctypes
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        daemon(lambda: (signal.signal(signal.SIGTERM, signal.SIG_IGN), report(), signal.pause()))
        signal.pause()
        """
    )
    with Process.start([sys.executable, "-c", code], output=output.fd) as process:
        output.wait_for("\n")
        orphan = int(output.text())
        with watched([orphan]) as wait_all:
            assert [one.pid for one in process.stop(grace_s=0.05)] == [orphan]
            assert wait_all() == []


@pytest.mark.usefixtures("kept")
def test_a_crowd_is_ended(output: Output) -> None:
    """A hundred processes at four levels, deaf to SIGTERM, are all ended."""
    code = textwrap.dedent(
        """
        import os, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for width in (5, 4, 4):
            for _ in range(width):
                if os.fork() == 0:
                    break
            else:
                break
        os.write(1, b".")
        while True:
            signal.pause()
        """
    )
    with Process.start([sys.executable, "-c", code], output=output.fd) as process:
        wait_for(lambda: len(output.text()) == 1 + 5 + 20 + 80)
        tree = process.tree()
        assert len(tree) == 106
        with watched(tree) as wait_all:
            assert len(process.stop(grace_s=0)) == 100  # as many as are named
            assert wait_all() == []


@pytest.mark.usefixtures("kept")
def test_many_threads_stop_one_process() -> None:
    """Two stops at a time are one stop, and the shorter grace holds."""
    with Process.start(["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"]) as process:
        graces = [HANG_S, 0.05, HANG_S]
        threads = [
            threading.Thread(target=process.stop, kwargs={"grace_s": grace}) for grace in graces
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert process.ended


# --- our own end --------------------------------------------------------------------------------

# Starts a tree of three (a command, its child, a daemon), and says who is in it.
PARENT = (
    DAEMON
    + """
from portlease._tree._process import Process
code = open(__file__).read().split("# ---")[0] + '''
if os.fork() == 0:
    signal.pause()
daemon(signal.pause)
os.write(1, b"ready")
signal.pause()
'''
reader, writer = os.pipe()
process = Process.start([sys.executable, "-c", code], output=writer)
assert os.read(reader, 100) == b"ready"
assert len(process.tree()) == 3
def tell():
    print(*process.tree(), process._popen.pid, flush=True)
    sys.stdin.readline()
"""
)


@contextlib.contextmanager
def parent(tmp_path: Path, then: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with such a tree, that goes on with *then*; and the tree with its keeper."""
    script = tmp_path / "parent.py"
    head, rest = PARENT.split("from portlease", 1)
    script.write_text(f"{head}# ---\nfrom portlease{rest}{textwrap.dedent(then)}", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as popen:
        try:
            assert popen.stdout is not None
            yield popen, [int(pid) for pid in popen.stdout.readline().split()]
        finally:
            popen.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.usefixtures("kept")
def test_our_death_ends_the_tree(tmp_path: Path, number: signal.Signals) -> None:
    """Whatever signal ends us, the command, its child, its daemon and the keeper end."""
    with (
        parent(tmp_path, "tell()") as (popen, tree),
        watched(tree) as wait_all,
    ):
        assert len(tree) == 4
        popen.send_signal(number)
        assert wait_all() == []


@pytest.mark.usefixtures("kept")
def test_killing_our_process_group_ends_the_tree(tmp_path: Path) -> None:
    """The keeper is not in our group, so it is there to end the daemon."""
    then = "os.setpgid(0, 0); tell()"
    with parent(tmp_path, then) as (popen, tree), watched(tree) as wait_all:
        os.killpg(popen.pid, signal.SIGKILL)
        assert wait_all() == []


@pytest.mark.parametrize(
    "then",
    [
        "tell(); sys.exit(3)",
        "tell(); raise RuntimeError('on purpose')",
        "tell(); os._exit(0)",
        "tell(); os.execvp('cat', ['cat'])",
        # A daemon thread waits for the command when the interpreter ends.
        "import threading; threading.Thread(target=process.wait, daemon=True).start(); tell()",
    ],
    ids=["exit", "exception", "_exit", "exec", "thread"],
)
@pytest.mark.usefixtures("kept")
def test_our_exit_ends_the_tree(tmp_path: Path, then: str) -> None:
    """The interpreter's end, an _exit() that runs no handlers, and another program in our place."""
    with parent(tmp_path, then) as (popen, tree), watched(tree) as wait_all:
        assert popen.stdin is not None
        popen.stdin.write("go on\n")
        popen.stdin.flush()
        assert wait_all() == []


@pytest.mark.parametrize("how", ["os.fork()", "ctypes.CDLL(None).fork()"], ids=["python", "libc"])
@pytest.mark.usefixtures("kept")
def test_a_forked_child_does_not_hide_our_death(tmp_path: Path, how: str) -> None:
    """A child of ours that lives on, even one forked behind Python's back, keeps no tree alive."""
    then = f"""
        import ctypes
        child = {how}
        if child == 0:
            signal.pause()
            os._exit(0)
        print(*process.tree(), process._popen.pid, child, flush=True)
        signal.pause()
    """
    with (
        parent(tmp_path, then) as (popen, pids),
        watched(pids[:-1]) as wait_all,
        watched(pids[-1:]),
    ):
        popen.kill()
        assert wait_all() == []
        assert Path(f"/proc/{pids[-1]}").exists()


@pytest.mark.usefixtures("kept")
def test_a_thread_that_started_it_may_end() -> None:
    """The tree belongs to the process, not to the thread that started it."""
    started: list[Process] = []
    thread = threading.Thread(target=lambda: started.append(Process.start(SLEEP)))
    thread.start()
    thread.join()
    with started[0] as process:
        # The keeper has been told of the thread's end (SIGHUP); a signal sent now comes later.
        process.send_signal(0)
        assert process.poll() is None
        assert not process.ended


@pytest.mark.usefixtures("either")
def test_a_forked_childs_object_is_inert() -> None:
    """In a forked child stop() does nothing, signals are refused, and the server goes on."""
    with Process.start(SLEEP) as process:
        child = fork()
        if child == 0:
            code = 1
            try:
                with process:
                    pass
                process.stop()
                try:
                    process.kill()
                except UsageError:
                    code = 0 if process.tree() == [] or not process.ended else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert process.poll() is None


@pytest.mark.usefixtures("either")
def test_garbage_is_ended_with_a_warning() -> None:
    """A process that nobody has a handle on any more is ended, and the warning says which."""
    processes = [Process.start(SLEEP)]
    pids = [processes[0].pid]
    if isinstance(processes[0], KeptProcess):
        pids.append(keeper_of(processes[0]))
    with watched(pids) as wait_all:
        with pytest.warns(ResourceWarning, match=f"sleep.*{pids[0]}.*was not stopped"):
            processes.clear()
        gc.collect()
        assert wait_all() == []
    _process._reap_abandoned()


# --- the keeper itself --------------------------------------------------------------------------


@pytest.mark.usefixtures("kept")
def test_the_keepers_death_ends_the_command() -> None:
    """Kill the keeper: the kernel ends the command, we what is left of its group, and say so."""
    process = Process.start(["sh", "-c", "sleep 1000 & wait"])
    wait_for(lambda: len(process.tree()) == 2)
    with watched(process.tree()) as wait_all:
        os.kill(keeper_of(process), signal.SIGKILL)
        assert process.wait(HANG_S) == -signal.SIGKILL
        assert wait_all() == []
    with pytest.raises(ServerError, match=r"keeper .* was ended by signal 9"):
        process.stop()


@pytest.mark.usefixtures("kept")
def test_signals_of_the_terminal_do_not_end_the_keeper() -> None:
    """Ctrl-C, Ctrl-Z and a hangup leave it alone; SIGTERM makes it end the tree."""
    with Process.start(SLEEP) as process:
        for number in (signal.SIGINT, signal.SIGTSTP, signal.SIGHUP, signal.SIGUSR1):
            os.kill(keeper_of(process), number)
        process.send_signal(0)  # answered, so all of the above have come
        assert process.poll() is None
        os.kill(keeper_of(process), signal.SIGTERM)
        assert process.wait(HANG_S) == -signal.SIGTERM
        assert process.wait_ended(HANG_S)


@pytest.mark.usefixtures("kept")
def test_the_keeper_sleeps(output: Output) -> None:
    """It takes no processor time while nothing happens, nor while a tree takes its time to end."""
    script = "trap '' TERM; echo ready; while :; do sleep 1000; done"
    with Process.start(["sh", "-c", script], output=output.fd) as process:
        output.wait_for("ready")
        stat = Path(f"/proc/{keeper_of(process)}/stat")
        wait_for(lambda: status(keeper_of(process), "State").startswith("S"))

        def ticks() -> int:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        assert process.wait_ended(0.1) is False
        stopping = threading.Thread(target=process.stop, kwargs={"grace_s": 0.3})
        stopping.start()
        assert process.wait_ended(0.2) is False
        assert ticks() - before <= 2  # of 30, if it were busy
        stopping.join()


@pytest.mark.usefixtures("kept")
def test_a_defect_of_the_keeper_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong inside the keeper comes back with its traceback, and nothing is left."""
    code = compile("raise ZeroDivisionError('on purpose')", "keeper", "exec")
    monkeypatch.setitem(_process_linux._codes, _process_linux._KEEPER, marshal.dumps(code))
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ServerStartError, match=r"keeper of sleep .* ended with exit status 1"):
            Process.start(SLEEP, output=file.fileno())
        file.seek(0)
        assert b"on purpose" in file.read()


@pytest.mark.usefixtures("kept")
def test_a_kernel_without_subreapers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where prctl(2) refuses, commands run without a keeper from then on."""
    code = keeper_with('PR_SET_CHILD_SUBREAPER: "Final" = 36', "PR_SET_CHILD_SUBREAPER = 4711")
    monkeypatch.setitem(_process_linux._codes, _process_linux._KEEPER, code)
    monkeypatch.setattr(_process._System, "has_subreapers", True)
    for _ in range(2):
        with Process.start(SLEEP) as process:
            assert not isinstance(process, KeptProcess)
            assert process.poll() is None
    assert not _process._System.has_subreapers


def keeper_with(old: str, new: str) -> bytes:
    """The keeper's code with a change."""
    source = Path(_keeper.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    return marshal.dumps(compile(source.replace(old, new), "keeper", "exec"))


@pytest.mark.usefixtures("kept")
def test_a_defect_while_it_runs_is_told(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in the keeper's loop arrives with its traceback, and the tree is ended."""
    code = keeper_with('"""Send *number* to the main process, unless', '1 / 0; """')
    monkeypatch.setitem(_process_linux._codes, _process_linux._KEEPER, code)
    process = Process.start(["sh", "-c", "sleep 1000 & wait"], output=output.fd)
    wait_for(lambda: len(process.tree()) == 2)
    with watched(process.tree()) as wait_all:
        process.send_signal(signal.SIGUSR1)
        assert wait_all() == []
    with pytest.raises(ServerError, match=r"(?s)defect.*ZeroDivisionError"):
        process.stop()


# Root without CAP_KILL may not signal other users' processes.
POWERLESS = """
import ctypes, os, pathlib, marshal, signal, sys
from portlease._tree import _keeper, _process_linux
from portlease._errors import ServerError
from portlease._tree._process import Process
assert ctypes.CDLL(None).prctl(24, 5, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_KILL
source = pathlib.Path(_keeper.__file__).read_text()
hasty = source.replace("STUCK_AFTER_S: \\"Final\\" = 5.0", "STUCK_AFTER_S = 0.05")
assert hasty != source
_process_linux._codes[_process_linux._KEEPER] = marshal.dumps(compile(hasty, "keeper", "exec"))
nobody = "import os, signal; os.setresuid(65534, 65534, 65534); os.write(1, b'.'); signal.pause()"
reader, writer = os.pipe()
process = Process.start([sys.executable, "-c", nobody], output=writer)
os.read(reader, 1)
try:
    process.send_signal(signal.SIGUSR1)
except PermissionError:
    print("refused", flush=True)
try:
    process.stop(grace_s=0.0)
except ServerError as error:
    print(error, flush=True)
    print(process.pid, process.ended, flush=True)
process.wait_ended()
"""


@pytest.mark.usefixtures("kept")
def test_a_process_that_may_not_be_signalled(tmp_path: Path) -> None:
    """One that became another user is named, and not waited for without end."""
    need.capability("other_user")
    script = tmp_path / "powerless.py"
    script.write_text(POWERLESS, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as popen:
        assert popen.stdout is not None
        try:
            assert popen.stdout.readline() == "refused\n"
            told = popen.stdout.readline()
            pid, ended = popen.stdout.readline().split()
            assert f"SIGKILL does not end pid {pid}" in told
            assert "another user" in told
            assert ended == "False"
            os.kill(int(pid), signal.SIGKILL)
            assert popen.wait(HANG_S) == 0
        finally:
            popen.kill()
