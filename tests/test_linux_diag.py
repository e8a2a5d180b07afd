"""What the kernel says of sockets, held against sockets whose state we have made ourselves."""

# ruff: noqa: E402 - what is imported last is for Linux alone
from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _need import in_new_netns, need

if sys.platform != "linux":
    pytest.skip("the socket tables of Linux", allow_module_level=True)
assert sys.platform == "linux"  # for the type checker, which does not follow skip()

import portlease
from _processes import HANG_S, wait_for
from portlease import UsageError
from portlease._platform import _linux_diag
from portlease._platform._linux_diag import (
    ListenWatch,
    MalformedAnswerError,
    NetlinkRefusedError,
    SocketEntry,
    SocketTableError,
    parse_answer,
    parse_table,
    request,
    sockets,
    survey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SEQUENCE = 7
LISTEN = 1 << 10
EVERY_STATE = 0xFFFF
generous = settings(deadline=None, database=None, max_examples=200)


@pytest.fixture(autouse=True)
def inet_diag() -> None:
    """Every test here compares with what netlink says."""
    need.capability("inet_diag")


@pytest.fixture
def port() -> Iterator[int]:
    """A number that nobody else uses on any address, not even as the remains of a connection."""
    with portlease.lease("both", offer=False) as lease:
        lease.step_aside()
        yield lease.port


@contextlib.contextmanager
def connection(
    port: int, host: str = "127.0.0.1", family: int = socket.AF_INET
) -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """A listener, and both ends of a connection to it."""
    with (
        socket.create_server((host, port), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            yield server, client, accepted


def inode(one: socket.socket) -> int:
    """Return the number that stands in ``socket:[...]``."""
    return os.fstat(one.fileno()).st_ino


def port_of(one: socket.socket) -> int:
    """Return the local port."""
    port: int = one.getsockname()[1]
    return port


def open_fds() -> set[str]:
    """Return the numbers of our descriptors, but for the one that lists them."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


def by_state(port: int) -> dict[str, SocketEntry]:
    """Return one socket on *port* for each state there is."""
    return {entry.state: entry for entry in sockets(port)}


def entry_of(one: socket.socket) -> SocketEntry:
    """Return what is told of this very socket; its number may be shared with others'."""
    (entry,) = [entry for entry in sockets(port_of(one)) if entry.inode == inode(one)]
    return entry


# --- states, made for real ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_listen_and_established(port: int, family: int, host: str) -> None:
    """A listener, an accepted connection and its other end are told with peer, inode and user."""
    if family == socket.AF_INET6:
        need.capability("ipv6")
    with connection(port, host, family) as (server, client, accepted):
        here = by_state(port)
        assert here["LISTEN"] == SocketEntry(
            transport="tcp",
            family=family,
            address=host,
            port=port,
            peer=None,
            state="LISTEN",
            inode=inode(server),
            uid=os.getuid(),
            timer_s=None,
            interface=0,
            v6only=None if family == socket.AF_INET else here["LISTEN"].v6only,
        )
        assert here["ESTABLISHED"].inode == inode(accepted)
        assert here["ESTABLISHED"].peer == (host, port_of(client))
        there = entry_of(client)
        assert (there.state, there.peer) == ("ESTABLISHED", (host, port))


@pytest.mark.parametrize("v6only", [0, 1])
def test_v6only_is_told(port: int, v6only: int) -> None:
    """Whether a listener on [::] covers IPv4 too is read from the kernel."""
    need.capability("ipv6")
    with socket.socket(socket.AF_INET6) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        server.bind(("::", port))
        server.listen()
        (entry,) = sockets(port, "tcp")
        assert (entry.address, entry.v6only) == ("::", bool(v6only))


def test_time_wait_has_a_timer_and_no_owner(port: int) -> None:
    """TIME_WAIT lasts 60 s, belongs to no process, and its user is not made up."""
    with connection(port) as (_server, client, accepted):
        accepted.close()
        assert client.recv(1) == b""
        client.close()
        entry = by_state(port)["TIME_WAIT"]
        assert entry.timer_s is not None
        assert 0 < entry.timer_s <= 60
        assert (entry.inode, entry.uid) == (0, None)


def test_half_closed_states(port: int) -> None:
    """One end closed: FIN_WAIT2 with the kernel's own timer; the other end is in CLOSE_WAIT."""
    with connection(port) as (_server, client, accepted):
        accepted.close()
        assert client.recv(1) == b""
        wait_for(lambda: "FIN_WAIT1" not in by_state(port))  # the other end acknowledges the FIN
        left = by_state(port)["FIN_WAIT2"]
        assert left.timer_s is not None
        assert left.timer_s > 0
        assert left.inode == 0
        waiting = entry_of(client)
        assert (waiting.state, waiting.timer_s) == ("CLOSE_WAIT", None)


def test_syn_sent(port: int) -> None:
    """A connect() that the other end's full queue leaves unanswered is in SYN_SENT."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", port))
        server.listen(0)
        clients = [stack.enter_context(socket.socket()) for _ in range(3)]
        for client in clients:
            client.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                client.connect(server.getsockname())
        assert entry_of(clients[-1]).state == "SYN_SENT"


def test_bound_without_listening(port: int) -> None:
    """From Linux 6.8 on a socket that is only bound is listed, as BOUND."""
    need.capability("bound_inactive")
    with socket.socket() as held:
        held.bind(("127.0.0.1", port))
        found = survey(port)
        assert found.lists_bound
        assert [(entry.state, entry.inode) for entry in found.entries] == [("BOUND", inode(held))]
        assert sockets(port, states=["LISTEN", "ESTABLISHED"]) == []
        held.listen()
        assert list(by_state(port)) == ["LISTEN"]


def test_udp(port: int) -> None:
    """UDP sockets are BOUND, and CONNECTED with a peer after connect()."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", port))
        (entry,) = sockets(port, "udp")
        assert (entry.state, entry.inode, entry.peer) == ("BOUND", inode(one), None)
        other.connect(one.getsockname())
        entry = entry_of(other)
        assert (entry.state, entry.peer) == ("CONNECTED", ("127.0.0.1", port))
        assert sockets(port, "udp", states=["CONNECTED"]) == []
        assert sockets(port, "tcp") == []


def test_one_number_two_transports_two_families() -> None:
    """TCP and UDP, IPv4 and IPv6 on one number are all found by one question."""
    need.capability("ipv6")
    result = in_new_netns(
        """
        import socket
        from portlease._platform._linux_diag import sockets
        kept = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                one = socket.socket(family, kind)
                one.bind((host, 20000))
                if kind == socket.SOCK_STREAM:
                    one.listen()
                kept.append(one)
        for entry in sockets(20000):
            print(entry.transport, entry.address, entry.state)
        """
    )
    assert result.stderr == ""
    assert sorted(result.stdout.splitlines()) == [
        "tcp 127.0.0.1 LISTEN",
        "tcp ::1 LISTEN",
        "udp 127.0.0.1 BOUND",
        "udp ::1 BOUND",
    ]


def test_an_answer_in_several_datagrams(port: int) -> None:
    """Hundreds of connections on one port do not fit in one datagram; all of them are told."""
    count = 300
    with (
        socket.create_server(("127.0.0.1", port), backlog=count) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(socket.create_connection(server.getsockname()))
            for _ in range(count)
        ]
        waiting = sockets(port, states=["ESTABLISHED"])
        assert {entry.peer for entry in waiting} == {one.getsockname() for one in clients}
        # Nobody has accepted them, so nobody has them: not even an inode number.
        assert {(entry.inode, entry.uid) for entry in waiting} == {(0, None)}


def test_as_ss_sees_it(port: int) -> None:
    """ss(8), which asks the same question in its own code, gives the same answer."""
    ss = need.program("ss")
    names = {"ESTAB": "ESTABLISHED", "TIME-WAIT": "TIME_WAIT", "UNCONN": "BOUND"}
    with connection(port) as (server, _client, _accepted):
        with socket.create_connection(server.getsockname()) as second:
            server.accept()[0].close()
            assert second.recv(1) == b""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", port))
            text = subprocess.run(
                [ss, "-Htuane", f"sport = :{port}"], capture_output=True, text=True, check=True
            ).stdout
            theirs = set()
            for line in text.splitlines():
                transport, state, _, _, local, peer, *rest = line.split()
                found = re.search(r"\bino:(\d+)", " ".join(rest))
                theirs.add(
                    (transport, names.get(state, state), local, peer, found and int(found[1]))
                )
            ours = {
                (
                    one.transport,
                    one.state,
                    f"{one.address}:{one.port}",
                    "{}:{}".format(*(one.peer or ("0.0.0.0", "*"))),  # noqa: S104 - nothing is bound
                    one.inode,
                )
                for one in sockets(port)
            }
        assert ours == theirs
        assert {state for _, state, *_ in ours} == {"LISTEN", "ESTABLISHED", "TIME_WAIT", "BOUND"}


def test_only_its_own_network_namespace() -> None:
    """A thread that has gone to another network namespace is told of that one's sockets."""
    need.capability("root")
    result = in_new_netns(
        """
        import ctypes, socket, threading
        from portlease._platform import _linux_diag
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]
        def ask():
            return (
                len(_linux_diag.sockets(port)),
                len(_linux_diag._from_proc("tcp", port, 0xFFFF)),
            )
        print(*ask())
        def elsewhere():
            if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:  # CLONE_NEWNET
                raise OSError(ctypes.get_errno(), "unshare")
            print(*ask())
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        """
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["1 1", "0 0"]


# --- polling ------------------------------------------------------------------------------------


def test_listen_watch(port: int) -> None:
    """A watch sees a listener come and go, on one netlink socket, which it closes."""
    before = open_fds()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        with ListenWatch(port) as watch:
            assert watch.look() == []
            opened = open_fds()
            server.listen()
            assert [entry.inode for entry in watch.look()] == [inode(server)]
            assert open_fds() == opened
            with socket.create_connection(server.getsockname()):
                assert [entry.state for entry in watch.look()] == ["LISTEN"]
            server.close()
            assert watch.look() == []
    assert open_fds() == before


def test_watching_udp(port: int) -> None:
    """For UDP, a watch looks for a socket that is bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        with ListenWatch(port, transport="udp") as watch:
            assert [entry.inode for entry in watch.look()] == [inode(server)]


def test_a_watch_gets_over_a_broken_off_answer(port: int) -> None:
    """An answer that was never read to its end spoils one look at most, and leaks nothing."""
    with socket.create_server(("127.0.0.1", port)), ListenWatch(port) as watch:
        assert len(watch.look()) == 1
        channel = watch._channel._socket
        assert channel is not None
        question = request("tcp", port, LISTEN, family=None, sequence=SEQUENCE)
        channel.sendto(question, (0, 0))
        with pytest.raises(OSError, match="busy") as caught:
            watch.look()
        assert caught.value.errno == errno.EBUSY
        assert channel.fileno() == -1
        assert len(watch.look()) == 1


def test_a_closed_watch_opens_again(port: int) -> None:
    """close() may come at any time, and twice."""
    with socket.create_server(("127.0.0.1", port)):
        watch = ListenWatch(port)
        watch.close()
        try:
            assert len(watch.look()) == 1
        finally:
            watch.close()
            watch.close()


# --- where netlink is refused -------------------------------------------------------------------

# Fails socket(AF_NETLINK, ...) with argv[1] for the rest of this process, by a seccomp filter.
REFUSE = """
import ctypes, errno, os, struct, sys
number = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
def step(code, jt, jf, k):
    return struct.pack("=HBBI", code, jt, jf, k)
filter = b"".join([
    step(0x20, 0, 0, 0),                      # A = seccomp_data.nr
    step(0x15, 0, 3, number),                 # socket(2)?
    step(0x20, 0, 0, 16),                     # A = its first argument
    step(0x15, 0, 1, 16),                     # AF_NETLINK?
    step(0x06, 0, 0, 0x00050000 | int(sys.argv[1])),
    step(0x06, 0, 0, 0x7FFF0000),
])
kept = ctypes.create_string_buffer(filter)
program = ctypes.create_string_buffer(struct.pack("@HP", 6, ctypes.addressof(kept)))
libc = ctypes.CDLL(None, use_errno=True)
word = ctypes.c_ulong
libc.prctl.argtypes = [ctypes.c_int, word, ctypes.c_void_p, word, word]
if libc.prctl(38, 1, None, 0, 0) or libc.prctl(22, 2, ctypes.addressof(program), 0, 0):
    raise OSError(ctypes.get_errno(), "seccomp")
"""


def refused(script: str, code: int) -> list[str]:
    """Run *script* where netlink is refused with *code*; returns the lines it printed."""
    need.capability("seccomp")
    done = subprocess.run(
        [sys.executable, "-c", REFUSE + textwrap.dedent(script), str(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "code", [errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES], ids=os.strerror
)
def test_proc_where_netlink_is_refused(code: int) -> None:
    """/proc/net gives the same sockets, but for those that are only bound, and says so."""
    lines = refused(
        """
        import socket
        from portlease._platform._linux_diag import ListenWatch, survey
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        port = server.getsockname()[1]
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", port))
        found = survey(port)
        assert not found.lists_bound
        assert os.strerror(int(sys.argv[1])) in found.refused
        for entry in sorted(found.entries, key=str):
            inodes = [os.fstat(one.fileno()).st_ino for one in (server, accepted, datagrams)]
            print(entry.transport, entry.state, inodes.index(entry.inode), entry.uid == os.getuid())
        with ListenWatch(port) as watch:
            for _ in range(2):
                print(*[entry.state for entry in watch.look()])
            server.close()
            print(*[entry.state for entry in watch.look()])
        """,
        code,
    )
    assert lines == [
        "tcp ESTABLISHED 1 True",
        "tcp LISTEN 0 True",
        "udp BOUND 2 True",
        "LISTEN",
        "LISTEN",
        "",
    ]


def test_another_error_of_netlink_is_raised() -> None:
    """Only the errors that mean "not here" are answered with /proc."""
    lines = refused(
        """
        from portlease._platform._linux_diag import sockets
        try:
            sockets(1)
        except OSError as error:
            print(type(error).__name__, error.errno == errno.EMFILE)
        """,
        errno.EMFILE,
    )
    assert lines == ["OSError True"]


def test_a_protocol_that_the_kernel_cannot_list() -> None:
    """The error of an answer that means "not here" is told from one that does not."""
    for code in (errno.ENOENT, errno.EOPNOTSUPP):
        for kind in (2, 3):
            with pytest.raises(NetlinkRefusedError) as caught:
                parse_answer(message(kind, struct.pack("=i", -code)), "tcp", SEQUENCE)
            assert caught.value.errno == code
    with pytest.raises(OSError, match="sock_diag") as other:
        parse_answer(message(2, struct.pack("=i", -errno.EINVAL)), "tcp", SEQUENCE)
    assert other.value.errno == errno.EINVAL
    assert not isinstance(other.value, SocketTableError)


def test_both_interfaces_of_netlink_agree(port: int) -> None:
    """One question for both families (TCPDIAG_GETSOCK) gives what one for each family does."""
    need.capability("ipv6")
    with connection(port, "::1", socket.AF_INET6):
        both = raw(request("tcp", port, EVERY_STATE, family=None, sequence=SEQUENCE))
        each = [
            entry
            for family in (socket.AF_INET, socket.AF_INET6)
            for entry in raw(request("tcp", port, EVERY_STATE, family=family, sequence=SEQUENCE))
        ]
        assert sorted(both, key=str) == sorted(each, key=str)
        assert len(both) == 2


def test_proc_agrees_with_netlink(port: int) -> None:
    """Both readers say the same of the same sockets, TIME_WAIT's timer to a tick or two."""
    with connection(port) as (server, _client, _accepted):
        with socket.create_connection(server.getsockname()) as second:
            server.accept()[0].close()
            assert second.recv(1) == b""
        by_proc = sorted(_linux_diag._from_proc("tcp", port, EVERY_STATE), key=str)
        by_netlink = sorted(sockets(port, "tcp"), key=str)
        assert [one[:8] for one in by_proc] == [one[:8] for one in by_netlink]
        timers = [
            (one.timer_s, other.timer_s) for one, other in zip(by_proc, by_netlink, strict=True)
        ]
        (pair,) = [pair for pair in timers if pair != (None, None)]
        assert pair == pytest.approx((60, 60), abs=5)


def test_a_socket_that_is_told_twice_is_given_once() -> None:
    """As /proc does under load; TIME_WAIT's timer has moved on meanwhile."""
    closing = SocketEntry(
        transport="tcp",
        family=socket.AF_INET,
        address="127.0.0.1",
        port=1,
        peer=("127.0.0.1", 2),
        state="TIME_WAIT",
        inode=0,
        uid=None,
        timer_s=60.0,
        interface=0,
        v6only=None,
    )
    again = closing._replace(timer_s=59.99)
    other = closing._replace(peer=("127.0.0.1", 3))
    assert _linux_diag._once([closing, other, again]) == [again, other]


# --- what cannot be asked -----------------------------------------------------------------------


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_such_port(port: int) -> None:
    """A number that is no port is the caller's mistake."""
    with pytest.raises(UsageError, match="65535"):
        sockets(port)
    with pytest.raises(UsageError, match="65535"):
        ListenWatch(port)


def test_no_such_state_or_transport() -> None:
    """A misspelt state would otherwise find nothing, and look like a free port."""
    with pytest.raises(UsageError, match="LISTENING"):
        sockets(1, states=["LISTENING"])
    with pytest.raises(UsageError, match="sctp"):
        sockets(1, "sctp")  # type: ignore[arg-type]
    assert sockets(1, "udp", states=["LISTEN"]) == []


def test_errors_can_be_pickled() -> None:
    """They cross the boundaries between processes."""
    error = pickle.loads(  # noqa: S301 - we pickled it ourselves
        pickle.dumps(NetlinkRefusedError("refused", errno=errno.EPERM))
    )
    assert (str(error), error.errno, type(error)) == ("refused", errno.EPERM, NetlinkRefusedError)


# --- garbage ------------------------------------------------------------------------------------


def raw(question: bytes) -> list[SocketEntry]:
    """The kernel's answer to a request, by way of a socket of our own."""
    entries: list[SocketEntry] = []
    for datagram in datagrams(question):
        more, _ = parse_answer(datagram, "tcp", SEQUENCE)
        entries += more
    return entries


def datagrams(question: bytes) -> list[bytes]:
    """Return all that the kernel answers to a request."""
    with contextlib.closing(_linux_diag._open()) as channel:
        channel.sendto(question, (0, 0))
        found: list[bytes] = []
        done = False
        while not done:
            found.append(channel.recv(1 << 16))
            _, done = parse_answer(found[-1], "tcp", SEQUENCE)
    return found


def message(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Return a netlink message, its header made to fit or to lie."""
    size = 16 + len(body) if length is None else length
    return struct.pack("=IHHII", size, kind, 0, SEQUENCE, 0) + body


def read(data: bytes) -> None:
    """Read an answer that may be anything: it is understood, or refused by name."""
    try:
        parse_answer(data, "tcp", SEQUENCE)
    except (MalformedAnswerError, NetlinkRefusedError):
        pass
    except OSError as error:
        # An error message with a number of its own. A plain one, not a bug in disguise.
        assert error.errno is not None  # noqa: PT017 - any number will do


@generous
@given(st.binary(max_size=300))
def test_any_bytes_as_an_answer(data: bytes) -> None:
    """No bytes whatever make the parser fail in another way than by its named error."""
    read(data)


@generous
@given(kind=st.sampled_from([0, 1, 2, 3, 4, 18, 20]), body=st.binary(max_size=150), data=st.data())
def test_any_body_in_a_message(kind: int, body: bytes, data: st.DataObject) -> None:
    """The same with a header that fits, or nearly."""
    length = data.draw(st.none() | st.integers(0, 200))
    read(message(kind, body, length=length))


@pytest.fixture(scope="module")
def real_answer() -> bytes:
    """The kernel's answer about a dual-stack listener and a connection to it."""
    need.capability("ipv6")
    with (
        portlease.lease(family=socket.AF_INET6) as lease,
        socket.create_server(
            ("::", lease.port), family=socket.AF_INET6, dualstack_ipv6=True
        ) as server,
        socket.create_connection(("127.0.0.1", lease.port)),
    ):
        lease.release()
        assert port_of(server) == lease.port
        question = request("tcp", lease.port, EVERY_STATE, family=None, sequence=SEQUENCE)
        return b"".join(datagrams(question))


@generous
@given(data=st.data())
def test_a_damaged_answer(real_answer: bytes, data: st.DataObject) -> None:
    """A real answer with any byte changed, and cut anywhere, is understood or refused by name."""
    damaged = bytearray(real_answer)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def test_a_cut_off_answer_is_never_whole(real_answer: bytes) -> None:
    """However an answer is cut, its end is missing: nobody takes the rest for all there is."""
    whole, done = parse_answer(real_answer, "tcp", SEQUENCE)
    assert done
    assert len(whole) == 2
    for cut in range(1, len(real_answer)):
        try:
            _, done = parse_answer(real_answer[:cut], "tcp", SEQUENCE)
        except MalformedAnswerError:
            continue
        assert not done


def test_answers_to_older_questions_are_passed_over(real_answer: bytes) -> None:
    """The sequence number tells an answer from what an earlier question left behind."""
    assert parse_answer(real_answer, "tcp", SEQUENCE + 1) == ([], False)


HEADING = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
LINE = (
    b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000"
    b"  1000        0 4711 1 0000000000000000 100 0 0 10 0\n"
)


def table(text: bytes, family: int = socket.AF_INET) -> list[SocketEntry]:
    """Return what stands in a /proc/net/tcp about port 8080."""
    return parse_table(text, "tcp", family, 0x1F90, ticks_per_s=100)


def test_a_line_of_proc() -> None:
    """A line of /proc/net/tcp, and one of a closing connection with its timer in ticks."""
    if sys.byteorder != "little":
        pytest.skip("the line was written on a little-endian machine")
    (entry,) = table(HEADING + LINE)
    assert (entry.address, entry.port, entry.state) == ("127.0.0.1", 8080, "LISTEN")
    assert (entry.uid, entry.inode, entry.timer_s) == (1000, 4711, None)
    closing = LINE.replace(b" 0A ", b" 06 ").replace(b"00:00000000", b"03:00000FA0")
    (entry,) = table(HEADING + closing.replace(b"1000        0 4711", b"0        0 0"))
    assert (entry.state, entry.timer_s, entry.uid) == ("TIME_WAIT", 40.0, None)
    other_end = LINE.replace(b"0100007F:1F90 00000000:0000", b"0100007F:0001 0100007F:1F90")
    assert table(HEADING + other_end) == []


@generous
@given(data=st.data())
def test_a_damaged_line_of_proc(data: st.DataObject) -> None:
    """Any change to a line is understood or refused by name."""
    damaged = bytearray(LINE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(MalformedAnswerError):
            table(HEADING + cut, family)
