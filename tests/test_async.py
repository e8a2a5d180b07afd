"""The same servers for asyncio and trio, with anyio on both of them too."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import need
from _processes import HANG_S, wait_for, watched
from _serving import own_leases
from portlease import (
    AsyncServer,
    AsyncServerGroup,
    ServerDiedError,
    ServerDiedWarning,
    ServerKilledWarning,
    ServerStartError,
    ServerTimeoutError,
    Service,
    UsageError,
    aserve,
    aserve_many,
)
from portlease._server import _async
from portlease._server._cancel import Cancel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path
    from types import ModuleType

    Main = Callable[[], Coroutine[Any, Any, None]]

PYTHON = [sys.executable, "-I", "-S", "-c"]
HTTP = [sys.executable, "-u", "-m", "http.server", "--bind", "{host}", "{port}"]

# Makes the file "started", never gets ready, and makes "ended" when it is asked to end.
NEVER = textwrap.dedent("""
    import _signal, posix, time
    def end(*_):
        posix.close(posix.open("ended", posix.O_CREAT))
        posix._exit(0)
    _signal.signal(_signal.SIGTERM, end)
    posix.close(posix.open("started", posix.O_CREAT))
    while True:
        time.sleep(0.01)  # in one long call, a SIGTERM just before it would be seen after it
""")
# Ends only once the file "go" is there; "asked" says that it was asked to.
RELUCTANT = textwrap.dedent("""
    import _signal, _socket, posix, time
    def end(*_):
        posix.close(posix.open("asked", posix.O_CREAT))
        while "go" not in posix.listdir():
            time.sleep(0.002)
        posix._exit(0)
    _signal.signal(_signal.SIGTERM, end)
    server = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", {port}))
    server.listen(16)
    while True:
        time.sleep(0.01)
""")


def library(name: str) -> ModuleType:
    """A library that the tests need."""
    need.module(name)
    return importlib.import_module(name)


class Loop:
    """What the four ways to run a task have in common, for these tests."""

    name = "asyncio"

    def __init__(self) -> None:
        self.library: Any = library("asyncio")

    def run(self, main: Main) -> None:
        """Run it to its end."""
        self.library.run(main())

    async def sleep(self, seconds: float) -> None:
        """Let the others."""
        await self.library.sleep(seconds)

    async def cancelled(self, body: Main, when: Callable[[], object]) -> bool:
        """Run *body*, and cancel it once *when* has returned, in a thread; whether it was so."""
        task = self.library.ensure_future(body())
        loop = self.library.get_running_loop()
        with calling_later(when, lambda: loop.call_soon_threadsafe(task.cancel)):
            try:
                await task
            except self.library.CancelledError:
                return True
        return False

    async def beside(self, body: Main, other: Main) -> None:
        """Run *body*, and *other* beside it until it has ended."""
        task = self.library.ensure_future(other())
        try:
            await body()
        finally:
            task.cancel()
            with contextlib.suppress(self.library.CancelledError):
                await task


class Trio(Loop):
    """trio."""

    name = "trio"

    def __init__(self) -> None:
        self.library = library("trio")

    def run(self, main: Main) -> None:
        """Run it to its end."""
        self.library.run(main)

    async def cancelled(self, body: Main, when: Callable[[], object]) -> bool:
        """By a cancel scope."""
        token = self.library.lowlevel.current_trio_token()
        with (
            self.library.CancelScope() as scope,
            calling_later(when, lambda: token.run_sync_soon(scope.cancel)),
        ):
            await body()
        return bool(scope.cancelled_caught)

    async def beside(self, body: Main, other: Main) -> None:
        """In a nursery."""
        async with self.library.open_nursery() as nursery:
            nursery.start_soon(other)
            await body()
            nursery.cancel_scope.cancel()


class AnyIO(Loop):
    """anyio on asyncio."""

    name = "anyio on asyncio"
    backend = "asyncio"

    def __init__(self) -> None:
        self.library = library("anyio")
        library(self.backend)

    def run(self, main: Main) -> None:
        """Run it to its end."""
        self.library.run(main, backend=self.backend)

    def soon(self) -> Callable[[Callable[[], None]], object]:
        """What calls a function in the loop, from any thread."""
        loop = library("asyncio").get_running_loop()
        return loop.call_soon_threadsafe  # type: ignore[no-any-return]

    async def cancelled(self, body: Main, when: Callable[[], object]) -> bool:
        """By a cancel scope."""
        soon = self.soon()
        with (
            self.library.CancelScope() as scope,
            calling_later(when, lambda: soon(scope.cancel)),
        ):
            await body()
        return bool(scope.cancelled_caught)

    async def beside(self, body: Main, other: Main) -> None:
        """In a task group."""
        async with self.library.create_task_group() as group:
            group.start_soon(other)
            await body()
            group.cancel_scope.cancel()


class AnyIOTrio(AnyIO):
    """anyio on trio."""

    name = "anyio on trio"
    backend = "trio"

    def soon(self) -> Callable[[Callable[[], None]], object]:
        """What calls a function in the loop, from any thread."""
        return library("trio").lowlevel.current_trio_token().run_sync_soon  # type: ignore[no-any-return]


@contextlib.contextmanager
def calling_later(when: Callable[[], object], call: Callable[[], object]) -> Iterator[None]:
    """Call it once *when* has returned, from another thread."""

    def wait() -> None:
        when()
        call()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join(HANG_S)


@pytest.fixture(params=[Loop, Trio, AnyIO, AnyIOTrio], ids=lambda kind: kind.name)
def loop(request: pytest.FixtureRequest) -> Loop:
    """Each of the four."""
    made: Loop = request.param()
    return made


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test leaves no lease of ours, and no thread."""
    before = own_leases()
    yield
    gc.collect()
    wait_for(lambda: not [one for one in threading.enumerate() if one.name == "portlease"])
    assert own_leases() == before


