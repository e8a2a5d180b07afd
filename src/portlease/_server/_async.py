"""``aserve()`` and ``aserve_many()``: the same servers, for asyncio and trio.

Nothing is done twice: each call of the plain API runs in a thread of its own, and here is only what
waits for that thread. Neither library is imported; the one that runs is in ``sys.modules``.

A task that is cancelled while its server starts breaks the start off (:mod:`._cancel`), waits until
nothing of it is left, and is cancelled then. Stopping is not broken off by anything: a task that is
cancelled meanwhile is so when the server has gone. So nothing is ever left behind in a thread.

asyncio tells a task of a cancellation once, as an exception where it waits; trio at every wait from
then on, unless the wait refuses; anyio does on asyncio what trio does, by cancelling the task in
every round of the loop, for as long as it is not shielded.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from portlease._errors import ResourceLimitError, UsageError
from portlease._server import _group, _serve, _template
from portlease._server._cancel import Cancel
from portlease._server._output import Follower

if TYPE_CHECKING:
    import re
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from portlease._lease import Lease
    from portlease._server._command import How, Options
    from portlease._server._group import ServerGroup
    from portlease._server._output import Found, Line
    from portlease._server._server import Server
    from portlease._server._service import Service
    from portlease._tree._process import Process, StrPath

T = TypeVar("T")


class _Twin(Protocol):
    """What :class:`Starting` starts."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


Twin = TypeVar("Twin", bound=_Twin)


def aserve(
    args: Sequence[StrPath], *, lease: Lease | None = None, **options: Unpack[Options]
) -> Starting[AsyncServer]:
    """As :func:`portlease.serve`, for asyncio and trio.

    Use it as ``async with portlease.aserve([...]) as server:``; or ``server = await aserve([...])``
    and in the end ``await server.stop()``. The arguments and the errors are those of ``serve()``. A
    task that is cancelled while it starts leaves nothing behind; that takes as long as the server
    needs to end, at most ``stop_timeout_s`` (and a bit, for SIGKILL).

    Raises:
        UsageError: it is awaited where neither asyncio nor trio runs; and as :func:`serve`.

    Not guaranteed: that a callable given as ``ready=`` is broken off; it runs in a thread.
    """

    def start(cancel: Cancel) -> Server:
        return _serve.start(args, lease=lease, cancel=cancel, **options)

    return Starting(start, _stop, AsyncServer)


def aserve_many(
    services: Mapping[str, Sequence[StrPath] | Service], **common: Unpack[Options]
) -> Starting[AsyncServerGroup]:
    """As :func:`portlease.serve_many`, for asyncio and trio; see :func:`aserve`."""

    def start(cancel: Cancel) -> ServerGroup:
        return _group.start_many(services, cancel, **common)

    return Starting(start, _stop, AsyncServerGroup)


def _stop(started: Server | ServerGroup) -> None:
    started.stop()


class Starting(Generic[Twin]):
    """A server, or a group of them, that is started when it is awaited or its block entered."""

    def __init__(
        self,
        start: Callable[[Cancel], T],
        undo: Callable[[T], None],
        twin: Callable[[T], Twin],
    ) -> None:
        async def run() -> Twin:
            cancel = Cancel()
            return twin(await _in_thread(lambda: start(cancel), cancel, undo))

        self._run: Callable[[], Coroutine[Any, Any, Twin]] = run
        self._started: list[Twin] = []

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(
                f"it has not been started yet, and has no {name!r}; await it, or use it in "
                "`async with`",
                name=name,
                obj=self,
            )

    def __await__(self) -> Generator[Any, Any, Twin]:
        return self._run().__await__()

    async def __aenter__(self) -> Twin:
        started = await self._run()
        self._started.append(started)
        return started

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._started.pop().__aexit__(kind, value, traceback)


