"""Where ports may come from: decisions over plain numbers."""

from __future__ import annotations

import collections
import itertools
import random
import subprocess
import sys
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portlease._pool import (
    BROWSERS_REFUSE,
    MAX_PORT,
    NODE_PORTS,
    Rules,
    candidates,
    draw,
    draw_blocks,
    parse_port_list,
    parse_services,
    pick,
    pick_elsewhere,
)

LINUX = (32768, 60999)


def rules(
    ephemeral: tuple[int, int] = LINUX,
    *,
    reserved: Any = (),  # noqa: ANN401 - any iterable of numbers
    services: Any = (),  # noqa: ANN401 - any iterable of numbers
    first: int = 1024,
) -> Rules:
    """The rules of a machine, mostly as Linux has them."""
    return Rules(
        ephemeral=ephemeral,
        reserved=frozenset(reserved),
        services=frozenset(services),
        first_unprivileged=first,
    )


@st.composite
def any_rules(draw_from: st.DrawFn) -> Rules:
    """The rules of any machine whatever."""
    port = st.integers(1, MAX_PORT)
    low, high = sorted((draw_from(port), draw_from(port)))
    return rules(
        (low, high),
        reserved=draw_from(st.frozensets(port, max_size=20)),
        services=draw_from(st.frozensets(port, max_size=20)),
        first=draw_from(st.integers(0, MAX_PORT)),
    )


@settings(max_examples=15, deadline=None)
@given(any_rules())
def test_candidates_are_never_what_they_must_not_be(machine: Rules) -> None:
    """Outside the ephemeral range, bindable by anybody, and nobody's favourite."""
    found = candidates(machine)
    assert list(found) == sorted(set(found))
    low, high = machine.ephemeral
    assert not set(found) & set(range(low, high + 1))
    assert not set(found) & set(range(max(1024, machine.first_unprivileged)))
    assert not set(found) & (machine.reserved | machine.services | BROWSERS_REFUSE)
    assert not set(found) & set(NODE_PORTS)


def test_candidates_on_linux_as_it_comes() -> None:
    """From 10000 up, without NodePorts, both below and above the ephemeral range."""
    found = candidates(rules())
    assert found[0] == 10000
    assert found[-1] == MAX_PORT
    assert len(found) == (30000 - 10000) + (MAX_PORT - 60999) - 1  # without 10080


def test_people_s_favourites_are_taken_only_where_there_are_few_others() -> None:
    """Below 10000 live 3000, 5000, 8000 and 8080."""
    assert min(candidates(rules((10500, 65535)))) == 1024
    assert min(candidates(rules((11500, 65535)))) == 10000


@pytest.mark.parametrize(
    "machine", [rules((1024, 65535)), rules((40000, 65535), first=40000), rules(first=65535 + 1)]
)
def test_there_may_be_no_candidates(machine: Rules) -> None:
    """Then the pool is empty, and not an error."""
    assert not candidates(machine)
    assert list(draw(candidates(machine))) == []


def test_rules_compare_by_value() -> None:
    """So that a reading which brought nothing new changes nothing."""
    assert rules() == rules()
    assert hash(rules()) == hash(rules())
    assert rules() != rules(reserved=[8080])
    assert rules() != "rules"


def test_is_ephemeral_includes_both_ends() -> None:
    """As the kernel does."""
    assert [rules().is_ephemeral(port) for port in (32767, 32768, 60999, 61000)] == [
        False,
        True,
        True,
        False,
    ]


@given(st.sets(st.integers(1, MAX_PORT), max_size=80))
def test_draw_gives_every_port(ports: set[int]) -> None:
    """Whatever chance does in the first draws, the sweep after them leaves none out."""
    drawn = list(draw(array("H", sorted(ports))))
    assert set(drawn) == ports
    assert len(drawn) <= len(ports) + 32


