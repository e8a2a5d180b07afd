"""Nobody called release(): garbage, the interpreter's end, a process that is killed."""

# ruff: noqa: S104 - holds and thieves are everywhere on purpose, and nothing serves there
from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import warnings

import pytest

import portlease
from _thieves import Thief, run_python, silent, steal
from portlease import _onlooker

PLAIN = Thief(socket.AF_INET, "0.0.0.0")


def is_free(port: int) -> bool:
    """Whether a plain bind passes."""
    return not steal(PLAIN, socket.SOCK_STREAM, port)


# --- garbage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["HELD", "OFFERED", "GUARDED"])
def test_a_lease_that_is_dropped_warns_where_it_was_taken(state: str) -> None:
    """ResourceWarning, with port, file and line of the call; then the port is free."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lease = portlease.lease(offer=state == "OFFERED")
        line = sys._getframe().f_lineno - 1
        if state == "GUARDED":
            lease.step_aside()
        port = lease.port
        del lease
        gc.collect()
    (warning,) = caught
    assert warning.category is ResourceWarning
    assert f"port {port} " in str(warning.message)
    assert f"{__file__}:{line}" in str(warning.message)
    assert "release()" in str(warning.message)
    assert is_free(port)
    assert port not in [info.port for info in portlease.leases()]


@pytest.mark.parametrize("call", ["lease_many(2)", "lease_block(2)"])
def test_a_group_that_is_dropped_warns_for_each(call: str) -> None:
    """The place is the caller's, not one inside of portlease."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        group = portlease.lease_many(2) if "many" in call else portlease.lease_block(2)
        ports = group.ports
        del group
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning] * 2
    assert all(__file__ in str(warning.message) for warning in caught)
    assert all(is_free(port) for port in ports)


def test_a_released_lease_and_one_handed_over_are_dropped_in_silence() -> None:
    """What was given back, or away, is no leak."""
    portlease.lease().release()
    with portlease.lease() as lease, lease.listen():
        pass
    lease = portlease.lease()
    with lease.listen():
        del lease
        gc.collect()  # warnings are errors here


def test_a_lease_in_a_cycle_is_found_by_the_collector() -> None:
    """Two leases on one number, both garbage of one cycle: warned of and free, without an error."""
    if sys.platform != "linux":
        pytest.skip("127.0.0.2 is Linux's")

    class Loop:
        pass

    loop = Loop()
    loop.me = loop  # type: ignore[attr-defined]
    loop.one = portlease.lease(host="127.0.0.1")  # type: ignore[attr-defined]
    port = loop.one.port  # type: ignore[attr-defined]
    loop.two = portlease.lease(host="127.0.0.2", ports=[port])  # type: ignore[attr-defined]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    # The sockets are garbage of the same cycle, and may be found first and say so themselves.
    texts = [str(warning.message) for warning in caught]
    assert len([text for text in texts if f"lease of port {port} was never released" in text]) == 2
    assert {warning.category for warning in caught} == {ResourceWarning}
    assert is_free(port)
    with portlease.lease(ports=[port]):
        pass


def test_where_warnings_are_errors_the_port_is_free_all_the_same() -> None:
    """An error in a destructor can only be printed; it must not keep the port."""
    done = run_python(
        """
        import socket, portlease
        lease = portlease.lease()
        port = lease.port
        del lease
        with socket.socket() as sock:
            sock.bind(("", port))
        portlease.lease(ports=[port]).release()
        """
    )
    assert done.returncode == 0
    assert "ResourceWarning" in done.stderr
    assert "<string>:3" in done.stderr


def test_a_warning_filter_that_leases_itself() -> None:
    """The destructor runs wherever the last reference goes, also inside of another take."""
    taken = []

    def show(*_: object, **__: object) -> None:
        taken.append(portlease.lease())

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("always")
        patch.setattr(warnings, "showwarning", show)
        patch.setattr(_onlooker.look, "dropped", None)  # or our plugin would see to them
        for _ in range(3):
            portlease.lease()
    for lease in taken:
        lease.release()
    assert len(taken) == 3


# --- the interpreter's end ----------------------------------------------------------------------


def test_the_end_with_everything_released_is_silent() -> None:
    """With -X dev and warnings as errors, and whatever was used."""
    done = run_python(
        """
        import portlease, socket, sys
        from portlease._take import guarded_port
        with portlease.lease() as one, portlease.lease("udp") as two, portlease.lease("both"):
            one.step_aside()
        with portlease.lease() as three, three.listen():
            portlease.leases()
        for _ in range(3):
            guarded_port(socket.AF_INET, socket.SOCK_STREAM)
        """
    )
    assert silent(done) == ""