def get(port: int) -> bytes:
    """The status line of an HTTP server."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return client.recv(1000).partition(b"\r\n")[0]


# --- one server -----------------------------------------------------------------------------------


def test_a_server(loop: Loop) -> None:
    """It is served, restarted and killed on one port, and gone after its block."""

    async def main() -> None:
        async with aserve(HTTP, label="twin") as server:
            assert isinstance(server, AsyncServer)
            assert get(server.port) == b"HTTP/1.0 200 OK"
            assert server.url("x") == f"http://127.0.0.1:{server.port}/x"
            assert server.ports == {"port": server.port}
            assert (server.host, server.how, server.starts) == ("127.0.0.1", "offer", 1)
            assert server.why
            assert server.ready_after_s > 0
            assert server.lease is server.leases["port"]
            assert server.lease.label == "twin"
            assert server.argv[-1] == str(server.port)
            port, pid = server.port, server.process.pid
            await server.restart()
            assert (server.port, server.process.pid != pid) == (port, True)
            await server.kill()
            await server.restart()
            assert get(port) == b"HTTP/1.0 200 OK"
            assert (await server.wait_for_line(r'"GET (\S+)', HANG_S)).match[1] == "/"
            assert "GET" in server.tail(1)[0]
            assert "GET" in server.output
            assert repr(server).startswith("<AsyncServer 'python")
            tree = server.process.tree()
        with watched(tree) as wait_all:
            assert wait_all() == []

    loop.run(main)


def test_awaited_without_a_block(loop: Loop) -> None:
    """It runs until it is stopped; stopping again is nothing; or the block comes later."""

    async def main() -> None:
        server = await aserve(HTTP)
        assert get(server.port) == b"HTTP/1.0 200 OK"
        await server.stop()
        await server.stop()
        assert server.process.ended
        async with await aserve(HTTP) as other:
            assert get(other.port) == b"HTTP/1.0 200 OK"

    loop.run(main)


def test_not_awaited() -> None:
    """Whoever forgot it is told so by the first use."""
    starting: Any = aserve(HTTP)
    with pytest.raises(AttributeError, match=r"no 'port'; await it, or use it in `async with`"):
        _ = starting.port
    assert not hasattr(starting, "url")


@pytest.mark.parametrize(
    ("args", "options", "kind"),
    [
        (["/no/such/program"], {}, ServerStartError),
        (["sh", "-c", "exit 3"], {}, ServerDiedError),
        (["sleep", "1000"], {"timeout_s": 0.05}, ServerTimeoutError),
        ([], {}, UsageError),
        ("http.server", {}, UsageError),
    ],
)
def test_errors_are_those_of_serve(
    loop: Loop, args: list[str], options: dict[str, Any], kind: type[Exception]
) -> None:
    """The same types, by both ways of starting it."""

    async def main() -> None:
        with pytest.raises(kind):
            await aserve(args, **options)
        with pytest.raises(kind):
            async with aserve(args, **options):
                pass

    loop.run(main)


def test_a_crash_is_reported(loop: Loop) -> None:
    """At the next use, and on leaving the block: as a note, or as a warning at the caller's."""

    async def main() -> None:
        async with aserve(HTTP) as server:
            await die(server)
            with pytest.raises(ServerDiedError, match="was ended by SIGSEGV"):
                assert server.port
        with pytest.raises(ZeroDivisionError) as caught:
            await crash_and(ZeroDivisionError())
        assert "was ready, and then" in caught.value.__notes__[0]
        with pytest.warns(ServerDiedWarning, match="was ready, and then"):
            await crash_and(None)

    async def die(server: AsyncServer) -> None:
        os.kill(server.process.pid, signal.SIGSEGV)
        server.process.wait(HANG_S)

    async def crash_and(error: Exception | None) -> None:
        async with aserve(HTTP) as server:
            await die(server)
            if error is not None:
                raise error

    loop.run(main)


