"""serve_once: one server for all workers of a run, in pytest runs of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portlease
from _inner import few_plugins as few_plugins  # noqa: PLC0414 - a fixture
from _need import need
from _processes import HANG_S, wait_for
from portlease._pytest import _once, _wanted
from portlease._pytest._line import Exchange, Line
from portlease._pytest._owner import Owner

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
import json, os, pathlib, re, socket, sys, pytest, portlease
HERE = pathlib.Path(__file__).parent
SOURCE = (
    "import os, signal, socket, sys; print('up', os.environ.get('SAID'), flush=True);"
    "s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); signal.pause()"
)
SERVER = [sys.executable, "-c", SOURCE, "{port}"]

def note(server, what="seen"):
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    with (HERE / what).open("a") as file:
        file.write(json.dumps([server.pid, server.port, worker, os.getpid()]) + "\\n")
"""


def arguments(*more: str) -> list[str]:
    """The plugins, and every warning an error."""
    xdist = ["-p", "xdist"] if more else []
    return ["-p", "portlease", *xdist, "-p", "no:cacheprovider", "-W", "error", *more]


def seen(folder: Path, what: str = "seen") -> list[tuple[int, int, str | None, int]]:
    """What the tests of a run have noted."""
    return [tuple(json.loads(line)) for line in (folder / what).read_text().splitlines()]


