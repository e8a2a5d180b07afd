"""The keeper: a small process between us and a server, so that nothing of the server gets away.

``_process_linux.py`` runs this module as the main program of an interpreter of its own,
``python -I -S -c ... FD SIZE -- COMMAND`` (the command is there for ps(1) alone), and talks to it
over the socket FD. Linux only.

Theory of operation
-------------------
The keeper is a *child subreaper* (PR_SET_CHILD_SUBREAPER, prctl(2)): a descendant whose parent dies
is adopted by it, however often it forked and whatever session it moved to. From that follow:

- the tree has ended when, and only when, wait(2) says that the keeper has no children;
- to end it, it is enough to signal the keeper's own children: their children are adopted as they
  go. The process id of an unreaped child cannot be taken by anybody else, so no signal ever hits a
  stranger; and parents die before their children, so no supervisor starts a child anew. Where that
  comes to no end, because the children make children faster (a fork bomb), whole sessions are
  killed, and all that is below us is stopped before the next is killed;
- our side's death, by whatever signal, or its exec, shows as end-of-file on the socket.

Should the keeper itself be killed, the kernel kills the main process (PR_SET_PDEATHSIG); the rest
of the tree is then beyond reach, which is why the keeper keeps away from everybody's signals: it is
in a session or a process group of its own, and ignores those of the terminal. Where the command is
in our caller's process group it is in another session, for a parent of that session beside the
group is to the kernel the shell that looks after it: it would keep the group from being orphaned,
and with the command's end take that away, whereupon, if a process of the group is stopped, SIGHUP
is sent to all of it (kill_orphaned_pgrp(), kernel/exit.c).

A server on holds has a *broker* (:mod:`._broker`, whose code comes with the request): the keeper
then also answers the tree's binds and listens, in the same loop. So nothing here may ever wait for
our side, which may be stopped: what it does not read is kept until it does.

Such a server does not die with its keeper, for it has two. Before it is started the keeper forks:
the child is the keeper from then on, and we ourselves are its *deputy*, a subreaper too, and asleep
in sigwait(3). When the keeper is killed, the tree is adopted by the deputy, which takes its place
but for the broker: the kernel has given up the filter's listener, so every bind and listen of the
tree fails with ENOSYS, those that wait at once. What the deputy must know of the past the keeper
writes into a pipe between them (the *legacy*). The deputy's own death changes nothing.

Messages, both ways, are a length of four bytes, big-endian, and then a marshalled tuple (both ends
are the same interpreter). To the keeper: ``("start", request)``, ``("signal", n, number)``,
``("stop", number, grace_s)``. From it: ``("started", pid)`` once exec(2) has succeeded, or
``("failed", stage, errno, path)``, or ``("unable",)`` where there are no subreapers;
``("exit", status)`` when the main process has been reaped; ``("signalled", n, errno)``;
``("stuck", processes)``; the broker's ``("brokered", ...)`` and ``("trouble", text)``;
``("keeper", pid)``, said by a keeper that has a deputy, and by the deputy that takes its place, and
``("lost", text)``, by that one, whose first word is a mark that our side knows, for the keeper may
have been killed in the middle of a message;
``("gone", killed)`` as its last word; and ``("crash", traceback)`` if it has a defect.

What is odd here is so for speed, because every served process waits for it: `_signal` and `posix`
are the built-in halves of `signal` and `os`, and libc is called through `_ctypes` itself. With
their wrappers the imports alone took 6 ms longer (3.11; a bare ``python -I -S`` takes 7.7).
For the same reason there is no ``from __future__`` here.
"""

import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import marshal  # noqa: E402
import posix  # noqa: E402
import select  # noqa: E402
import time  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any, Final, NoReturn, TypedDict

    from portlease._tree._broker import Broker, Hold

    class Request(TypedDict):
        """What to run, and how."""

        argv: list[bytes]
        env: dict[bytes, bytes]
        cwd: bytes | None
        group: int | None
        """None: a session of its own; 0: a process group of its own; else the one to join."""
        keep_ignored: bool
        """Leave ignored what was ignored when we were started (nohup), as subprocess does."""
        pass_fds: list[int]
        listen_fds: list[tuple[bytes, int]] | None
        """Names and descriptors to pass on as LISTEN_FDS, sd_listen_fds(3)."""
        holds: list[Hold]
        broker: bytes
        """The marshalled code of ._broker, if there are holds."""
        mark: bytes
        """What a deputy says first: the keeper may have been killed in the middle of a word."""