def test_one_that_must_be_killed(loop: Loop, tmp_path: Path) -> None:
    """Warns in the task that stops it."""

    async def main() -> None:
        server = await aserve([*PYTHON, RELUCTANT], cwd=tmp_path, stop_timeout_s=0.02)
        with pytest.warns(ServerKilledWarning, match="was ended by SIGKILL"):
            await server.stop()

    loop.run(main)


# --- cancelled ------------------------------------------------------------------------------------


def test_cancelled_while_it_starts(loop: Loop, tmp_path: Path) -> None:
    """The start is broken off: the server was asked to end, and is gone when the task is."""

    async def body() -> None:
        async with aserve([*PYTHON, NEVER], cwd=tmp_path, timeout_s=1000):
            pytest.fail("it never gets ready")

    async def main() -> None:
        assert await loop.cancelled(body, lambda: wait_for((tmp_path / "started").exists))
        assert (tmp_path / "ended").exists()
        assert own_leases() == set()

    loop.run(main)


def test_cancelled_before_it_starts(loop: Loop, tmp_path: Path) -> None:
    """A task that is cancelled already starts nothing that stays."""

    async def body() -> None:
        await loop.sleep(0)
        async with aserve([*PYTHON, NEVER], cwd=tmp_path, timeout_s=1000):
            pytest.fail("it never gets ready")

    async def main() -> None:
        assert await loop.cancelled(body, lambda: None)
        assert own_leases() == set()

    loop.run(main)


def test_cancelled_in_its_block(loop: Loop) -> None:
    """The server is stopped before the task is cancelled."""
    inside = threading.Event()
    trees: list[int] = []

    async def body() -> None:
        async with aserve(HTTP) as server:
            trees.extend(server.process.tree())
            inside.set()
            await loop.sleep(1000)

    async def main() -> None:
        assert await loop.cancelled(body, inside.wait)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in trees)  # noqa: ASYNC240, PTH110

    loop.run(main)
    assert trees


def test_cancelled_while_it_stops(loop: Loop, tmp_path: Path) -> None:
    """Stopping is not broken off; the task is cancelled when it is done."""
    servers: list[AsyncServer] = []
    after: list[str] = []

    async def body() -> None:
        server = await aserve([*PYTHON, RELUCTANT], cwd=tmp_path, stop_timeout_s=HANG_S)
        servers.append(server)
        await server.stop()
        assert server.process.ended
        await loop.sleep(1000)
        after.append("not cancelled")

    def when() -> None:
        wait_for((tmp_path / "asked").exists)
        threading.Timer(0.05, (tmp_path / "go").touch).start()

    async def main() -> None:
        assert await loop.cancelled(body, when)
        assert servers[0].process.ended
        assert servers[0].process.returncode == 0
        assert servers[0].lease.state == "RELEASED"

    loop.run(main)
    assert not after


