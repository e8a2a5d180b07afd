"""Several servers as one: ``serve_many()`` and ``ServerGroup``.

The leases of all are taken before anything is started, so every port is known to everyone, and it
is all of them or none. A thread starts each server as soon as those that it waits for are ready;
the caller's thread looks on. Does one fail, or is the caller interrupted, the others are broken
off, and what was up is stopped in reverse: each when nobody is left that needs it.
"""

from __future__ import annotations

import contextlib
import errno
import graphlib
import os
import queue
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import PortleaseError, ResourceLimitError
from portlease._server import _ready, _service, _template, _warnings
from portlease._server._cancel import Cancel, StartCancelledError
from portlease._server._server import Server
from portlease._server._starter import take_leases
from portlease._tree._process import EXIT_GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from portlease._lease import Lease
    from portlease._server._command import Command, Options
    from portlease._server._service import Member, Service
    from portlease._tree._process import Killed, StrPath


def serve_many(
    services: Mapping[str, Sequence[StrPath] | Service], **common: Unpack[Options]
) -> ServerGroup:
    """Start several servers, side by side as far as they do not wait for each other.

    Args:
        services: by name, a command as :func:`portlease.serve` takes it, or a :class:`Service`. In
            each, ``{db.port}`` and ``{db.host}`` are of the service ``db``, ``{db.admin}`` another
            port of it; who names another service is started once that is ready. ``{{db.port}}`` is
            the text ``{db.port}``.
        **common: the options of :func:`portlease.serve`, for all that do not say otherwise.
            ``timeout_s`` is the time of each, from when it is started. ``label`` is put before the
            service's name.

    Returns:
        The group, once all of them are ready; use it in a ``with`` block, or call ``stop()``.

    Raises:
        UsageError: an argument that can never work, an unknown name, or services that wait for each
            other in a circle.
        PortleaseError: as :func:`portlease.serve`, of the first that failed: its text begins with
            the name of the service, which is its ``service``, and the error itself is its
            ``__cause__``. All the others have been stopped then, and no lease is left.

    Not guaranteed: an order between services that do not wait for each other. A callable that is
    given as ``ready=`` runs in another thread, and cannot be broken off.
    """
    return start_many(services, None, **common)


def start_many(
    services: Mapping[str, Sequence[StrPath] | Service],
    cancel: Cancel | None,
    **common: Unpack[Options],
) -> ServerGroup:
    """:func:`serve_many`, which may be broken off.

    Raises:
        StartCancelledError: it was broken off; nothing of it is left.
    """
    return ServerGroup(_service.members(services, common), cancel)


