"""Several servers as one."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import portlease
from _need import need
from _processes import HANG_S, descendants, fork, wait_for, watched
from _serving import ask, own_leases
from portlease import (
    PortUnavailableError,
    ResourceLimitError,
    ServerDiedError,
    ServerDiedWarning,
    ServerGroup,
    ServerKilledWarning,
    ServerStartError,
    ServerTimeoutError,
    Service,
    UsageError,
    serve_many,
)
from portlease._server import _group, _service
from portlease._server._cancel import Cancel, StartCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PYTHON = [sys.executable, "-I", "-S", "-c"]
HTTP = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]

# Writes its name to a file when it starts and when it ends; the bytes it serves are its arguments.
TINY = textwrap.dedent("""
    import _signal, _socket, _thread, posix, sys, time
    log = posix.open("log", posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT)
    name, *told = sys.argv[1:]
    def end(*_):
        posix.write(log, b"-" + name.encode() + b"\\n")
        posix._exit(0)
    # In a thread: a handler runs only after an accept() that SIGTERM came just before.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [15])
    _thread.start_new_thread(lambda: (_signal.sigwait([15]), end()), ())
    posix.write(log, b"+" + name.encode() + b"\\n")
    server = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", {port}))
    server.listen(16)
    while True:
        fd, _ = server._accept()
        client = _socket.socket(fileno=fd)
        client.sendall(" ".join(told).encode())
        client.close()
""")
# Says that it was started, and never listens.
NEVER = 'import posix, time\nposix.close(posix.open("{name}", posix.O_CREAT))\ntime.sleep(1000)'


def tiny(name: str, *told: str) -> list[str]:
    """A server that serves what it was told."""
    return [*PYTHON, TINY, name, *told]


def never(name: str) -> list[str]:
    """A server that makes the file *name* and never gets ready."""
    return [*PYTHON, NEVER.replace("{name}", name)]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test leaves no lease of ours, and no thread."""
    before, threads = own_leases(), threading.active_count()
    yield
    gc.collect()
    assert own_leases() == before
    wait_for(lambda: threading.active_count() <= threads)


# --- up and down ----------------------------------------------------------------------------------