def test_cancelled_while_it_restarts(loop: Loop, tmp_path: Path) -> None:
    """It is left stopped, with its leases, and can be restarted."""
    switch = tmp_path / "never"
    script = 'test ! -e never || exec "$0" -I -S -c "$1"; exec "$0" -m http.server {port}'

    async def main() -> None:
        async with aserve(["sh", "-c", script, *PYTHON[:1], NEVER], cwd=tmp_path) as server:
            port = server.port
            switch.touch()
            assert await loop.cancelled(
                server.restart, lambda: wait_for((tmp_path / "started").exists)
            )
            assert server.process.ended
            assert own_leases() == {port}
            switch.unlink()
            await server.restart()
            assert get(port) == b"HTTP/1.0 200 OK"

    loop.run(main)


def test_a_start_that_succeeds_though_it_was_cancelled(loop: Loop) -> None:
    """Its result is taken back, and the task is cancelled."""
    going = threading.Event()
    taken_back: list[str] = []

    async def main() -> None:
        cancel = Cancel()

        def call() -> str:
            going.set()
            while not cancel.cancelled:
                time.sleep(0.001)
            return "result"

        async def body() -> None:
            await _async._in_thread(call, cancel, taken_back.append)

        assert await loop.cancelled(body, going.wait)
        assert taken_back == ["result"]

    loop.run(main)


def test_a_time_limit(loop: Loop, tmp_path: Path) -> None:
    """The library's own timeouts work as for anything else."""
    never = aserve([*PYTHON, NEVER], cwd=tmp_path, timeout_s=1000)

    async def main() -> None:
        begun = time.monotonic()
        if loop.name == "asyncio":
            with pytest.raises(TimeoutError):
                async with loop.library.timeout(0.1):
                    await never
        else:
            late = loop.library.TooSlowError if loop.name == "trio" else TimeoutError
            with pytest.raises(late), loop.library.fail_after(0.1):
                await never
        took_s = time.monotonic() - begun
        print(f"{loop.name}: 0.1 s, then gone {(took_s - 0.1) * 1e3:.0f} ms later")  # noqa: T201

    loop.run(main)


# --- the loop goes on -----------------------------------------------------------------------------


def test_the_loop_is_not_blocked(loop: Loop, tmp_path: Path) -> None:
    """A server starts, and ends, only once another task has gone on; how late that was is told."""
    late_s: list[float] = []
    rounds = {"starting": 0, "asked": 0}

    async def tick() -> None:
        while True:
            due = time.monotonic() + 0.001
            await loop.sleep(0.001)
            late_s.append(time.monotonic() - due)
            for phase, permission in (("starting", "up"), ("asked", "go")):
                if (tmp_path / phase).exists():
                    rounds[phase] += 1
                    if rounds[phase] == 20:
                        (tmp_path / permission).touch()

    async def body() -> None:
        slow = (
            'touch starting; while ! test -e up; do sleep 0.002; done; exec "$0" -I -S -c "$1"',
            *PYTHON[:1],
            RELUCTANT,
        )
        async with aserve(["sh", "-c", *slow], cwd=tmp_path, stop_timeout_s=HANG_S) as server:
            await server.restart()
        print(  # noqa: T201
            f"{loop.name}: {len(late_s)} ticks, at most {max(late_s) * 1e3:.1f} ms late"
        )

    loop.run(functools.partial(loop.beside, body, tick))
    assert min(rounds.values()) >= 20


def test_many_at_once(loop: Loop) -> None:
    """Ten servers in ten tasks."""
    ports: list[int] = []

    async def main() -> None:
        async def one() -> None:
            async with aserve(HTTP) as server:
                ports.append(server.port)

        async def no_other() -> None:
            pass

        body: Main = no_other
        for _ in range(10):
            body = functools.partial(both, loop, body, one)
        await body()

    loop.run(main)
    assert len(set(ports)) == 10


