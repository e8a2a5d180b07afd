"""The soak in its small form: its detectors, each of which must be able to fail, and its counts."""

from __future__ import annotations

import importlib
import json
import os
import random
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import need, why_not
from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark is Linux's alone")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the soak, which is run as `python -m benchmarks.soak`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # what all benchmarks share
        yield lambda name: importlib.import_module(f"benchmarks.soak.{name}")


def _soak(*arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--json", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    figures: dict[str, Any] = json.loads(done.stdout or "{}")
    return done.returncode, figures, done.stderr


def test_a_small_soak() -> None:
    """No port has two owners, by three detectors that see the control's; and nothing is left."""
    need.capability("netns")
    need.capability("bound_inactive")
    need.capability("subreaper")
    status, figures, said = _soak(
        "--leases", "1500", "--servers", "18", "--processes", "3", "--kills", "1"
    )
    assert status == 0, (said, figures)
    soak, control = figures["soak"], figures["control"]
    found = soak["detectors"]
    assert (found["ledger"]["doubles"], found["kernel"]["doubles"], found["log"]["overlaps"]) == (
        0,
        0,
        0,
    )
    counted = soak["counted"]
    assert counted["leases"] >= 1500
    assert counted["servers"] >= 18
    assert soak["killed"]["by the controller"] == 1
    assert counted["suicides"] >= 1
    assert soak["troubles"]["count"] == 0
    # Each detector has looked at what was taken; what was killed is in the log all the same.
    assert found["ledger"]["claims"] >= counted["leases"]
    assert found["log"]["intervals"] >= counted["leases"]
    assert found["kernel"]["sockets"] > 0
    assert soak["left"]["after"] == soak["left"]["before"]
    for kind in ("tcp", "udp", "both", "host", "family", "named", "many", "block"):
        assert counted[kind] > 0, kind
    for way in ("with", "release", "garbage"):
        assert counted[way] > 0, way
    # The same crowd, and ports that nobody holds.
    found = control["detectors"]
    assert found["ledger"]["doubles"] > 0
    assert found["kernel"]["doubles"] > 0
    assert found["log"]["overlaps"] > 0
    if why_not("seccomp") is None:
        assert counted["tcp broker"] + counted["udp broker"] > 0 or soak["no_broker"]


# --- the ledger ---------------------------------------------------------------------------------


def _ledgers(load: Callable[[str], ModuleType], name: str) -> tuple[Any, Any, Any, list[str]]:
    board = load("_board").Board.create(2)
    told: list[str] = []
    first, second = (
        load("_ledger").Ledger(board, name, place, place + 1, told.append) for place in range(2)
    )
    return board, first, second, told


def test_a_port_that_two_claim_is_a_double(load: Callable[[str], ModuleType]) -> None:
    """A claim whose owner lives is a double; one that was dropped is none."""
    need.capability("abstract_unix")
    board, first, second, told = _ledgers(load, f"test-{os.getpid()}-double")
    try:
        board.enter(0, 1)
        claim = first.claim("tcp", 4711)
        second.drop(second.claim("udp", 4711))  # the other transport is another port
        assert board.total("ledger doubles") == 0
        other = second.claim("tcp", 4711)
        assert (other.mark, board.total("ledger doubles")) == (None, 1)
        assert told == ["ledger: tcp port 4711 was given to process number 2 while number 1 had it"]
        second.drop(other)
        first.drop(claim)
        second.drop(second.claim("tcp", 4711))
        assert board.total("ledger doubles") == 1
    finally:
        board.close()


def test_a_claim_of_the_dead_is_inherited(load: Callable[[str], ModuleType]) -> None:
    """Who finds the claim of a process that is on its way out waits until it is gone."""
    need.capability("abstract_unix")
    name = f"test-{os.getpid()}-death"
    board, _, second, told = _ledgers(load, name)
    # The claim stays for a moment after its owner: a child of the owner has a copy of it.
    script = (
        "import os, sys, subprocess\n"
        "sys.path[:0] = sys.argv[4:]\n"
        "from benchmarks.soak._board import Board\n"
        "from benchmarks.soak._ledger import Ledger\n"
        "board = Board(int(sys.argv[1]), 2)\n"
        "board.enter(0, 1)\n"
        "claim = Ledger(board, sys.argv[2], 0, 1, print).claim('tcp', 4711)\n"
        "copy = claim.mark.fileno()\n"
        "child = [sys.executable, '-S', '-c', 'import sys; sys.stdin.read()']\n"
        "quiet = subprocess.DEVNULL\n"
        "reader = int(sys.argv[3])\n"
        "subprocess.Popen(child, stdin=reader, stdout=quiet, stderr=quiet, pass_fds=[copy])\n"
        "print('claimed', flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    reader, writer = os.pipe()
    try:
        owner = subprocess.run(
            [
                *(sys.executable, "-c", script, str(board.fd), name, str(reader)),
                *(str(ROOT), str(ROOT / "benchmarks")),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=(board.fd, reader),
            timeout=HANG_S,
            check=False,
        )
    except BaseException:
        board.close()
        raise
    finally:
        os.close(reader)
        os.close(writer)  # which ends the child, sooner or later
    try:
        assert (owner.stdout, owner.returncode) == ("claimed\n", -9), owner.stderr
        claim = second.claim("tcp", 4711)
        assert claim.mark is not None
        assert (board.total("ledger doubles"), told) == (0, [])
        second.drop(claim)
    finally:
        board.close()


# --- the kernel's list --------------------------------------------------------------------------


def test_the_kernel_lists_what_is_bound(load: Callable[[str], ModuleType]) -> None:
    """A lease's socket is listed with its inode, which is its process's."""
    need.capability("bound_inactive")
    kernel = load("_kernel")
    with portlease.lease(offer=False) as tcp, portlease.lease("udp", offer=False) as udp:
        mine = kernel.owners([os.getpid()])
        listed = {one[:2] for one in kernel.bound() if one.inode in mine}
        assert {("tcp", tcp.port), ("udp", udp.port)} <= listed


def test_two_processes_on_one_port_are_a_double(load: Callable[[str], ModuleType]) -> None:
    """Sockets of two processes on one port are told once, however often they are seen."""
    need.capability("bound_inactive")
    kernel = load("_kernel")
    with socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind(("127.0.0.1", 0))
        port = ours.getsockname()[1]
        script = (
            "import socket, sys\n"
            "theirs = socket.socket()\n"
            "theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
            "theirs.bind(('127.0.0.1', int(sys.argv[1])))\n"
            "print('bound', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == b"bound\n"
                seen = kernel.Seen()
                kernel.look([os.getpid()], seen)
                assert seen.doubles == 0
                kernel.look([os.getpid(), other.pid], seen)
                kernel.look([os.getpid(), other.pid], seen)
            finally:
                other.kill()
    assert seen.doubles == 1
    assert seen.shown == [
        f"kernel: tcp port {port} is had by processes {os.getpid()} and {other.pid}"
    ] or seen.shown == [
        f"kernel: tcp port {port} is had by processes {other.pid} and {os.getpid()}"
    ]


# --- the log ------------------------------------------------------------------------------------


def _write(load: Callable[[str], ModuleType], path: Path, *records: tuple[int, ...]) -> None:
    pack = load("_log")._RECORD.pack
    path.write_bytes(b"".join(pack(*record) for record in records))


def test_intervals_that_overlap_are_doubles(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """One port, two processes, at the same time: one overlap; one after the other: none."""
    taken, back = 1, 0
    _write(
        load,
        tmp_path / "a.log",
        (100, 1, 4711, 0, taken),
        (150, 2, 4712, 0, taken),
        (200, 1, 4711, 0, back),
        (250, 2, 4712, 0, back),
    )
    _write(
        load,
        tmp_path / "b.log",
        (200, 3, 4711, 0, taken),  # just when the other had given it back
        (220, 4, 4712, 1, taken),  # the other transport
        (300, 3, 4711, 0, back),
        (300, 4, 4712, 1, back),
    )
    merged = load("_log").merged(tmp_path, {})
    assert (merged.intervals, merged.ended_by_death, merged.overlaps) == (4, 0, 0)
    assert merged.most_at_once == 3
    _write(load, tmp_path / "c.log", (240, 5, 4712, 0, taken), (260, 5, 4712, 0, back))
    merged = load("_log").merged(tmp_path, {})
    assert (merged.overlaps, merged.shown) == (
        1,
        ["log: tcp port 4712 had two owners for 1e-05 ms"],
    )


def test_what_the_dead_had_ends_before_their_death(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """What a killed process had may be given to another right after; half a record is none."""
    taken, back, death = 1, 0, 2
    _write(load, tmp_path / "a.log", (100, 1, 4711, 0, taken))
    with (tmp_path / "a.log").open("ab") as file:
        file.write(b"half a rec")
    _write(load, tmp_path / "b.log", (100, 1, 4712, 0, taken), (200, 0, 0, 0, death))
    _write(
        load,
        tmp_path / "c.log",
        (201, 2, 4711, 0, taken),
        (202, 3, 4712, 0, taken),
        (300, 2, 4711, 0, back),
        (300, 3, 4712, 0, back),
    )
    merged = load("_log").merged(tmp_path, {"a.log": 200})
    assert (merged.ended_by_death, merged.overlaps) == (2, 0)
    assert load("_log").merged(tmp_path, {"a.log": 250}).overlaps == 1


# --- the mix, the verdict, and the page ---------------------------------------------------------


def test_every_move_of_the_table_is_made(load: Callable[[str], ModuleType]) -> None:
    """Leases of all kinds go through every move there is, and end released."""
    leases = load("_leases")
    lessor = leases.Lessor(load("run").free_ports(leases.NAMED_SETS * leases.NAMED_PORTS), "soak")
    mix = random.Random("soak")  # noqa: S311 - a mix, no secret
    counted: list[str] = []

    def live() -> None:
        for _ in range(400):
            held = lessor.take(mix)
            if held is not None:
                held.move(mix, counted.append)
                held.end(leases.a_way(mix))
        leases.collect()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        live()
    assert any("never released" in str(one.message) for one in caught)
    assert {"offer", "withdraw", "step_aside", "take_back", "listen", "hand_over_all"} <= set(
        counted
    )
    assert not [one for one in portlease.leases() if one.pid == os.getpid()]


def _sound_figures() -> dict[str, Any]:
    text = (ROOT / "benchmarks" / "results" / "soak.json").read_text(encoding="utf-8")
    figures: dict[str, Any] = json.loads(text)
    return figures


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("soak detectors ledger doubles", 1),
        ("soak detectors kernel doubles", 1),
        ("soak detectors log overlaps", 1),
        ("control detectors ledger doubles", 0),
        ("control detectors kernel doubles", 0),
        ("control detectors log overlaps", 0),
        ("soak left after files", 1),
        ("soak processes descriptors", 1),
        ("soak processes rows", 1),
    ],
)
def test_what_is_not_sound(path: str, value: int, load: Callable[[str], ModuleType]) -> None:
    """A double, a blind detector and anything left make it unsound."""
    figures = _sound_figures()
    sound = load("_figures").sound
    assert sound(figures)
    *parts, last = path.split()
    place = figures
    for part in parts:
        place = place[part]
    place[last] = value
    assert not sound(figures)


def test_the_page_is_made_of_the_figures(load: Callable[[str], ModuleType]) -> None:
    """docs/soak.md is what the kept figures make."""
    page = load("_page").page(_sound_figures())
    assert page == (ROOT / "docs" / "soak.md").read_text(encoding="utf-8")


def test_the_kept_soak_was_whole() -> None:
    """A million leases, 2,000 servers, 8 processes."""
    soak = _sound_figures()["soak"]
    assert soak["counted"]["leases"] >= 1_000_000
    assert soak["counted"]["servers"] >= 2_000
    assert soak["asked"]["processes"] >= 8