def test_draw_of_few_ports_gives_each_once() -> None:
    """Nobody is asked twice where there are but a few."""
    ports = array("H", range(20000, 20010))
    for _ in range(20):
        assert sorted(draw(ports)) == list(ports)


def test_the_first_draw_is_spread_over_the_pool() -> None:
    """Many takers that start together must not all go for the same few ports."""
    ports = array("H", range(20000, 20100))
    counts = collections.Counter(pick(ports) for _ in range(20_000))
    assert set(counts) == set(ports)
    # Expected 200 each, standard deviation 14: 8 of them would be a broken generator.
    assert all(88 < count < 312 for count in counts.values())


def test_picks_run_through_the_pool_in_strides() -> None:
    """A run names 64 different ports, none next to the one before it; the next is elsewhere."""
    ports = array("H", range(20000, 44000))
    runs = []
    for _ in range(2):
        pick_elsewhere()
        runs.append([pick(ports) for _ in range(64)])
    for run in runs:
        assert len(set(run)) == 64
        assert all(abs(one - other) > 100 for one, other in itertools.pairwise(run))
    assert runs[0] != runs[1]


def test_the_shared_random_generator_is_neither_used_nor_disturbed() -> None:
    """Test runners seed it alike in every worker; workers must not draw alike."""
    ports = array("H", range(20000, 30000))
    random.seed(7)
    before = random.getstate()
    first = [pick(ports) for _ in range(20)]
    assert random.getstate() == before
    random.seed(7)
    assert first != [pick(ports) for _ in range(20)]


def test_two_processes_draw_differently() -> None:
    """Also where hash randomisation and seeds are fixed."""
    script = (
        "from array import array; from portlease._pool import pick;"
        "print([pick(array('H', range(20000, 30000))) for _ in range(10)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": "0", "PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True,
            capture_output=True,
        ).stdout
        for _ in range(2)
    }
    assert len(outputs) == 2


# --- what the machine writes --------------------------------------------------------------------


@given(st.sets(st.integers(1, MAX_PORT), max_size=60))
def test_a_port_list_is_read_back(ports: set[int]) -> None:
    """As the kernel prints it: numbers and ranges, commas between."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and ranges[-1][-1] == port - 1:
            ranges[-1].append(port)
        else:
            ranges.append([port])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ranges)
    assert parse_port_list(text) == ports
    assert parse_port_list(f" {text}\n") == ports


@pytest.mark.parametrize(
    "text", ["x", "-1", "1-2-3", "1;2", "5-", "9-5", "1_0", "65536", "1-99999999999", "9" * 5000]
)
def test_what_is_no_port_list_is_an_error(text: str) -> None:
    """It is never guessed at."""
    with pytest.raises(ValueError, match=r"is no port|runs backwards"):
        parse_port_list(text)


def test_services_are_read_with_all_their_oddities() -> None:
    """services(5): comments, aliases, tabs; what is odd is passed over."""
    text = (
        "# 1/tcp comment\n\nssh\t22/tcp\nhttp 80/tcp www # 81/tcp\nhttp 80/udp\n"
        "lonely\nbroken x/tcp\nnegative -1/tcp\nhuge 70000/tcp\nnone /tcp\nlast 65535/sctp"
    )
    assert parse_services(text) == {22, 80, 65535}


@given(st.text(max_size=300))
def test_services_never_fail(text: str) -> None:
    """Anybody may have edited the file."""
    assert all(0 <= port <= MAX_PORT for port in parse_services(text))


# --- blocks -------------------------------------------------------------------------------------


@given(
    st.sets(st.integers(1, 400), max_size=120),
    st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True),
)
def test_blocks_are_all_and_only_those_that_fit(ports: set[int], steps: list[int]) -> None:
    """A block begins where every step leads to a port of the same set."""
    pool = array("H", sorted(ports))
    found = set(draw_blocks(pool, frozenset(ports), steps))
    assert found == {port for port in ports if all(port + step in ports for step in steps)}
