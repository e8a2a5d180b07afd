"""The deeper probe of ``--ready``: an HTTP request that is answered, a command that exits with 0.

Asked for only once the server's own sockets listen, so that nobody else can answer it.
"""

from __future__ import annotations

import os
import shlex
import time
from typing import TYPE_CHECKING

from portlease._errors import ServerDiedError, ServerTimeoutError, UsageError
from portlease._server._output import Output
from portlease._server._process import Process
from portlease._server._ready import tail
from portlease.cli import _status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Final, TypeAlias

    from portlease._server._serve import Server
    from portlease.cli._plan import Plan

    # What is to be tried, in words; and the trying, for so many seconds: None once it is ready,
    # otherwise what the answer was.
    Check: TypeAlias = tuple[str, Callable[[float], str | None]]

_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.5
_ONE_TRY_S: Final = 5.0
_READY: Final = range(200, 400)


def wait(server: Server, plan: Plan, begun: float) -> None:
    """Wait until the server passes what ``--ready`` says; at once if it says nothing.

    Args:
        server: it listens.
        plan: with the check, and how long that may take.
        begun: when the server was started, by the monotonic clock.

    Raises:
        ServerTimeoutError: it did not pass in time.
        ServerDiedError: it ended before.
        ServerStartError: the check's command could not be executed.
    """
    if plan.ready is None:
        return
    what, attempt = _check(plan.ready, plan, server.ports, server.host)
    deadline = begun + plan.patience_s
    pause_s = _FIRST_PAUSE_S
    tries = 0
    while True:
        tries += 1
        answer = attempt(max(_FIRST_PAUSE_S, min(_ONE_TRY_S, deadline - time.monotonic())))
        if answer is None:
            return
        if server.process.ended or server.process.returncode not in {None, 0}:
            raise _died(server, what)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise _late(server, plan, f"{what}: {answer} (the last of {tries} tries)")
        server.process.wait_for_news(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def validate(plan: Plan) -> None:
    """Find out before anything is started what can never be ready.

    Raises:
        UsageError: the check is neither a path, a URL nor a command.
    """
    if plan.ready is not None:
        _check(plan.ready, plan, dict.fromkeys(plan.kinds, 1), "127.0.0.1")


def _check(ready: str, plan: Plan, ports: Mapping[str, int], host: str) -> Check:
    """What *ready* means, with the server's ports filled in."""
    (filled,), _ = plan.filled((ready,), ports, host)
    if filled.startswith("http://"):
        return _http(*parse_url(filled))
    try:
        words = tuple(shlex.split(ready))
    except ValueError as error:
        raise UsageError(f"--ready {ready!r} are no shell words: {error}") from error
    if not words:
        raise UsageError("--ready is empty; give a path such as /health, or a command")
    if words[0].startswith("/") and not _is_program(words[0]):
        return _http(host, ports["port"], filled)
    argv, env = plan.filled(words, ports, host)
    return f"`{filled}`", lambda patience_s: _run(argv, env, patience_s)


def _is_program(path: str) -> bool:
    """Whether a word that begins with / is a command, and not the path of a URL."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def parse_url(url: str) -> tuple[str, int, str]:
    """Host, port and the rest of a URL, all of which ``--ready`` needs.

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
        raise UsageError(f"--ready {url}: give it as http://{{host}}:{{port}}/path")
    path = parts.path or "/"
    return parts.hostname, port, f"{path}?{parts.query}" if parts.query else path


def _http(host: str, port: int, path: str) -> Check:
    place = f"[{host}]" if ":" in host else host
    return f"GET http://{place}:{port}{path}", lambda patience_s: _get(host, port, path, patience_s)


def _get(host: str, port: int, path: str, patience_s: float) -> str | None:
    import http.client  # 13 ms, most of it for ssl

    connection = http.client.HTTPConnection(host, port, timeout=patience_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        status = connection.getresponse().status
    except TimeoutError:
        return "no answer"
    except ConnectionError as error:  # refused, reset, closed without an answer
        return str(error.strerror or error)
    except http.client.HTTPException as error:
        return f"no HTTP ({error})" if str(error) else "no HTTP"
    finally:
        connection.close()
    return None if status in _READY else f"status {status}"


def _run(argv: Sequence[str], env: Mapping[str, str], patience_s: float) -> str | None:
    output = Output()
    try:
        with Process.start(argv, env=env, output=output.fileno()) as process:
            if not _ended(process, patience_s):
                return f"it took more than {patience_s:g} s"
            status = _status.of_returncode(process.wait())
        said = tail(output.text()).strip().rpartition("\n")[2].strip()
    finally:
        output.close()
    return None if status == 0 else f"exit status {status}" + (f", {said}" if said else "")


def _ended(process: Process, patience_s: float) -> bool:
    try:
        process.wait(patience_s)
    except TimeoutError:
        return False
    return True


def _died(server: Server, what: str) -> ServerDiedError:
    code = server.process.returncode
    return ServerDiedError(
        f"{server.argv[0]} listened on port {server.port}, and ended with exit status "
        f"{_status.of_returncode(code or 0)} before it was ready ({what})",
        argv=server.argv,
        returncode=code,
        output=server.output,
    )


def _late(server: Server, plan: Plan, why: str) -> ServerTimeoutError:
    return ServerTimeoutError(
        f"{server.argv[0]} listens on port {server.port}, but after {plan.patience_s:g} s is not "
        f"ready: {why}; give it more time (--timeout), or another --ready",
        argv=server.argv,
        timeout_s=plan.patience_s,
        output=server.output,
    )
