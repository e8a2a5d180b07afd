"""How to try whether a server is ready: a request, a look at its log, a command, a function."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shlex
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from portlease._errors import UsageError
from portlease._server import _ready
from portlease._server._output import Output
from portlease._tree._process import Process

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import Final, TypeAlias

    from portlease._server._cancel import Cancel
    from portlease._server._check import Http
    from portlease._server._server import Server

_LONGEST_PAUSE_S: Final = 0.5
_LONGEST_LOOK_PAUSE_S: Final = 0.02
"""The same for a look at the output, which costs the server nothing and us 5 microseconds."""

_SEARCHED_BYTES: Final = 1 << 20
"""How much of the end of the log a pattern is looked for in."""


class Check(Protocol):
    """One thing that a server must pass."""

    @property
    def longest_pause_s(self) -> float:
        """Between two tries."""

    def bind(self, server: Server) -> tuple[str, Try]:
        """What is to be tried, in words, and the trying."""


if TYPE_CHECKING:
    # For so many seconds at most: None once it passes, otherwise what the answer was.
    Try: TypeAlias = Callable[[float, Cancel], str | None]


# --- the four -------------------------------------------------------------------------------------

# The server is not up to it yet: nobody accepts, or it closes without an answer.
_NOT_YET: Final = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT}
)


@dataclass(frozen=True)
class HttpCheck:
    """A GET is answered by a status that counts."""

    http: Http
    longest_pause_s: float = _LONGEST_PAUSE_S

    def bind(self, server: Server) -> tuple[str, Try]:
        """See :class:`Check`."""
        http = self.http
        (path,), _ = _filled((http.path,), server)
        if path.startswith("http://"):
            host, port, path = parse_url(path)
        else:
            host, port = server._address(http.port)

        def attempt(patience_s: float, cancel: Cancel) -> str | None:
            return _get(host, port, path, http.statuses, patience_s, cancel)

        return f"GET {_ready.url('http', host, port, path)}", attempt


def _get(  # noqa: PLR0913, PLR0917 - a request
    host: str, port: int, path: str, good: Collection[int], patience_s: float, cancel: Cancel
) -> str | None:
    import http.client  # 13 ms, most of it for ssl

    connection = http.client.HTTPConnection(host, port, timeout=patience_s)
    try:
        connection.connect()
        with cancel.ending(lambda: _break_off(connection.sock)):
            connection.request("GET", path, headers={"Connection": "close"})
            status = connection.getresponse().status
    except TimeoutError:
        return "no answer"
    except http.client.HTTPException as error:  # RemoteDisconnected is an OSError as well
        return f"no HTTP ({error})" if str(error) else "no HTTP"
    except OSError as error:
        if error.errno not in _NOT_YET:
            raise
        return str(error.strerror or error)
    finally:
        connection.close()
    return None if status in good else f"status {status}"


def _break_off(sock: socket.socket | None) -> None:
    if sock is None:  # it was closed with its answer
        return
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno not in {errno.ENOTCONN, errno.EBADF}:
            raise


@dataclass(frozen=True)
class LogCheck:
    """A pattern is found in what it has written since this start."""

    pattern: re.Pattern[str]
    longest_pause_s: float = _LONGEST_LOOK_PAUSE_S

    def bind(self, server: Server) -> tuple[str, Try]:
        """See :class:`Check`."""
        size = -1

        def attempt(patience_s: float, cancel: Cancel) -> str | None:
            del patience_s, cancel
            nonlocal size
            if size != (size := server._output.size()):
                text = server._output_of_this_start(_SEARCHED_BYTES)
                if self.pattern.search(text) is not None:
                    return None
            return "not written yet"

        return f"{self.pattern.pattern!r} in its output", attempt


@dataclass(frozen=True)
class CommandCheck:
    """A command ends with exit status 0."""

    words: tuple[str, ...]
    longest_pause_s: float = _LONGEST_PAUSE_S

    def bind(self, server: Server) -> tuple[str, Try]:
        """See :class:`Check`."""
        argv, env = _filled(self.words, server)
        cwd = server._command.cwd

        def attempt(patience_s: float, cancel: Cancel) -> str | None:
            return _run(argv, env, cwd, patience_s, cancel)

        return f"`{shlex.join(argv)}`", attempt


def _run(
    argv: Sequence[str],
    env: dict[str, str],
    cwd: str | None,
    patience_s: float,
    cancel: Cancel,
) -> str | None:
    with contextlib.closing(Output()) as output:
        with (
            Process.start(argv, env=env, cwd=cwd, output=output.fileno()) as process,
            cancel.ending(lambda: process.begin_stop(0.0)),
        ):
            try:
                returncode = process.wait(patience_s)
            except TimeoutError:
                return f"it took more than {patience_s:g} s"
        if returncode == 0:
            return None
        said = output.text().strip().rpartition("\n")[2].strip()
    return _ready.how_ended(returncode) + (f", {said}" if said else "")


@dataclass(frozen=True)
class CallCheck:
    """A function returns True."""

    function: Callable[[Server], bool]
    longest_pause_s: float = _LONGEST_PAUSE_S

    def bind(self, server: Server) -> tuple[str, Try]:
        """See :class:`Check`."""
        name = getattr(self.function, "__qualname__", None) or repr(self.function)

        def attempt(patience_s: float, cancel: Cancel) -> str | None:
            del patience_s, cancel
            return _call(self.function, server)

        return f"{name}()", attempt


class RaisedError(Exception):
    """A function that was to say whether the server is ready raised its cause instead."""


# What says that the function is wrong, and not the server.
_MISTAKES: Final = (TypeError, NameError, AttributeError, ImportError, SyntaxError, UsageError)


def _call(function: Callable[[Server], bool], server: Server) -> str | None:
    try:
        answer = function(server)
    except _MISTAKES:
        raise
    except Exception as error:
        # A client that cannot connect yet raises whatever its library calls that.
        raise RaisedError(f"{type(error).__name__}: {error}") from error
    return None if answer else f"it returned {answer!r}"


def _filled(words: Iterable[str], server: Server) -> tuple[tuple[str, ...], dict[str, str]]:
    """Words with the server's numbers, and the environment with them; ``{host}`` is the client's.

    A name that is no port of the server stays as it is.
    """
    command = dataclasses.replace(
        server._command, args=tuple(words), known_only=True, ready=None, wait_for=None
    )
    return command.filled(server._numbers(), server._host, server.paths)


def parse_url(url: str) -> tuple[str, int, str]:
    """Host, port and the rest of a URL, all of which a check needs.

    Raises:
        UsageError: no host, or no port.
    """
    import urllib.parse

    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None:
        raise UsageError(f"{url} lacks a host or a port: give it as http://{{host}}:{{port}}/path")
    path = parts.path or "/"
    return parts.hostname, port, f"{path}?{parts.query}" if parts.query else path
