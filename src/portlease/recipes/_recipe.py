"""What every recipe is made of: its programs, its home, its server.

A recipe is a module with

- a :class:`Recipe`, pure data: which programs it needs and how they are installed;
- a branch of :class:`RecipeServer`, whose ``_plan()`` writes what the server needs into its home
  and says what is to be run, and whose ``_answers()`` asks whether it serves;
- a function that makes one, which is what users call.

Theory of operation
-------------------
The order of things: make the home (:mod:`._home`); take the main port's lease, so that a
configuration file can have its number; ``_plan()``; ``serve()``; ask until it answers. In the end
the other way round: end the server's whole tree, release the lease, remove the home. Everything
that is run there has the home's path in its arguments: by that the janitor knows whom to wait for
(:mod:`portlease._tree._janitor`).
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from weakref import WeakMethod

from portlease._errors import (
    RecipeUnavailableError,
    ServerDiedError,
    ServerTimeoutError,
    UsageError,
)
from portlease._onlooker import look
from portlease._server import _ready
from portlease._server._command import must_know
from portlease._server._output import Output
from portlease._server._serve import serve
from portlease._take import lease as take_lease
from portlease._tree._home import Home
from portlease._tree._process import DEVNULL, Process, limits_told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import ClassVar, Final, Self

    from portlease._lease import Lease
    from portlease._server._command import How
    from portlease._server._server import Server
    from portlease._tree._process import StrPath
    from portlease._wish import Kind
    from portlease.recipes._account import Account

_HIDDEN: Final = (
    *("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin"),
    *("/opt/homebrew/sbin", "/opt/homebrew/bin"),
)
"""Where servers lie that an ordinary user's PATH does not name."""

_SHOWN_CHARACTERS: Final = 1800
"""How much of a command the keeper shows in its command line, less some for us to be wrong."""