def test_real_servers_side_by_side(tmp_path: Path) -> None:
    """redis, nginx in front of an HTTP server: each is ready when those it names are."""
    (tmp_path / "nginx.conf").write_text(
        "daemon off; pid nginx.pid; error_log stderr; events {}\n"
        "http { access_log off; server { listen PORT; location / { proxy_pass http://WEB; } } }\n",
        encoding="utf-8",
    )
    front = (
        "sed -e s/PORT/{port}/ -e s/WEB/{web.host}:{web.port}/ nginx.conf > real.conf && "
        'exec "$0" -p "$PWD" -e stderr -c real.conf'
    )
    services: dict[str, Service | list[str]] = {
        "db": [need.program("redis-server"), "--port", "{port}", "--save", ""],
        "web": Service(HTTP, after=["db"], env={"DB": "redis://{db.host}:{db.port}"}),
        "front": Service(["sh", "-c", front, need.program("nginx")], ready="/"),
    }
    with serve_many(services, cwd=tmp_path, timeout_s=HANG_S) as group:
        assert list(group) == ["db", "web", "front"]
        assert len(group) == 3
        assert ask(group["db"].port, b"PING\r\n") == b"+PONG\r\n"
        answer = ask(group["front"].port, b"GET /nginx.conf HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        environment = Path(f"/proc/{group['web'].process.pid}/environ")
        if environment.exists():
            wanted = f"DB=redis://127.0.0.1:{group['db'].port}"
            assert wanted.encode() in environment.read_bytes().split(b"\0")
        assert group.ports == {name: {"port": server.port} for name, server in group.items()}
        trees = [pid for server in group.values() for pid in server.process.tree()]
        assert len(trees) >= 4
        with watched(trees) as wait_all:
            group.stop()
            assert wait_all() == []
        group.stop()  # again is nothing


def test_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    """Who is waited for is started before, and stopped after, all that wait for it."""
    services: dict[str, Service | list[str]] = {
        "d": Service(tiny("d"), after=("b", "c")),
        "c": Service(tiny("c"), after="a"),
        "b": Service(tiny("b", "{a.port}")),
        "a": tiny("a"),
    }
    with serve_many(services, cwd=tmp_path, how="offer") as group:
        assert ask(group["b"].port) == str(group["a"].port).encode()
    lines = (tmp_path / "log").read_text(encoding="ascii").split()
    assert lines[0] == "+a"
    assert set(lines[1:3]) == {"+b", "+c"}
    assert lines[3:5] == ["+d", "-d"]
    assert set(lines[5:7]) == {"-b", "-c"}
    assert lines[7:] == ["-a"]


def test_independent_services_start_side_by_side(tmp_path: Path) -> None:
    """Each of these gets ready only once it sees that the other has been started."""
    wait = "touch {0}; while ! test -e {1}; do sleep 0.005; done; exec "
    tail = '"$0" -I -S -c "$1" x'
    services: dict[str, Service | list[str]] = {
        me: ["sh", "-c", wait.replace("{0}", me).replace("{1}", other) + tail, *PYTHON[:1], TINY]
        for me, other in (("left", "right"), ("right", "left"))
    }
    with serve_many(services, cwd=tmp_path) as group:
        assert set(group) == {"left", "right"}


def test_independent_services_stop_side_by_side(tmp_path: Path) -> None:
    """Each of these ends only once the other has been asked to."""
    script = (
        "trap 'touch {0}; while ! test -e {1}; do sleep 0.005; done; kill $child; exit' TERM\n"
        '"$0" -I -S -c "$1" x & child=$!; while :; do wait; done'
    )
    services: dict[str, Service | list[str]] = {
        me: ["sh", "-c", script.replace("{0}", me).replace("{1}", other), *PYTHON[:1], TINY]
        for me, other in (("left", "right"), ("right", "left"))
    }
    with serve_many(services, cwd=tmp_path, stop_timeout_s=HANG_S):
        pass
    assert {"left", "right"} <= {entry.name for entry in tmp_path.iterdir()}


def test_a_cluster_knows_all_its_ports_beforehand(tmp_path: Path) -> None:
    """Services that name each other, and do not wait for each other, start together."""
    names = ("one", "two", "three")
    services: dict[str, Service | list[str]] = {
        me: Service(
            tiny(me, *(f"{{{other}.host}}:{{{other}.port}}" for other in names)), beside=names
        )
        for me in names
    }
    with serve_many(services, cwd=tmp_path) as group:
        wanted = " ".join(f"127.0.0.1:{server.port}" for server in group.values())
        assert {ask(server.port).decode() for server in group.values()} == {wanted}


def test_named_ports_and_literals(tmp_path: Path) -> None:
    """{db.admin} is another port of db, and doubled braces are the text itself."""
    services: dict[str, Service | list[str]] = {
        "db": Service([*tiny("db"), "{admin}"], wait_for=["port"]),
        "web": tiny("web", "{db.admin}", "{{db.port}}", "${db.port}", "{web.port}", '{"a": {}}'),
    }
    with serve_many(services, cwd=tmp_path) as group:
        db, web = group["db"].ports, group["web"].port
        wanted = f'{db["admin"]} {{db.port}} ${{db.port}} {web} {{"a": {{}}}}'
        assert ask(web) == wanted.encode()


def test_the_deep_probe_may_speak_of_others(tmp_path: Path) -> None:
    """The templates of ready= are filled, too."""
    check = [*PYTHON, "import sys; sys.exit(sys.argv[1:] != ['{a.port}', '{a.port}'])"]
    services: dict[str, Service | list[str]] = {
        "a": tiny("a"),
        "b": Service(tiny("b"), ready=[*check[:-1], check[-1], "{a.port}", "{a.port}"]),
    }
    with serve_many(services, cwd=tmp_path) as group:
        assert group["b"].port


def test_common_options_and_own_ones(tmp_path: Path) -> None:
    """A service's own options are preferred; both environments count; labels name the service."""
    with portlease.lease() as mine:
        services: dict[str, Service | list[str]] = {
            "a": Service(tiny("a"), env={"X": "1"}, label="special"),
            "b": Service(tiny("b"), lease=mine, timeout_s=HANG_S),
        }
        with serve_many(
            services, cwd=tmp_path, env={"X": "0", "Y": "{b.port}"}, label="suite", host=None
        ) as group:
            assert group["b"].port == mine.port
            labels = {one.port: one.label for one in portlease.leases()}
            assert labels[group["a"].port] == "special"
            assert group["a"].lease.label == "special"
            environment = Path(f"/proc/{group['a'].process.pid}/environ")
            if environment.exists():
                variables = environment.read_bytes().split(b"\0")
                assert b"X=1" in variables
                assert f"Y={mine.port}".encode() in variables
        assert mine.state == "OFFERED"  # it stays the caller's


# --- what can never work --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("services", "text"),
    [
        ({}, "there are no services"),
        ({"1st": HTTP}, "'1st' cannot name a service"),
        ({"a.b": HTTP}, "'a.b' cannot name a service"),
        ({"a": "http.server"}, "^a: args is one string"),
        ({"a": []}, "^a: the command is empty"),
        ({"a": Service(HTTP, timeout_s=-1)}, "^a: timeout_s=-1 is no number"),
        ({"a": Service(HTTP, after=["b", "c"]), "c": HTTP}, "^a: after= names b, which no"),
        ({"a": Service(HTTP, beside="b")}, "^a: beside= names b, which no"),
        ({"a": Service(HTTP, after="b", beside="b"), "b": HTTP}, "^a: b cannot be both"),
        ({"a": [*HTTP, "{b.port}"]}, r"^a: \{b.port\} is of a service 'b', which there is none"),
        ({"a": [*HTTP, "{b.admin}"], "b": HTTP}, r"^a: \{b.admin\} is a port that b does not"),
        ({"a": Service(HTTP, after="a")}, "a waits for a"),
        (
            {
                "a": Service(HTTP, after="b"),
                "b": [*HTTP, "{c.port}"],
                "c": Service(HTTP, after="a"),
            },
            r"(a waits for b|b waits for c|c waits for a) waits for .( waits for .)?; take one out",
        ),
    ],
)
def test_what_can_never_work(services: dict[str, Service | list[str]], text: str) -> None:
    """One clear UsageError, before anything is leased or started."""
    with pytest.raises(UsageError, match=text):
        serve_many(services)


