"""What becomes of a brokered tree when somebody dies, and of a broker inside another one."""

from __future__ import annotations

import contextlib
import errno
import json
import marshal
import os
import signal
import socket
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import portlease
from _brokered import (
    UDP,
    brokered,
    holds_of,
    need_broker,
    python,
    refused,
    search_path,
    wait_until,
)
from _need import need
from _processes import HANG_S, run_as, status, wait_for, watched
from _serving import HTTP, get
from portlease._errors import ServerError, ServerStartError
from portlease._tree import _keeper
from portlease._tree._process import Process

if sys.platform != "linux":
    pytest.skip("the broker is Linux's", allow_module_level=True)

from portlease._tree import _process_linux
from portlease._tree._process_linux import KeptProcess


@pytest.fixture(autouse=True)
def broker() -> None:
    """All of this needs one."""
    need_broker()


def script(source: str, *arguments: str) -> list[str]:
    """The command for a Python script that uses portlease and what a test can import."""
    paths = [str(Path(portlease.__file__).parents[1]), str(Path(__file__).parent)]
    begin = f"import sys\nsys.path[:0] = {paths!r}\nimport errno, os, signal, socket, portlease\n"
    begin += "from _brokered import *\n"
    return [sys.executable, "-c", begin + textwrap.dedent(source), *arguments]


# --- deaths -------------------------------------------------------------------------------------


def keeper_of(process: Process) -> int:
    """The process that answers for it: the parent of its command."""
    return int(status(process.pid, "PPid"))


def kill_keeper(process: Process) -> None:
    """Kill it, and wait until its deputy has taken its place."""
    with watched([keeper_of(process)]) as gone:
        os.kill(keeper_of(process), signal.SIGKILL)
        assert gone() == []
    while not process.ended:  # a look, which may bring the news
        if process.lost is not None:
            return
        process.wait_for_news(HANG_S)
    pytest.fail("its deputy has ended it")


# Answers each line with the errnos of a bind of the leased port, and of another.
BINDER = """
    server = socket.create_server(("127.0.0.1", port))
    def told(function, *arguments):
        try:
            function(*arguments)
        except OSError as error:
            return error.errno
        return 0
    if os.fork() == 0:
        os.setsid()
    print("up", flush=True)
    threading.Thread(target=lambda: [server.accept() for _ in iter(int, 1)], daemon=True).start()
    while True:
        with open(0, closefd=False) as lines:
            lines.readline()
        for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
            with socket.socket(type=kind) as one, socket.socket(type=kind) as other:
                print("told", told(one.bind, ("127.0.0.1", port)),
                      told(other.bind, ("127.0.0.1", 0)), flush=True)
"""


def test_the_keepers_death_kills_nothing() -> None:
    """The server goes on; every bind in the tree is told ENOSYS at once, in a daemon too."""
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb"),
        os.fdopen(writer, "wb", 0) as ask,
        portlease.lease("both", offer=False) as lease,
        brokered(python(BINDER), leased=lease, stdin=reader, troubles=True) as told,
    ):
        process = told.process
        wait_until(told, "tcp listen")
        wait_for(lambda: told.said().count("up") == 2)
        tree = process.tree()
        assert len(tree) == 2
        kill_keeper(process)
        assert "ENOSYS" in str(process.lost)
        assert process.broker_troubles == [process.lost]
        assert (process.returncode, process.tree()) == (None, tree)
        socket.create_connection(("127.0.0.1", lease.port)).close()
        ask.write(b"\n")
        wait_for(lambda: told.said().count("told") == 2)
        ask.write(b"\n")  # whoever reads it: the server or the daemon
        wait_for(lambda: told.said().count("told") == 4)
        assert told.said().count(f"told {errno.ENOSYS} {errno.ENOSYS}") == 4
        assert refused(lease.port)
        assert refused(lease.port, UDP)
        with watched(tree) as all_gone:  # as exactly as ever
            assert process.stop() == ()
            assert all_gone() == []
        assert process.wait() == -signal.SIGTERM