def wait_until_gone(pid: int) -> None:
    """A server that ends is seen to be gone in time, as a zombie too."""
    wait_for(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """Whether the process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


# --- one for all ----------------------------------------------------------------------------------

SHARED = (
    HEAD
    + """
@pytest.fixture(scope="session")
def server(serve_once, tmp_path_factory):
    return serve_once(SERVER, env={"SAID": "so {much}", "much": "x"}, wait_for="port")

@pytest.mark.parametrize("number", range(8))
@pytest.mark.xdist_group("one")
def test_seen(server, number):
    note(server)
    with socket.create_connection((server.host, server.port)):
        pass
    (info,) = [one for one in portlease.leases() if one.port == server.port]
    assert "::test_" in info.label
    if number == 3 and not (HERE / "crashed").exists() and "PYTEST_XDIST_WORKER" in os.environ:
        (HERE / "crashed").touch()
        os._exit(7)

def test_what_can_be_done_with_it(server, serve_once):
    note(server)
    assert server.url("x") == f"http://127.0.0.1:{server.port}/x"
    assert server.ports["much"] != server.port == server.ports["port"]
    assert server.tail() == [f"up so {server.ports['much']}"]
    assert server.output.startswith("up")
    assert server.wait_for_line(re.compile("u(p)")).match[1] == "p"
    assert (server.how, server.starts) == ("offer", 1)
    assert server.argv[-1] == str(server.port)
    for forbidden in (server.restart, server.stop, server.kill):
        with pytest.raises(portlease.UsageError, match="all workers of this run share it"):
            forbidden()
    with pytest.raises(AttributeError, match="another process's"):
        server.process
    with pytest.raises(portlease.UsageError, match="no port is called 'no'"):
        server.url(port="no")
    assert serve_once(SERVER, name="another").pid != server.pid
    assert serve_once(SERVER, name="another").pid == serve_once(SERVER, name="another").pid

def test_the_same_from_any_test(serve_once, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYTHING", "else")
    again = serve_once(SERVER, env={"much": "x", "SAID": "so {much}"}, wait_for="port")
    assert again.pid == server.pid
    note(server)
"""
)


@pytest.mark.parametrize(
    ("more", "passed", "crashes"),
    [
        (("-n", "0", "-p", "randomly"), 10, 0),
        (("-n", "4", "-p", "randomly"), 9, 1),
        # Without a crash: xdist waits for ever if that leaves one test of a group.
        (("-n", "4", "--maxprocesses", "2", "--dist", "loadgroup"), 10, 0),
    ],
)
def test_one_for_all(
    pytester: pytest.Pytester, more: Sequence[str], passed: int, crashes: int
) -> None:
    """All workers get one server; a crash of one and its restart do not touch it; it ends last."""
    pytester.makepyfile(SHARED)
    if not crashes:
        (pytester.path / "crashed").touch()
    result = pytester.runpytest_subprocess(*arguments(*more))
    result.assert_outcomes(passed=passed, failed=crashes)
    notes = seen(pytester.path)
    assert len({pid for pid, _, _, _ in notes}) == 1
    assert len({port for _, port, _, _ in notes}) == 1
    pids = {process for _, _, _, process in notes}
    assert len(pids) == 1 if more[1] == "0" else len(pids) > 1
    wait_until_gone(notes[0][0])
    assert portlease.who(notes[0][1]).free


def test_two_runs_at_once_and_the_first_failure(pytester: pytest.Pytester) -> None:
    """Each run has its own; with -x too it is stopped."""
    pytester.makepyfile(
        HEAD
        + """
def meet(me, other):
    (HERE / me).touch()
    while not (HERE / other).exists():
        os.sched_yield()

def test_it(serve_once):
    server = serve_once(SERVER, name="the name")
    note(server, os.environ["RUN"])
    meet(*os.environ["MEET"].split())
    with socket.create_connection((server.host, server.port)):
        pass
    assert False

def test_it_too(serve_once):
    note(serve_once(SERVER, name="the name"), os.environ["RUN"])
"""
    )
    runs = []
    for name, meet in (("a", "x y"), ("b", "y x")):
        command = [sys.executable, "-m", "pytest", *arguments("-n", "1", "-x")]
        env = {**os.environ, "RUN": name, "MEET": meet}
        runs.append(subprocess.Popen(command, cwd=pytester.path, env=env, stdout=subprocess.PIPE))
    try:
        outputs = [run.communicate(timeout=HANG_S)[0].decode() for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [2, 2], outputs
    assert all("Last output of <SharedServer 'the name'" in output for output in outputs)
    one, other = ({pid for pid, *_ in seen(pytester.path, name)} for name in ("a", "b"))
    assert len(one) == len(other) == 1
    assert one != other
    for pid in one | other:
        wait_until_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_controller(pytester: pytest.Pytester, number: int) -> None:
    """Ctrl-C and SIGKILL: no server is left, neither one that runs nor one that starts."""
    pytester.makepyfile(
        HEAD
        + """
SLOW = [sys.executable, "-c", SOURCE.replace("s = ", "open('slow', 'w').write(str(os.getpid()));"
        "signal.pause(); s = "), "{port}"]

def test_runs(serve_once):
    note(serve_once(SERVER))
    import signal
    signal.pause()

def test_starts(serve_once):
    serve_once(SLOW)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments("-n", "2")],
        cwd=pytester.path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        try:
            slow, _ = files = pytester.path / "slow", pytester.path / "seen"
            wait_for(
                lambda: (
                    run.poll() is not None
                    or all(path.exists() and path.read_text() for path in files)
                )
            )
            assert run.poll() is None
            if number == signal.SIGINT:
                os.killpg(run.pid, number)
            else:
                run.send_signal(number)
            run.wait(HANG_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
    wait_until_gone(int(slow.read_text()))
    for pid, *_ in seen(pytester.path):
        wait_until_gone(pid)


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("-n", "2")])
def test_errors_are_told_to_each(pytester: pytest.Pytester, more: Sequence[str]) -> None:
    """A server that fails, two of one name, one that dies: a clear error in every worker."""
    pytester.makepyfile(
        HEAD
        + """
FAILS = [sys.executable, "-c", "import sys; print('no such thing'); sys.exit(5)", "{port}"]

@pytest.mark.parametrize("number", range(4))
def test_it_fails(serve_once, number):
    with pytest.raises(portlease.ServerDiedError, match="status 5") as caught:
        serve_once(FAILS)
    assert "no such thing" in str(caught.value)
    assert caught.value.returncode == 5
    assert "shared by the run" in caught.value.__notes__[0]
    with (HERE / "fails").open("a") as file:
        file.write(str(caught.value).partition("port ")[2][:5] + "\\n")

def test_two_of_one_name(serve_once):
    serve_once(SERVER, name="db")
    with pytest.raises(portlease.UsageError, match="two servers are called 'db'") as caught:
        serve_once([*SERVER, "-v"], name="db")
    assert "signal.pause()' '{port}' -v" in str(caught.value)
    assert "signal.pause()' '{port}'\\n" in str(caught.value)
    assert "test_two_of_one_name" in str(caught.value)

def test_it_dies(serve_once):
    server = serve_once(SERVER, name="dies")
    os.kill(server.pid, 9)
    while pathlib.Path(f"/proc/{server.pid}").exists():
        os.sched_yield()
    for use in (lambda: server.port, server.url, lambda: serve_once(SERVER, name="dies")):
        with pytest.raises(portlease.ServerDiedError, match="SIGKILL"):
            use()

def test_functions_are_asked_here(serve_once):
    asked = []
    def ready(server):
        asked.append(server.port)
        if len(asked) < 3:
            raise ConnectionError("not yet")
        return True
    server = serve_once(SERVER, name="asked", ready=[re.compile("up"), ready])
    assert asked == [server.port] * 3
    serve_once(SERVER, name="asked", ready=[re.compile("up"), ready])
    assert len(asked) == 3
    for time_s in (0.5, 5, 50):  # until a busy machine has come so far
        with pytest.raises(portlease.ServerTimeoutError) as caught:
            serve_once(SERVER, ready=lambda server: False, timeout_s=time_s, name=f"never {time_s}")
        if "does not listen" not in str(caught.value):
            break
    assert re.search("<lambda>.*: it returned False", str(caught.value))

def test_what_can_never_work(serve_once, leased_port):
    with pytest.raises(portlease.UsageError, match="takes no lease="):
        with portlease.lease() as lease:
            serve_once(SERVER, lease=lease)
    with pytest.raises(portlease.UsageError, match="neither a command nor a recipe"):
        serve_once(print)
    with pytest.raises(portlease.UsageError, match="give a list"):
        serve_once("redis-server")
    with pytest.raises(portlease.UsageError, match="left over"):
        serve_once(SERVER, "more")
    with pytest.raises(TypeError, match="did you mean 'ready'"):
        serve_once(SERVER, redy="/")
    with pytest.raises(portlease.UsageError, match="name=7"):
        serve_once(SERVER, name=7)
"""
    )
    result = pytester.runpytest_subprocess(
        *arguments(*more),
        *("-W", "ignore::RuntimeWarning"),
        *("-o", "tmp_path_retention_count=0"),  # pytest then removes the folder of the line first
    )
    result.assert_outcomes(passed=8)
    assert result.ret == 0
    assert len(set((pytester.path / "fails").read_text().split())) == 1  # it was tried once