def test_one_lease_for_two() -> None:
    """Two services cannot have one port."""
    with portlease.lease() as one, pytest.raises(UsageError, match=r"^b: its lease is that of a"):
        serve_many({"a": Service(HTTP, lease=one), "b": Service(HTTP, lease=one)})


def test_a_misspelt_name_is_warned_of(tmp_path: Path) -> None:
    """As by serve(): at the caller's own line."""
    command = [sys.executable, "-m", "http.server", "{prot}"]
    with (
        pytest.warns(portlease.TemplateWarning, match="prot") as warned,
        pytest.raises(ServerTimeoutError, match=r"^a: "),
    ):
        serve_many({"a": command}, cwd=tmp_path, timeout_s=0.5)
    assert [one.filename for one in warned] == [__file__]


def test_an_unknown_service() -> None:
    """A KeyError says which there are."""
    with serve_many({"a": HTTP}) as group:
        with pytest.raises(KeyError, match="no service is called 'b'; there are a"):
            group["b"]
        assert "b" not in group
        assert group.get("b") is None
        assert group == group  # noqa: PLR0124
        assert group != dict(group)
        assert {group}


# --- failures -------------------------------------------------------------------------------------


def test_one_fails_and_all_are_stopped(tmp_path: Path) -> None:
    """The error names it and has its cause; what was up, and what was starting, is gone."""
    fail = (
        'while ! test -e {0} || ! grep -q +up log; do sleep 0.005; done; echo "no disk"; exit 3'
    ).replace("{0}", "starting")
    services: dict[str, Service | list[str]] = {
        "up": tiny("up"),
        "starting": never("starting"),
        "bad": ["sh", "-c", fail],
        "later": Service(tiny("later"), after="starting"),
    }
    with pytest.raises(ServerDiedError, match=r"^bad: sh ended with exit status 3") as caught:
        serve_many(services, cwd=tmp_path, timeout_s=HANG_S)
    error = caught.value
    assert (error.returncode, error.service) == (3, "bad")  # type: ignore[attr-defined]
    assert "no disk" in error.output
    assert isinstance(error.__cause__, ServerDiedError)
    assert error.__notes__ == ["(so these were stopped, or not started: up, starting, later)"]
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(copy), copy.service) == (str(error), "bad")
    log = (tmp_path / "log").read_text(encoding="ascii").split()
    assert "+later" not in log
    assert log == ["+up", "-up"]


