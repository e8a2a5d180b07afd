"""What becomes of a brokered tree when somebody dies, and of a broker inside another one."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import portlease
from _brokered import brokered, need_broker, python, refused, wait_until
from _need import need
from _processes import HANG_S, status, wait_for, watched
from portlease._errors import ServerError

if sys.platform != "linux":
    pytest.skip("the broker is Linux's", allow_module_level=True)


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


def test_the_keepers_death_hangs_nothing(tmp_path: Path) -> None:
    """The main process is killed by the kernel; what survives is told ENOSYS at once."""
    answer = tmp_path / "answer"
    # A daemon, which the kernel does not kill with its keeper; it binds when that has ended.
    source = """
        keeper = os.getppid()
        if os.fork() == 0:
            os.setsid()
            gone = os.pidfd_open(keeper)
            import select
            select.select([gone], [], [])
            def told(function, *arguments):
                try:
                    function(*arguments)
                except OSError as error:
                    return error.errno
                return 0
            one, other = socket.socket(), socket.socket()
            codes = [told(one.bind, ("127.0.0.1", int(sys.argv[1]))), told(one.listen)]
            codes += [told(other.bind, ("127.0.0.1", 0)), told(other.connect, ("127.0.0.1", 1))]
            with open(sys.argv[2] + ".part", "w") as file:
                file.write(repr(codes))
            os.rename(sys.argv[2] + ".part", sys.argv[2])
            os._exit(0)
        print("up", flush=True)
        signal.pause()
    """
    with portlease.lease(offer=False) as lease, contextlib.ExitStack() as stack:
        told = stack.enter_context(brokered(python(source, str(answer)), leased=lease))
        told.wait_for("up")
        (daemon,) = [pid for pid in told.process.tree() if pid != told.process.pid]
        with watched([daemon]) as all_gone:
            os.kill(int(status(told.process.pid, "PPid")), signal.SIGKILL)
            assert all_gone() == []
        assert told.process.wait(HANG_S) == -signal.SIGKILL
        expected = [errno.ENOSYS, errno.ENOSYS, errno.ENOSYS, errno.ECONNREFUSED]
        assert answer.read_text(encoding="ascii") == repr(expected)
        assert refused(lease.port)
        with pytest.raises(ServerError, match="keeper"):
            stack.close()


def test_a_call_that_waits_when_the_keeper_dies_returns() -> None:
    """Not even the bind that the keeper is just about to answer hangs."""
    source = """
        if os.fork() == 0:
            os.setsid()
            print(os.getpid(), flush=True)
            try:
                while True:
                    with socket.socket() as one:
                        one.bind(("127.0.0.1", port))
            except OSError as error:
                print(error.errno, flush=True)
            os._exit(0)
        signal.pause()
    """
    with portlease.lease(offer=False) as lease, contextlib.ExitStack() as stack:
        told = stack.enter_context(brokered(python(source), leased=lease))
        told.wait_for("\n")
        wait_until(told, "tcp bind")
        daemon = int(told.said())
        keeper = int(status(told.process.pid, "PPid"))
        with watched([daemon]) as all_gone:
            os.kill(keeper, signal.SIGSTOP)  # now it waits, and nobody answers
            wait_for(lambda: status(daemon, "State").startswith("S") or True)
            os.kill(keeper, signal.SIGKILL)
            assert all_gone() == []
        assert told.said().split()[1:] == [str(errno.ENOSYS)]
        with pytest.raises(ServerError, match="keeper"):
            stack.close()


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
        from portlease._server import _process
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