def test_recipes_are_shared(pytester: pytest.Pytester) -> None:
    """A recipe's server comes as its own class, with its URL, variables and home."""
    need.program("redis-server")
    pytester.makepyfile(
        HEAD
        + """
from portlease import recipes

@pytest.mark.parametrize("number", range(3))
def test_it(serve_once, number):
    redis = serve_once(recipes.redis, unix=True, args=["--maxmemory", "10mb"])
    assert isinstance(redis, recipes.RedisServer)
    assert redis.url == f"redis://127.0.0.1:{redis.port}/0"
    assert redis.env["REDIS_PORT"] == str(redis.port)
    assert redis.socket.is_socket() and redis.socket.parent == redis.home
    assert "Ready to accept" in redis.output
    note(redis.server)
    with pytest.raises(portlease.UsageError, match="share it"):
        redis.restart()
    with pytest.raises(portlease.UsageError, match="share it"), redis:
        pass
    with portlease.recipes.redis() as own, pytest.raises(portlease.UsageError, match="runs alr"):
        serve_once(own)
    with pytest.raises(TypeError, match="unyx"):
        serve_once(recipes.redis, unyx=True)
"""
    )
    result = pytester.runpytest_subprocess(*arguments("-n", "2"))
    result.assert_outcomes(passed=3)
    notes = seen(pytester.path)
    assert len({pid for pid, *_ in notes}) == 1
    wait_until_gone(notes[0][0])