else:
    import _signal as signal

PR_SET_PDEATHSIG: "Final" = 1
PR_SET_NAME: "Final" = 15
PR_SET_CHILD_SUBREAPER: "Final" = 36

ORPHAN_GRACE_S: "Final" = 1.0
"""How long the tree has to end by itself once our side is dead."""

TERMINATED_GRACE_S: "Final" = 5.0
"""The same when somebody sends SIGTERM to the keeper."""

STUCK_AFTER_S: "Final" = 5.0
"""How long after the first SIGKILL the survivors are reported."""

CALM_ROUNDS: "Final" = 8
"""How often those who are left are killed one by one, before it counts as a fork bomb."""

MOST_FREEZES: "Final" = 20

MOST_REPORTED: "Final" = 100

MOST_UNREAD_BYTES: "Final" = 1 << 20
"""How much of the broker's news is kept for our side while it does not read."""

_LOST: "Final" = {
    b"o": "the keeper was killed: every bind and listen of the server and all that it has started "
    "fails with ENOSYS from now on; what listens goes on, and stop() ends all of it as ever",
    b"i": "the keeper was killed: a bind of a leased port fails with EADDRINUSE from now on; what "
    "listens goes on, and stop() ends all of it as ever",
}
"""What is told when a keeper is lost; its broker may have been inside another one."""

_NO_PIDFD: "Final" = frozenset({1, 3, 22, 23, 24, 38})
"""EPERM (a sandbox), ESRCH, EINVAL (a thread's), ENFILE, EMFILE, ENOSYS (before Linux 5.3)."""

_LENGTH_BYTES: "Final" = 4
_STATUS_BYTES: "Final" = 4
_FOR_EVER_MS: "Final" = -1


# --- prctl --------------------------------------------------------------------------------------


def _find_prctl() -> "Callable[[int, int | bytes], int]":
    import _ctypes  # what ctypes is made of; importing ctypes itself costs 3 ms

    address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type] # as CDLL(None)

    def prctl(option: int, argument: "int | bytes") -> int:
        return int(_ctypes.call_function(address, (option, argument, 0, 0, 0)))

    return prctl


# --- messages -----------------------------------------------------------------------------------