class Settings(TypedDict, total=False):
    """What every recipe takes by keyword, and what it means.

    All of them may be left out.
    """

    how: How | None
    """As in :func:`portlease.serve`."""
    host: str | None
    """The same: the address to bind; 127.0.0.1 by default."""
    lease: Lease | None
    """A lease to use for its main port; it stays the caller's."""
    label: str | None
    """For its leases; the recipe's name by default."""
    timeout_s: float
    """How long it may take until it answers, in seconds; 30 by default."""
    stop_timeout_s: float
    """How long it has to end by itself, in seconds; 10 by default."""
    env: Mapping[str, str] | None
    """Variables for the server, besides ours."""
    args: Sequence[StrPath]
    """Further arguments for its program, behind those of the recipe."""
    home: StrPath | None
    """A folder for its data, which stays when it is stopped, and can be used again; by default a
    temporary one is made, and removed with all that is in it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """What a recipe needs of the machine.

    Attributes:
        name: what it is called.
        summary: what it starts, in a few words.
        programs: what it cannot do without, by name; the first is the server itself.
        packages: what installs it, by the command that does: ``{"apt-get install": "redis"}`` and
            the like, for Debian and Ubuntu, Fedora, Homebrew; or ``pip install``.
        places: further folders to look in, as patterns: ``"/usr/lib/postgresql/*/bin"``. Of several
            matches the highest version is taken.
        user: the account that the distributions run it as, where it does not run as root.
    """

    name: str
    summary: str
    programs: tuple[str, ...]
    packages: Mapping[str, str]
    places: tuple[str, ...] = ()
    user: str | None = None

    def find(self, program: str | None = None) -> str:
        """Return the path of *program*, by default the server's own.

        It is looked up in PATH, in ``places``, and where distributions hide servers.

        Raises:
            RecipeUnavailableError: it is not installed; with how to install it.
        """
        sought = program or self.programs[0]
        found = self.look_up(sought)
        if found is None:
            raise self.unavailable(sought)
        return found

    def look_up(self, program: str) -> str | None:
        """The same, or None."""
        matches = [path for place in self.places for path in glob.glob(place)]
        matches.sort(key=_version, reverse=True)
        for path in (None, *matches, *_HIDDEN):
            if found := shutil.which(program, path=path):
                return found
        return None

    def missing(self) -> tuple[str, ...]:
        """Those of its programs that are not installed."""
        return tuple(name for name in self.programs if self.look_up(name) is None)

    def unavailable(self, program: str, why: str = "") -> RecipeUnavailableError:
        """The error for *program*, which is missing, or cannot be used because of *why*."""
        ways = [f"{command} {package}" for command, package in self.packages.items()]
        return RecipeUnavailableError(
            f"recipe {self.name}: {program} {why or 'is not installed'}; install it by "
            + ", or ".join(ways),
            recipe=self.name,
            program=program,
            packages=dict(self.packages),
        )


def _version(path: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe's server is started with.

    Attributes:
        argv: the program and its arguments, with ``{port}``, ``{host}`` and other names in braces
            as in :func:`portlease.serve`. The home's path must be in it, near its beginning.
        env: variables for it besides ours; templates too.
        ports: the kinds of ports that are not TCP, as in ``serve()``.
        cwd: its working directory; its home by default.
        stop_signal: what tells it to end.
        wait_for: the ports that it must listen on, as in ``serve()``.
        lives_at_home: whether it knows its home at all. If not, the path need not be in *argv*.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, Kind] = field(default_factory=dict)
    cwd: StrPath | None = None
    stop_signal: int = signal.SIGTERM
    wait_for: Sequence[str] | None = None
    lives_at_home: bool = True


class RecipeServer:
    """A recipe's running server. Context manager: leaving the block stops it, and removes its home.

    What is not here is in :attr:`server`. In a forked child it is inert.
    """

    recipe: ClassVar[Recipe]
    server: Server
    """The server itself, as :func:`portlease.serve` returns it."""
    home: Path
    """The folder of its data and configuration; if it is a temporary one, gone with the server."""

    def __init__(self, settings: Settings, account: Account | None = None) -> None:
        must_know(f"{self.recipe.name}()", settings, Settings)
        given = settings.get("home")
        self._settings = settings
        self._account = account
        self._timeout_s = settings.get("timeout_s", 30.0)
        with limits_told(self.recipe.name), contextlib.ExitStack() as stack:
            home = Home(
                self.recipe.name,
                given=None if given is None else Path(given),
                account=account,
            )
            stack.callback(home.close)
            self.home = home.path
            self._lease = self._given_lease() or stack.enter_context(self._take_lease())
            self.server = self._serve(self._plan(self.home))
            stack.callback(self.server.stop)
            self._came_up()
            # From here on what is to be done in the end, in the opposite order.
            self._after_it = stack.pop_all()

    # --- what a recipe says ---

    def _plan(self, home: Path) -> Plan:
        """Prepare *home*, and say what is to be run.

        ``self._lease.port`` and ``self._bind_host()`` are what ``{port}`` and ``{host}`` stand for.
        """
        raise NotImplementedError

    def _answers(self, server: Server) -> bool:
        """Whether *server* serves by now, after it was seen to listen: ``ready=`` of ``serve()``.

        Called again and again until it returns True. What it raises means not yet: nobody is there,
        or the connection broke off, or timed out.
        """
        del server
        return True

    def _came_up(self) -> None:
        """Do what is to be done after each start, once it answers."""

    @property
    def url(self) -> str:
        """Where clients find it, as they like it written: a URL or a DSN."""
        raise NotImplementedError

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which clients customarily find it."""
        return {}

    # --- what the server says ---

    @property
    def port(self) -> int:
        """The number of its main port."""
        return self.server.port

    @property
    def host(self) -> str:
        """The address at which clients reach it."""
        return self.server.host

    @property
    def address(self) -> tuple[str, int]:
        """Both: for :func:`socket.create_connection`."""
        return self.server.host, self.server.port

    @property
    def netloc(self) -> str:
        """Both as they are in a URL: ``127.0.0.1:8080``."""
        return f"{dial_host(self.host)}:{self.port}"

    @property
    def output(self) -> str:
        """What it has written so far, over all its starts."""
        return self.server.output

    @property
    def process(self) -> Process:
        """Its process."""
        return self.server.process

    # --- what a caller does ---

    def restart(self) -> None:
        """Stop it and start it again on the same ports; its data stay.

        Raises:
            ServerError: as :func:`portlease.serve`; ``stop()`` gives back what there is.
        """
        self.server.restart()
        self._came_up()

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would; home and leases stay, for :meth:`restart`."""
        self.server.kill()

    def stop(self) -> None:
        """Stop it and all that it started, release its leases, remove its home. May be repeated.

        Raises:
            ServerError: some process of it cannot be ended.
        """
        self._after_it.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.server.__exit__(kind, value, traceback)
        finally:
            self.stop()

    def __repr__(self) -> str:
        server = getattr(self, "server", None)
        return f"<{type(self).__name__} {server or 'not started'!r} home={str(self.home)!r}>"

    def __del__(self) -> None:
        # The server warns that nobody stopped it, and is ended; one warning is enough. The home
        # goes when it has ended, see :mod:`._home`.
        if getattr(self, "_after_it", None) is not None and self._given_lease() is None:
            self._lease.release()

    # --- how ---

    def _given_lease(self) -> Lease | None:
        lease = self._settings.get("lease")
        if lease is not None and self._settings.get("host") is not None:
            raise UsageError("host= is the lease's: give it to portlease.lease(), not to a recipe")
        return lease

    def _take_lease(self) -> Lease:
        settings = self._settings
        return take_lease(
            host=settings.get("host"), label=settings.get("label") or look.named(self.recipe.name)
        )

    def _bind_host(self) -> str:
        """The address to bind, for a configuration file."""
        leased = self._lease.host
        return leased if isinstance(leased, str) else next(iter(leased or ()), _ready.LOOPBACK)

    def _bind_address(self) -> str:
        """The same with the port: ``127.0.0.1:8080``."""
        return f"{dial_host(self._bind_host())}:{self._lease.port}"

    def _serve(self, plan: Plan) -> Server:
        settings = self._settings
        argv = [*plan.argv, *settings.get("args", ())]
        if self._account is not None:
            argv = list(self._account.command([os.fspath(word) for word in argv], self.home))
        if plan.lives_at_home:
            _must_show_home(argv, self.home)
        return serve(
            argv,
            lease=self._lease,
            ports=plan.ports,
            timeout_s=self._timeout_s,
            stop_timeout_s=settings.get("stop_timeout_s", 10.0),
            stop_signal=plan.stop_signal,
            env={**plan.env, **(settings.get("env") or {})},
            cwd=self.home if plan.cwd is None else plan.cwd,
            ready=self._check(),
            label=settings.get("label") or look.named(self.recipe.name),
            wait_for=plan.wait_for,
            how=settings.get("how"),
        )

    def _check(self) -> Callable[[Server], bool] | None:
        if type(self)._answers is RecipeServer._answers:
            return None
        # The server keeps it for its restarts, and we keep the server: without a cycle, one that
        # nobody stopped is ended as soon as it is dropped.
        weak = WeakMethod(self._answers)

        def answers(server: Server) -> bool:
            method = weak()
            return method is not None and method(server)

        answers.__qualname__ = f"{self.recipe.name}_answers"  # as an error names it
        return answers

    def _run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
    ) -> str:
        """Run a command to its end, before the server starts: one that fills its home, say.

        As the server will: as the same account, in its home, and ended with all that it started if
        we die. Its arguments must have the home's path in them.

        Args:
            argv: the program and its arguments; no templates.
            env: variables for it besides ours.
            stdin: a descriptor for its standard input; /dev/null by default.

        Returns:
            What it wrote to its standard output and error.

        Raises:
            ServerStartError: it could not be executed.
            ServerDiedError: it ended with another status than 0.
            ServerTimeoutError: it did not end in time.
        """
        if self._account is not None:
            argv = self._account.command(argv, self.home)
        _must_show_home(argv, self.home)
        output = Output()
        with contextlib.closing(output):
            with Process.start(
                argv,
                env={**os.environ, **(env or {})},
                cwd=self.home,
                output=output.fileno(),
                stdin=DEVNULL if stdin is None else stdin,
            ) as process:
                try:
                    returncode = process.wait(self._timeout_s)
                except TimeoutError as error:
                    raise self._unprepared(argv, None, output.text()) from error
            if returncode != 0:
                raise self._unprepared(argv, returncode, output.text())
            return output.text()

    def _unprepared(
        self, argv: Sequence[str], returncode: int | None, said: str
    ) -> ServerDiedError | ServerTimeoutError:
        program = os.path.basename(argv[argv.index("--") + 1 if self._account else 0])
        head = f"recipe {self.recipe.name}: {program}, which prepares the server's folder,"
        last = f"its last output:\n{_ready.tail(said)}" if said else "it wrote nothing"
        if returncode is None:
            return ServerTimeoutError(
                f"{head} did not end within {self._timeout_s:g} s; give it more time: timeout_s=\n"
                + last,
                argv=tuple(argv),
                timeout_s=self._timeout_s,
                output=said,
                ports={},
                missing=(),
                listening=(),
                how="",
            )
        return ServerDiedError(
            f"{head} ended with status {returncode}\n{last}",
            argv=tuple(argv),
            returncode=returncode,
            output=said,
            ports={},
            how="",
        )


def _must_show_home(argv: Sequence[StrPath], home: Path) -> None:
    """By its keeper's command line the janitor knows what runs in *home*."""
    if str(home) not in " ".join(map(str, argv))[:_SHOWN_CHARACTERS]:
        raise AssertionError(f"a recipe's command must name its home {home}: {argv}")


def braces(text: object) -> str:
    """Return *text* as it must be written in a template to mean itself."""
    return re.sub(r"\{(\w+)\}", r"{{\1}}", str(text))


def dial_host(host: str) -> str:
    """Return *host* as it is written in a URL."""
    return f"[{host}]" if ":" in host else host