@pytest.mark.parametrize(
    "keep",
    [
        "lease = portlease.lease()",
        "lease = portlease.lease()\ndef function(): return lease",
        "class Owner: lease = portlease.lease()",
        "import collections; box = collections.deque([portlease.lease()]); box.append(box)",
        "import sys; sys.lease = portlease.lease()",
        "import builtins; builtins.lease = portlease.lease()",
        "import threading; local = threading.local(); local.lease = portlease.lease()",
        "import atexit; atexit.register(lambda lease: None, portlease.lease())",
    ],
)
def test_the_end_with_a_lease_kept_warns_or_is_silent(keep: str) -> None:
    """Wherever it was kept: a ResourceWarning with the place, and nothing else, least a traceback.

    (A module attribute of sys or builtins lives until there is nobody left to warn.)
    """
    done = run_python(f"import portlease\n{keep}\n", options=["-X", "dev"])
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    if "sys" not in keep and "builtins" not in keep:
        assert any("ResourceWarning: lease of port" in line for line in lines), lines
    assert not any("Traceback" in line or "Exception ignored" in line for line in lines), lines
    assert not any("unclosed" in line for line in lines), lines


def test_leases_of_threads_end_with_the_interpreter() -> None:
    """Daemon threads that take and release while the interpreter ends: no word, no hang."""
    done = run_python(
        """
        import threading, portlease
        started = threading.Barrier(4)
        def loop():
            started.wait()
            while True:
                with portlease.lease() as lease:
                    lease.step_aside()
        for _ in range(3):
            threading.Thread(target=loop, daemon=True).start()
        started.wait()
        """,
        options=[],
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGSEGV", "_exit", "exec"])
def test_the_port_is_free_however_the_process_ends(end: str) -> None:
    """Nothing of ours has to run for it: the kernel closes what is open."""
    if sys.platform == "win32":
        pytest.skip("signals")
    script = """
import os, signal, sys
import portlease
leases = [portlease.lease(), portlease.lease("udp"), portlease.lease("both", offer=False)]
sys.stdout.write(" ".join(map(str, leases)) + "\\n")
sys.stdout.flush()
end = sys.argv[1]
if end == "_exit":
    os._exit(0)
if end == "exec":
    os.execv("/bin/cat", ["cat"])
signal.signal(getattr(signal, end), signal.SIG_DFL)
os.kill(os.getpid(), getattr(signal, end))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        ports = [int(word) for word in process.stdout.readline().split()]
        assert len(ports) == 3
        if end == "exec":
            # cat now runs: it answers. It has none of the leases' sockets.
            process.stdin.write("cat\n")
            process.stdin.flush()
            assert process.stdout.readline() == "cat\n"
        else:
            process.wait()
        assert all(is_free(port) for port in ports)
        for kind in ("tcp", "udp"):
            with portlease.lease_many(3, kind, ports=ports):
                pass
        assert process.pid not in [info.pid for info in portlease.leases()]


# --- threads ------------------------------------------------------------------------------------


def test_threads_race_for_every_transition() -> None:
    """Eight threads call everything on one lease: each call works or is LeaseStateError."""
    failures: list[BaseException] = []
    actions = ["offer", "withdraw", "step_aside", "take_back"]

    def work(lease: portlease.Lease, shift: int) -> None:
        try:
            for number in range(60):
                try:
                    getattr(lease, actions[(number + shift) % 4])()
                except portlease.LeaseStateError:
                    continue
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    for kind in ("tcp", "both"):
        with portlease.lease(kind, offer=False) as lease:  # type: ignore[call-overload, unused-ignore]
            threads = [threading.Thread(target=work, args=(lease, n)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failures
            assert lease.state in {"HELD", "OFFERED", "GUARDED"}
            rows = [info.state for info in portlease.leases() if info.port == lease.port]
            assert rows in ([lease.state], []) or sys.platform == "linux"
        assert is_free(lease.port)


def test_threads_race_to_hand_over_and_to_release() -> None:
    """One gets the socket; release() may be called by all, at any time."""
    for _ in range(30):
        lease = portlease.lease()
        barrier = threading.Barrier(4)
        got: list[socket.socket] = []
        failures: list[BaseException] = []

        def work(action: str, lease: portlease.Lease, barrier: threading.Barrier) -> None:
            barrier.wait()
            try:
                answer = getattr(lease, action)()
                if answer is not None:
                    got.append(answer)  # noqa: B023 - joined before the next round
            except portlease.LeaseStateError:
                pass
            except BaseException as error:  # noqa: BLE001 - looked at below
                failures.append(error)  # noqa: B023

        threads = [
            threading.Thread(target=work, args=(action, lease, barrier))
            for action in ("hand_over", "listen", "release", "step_aside")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lease.release()
        assert not failures
        assert len(got) <= 1
        for sock in got:
            sock.close()
        assert is_free(lease.port)


def test_threads_take_different_ports() -> None:
    """Many threads at once: no number twice, and each is given back."""
    taken: list[int] = []

    def work() -> None:
        with portlease.lease_many(20) as leases:
            taken.extend(leases.ports)
            barrier.wait()

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 160
    mine = {info.port for info in portlease.leases() if info.pid == os.getpid()}
    assert not mine & set(taken)
