"""A child process with everything it starts: run as one thing, and ended as one thing.

The contract is :class:`Process`. On Linux (:mod:`._process_linux`) a keeper stands between
us and it, and nothing of it gets away. Elsewhere (:mod:`._process_portable`) the promise
is smaller: what left the process group is not found, and our own death by SIGKILL goes unnoticed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib.util
import os
import signal
import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple
from weakref import ref

from portlease._errors import (
    BrokerUnavailableError,
    ResourceLimitError,
    ServerStartError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Final, Literal, Self, TypeAlias

    from typing_extensions import override as override  # noqa: PLC0414 - exported

    Mode: TypeAlias = Literal["session", "group", "inherit"]
    StrPath: TypeAlias = str | os.PathLike[str]
else:

    def override(method):  # noqa: ANN001, ANN202 - typing has it from 3.12 on
        return method


DEVNULL: Final = subprocess.DEVNULL
STDOUT: Final = subprocess.STDOUT
MODES: Final = ("session", "group", "inherit")
EXIT_GRACE_S: Final = 1.0
"""How long a tree has to end by itself when the interpreter ends."""

if sys.platform == "win32":
    SIGKILL = signal.SIGTERM  # TerminateProcess, which is what any signal does there
else:
    SIGKILL = signal.SIGKILL


class Killed(NamedTuple):
    """A process that did not end when it was asked to, and was ended by SIGKILL."""

    pid: int
    command: str


class Hold(NamedTuple):
    """A held socket that a server is to be brokered beside: exclusive, and bound to *port*."""

    transport: str
    """``"tcp"`` or ``"udp"``."""
    port: int
    fd: int
    """Its descriptor, which stays the caller's."""


class Brokered(NamedTuple):
    """A bind or listen of a held port that was done for a server."""

    transport: str
    port: int
    address: str
    pid: int
    """The process whose socket it is."""
    action: str
    """``"bind"`` or ``"listen"``."""


