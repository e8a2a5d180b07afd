"""What the kernel tells, made up from its parts: answers of netlink, lines of /proc, sockaddrs.

And the real kernel, where it can be made to tell strange things: hostile names of processes and of
Unix sockets.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _need import in_new_netns, need

if sys.platform != "linux":
    pytest.skip("it is Linux's kernel", allow_module_level=True)

import portlease
from fuzz.generous import generous
from fuzz.targets import DONE, PORT, SEQUENCE, entry, message
from portlease._platform import _linux_proc, backend
from portlease._platform._linux_diag import (
    MalformedAnswerError,
    NetlinkRefusedError,
    SocketEntry,
    parse_answer,
    parse_table,
)

if TYPE_CHECKING:
    from pathlib import Path


# --- netlink ------------------------------------------------------------------------------------

STATES = {
    1: "ESTABLISHED",
    6: "TIME_WAIT",
    7: "BOUND",
    8: "CLOSE_WAIT",
    10: "LISTEN",
    99: "STATE_99",
}
families = st.sampled_from([socket.AF_INET, socket.AF_INET6])


@st.composite
def sockets(draw: st.DrawFn) -> tuple[bytes, SocketEntry]:
    """A socket as the kernel tells of it, and as it is to be read."""
    family = draw(families)
    size = 4 if family == socket.AF_INET else 16
    state = draw(st.sampled_from(sorted(STATES)))
    address, peer = (draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    peer_port = draw(st.integers(0, 65535))
    timer, expires_ms = draw(st.sampled_from([0, 1, 2, 3])), draw(st.integers(0, 2**32 - 1))
    uid, inode, interface = (draw(st.integers(0, 2**32 - 1)) for _ in range(3))
    port = draw(st.sampled_from([PORT, 1, 65535]))
    v6only = draw(st.none() | st.booleans())
    body = entry(
        family=family,
        state=state,
        timer=timer,
        port=port,
        peer_port=peer_port,
        address=address.ljust(16, b"\0"),
        peer=peer.ljust(16, b"\0"),
        interface=interface,
        expires_ms=expires_ms,
        uid=uid,
        inode=inode,
    )
    body += draw(st.sampled_from([b"", struct.pack("=HHI", 8, 4, 1)]))  # one that nobody asked for
    if v6only is not None:
        body += struct.pack("=HHB3x", 5, 11, v6only)
    tells = family == socket.AF_INET6 and state in {7, 10}
    return body, SocketEntry(
        transport="tcp",
        family=int(family),
        address=socket.inet_ntop(family, address),
        port=port,
        peer=(socket.inet_ntop(family, peer), peer_port) if peer_port or any(peer) else None,
        state=STATES[state],
        inode=inode,
        uid=uid if inode else None,
        timer_s=expires_ms / 1000 if timer == 3 else None,
        interface=interface,
        v6only=v6only if tells else None,
    )


@generous
@given(st.lists(st.lists(sockets(), max_size=4), max_size=3), st.booleans())
def test_what_is_told_is_read(
    parts: list[list[tuple[bytes, SocketEntry]]],
    ended: bool,  # noqa: FBT001 - Hypothesis gives it
) -> None:
    """An answer in any number of datagrams, old ones between: every socket as it was told."""
    found: list[SocketEntry] = []
    stale = message(20, entry(inode=4711), SEQUENCE - 1) + message(3, bytes(4), SEQUENCE - 1)
    done = False
    for number, part in enumerate(parts):
        last = ended and number == len(parts) - 1
        data = stale + b"".join(message(20, body) for body, _ in part) + (DONE if last else b"")
        more, done = parse_answer(data, "tcp", SEQUENCE)
        assert done == last
        found += more
    assert found == [told for part in parts for _, told in part]
    assert done == (ended and bool(parts))


@generous
@given(st.lists(sockets(), min_size=1, max_size=3), st.data())
def test_a_cut_or_lying_answer_is_never_whole(
    told: list[tuple[bytes, SocketEntry]], data: st.DataObject
) -> None:
    """Cut anywhere: refused, or not at its end. A length that lies: refused, or past its end."""
    whole = b"".join(message(20, body) for body, _ in told) + DONE
    cut = data.draw(st.integers(0, len(whole) - 1))
    # The last message's own padding is not its end.
    with contextlib.suppress(MalformedAnswerError):
        assert parse_answer(whole[:cut], "tcp", SEQUENCE)[1] is False
    body = told[0][0]
    length = data.draw(st.integers(0, 2**32 - 1))
    lying = message(20, body, length=length) + DONE
    if length < 16 or length > len(lying):
        with pytest.raises(MalformedAnswerError):
            parse_answer(lying, "tcp", SEQUENCE)


@generous
@given(st.sampled_from([2, 3]), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=40))
def test_errors_are_told_by_their_number(kind: int, code: int, rest: bytes) -> None:
    """NLMSG_ERROR, and NLMSG_DONE with an error: the kernel's own errno, or malformed."""
    data = message(kind, struct.pack("=i", code) + rest)
    if code == 0:
        assert parse_answer(data, "tcp", SEQUENCE) == ([], True)
        return
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which, is what is looked at
        parse_answer(data, "tcp", SEQUENCE)
    if code >= -4095:
        assert isinstance(caught.value, MalformedAnswerError) == (code > 0)
        assert code > 0 or caught.value.errno == -code
    else:
        assert isinstance(caught.value, MalformedAnswerError)