class Stop(BaseException):
    """What no check takes for an answer."""


def test_several_fail() -> None:
    """The first is raised, and tells of those that failed before they could be broken off."""
    both = threading.Barrier(2, timeout=HANG_S)

    def fails(_: object) -> bool:
        both.wait()
        raise Stop("bad")

    services: dict[str, Service | list[str]] = {
        name: Service(HTTP, ready=fails) for name in ("a", "b")
    }
    with pytest.raises(Stop, match="bad") as caught:
        serve_many(services)
    notes = "\n".join(caught.value.__notes__)
    assert "while the service" in notes
    assert "failed as well: bad" in notes


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["/no/such/program"], ServerStartError),
        (["sleep", "1000"], ServerTimeoutError),
        (["false"], ServerDiedError),
    ],
)
def test_errors_are_those_of_serve(command: list[str], kind: type[Exception]) -> None:
    """Each kind, with the service's name in front."""
    timeout_s = 0.2 if kind is ServerTimeoutError else HANG_S
    with pytest.raises(kind, match=r"^bad: "):
        serve_many({"good": HTTP, "bad": Service(command, timeout_s=timeout_s)})


def test_a_port_that_cannot_be_had() -> None:
    """All leases are taken first: if one cannot be had, nothing is started and none is kept."""
    gone = portlease.lease()
    gone.release()
    with pytest.raises(portlease.LeaseStateError, match=r"^b: "):
        serve_many({"a": HTTP, "b": Service(HTTP, lease=gone)})
    with pytest.raises((PortUnavailableError, UsageError), match=r"^b: "):
        serve_many({"a": HTTP, "b": Service(HTTP, host="192.0.2.1")})


