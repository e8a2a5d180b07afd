"""Taking: which port, all or nothing, and what is said when there is none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import in_new_netns, need
from _thieves import run_python, server, silent
from portlease import _grip, _lease, _pool
from portlease._platform import backend

if TYPE_CHECKING:
    from portlease._wish import Kind

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="as Linux sees it")


def open_fds() -> int:
    """How many descriptors this process has."""
    need.capability("proc")
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - in a hurry


# --- which port ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
def test_ports_come_from_outside_the_ephemeral_range(kind: Kind) -> None:
    """Where there is room, and this machine has some; no number comes twice."""
    pool = set(_pool.candidates(backend.rules()))
    assert pool
    with portlease.lease_many(60, kind) as leases:
        assert len(set(leases.ports)) == 60
        assert set(leases.ports) <= pool
        assert not any(map(backend.rules().is_ephemeral, leases.ports))


@linux_only
def test_the_rules_are_read_from_the_machine() -> None:
    """ip_local_port_range, ip_local_reserved_ports and ip_unprivileged_port_start are heeded."""
    done = in_new_netns(
        """
        import portlease
        from portlease._platform import backend
        from portlease import _grip, _pool
        def write(name, text):
            with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
                file.write(text)
        write("ip_local_port_range", "1100 65500")
        write("ip_local_reserved_ports", "1024-1090,65510-65535")
        write("ip_unprivileged_port_start", "1050")
        rules = backend.rules()
        assert (rules.ephemeral, rules.first_unprivileged) == ((1100, 65500), 1050)
        expected = [*range(1091, 1100), *range(65501, 65510)]
        left = [port for port in expected if port not in rules.services]
        assert list(_pool.candidates(rules)) == left
        with portlease.lease_many(len(left)) as leases:
            assert sorted(leases.ports) == left
            # The pool is empty, and the kernel's own range has to do.
            with portlease.lease() as lease:
                assert 1100 <= lease.port <= 65500
        """
    )
    silent(done)


# 200 ephemeral ports, and no room outside of them.
NO_ROOM = """
import os, socket
import portlease
from portlease import _grip, _pool
from portlease._platform import backend
with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as file:
    file.write("65336")
