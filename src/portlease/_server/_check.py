"""Deep readiness: an HTTP status, a line in the log, a command, a function.

Asked for only once the server's own sockets listen, so that nobody else can answer it. Each check
is tried again, ever more slowly, until it passes; several are passed one after the other.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portlease._clock import now_s
from portlease._errors import ServerDiedError, ServerTimeoutError, UsageError
from portlease._server import _ready, _template
from portlease._server._trial import (
    CallCheck,
    Check,
    CommandCheck,
    HttpCheck,
    LogCheck,
    RaisedError,
    parse_url,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Final, TypeAlias

    from portlease._server._cancel import Cancel
    from portlease._server._command import Command
    from portlease._server._server import Server

    Ready: TypeAlias = "str | Http | re.Pattern[str] | Callable[[Server], bool] | Sequence[str]"
    ReadyOption: TypeAlias = Ready | Sequence[Ready] | None

_FIRST_PAUSE_S: Final = 0.01
_SLOWING_DOWN: Final = 1.5
_ONE_TRY_S: Final = 5.0
_DEFAULT_STATUS: Final = range(200, 400)


@dataclass(frozen=True)
class Http:
    """A check: ``GET path`` is answered, with a status that counts.

    Args:
        path: what is asked for; ``{port}`` and the other names are filled in. Or a whole URL,
            ``"http://{host}:{admin}/health"``.
        status: the status that counts, or several of them; by default 200 to 399. A redirection is
            not followed.
        port: the name of the port to ask.

    Raises:
        UsageError: no path, or no status.
    """

    path: str = "/"
    status: int | Collection[int] = _DEFAULT_STATUS
    port: str = _template.PORT

    def __post_init__(self) -> None:
        if not self.path.startswith(("/", "http://")):
            raise UsageError(
                f"{self.path!r} is no path; it begins with a slash (or is a URL: "
                "http://{host}:{port}/path)"
            )
        if self.path.startswith("http://"):
            parse_url(_template.substitute(self.path, _Anything(), known_only=True))
        if re.search(r"[^!-~]", self.path):
            raise UsageError(
                f"{self.path!r} cannot be asked for as it is: a request has no spaces, and ASCII "
                "alone; urllib.parse.quote() makes %20 and the like of the others"
            )
        if not self.statuses:
            raise UsageError("status= is empty, so no answer would ever count")

    @property
    def statuses(self) -> Collection[int]:
        """Those that count."""
        return (self.status,) if isinstance(self.status, int) else self.status


class _Anything(dict[str, object]):
    """A number for every name, to see whether a URL could be right."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> object:
        return "localhost" if name == _template.HOST else 1


# --- what was asked for ---------------------------------------------------------------------------


def checks(ready: ReadyOption, command: Command) -> tuple[Check, ...]:
    """What ``ready=`` stands for, checked as far as it can be before anything is started.

    Args:
        ready: as in :func:`portlease.serve`.
        command: the server's.

    Raises:
        UsageError: it can never be passed.
    """
    if ready is None:
        return ()
    several = [ready] if _is_one(ready) else ready
    return tuple(_check(one, command) for one in several)  # type: ignore[union-attr,arg-type]


def _is_one(ready: object) -> bool:
    if isinstance(ready, (str, Http, re.Pattern)) or callable(ready):
        return True
    if not isinstance(ready, Sequence):
        raise UsageError(
            f"ready={ready!r} is neither a path, Http(), a compiled pattern, a command (a list of "
            "strings), a function, nor a list of those"
        )
    return all(isinstance(word, (str, os.PathLike)) for word in ready)


def _check(ready: Ready, command: Command) -> Check:
    if not _is_one(ready):
        raise UsageError(f"ready= has a list in a list that is no command: {ready!r}")
    if isinstance(ready, str):
        if not ready.startswith(("/", "http://")):
            raise UsageError(
                f"ready={ready!r} is neither a path nor a URL; a command is a list of strings "
                "(shlex.split() makes one), a pattern for the log is compiled: re.compile()"
            )
        ready = Http(ready)
    if isinstance(ready, Http):
        _must_be_known(ready, command)
        return HttpCheck(ready)
    if isinstance(ready, re.Pattern):
        if not isinstance(ready.pattern, str):
            raise UsageError(f"ready={ready!r} is a pattern for bytes; output is text, give a str")
        if not command.collect:
            raise UsageError(f"ready={ready.pattern!r}: its output goes past us, to the terminal")
        return LogCheck(ready)
    if callable(ready):
        return CallCheck(ready)
    return CommandCheck(_words(ready))


