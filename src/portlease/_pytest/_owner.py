"""Who has the servers of ``serve_once``: the process of the run that outlives all its workers.

Under pytest-xdist that is the controller, which starts what a worker asks for in the thread that
listens to that worker (:mod:`._line`); else it is the one process that there is. A worker's crash
is nothing to the servers. If this process dies, of whatever, their keepers end them.

Each server has a slot, made by the first that asks for it; who asks while it starts waits there.
What a start came to, an error as well, is the answer to all.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from portlease._errors import PortleaseError, ServerError, UsageError
from portlease._pytest._current import taking_for
from portlease._server import _serve
from portlease._server._cancel import Cancel
from portlease._server._server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from portlease._pytest._wanted import Wanted
    from portlease._server._command import How
    from portlease.recipes._recipe import RecipeServer

_NOT_SENT: Final = frozenset({"server", "_lease", "_after_it", "_settings", "_account"})
"""What of a recipe's server is this process's alone."""


class State(NamedTuple):
    """What is known of a running server; can be pickled."""

    key: str
    name: str
    host: str
    ports: dict[str, int]
    kinds: dict[str, str]
    paths: dict[str, str]
    argv: tuple[str, ...]
    pid: int
    how: How
    why: str
    starts: int
    ready_after_s: float
    recipe: tuple[str, str] | None
    """Of a recipe's server: its class, and the module of that."""
    attributes: dict[str, Any]
    """Of a recipe's server: what can be sent of it."""


class Slot:
    """A server that was asked for: starting, running, or failed."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.askers: list[str] = []
        self.done = threading.Event()
        self.cancel = Cancel()
        self.starter = threading.get_ident()
        """The thread that has asked first, and starts it."""
        self.running: Server | RecipeServer | None = None
        self.error: BaseException | None = None
        self.state: State | None = None
        """As it was when it had come up; stays when it has ended."""

    @property
    def server(self) -> Server | None:
        """The server itself, of a recipe's too."""
        running = self.running
        return running if running is None or isinstance(running, Server) else running.server


