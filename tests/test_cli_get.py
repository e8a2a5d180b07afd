"""``portlease get``."""

from __future__ import annotations

import json
import socket

import pytest

import portlease as library
from _cli import portlease
from portlease import _pool
from portlease._platform import backend


def _numbers(*arguments: str | int) -> list[int]:
    done = portlease("get", *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [int(word) for word in done.stdout.splitlines()]


def test_prints_one_number_alone() -> None:
    """`port=$(portlease get)` is a number, and nothing else."""
    (port,) = _numbers()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


@pytest.mark.parametrize("kind", [[], ["--udp"], ["--both"]], ids=" ".join)
def test_prints_ports_from_outside_the_ephemeral_range(kind: list[str]) -> None:
    """Where nobody's bind(0) lands, all different."""
    ports = _numbers("-n", 5, *kind)
    assert len(set(ports)) == 5
    if _pool.candidates(backend.rules()):
        assert not any(map(backend.rules().is_ephemeral, ports))


def test_block() -> None:
    """--block: consecutive numbers, in order."""
    first, *rest = _numbers("-n", 4, "--block")
    assert rest == [first + 1, first + 2, first + 3]


def test_offsets() -> None:
    """--offsets: as many at each distance, without --block too."""
    ports = _numbers("-n", 3, "--offsets", "0,10000")
    first = ports[0]
    assert ports == [first + step for step in (0, 1, 2, 10000, 10001, 10002)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("9" * 5000, "there are ports to 65535, and no further"),  # more than int() takes
        ("0,\u0663", "is no list of offsets"),  # a digit, and none of ours
        ("0,70000", "reach further than there are ports"),
    ],
)
def test_offsets_that_are_none(given: str, said: str) -> None:
    """One line that says what is wrong."""
    done = portlease("get", "-n", 2, "--offsets", given)
    assert done.returncode in {2, 125}
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_takes_only_the_ports_that_are_named() -> None:
    """--ports: numbers and ranges."""
    with library.lease_block(2, offer=False) as taken:
        first, second = taken.ports
    assert sorted(_numbers("-n", 2, "--ports", f"{first}-{second}")) == [first, second]


def test_all_or_none() -> None:
    """If one of them cannot be had, nothing is printed."""
    with library.lease(offer=False) as taken:
        done = portlease("get", "-n", 2, "--ports", f"{taken},{taken}")
    assert (done.returncode, done.stdout) == (125, "")
    assert str(taken.port) in done.stderr


def test_json() -> None:
    """--json says as well that nobody holds them."""
    done = portlease("get", "-n", 2, "--udp", "--json")
    told = json.loads(done.stdout)
    assert len(told["ports"]) == 2
    assert (told["kind"], told["held"]) == ("udp", False)


def test_holds_nothing_once_it_has_ended() -> None:
    """What `get` printed is leased by nobody."""
    ports = _numbers("-n", 3)
    assert not {info.port for info in library.leases()} & set(ports)