def _must_be_known(http: Http, command: Command) -> None:
    """Every name is that of a port; otherwise a braced word in a path would never be filled in."""
    known = command.names()
    if http.port not in known:
        raise UsageError(
            f"ready= asks port {http.port!r}, which no port is called; there are "
            f"{', '.join(sorted(known))}"
        )


def _words(ready: Sequence[str]) -> tuple[str, ...]:
    words = tuple(os.fspath(word) for word in ready)
    if not words or not words[0]:
        raise UsageError("ready= is an empty command")
    if words[0].startswith("/") and not is_program(words[0]):
        raise UsageError(
            f"ready={list(ready)!r} is a command, as a list of strings is, and {words[0]} is no "
            "program; for several paths write Http('/path') for each"
        )
    return words


def of_text(ready: str) -> Ready:
    """What a text on the command line asks for: a path, a URL, or a command as a shell's words.

    Raises:
        UsageError: none of them.
    """
    if ready.startswith("http://"):
        return Http(ready)
    try:
        words = shlex.split(ready)
    except ValueError as error:
        raise UsageError(f"--ready {ready!r} are no shell words: {error}") from error
    if not words:
        raise UsageError("--ready is empty; give a path such as /health, or a command")
    if words[0].startswith("/") and not is_program(words[0]):
        return Http(ready)
    return words


def is_program(path: str) -> bool:
    """Whether a word that begins with / is a command, and not the path of a URL."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


# --- the wait -------------------------------------------------------------------------------------


def wait(server: Server, deadline: float, cancel: Cancel, tell: Callable[[str], None]) -> None:
    """Wait until a server that listens passes its checks.

    Args:
        server: it listens.
        deadline: by the monotonic clock.
        cancel: breaks it off.
        tell: is told what is waited for, and the answer so far, whenever that changes.

    Raises:
        ServerTimeoutError: it did not pass in time.
        ServerDiedError: it ended before.
        ServerStartError: a check's command could not be executed.
    """
    for check in server._command.checks:
        what, attempt = check.bind(server)
        tell(what)
        pause_s, tries, told, before = _FIRST_PAUSE_S, 0, "", ""
        while True:
            tries += 1
            left_s = max(_FIRST_PAUSE_S, min(_ONE_TRY_S, deadline - now_s()))
            try:
                answer = attempt(left_s, cancel)
            except RaisedError as error:
                answer, cause = str(error), error.__cause__
            else:
                cause = None
            cancel.check()
            if answer is None:
                break
            if server.process.ended or server.process.returncode not in {None, 0}:
                raise _died(server, what) from cause
            if answer != told:
                told, before = answer, told
                tell(f"{what}: {answer}")
            left_s = deadline - now_s()
            if left_s <= 0:
                times = "once" if tries == 1 else f"the last of {tries} tries"
                # A server that is slow to answer is cut short by the end of its time.
                times += f"; before that: {before}" if before else ""
                raise _late(server, f"{what}: {answer} ({times})") from cause
            server.process.wait_for_news(min(pause_s, left_s))
            pause_s = min(pause_s * _SLOWING_DOWN, check.longest_pause_s)


def _died(server: Server, what: str) -> ServerDiedError:
    code = server.process.returncode
    output = server._output_of_this_start()
    said = _ready.tail(output)
    return ServerDiedError(
        f"{_so_far(server, 'listened')}, and "
        f"{_ready.how_ended(code)} before it was ready ({what})"
        + (f"\nits last output:\n{said}" if said else "\nit wrote nothing"),
        argv=server.argv,
        returncode=code,
        output=output,
        ports=server._numbers(),
        how=server.how,
    )


def _so_far(server: Server, listens: str) -> str:
    """What was seen of it: that it listens, unless that was not waited for."""
    if server._command.wait_for == ():
        return f"{server._command.program} was started"
    return f"{server._command.program} {listens} on port {server.lease.port}"


def _late(server: Server, why: str) -> ServerTimeoutError:
    command = server._command
    output = server._output_of_this_start()
    said = _ready.tail(output)
    return ServerTimeoutError(
        f"{_so_far(server, 'listens')}, but after "
        f"{command.timeout_s:g} s is not ready: {why}; give it more time (timeout_s=), or another "
        "ready=" + (f"\nits last output:\n{said}" if said else ""),
        argv=server.argv,
        timeout_s=command.timeout_s,
        output=output,
        ports=server._numbers(),
        missing=(),
        listening=tuple(sorted(server._numbers().values())),
        how=server.how,
    )