class Owner:
    """Has the servers of a run, from the first that asks until :meth:`close`.

    Its methods may be called from any thread. In a forked child it has nothing: see ``pid``.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._slots: dict[str, Slot] = {}
        self._closed = False

    def answer(self, question: str, *given: Any) -> Any:  # noqa: ANN401 - as different as they are
        """Answer what a test asks, by whatever line it comes.

        Raises:
            UsageError: there is no such server, or another of its name.
            ServerError: it could not be started, or has died.
        """
        __tracebackhide__ = True
        if question == "get":
            return self.get(*given)
        key, *rest = given
        with self._lock:
            slot = self._slots.get(key)
        server = None if slot is None else slot.server
        if slot is None or server is None:
            raise UsageError("the server was stopped: the run is over")
        if question == "state":
            return _state(slot, server)
        if question == "output":
            return server.output
        if question == "tail":
            return [str(line) for line in server.tail(*rest)]
        assert question == "wait_for_line"  # noqa: S101 - there are no more
        return server.wait_for_line(*rest)

    def get(self, wanted: Wanted) -> State:
        """The server that is wanted, once it is ready; started, if nobody has asked for it yet.

        Raises:
            UsageError: another has its name; or an argument can never work.
            ServerError: it could not be started, or has died since.
        """
        __tracebackhide__ = True
        slot, first = self._slot(wanted)
        if first:
            self._start(slot)
        slot.done.wait()
        if slot.error is not None:
            raise _told_again(slot.error)
        server = slot.server
        if server is None:
            raise UsageError("the server was stopped: the run is over")
        return _state(slot, server)

    def slots(self) -> list[Slot]:
        """All that were asked for, in that order."""
        with self._lock:
            return list(self._slots.values())

    def _slot(self, wanted: Wanted) -> tuple[Slot, bool]:
        __tracebackhide__ = True
        with self._lock:
            if self._closed:
                raise UsageError("no server is started any more: the run is over")
            slot = self._slots.get(wanted.key)
            first = slot is None
            if slot is None:
                slot = self._slots[wanted.key] = Slot(wanted)
            elif slot.wanted.text != wanted.text:
                raise UsageError(
                    f"two servers are called {wanted.name!r}: {slot.wanted.by} asked for\n"
                    f"  {slot.wanted.text}\nand {wanted.by} asks for\n  {wanted.text}\n"
                    "give them different names, or leave name= out"
                )
            if wanted.by not in slot.askers:
                slot.askers.append(wanted.by)
            return slot, first

    def _start(self, slot: Slot) -> None:
        try:
            with taking_for("run"):
                slot.running = _started(slot)
            assert slot.server is not None  # noqa: S101 - it runs
            slot.state = _state(slot, slot.server)
        except Exception as error:  # noqa: BLE001 - it is told to each that asks
            slot.error = error
        except BaseException:  # Ctrl-C: who asks next starts it anew
            with self._lock:
                self._slots.pop(slot.wanted.key, None)
            slot.error = PortleaseError(f"the start of {slot.wanted.text} was interrupted")
            slot.done.set()
            raise
        slot.done.set()

    def close(self) -> None:
        """Break off what starts, stop what runs, the last one first. May be called again.

        Warns of a server that has died by itself, or had to be killed.

        Raises:
            ServerError: one cannot be ended; all the others are stopped.
        """
        if self.pid != os.getpid():
            return
        with self._lock:
            self._closed = True
            slots = list(self._slots.values())
        for slot in slots:
            slot.cancel.cancel()
        with contextlib.ExitStack() as stack:
            for slot in slots:
                if slot.starter != threading.get_ident():  # else Ctrl-C came between two lines
                    slot.done.wait()
                running, slot.running = slot.running, None
                if running is not None:
                    stack.push(running)


def _started(slot: Slot) -> Server | RecipeServer:
    wanted = slot.wanted
    options = dict(wanted.options)
    options["env"] = {**_differing(wanted.env), **options.get("env", {})}
    options["label"] = wanted.label or wanted.by
    if wanted.recipe is None:
        if wanted.here is not None:
            options.setdefault("cwd", wanted.here)
        return _serve.start(wanted.args, cancel=slot.cancel, **options)
    if wanted.recipe == "asgi":  # the only one that looks for something where it is started
        options.setdefault("folder", wanted.here or os.curdir)
    from portlease import recipes

    made: RecipeServer = getattr(recipes, wanted.recipe)(*wanted.args, **options)
    return made


def _differing(env: Mapping[str, str]) -> dict[str, str]:
    """What of the asker's environment is not ours anyway, as templates that mean themselves."""
    from portlease.recipes._recipe import braces

    return {name: braces(value) for name, value in env.items() if os.environ.get(name) != value}


def _state(slot: Slot, server: Server) -> State:
    running = slot.running
    recipe = None if running is None or isinstance(running, Server) else running
    return State(
        key=slot.wanted.key,
        name=slot.wanted.name or server._command.program,
        host=server.host,
        ports=server.ports,
        kinds={name: lease.kind for name, lease in server.leases.items()},
        paths=server.paths,
        argv=server.argv,
        pid=server.process.pid,
        how=server.how,
        why=server.why,
        starts=server.starts,
        ready_after_s=server.ready_after_s,
        recipe=None if recipe is None else (type(recipe).__name__, type(recipe).__module__),
        attributes={} if recipe is None else _sendable(vars(recipe)),
    )


def _sendable(attributes: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value
        for name, value in attributes.items()
        if name not in _NOT_SENT and sendable(value)
    }


def sendable(value: object) -> bool:
    """Whether another process can be given it."""
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True


def _told_again(error: BaseException) -> BaseException:
    """The same error for one more that asks: not the same object, whose traceback would grow."""
    if not sendable(error):
        return PortleaseError(f"{type(error).__name__}: {error}")
    copy: BaseException = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this line
    if isinstance(copy, ServerError):
        copy.add_note("(the server is shared by the run: every test that asks for it gets this)")
    return copy
