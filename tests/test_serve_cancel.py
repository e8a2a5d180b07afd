"""A start that is broken off from another thread, and names that may be misspelt."""

from __future__ import annotations

import re
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _processes import HANG_S
from _serving import PLAIN, TINY, ask, python
from _serving import nothing_is_left as nothing_is_left  # noqa: PLC0414 - a fixture
from portlease import ServerDiedError, ServerTimeoutError, TemplateWarning, serve
from portlease._server._cancel import Cancel, StartCancelledError
from portlease._server._serve import start
from portlease._tree import _process

if TYPE_CHECKING:
    from collections.abc import Callable

HANGS_AT_HTTP = TINY.replace('client.sendall(b"tiny")\n    client.close()', "kept = client")
IGNORES_SIGTERM = "import _signal; _signal.signal(15, _signal.SIG_IGN)\n"


def broken_off(begin: Callable[[Cancel, Callable[[str], None]], object], at: str) -> float:
    """Break a start off in another thread as soon as it is told that it waits for *at*.

    Returns the seconds until it was over.
    """
    cancel = Cancel()
    waits, over = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def tell(what: str) -> None:
        if at in what:
            waits.set()

    def run() -> None:
        try:
            begin(cancel, tell)
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert waits.wait(HANG_S)
    begun = time.monotonic()
    cancel.cancel()
    assert over.wait(HANG_S)
    took_s = time.monotonic() - begun
    thread.join()
    assert [type(error) for error in errors] == [StartCancelledError]
    return took_s


def starting(command: list[str], **options: Any) -> Callable[..., object]:  # noqa: ANN401
    """Start this, with the means to be broken off."""

    def begin(cancel: Cancel, tell: Callable[[str], None]) -> object:
        made = portlease._server._serve.command_of(command, timeout_s=HANG_S, **options)
        return portlease.Server(made, cancel=cancel, tell=tell)

    return begin


@pytest.mark.parametrize(
    ("command", "options", "at"),
    [
        (["sleep", "1000"], {}, "to listen"),
        (["sleep", "1000"], {"how": "broker"}, "to listen"),
        (python(HANGS_AT_HTTP), {"ready": "/health"}, "GET"),
        (python(TINY), {"ready": ["sleep", "1000"]}, "sleep"),
        (python(TINY), {"ready": lambda _: False}, "lambda"),
        (python(IGNORES_SIGTERM + TINY), {"ready": lambda _: False, "stop_timeout_s": 0.1}, ": it"),
    ],
    ids=["listen", "broker", "http", "command", "function", "deaf"],
)
def test_a_start_is_broken_off(command: list[str], options: dict[str, Any], at: str) -> None:
    """Whatever it waits for, it ends soon, long before its time, and nothing of it is left."""
    if options.get("how") == "broker" and sys.platform != "linux":
        pytest.skip("the broker is Linux's alone")
    assert broken_off(starting(command, **options), at) < HANG_S / 3
    assert _process.live() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is seen where it listens")
def test_told_early_that_it_listens_elsewhere() -> None:
    """Who watches, or gives up, need not wait for the error."""
    told: list[str] = []
    args = python(TINY.replace("{port}", "0"))
    command = portlease._server._serve.command_of(args, timeout_s=HANG_S)
    cancel = Cancel()

    def tell(what: str) -> None:
        told.append(what)
        if "it listens on" in what:
            cancel.cancel()

    with pytest.raises(StartCancelledError):
        portlease.Server(command, cancel=cancel, tell=tell)
    assert re.fullmatch(r"port \d+ to listen", told[0])
    assert re.fullmatch(r"port \d+; it listens on \d+", told[1])


def test_broken_off_before_it_began() -> None:
    """Nothing is started."""
    cancel = Cancel()
    cancel.cancel()
    cancel.cancel()
    assert cancel.cancelled
    with pytest.raises(StartCancelledError):
        start(["portlease-no-such"], cancel=cancel)


