"""A server that was started: what is known of it, and what can be done with it."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from portlease._clock import now_s
from portlease._errors import ServerDiedError, UsageError
from portlease._lease import Lease
from portlease._onlooker import look
from portlease._server import _check, _crash, _output, _ready, _template, _warnings
from portlease._server._attempt import Streams
from portlease._server._cancel import Cancel
from portlease._server._handover import UnixPaths
from portlease._server._output import Output, Silence
from portlease._server._starter import Starter, take_leases
from portlease._server._warnings import HowWarning, ServerDiedWarning, ServerKilledWarning
from portlease._states import HELD, OFFERED
from portlease._tree import _process
from portlease._tree._process import limits_told

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from portlease._server._command import Command, How
    from portlease._server._output import Found, Line
    from portlease._tree._process import Killed, Process


class Server:
    """A server that :func:`serve` has started. Context manager: leaving the block stops it.

    One that ends by itself, with another exit status than 0, is reported where it is used next:
    ``port``, ``ports``, ``host`` and ``url()`` raise ServerDiedError, with its status and its last
    output; an exception that leaves the block gets them as a note; a block that is left without one
    warns with ServerDiedWarning. What you ended (``kill()``, ``process.send_signal()``) is not.

    In a forked child it is inert: server and leases are the parent's.
    """

    argv: tuple[str, ...]
    """Its command as it was executed, numbers in place of names."""
    lease: Lease
    """The lease of its main port."""
    leases: dict[str, Lease]
    """All its leases, by name; ``"port"`` is the main one."""
    process: Process
    """Its process, with ``pid``, ``returncode``, ``send_signal()`` and ``tree()``."""
    how: How
    """By which means it got its port: as in :func:`serve`, and what it came to."""
    why: str
    """Why it is that one, a sentence."""
    starts: int
    """How often it was started until it listened: twice, if only then it was known how."""
    ready_after_s: float
    """Seconds from its (first) start until it was seen to be ready."""

    def __init__(
        self,
        command: Command,
        lease: Lease | None = None,
        leases: Mapping[str, Lease] | None = None,
        cancel: Cancel | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if lease is not None and not isinstance(lease, Lease):
            raise UsageError(
                f"lease={lease!r} is no lease: give what portlease.lease() returns, or leave it "
                "out and one is taken (a number, as the fixture leased_port gives, is not enough)"
            )
        self._command = command
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._closed = True  # there is nothing yet to be closed
        self._owned: list[Lease] = []
        self._process: Process | None = None
        self._told_of_loss: Process | None = None
        self._unix: UnixPaths | None = None
        self.leases = {}
        self._reported = False
        self._tell = tell or _tell_nobody
        if lease is None and leases is None:  # else the caller knows the number already
            _warnings.of_templates(command)
        with limits_told(command.program):
            self._output = Output()
            self._silence = Silence()
            self._closed = False
            try:
                if leases is None:
                    leases = take_leases(command, lease, self._owned)
                self.leases = dict(leases)
                self.lease = self.leases[_template.PORT]
                self._unix = UnixPaths(sorted(command.unix()))
                self._starter = Starter(
                    command,
                    self.leases,
                    self._unix.paths,
                    Streams(self._silence, self._output),
                    self._tell,
                )
                self._bring_up(cancel or Cancel())
            except BaseException:
                self._close()
                raise

    # --- what a caller reads ---

    @property
    def port(self) -> int:
        """Its main port, a plain int.

        Raises:
            ServerDiedError: it has ended by itself.
        """
        self._must_not_have_died()
        return self.lease.port

    @property
    def ports(self) -> dict[str, int]:
        """All its ports by name, plain ints.

        Raises:
            ServerDiedError: it has ended by itself.
        """
        self._must_not_have_died()
        return self._numbers()

    @property
    def paths(self) -> dict[str, str]:
        """The paths of its Unix sockets, by name; in a folder that goes with it."""
        return {} if self._unix is None else dict(self._unix.paths)

    @property
    def host(self) -> str:
        """The address at which clients reach its main port.

        Raises:
            ServerDiedError: it has ended by itself.
        """
        self._must_not_have_died()
        return self._host

    def url(self, path: str = "", *, scheme: str = "http", port: str = _template.PORT) -> str:
        """Where clients reach it: ``http://127.0.0.1:8080``.

        Args:
            path: put behind it; a slash comes between them if it has none.
            scheme: what stands before ``://``.
            port: the name of the port.

        Raises:
            ServerDiedError: it has ended by itself.
            UsageError: no port is called so.
        """
        self._must_not_have_died()
        host, number = self._address(port)
        return _ready.url(scheme, host, number, path)

    @property
    def output(self) -> str:
        """What it has written so far to its standard output and error, over all its starts.

        Once it is stopped, the last 16 MiB of it.
        """
        return self._output.text()

    def tail(self, n: int = 10) -> list[Line]:
        """The last lines of what it has written since it was last started.

        Args:
            n: how many at most.

        Returns:
            The lines without their ends, as :meth:`follow` gives them; the last may be unfinished.
        """
        return self._output.tail(n)

    def follow(self, *, after: Line | None = None) -> Iterator[Line]:
        """Each line that it writes, as soon as it is finished; ends when the server has ended.

        Args:
            after: a line from here or :meth:`wait_for_line`: go on behind it. By default from the
                first line since it was last started.

        Returns:
            An iterator that blocks until there is a line. UTF-8; what is no UTF-8 shows as U+FFFD.
            A line longer than 1 MiB comes in pieces. It ends with the process, so also at a
            restart(); follow() again for what comes then.

        Not guaranteed: what a server keeps in a buffer of its own is not written yet (Python:
        PYTHONUNBUFFERED=1).
        """
        return self._output.follow(self.process, after)

    def wait_for_line(
        self, pattern: str | re.Pattern[str], timeout_s: float = 30.0, *, after: Line | None = None
    ) -> Found:
        """Wait until it has written a line in which *pattern* is found.

        Args:
            pattern: a regular expression, searched for in each line.
            timeout_s: seconds.
            after: a line from here or :meth:`follow`: look only behind it. By default every line
                since it was last started counts, so one that is there already is found at once.

        Returns:
            The line, a str; its ``match`` is the match, so ``.match[1]`` the first group.

        Raises:
            ServerTimeoutError: there was none in time; with the output.
            ServerDiedError: it ended without one; with its exit status and output.
        """
        return self._wait_for_line(pattern, timeout_s, after)

    def _wait_for_line(
        self,
        pattern: str | re.Pattern[str],
        timeout_s: float,
        after: Line | None,
        cancel: Cancel | None = None,
    ) -> Found:
        return _output.wait_for_line(
            self._output,
            self.process,
            pattern,
            timeout_s,
            after=after,
            cancel=cancel,
            program=self._command.program,
            argv=self.argv,
            ports=self._numbers(),
            how=self.how,
        )

    # --- what a caller does ---

    def restart(self) -> None:
        """Stop it and start it again, on the same ports; they stay leased in between.

        A lease that has stepped aside stays so (GUARDED): it would have to do it again. One that
        had crashed is started again without a word.

        Raises:
            ServerError: as :func:`serve`. The leases are kept; ``stop()`` releases them.
        """
        self._restart()

    def _restart(self, cancel: Cancel | None = None) -> None:
        """restart(), which may be broken off: nothing runs then, and the leases are kept."""
        with self._lock:
            self._must_be_usable("restarted")
            self._warn_of(self._halt())
            with limits_told(self._command.program):
                self._bring_up(cancel or Cancel())
            if self._closed:  # a signal handler has called stop() in the midst of it
                self._halt()
                self._must_be_usable("restarted")

    def kill(self) -> None:
        """End it and all that it started by SIGKILL, as a crash does; the leases are kept.

        ``restart()`` starts it again, on the same ports. Does nothing if it has ended already, so a
        crash is still told.

        Raises:
            ServerError: some process of it cannot be ended.
            UsageError: it was stopped, or is another process's.
        """
        with self._lock:
            self._must_be_usable("killed")
            if self._process is not None and not self._process.ended:
                self._halt(_process.SIGKILL, 0.0)

    def _must_be_usable(self, what: str) -> None:
        if self._closed or self._owner != os.getpid():
            raise UsageError(
                f"{self!r} cannot be {what}: it was stopped, or is another process's; "
                "call portlease.serve() again"
            )

    def stop(self) -> None:
        """Stop it and all that it started, and release the leases taken for it.

        Warns with ServerKilledWarning if it took SIGKILL. May be called again.

        Raises:
            ServerError: some process of it cannot be ended; its leases are released all the same.
        """
        self._warn_of(self._shut())

    def _shut(self) -> tuple[Killed, ...]:
        """stop() without its warning."""
        if self._owner != os.getpid():
            return ()
        with self._lock:
            return self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        crash = self._crash()
        try:
            self._warn_of_loss()
        finally:  # warnings may be errors
            self.stop()
        self._report(value, crash)

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else repr(self._process)
        return f"<Server {self._command.program!r} port={self.lease.port} {state}>"

    def __del__(self, _is_dropped: Callable[[Server], bool] = _warnings.is_dropped) -> None:
        if _is_dropped(self):
            self._abandon()

    # --- a crash ---

    def _crash(self) -> ServerDiedError | None:
        """What is to be reported of one that has ended by itself; None if there is nothing."""
        process = self._process  # another thread may restart or stop it meanwhile
        if process is None or self._owner != os.getpid():
            return None
        return _crash.of(self, process)

    def _must_not_have_died(self) -> None:
        if (crash := self._crash()) is not None:
            self._reported = True
            raise crash
        self._warn_of_loss()

    def _warn_of_loss(self) -> None:
        """Tell, once, that it does without a broker now."""
        process = self._process
        if process is None or process.lost is None or process is self._told_of_loss:
            return
        self._told_of_loss = process
        _warnings.tell(
            f"{self._command.program} (port {self.lease.port}): {process.lost}; restart() gives it "
            "a broker again",
            HowWarning,
        )

    def _report(self, value: BaseException | None, crash: ServerDiedError | None = None) -> None:
        """Tell of a crash on leaving a block, unless it was told: as a note, or as a warning.

        Args:
            value: the exception that leaves the block.
            crash: what there is to tell, if the server is stopped already.
        """
        crash = crash or self._crash()
        if crash is None or self._reported:
            return
        self._reported = True
        if value is None:
            _warnings.tell(crash.message, ServerDiedWarning)
        else:
            value.add_note(crash.message)

    # --- for the parts of it ---

    def _numbers(self) -> dict[str, int]:
        return {name: lease.port for name, lease in self.leases.items()}

    def _address(self, name: str) -> tuple[str, int]:
        """Where clients reach one of its ports."""
        if name not in self.leases:
            raise UsageError(
                f"no port is called {name!r}; there are {', '.join(sorted(self.leases))}"
            )
        return self._host, self.leases[name].port

    def _output_of_this_start(self, most: int | None = None) -> str:
        """What it has written since it was last started; the last *most* bytes of it."""
        begun = self._output.began
        return self._output.text(max(begun, self._output.size() - most) if most else begun)

    # --- up ---

    def _bring_up(self, cancel: Cancel) -> None:
        begun = now_s()
        self._reported = False
        attempt, self.starts = self._starter.run(cancel)
        self.process = self._process = attempt.process
        try:
            self.argv, self._host = attempt.argv, attempt.host
            self.how, self.why = attempt.how_now(), attempt.why_now()
            with cancel.ending(self._begin_end):
                _check.wait(self, attempt.begun + self._command.timeout_s, cancel, self._tell)
                cancel.check()
        except BaseException:
            self._halt()
            raise
        self.ready_after_s = now_s() - begun
        if look.ready is not None:
            look.ready(self)

    def _begin_end(self) -> None:
        self.process.begin_stop(self._command.stop_timeout_s)

    # --- down ---

    def _halt(self, number: int | None = None, grace_s: float | None = None) -> tuple[Killed, ...]:
        """End the process; its object stays readable."""
        process, self._process = self._process, None
        if process is None:
            return ()
        return process.stop(
            self._command.stop_signal if number is None else number,
            grace_s=self._command.stop_timeout_s if grace_s is None else grace_s,
        )

    def _close(self) -> tuple[Killed, ...]:
        """Give back all that there is, on every path."""
        self._closed = True
        with contextlib.ExitStack() as stack:
            stack.callback(self._output.close)
            stack.callback(self._silence.close)
            if self._unix is not None:
                stack.callback(self._unix.close)
            for lease in self._owned:
                stack.callback(lease.release)
            stack.callback(self._give_back)
            return self._halt()

    def _abandon(self) -> None:
        """Give back all that there is, and do not wait for the end of its process."""
        if self._process is not None:
            self._process.abandon()
        self._process = None
        self._close()

    def _give_back(self) -> None:
        """Leave the leases that are not ours as they were: a UDP hold receives datagrams again."""
        for lease in self.leases.values():
            if lease not in self._owned and lease.state in {HELD, OFFERED}:
                lease._hear()

    def _warn_of(self, killed: tuple[Killed, ...]) -> None:
        if not killed:
            return
        who = ", ".join(f"{one.command} (pid {one.pid})" for one in killed)
        number = _ready.signal_name(self._command.stop_signal)
        _warnings.tell(
            f"{self._command.program} did not end within {self._command.stop_timeout_s:g} s of "
            f"{number}, and was ended by SIGKILL: {who}; give it more time (stop_timeout_s=) "
            "or another signal (stop_signal=)",
            ServerKilledWarning,
        )


def _tell_nobody(what: str) -> None:
    del what
