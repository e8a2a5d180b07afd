"""Hold portlease's helpers against those of the interpreter that runs this, and print what differs.

    PYTHONPATH=SRC PYTHON parity.py

Standard library only. Prints one JSON object on standard output, empty lists where all is equal:

    {"missing": [name of the original that portlease lacks, ...],
     "signatures": [[name, the original's, portlease's], ...],
     "constants": [[name, the original's, portlease's], ...],
     "transient": [[case, what the original made of it, what portlease made of it], ...]}
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import importlib
import inspect
import io
import json
import socket
import sys
import types
import urllib.error
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Case = tuple[str, dict[str, Any], Callable[[], None]]

HELPERS = ("socket_helper", "script_helper")

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
ABSENT = FileNotFoundError(errno.ENOENT, "absent")


def public_names(module: types.ModuleType) -> list[str]:
    """List what a module offers: all but modules and what begins with an underscore."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]


def signature(function: Callable[..., Any]) -> list[list[str]]:
    """Describe a signature so that it can be compared: annotations left out, sentinels alike."""
    described = []
    for parameter in inspect.signature(function).parameters.values():
        default = parameter.default
        if default is parameter.empty:
            text = "required"
        elif type(default) is object:
            text = "a sentinel"
        else:
            text = repr(default)
        described.append([parameter.name, parameter.kind.name, text])
    return described


def _raiser(error: BaseException) -> Callable[[], None]:
    def case() -> None:
        raise error

    return case


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _http(status: int) -> urllib.error.HTTPError:
    headers = http.client.HTTPMessage()
    return urllib.error.HTTPError("http://localhost/", status, "said so", headers, None)


def cases() -> Iterator[Case]:
    """Yield what can happen inside transient_internet: a name, its options, the happening."""
    yield "nothing", {}, lambda: None
    yield from _plain_cases()
    yield from _wrapped_cases()
    yield from _option_cases()


def _plain_cases() -> Iterator[Case]:
    for name in dir(errno):
        if name.startswith("E"):
            yield name, {}, _raiser(OSError(getattr(errno, name), name))
    for name in dir(socket):
        if name.startswith("EAI_"):
            yield name, {}, _raiser(socket.gaierror(getattr(socket, name), name))
    yield "WSANO_DATA", {}, _raiser(socket.gaierror(11004, "no data"))
    yield "errno 104 in a gaierror", {}, _raiser(socket.gaierror(104, "reset"))
    yield "no errno", {}, _raiser(OSError("text alone"))
    yield "TimeoutError", {}, _raiser(TimeoutError("timed out"))
    for status in (400, 404, 499, 500, 503, 599, 600):
        yield f"HTTP {status}", {}, _raiser(_http(status))
    for error in (ValueError("no OSError"), EOFError("end"), KeyboardInterrupt()):
        yield type(error).__name__, {}, _raiser(error)
    if sys.version_info < (3, 13):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            nntplib = importlib.import_module("nntplib")
        yield "NNTPTemporaryError", {}, _raiser(nntplib.NNTPTemporaryError("400 later"))
        yield "NNTPPermanentError", {}, _raiser(nntplib.NNTPPermanentError("500 never"))


def _wrapped_cases() -> Iterator[Case]:
    for name, inner in (("refused", REFUSED), ("absent", ABSENT)):
        yield f"URLError({name})", {}, _raiser(urllib.error.URLError(inner))
        twice = urllib.error.URLError(urllib.error.URLError(inner))
        yield f"URLError(URLError({name}))", {}, _raiser(twice)
        yield f"OSError({name})", {}, _raiser(OSError(inner))
        yield f"OSError(text, {name})", {}, _raiser(OSError("socket error", inner))
        yield f"OSError(1, text, {name})", {}, _raiser(OSError(1, "socket error", inner))
        caused = _caused(urllib.error.URLError("ftp error"), inner)
        yield f"URLError from {name}", {}, _raiser(caused)
        yield f"OSError from {name}", {}, _raiser(_caused(OSError("text"), inner))
    for name in ("ConnectionRefusedError", "TimeoutError", "EOFError", "ConnectionResetError"):
        yield f"URLError of text with {name}", {}, _raiser(urllib.error.URLError(f"<{name}>"))
    yield "URLError of ValueError", {}, _raiser(urllib.error.URLError(_strange(ValueError("what"))))
    yield "URLError of a number", {}, _raiser(urllib.error.URLError(_strange(42)))


def _option_cases() -> Iterator[Case]:
    only_absent = {"errnos": (errno.ENOENT,)}
    yield "ENOENT, asked for", only_absent, _raiser(ABSENT)
    yield "ECONNREFUSED, not asked for", only_absent, _raiser(REFUSED)
    yield "EAI_NONAME, not asked for", only_absent, _raiser(socket.gaierror(socket.EAI_NONAME, ""))
    yield "HTTP 503, not asked for", only_absent, _raiser(_http(503))
    yield "TimeoutError, not asked for", only_absent, _raiser(TimeoutError("timed out"))
    yield "errnos as a list", {"errnos": [errno.ENOENT]}, _raiser(ABSENT)
    yield "no errnos, as a list", {"errnos": []}, _raiser(REFUSED)

    for timeout in (None, 3.5, 0.0):
        yield f"timeout {timeout}", {"timeout": timeout}, _raiser(REFUSED)
        yield f"timeout {timeout}, no error", {"timeout": timeout}, lambda: None


def _strange(reason: object) -> Any:  # noqa: ANN401 - URLError is declared to take text or an error
    return reason


def outcome(
    helper: types.ModuleType, options: dict[str, Any], happening: Callable[[], None]
) -> list[str]:
    """Let something happen inside a helper's transient_internet, and describe what came of it."""
    denied = importlib.import_module("test.support").ResourceDenied
    socket.setdefaulttimeout(17.25)
    inside: list[object] = []
    raised: BaseException | None = None
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            with helper.transient_internet("it's there", **options):
                inside.append(socket.getdefaulttimeout())
                happening()
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt is one of the cases
            raised = error
    kind = "ResourceDenied" if isinstance(raised, denied) else type(raised).__name__
    return [
        f"raised {kind}: {raised}",
        f"from {raised.__cause__!r}" if kind == "ResourceDenied" and raised else "as it was",
        f"timeout inside {inside}",
        f"timeout afterwards {socket.getdefaulttimeout()}",
        f"stderr {stderr.getvalue()!r}",
    ]


def main() -> None:
    """Compare and print."""
    support = importlib.import_module("test.support")
    report: dict[str, list[Any]] = {
        "missing": [],
        "signatures": [],
        "constants": [],
        "transient": [],
    }
    for helper in HELPERS:
        theirs = importlib.import_module(f"test.support.{helper}")
        ours = importlib.import_module(f"portlease.{helper}")
        for name in public_names(theirs):
            original = getattr(theirs, name)
            if name not in ours.__all__ or not hasattr(ours, name):
                report["missing"].append(f"{helper}.{name}")
                continue
            own = getattr(ours, name)
            if not callable(original):
                if (type(original), original) != (type(own), own):
                    report["constants"].append([name, repr(original), repr(own)])
            elif signature(original) != signature(own):
                report["signatures"].append([name, signature(original), signature(own)])
    theirs = importlib.import_module("test.support.socket_helper")
    ours = importlib.import_module("portlease.socket_helper")
    for verbose in (0, 1):
        vars(support)["verbose"] = verbose
        for name, options, happening in cases():
            pair = [outcome(helper, options, happening) for helper in (theirs, ours)]
            if pair[0] != pair[1]:
                report["transient"].append([f"{name}, verbose={verbose}", *pair])
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