class AsyncServer:
    """A :class:`portlease.Server`, for asyncio and trio: what may take its time is awaited."""

    def __init__(self, server: Server) -> None:
        self.sync = server
        """The server itself, with its blocking methods."""

    # --- what a caller reads: see Server ---

    @property
    def port(self) -> int:
        """Its main port, a plain int. Raises ServerDiedError if it has ended by itself."""
        return self.sync.port

    @property
    def ports(self) -> dict[str, int]:
        """All its ports by name. Raises ServerDiedError if it has ended by itself."""
        return self.sync.ports

    @property
    def host(self) -> str:
        """The address at which clients reach it. Raises ServerDiedError as the others."""
        return self.sync.host

    @property
    def argv(self) -> tuple[str, ...]:
        """Its command as it was executed."""
        return self.sync.argv

    @property
    def lease(self) -> Lease:
        """The lease of its main port."""
        return self.sync.lease

    @property
    def leases(self) -> dict[str, Lease]:
        """All its leases, by name."""
        return self.sync.leases

    @property
    def process(self) -> Process:
        """Its process."""
        return self.sync.process

    @property
    def how(self) -> How:
        """By which means it got its port."""
        return self.sync.how

    @property
    def why(self) -> str:
        """Why by that one."""
        return self.sync.why

    @property
    def starts(self) -> int:
        """How often it was started until it listened."""
        return self.sync.starts

    @property
    def ready_after_s(self) -> float:
        """Seconds from its (first) start until it was seen to be ready."""
        return self.sync.ready_after_s

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.sync.output

    def url(self, path: str = "", *, scheme: str = "http", port: str = _template.PORT) -> str:
        """Where clients reach it, as :meth:`portlease.Server.url`."""
        return self.sync.url(path, scheme=scheme, port=port)

    def tail(self, n: int = 10) -> list[Line]:
        """The last lines of its output, as :meth:`portlease.Server.tail`."""
        return self.sync.tail(n)

    # --- what takes its time ---

    async def follow(self, *, after: Line | None = None) -> AsyncGenerator[Line, None]:
        """Each line that it writes, as :meth:`portlease.Server.follow`: ``async for``.

        A loop that is left early should close it: ``async with contextlib.aclosing(...)``.
        """
        cancel = Cancel()
        with Follower(self.sync._output, self.sync.process, after, cancel) as follower:
            while not follower.over:
                for line in follower.take() or await _in_thread(follower.wait, cancel):
                    yield line

    async def wait_for_line(
        self, pattern: str | re.Pattern[str], timeout_s: float = 30.0, *, after: Line | None = None
    ) -> Found:
        """Wait for a line of its output, as :meth:`portlease.Server.wait_for_line`."""
        cancel = Cancel()
        return await _in_thread(
            lambda: self.sync._wait_for_line(pattern, timeout_s, after, cancel), cancel
        )

    async def restart(self) -> None:
        """Stop it and start it again, as :meth:`portlease.Server.restart`.

        Cancelled meanwhile, it is left stopped, with its leases; ``restart()`` can be tried again.
        """
        cancel = Cancel()
        await _in_thread(lambda: self.sync._restart(cancel), cancel)

    async def kill(self) -> None:
        """End it by SIGKILL, as :meth:`portlease.Server.kill`. Not broken off."""
        await _in_thread(self.sync.kill)

    async def stop(self) -> None:
        """Stop it, and release its leases, as :meth:`portlease.Server.stop`. Not broken off."""
        self.sync._warn_of(await _in_thread(self.sync._shut))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        crash = self.sync._crash()
        try:
            self.sync._warn_of_loss()
        finally:  # warnings may be errors
            await self.stop()
        self.sync._report(value, crash)

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync)[1:]}"


class AsyncServerGroup(Mapping[str, AsyncServer]):
    """A :class:`portlease.ServerGroup`, for asyncio and trio: ``group["db"]``, an AsyncServer."""

    def __init__(self, group: ServerGroup) -> None:
        self.sync = group
        """The group itself, with its blocking methods."""
        self._servers = {name: AsyncServer(server) for name, server in group.items()}

    def __getitem__(self, name: str) -> AsyncServer:
        if name not in self._servers:
            self.sync[name]  # its error says which there are
        return self._servers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def ports(self) -> dict[str, dict[str, int]]:
        """The ports of each by name, as :attr:`portlease.ServerGroup.ports`."""
        return self.sync.ports

    async def restart(self, name: str) -> None:
        """Stop one and start it again, as :meth:`portlease.ServerGroup.restart`."""
        cancel = Cancel()
        await _in_thread(lambda: self.sync._restart(name, cancel), cancel)

    async def stop(self) -> None:
        """Stop them all, as :meth:`portlease.ServerGroup.stop`. Not broken off."""
        self.sync._warn_of(await _in_thread(self.sync._shut))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        crashes = self.sync._crashes()
        try:
            self.sync._warn_of_losses()
        finally:  # warnings may be errors
            await self.stop()
        self.sync._report(value, crashes)

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync)[1:]}"


# --- a call in a thread ---------------------------------------------------------------------------


async def _in_thread(
    call: Callable[[], T],
    cancel: Cancel | None = None,
    undo: Callable[[T], None] | None = None,
) -> T:
    """Do it in a thread, and wait until it is done, whatever happens to the task meanwhile.

    Args:
        call: what to do.
        cancel: breaks it off, if the task is cancelled; without one it goes on to its end.
        undo: takes its result back, if the task was cancelled and nobody will get that.

    Raises:
        UsageError: neither asyncio nor trio runs here.
        The task's cancellation, once the call has ended; otherwise the call's own error.
    """
    wait = _library()
    job = _Job(call, undo)
    try:
        await wait(job, cancel)
    except GeneratorExit:  # nobody runs this task any more; it must not wait
        if cancel is not None:
            cancel.cancel()
        job.abandon()
        raise
    except BaseException:
        if job.has_to_be_undone:
            await wait(_Job(job.take_back, None), None)
        raise
    return job.result()