def test_a_restart_is_broken_off() -> None:
    """The leases are kept, nothing runs, and it can be started again."""
    passes = [True]
    with serve(python(PLAIN), how="step-aside", ready=lambda _: passes[0]) as server:
        passes[0] = False

        def begin(cancel: Cancel, tell: Callable[[str], None]) -> None:
            server._tell = tell
            server._restart(cancel)

        broken_off(begin, "lambda")
        assert server.process.ended
        assert server.lease.state == "GUARDED"
        passes[0] = True
        server.restart()
        assert ask(server) == b"tiny"


def test_what_is_woken() -> None:
    """What must be ended is ended once: by cancel(), or at once if that came first."""
    cancel = Cancel()
    ended: list[str] = []
    with cancel.ending(lambda: ended.append("left")):
        pass
    with cancel.ending(lambda: ended.append("first")):
        cancel.cancel()
        assert ended == ["first"]
    with cancel.ending(lambda: ended.append("late")):
        assert ended == ["first", "late"]
    with pytest.raises(StartCancelledError):
        cancel.wait(HANG_S)
    Cancel().wait(0.001)


# --- names that may be misspelt -------------------------------------------------------------------


def test_a_misspelt_port() -> None:
    """{prt} where {port} is nowhere is told before the server is started."""
    code = TINY.replace("{port}", "{prt}")
    with (
        pytest.warns(TemplateWarning, match=r"\{prt\}.*write \{port\}.*ports=") as told,
        pytest.raises(ServerTimeoutError, match=r"\{prt\} is another port.*write \{port\}") as said,
    ):
        serve(python(code), timeout_s=0.2)
    assert "timeout_s=" not in str(said.value)  # no time would help
    assert told[0].filename == __file__
    with portlease.lease() as lease:  # whose number the caller may have written himself
        given = python(TINY.replace("{port}", str(lease.port)) + "# {prt}")
        with pytest.raises(ServerTimeoutError, match=r"\(prt\)"):
            serve(given, lease=lease, timeout_s=0.2)


def test_a_port_in_capitals() -> None:
    """{PORT} stays, and is told; other programs' templates are not, nor where {port} is."""
    shouting = python(TINY.replace("{port}", "int({PORT})"))
    with (
        pytest.warns(TemplateWarning, match=r"\{PORT\} stays as it is.*write \{port\}"),
        pytest.raises(ServerDiedError),
    ):
        serve(shouting)
    for words in ("{OTHER}", "${PORT}", "$ENV{PORT}", "{{PORT}}", "{PORT} {port}"):
        with serve(python(TINY + "# " + words)):
            pass


def test_a_misspelt_port_where_warnings_are_errors() -> None:
    """Nothing was begun, so nothing is said of a server that was not stopped."""
    misspelt = python(TINY.replace("{port}", "{prt}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what __del__ raised would be a warning of pytest's
        with pytest.raises(TemplateWarning):
            serve(misspelt)


@pytest.mark.parametrize(
    "options",
    [
        {"ports": {"prt": "tcp"}},
        {"wait_for": ["prt"]},
        {"env": {"PORT": "1"}},
        {"env": {"X": "{port}"}},
    ],
)
def test_not_misspelt(options: dict[str, Any]) -> None:
    """Not where the name was declared, wait_for= names it, or PORT or {port} is used elsewhere."""
    made = portlease._server._serve.command_of(["server", "{prt}"], **options)
    assert made.suspicious() == set()


@pytest.mark.parametrize("word", ["$PORT", "process.env.PORT", "${PORT}", "{port}", "--x={fd}"])
def test_a_command_that_speaks_of_its_port(word: str) -> None:
    """Neither is a further port suspicious beside one of these."""
    made = portlease._server._serve.command_of(["server", "{admin}", word])
    assert made.suspicious() == set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert portlease._server._serve.command_of(["server", "{admin}", "EXPORT"]).suspicious()