async def both(loop: Loop, first: Main, second: Main) -> None:
    """Run both, side by side, to their ends."""
    done = threading.Event()

    async def mark() -> None:
        try:
            await second()
        finally:
            done.set()

    async def rest() -> None:
        await first()
        while not done.is_set():
            await loop.sleep(0.001)

    await loop.beside(rest, mark)


# --- its output -----------------------------------------------------------------------------------


def test_follow(loop: Loop) -> None:
    """Each line as it comes, until the server has ended."""

    async def main() -> None:
        seen: list[str] = []
        async with aserve(HTTP) as server, contextlib.aclosing(server.follow()) as lines:
            async for line in lines:
                seen.append(line)
                if len(seen) < 4:
                    get(server.port)
                else:
                    await server.kill()
        assert [("GET / " in line) for line in seen] == [False, True, True, True]

    loop.run(main)


def test_follow_cancelled(loop: Loop) -> None:
    """A task that waits for a line can be cancelled; the server goes on."""
    inside = threading.Event()

    async def main() -> None:
        async with aserve(HTTP) as server:

            async def reader() -> None:
                async with contextlib.aclosing(server.follow()) as lines:
                    async for _ in lines:
                        inside.set()

            async def waiter() -> None:
                inside.set()
                await server.wait_for_line("never", 1000)

            for body in (reader, waiter):
                inside.clear()
                assert await loop.cancelled(body, inside.wait)
            assert get(server.port) == b"HTTP/1.0 200 OK"

    loop.run(main)


def test_a_line_that_does_not_come(loop: Loop) -> None:
    """The same errors."""

    async def main() -> None:
        async with aserve(HTTP) as server:
            with pytest.raises(ServerTimeoutError, match="has not written a line with 'never'"):
                await server.wait_for_line("never", 0.01)
            await server.kill()
            with pytest.raises(ServerDiedError, match="was ended by SIGKILL before it wrote"):
                await server.wait_for_line("never", HANG_S)

    loop.run(main)


# --- groups ---------------------------------------------------------------------------------------


def test_a_group(loop: Loop) -> None:
    """Several servers, by name; one is restarted; all are gone after the block."""

    async def main() -> None:
        redis = [need.program("redis-server"), "--port", "{port}", "--save", ""]
        services: dict[str, Service | list[str]] = {"db": redis, "web": Service(HTTP, after="db")}
        async with aserve_many(services, timeout_s=HANG_S) as group:
            assert isinstance(group, AsyncServerGroup)
            assert list(group) == ["db", "web"]
            assert len(group) == 2
            assert get(group["web"].port) == b"HTTP/1.0 200 OK"
            assert group.ports == {name: {"port": server.port} for name, server in group.items()}
            pid = group["db"].process.pid
            await group.restart("db")
            assert group["db"].process.pid != pid
            with pytest.raises(KeyError, match="there are db, web"):
                group["x"]
            assert group == group  # noqa: PLR0124
            assert {group}
            assert repr(group).startswith("<AsyncServerGroup db, web: ")
            tree = [pid for server in group.values() for pid in server.process.tree()]
        with watched(tree) as wait_all:
            assert wait_all() == []
        await group.stop()

    loop.run(main)


def test_a_group_cancelled_while_it_starts(loop: Loop, tmp_path: Path) -> None:
    """What is up is stopped, what starts is broken off."""
    services: dict[str, Service | list[str]] = {
        "web": HTTP,
        "never": Service([*PYTHON, NEVER], after="web"),
    }

    async def body() -> None:
        async with aserve_many(services, cwd=tmp_path, timeout_s=1000):
            pytest.fail("it never gets ready")

    async def main() -> None:
        assert await loop.cancelled(body, lambda: wait_for((tmp_path / "started").exists))
        assert (tmp_path / "ended").exists()
        assert own_leases() == set()

    loop.run(main)