class Launch(NamedTuple):
    """What :meth:`Process.start` was asked for, checked."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None
    stdin: int | None
    output: int | None
    pass_fds: tuple[int, ...]
    mode: Mode
    errors: int | None = None
    holds: tuple[Hold, ...] = ()
    listen_fds: tuple[tuple[str, int], ...] | None = None
    note: str = ""


class Process(ABC):
    """A running command and its descendants; made by ``Process.start()``.

    Context manager: leaving the block stops the tree. All methods may be called from any thread.
    In a forked child the object is inert: the processes are the parent's. When the interpreter
    ends, trees that still run are stopped; when one is garbage, it is stopped with a
    ResourceWarning.
    """

    argv: tuple[str, ...]
    pid: int
    """The process id of the command itself."""
    brokered: list[Brokered]
    """What the broker has done for it, in this order: its first 10,000 deeds."""
    broker_troubles: list[str]
    """Calls that the broker left to the kernel though they may have been for a held port."""
    lost: str | None
    """What does not work any more, once the broker's keeper was killed."""
    signals_sent: list[int]
    """What was sent through this object, by whatever method; the keeper's own SIGKILLs are not."""
    _remembered = False

    def __init__(self, launch: Launch) -> None:
        self.argv = launch.argv
        self.brokered = []
        self.broker_troubles = []
        self.lost = None
        self.signals_sent = []
        self._owner = os.getpid()

    @staticmethod
    def start(  # noqa: PLR0913 - options of an exec
        argv: Sequence[StrPath],
        *,
        env: Mapping[str, str] | None = None,
        cwd: StrPath | None = None,
        stdin: int | None = DEVNULL,
        output: int | None = None,
        errors: int | None = STDOUT,
        pass_fds: Sequence[int] = (),
        mode: Mode = "session",
        holds: Sequence[Hold] = (),
        listen_fds: Sequence[tuple[str, int]] | None = None,
        note: str = "",
    ) -> Process:
        """Start a command.

        Args:
            argv: the program, looked up in the PATH of *env*, and its arguments.
            env: its whole environment; None for ours.
            cwd: its working directory; None for ours.
            stdin: a descriptor, ``subprocess.DEVNULL``, or None for ours.
            output: a descriptor for its standard output and error; None for ours. The caller keeps
                its own copy, and closes it.
            errors: the same for its standard error alone; where it is not given, that of *output*.
            pass_fds: descriptors that it inherits under their numbers, besides the three. They stay
                the caller's.
            mode: ``"session"`` and ``"group"`` give it a session or a process group of its own,
                and every signal at its default. ``"inherit"`` leaves it in ours, where the
                terminal's signals reach it, and what is ignored here stays ignored there.
            holds: exclusively held sockets, beside which the command and its descendants may bind
                by the broker (:mod:`._broker`; Linux only). Copies of them live until the tree has
                ended. While a server binds, another process that has such a hold must not change
                its options; a UDP hold is deaf afterwards.
            listen_fds: names and listening sockets that it inherits as LISTEN_FDS, from 3 on
                (sd_listen_fds(3)). They stay the caller's.
            note: what the keeper shows in its own command line besides the command (Linux): by a
                folder that stands there its janitor knows the keeper (:mod:`._janitor`).

        Returns:
            The process, once exec(2) has succeeded.

        Raises:
            ServerStartError: it could not be executed; ``errno`` says why.
            BrokerUnavailableError: there are *holds*, and no broker is to be had here. Nothing was
                executed.
            ResourceLimitError: no process, descriptor or memory was left for it.
            UsageError: an argument that can never work.
        """
        launch = Launch(
            argv=tuple(os.fspath(word) for word in argv),
            env=dict(os.environ if env is None else env),
            cwd=None if cwd is None else os.fspath(cwd),
            stdin=stdin,
            output=output,
            errors=output if errors == STDOUT else errors,
            pass_fds=tuple(pass_fds),
            mode=mode,
            holds=tuple(holds),
            listen_fds=None if listen_fds is None else tuple(listen_fds),
            note=note,
        )
        _check(launch)
        _reap_abandoned()
        with limits_told(launch.argv[0]):
            return _system(launch)

    # --- what a system provides ---

    @property
    @abstractmethod
    def returncode(self) -> int | None:
        """As in :mod:`subprocess`: None while the command runs, -N if signal N ended it."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing of the tree is left, the command's descendants included."""

    @abstractmethod
    def tree(self) -> list[int]:
        """The process ids of the command and its descendants, as far as they live.

        Daemons among them too. Processes that fork or end meanwhile may be missing or left over.
        """

    @abstractmethod
    def _send_signal(self, number: int) -> None:
        """As :meth:`send_signal`, which has checked whose process this is."""

    @abstractmethod
    def _stop(self, number: int, grace_s: float) -> tuple[Killed, ...]:
        """As :meth:`stop`, which has checked the arguments and whose process this is."""

    @abstractmethod
    def _wait_until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait for news until *done*, or *timeout_s*; return ``done()``."""

    @abstractmethod
    def _begin_stop(self, grace_s: float) -> None:
        """As :meth:`begin_stop`, which has checked whose process this is."""

    @abstractmethod
    def _abandon(self) -> None:
        """Let go of a tree that nobody has a handle on any more; it ends soon, without us."""

    @abstractmethod
    def _become_inert(self) -> None:
        """In a forked child: let go of the copies of what is the parent's."""

    # --- what follows from it ---

    def send_signal(self, number: int) -> None:
        """Send a signal to the command itself; nothing happens if it has ended.

        Raises:
            OSError: PermissionError if it became another user, EINVAL for no such signal.
            UsageError: this is a forked child of the process that started it.
        """
        self._must_be_ours()
        self.signals_sent.append(int(number))
        self._send_signal(number)

    def stop(self, number: int = signal.SIGTERM, *, grace_s: float = 5.0) -> tuple[Killed, ...]:
        """End the whole tree; on return nothing of it is left.

        Args:
            number: the signal for the command, or, if that has ended, for what it left behind.
                What is left once it has gone gets SIGTERM.
            grace_s: seconds until everything that is left is killed by SIGKILL.

        Returns:
            Whom it took SIGKILL to end; empty if all of them ended when asked.

        Raises:
            ServerError: something cannot be ended, or the keeper was lost; it says what and why.
            UsageError: there is no such signal.
        """
        if number not in signal.valid_signals():
            raise UsageError(f"{number} is no signal that can be sent here")
        if self._owner != os.getpid():
            return ()
        self.signals_sent.append(int(number))
        return self._stop(number, grace_s)

    def begin_stop(self, grace_s: float = 5.0) -> None:
        """Ask the tree to end as :meth:`stop` does, with SIGTERM, and do not wait for it.

        Nothing happens if it has ended, or is another process's.
        """
        if self._owner == os.getpid() and not self.ended:
            self.signals_sent.append(int(signal.SIGTERM))
            self._begin_stop(grace_s)

    def poll(self) -> int | None:
        """The return code, or None while the command runs."""
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the command itself has ended; return its return code.

        Raises:
            TimeoutError: it still runs after *timeout_s*.
        """
        self._wait_until(lambda: self.returncode is not None, timeout_s)
        returncode = self.returncode
        if returncode is None:
            raise TimeoutError(f"{self!r} still runs after {timeout_s} s")
        return returncode

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing of the tree is left, or for *timeout_s*; return whether it is so."""
        return self._wait_until(lambda: self.ended, timeout_s)

    def wait_for_news(self, timeout_s: float) -> None:
        """Wait *timeout_s*, or less if the command or tree ends, or the broker does something."""
        before = (self.returncode is None, self.ended)
        self._wait_until(lambda: (self.returncode is None, self.ended) != before, timeout_s)

    def terminate(self) -> None:
        """Send SIGTERM to the command itself."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the command itself; its descendants are ended by :meth:`stop`."""
        self.send_signal(SIGKILL)

    def abandon(self) -> None:
        """Have the tree end soon, without waiting for it; for finalizers."""
        forget(self)
        self._abandon()

    def _must_be_ours(self) -> None:
        if self._owner != os.getpid():
            raise UsageError(
                f"process {self.pid} belongs to process {self._owner}, of which this is a forked "
                "child; only that process can signal it here"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        try:
            code = self.returncode
        except OSError as error:  # somebody has closed our descriptors; that is told elsewhere
            return f"<Process {self.argv[0]!r} pid={self.pid} ({error.strerror})>"
        state = "running" if code is None else f"returncode={code}"
        return f"<Process {self.argv[0]!r} pid={self.pid} {state}>"

    def __del__(
        self,
        _warn: Callable[..., None] = warnings.warn,
        _finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        # An object whose start failed has no other attributes.
        if self._remembered and not _finalizing() and self._owner == os.getpid() and not self.ended:
            _warn(f"{self!r} was not stopped; use `with`, or stop()", ResourceWarning, source=self)
            self.abandon()


# --- starting -----------------------------------------------------------------------------------


def _check(launch: Launch) -> None:
    if not launch.argv or not launch.argv[0]:
        raise UsageError("the command is empty; give a program and its arguments")
    if launch.mode not in MODES:
        raise UsageError(f"mode={launch.mode!r} is none of {', '.join(map(repr, MODES))}")
    for text in (launch.note, *launch.argv, *launch.env, *launch.env.values()):
        if "\0" in text:
            raise UsageError(f"{text!r} has a NUL in it, which no argument or variable can")
    _check_listen_fds(launch)
    for name in launch.env:
        if not name or "=" in name[1:]:  # Windows has names that begin with =
            raise UsageError(f"{name!r} cannot name an environment variable")


def _check_listen_fds(launch: Launch) -> None:
    named = launch.listen_fds or ()
    for name, _ in named:
        if not name.isascii() or not name.isprintable() or ":" in name:
            raise UsageError(f"{name!r} cannot name a socket in LISTEN_FDNAMES")
    places = range(_FIRST_LISTEN_FD, _FIRST_LISTEN_FD + len(named))
    for fd in launch.pass_fds:
        if fd in places:
            raise UsageError(f"descriptor {fd} is in pass_fds, and listen_fds needs its number")


_FIRST_LISTEN_FD: Final = 3
"""SD_LISTEN_FDS_START, sd_listen_fds(3)."""

# Too many open files, here or in the system; too many processes; no memory for one.
_LIMITS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})