def test_a_server_whose_keeper_was_killed_goes_on() -> None:
    """It is told once, with what does not work any more; a restart gives it a broker again."""
    with portlease.serve(HTTP, how="broker") as server:
        kill_keeper(server.process)
        with pytest.warns(portlease.HowWarning, match=r"keeper was killed.*ENOSYS.*restart\(\)"):
            url = server.url()
        assert server.url() == url  # and no second warning
        assert get(server) == b"HTTP/1.0 200 OK"
        assert server.lease.state == "HELD"
        server.restart()
        assert get(server) == b"HTTP/1.0 200 OK"
        assert server.process.lost is None
        assert keeper_of(server.process) != 1


def test_who_asks_for_nothing_is_told_at_the_end() -> None:
    """Of the keeper's death: once, of a server as of a group."""
    lost = r"keeper was killed.*ENOSYS.*restart\(\)"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(portlease.serve(HTTP, how="broker"))
        kill_keeper(server.process)
        with pytest.warns(portlease.HowWarning, match=lost):
            stack.close()
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(portlease.serve_many({"one": HTTP}, how="broker"))
        kill_keeper(group["one"].process)
        with pytest.warns(portlease.HowWarning, match=lost):
            stack.close()


def test_a_call_that_waits_when_the_keeper_dies_returns() -> None:
    """Not even the bind that the keeper is just about to answer hangs."""
    source = """
        try:
            while True:
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError as error:
            print(error.errno, flush=True)
        sys.exit(7)
    """
    with (
        portlease.lease(offer=False) as lease,
        brokered(python(source), leased=lease, troubles=True) as told,
    ):
        wait_until(told, "tcp bind")
        pid, keeper = told.process.pid, keeper_of(told.process)
        os.kill(keeper, signal.SIGSTOP)  # now it waits, and nobody answers
        wait_for(lambda: "seccomp" in Path(f"/proc/{pid}/wchan").read_text() or not _can_see(pid))
        os.kill(keeper, signal.SIGKILL)
        assert told.process.wait(HANG_S) == 7
        assert told.end() == f"{errno.ENOSYS}\n"
        # Killed in the midst of a call, it may have left the hold open.
        assert refused(lease.port, reuse=True)


