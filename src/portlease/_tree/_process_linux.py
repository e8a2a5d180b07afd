"""A process under the keeper: see :mod:`portlease._tree._keeper` for how and why.

Who owns what: this object owns the keeper (a child of ours) and our end of the control socket; the
keeper owns the tree. No thread of ours listens to the keeper: whoever wants to know something reads
the socket. Of several threads that wait, one sleeps on the socket and wakes the others.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from typing import TYPE_CHECKING

from portlease import _platform
from portlease._clock import now_s
from portlease._errors import ServerError, ServerStartError
from portlease._tree import _process
from portlease._tree._process import Brokered, Killed, Launch, Process, override

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

import marshal  # noqa: E402

from portlease._platform import _linux_proc  # noqa: E402
from portlease._tree import _keeper  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

# What the keeper's interpreter runs first: the keeper's code, which follows on the socket. So it is
# neither compiled at each start (3.5 ms) nor another version's than ours, whatever is on the disk.
_BOOT: Final = """\
# portlease: keeps the command behind -- and all that it starts
import marshal, posix, sys
fd, size, code = int(sys.argv[1]), int(sys.argv[2]), b""
while len(code) < size:
    code += posix.read(fd, size - len(code)) or sys.exit()
exec(marshal.loads(code))
"""
_SHOWN_IN_PS: Final = 2000
_FD_SETSIZE: Final = 1024
_MOST_BROKERED: Final = 10_000
"""What is remembered of a server that binds without end."""
_READ_BYTES: Final = 1 << 16
_MARK_BYTES: Final = 16
_HANG_GUARD_S: Final = 30.0
"""How long after the last word it owed us the keeper is given up (it may be stopped, SIGSTOP)."""
_DYING_S: Final = 1.0
"""How long what was killed is waited for where nobody tells us of its end."""
_LOOK_AGAIN_S: Final = 0.5
"""How long one sleep is at most where a signal handler may have kept us from being woken."""


_KEEPER: Final = "portlease._tree._keeper"
_BROKER: Final = "portlease._tree._broker"
_codes: dict[str, bytes] = {}


def _code(name: str) -> bytes:
    """The marshalled code of a module that runs in the keeper alone."""
    if name not in _codes:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - it is beside us
        loader = spec.loader
        if not isinstance(loader, InspectLoader):  # pytest's, which rewrites the assertions
            loader = SourceFileLoader(name, spec.origin)
        _codes[name] = marshal.dumps(loader.get_code(name))
    return _codes[name]


class NoSubreaperError(Exception):
    """This kernel has no PR_SET_CHILD_SUBREAPER, so a keeper is of no use. Nothing was started."""


class KeptProcess(Process):
    """A command that runs under a keeper.

    Raises:
        NoSubreaperError: that cannot be had here.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self.pid = 0
        self._launch = launch
        # Reentrant, for signal handlers that stop a process while we look at it.
        self._changed = threading.Condition(threading.RLock())
        self._sleeper: int | None = None
        """The thread that sleeps on the socket, on behalf of all who wait."""
        self._inbox = bytearray()
        self._mark = os.urandom(_MARK_BYTES)
        """Where what a deputy says begins."""
        self._wait_status: int | None = None
        self._failure: tuple[str, int, str] | None = None
        self._replies: dict[int, int] = {}
        self._unanswered: set[int] = set()
        self._asked = 0
        self._killed: tuple[Killed, ...] = ()
        self._stuck: tuple[str, ...] = ()
        self._unable = False
        self._gone = False
        self._stopping: tuple[int, float] | None = None
        """What the keeper was last told to stop by."""
        self._main: int | None = None
        """A pidfd of the command, for when its keeper is killed; not all kernels have them."""
        self._trouble: str | None = None
        self._socket: _socket.socket | None = None
        self._popen = self._start_keeper()
        self._keeper_pid = self._popen.pid
        try:
            self._send_request()
            self._wait_until(self._is_answered, None)
        except BaseException:
            self._let_go()  # the keeper ends whatever it has started, and then itself
            self._popen.wait()
            raise
        self._must_have_started()
        _process.remember(self)

    # --- starting ---

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        launch = self._launch
        words = f"{' '.join(launch.argv)[:_SHOWN_IN_PS]} {launch.note}".rstrip()
        size = str(len(_code(_KEEPER)))
        # The lock keeps forks out too: a copy of the keeper's end would hide the keeper's death.
        with _platform.spawn_lock:
            # Not by socket.socketpair(), for whoever puts a class of his own in the place of
            # socket.socket (pytest-socket): nothing leaves the machine by these.
            ours, theirs = _socket.socketpair()
            try:
                fd = theirs.fileno()
                popen = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOT, str(fd), size, "--", words],
                    stdin=launch.stdin,
                    stdout=launch.output,
                    stderr=launch.errors,
                    pass_fds=(fd, *launch.pass_fds, *self._for_keeper()),
                    # No signal for our group or for the server's must reach it, SIGKILL least.
                    start_new_session=launch.mode == "session",
                    process_group=None if launch.mode == "session" else 0,
                )
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
        self._socket = ours
        return popen

    def _for_keeper(self) -> list[int]:
        """What goes to the keeper and not, or not under this number, to the command."""
        listen_fds = self._launch.listen_fds or ()
        return [*(hold.fd for hold in self._launch.holds), *(fd for _, fd in listen_fds)]

    def _send_request(self) -> None:
        launch = self._launch
        groups = {"session": None, "group": 0, "inherit": os.getpgrp()}
        request: _keeper.Request = {
            "argv": [os.fsencode(word) for word in launch.argv],
            "env": {os.fsencode(k): os.fsencode(v) for k, v in launch.env.items()},
            "cwd": None if launch.cwd is None else os.fsencode(launch.cwd),
            "group": groups[launch.mode],
            "keep_ignored": launch.mode == "inherit",
            "pass_fds": list(launch.pass_fds),
            "listen_fds": None,
            "holds": [(hold.transport, hold.port, hold.fd) for hold in launch.holds],
            "broker": _code(_BROKER) if launch.holds else b"",
            "mark": self._mark,
        }
        if launch.listen_fds is not None:
            request["listen_fds"] = [(name.encode(), fd) for name, fd in launch.listen_fds]
        assert self._socket is not None  # noqa: S101 - nobody has closed it yet
        # Should it be dead already, that shows when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(_code(_KEEPER) + _keeper.encode(("start", request)))

    def _is_answered(self) -> bool:
        return bool(self.pid or self._failure or self._trouble or self._unable)

    def _must_have_started(self) -> None:
        if self.pid:
            return
        self._wait_until(lambda: self._socket is None, None)
        if self._unable:
            raise NoSubreaperError
        if self._failure is not None and self._failure[0] == "broker":
            _, code, refused = self._failure
            raise _process.broker_error((refused, code))
        if self._failure is not None and self._failure[0] == "keeper":
            self._trouble = "its keeper was killed before it could be executed"
        elif self._failure is not None and self._failure[0] != "crash":
            raise _process.start_error(self._launch, *self._failure)
        what = self._trouble or self._failure
        raise ServerStartError(
            f"cannot start {self.argv[0]}: {what}", argv=self.argv, errno=0, output=""
        )

    # --- the keeper's news ---

    def _read_news(self) -> None:
        """Take in what the keeper has said. Needs the lock.

        Nobody reads while another thread sleeps: what is read under its nose does not wake it.
        """
        while self._socket is not None and self._sleeper in {None, threading.get_ident()}:
            before = len(self._inbox)
            ended = self._receive()
            if not ended and len(self._inbox) == before:
                return
            for message in self._messages():
                self._on_message(*message)
            if ended and self._socket is not None:  # a signal handler may have been here, too
                self._on_keeper_ended()
                return
            self._changed.notify_all()

    def _receive(self) -> bool:
        """Read all that is there; return whether the keeper has ended."""
        while (sock := self._socket) is not None:
            try:
                data = sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except ConnectionResetError:  # it died before it read all that we said
                return True
            if not data:
                return True
            self._inbox += data
        return True

    def _messages(self) -> list[tuple[object, ...]]:
        """Take every complete message out of what has been read.

        A keeper that was killed may have said half of its last one. Its deputy begins with the
        mark, which the kernel passes on whole, as it does all that is written in one go and short.
        """
        place = self._inbox.find(self._mark)
        if place < 0:
            return _keeper.decode(self._inbox)
        messages = _keeper.decode(self._inbox[:place])
        del self._inbox[: place + len(self._mark)]
        return messages + _keeper.decode(self._inbox)

    def _on_message(self, what: object, *facts: object) -> None:
        match what, *facts:
            case "started", int(pid):
                self.pid = pid
                self._main = _pidfd(pid)
            case "failed", str(stage), int(code), bytes(path):
                self._failure = (stage, code, os.fsdecode(path))
            case ("unable",):
                self._unable = True
            case "exit", int(status):
                self._wait_status = status
            case "signalled", int(n), int(code):
                self._replies[n] = code
            case "stuck", list(survivors):
                self._stuck = tuple(_describe(*survivor) for survivor in survivors)
            case "gone", list(killed):
                self._killed = tuple(Killed(pid, command) for pid, command in killed)
                self._gone = True
            case "crash", str(text):
                self._trouble = f"the keeper of {self.argv[0]} has a defect:\n{text}"
            case _:
                self._on_brokers_message(what, *facts)

    def _on_new_keeper(self, pid: int) -> None:
        """Its deputy has taken its place: say again what it was told and cannot have done."""
        self._keeper_pid = pid
        if self._stopping is not None:
            self._say("stop", *self._stopping)
        for n in self._unanswered:  # a reply that was lost is none of the caller's concern
            self._replies[n] = 0

    def _on_brokers_message(self, what: object, *facts: object) -> None:
        match what, *facts:
            case "brokered", str(transport), int(port), str(address), int(pid), str(action):
                if len(self.brokered) < _MOST_BROKERED:
                    self.brokered.append(Brokered(transport, port, address, pid, action))
            case "keeper", int(pid):
                self._on_new_keeper(pid)
            case "lost", str(text):
                self.lost = text
                self.broker_troubles.append(text)
            case "trouble", str(text):
                self.broker_troubles.append(text)
            case _:
                self._trouble = f"the keeper said {what!r}, which means nothing"

    def _on_keeper_ended(self) -> None:
        assert self._socket is not None  # noqa: S101 - the caller has just read from it
        self._socket.close()
        self._socket = None
        code = self._popen.wait()
        self._gone = self._gone or code == 0  # an exception (Ctrl-C) may have cost us its last word
        if not self._gone and self._trouble is None:
            how = _exit_text(code)
            self._trouble = f"the keeper of {self.argv[0]} (pid {self._popen.pid}) {how}"
        if not self._gone and self.pid:
            self._end_without_keeper()
        self._close_main()
        _process.forget(self)
        self._changed.notify_all()

    def _end_without_keeper(self) -> None:
        """The kernel has killed the command along with its keeper; kill what is left of its group.

        It has not where there was a deputy, which was killed as well, and where the command has
        told it not to (PR_SET_PDEATHSIG). A process that left the group (a daemon) is beyond our
        reach now, which ``_trouble`` tells.
        """
        self._trouble = f"{self._trouble}; a daemon that {self.argv[0]} made may still run"
        family = _linux_proc.descendants(self.pid) if self._wait_status is None else []
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if self._main is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._main, signal.SIGKILL)
        if self._wait_status is None:
            self._wait_status = int(signal.SIGKILL)
        if self._launch.mode != "inherit":
            self._end_group()
        if self._main is not None:
            _wait_readable(self._main, _DYING_S)

    def _end_group(self) -> None:
        """Kill the command's process group, and wait until nobody of it is left."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:
            self._trouble = (
                f"{self._trouble} (in process group {self.pid} one of another user does)"
            )
        deadline = now_s() + _DYING_S
        for pid in _members(self.pid):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                _wait_readable(fd, max(0.0, deadline - now_s()))
            finally:
                os.close(fd)

    @override
    def _wait_until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        deadline = math.inf if timeout_s is None else now_s() + timeout_s
        while (answer := self._look_or_sleep(done, deadline)) is None:
            pass
        return answer

    def _look_or_sleep(self, done: Callable[[], bool], deadline: float) -> bool | None:
        """Take in the news; None if that changed nothing, after a sleep on behalf of all who wait.

        A signal handler may do this in the midst of its own thread's sleep, and so read under its
        nose, or raise: then the mark goes first of all, and whoever is not woken looks again.
        """
        me = threading.get_ident()
        nested = self._sleeper == me
        try:
            with self._changed:
                self._read_news()
                if done() or self._socket is None:
                    return done()
                left_s = deadline - now_s()
                if left_s <= 0:
                    return False
                if self._sleeper not in {None, me}:
                    self._changed.wait(min(left_s, _LOOK_AGAIN_S))
                    return None
                self._sleeper = me
                fd = self._socket.fileno()
            self._sleep(fd, left_s)
        finally:
            if self._sleeper == me and not nested:
                self._sleeper = None
                with self._changed:
                    self._changed.notify_all()
        return None

    def _sleep(self, fd: int, left_s: float) -> None:
        # Signal handlers run in the main thread alone.
        if threading.get_ident() == threading.main_thread().ident:
            left_s = min(left_s, _LOOK_AGAIN_S)
        try:
            _wait_readable(fd, None if left_s == math.inf else left_s)
        except OSError as error:
            if error.errno != errno.EBADF or self._socket is not None:
                raise  # otherwise a handler has read the last of it, and closed it

    # --- the contract ---

    @property
    @override
    def returncode(self) -> int | None:
        self._look()
        status = self._wait_status
        return None if status is None else os.waitstatus_to_exitcode(status)

    @property
    @override
    def ended(self) -> bool:
        self._look()
        return self._socket is None

    def _look(self) -> None:
        if self._socket is not None and self._changed.acquire(blocking=False):
            try:
                self._read_news()
            finally:
                self._changed.release()

    @override
    def wait_for_news(self, timeout_s: float) -> None:
        before = self._news()
        self._wait_until(lambda: self._news() != before, timeout_s)

    def _news(self) -> tuple[object, ...]:
        troubles = len(self.broker_troubles)
        return self._wait_status, self._socket, len(self.brokered), troubles

    @override
    def tree(self) -> list[int]:
        if self._owner != os.getpid() or self.ended:
            return []
        return _linux_proc.descendants(self._keeper_pid)

    @override
    def _send_signal(self, number: int) -> None:
        with self._changed:
            self._asked += 1
            n = self._asked
            self._unanswered.add(n)
            self._say("signal", n, int(number))
        self._wait_until(lambda: n in self._replies, _HANG_GUARD_S)
        self._unanswered.discard(n)
        code = self._replies.pop(n, 0)
        if code:
            raise OSError(code, f"signal {number} to {self.argv[0]}: {os.strerror(code)}")

    @override
    def _stop(self, number: int, grace_s: float) -> tuple[Killed, ...]:
        with self._changed:
            self._read_news()
            self._stuck = ()
            self._stopping = (int(number), float(grace_s))
            self._say("stop", *self._stopping)
            self._continue_keeper()
        patience_s = grace_s + _keeper.STUCK_AFTER_S + _HANG_GUARD_S
        self._wait_until(lambda: bool(self._stuck), patience_s)
        if self._trouble is not None:
            raise self._error(self._trouble)
        if self._stuck:
            raise self._error("SIGKILL does not end " + "; ".join(self._stuck))
        if self._socket is not None:
            raise self._error(
                f"its keeper (pid {self._keeper_pid}) does not answer; is it stopped?"
            )
        return self._killed

    def _continue_keeper(self) -> None:
        """Somebody may have stopped it (SIGSTOP). Needs the lock: it is not reaped meanwhile."""
        if self._socket is not None:
            for pid in {self._popen.pid, self._keeper_pid}:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGCONT)

    def _error(self, what: str) -> ServerError:
        return ServerError(f"{self.argv[0]} (pid {self.pid}): {what}", argv=self.argv, output="")

    @override
    def _begin_stop(self, grace_s: float) -> None:
        with self._changed:
            self._stopping = (int(signal.SIGTERM), grace_s)
            self._say("stop", *self._stopping)

    def _say(self, *message: object) -> None:
        """Tell the keeper something. Needs the lock."""
        if self._socket is None:
            return
        try:
            self._socket.sendall(_keeper.encode(message))
        except (BrokenPipeError, ConnectionResetError):
            self._read_news()  # it has ended; now it shows

    @override
    def _abandon(self) -> None:
        if self._socket is not None:
            self._let_go()
            _process.abandon(self._popen)

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._close_main()

    def _close_main(self) -> None:
        if self._main is not None:
            os.close(self._main)
            self._main = None

    @override
    def _become_inert(self) -> None:
        # A copy of the socket would hide our parent's death from the keeper.
        self._changed = threading.Condition(threading.RLock())
        self._sleeper = None
        self._let_go()
        self._popen.returncode = 0  # it is no child of ours


def _describe(pid: int, command: str, state: str, code: int) -> str:
    if code:
        return f"pid {pid} ({command}): {os.strerror(code)}; it runs as another user"
    if state == "D":
        return f"pid {pid} ({command}), which waits in the kernel for a device or file system"
    return f"pid {pid} ({command}), in state {state}"


def _pidfd(pid: int) -> int | None:
    """Of the command *pid*; None if it has ended already, or where there are none (before 5.3)."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in {errno.ESRCH, errno.ENOSYS, errno.EPERM}:
            raise
        return None


def _members(group: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(int(name)) == group:
                    found.append(int(name))
    return found


def _exit_text(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"


def _wait_readable(fd: int, timeout_s: float | None) -> None:
    # select(2) sleeps to the microsecond, Python's poll to the millisecond; but it knows only
    # the first 1024 descriptors.
    if fd < _FD_SETSIZE:
        select.select([fd], [], [], timeout_s)
    else:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000)