class ServerGroup(Mapping[str, Server]):
    """Servers that :func:`serve_many` has started, by name: ``group["db"].port``.

    Context manager: leaving the block stops them, in reverse. What has crashed meanwhile is
    reported as a :class:`Server` does it. In a forked child it is inert.
    """

    def __init__(self, members: Mapping[str, Member], cancel: Cancel | None = None) -> None:
        self._members = members
        self._owner = os.getpid()
        self._closed = False
        self._lock = threading.RLock()
        self._owned: list[Lease] = []
        self._leases: dict[str, dict[str, Lease]] = {}
        self._up: dict[str, Server] = {}
        try:
            for name, member in members.items():
                _warnings.of_templates(member.command)
                self._leases[name] = self._take_leases(member)
            self._start(cancel or Cancel())
        except BaseException:
            self._close()
            raise

    # --- what a caller reads ---

    def __getitem__(self, name: str) -> Server:
        try:
            return self._up[name]
        except KeyError:
            raise KeyError(
                f"no service is called {name!r}; there are {', '.join(self._members)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def ports(self) -> dict[str, dict[str, int]]:
        """The ports of each by name, plain ints: ``{"db": {"port": 16001}}``."""
        return {
            name: {port: lease.port for port, lease in leases.items()}
            for name, leases in self._leases.items()
        }

    def __repr__(self) -> str:
        state = "stopped" if self._closed else ", ".join(map(repr, self._up.values()))
        return f"<ServerGroup {', '.join(self._members)}: {state}>"

    # --- what a caller does ---

    def restart(self, name: str) -> None:
        """Stop one of them and start it again, on the same ports; the others go on.

        Raises:
            KeyError: no service is called so.
            ServerError: as ``Server.restart()``; its text begins with the name.
        """
        self._restart(name)

    def _restart(self, name: str, cancel: Cancel | None = None) -> None:
        server = self[name]
        try:
            server._restart(cancel)
        except StartCancelledError:
            raise
        except PortleaseError as error:
            raise _service.named(name, error) from error

    def stop(self) -> None:
        """Stop all of them, each before those that it waited for, and release the leases.

        Warns with ServerKilledWarning of each that it took SIGKILL to end. May be called again.

        Raises:
            ServerError: one cannot be ended; the others are stopped, and leases released, all the
                same. The errors of further ones are its notes.
        """
        self._warn_of(self._shut())

    def _shut(self) -> dict[str, tuple[Killed, ...]]:
        """stop() without its warnings."""
        return {} if self._owner != os.getpid() else self._close()

    def _warn_of(self, killed: Mapping[str, tuple[Killed, ...]]) -> None:
        for name, some in killed.items():
            self._up[name]._warn_of(some)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        crashes = self._crashes()
        try:
            self._warn_of_losses()
        finally:  # warnings may be errors
            self.stop()
        self._report(value, crashes)

    def _crashes(self) -> dict[str, PortleaseError]:
        return {
            name: _service.named(name, crash)
            for name, server in self._up.items()
            if (crash := server._crash()) is not None
        }

    def _warn_of_losses(self) -> None:
        for server in self._up.values():
            server._warn_of_loss()

    def _report(self, value: BaseException | None, crashes: Mapping[str, PortleaseError]) -> None:
        for name, crash in crashes.items():
            self._up[name]._report(value, crash)  # type: ignore[arg-type] # of the same type

    def __del__(self, _is_dropped: Callable[[ServerGroup], bool] = _warnings.is_dropped) -> None:
        if not _is_dropped(self):
            return
        self._closed = True
        for server in self._up.values():
            server._abandon()
        for lease in self._owned:
            lease.release()

    # --- leases and templates ---

    def _take_leases(self, member: Member) -> dict[str, Lease]:
        try:
            return take_leases(member.command, member.service.lease, self._owned)
        except PortleaseError as error:
            raise _service.named(member.name, error) from error

    def _value(self, name: str, what: str) -> object:
        """What ``{name.what}`` stands for; a service that is not waited for is not up yet."""
        if what != _template.HOST:
            return self._leases[name][what].port
        if (server := self._up.get(name)) is not None:
            return server._host
        return _ready.client_host((), self._leases[name][_template.PORT].scope)

    def _command(self, name: str) -> Command:
        return self._members[name].filled(lambda text: _service.substitute(text, self._value))

    # --- up ---

    def _start(self, cancel: Cancel) -> None:
        crew = _Crew()
        cancels: dict[str, Cancel] = {}
        order = graphlib.TopologicalSorter(_service.waits(self._members))
        order.prepare()
        try:
            with cancel.ending(crew.wake):
                while order.is_active():
                    for name in order.get_ready():
                        own = cancels[name] = Cancel()
                        crew.send(name, partial(self._bring_up, name, own))
                    done = crew.next()
                    cancel.check()
                    if done is not None:
                        done.check()
                        order.done(done.name)
        except BaseException as error:
            for one in cancels.values():
                one.cancel()
            failed = [done for done in crew.rest() if done.failed]
            if isinstance(error, _FailedError):
                self._tell_failure(error.done, failed)
            raise

    def _bring_up(self, name: str, cancel: Cancel) -> None:
        """In a thread of its own."""
        server = Server(self._command(name), leases=self._leases[name], cancel=cancel)
        with self._lock:
            if not self._closed:
                self._up[name] = server
                return
        # The group was given up meanwhile, by a caller who could not wait (a second Ctrl-C).
        server._shut()

    def _tell_failure(self, first: _Done, others: Sequence[_Done]) -> None:
        """Raise the error of the first that failed."""
        cause = first.error
        stopped = ", ".join(name for name in self._members if name != first.name)
        notes = [f"(so these were stopped, or not started: {stopped})"] if stopped else []
        notes += [f"{other.name} failed as well: {other.error}" for other in others]
        assert cause is not None  # noqa: S101 - that is what "failed" means
        error = cause
        if isinstance(cause, PortleaseError):
            error = _service.named(first.name, cause)
        else:  # of a callable that was given as ready=, say
            notes.insert(0, f"(while the service {first.name!r} was started)")
        for note in notes:
            error.add_note(note)
        if error is cause:
            raise error
        raise error from cause

    # --- down ---

    def _close(self) -> dict[str, tuple[Killed, ...]]:
        """Give back all that there is, on every path."""
        with self._lock:
            self._closed = True
            up = dict(self._up)
        killed: dict[str, tuple[Killed, ...]] = {}

        def take_down(name: str) -> None:
            killed[name] = up[name]._shut()

        with contextlib.ExitStack() as stack:
            for lease in self._owned:
                stack.callback(lease.release)
            try:
                failed = self._take_down(up, take_down)
            except BaseException:
                # The caller does not wait; but end they shall, and the threads that wait for that
                # with them: the interpreter's end waits for those.
                for server in up.values():
                    server.process.begin_stop(EXIT_GRACE_S)
                raise
            _raise_first(failed)
        return killed

    def _take_down(self, up: Mapping[str, Server], action: Callable[[str], None]) -> list[_Done]:
        """Do it to each once nobody needs it any more; return those where it failed."""
        order = graphlib.TopologicalSorter(dict.fromkeys(up, frozenset[str]()))
        for name in up:
            for needed in self._members[name].after & up.keys():
                order.add(needed, name)
        order.prepare()
        crew, failed = _Crew(), []
        while order.is_active():
            for name in order.get_ready():
                crew.send_or_do(name, partial(action, name))
            done = crew.next()
            if done is not None:
                order.done(done.name)
                failed += [done] if done.failed else []
        return failed


def _raise_first(failed: Sequence[_Done]) -> None:
    if not failed:
        return
    first, *others = failed
    error = first.error
    assert error is not None  # noqa: S101 - that is what "failed" means
    for other in others:
        error.add_note(f"{other.name}: {other.error}")
    if not isinstance(error, PortleaseError):
        raise error
    raise _service.named(first.name, error) from error


# --- threads --------------------------------------------------------------------------------------


class _Done(NamedTuple):
    """What became of one piece of work."""

    name: str
    error: BaseException | None

    @property
    def failed(self) -> bool:
        return self.error is not None and not isinstance(self.error, StartCancelledError)

    def check(self) -> None:
        if self.failed:
            raise _FailedError(self)


class _FailedError(Exception):
    """One could not be started."""

    def __init__(self, done: _Done) -> None:
        super().__init__(done.name)
        self.done = done


class _Crew:
    """Threads, one for each piece of work; the one that waits for them can be interrupted."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[_Done | None] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}

    def send(self, name: str, work: Callable[[], None]) -> None:
        """Have a thread do it.

        Raises:
            ResourceLimitError: none can be had.
        """
        # Not a daemon: the end of the interpreter waits until it has cleaned up.
        thread = threading.Thread(
            target=self._do, args=(name, work), name=f"portlease {name}", daemon=False
        )
        try:
            thread.start()
        except RuntimeError as error:  # pthread_create(3) fails with EAGAIN
            raise ResourceLimitError(
                f"no thread for the service {name!r}; end processes, or raise the limit "
                "(`ulimit -u`)",
                errno=errno.EAGAIN,
            ) from error
        self._threads[name] = thread

    def send_or_do(self, name: str, work: Callable[[], None]) -> None:
        """Have a thread do it, or else do it here."""
        try:
            self.send(name, work)
        except ResourceLimitError:
            self._do(name, work)

    def _do(self, name: str, work: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - the waiting thread raises it
            error = raised
        self._news.put(_Done(name, error))

    def wake(self) -> None:
        """Have next() return None."""
        self._news.put(None)

    def next(self) -> _Done | None:
        """What is done next; None if it was woken."""
        done = self._news.get()
        if done is not None and (thread := self._threads.pop(done.name, None)) is not None:
            thread.join()
        return done

    def rest(self) -> list[_Done]:
        """Wait for all that is still being done."""
        found = []
        while self._threads:
            if (done := self.next()) is not None:
                found.append(done)
        return found
