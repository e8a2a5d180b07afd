"""The suite of ``first_byte``: every test starts a server and reads the first byte of its answer.

Told by the environment: FIRST_BYTE_STARTER, FIRST_BYTE_SERVER (one of :data:`SERVERS`),
FIRST_BYTE_TESTS, and FIRST_BYTE_LOG, the file to which each test appends its milliseconds.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent))  # pytest imports it by its path

import readiness

SERVERS: Final = {
    "a server of sockets alone": [
        *(sys.executable, "-I", "-S"),
        *(str(Path(__file__).with_name("_server.py")), "{port}", "0"),
    ],
    "Python's http.server": [
        *(sys.executable, "-m", "http.server"),
        *("--bind", "127.0.0.1", "--directory", str(Path(__file__).parent), "{port}"),
    ],
}
SERVE: Final = "portlease, fixture serve"


@contextlib.contextmanager
def _serve(request: pytest.FixtureRequest, command: list[str]) -> Iterator[int]:
    yield request.getfixturevalue("serve")(command).port


def _find_unused_port() -> int:
    """CPython's own."""
    return int(importlib.import_module("test.support.socket_helper").find_unused_port())


def _by_number(
    start: Callable[[list[str], int], contextlib.AbstractContextManager[None]],
) -> Any:  # noqa: ANN401 - a function that makes a context manager
    """One that is told a port, which find_unused_port() finds."""

    @contextlib.contextmanager
    def started(request: pytest.FixtureRequest, command: list[str]) -> Iterator[int]:
        del request
        port = _find_unused_port()
        with start(command, port):
            yield port

    return started


@contextlib.contextmanager
def _xprocess(request: pytest.FixtureRequest, command: list[str]) -> Iterator[int]:
    """As its documentation has it: a class with a startup_check, and the fixture."""
    port = _find_unused_port()
    base = importlib.import_module("xprocess").ProcessStarter

    class Starter(base):  # type: ignore[misc, valid-type]  # untyped
        args = readiness.filled(command, port)
        timeout = 30
        terminate_on_interrupt = True

        def startup_check(self) -> bool:
            return readiness.connects(port)

    xprocess = request.getfixturevalue("xprocess")
    name = request.node.name
    xprocess.ensure(name, Starter, restart=True)
    try:
        yield port
    finally:
        xprocess.getinfo(name).terminate()


STARTERS: Final = {
    SERVE: _serve,
    "mirakuru TCPExecutor": _by_number(readiness.mirakuru),
    "pytest-xprocess": _xprocess,
    "find_unused_port, Popen, connect every 100 ms": _by_number(
        lambda command, port: readiness.polling(command, port, 0.1)
    ),
    "find_unused_port, Popen, connect every 10 ms": _by_number(
        lambda command, port: readiness.polling(command, port, 0.01)
    ),
}


@pytest.mark.parametrize("number", range(int(os.environ.get("FIRST_BYTE_TESTS", "0"))))
def test_first_byte(request: pytest.FixtureRequest, number: int) -> None:
    """A server of this test's own answers."""
    del number
    start_ns = time.monotonic_ns()
    command = SERVERS[os.environ["FIRST_BYTE_SERVER"]]
    with STARTERS[os.environ["FIRST_BYTE_STARTER"]](request, command) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            first = client.recv(1)
        milliseconds = (time.monotonic_ns() - start_ns) / 1e6
        assert first == b"H"  # noqa: S101 - it is a test
        with Path(os.environ["FIRST_BYTE_LOG"]).open("a", encoding="ascii") as log:
            print(milliseconds, file=log)