def encode(message: "tuple[Any, ...]") -> bytes:
    """Return *message* as it goes over the socket."""
    body = marshal.dumps(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def decode(inbox: bytearray) -> "list[tuple[object, ...]]":
    """Take every complete message out of *inbox*."""
    messages = []
    while len(inbox) >= _LENGTH_BYTES:
        end = _LENGTH_BYTES + int.from_bytes(inbox[:_LENGTH_BYTES], "big")
        if len(inbox) < end:
            break
        messages.append(marshal.loads(inbox[_LENGTH_BYTES:end]))  # noqa: S302 - from ourselves
        del inbox[:end]
    return messages


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[posix.write(fd, data) :]


def _read_file(path: str) -> bytes:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts = []
        while part := posix.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


# --- /proc --------------------------------------------------------------------------------------


def _children() -> list[int]:
    """Return the process ids of our own children, zombies too."""
    me = posix.getpid()
    try:
        return [int(pid) for pid in _read_file(f"/proc/{me}/task/{me}/children").split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        every = [int(name) for name in posix.listdir("/proc") if name.isdecimal()]
        return [pid for pid in every if _stat(pid)[2] == me]


def _below(pid: int) -> list[int]:
    """Return the process ids of the descendants of *pid*; none without CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    left = [pid]
    while left:
        above = left.pop()
        try:
            for tid in posix.listdir(f"/proc/{above}/task"):
                text = _read_file(f"/proc/{above}/task/{tid}/children")
                left += [int(child) for child in text.split()]
                found += [int(child) for child in text.split()]
        except (FileNotFoundError, ProcessLookupError):  # it has ended: they have become ours
            continue
    return found


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        pid = _stat(pid)[2]
        if pid == ancestor:
            return True
    return False


def _stat(pid: int) -> "tuple[str, str, int]":
    """Return command, state and parent of *pid*; state X where it no longer exists."""
    try:
        text = _read_file(f"/proc/{pid}/stat").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return "", "X", 0
    command, _, rest = text.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return command, state, int(parent)


# --- the child, between fork and exec -----------------------------------------------------------


def _become(request: "Request", ignored: "Iterable[int]", broker: "Broker | None") -> "NoReturn":
    """Turn this forked child into the server; comes back only by an exception."""
    stage, path = "session", b""
    try:
        if request["group"] is None:
            posix.setsid()
        else:
            posix.setpgid(0, request["group"])
        # (Here is the place for what must be set up in the server's own process, as a network
        # namespace. We are single-threaded, and nobody else's signals come.)
        stage, path = "broker", b""
        # The keeper waits for this, so it comes before a directory that may not answer (NFS).
        if broker is not None:
            broker.enlist(request["env"])
        stage, path = "cwd", request["cwd"] or b""
        if path:
            posix.chdir(path)
        stage, path = "exec", request["argv"][0]
        if request["listen_fds"] is not None:
            _pass_on(request["listen_fds"], request["pass_fds"], request["env"])
        _reset_signals(ignored if request["keep_ignored"] else ())
        _exec(request["argv"], request["env"])
    except OSError as error:
        if stage == "broker":
            path = str(error.filename or "").encode()
        raise _StartError(stage, error.errno, path) from error


_FIRST_PASSED_ON: "Final" = 3  # SD_LISTEN_FDS_START


def _pass_on(
    named: "list[tuple[bytes, int]]", pass_fds: "list[int]", env: "dict[bytes, bytes]"
) -> None:
    """Put the descriptors on 3, 4, ..., and say so in *env*, for our own process id."""
    end = _FIRST_PASSED_ON + len(named)
    # First away from where they are to go, for one may sit on another's place.
    copies = [_copy_above(fd, end) for _, fd in named]
    for _, fd in named:
        if fd not in pass_fds:
            posix.set_inheritable(fd, False)  # noqa: FBT003 - positional-only
    for number, copy in enumerate(copies, _FIRST_PASSED_ON):
        posix.dup2(copy, number)
        posix.close(copy)
    env[b"LISTEN_FDS"] = str(len(named)).encode()
    env[b"LISTEN_FDNAMES"] = b":".join(name for name, _ in named)
    env[b"LISTEN_PID"] = str(posix.getpid()).encode()


def _copy_above(fd: int, lowest: int) -> int:
    """As F_DUPFD_CLOEXEC, without the module for it."""
    passed_over = []
    try:
        while (copy := posix.dup(fd)) < lowest:
            passed_over.append(copy)
    finally:
        for one in passed_over:
            posix.close(one)
    return copy


class _StartError(Exception):
    """The child did not become the server: stage, errno and path are its arguments."""


def _ignored_signals() -> "list[int]":
    """Return what we were started with as ignored, less what Python itself ignores."""
    numbers = signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}
    return [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]


def _reset_signals(ignored: "Iterable[int]") -> None:
    """Put every signal but the *ignored* to its default, and unblock them all.

    What is ignored stays ignored across exec(2). Python ignores SIGPIPE and SIGXFSZ, and a shell
    that starts us in the background has SIGINT ignored: a server told to stop by it would not.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _exec(argv: list[bytes], env: "dict[bytes, bytes]") -> "NoReturn":
    """As execvpe(3): a file that may not be executed is remembered, and the search goes on."""
    refused: OSError | None = None
    candidates = [argv[0]]
    if b"/" not in argv[0]:
        directories = env.get(b"PATH", b"/bin:/usr/bin").split(b":")
        candidates = [d.rstrip(b"/") + b"/" + argv[0] if d else argv[0] for d in directories]
    missing: OSError = FileNotFoundError(2, "not found in an empty PATH")
    for path in candidates:
        try:
            posix.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            refused = refused or error
    raise refused or missing


# --- the keeper ---------------------------------------------------------------------------------


class Keeper:
    """Owns the socket, the main process and whatever it adopts."""

    def __init__(self, control: int) -> None:
        self._control = control
        self._parent: int | None = posix.getppid()
        """Our side; None where a pidfd tells of its death."""
        self._legacy: int | None = None
        """The pipe to our deputy, if there is one."""
        self._deputy: int | None = None
        """Its pidfd, until it is told that it can leave our caller's session."""
        self._how = b""
        """How the main process runs: a key of _LOST."""
        self._inbox = bytearray()
        self._prctl = _find_prctl()
        self._main: int | None = None
        self._main_alive = False
        self._exec_result: int | None = None
        """The pipe on which the child says why it could not become the server."""
        self._exec_answer = b""
        self._watched: dict[int, Callable[[int], bool]] = {}
        """The broker's descriptors, and what to do when one is readable."""
        self._outbox = bytearray()
        self._hears = True
        """Whether the control socket is still polled."""

        self._terminated = False
        self._orphaned = False
        self._deadline: float | None = None
        self._told: set[int] = set()
        self._killing: dict[int, str] = {}
        self._killed: list[tuple[int, str]] = []
        self._fighting: dict[int, str] = {}
        """Whom we have killed without knowing them one by one."""
        self._joined = 0
        """The process group of our caller's, if the command is in that; else 0."""
        self._born_into = posix.getsid(0)
        """The session of our caller's, unless we were given one of our own."""
        self._refused: dict[int, int] = {}
        self._kill_reported = False
        self._pause_ms = 1
        self._rounds = 0
        """How often we have had somebody to kill."""

        self.able = self._prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
        if not self.able:  # a kernel that only resembles Linux
            self._tell("unable")
            return
        self._prctl(PR_SET_NAME, b"portlease-keep\0")
        # A copy of our side's socket in a process that was forked behind Python's back would hide
        # our side's death. The kernel tells it too, with the death of any *thread* that made us.
        self._prctl(PR_SET_PDEATHSIG, signal.SIGHUP)

        self._ignored = _ignored_signals()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        posix.set_blocking(control, False)
        self._wake = self._handle_signals()
        self._poll.register(self._wake, select.POLLIN)

    def _handle_signals(self) -> int:
        """Install the handlers; return the descriptor that is readable after a signal."""
        reader, writer = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if before >= 0:  # our deputy's
            posix.close(before)
        # That a signal came is all we want: what happened is then asked of the kernel.
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        for number in (
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGTSTP,
            signal.SIGTTIN,
            signal.SIGTTOU,
        ):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return reader

    def _on_terminate(self, *_: object) -> None:
        self._terminated = True

    def run(self) -> None:
        """Serve until the tree has ended, or until our side is gone and nothing was started."""
        while True:
            self._reap()
            if self._over():
                return
            timeout_ms = self._go_on_stopping()
            for fd, events in self._poll.poll(timeout_ms):
                if fd == self._control:
                    self._on_control(events)
                elif fd == self._exec_result:
                    self._on_exec_result()
                elif fd in self._watched:
                    self._on_watched(fd, events)
                else:
                    self._drain()
            if self._terminated:
                self._terminated = False
                self._stop(signal.SIGTERM, TERMINATED_GRACE_S)
            if self._parent not in {None, posix.getppid()} and not self._orphaned:
                self._on_orphaned()

    def _drain(self) -> None:
        """Empty the pipe that a signal writes to."""
        try:
            posix.read(self._wake, 4096)
        except BlockingIOError:
            return  # what poll(2) has seen was in the pipe of before we divided

    def _over(self) -> bool:
        if self._main is None:
            return self._orphaned
        if self._alone and self._exec_result is None:
            self._tell("gone", self._killed[:MOST_REPORTED])
            self._empty_outbox()
            return True
        return False

    def _tell(self, *message: object) -> None:
        """Say something to our side, and do not wait until it reads."""
        if self._orphaned:
            return
        self._outbox += encode(message)
        self._send()

    def _tell_news(self, *message: object) -> None:
        """Say what the broker has done; of news that nobody reads there is a limit."""
        if len(self._outbox) < MOST_UNREAD_BYTES:
            self._tell(*message)

    def _send(self) -> None:
        try:
            while self._outbox:
                del self._outbox[: posix.write(self._control, self._outbox)]
        except BlockingIOError:
            self._poll.modify(self._control, select.POLLIN | select.POLLOUT)
        except (BrokenPipeError, ConnectionResetError):
            self._on_orphaned()  # poll() will say so as well, if it has not yet
        else:
            if self._hears:
                self._poll.modify(self._control, select.POLLIN)

    def _empty_outbox(self) -> None:
        """Wait until all has been said; only when nothing is left to be kept."""
        if self._orphaned:
            return
        posix.set_blocking(self._control, True)
        self._send()

    # --- what our side says ---

    def _on_control(self, events: int) -> None:
        if events & select.POLLOUT:
            self._send()
        if not events & ~select.POLLOUT:
            return
        try:
            data = posix.read(self._control, 1 << 16)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it died with messages of ours unread
            data = b""
        if not data:
            self._hears = False
            self._poll.unregister(self._control)
            self._on_orphaned()
            return
        self._inbox += data
        for message in decode(self._inbox):
            if message[0] == "start":
                self._start(message[1])  # type: ignore[arg-type]
            elif message[0] == "signal":
                self._signal(message[1], message[2])  # type: ignore[arg-type]
            else:
                self._stop(message[1], message[2])  # type: ignore[arg-type]

    def _on_orphaned(self) -> None:
        if self._orphaned:
            return
        self._orphaned = True
        self._outbox.clear()
        if self._deadline is None:
            self._stop(signal.SIGTERM, ORPHAN_GRACE_S)
        else:  # it has been told already; only the time is shorter
            self._deadline = min(self._deadline, time.monotonic() + ORPHAN_GRACE_S)

    # --- starting ---

    def _start(self, request: "Request") -> None:
        self._joined = request["group"] or 0
        if request["holds"] and not self._divide(request):
            return
        broker = self._make_broker(request) if request["holds"] else None
        reader, writer = posix.pipe()
        everything = signal.valid_signals()
        # A signal between fork and exec would write to the pipe that the child shares with us.
        before = signal.pthread_sigmask(signal.SIG_SETMASK, everything)
        keeper = posix.getpid()
        pid = self._fork()
        if pid == 0:
            self._run_child(request, keeper, writer, broker)
        posix.close(writer)
        self._main, self._main_alive = pid, True
        self._bequeath(pid.to_bytes(_STATUS_BYTES, "big"))
        self._exec_result = reader
        self._poll.register(reader, select.POLLIN)
        if broker is not None:
            broker.engage(pid)
            self._how = b"i" if broker.listener is None else b"o"
        if self._joined:
            self._move(pid)
            self._leave_session()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._let_go(_passed(request))

    def _move(self, child: int) -> None:
        """Have the child in our caller's process group now: until then ours has two members."""
        try:
            posix.setpgid(child, self._joined)
        except PermissionError:  # it has moved itself, and been executed; or nobody is left there
            return

    def _leave_session(self) -> None:
        """Be in a session of our own, if the command is in our caller's process group.

        The leader of a group cannot (setsid(2)), so for a moment we are in our caller's. Whoever
        kills that then kills the command and our caller too.
        """
        if not self._joined or posix.getsid(0) != self._born_into:
            return
        try:
            posix.setpgid(0, self._joined)
        except PermissionError:  # nobody is left in it
            return
        posix.setsid()
        if self._deputy is not None:
            deputy, self._deputy = self._deputy, None
            try:
                signal.pidfd_send_signal(deputy, signal.SIGCHLD)  # now it can, too
            except ProcessLookupError:
                return  # it was killed
            finally:
                posix.close(deputy)

    def _fork(self) -> int:
        try:
            return posix.fork()
        except OSError as error:  # EAGAIN: RLIMIT_NPROC, or the cgroup's pids.max
            self._give_up("failed", "fork", error.errno, b"")

    def _give_up(self, *why: object) -> "NoReturn":
        """Say why nothing was started, and end."""
        self._tell(*why)
        self._tell("gone", [])
        self._empty_outbox()
        posix._exit(1)

    def _make_broker(self, request: "Request") -> "Broker":
        broker: Broker = _load_broker(request)["Broker"](
            request["holds"], self._tell_news, self._watch
        )
        return broker

    def _watch(self, fd: int, act: "Callable[[int], bool]") -> None:
        self._watched[fd] = act
        self._poll.register(fd, select.POLLIN)

    def _on_watched(self, fd: int, events: int) -> None:
        if not self._watched[fd](events):
            del self._watched[fd]
            self._poll.unregister(fd)

    def _run_child(
        self, request: "Request", keeper: int, writer: int, broker: "Broker | None"
    ) -> "NoReturn":
        try:
            if request["listen_fds"]:  # it must not be where they go
                writer = _copy_above(writer, _FIRST_PASSED_ON + len(request["listen_fds"]))
            try:
                if self._legacy is None:  # there is no deputy
                    self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                    if posix.getppid() != keeper:  # it died before the line above
                        posix._exit(255)
                _become(request, self._ignored, broker)
            except _StartError as error:
                answer = error.args
            except BaseException:  # noqa: BLE001 - nothing may escape into the keeper's own loop
                answer = ("crash", 0, _traceback().encode())
            _write_all(writer, marshal.dumps(answer))
        finally:
            posix._exit(255)

    def _let_go(self, pass_fds: "Iterable[int]") -> None:
        """Hold nobody's pipe, socket or directory open."""
        for fd in pass_fds:
            posix.close(fd)
        null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        for fd in (0, 1, 2):
            posix.dup2(null, fd, inheritable=False)
        posix.close(null)
        posix.chdir("/")

    def _on_exec_result(self) -> None:
        assert self._exec_result is not None  # noqa: S101
        if data := posix.read(self._exec_result, 1 << 16):
            self._exec_answer += data
            return
        self._poll.unregister(self._exec_result)
        posix.close(self._exec_result)
        self._exec_result = None
        if self._exec_answer:
            self._tell("failed", *marshal.loads(self._exec_answer))  # noqa: S302 - from ourselves
        else:  # close-on-exec closed it
            self._tell("started", self._main)
            self._bequeath(self._how)

    # --- the deputy ---

    def _divide(self, request: "Request") -> bool:
        """Become keeper and deputy; return whether this is the keeper.

        In the deputy it comes back only when the keeper has been killed, and the deputy is it now.
        """
        assert self._parent is not None  # noqa: S101 - it is divided once
        try:
            if self._joined:
                self._deputy = posix.pidfd_open(posix.getpid(), 0)
            ours = posix.pidfd_open(self._parent, 0)
        except ProcessLookupError:
            ours = -1
        except OSError as error:  # as the broker would be refused it
            self._give_up("failed", "broker", error.errno, b"pidfd_open")
        if posix.getppid() != self._parent:  # the number may be another's now
            self._on_orphaned()
            return False
        legacy, writer = posix.pipe2(posix.O_CLOEXEC)
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        pid = self._fork()
        if pid == 0:
            posix.close(legacy)
            self._succeed_deputy(ours, writer)
            return True
        if self._deputy is not None:  # that is ourselves
            posix.close(self._deputy)
            self._deputy = None
        posix.close(ours)
        posix.close(writer)
        self._let_go(_passed(request))
        status = self._wait_as_deputy(pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if not posix.WIFSIGNALED(status):  # it has said its last word
            posix._exit(posix.WEXITSTATUS(status))
        _load_broker(request)["put_back"](request["holds"])
        self._take_over(legacy, request["mark"])
        return False

    def _wait_as_deputy(self, pid: int) -> int:
        """Wait until the keeper *pid* has ended; return its status.

        Whoever sees our number only, and sends SIGTERM, means the keeper. All signals are blocked,
        and waited for here: a handler that came just before waitpid(2) would run only after it.
        """
        while True:
            ended, status = posix.waitpid(pid, posix.WNOHANG)
            if ended:
                return status
            if signal.sigwait((signal.SIGCHLD, signal.SIGTERM)) == signal.SIGTERM:
                posix.kill(pid, signal.SIGTERM)  # our own child, and not reaped
            elif posix.getpgid(pid) != posix.getpid():
                self._leave_session()

    def _succeed_deputy(self, ours: int, legacy: int) -> None:
        """In the child: be the keeper. Neither prctl(2) nor poll's wake is inherited."""
        self._prctl(PR_SET_CHILD_SUBREAPER, 1)
        posix.setpgid(0, 0)  # no signal for a group shall find both
        self._legacy = legacy
        self._poll.unregister(self._wake)
        posix.close(self._wake)
        self._wake = self._handle_signals()
        self._poll.register(self._wake, select.POLLIN)
        self._parent = None
        self._watch(ours, self._on_our_sides_end)
        self._tell("keeper", posix.getpid())

    def _on_our_sides_end(self, _: int) -> bool:
        self._on_orphaned()
        return False

    def _bequeath(self, fact: bytes) -> None:
        """Let our deputy know: the main process's id, how it runs, `x` and its status."""
        if self._legacy is None:
            return
        try:
            posix.write(self._legacy, fact)
        except BrokenPipeError:  # it was killed
            posix.close(self._legacy)
            self._legacy = None

    def _take_over(self, legacy: int, mark: bytes) -> None:
        """The keeper was killed: look after what it leaves."""
        self._outbox += mark
        posix.set_blocking(legacy, False)  # a child that has not executed yet has a copy
        try:
            facts = posix.read(legacy, 100)
        except BlockingIOError:
            facts = b""
        posix.close(legacy)
        self._leave_session()
        if len(facts) < _STATUS_BYTES:
            self._give_up("failed", "keeper", 0, b"")
        self._main, facts = int.from_bytes(facts[:_STATUS_BYTES], "big"), facts[_STATUS_BYTES:]
        self._main_alive = self._main in _children()
        self._tell("keeper", posix.getpid())
        how = facts[:1] if facts[:1] in _LOST else facts[1 + _STATUS_BYTES :]
        if not self._main_alive:
            status = facts.partition(b"x")[2][:_STATUS_BYTES]
            # What it knew for a microsecond, and did not come to write down, nobody knows.
            self._tell("exit", int.from_bytes(status, "big") if status else int(signal.SIGKILL))
        if how:
            self._tell("lost", _LOST[how])
        else:
            self._tell("failed", "keeper", 0, b"")
            self._stop(signal.SIGKILL, 0.0)

    # --- ending ---

    def _reap(self) -> None:
        self._alone = False
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                self._alone = True
                return
            if pid == 0:
                return
            self._told.discard(pid)
            self._refused.pop(pid, None)
            command = self._killing.pop(pid, self._fighting.pop(pid, None))
            if command is not None and posix.WIFSIGNALED(status):
                self._killed.append((pid, command))
            if pid == self._main and self._main_alive:
                self._main_alive = False
                self._bequeath(b"x" + status.to_bytes(_STATUS_BYTES, "big"))
                self._tell("exit", status)

    def _signal(self, n: int, number: int) -> None:
        """Send *number* to the main process, unless it has ended: then that is told first."""
        self._reap()
        code = 0
        if self._main_alive and self._main is not None:
            try:
                posix.kill(self._main, number)
            except OSError as error:  # EPERM: it runs as another user now; EINVAL: no such signal
                code = error.errno or 0
        self._tell("signalled", n, code)

    def _stop(self, number: int, grace_s: float) -> None:
        """Begin to end the tree: *number* to the main process, or to what it left behind."""
        deadline = time.monotonic() + grace_s
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        self._pause_ms = 1
        self._kill_reported = False
        if self._main_alive and self._main is not None:
            self._ask(self._main, number)
        elif self._main is not None:
            for pid in _children():
                self._ask(pid, number)

    def _ask(self, pid: int, number: int) -> None:
        """Ask our child *pid* to end."""
        self._told.add(pid)
        if self._kill(pid, number) and number != signal.SIGKILL and _stat(pid)[1] == "T":
            self._kill(pid, signal.SIGCONT)  # a stopped process sees no other signal

    def _kill(self, pid: int, number: int) -> bool:
        try:
            posix.kill(pid, number)
        except PermissionError as error:  # it has become another user
            self._refused[pid] = error.errno or 0
            return False
        return True

    def _go_on_stopping(self) -> int:
        """Do what is due; return after how many milliseconds to come again."""
        if self._deadline is None or self._main is None:
            return _FOR_EVER_MS
        now = time.monotonic()
        if now >= self._deadline:
            self._kill_children()
            if not self._kill_reported and now >= self._deadline + STUCK_AFTER_S:
                self._kill_reported = True
                self._tell("stuck", [self._survivor(pid) for pid in _children()[:MOST_REPORTED]])
        elif self._main_alive:
            return int((self._deadline - now) * 1000) + 1
        else:
            for pid in _children():
                if pid not in self._told:
                    self._ask(pid, signal.SIGTERM)
        # SIGCHLD comes when a child of ours ends. When a grandchild does, and its children become
        # ours, nothing comes: look again, ever more slowly.
        self._pause_ms = min(self._pause_ms * 2, 1000 if self._kill_reported else 20)
        return self._pause_ms

    def _kill_children(self) -> None:
        left = self._not_killed()
        if self._rounds > CALM_ROUNDS and any(pid not in self._refused for pid in left):
            self._kill_sessions(left)
            self._freeze()
            left = self._not_killed()
        if any([self._stat_and_kill(pid) for pid in left]):  # noqa: C419 - kill each of them
            self._pause_ms = 1
            self._rounds += 1

    def _not_killed(self) -> list[int]:
        return [pid for pid in _children() if pid not in self._killing]

    def _kill_sessions(self, children: list[int]) -> None:
        """Kill the process groups of *children*, each at once: nobody can fork out of that.

        (copy_process(), kernel/fork.c: a signal for a group comes before a fork or to both.) In a
        session that is not our caller's either are only processes of the tree, for one is born into
        a session.
        """
        shared = {self._born_into, posix.getsid(0)}
        for pid in children:
            try:
                if posix.getsid(pid) not in shared:
                    posix.killpg(posix.getpgid(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue  # nobody of the group is left
            except PermissionError as error:
                self._refused[pid] = error.errno or 0

    def _freeze(self) -> None:
        """Stop all that is below us: who is stopped makes no children while others are killed.

        Those who fork one another on until a limit is reached (RLIMIT_NPROC) would take the place
        of each that is killed.
        """
        me = posix.getpid()
        seen: set[int] = set()
        for _ in range(MOST_FREEZES):
            fresh = [pid for pid in _below(me) if pid not in seen]
            if not fresh:
                return
            for pid in fresh:
                self._freeze_one(pid, me)
            seen.update(fresh)

    def _freeze_one(self, pid: int, me: int) -> None:
        """Stop *pid*, if it is still what we have seen below us; remember what it is called."""
        try:
            fd = posix.pidfd_open(pid, 0)  # its number may be another's by now, but not from now on
        except OSError as error:
            if error.errno not in _NO_PIDFD:
                raise
            return
        try:
            # With a stopped process in it our caller's own group might be sent SIGHUP, when one
            # there ends whose parent is in the session's other groups (kill_orphaned_pgrp()).
            if _is_below(pid, me) and posix.getpgid(pid) != self._joined:
                self._fighting[pid] = _stat(pid)[0]
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
        except (ProcessLookupError, PermissionError):
            return  # it has ended, or has become another user
        finally:
            posix.close(fd)

    def _stat_and_kill(self, pid: int) -> bool:
        command, state, _ = _stat(pid)
        if state in "ZX" or not self._kill(pid, signal.SIGKILL):
            return False
        self._killing[pid] = command
        return True

    def _survivor(self, pid: int) -> "tuple[int, str, str, int]":
        command, state, _ = _stat(pid)
        return pid, command, state, self._refused.get(pid, 0)


def _load_broker(request: "Request") -> "dict[str, Any]":
    module: dict[str, Any] = {"__name__": "portlease._tree._broker"}
    exec(marshal.loads(request["broker"]), module)  # noqa: S102, S302 - from ourselves
    return module


def _passed(request: "Request") -> "set[int]":
    """Return the descriptors that are the server's."""
    return {*request["pass_fds"], *(fd for _, fd in request["listen_fds"] or ())}


def _end_children_at_once() -> None:
    """Kill, in the end of a keeper that has a defect, everything that is left."""
    while True:
        for pid in _children():
            posix.kill(pid, signal.SIGKILL)
        try:
            posix.waitpid(-1, 0)
        except ChildProcessError:
            return


def _traceback() -> str:
    import traceback  # only now: it is large

    return traceback.format_exc()


def main() -> "NoReturn":
    """Run the keeper; never comes back, and takes no time to tear the interpreter down."""
    control = int(sys.argv[1])
    posix.set_inheritable(control, False)  # noqa: FBT003 - positional-only
    status = 1
    try:
        keeper = Keeper(control)
        if keeper.able:
            keeper.run()
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it was, our side must learn of it
        posix.set_blocking(control, True)
        try:
            _write_all(control, encode(("crash", _traceback())))
        except (BrokenPipeError, ConnectionResetError):
            status = 2  # it has died as well
        _end_children_at_once()
    finally:
        posix._exit(status)


if __name__ == "__main__":
    main()