def test_a_group_that_fails(loop: Loop) -> None:
    """The error names the service; a crash is reported."""

    async def main() -> None:
        with pytest.raises(ServerDiedError, match=r"^bad: sh ended with exit status 3"):
            await aserve_many({"web": HTTP, "bad": ["sh", "-c", "exit 3"]})
        with pytest.raises(UsageError, match=r"^a: after= names x"):
            await aserve_many({"a": Service(HTTP, after="x")})
        group = await aserve_many({"web": HTTP})
        os.kill(group["web"].process.pid, signal.SIGSEGV)
        group["web"].process.wait(HANG_S)
        with pytest.raises(ZeroDivisionError) as caught:
            async with group:
                raise ZeroDivisionError
        assert caught.value.__notes__[0].startswith("web: python")

    loop.run(main)


# --- which library --------------------------------------------------------------------------------


def test_neither_of_them() -> None:
    """Outside of a loop it says what to do, and starts nothing."""

    async def main() -> None:
        await aserve(HTTP)

    for coroutine in (main(), main()):
        with pytest.raises(UsageError, match=r"neither asyncio nor trio runs here.*serve\(\)"):
            coroutine.send(None)


def test_neither_is_imported() -> None:
    """The names load neither library; a program with asyncio alone does not load trio."""
    script = (
        "import sys, portlease; portlease.aserve, portlease.aserve_many, portlease.AsyncServer\n"
        "assert not {'asyncio', 'trio', 'anyio'} & set(sys.modules), 'imported'\n"
        "import asyncio\n"
        "async def main():\n"
        "    async with portlease.aserve([sys.executable, '-m', 'http.server', '{port}']): pass\n"
        "asyncio.run(main())\n"
        "assert not {'trio', 'anyio'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_trio_as_a_guest_of_asyncio() -> None:
    """Both run in one thread, and each task gets its own."""
    asyncio, trio = library("asyncio"), library("trio")
    used: list[object] = []

    async def both() -> None:
        running = asyncio.get_running_loop()
        ended = running.create_future()

        async def guest() -> None:
            used.append(_async._library())
            async with aserve(HTTP) as server:
                used.append(get(server.port))

        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=running.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        async with aserve(HTTP) as server:
            used.append(_async._library())
            used.append(get(server.port))
        (await ended).unwrap()

    asyncio.run(both())
    assert used.count(b"HTTP/1.0 200 OK") == 2
    assert _async._wait_in_trio in used
    assert _async._wait_in_asyncio in used


def test_a_loop_that_is_closed_under_it(tmp_path: Path) -> None:
    """A task that nobody runs any more leaves nothing behind, either."""
    asyncio = library("asyncio")
    running = asyncio.new_event_loop()
    running.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"

    async def body() -> None:
        async with aserve([*PYTHON, NEVER], cwd=tmp_path, timeout_s=1000):
            pytest.fail("it never gets ready")

    async def started() -> None:
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.001)

    task = running.create_task(body())
    running.run_until_complete(started())
    running.close()
    del task
    gc.collect()
    wait_for((tmp_path / "ended").exists)
    wait_for(lambda: not own_leases())


def test_a_result_for_a_loop_that_is_closed() -> None:
    """Where nobody is left to take the result, it is taken back in its thread."""
    asyncio = library("asyncio")
    running = asyncio.new_event_loop()
    running.set_exception_handler(lambda *_: None)
    going, go = threading.Event(), threading.Event()
    taken_back: list[str] = []

    def call() -> str:
        going.set()
        go.wait(HANG_S)
        return "result"

    async def body() -> None:
        await _async._in_thread(call, None, taken_back.append)

    async def begun() -> None:
        while not going.is_set():
            await asyncio.sleep(0.001)

    task = running.create_task(body())
    running.run_until_complete(begun())
    running.close()
    go.set()
    wait_for(lambda: taken_back == ["result"])
    del task
    gc.collect()
    assert taken_back == ["result"]


def test_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """ResourceLimitError, as everywhere."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError(f"can't start new thread {thread.name}")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(portlease.ResourceLimitError, match="no thread to be had"):
                await aserve(HTTP)

    loop.run(main)


def typed(server: Awaitable[AsyncServer]) -> None:
    """For the type checker: what is awaited is an AsyncServer."""
    del server


def test_it_is_awaitable() -> None:
    """What aserve() gives is nothing before it is awaited."""
    typed(aserve(HTTP))
    assert own_leases() == set()