def _can_see(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() not in {"", "0"}


def test_the_deputy_of_a_keeper() -> None:
    """Its death changes nothing. When both are killed the server is ended, and it is told."""
    source = "server = socket.create_server(('', port)); print('up', flush=True); signal.pause()"
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(brokered(python(source)))
        process = told.process
        assert isinstance(process, KeptProcess)
        told.wait_for("up")
        keeper, deputy = keeper_of(process), process._popen.pid
        assert int(status(keeper, "PPid")) == deputy
        assert os.getpgid(keeper) != os.getpgid(deputy)
        with watched([deputy]) as gone:
            os.kill(deputy, signal.SIGKILL)
            wait_for(lambda: status(deputy, "State").startswith("Z"))
            del gone
        process.send_signal(0)
        assert process.tree() == [process.pid]
        socket.create_connection(("127.0.0.1", told.port)).close()
        with watched([process.pid]) as gone:
            os.kill(keeper, signal.SIGKILL)
            assert process.wait(HANG_S) == -signal.SIGKILL
            assert gone() == []
        with pytest.raises(ServerError, match=r"keeper .* was ended by signal 9"):
            stack.close()


def test_sigterm_to_the_deputy_ends_the_tree() -> None:
    """As to any keeper: who sees the one process only means the other."""
    with brokered(python("print('up', flush=True); signal.pause()")) as told:
        told.wait_for("up")
        assert isinstance(told.process, KeptProcess)
        os.kill(told.process._popen.pid, signal.SIGTERM)
        assert told.process.wait(HANG_S) == -signal.SIGTERM
        told.end()


@pytest.mark.parametrize("first", ["keeper", "us"])
def test_the_keepers_death_and_ours_end_the_tree(first: str) -> None:
    """By SIGKILL both, in either order: a daemon is ended too, and the port is free."""
    source = """
        daemon = "server = socket.create_server(('', port))\\nif os.fork() == 0: os.setsid()\\n"
        daemon += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"  # so none of it is too quick
        with brokered(python(daemon + "print('up', flush=True)\\nsignal.pause()")) as told:
            told.wait_for("up\\nup\\n")
            keeper = told.process._keeper_pid
            print(told.port, keeper, *told.process.tree(), flush=True)
            for pid in (keeper, os.getpid())[:: 1 if sys.argv[1] == "keeper" else -1]:
                os.kill(pid, signal.SIGKILL)
    """
    with subprocess.Popen(script(source, first), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port, keeper, *tree = map(int, parent.stdout.readline().split())
        assert len(tree) == 2
        with watched(tree) as all_gone:
            if first == "us":
                os.kill(keeper, signal.SIGKILL)
            assert all_gone() == []
        assert parent.wait() == -signal.SIGKILL
    wait_for(lambda: not refused(port))


def test_a_keeper_that_is_killed_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment before the server runs: an error, at once, and nothing is left."""
    source = Path(_keeper.__file__).read_text(encoding="utf-8")
    for place in ("broker = self._make_broker(request) if", "self._poll.register(reader, select"):
        assert source.count(place) == 1
        code = source.replace(place, f"posix.kill(posix.getpid(), 9 * bool(self._legacy)); {place}")
        marshalled = marshal.dumps(compile(code, "keeper", "exec"))
        monkeypatch.setitem(_process_linux._codes, _process_linux._KEEPER, marshalled)
        with portlease.lease(offer=False) as lease:
            with pytest.raises(ServerStartError, match="its keeper was killed before"):
                Process.start(["sleep", "1000"], holds=holds_of(lease))
            assert refused(lease.port, reuse=True)


def test_our_death_ends_the_tree() -> None:
    """By SIGKILL: the server ends, and the port is free."""
    source = """
        with brokered(python("server = socket.create_server(('', port)); signal.pause()")) as told:
            wait_until(told, "tcp listen")
            print(told.port, told.process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(script(source), stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    port, pid = map(int, done.stdout.split())
    with watched([pid]) as all_gone:
        assert all_gone() == []
    wait_for(lambda: not refused(port))


def test_a_server_that_is_killed_while_it_binds() -> None:
    """SIGKILL in the midst of a thousand binds leaves the hold exclusive, and the keeper sound."""
    source = """
        while True:
            for _ in range(20):
                if os.fork() == 0:
                    while True:
                        with socket.socket() as one:
                            one.bind(("127.0.0.1", port))
                            one.listen()
            for _ in range(20):
                pass
            print("up", flush=True)
            signal.pause()
    """
    with portlease.lease(offer=False) as lease:
        for _ in range(5):
            with brokered(python(source), leased=lease) as told:
                told.wait_for("up")
                told.process.stop(signal.SIGKILL, grace_s=0)
            for _, hold in lease._grip.holds:
                assert hold.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
                assert hold.getsockopt(socket.SOL_SOCKET, 62) == 0
            assert refused(lease.port, reuse=True)


def test_more_news_than_anybody_reads() -> None:
    """They are bounded, and the keeper goes on."""
    source = """
        for _ in range(3000):
            with socket.socket() as one:
                one.bind(("127.0.0.1", port))
        print("done")
    """
    with brokered(python(source)) as told:
        told.wait_for("done")
        told.process.wait(HANG_S)
        assert 0 < len(told.process.brokered) <= 3000


# --- one inside another -------------------------------------------------------------------------

INNER = """
    with brokered(python("server = socket.create_server(('', port)); signal.pause()")) as told:
        wait_until(told, "tcp listen")
        assert refused(told.port, reuse=True)
        socket.create_connection(("127.0.0.1", told.port)).close()
        print("served", told.port, flush=True)
        if "wait" in sys.argv:
            signal.pause()
"""


def test_a_broker_inside_another() -> None:
    """The inner one's holds are looked after by the outer keeper, and its news are its own."""
    with brokered(script(INNER)) as told:
        said = told.end()
        assert said.startswith("served"), said
        assert told.process.brokered == []
        assert not refused(int(said.split()[1]))


def test_a_broker_inside_a_broker_inside_a_broker() -> None:
    """Three deep."""
    middle = f"""
        import subprocess, textwrap
        with brokered(script_of({INNER!r})) as told:
            said = told.end()
            assert said.startswith("served"), said
            print(said)
    """
    define = """
        def script_of(source):
            import textwrap
            begin = "import sys\\nsys.path[:0] = %r\\n" % (sys.path,)
            begin += "import errno, os, signal, socket, portlease\\nfrom _brokered import *\\n"
            return [sys.executable, "-c", begin + textwrap.dedent(source)]
    """
    with brokered(script(textwrap.dedent(define) + textwrap.dedent(middle))) as told:
        said = told.end()
        assert said.startswith("served"), said


def test_the_inner_ones_holds_go_with_it() -> None:
    """When it has ended, the outer broker knows its ports no more."""
    source = textwrap.dedent(INNER) + textwrap.dedent(
        """
        with socket.socket() as native:
            native.bind(("127.0.0.1", told.port))
        print("native", flush=True)
        """
    )
    with brokered(script(source)) as told:
        assert "native" in told.end()


def test_the_outer_ones_end_is_told() -> None:
    """An inner broker of which the outer keeper has died is refused, with the reason."""
    source = """
        from portlease._tree import _process
        keeper = int(status(os.getppid(), "PPid")) if False else os.getppid()
        os.environ["PORTLEASE_BROKER"] += "gone"
        print(_process.why_no_broker().reason)
        del os.environ["PORTLEASE_BROKER"]
        print(_process.why_no_broker().reason)
    """
    with brokered(script(source)) as told:
        first, second = told.end().splitlines()
        assert "whose keeper has ended" in first
        assert "already watches" in second


def test_other_users_cannot_register() -> None:
    """A hold is not opened for a stranger's process."""
    need.capability("other_user")
    source = """
        import marshal
        os.setresuid(65534, 65534, 65534)
        name = os.environ["PORTLEASE_BROKER"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.connect("\\0" + name)
            with socket.socket() as hold:
                hold.bind(("127.0.0.1", 0))
                message = marshal.dumps([("tcp", hold.getsockname()[1])])
                socket.send_fds(door, [message], [hold.fileno()])
                print(marshal.loads(door.recv(1000)))
    """
    with brokered(script(source)) as told:
        assert told.end() == f"({errno.EPERM},)\n"


def test_a_lease_inside_is_not_let_in() -> None:
    """A lease taken in the tree is refused the outer one's port, which the tree's servers get."""
    source = """
        from portlease._errors import PortUnavailableError
        try:
            portlease.lease(sys.argv[2], ports=[int(sys.argv[1])]).release()
        except PortUnavailableError:
            print("refused")
        socket.create_server(("", int(sys.argv[1]))).close()
    """
    with brokered(script(source, "{port}", "tcp")) as told:
        assert told.end() == "refused\n"
        assert told.process.returncode == 0


DEPUTY_KILLED = """
import json, marshal, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
import portlease
from _brokered import holds_of
from portlease._tree import _keeper, _process_linux
from portlease._tree._process import Process
source = Path(_keeper.__file__).read_text(encoding="utf-8")
place = "            self._leave_session()\\n        signal.pthread_sigmask("
assert source.count(place) == 1
dies = "            deputy = posix.getppid(); posix.kill(deputy, signal.SIGKILL)\\n"
dies += "            while posix.getppid() == deputy: pass\\n"
code = marshal.dumps(compile(source.replace(place, dies + place), "keeper", "exec"))
_process_linux._codes[_process_linux._KEEPER] = code
with portlease.lease(offer=False) as lease:
    with Process.start(["true"], holds=holds_of(lease), mode="inherit") as process:
        print(process.wait())
"""


def test_a_deputy_that_is_killed_before_it_has_left_the_session() -> None:
    """Its keeper, which is about to tell it that it can, tells nobody else, and goes on."""
    done = run_as(
        65534, [need.everybodys_python(), "-I", "-c", DEPUTY_KILLED, json.dumps(search_path())]
    )
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("several", [False, True])
def test_a_warning_that_is_an_error_leaves_nothing_running(*, several: bool) -> None:
    """Leaving the block says what was lost, and stops the servers all the same."""
    with contextlib.ExitStack() as stack:
        if several:
            server = stack.enter_context(portlease.serve_many({"one": HTTP}, how="broker"))["one"]
        else:
            server = stack.enter_context(portlease.serve(HTTP, how="broker"))
        port, process = server.port, server.process
        kill_keeper(process)
        with warnings.catch_warnings():
            warnings.simplefilter("error", portlease.HowWarning)
            with pytest.raises(portlease.HowWarning, match="keeper was killed"):
                stack.close()
    assert process.ended
    assert not refused(port)
