"""What ``serve_once`` gives a test: a server that is another process's, and other tests' too."""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any, NoReturn

from portlease._clock import now_s
from portlease._errors import ServerTimeoutError, UsageError
from portlease._server import _ready, _template
from portlease._server._trial import CallCheck, RaisedError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Sequence
    from typing import Final, Protocol

    from portlease._pytest._owner import State
    from portlease._pytest._wanted import Check
    from portlease._server._command import How
    from portlease._server._output import Found

    class Ask(Protocol):
        """How to ask who has the servers."""

        def __call__(self, question: str, *given: object) -> Any:  # noqa: ANN401
            """Ask, and wait for the answer."""


_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.5
_SHOWN_LINES: Final = 20


class SharedServer:
    """A running server that all workers of the run share; what of it is safe to share.

    It runs until the run is over. Nobody may restart or stop it: that would pull it from under
    another worker's test. One that has died by itself is reported where it is used next.
    """

    def __init__(self, state: State, ask: Ask) -> None:
        self._state = state
        self._ask = ask

    @property
    def name(self) -> str:
        """As it was named in ``serve_once(name=)``, or else its program."""
        return self._state.name

    @property
    def port(self) -> int:
        """Its main port, a plain int. Raises ServerDiedError if it has ended by itself."""
        return self.ports[_template.PORT]

    @property
    def ports(self) -> dict[str, int]:
        """All its ports by name. Raises ServerDiedError if it has ended by itself."""
        return dict(self._now().ports)

    @property
    def host(self) -> str:
        """The address at which clients reach it. Raises ServerDiedError as the others."""
        return self._now().host

    @property
    def paths(self) -> dict[str, str]:
        """The paths of its Unix sockets, by name."""
        return dict(self._state.paths)

    @property
    def argv(self) -> tuple[str, ...]:
        """Its command as it was executed."""
        return self._state.argv

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._state.pid

    @property
    def how(self) -> How:
        """By which means it got its port."""
        return self._state.how

    @property
    def why(self) -> str:
        """Why by that one."""
        return self._state.why

    @property
    def starts(self) -> int:
        """How often it was started until it listened."""
        return self._state.starts

    @property
    def ready_after_s(self) -> float:
        """Seconds from its (first) start until it was seen to be ready."""
        return self._state.ready_after_s

    @property
    def output(self) -> str:
        """What it has written so far."""
        return str(self._ask("output", self._state.key))

    def url(self, path: str = "", *, scheme: str = "http", port: str = _template.PORT) -> str:
        """Where clients reach it, as :meth:`portlease.Server.url`.

        Raises:
            ServerDiedError: it has ended by itself.
            UsageError: no port is called so.
        """
        state = self._now()
        if port not in state.ports:
            raise UsageError(
                f"no port is called {port!r}; there are {', '.join(sorted(state.ports))}"
            )
        return _ready.url(scheme, state.host, state.ports[port], path)

    def tail(self, n: int = 10) -> list[str]:
        """The last lines of its output."""
        lines: list[str] = self._ask("tail", self._state.key, n)
        return lines

    def wait_for_line(self, pattern: str | re.Pattern[str], timeout_s: float = 30.0) -> Found:
        """Wait for a line of its output, as :meth:`portlease.Server.wait_for_line`."""
        found: Found = self._ask("wait_for_line", self._state.key, pattern, timeout_s)
        return found

    def restart(self) -> NoReturn:
        """Refused: others use it."""
        self._refuse("restarted")

    def kill(self) -> NoReturn:
        """Refused: others use it."""
        self._refuse("killed")

    def stop(self) -> NoReturn:
        """Refused: others use it, and it is stopped when the run is over."""
        self._refuse("stopped")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"{self!r} cannot be {what} by a test: all workers of this run share it, and it would "
            "go from under their tests; for a server of the test's own there is the fixture `serve`"
        )

    def _now(self) -> State:
        state: State = self._ask("state", self._state.key)
        return state

    def __getattr__(self, name: str) -> NoReturn:
        import portlease

        if name in _ITS_OWN or (not name.startswith("_") and hasattr(portlease.Server, name)):
            raise AttributeError(
                f"a server that the run shares has no {name!r}: it is another process's; there are "
                "host, port, ports, paths, url(), pid, argv, output, tail(), wait_for_line()"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        state = self._state
        return f"<SharedServer {state.name!r} port={state.ports[_template.PORT]} pid={state.pid}>"


_ITS_OWN: Final = frozenset({"lease", "leases", "process"})


class _SharedRecipe:
    """In front of a recipe's own class: its URLs and variables, of a server that is shared."""

    server: SharedServer

    def restart(self) -> NoReturn:
        self.server.restart()

    def kill(self) -> NoReturn:
        self.server.kill()

    def stop(self) -> NoReturn:
        self.server.stop()

    def __enter__(self) -> NoReturn:
        self.server._refuse("stopped by leaving a block")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.server!r}>"

    def __del__(self) -> None:
        """Nothing ends with it."""


def shared(state: State, ask: Ask) -> Any:  # noqa: ANN401 - a recipe's server is of its own class
    """The server as a test gets it: a :class:`SharedServer`, or one of the recipe's own class."""
    server = SharedServer(state, ask)
    if state.recipe is None:
        return server
    name, module = state.recipe
    own = getattr(importlib.import_module(module), name)
    made: Any = object.__new__(type(f"Shared{name}", (_SharedRecipe, own), {}))
    made.__dict__.update(state.attributes, server=server)
    return made


def wait(server: SharedServer, checks: Iterable[Check], timeout_s: float) -> None:
    """Wait until functions that were given as ``ready=`` have returned True, here in this process.

    Raises:
        ServerTimeoutError: one did not in time.
        ServerDiedError: the server ended before.
    """
    deadline = now_s() + timeout_s
    for check in checks:
        _wait_for(server, check, deadline, timeout_s)


def _wait_for(
    server: SharedServer, function: Callable[..., bool], deadline: float, timeout_s: float
) -> None:
    what, attempt = CallCheck(function).bind(server)  # type: ignore[arg-type] # it passes it on
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            answer = attempt(0.0, None)  # type: ignore[arg-type] # a function is not broken off
        except RaisedError as error:
            answer, cause = str(error), error.__cause__
        else:
            cause = None
        if answer is None:
            return
        server._now()  # or it has died
        left_s = deadline - now_s()
        if left_s <= 0:
            raise _late(server, f"{what}: {answer}", timeout_s) from cause
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _late(server: SharedServer, why: str, timeout_s: float) -> ServerTimeoutError:
    said: Sequence[str] = server.tail(_SHOWN_LINES)
    return ServerTimeoutError(
        f"{server.name} listens on port {server.port}, but after {timeout_s:g} s is not ready: "
        f"{why}; give it more time (timeout_s=), or another ready="
        + ("\nits last output:\n" + "\n".join(said) if said else ""),
        argv=server.argv,
        timeout_s=timeout_s,
        output=server.output,
        ports=server.ports,
        missing=(),
        listening=tuple(sorted(server.ports.values())),
        how=server.how,
    )