def test_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResourceLimitError, and what was started is stopped without one."""
    started = threading.Thread.start
    count = 0

    def refuse(thread: threading.Thread) -> None:
        nonlocal count
        if thread.name.startswith("portlease "):
            count += 1
            if count > 1:
                raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ResourceLimitError, match="no thread for the service 'b'"):
        serve_many({"a": HTTP, "b": HTTP})
    assert count == 2


def test_a_group_can_be_broken_off(tmp_path: Path) -> None:
    """From another thread: nothing is left of it."""
    cancel = Cancel()
    seen = tmp_path / "slow"

    def break_off() -> None:
        wait_for(seen.exists)
        cancel.cancel()

    breaker = threading.Thread(target=break_off)
    breaker.start()
    services: dict[str, Service | list[str]] = {
        "a": tiny("a"),
        "slow": Service(never("slow"), after="a"),
    }
    with pytest.raises(StartCancelledError):
        _group.start_many(services, cancel, cwd=tmp_path, timeout_s=HANG_S)
    breaker.join()
    assert (tmp_path / "log").read_text(encoding="ascii").split() == ["+a", "-a"]


MAIN = """
import sys, portlease
from portlease import Service
tiny, never = {tiny!r}, {never!r}
portlease.serve_many({{"a": tiny, "slow": Service(never, after="a")}}, timeout_s=1000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C stops everything and is raised; and after SIGKILL nothing is left either."""
    need.capability("subreaper")
    script = MAIN.format(tiny=tiny("a"), never=never("slow"))
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            wait_for((tmp_path / "slow").exists)
            children = descendants(process.pid)
            assert len(children) >= 4
            with watched(children) as wait_all:
                process.send_signal(number)
                assert wait_all() == []
            _, said = process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    assert process.returncode == -number
    if number == signal.SIGINT:
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert "never stopped" not in said
        assert "ResourceWarning" not in said


STUBBORN = """
import sys, portlease
from portlease import Service
tiny = {tiny!r}
with portlease.serve_many({{"a": tiny, "b": tiny}}, stop_timeout_s={patience_s}) as group:
    open("up", "w").close()
    sys.stdin.read()
"""


def test_two_interrupts(tmp_path: Path) -> None:
    """Who cannot wait for the stop either presses Ctrl-C again: everything ends all the same."""
    need.capability("subreaper")
    deaf = TINY.replace('posix.write(log, b"-"', 'posix.close(posix.open("asked", 64)) or (b"-"')
    deaf = deaf.replace("posix._exit(0)", "time.sleep(1000)")
    # Longer than anything here waits for.
    script = STUBBORN.format(tiny=[*PYTHON, deaf, "x"], patience_s=10 * HANG_S)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for((tmp_path / "up").exists)
            with watched(descendants(process.pid)) as wait_all:
                process.send_signal(signal.SIGINT)
                wait_for((tmp_path / "asked").exists)
                process.send_signal(signal.SIGINT)
                assert wait_all() == []
            _, said = process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert said.count("KeyboardInterrupt") >= 2


# --- afterwards -----------------------------------------------------------------------------------


def test_restart_one(tmp_path: Path) -> None:
    """It comes back on the same port; the others go on."""
    with serve_many({"a": tiny("a"), "b": tiny("b", "{a.port}")}, cwd=tmp_path) as group:
        ports, other = group.ports, group["b"].process.pid
        before = group["a"].process.pid
        group.restart("a")
        assert group.ports == ports
        assert group["a"].process.pid != before
        assert group["b"].process.pid == other
        assert ask(group["a"].port) == b""
        group["b"].kill()
        group["b"].restart()
        assert ask(group["b"].port) == str(group["a"].port).encode()
        with pytest.raises(KeyError, match="there are a, b"):
            group.restart("c")


def test_a_restart_that_fails(tmp_path: Path) -> None:
    """The error names the service, the others go on, and it can be tried again."""
    script = 'test ! -e broken || exit 7; exec "$0" -I -S -c "$1" x'
    with serve_many({"a": ["sh", "-c", script, PYTHON[0], TINY]}, cwd=tmp_path) as group:
        (tmp_path / "broken").touch()
        with pytest.raises(ServerDiedError, match=r"^a: sh ended with exit status 7"):
            group.restart("a")
        (tmp_path / "broken").unlink()
        group.restart("a")
        assert ask(group["a"].port) == b""


def die(server: portlease.Server) -> None:
    """Have it end by itself, as far as portlease can tell."""
    os.kill(server.process.pid, signal.SIGSEGV)
    server.process.wait(HANG_S)


def test_a_crash_is_reported(tmp_path: Path) -> None:
    """At the next use of the one that crashed; the others are not concerned."""
    with serve_many({"a": tiny("a"), "b": tiny("b")}, cwd=tmp_path) as group:
        die(group["a"])
        with pytest.raises(ServerDiedError, match="was ended by SIGSEGV"):
            assert group["a"].port
        assert group["b"].port
        assert group.ports  # plain numbers
        group.restart("a")
        assert ask(group["a"].port) == b""


def test_a_crash_that_nobody_saw(tmp_path: Path) -> None:
    """Leaving the block warns of it, naming the service, at the caller's own line."""
    group = serve_many({"a": tiny("a"), "b": tiny("b")}, cwd=tmp_path)
    die(group["a"])
    group.__enter__()
    with pytest.warns(ServerDiedWarning, match=r"^a: python.* was ready, and then") as warned:
        group.__exit__(None, None, None)
    assert [one.filename for one in warned] == [__file__]


def test_a_crash_is_a_note_to_what_came_of_it(tmp_path: Path) -> None:
    """An exception that leaves the block gets it as a note."""
    group = serve_many({"a": tiny("a"), "b": tiny("b")}, cwd=tmp_path)
    die(group["b"])
    with pytest.raises(ZeroDivisionError) as caught, group:
        raise ZeroDivisionError
    assert len(caught.value.__notes__) == 1
    assert caught.value.__notes__[0].startswith("b: python")


def test_one_that_must_be_killed(tmp_path: Path) -> None:
    """Its warning comes in the caller's own thread, at the caller's own line."""
    deaf = TINY.replace("_thread.start_new_thread(", "print(")  # its SIGTERM stays blocked
    group = serve_many(
        {"a": tiny("a"), "deaf": Service([*PYTHON, deaf, "deaf"], stop_timeout_s=0.05)},
        cwd=tmp_path,
    )
    with pytest.warns(ServerKilledWarning, match="was ended by SIGKILL") as warned:
        group.stop()
    assert [one.filename for one in warned] == [__file__]


def test_a_forgotten_group_is_stopped_all_the_same(tmp_path: Path) -> None:
    """Collected as garbage, with one warning for all of it."""
    group = serve_many({"a": tiny("a"), "b": tiny("b")}, cwd=tmp_path)
    pids = [pid for server in group.values() for pid in server.process.tree()]
    with watched(pids) as wait_all:
        with pytest.warns(ResourceWarning) as warned:
            del group
        assert wait_all() == []
    assert len(warned) == 1
    assert "was not stopped; use `with`, or stop()" in str(warned[0].message)
    wait_for(lambda: not children_of_ours())


def children_of_ours() -> list[int]:
    """Child processes that have not been waited for."""
    from portlease._tree import _process

    _process._reap_abandoned()
    return [popen.pid for popen in _process._abandoned]


def test_a_forked_child_does_not_stop_it(tmp_path: Path) -> None:
    """There the group is inert; it is the parent's."""
    with serve_many({"a": tiny("a"), "b": tiny("b")}, cwd=tmp_path) as group:
        pid = fork()
        if pid == 0:
            group.stop()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert ask(group["a"].port) == b""
        assert ask(group["b"].port) == b""


def test_stop_goes_on_when_one_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are stopped, all leases released, and the error names the service."""
    with serve_many({"a": tiny("a"), "b": Service(tiny("b"), after="a")}, cwd=tmp_path) as group:
        server = group["b"]
        shut: Callable[[], object] = server._shut

        def fail() -> object:
            shut()
            raise portlease.ServerError("cannot be ended", argv=(), output="")

        monkeypatch.setattr(server, "_shut", fail)
        with pytest.raises(portlease.ServerError, match=r"^b: cannot be ended"):
            group.stop()
        assert own_leases() == set()
        assert group["a"].process.ended
        monkeypatch.undo()


def test_many_at_once(tmp_path: Path) -> None:
    """Twelve servers, one chain of three among them."""
    services: dict[str, Service] = {f"s{n}": Service(tiny(f"s{n}")) for n in range(10)}
    services["s10"] = Service(tiny("s10", "{s3.port}"))
    services["s11"] = Service(tiny("s11", "{s10.port}"))
    begun = time.monotonic()
    with serve_many(services, cwd=tmp_path, timeout_s=HANG_S) as group:
        up_s = time.monotonic() - begun
        assert len({server.port for server in group.values()}) == 12
        begun = time.monotonic()
    down_s = time.monotonic() - begun
    print(f"12 servers up in {up_s * 1e3:.0f} ms, down in {down_s * 1e3:.0f} ms")  # noqa: T201


def test_repr() -> None:
    """A service and a group say what they are."""
    assert repr(Service(["x"], after="db")) == "<Service ['x'] after=['db']>"
    with serve_many({"a": HTTP}) as group:
        assert repr(group).startswith("<ServerGroup a: <Server 'python")
    assert repr(group) == "<ServerGroup a: stopped>"
    assert isinstance(group, ServerGroup)


def test_substitute_is_pure() -> None:
    """Every other brace passes through."""
    text = "{a.port}{{a.port}}${a.port}{a.port.b}{A.Port}{a-b.x_1}{print $1}{ a.port }"
    assert _service.substitute(text, lambda name, what: f"<{name}|{what}>") == (
        "<a|port>{a.port}${a.port}{a.port.b}{A.Port}<a-b|x_1>{print $1}{ a.port }"
    )


DOCUMENT = Path(__file__).parent.parent / "docs" / "groups.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_documented_examples_run(tmp_path: Path, number: int) -> None:
    """Each example of docs/groups.md, with warnings as errors."""
    need.program("redis-server")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