assert not _pool.candidates(backend.rules())
RANGE = range(65336, 65536)
"""


def with_no_room(script: str) -> None:
    """Run *script* in a namespace in which all bindable ports are ephemeral."""
    import textwrap

    done = in_new_netns(NO_ROOM + textwrap.dedent(script), ephemeral=(65336, 65535))
    silent(done)


@linux_only
@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
def test_without_room_leases_come_from_inside(kind: str) -> None:
    """All 200 can be leased, each once; then PortsExhaustedError; released, they can be again."""
    state = "GUARDED" if kind == "udp" else "OFFERED"
    with_no_room(
        f"""
        fds = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            with portlease.lease_many(200, {kind!r}) as leases:
                assert set(leases.ports) == set(RANGE)
                assert {{lease.state for lease in leases}} == {{{state!r}}}
                for _ in range(2):
                    try:
                        portlease.lease({kind!r})
                    except portlease.PortsExhaustedError as error:
                        assert error.tried
                        assert "65336-65535" in str(error), error
                        assert "portlease ls" in str(error)
                    else:
                        raise AssertionError
        assert len(os.listdir("/proc/self/fd")) == fds
        """
    )


@linux_only
def test_without_room_every_state_works() -> None:
    """Also the ones that give the port up for a moment; another lessee never gets it."""
    with_no_room(
        """
        with portlease.lease_many(199, offer=False) as leases:
            for lease in leases:
                lease.step_aside()
            last = portlease.lease()
            assert {last.port} == set(RANGE) - set(leases.ports)
            for kind in ("tcp", "both"):
                try:
                    portlease.lease(kind)
                except portlease.PortsExhaustedError:
                    pass
                else:
                    raise AssertionError
            for lease in leases:
                lease.take_back()
                lease.offer()
            last.release()
        """
    )


@linux_only
def test_ephemeral_ports_that_are_all_in_use_do_not_matter() -> None:
    """Not one port left for bind(0), and the first lease of the process works all the same."""
    done = in_new_netns(
        """
        import socket
        kept = []
        for port in range(40000, 40010):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = socket.socket(socket.AF_INET6, kind)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.bind(("::", port))
                kept.append(sock)
        import portlease
        for kind in ("tcp", "udp", "both"):
            for host in (None, "localhost", "127.0.0.1", "::1"):
                with portlease.lease(kind, host=host) as lease:
                    assert not 40000 <= lease.port < 40010
        for sock in kept:
            sock.close()
        """,
        ephemeral=(40000, 40009),
    )
    silent(done)


# --- named ports --------------------------------------------------------------------------------


def test_a_busy_port_names_who_has_it() -> None:
    """A server of somebody else's: its pid, its command, and what to do."""
    with portlease.lease() as lease:
        port = lease.port
    script = f"""
import socket, sys
with socket.create_server(("127.0.0.1", {port})):
    print("listening", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline()
        for take in (portlease.lease, portlease.lease_block, _many):
            before = open_fds()
            with pytest.raises(portlease.PortUnavailableError) as caught:
                take(ports=[port])
            assert caught.value.port == port
            assert caught.value.ports == (port,)
            assert f"{port}" in str(caught.value)
            assert f"pid {process.pid}" in str(caught.value)
            assert "portlease.lease()" in str(caught.value)
            assert open_fds() == before
        process.communicate()


def _many(ports: list[int]) -> portlease.LeaseGroup:
    return portlease.lease_many(1, ports=ports)


def test_a_leased_port_names_its_lessee() -> None:
    """With its label and state."""
    with portlease.lease(label="the first") as lease:
        with pytest.raises(portlease.PortUnavailableError, match="the first") as caught:
            portlease.lease(ports=[lease.port])
        assert "OFFERED" in str(caught.value)


@linux_only
def test_a_guard_without_a_lease_is_named() -> None:
    """Somebody has the guard and shows no lease: the error does not call the port free."""
    with portlease.lease() as lease:
        port = lease.port
    guard = backend.guard("tcp", port)
    assert guard is not None
    try:
        with pytest.raises(portlease.PortUnavailableError, match="guard"):
            portlease.lease(ports=[port])
    finally:
        guard.close()


@linux_only
def test_low_ports_are_refused_to_ordinary_users() -> None:
    """EACCES is PrivilegeError with the first port there is, and the remedies; nothing leaks."""
    need.capability("other_user")
    done = run_python(
        """
        import os, socket, portlease
        portlease.lease(host="127.0.0.1").release()  # loads what the other user may not read
        portlease.lease_many(1)[0].release()
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        fds = len(os.listdir("/proc/self/fd"))
        first = int(open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read())
        assert first > 80, "this machine gives low ports to everybody"
        def many(**options):
            return portlease.lease_many(2, **options)
        for take in (portlease.lease, portlease.lease_block, many):
            for ports in ([80], range(1, 80), [79, 80]):
                for kind in ("tcp", "udp", "both"):
                    try:
                        take(kind=kind, ports=ports)
                    except portlease.PrivilegeError as error:
                        assert error.port in ports, error
                        assert error.errno == 13
                        assert isinstance(error, PermissionError)
                        assert f"below {first}" in str(error)
                        assert "CAP_NET_BIND_SERVICE" in str(error)
                    else:
                        raise AssertionError
        with portlease.lease(ports=[first - 1, 20001, 20002, 20003]) as lease:
            assert lease.port >= first  # one of them can be had
        assert len(os.listdir("/proc/self/fd")) == fds
        """,
        options=["-X", "dev", "-W", "error", "-W", "ignore::ResourceWarning:__main__"],
    )
    silent(done)


# --- all or nothing -----------------------------------------------------------------------------


def test_lease_many_is_all_or_nothing() -> None:
    """Two of three can be had: none is taken."""
    with portlease.lease_many(3) as leases:
        ports = leases.ports
    with portlease.lease(ports=ports[:1], label="in the way"):
        before = open_fds()
        known = set(_grip.live)
        for kind in ("tcp", "both"):
            with pytest.raises(portlease.PortUnavailableError, match="in the way"):
                portlease.lease_many(3, kind, ports=ports)
        assert open_fds() == before
        assert set(_grip.live) == known
        with portlease.lease_many(2, ports=ports) as two:
            assert set(two.ports) == set(ports[1:])


def test_lease_block_is_all_or_nothing() -> None:
    """A block with one busy port is not begun; another place is found, or none."""
    with portlease.lease_block(6) as found:
        first = found.ports[0]
    around = range(first, first + 6)
    with portlease.lease(ports=[first + 5], label="in the way") as lease:
        before = open_fds()
        with pytest.raises(portlease.PortUnavailableError, match="in the way"):
            portlease.lease_block(6, ports=around)
        assert open_fds() == before
        with portlease.lease_block(5, ports=around) as five:
            assert five.ports == tuple(around)[:5]
        assert lease.state == "OFFERED"


@pytest.mark.parametrize("kind", ["tcp", "udp", "both"])
@pytest.mark.parametrize(
    ("n", "offsets"), [(1, (0,)), (6, (0,)), (6, (0, 10000)), (2, (0, 10, 5)), (3, (7,))]
)
def test_a_block_is_laid_out_as_asked(kind: Kind, n: int, offsets: tuple[int, ...]) -> None:
    """Offset by offset, each ascending; from outside the ephemeral range where it fits there."""
    with portlease.lease_block(n, kind, offsets=offsets) as block:
        base = block.ports[0] - offsets[0]
        assert block.ports == tuple(base + offset + i for offset in offsets for i in range(n))
        assert not any(map(backend.rules().is_ephemeral, block.ports))
        assert {lease.kind for lease in block} == {kind}


def test_blocks_are_different_each_time() -> None:
    """Two sessions that ask for the same layout are not led to the same place."""
    with (
        portlease.lease_block(3, offsets=(0, 100)) as one,
        portlease.lease_block(3, offsets=(0, 100)) as two,
    ):
        assert not set(one.ports) & set(two.ports)


def test_a_block_in_given_ports() -> None:
    """Only where they are consecutive, whatever their order."""
    with portlease.lease_block(8) as found:
        first = found.ports[0]
    ports = [first + step for step in (0, 2, 3, 4, 6, 7)]
    with portlease.lease_block(3, ports=reversed(ports)) as block:
        assert block.ports == (first + 2, first + 3, first + 4)
    with portlease.lease_block(1, offsets=(0, 4), ports=ports) as block:
        assert block.ports in {(first, first + 4), (first + 2, first + 6), (first + 3, first + 7)}
    with pytest.raises(portlease.PortleaseError, match="4 consecutive"):
        portlease.lease_block(4, ports=ports)


@linux_only
def test_a_block_where_there_is_no_room_outside() -> None:
    """It comes from inside the ephemeral range then, like a single lease."""
    with_no_room(
        """
        with portlease.lease_block(4, offsets=(0, 100)) as block:
            assert set(block.ports) <= set(RANGE)
        with portlease.lease_many(197) as leases:
            try:
                with portlease.lease_block(4):
                    raise AssertionError
            except portlease.PortsExhaustedError as error:
                assert error.tried
        """
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: portlease.lease_many(0),
        lambda: portlease.lease_many(-1),
        lambda: portlease.lease_many(2.0),  # type: ignore[arg-type]
        lambda: portlease.lease_many("3"),  # type: ignore[arg-type]
        lambda: portlease.lease_block(0),
        lambda: portlease.lease_block(2, offsets=()),
        lambda: portlease.lease_block(2, offsets=(0, 0)),
        lambda: portlease.lease_block(2, offsets=(0, 1)),
        lambda: portlease.lease_block(6, offsets=(0, 10000, 10005)),
        lambda: portlease.lease_block(2, offsets=(-10, 0)),
        lambda: portlease.lease_block(2, offsets=(0.5,)),  # type: ignore[arg-type]
        lambda: portlease.lease_block(2, offsets=("0",)),  # type: ignore[arg-type]
        lambda: portlease.lease_block(2, offsets=3),  # type: ignore[arg-type]
        lambda: portlease.lease_block(2, offsets=(0, 65535)),
        lambda: portlease.lease_block(65536),
    ],
)
def test_layouts_that_can_never_be(call: Any) -> None:  # noqa: ANN401 - a function
    """Wrong counts, overlapping or impossible offsets: UsageError, at once."""
    with pytest.raises(portlease.UsageError):
        call()


def test_offsets_may_be_any_iterable() -> None:
    """As ports may."""
    with portlease.lease_block(1, offsets=iter([0, 10])) as block:
        assert block.ports[1] - block.ports[0] == 10


# --- whose lease --------------------------------------------------------------------------------


def test_the_place_is_the_callers() -> None:
    """Not a line of portlease, however it was called."""

    def here(one: portlease.Lease) -> str:
        return _lease.place(one._grip.by)

    with portlease.lease() as one:
        assert here(one) == f"{__file__}:{sys._getframe().f_lineno - 1}"
    with portlease.lease_many(2) as many, portlease.lease_block(2) as block:
        line = sys._getframe().f_lineno - 1
        assert {here(lease) for lease in (*many, *block)} == {f"{__file__}:{line}"}


# --- TIME_WAIT and other remains ----------------------------------------------------------------


@linux_only
def test_a_port_in_time_wait_is_not_given() -> None:
    """An exclusive bind is refused by the remains of a connection; the error says how long."""
    need.capability("inet_diag")
    with portlease.lease() as lease:
        port = lease.port
        with server(port) as sock, socket.create_connection(("127.0.0.1", port)):
            sock.accept()[0].close()
    with pytest.raises(portlease.PortUnavailableError, match="TIME_WAIT"):
        portlease.lease(ports=[port])
    with portlease.lease() as other:
        assert other.port != port


def test_without_proc_a_lease_works(tmp_path: Any) -> None:  # noqa: ANN401 - a Path
    """In a chroot or a container without /proc: the kernel's defaults are assumed."""
    if sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    unshare = need.program("unshare")
    need.capability("root")
    script = """
import os, socket
assert not os.path.exists("/proc/self")
import portlease
for kind in ("tcp", "udp", "both"):
    with portlease.lease(kind) as lease:
        assert not 32768 <= lease.port <= 60999
        if lease.state != "GUARDED":
            lease.step_aside()
        lease.take_back()
        try:
            portlease.lease(kind, ports=[lease.port])
        except portlease.PortUnavailableError as error:
            text = str(error)
        else:
            raise AssertionError
print(text)
"""
    done = subprocess.run(
        [
            unshare,
            "--mount",
            "sh",
            "-c",
            'mount -t tmpfs none /proc && exec "$@"',
            "sh",
            sys.executable,
            "-W",
            "error",
            "-c",
            script,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.dumps(done.stdout)


@linux_only
def test_a_block_passes_over_ports_that_are_privileged() -> None:
    """As lease() does: an ordinary user's ports= may reach below 1024."""
    need.capability("other_user")
    done = run_python(
        """
        import os, portlease
        portlease.lease_block(2).release()  # loads what the other user may not read
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        for _ in range(20):
            with portlease.lease_block(2, ports=range(1000, 1040)) as block:
                assert min(block.ports) >= 1024
        """
    )
    assert done.returncode == 0, done.stderr