def test_not_here_and_something_else_are_told_apart() -> None:
    """ENOENT is "no such module"; ENOMEM is a failure; NLMSG_OVERRUN and others are no answers."""
    for code, kind in (
        (errno.ENOENT, NetlinkRefusedError),
        (errno.EPERM, NetlinkRefusedError),
        (errno.ENOMEM, OSError),
        (errno.EBUSY, OSError),
    ):
        with pytest.raises(kind) as caught:
            parse_answer(message(2, struct.pack("=i", -code)), "tcp", SEQUENCE)
        assert (type(caught.value) is NetlinkRefusedError) == (kind is NetlinkRefusedError)
        assert caught.value.errno == code
    for strange in (4, 5, 17, 21, 0xFFFF):
        with pytest.raises(MalformedAnswerError):
            parse_answer(message(strange, entry()), "tcp", SEQUENCE)
    for truncated in (b"", b"\0", bytes(3)):
        with pytest.raises(MalformedAnswerError):
            parse_answer(message(2, truncated), "tcp", SEQUENCE)


# --- /proc --------------------------------------------------------------------------------------


def words(address: bytes) -> str:
    """As the kernel prints it: words of 32 bits in this machine's order."""
    return "".join(f"{number:08X}" for number in struct.unpack(f"={len(address) // 4}I", address))


@generous
@given(st.lists(st.tuples(sockets(), st.integers(0, 10**6)), max_size=5), families)
def test_a_table_of_proc_is_read(
    told: list[tuple[tuple[bytes, SocketEntry], int]], family: int
) -> None:
    """Lines as get_tcp4_sock() and its like print them: those of the port, and no other."""
    text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    want = []
    for number, ((_, one), ticks) in enumerate(told):
        if one.family != family:
            continue
        peer = one.peer or (("0.0.0.0" if family == socket.AF_INET else "::"), 0)  # noqa: S104
        state = next(key for key, state in STATES.items() if state == one.state)
        timer = 3 if one.timer_s is not None else 1
        text += (
            f"{number:4d}: {words(socket.inet_pton(family, one.address))}:{one.port:04X} "
            f"{words(socket.inet_pton(family, peer[0]))}:{peer[1]:04X} {state:02X} "
            f"00000000:00000000 {timer:02X}:{ticks:08X} 00000000 {one.uid or 0:5d}        0 "
            f"{one.inode} 1 0000000000000000 100 0 0 10 0\n"
        )
        if one.port == PORT:
            timer_s = ticks / 100 if timer == 3 else None
            want.append(
                one._replace(timer_s=timer_s, uid=one.uid or 0 if one.inode else None)._replace(
                    interface=None, v6only=None
                )
            )
    assert parse_table(text.encode(), "tcp", family, PORT, ticks_per_s=100) == want


_NONE = ["-1", "+1", "1_0", "g", "9" * 5000, "F" * 400, "\u0663"]
ODD = {
    1: ["0100007G:1F90", "01:1F90", "-100007F:1F90", "0100007F01:1F90", ":1F90"],
    2: ["00000000", "0000:0000", *(f"00000000:{one}" for one in _NONE), "00000000:1FFFF"],
    3: _NONE,
    5: ["03", "03:", *(f"03:{one}" for one in _NONE), *(f"{one}:0FA0" for one in _NONE)],
    7: [*_NONE, "1e3", "nan"],
    9: [*_NONE, "1e3", "nan"],
}


@pytest.mark.parametrize("column", ODD)
def test_a_column_that_is_none_is_refused(column: int) -> None:
    """What is no number of the kernel's is MalformedAnswerError, and not taken for another."""
    good = "0: 0100007F:1F90 00000000:0000 06 0:0 03:0FA0 0 1 0 4 1".split()  # noqa: SIM905
    for odd in ("", *ODD[column]):
        fields = [*good]
        fields[column] = odd or good[column]
        line = " ".join(fields).encode()
        if odd:
            with pytest.raises(MalformedAnswerError):
                parse_table(line, "tcp", socket.AF_INET, PORT, ticks_per_s=100)
        else:
            assert parse_table(line, "tcp", socket.AF_INET, PORT, ticks_per_s=100)