@contextlib.contextmanager
def limits_told(program: str) -> Iterator[None]:
    """Turn the errors of a process or system that has run out into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LIMITS:
            raise
        raise ResourceLimitError(
            f"cannot start {program}: {error.strerror}; end processes, close files, or raise the "
            "limits (`ulimit -n` and `-u`)",
            errno=error.errno or 0,
        ) from error


class _System:
    has_subreapers = sys.platform == "linux"


def _system(launch: Launch) -> Process:
    """Start it by what this system has."""
    if sys.platform == "linux" and _System.has_subreapers and _keeper_is_possible():
        from portlease._tree._process_linux import KeptProcess, NoSubreaperError

        try:
            return KeptProcess(launch)
        except NoSubreaperError:
            _System.has_subreapers = False
    from portlease._tree._process_portable import PortableProcess

    if launch.holds:
        raise broker_error(None)
    return PortableProcess(launch)


def _keeper_is_possible() -> bool:
    """Whether there are an interpreter to run it, ctypes for its prctl(2), and /proc."""
    return (
        bool(sys.executable)
        and importlib.util.find_spec("_ctypes") is not None
        and os.path.exists("/proc/self/stat")
    )


def start_error(launch: Launch, stage: str, code: int, path: str) -> ServerStartError:
    """The error for a command that could not be executed.

    Args:
        launch: what was to be started.
        stage: ``"fork"``, ``"session"``, ``"cwd"`` or ``"exec"``.
        code: the errno.
        path: what could not be entered or executed.
    """
    program = launch.argv[0]
    why = os.strerror(code)
    if stage == "cwd":
        text = f"cannot start {program} in {path}: {why}; give another cwd="
    elif stage == "fork":
        text = (
            f"cannot start {program}: no process for it: {why}; end some, or raise the limit "
            "(`ulimit -u`, resource.RLIMIT_NPROC, the cgroup's pids.max)"
        )
    elif stage == "session":
        text = f"cannot start {program}: no session or process group for it: {why}"
    elif code == errno.ENOENT and os.sep not in program:
        nowhere = "" if launch.env.get("PATH", os.defpath) else " (PATH is empty)"
        text = f"{program}: command not found{nowhere}; install it, or give its whole path"
    elif code == errno.ENOENT and os.path.exists(os.path.join(launch.cwd or "", program)):
        text = (
            f"cannot start {program}: it is there, but the interpreter that its first line names, "
            "or its dynamic loader, is not; install that, or run the script by its interpreter"
        )
    elif code == errno.ENOENT:
        text = f"{program}: no such file; install it, or correct the path"
    elif code == errno.EACCES and os.path.isdir(os.path.join(launch.cwd or "", program)):
        text = f"{program} is a directory; name the program in it"
    elif code == errno.EACCES:
        text = f"{program} may not be executed: {why}; chmod +x it, or put its interpreter in front"
    elif code == errno.ENOEXEC:
        text = (
            f"{program} is no program for this machine, nor a script whose first line begins "
            "with #!; put its interpreter in front"
        )
    else:
        text = f"cannot start {program}: {why}"
    return ServerStartError(text, argv=launch.argv, errno=code, output="")


def broker_error(refused: tuple[str, int] | None) -> BrokerUnavailableError:
    """The error for a broker that is not to be had.

    Args:
        refused: what was refused, and the errno; None where there is no keeper for it.
    """
    from portlease import _sandbox

    refusal = None if refused is None else _sandbox.Refusal(*refused)
    why, remedy = _sandbox.explain_broker(refusal, _sandbox.ptrace_scope())
    return BrokerUnavailableError(
        f"no broker is to be had: {why}; {remedy}", reason=why, remedy=remedy
    )


def why_no_broker() -> BrokerUnavailableError | None:
    """Find out whether a broker is to be had, by starting a command that does nothing under one.

    Returns:
        None if it is; else the error that a start with *holds* would raise.

    Raises:
        PortleaseError: no port is to be had, as in :func:`portlease.lease`.
    """
    from portlease._take import lease

    # Not bind(0): the ephemeral range may be full.
    with lease(host="127.0.0.1", offer=False, label="portlease doctor") as held:
        holds = [Hold("tcp", held.port, hold.fileno()) for _, hold in held._grip.holds]
        try:
            with Process.start([sys.executable, "-I", "-S", "-c", ""], holds=holds):
                return None
        except BrokerUnavailableError as error:
            return error


# --- all of them --------------------------------------------------------------------------------

_live: dict[int, ref[Process]] = {}
_abandoned: list[subprocess.Popen[bytes]] = []


def remember(process: Process) -> None:
    """Have *process* stopped when the interpreter ends, and made inert in forked children."""
    _live[id(process)] = ref(process)
    process._remembered = True


def forget(process: Process) -> None:
    """It has ended."""
    _live.pop(id(process), None)
    process._remembered = False


def live() -> list[Process]:
    """Those that have not ended."""
    return [process for alive in list(_live.values()) if (process := alive()) is not None]


def abandon(popen: subprocess.Popen[bytes]) -> None:
    """Wait for *popen*, which is about to end, at some later time, so that no zombie stays."""
    _abandoned.append(popen)


def _reap_abandoned() -> None:
    for popen in list(_abandoned):
        if popen.poll() is not None and popen in _abandoned:
            _abandoned.remove(popen)


def _stop_all() -> None:
    """Stop, all at the same time, what still runs when the interpreter ends."""
    mine = [process for process in live() if process._owner == os.getpid()]
    for process in mine:
        process.begin_stop(EXIT_GRACE_S)
    for process in mine:
        process.stop(grace_s=EXIT_GRACE_S)
    for popen in _abandoned:
        popen.wait()


def _forget_parents() -> None:
    """In a forked child: all of it is the parent's."""
    for process in live():
        process._become_inert()
    _live.clear()
    for popen in _abandoned:
        popen.returncode = 0  # not our child, so nothing for its finalizer to complain about
    _abandoned.clear()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