class _Job(Generic[T]):
    """A call in a thread of its own, which tells when it is done."""

    def __init__(self, call: Callable[[], T], undo: Callable[[T], None] | None) -> None:
        self._call = call
        self._undo = undo
        self._lock = threading.Lock()
        self._over = self._abandoned = False
        self._results: list[T] = []
        self._error: BaseException | None = None

    def start(self, wake: Callable[[], object]) -> None:
        """Start the thread; *wake* is called in it, in the end."""
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run, wake), name="portlease", daemon=False
        )
        try:
            thread.start()
        except RuntimeError as error:  # pthread_create(3) fails with EAGAIN
            raise ResourceLimitError(
                "no thread to be had; end processes, or raise the limit (`ulimit -u`)",
                errno=errno.EAGAIN,
            ) from error

    def _run(self, wake: Callable[[], object]) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - the task raises it
            self._error = error
        with self._lock:
            self._over = True
            abandoned = self._abandoned
        if not abandoned:
            try:
                wake()
            except RuntimeError:  # the loop was closed, or trio's run is over: nobody waits
                abandoned = True
        if abandoned:
            self.take_back()

    def abandon(self) -> None:
        """Nobody waits for it any more: when it is done, take it back. Does not wait."""
        with self._lock:
            self._abandoned = True
            over = self._over
        if over and self.has_to_be_undone:
            threading.Thread(target=self.take_back, name="portlease", daemon=False).start()

    @property
    def has_to_be_undone(self) -> bool:
        """Whether there is a result that somebody must take back."""
        return bool(self._results) and self._undo is not None

    def take_back(self) -> None:
        """Undo its result, unless that is done."""
        with self._lock:
            results, self._results = self._results, []
        if self._undo is not None:
            for result in results:
                self._undo(result)

    def result(self) -> T:
        """What the call has returned, or raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # it has this frame in its traceback
        return self._results.pop()


# --- asyncio and trio -----------------------------------------------------------------------------

if TYPE_CHECKING:
    Wait = Callable[[_Job[Any], Cancel | None], Coroutine[Any, Any, None]]


def _library() -> Wait:
    """How to wait in the library that runs this task."""
    trio = sys.modules.get("trio")
    if trio is not None:
        # In trio's guest mode both run in this thread; only the task tells whose turn it is.
        with contextlib.suppress(RuntimeError):
            trio.lowlevel.current_task()
            return _wait_in_trio
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            return _wait_in_asyncio
    raise UsageError(
        "neither asyncio nor trio runs here, which aserve() and aserve_many() are for; in plain "
        "code there are portlease.serve() and serve_many()"
    )


async def _wait_in_asyncio(job: _Job[Any], cancel: Cancel | None) -> None:
    asyncio: Any = sys.modules["asyncio"]
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    # The thread must not keep alive a task that nobody runs any more: only so is that noticed.
    waiting = weakref.ref(done)

    def wake() -> None:
        if (event := waiting()) is not None:
            loop.call_soon_threadsafe(event.set)

    job.start(wake)
    cancelled: BaseException | None = None
    while not done.is_set():
        shielded = cancel is None or cancelled is not None
        try:
            with _anyio_shield() if shielded else contextlib.nullcontext():
                await done.wait()
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
            if cancel is not None:
                cancel.cancel()
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled


def _anyio_shield() -> contextlib.AbstractContextManager[object]:
    """Keep anyio from cancelling this task in every round of the loop."""
    anyio: Any = sys.modules.get("anyio")
    if anyio is None:
        return contextlib.nullcontext()
    shield: contextlib.AbstractContextManager[object] = anyio.CancelScope(shield=True)
    return shield


async def _wait_in_trio(job: _Job[Any], cancel: Cancel | None) -> None:
    lowlevel: Any = sys.modules["trio"].lowlevel
    task, token = lowlevel.current_task(), lowlevel.current_trio_token()
    raising: list[Callable[[], None]] = []

    def refuse(raise_cancel: Callable[[], None]) -> object:
        """Go on waiting; a wait that must not be broken off is cancelled at the next one."""
        if cancel is not None:
            raising.append(raise_cancel)
            cancel.cancel()
        return lowlevel.Abort.FAILED

    job.start(lambda: token.run_sync_soon(lowlevel.reschedule, task))
    await lowlevel.wait_task_rescheduled(refuse)
    if raising:
        raising.pop()()