@generous
@given(
    st.binary(max_size=10_000).map(lambda comm: comm.replace(b"\0", b"")),
    st.lists(st.integers(0, 2**63), min_size=50, max_size=50),
)
def test_a_stat_is_read_whatever_the_name(comm: bytes, numbers: list[int]) -> None:
    """Newlines, parentheses, bytes that are no text: what follows the last parenthesis counts."""
    text = b"42 (%b) S " % comm + b" ".join(b"%d" % number for number in numbers) + b"\n"
    stat = _linux_proc.parse_stat(text)
    assert stat == (42, comm, "S", numbers[0], numbers[5], numbers[18])


HOSTILE = [
    b"a) R 1 2 3 (b",
    b") ",
    b"new\nline",
    b"\xff\xfe\xc3",
    b"Uid:\t0\t0\t0",
    b"(((((((((((((((",
    b"\x1b[31m\x07\r",
    b"\\012 (x)",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_process_with_a_hostile_name_is_itself(hostile: bytes, tmp_path: Path) -> None:
    """Its children, parent, user and command are told as they are, whatever its name pretends."""
    program = os.path.join(os.fsencode(tmp_path), hostile)  # noqa: PTH118 - bytes
    os.symlink(os.fsencode(need.program("sleep")), program)  # noqa: PTH211 - bytes
    arguments = [hostile, b"1" * 2, hostile * 500 if b"\n" in hostile else b"0"]
    with subprocess.Popen(arguments, executable=program, stdin=subprocess.DEVNULL) as process:
        try:
            stat = _linux_proc._stat(f"/proc/{process.pid}/stat")
            assert stat is not None
            # Until its exec it has the name of this process.
            assert (stat.pid, stat.ppid) == (process.pid, os.getpid())
            info = _linux_proc.process_info(process.pid)
            assert info is not None
            assert info.uid == os.geteuid()
            assert info.command is not None
            assert info.command.isprintable()
            assert process.pid in _linux_proc.descendants(os.getpid())
        finally:
            process.kill()


@generous
@given(st.binary(min_size=1, max_size=107), st.data())
def test_names_that_others_bind_hide_no_row(hostile: bytes, data: st.DataObject) -> None:
    """Any abstract name at all, newlines and forged lines too: our lease is listed all the same."""
    forged = data.draw(
        st.sampled_from(
            [b"", b"\n", b"\n@portlease/1/", b"@portlease/1/g/", b"portlease/1/20000/t/h/"]
        )
    )
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
        portlease.lease("udp", offer=False, label="mine") as lease,
    ):
        other.bind((b"\0" + forged + hostile)[:108])
        assert [one.label for one in portlease.leases() if one.port == lease.port] == ["mine"]
        assert backend.published_for(lease.port)


# --- sockaddr -----------------------------------------------------------------------------------


def as_the_kernel_reads_it(examples: int) -> dict[str, int]:
    """Bind sockets to any bytes: where the kernel takes them for a port, so does the broker."""
    from portlease._tree import _broker

    found = {"bound": 0, "refused": 0}
    family = st.sampled_from([0, 2, 10, 1, 16, 0x0200, 0xFFFF])
    address = st.sampled_from([bytes(4), bytes((127, 0, 0, 1)), b"\0\0\0\0" + bytes(16)])
    made = st.builds(
        lambda *parts: (
            struct.pack("=H", parts[0]) + struct.pack("!H", parts[1]) + parts[2] + parts[3]
        ),
        family,
        st.integers(1024, 65535),
        address,
        st.binary(max_size=30),
    )

    @settings(generous, max_examples=examples)
    @given(made, st.sampled_from([socket.AF_INET, socket.AF_INET6]), st.sampled_from([1, 2]))
    def check(raw: bytes, own: int, kind: int) -> None:
        with socket.socket(own, kind) as sock:
            answer = _broker.bind(sock, raw)
            found["refused" if answer else "bound"] += 1
            if not answer:
                assert _broker.port_of(raw) == sock.getsockname()[1]

    check()
    return found


def test_the_broker_reads_a_sockaddr_as_the_kernel_does() -> None:
    """No bytes bind a port that the broker took for another one, or for none."""
    need.capability("netns")
    done = in_new_netns(
        """
        import json
        from fuzz.test_kernel import as_the_kernel_reads_it
        print(json.dumps(as_the_kernel_reads_it(400)))
        """
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert min(found.values()) > 20, found