# --- the line -------------------------------------------------------------------------------------

SERVER = [
    *(sys.executable, "-c"),
    """import signal, socket, sys
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
signal.pause()""",
    "{port}",
]


def test_strangers_on_the_line_harm_nobody(tmp_path: Path) -> None:
    """Who has no key, sends garbage or hangs up gets nothing, and the next is answered."""
    owner = Owner()
    exchange = Exchange(lambda: owner, str(tmp_path))
    silent = socket.socket(socket.AF_UNIX)
    try:
        address = exchange.address
        silent.connect(address["address"])  # and keeps nobody waiting
        with pytest.raises(Exception, match=r"digest|challenge"):  # an AuthenticationError
            Client(address["address"], authkey=b"wrong")
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(address["address"])
        with Client(address["address"], authkey=address["key"]) as line:
            line.send_bytes(b"garbage")
            assert b"cannot be read" in line.recv_bytes()
        good = Line(address)
        asked, _ = _wanted.wanted(SERVER, (), None, {})
        state = good.ask("get", asked)
        assert good.ask("state", state.key).pid == state.pid
        with pytest.raises(portlease.UsageError, match="the run is over"):
            good.ask("state", "nobody's")
        assert isinstance(good._line, Connection)
        os.close(good._line.fileno())  # as by a test that closes all descriptors
        assert good.ask("state", state.key).pid == state.pid
        good.close()
    finally:
        exchange.close()
        owner.close()
        silent.close()
    with pytest.raises(portlease.PortleaseError, match="does not answer"):
        Line(address).ask("state", state.key)
    with pytest.raises(portlease.UsageError, match="the run is over"):
        owner.get(asked)
    assert not is_alive(state.pid)
    assert not list(tmp_path.iterdir())


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    """unix(7) has 108 bytes for it: a short one is made, and goes in the end."""
    exchange = Exchange(Owner, str(tmp_path / ("x" * 100)))
    address = exchange.address["address"]
    assert Path(address).is_socket()
    exchange.close()
    exchange.close()
    assert not Path(address).parent.exists()


def test_a_folder_that_can_have_no_socket() -> None:
    """As shared folders of virtual machines; here one that can have nothing at all."""
    exchange = Exchange(Owner, "/proc")
    address = exchange.address["address"]
    assert Path(address).is_socket()
    exchange.close()
    assert not Path(address).parent.exists()


def test_the_folder_is_gone_before_the_end(tmp_path: Path) -> None:
    """Pytest removes its own with tmp_path_retention_count = 0; the thread ends all the same."""
    folder = tmp_path / "run"
    folder.mkdir()
    before = threading.active_count()
    exchange = Exchange(Owner, str(folder))
    shutil.rmtree(folder)
    exchange.close()
    assert threading.active_count() == before


def test_where_there_is_no_socket_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """A run that never asks is not disturbed; one that asks is told why."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    monkeypatch.setattr(pytestconfig, "_tmp_path_factory", None)
    run = _once._Run(pytestconfig)
    told = run.told()
    run.close()
    monkeypatch.setattr(pytestconfig, "workerinput", {_once._INPUT: told}, raising=False)
    with pytest.raises(portlease.PortleaseError, match=r"No such file or directory; set TMPDIR"):
        _once._Run(pytestconfig).ask()


def test_ctrl_c_before_a_start_is_no_hang() -> None:
    """Between the lines: the slot is there, and nobody will ever say that it is done."""
    owner = Owner()
    asked, _ = _wanted.wanted(SERVER, (), None, {})
    owner._slot(asked)
    owner.close()
