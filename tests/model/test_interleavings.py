"""Every order in which the steps of the lease protocol can come, on a small model of the kernel.

What the model covers, and what it cannot, is in docs/model.md; the figures there are from here.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from _need import need
from _thieves import run_python, silent
from model import explorer, protocol
from model.explorer import EVERYTHING, explore, nobody_is_stuck, orders
from model.protocol import GUARD, HELD, OFFERED, SCRIPTS, Step, System, bind, close, drop, rest, row

if TYPE_CHECKING:
    from typing import Final

    from model.explorer import Invariant
    from model.protocol import Script

if sys.platform != "linux":
    pytest.skip("the protocol is Linux's", allow_module_level=True)

# --- the protocol as it is ----------------------------------------------------------------------

ALL: Final = (*EVERYTHING, nobody_is_stuck)
# A reading that misses rows makes a taker sit on a port for a moment, and nothing worse.
BUT_SITTING: Final = tuple(one for one in ALL if one is not explorer.nobody_sits)
LESSEES, DRAWERS = ("lessee", "lessee"), ("drawer", "drawer")


@pytest.mark.parametrize(
    ("system", "invariants", "worlds"),
    [
        pytest.param(System(LESSEES), ALL, 4209, id="two lessees"),
        pytest.param(System(DRAWERS), ALL, 6036, id="and both draw guarded ports"),
        pytest.param(
            System(DRAWERS, scripts=protocol.IN_THREADS), ALL, 6174, id="with threads besides"
        ),
        pytest.param(System(DRAWERS, misses=True), BUT_SITTING, 6612, id="rows are missed"),
        pytest.param(System((*LESSEES, "server")), EVERYTHING, 29415, id="and a server"),
        pytest.param(System(DRAWERS, ports=2), ALL, 52457, id="of two ports"),
        pytest.param(System(DRAWERS, grounds=("a", "b")), EVERYTHING, 17088, id="on two addresses"),
        pytest.param(System(DRAWERS, grounds=("a", "*")), ALL, 6036, id="on one and on all"),
    ],
)
def test_everything_holds_in_every_world(
    system: System, invariants: tuple[Invariant, ...], worlds: int
) -> None:
    """Whatever comes first, and whoever is killed wherever: the promise holds in every world.

    How many there are is told too: a model that has become smaller has lost something.
    """
    found = explore(system, *invariants)
    assert found.broken is None, found.broken
    assert found.worlds == worlds


@pytest.mark.long
@pytest.mark.parametrize(
    ("system", "invariants"),
    [
        pytest.param(System(("lessee",) * 3), ALL, id="three lessees"),
        pytest.param(System(("drawer",) * 3), ALL, id="three that draw guarded ports"),
        pytest.param(System(("drawer",) * 3, misses=True), BUT_SITTING, id="rows are missed"),
        pytest.param(System((*DRAWERS, "server")), EVERYTHING, id="and a server"),
        pytest.param(System((*LESSEES, "server"), ports=2), EVERYTHING, id="of two ports"),
        pytest.param(
            System(("drawer",) * 3, grounds=("a", "b", "*")), EVERYTHING, id="on addresses"
        ),
    ],
)
def test_everything_holds_in_every_world_long(
    system: System, invariants: tuple[Invariant, ...]
) -> None:
    """The same of three processes: up to some millions of worlds."""
    found = explore(system, *invariants)
    print(f"{found.worlds:,} worlds, {found.steps:,} steps")  # noqa: T201 - for docs/model.md
    assert found.broken is None, found.broken


LIFE: Final = ("take OFFERED", "step_aside OFFERED", "take_back GUARDED", "release HELD")


def test_how_many_orders_there_are() -> None:
    """One lessee's whole life against another's take alone can come in so many orders."""
    system = System(LESSEES)
    assert orders(system, LIFE, ("take HELD", "release HELD")) == 1345
    assert orders(system, LIFE, LIFE) == 2380
    assert orders(System(("lessee",) * 3), LIFE, LIFE, LIFE) == 9_007_242


# --- what the promise does not say --------------------------------------------------------------


def outcomes(*todo: str) -> set[tuple[str, ...]]:
    """Where each process may rest in the end, when each has done one thing and nobody died."""
    system = System(("drawer",) * len(todo), dies=False)
    seen = {system.beginning(tuple((one,) for one in todo))}
    waiting = list(seen)
    ends = set()
    while waiting:
        world = waiting.pop()
        after = {one for _, _, one in protocol.successors(system, world) if due(world, one)}
        if not after:
            ends.add(tuple(proc.doing for proc in world[0]))
        waiting += after - seen
        seen |= after
    return ends


due = explorer.is_due


def test_of_takers_one_gets_the_port() -> None:
    """However many want the same port at once: exactly one has it in the end."""
    took, failed = str(HELD), protocol.NOTHING
    ends = outcomes("take HELD", "take HELD", "take HELD")
    assert ends == {
        (took, failed, failed),
        (failed, took, failed),
        (failed, failed, took),
    }


def test_limit_a_taker_and_a_drawer_may_both_be_refused() -> None:
    """A limit: who asks for this very number meets one that draws it GUARDED; neither gets it.

    The drawer draws another; who named it is told that it cannot be had, as at any moment in which
    another has it.
    """
    took, failed = str(HELD), protocol.NOTHING
    assert outcomes("take HELD", "take guarded") == {
        (took, failed),
        (failed, protocol.FROM_THE_START),
        (failed, failed),
    }


def test_limit_a_port_guarded_from_the_start_may_be_sat_upon() -> None:
    """A limit that line 6 of the promise names: a taker that looked before the guard stood."""
    found = explore(System(DRAWERS), explorer.nobody_sits_at_all)
    assert found.broken is not None
    assert "take HELD: bind hold" in found.broken


def test_limit_with_rows_missed_a_taker_may_sit_for_a_moment() -> None:
    """The other limit of line 6: a reading of /proc/net/unix that misses the taker's row."""
    assert explore(System(LESSEES, misses=True), *EVERYTHING).broken is not None


def test_limit_leases_on_two_addresses_share_a_guard() -> None:
    """One that has stepped aside keeps the other, on another address, from doing the same.

    Therefore step_aside() gives up, and says so.
    """
    found = explore(System(DRAWERS, grounds=("a", "b")), nobody_is_stuck)
    assert found.broken is not None
    assert "step_aside" in found.broken.splitlines()[-1]


# --- the same, with something wrong in it -------------------------------------------------------


class Wrong(NamedTuple):
    """A protocol with a mistake, in which system it shows, and as what."""

    scripts: dict[str, Script]
    system: System
    shows: Invariant


def without(call: str, *names: str, last: bool = False) -> dict[str, Script]:
    """The scripts without one step of those named: the first of its kind, or the last."""
    changed = dict(SCRIPTS)
    for name in names:
        steps = list(SCRIPTS[name])
        places = [place for place, step in enumerate(steps) if step.call == call]
        del steps[places[-1 if last else 0]]
        changed[name] = tuple(steps)
    return changed


def swapped(name: str, one: int, other: int) -> dict[str, Script]:
    """The scripts with two steps of one in each other's place."""
    steps = list(SCRIPTS[name])
    steps[one], steps[other] = steps[other], steps[one]
    return {**SCRIPTS, name: tuple(steps)}


TAKES = "take HELD", "take OFFERED"
ASIDE = "step_aside HELD"
ONE, BOTH = System(LESSEES), System(DRAWERS)
MISSING = System(LESSEES, misses=True)
MISTAKES = {
    "no second look, guarded ports drawn": Wrong(
        without("look", *TAKES, last=True), BOTH, explorer.no_two_leases
    ),
    "no second look, rows missed": Wrong(
        without("look", *TAKES, last=True), MISSING, explorer.no_two_leases
    ),
    "no look at all": Wrong(
        {**SCRIPTS, "take HELD": (row(HELD), bind("hold", "take HELD: refused"), rest(HELD))},
        ONE,
        explorer.no_two_leases,
    ),
    "no first look": Wrong(without("look", *TAKES), ONE, explorer.nobody_sits),
    "no row before the look": Wrong(swapped("take HELD", 0, 1), ONE, explorer.nobody_sits),
    "no row": Wrong(without("row", "take HELD"), ONE, explorer.nobody_sits),
    "no waiting for takers": Wrong(without("read", ASIDE), ONE, explorer.nobody_sits),
    "waits before it has the guard": Wrong(swapped(ASIDE, 1, 2), ONE, explorer.nobody_sits),
    "lets go before it has the guard": Wrong(swapped(ASIDE, 1, 3), ONE, explorer.no_two_leases),
    "no guard": Wrong(without("guard", ASIDE), ONE, explorer.no_two_leases),
    "a drawer's guard after its bind": Wrong(
        {
            **SCRIPTS,
            "take guarded": (
                row("GUARDED"),
                bind("probe", "take guarded: refused"),
                close("probe"),
                GUARD._replace(on_refusal="take guarded: refused"),
                rest(protocol.FROM_THE_START),
            ),
        },
        BOTH,
        explorer.no_two_leases,
    ),
    "takes back after it has dropped the guard": Wrong(
        swapped("take_back GUARDED", 1, 2), ONE, explorer.no_two_leases
    ),
    "keeps the guard it has taken back from": Wrong(
        without("unguard", "take_back GUARDED"), ONE, explorer.as_the_table_says
    ),
    "binds with SO_REUSEADDR": Wrong(
        {
            **SCRIPTS,
            "take OFFERED": (
                row(OFFERED),
                Step("look", "", "take OFFERED: refused"),
                bind("joiner", "take OFFERED: refused"),
                Step("look", "", "take OFFERED: refused"),
                rest(OFFERED),
            ),
        },
        ONE,
        explorer.no_two_leases,
    ),
    "withdraws without a word to the kernel": Wrong(
        without("reuse", "withdraw OFFERED"), ONE, explorer.as_the_table_says
    ),
    "a refused take keeps its row": Wrong(
        {**SCRIPTS, "take HELD: refused": (rest(protocol.NOTHING),)},
        ONE,
        explorer.as_the_table_says,
    ),
    "a take that lets go keeps its hold": Wrong(
        without("close", "take HELD: let go"), BOTH, explorer.as_the_table_says
    ),
    "the old row goes before the new one comes": Wrong(
        {**SCRIPTS, "offer HELD": (drop(HELD), row(OFFERED), Step("reuse", "on"), rest(OFFERED))},
        ONE,
        explorer.always_listed,
    ),
    "no patience bound, and the guard is never given up": Wrong(
        {
            **SCRIPTS,
            "take guarded": (
                row("GUARDED"),
                GUARD._replace(on_refusal="take guarded: refused"),
                bind("probe", "wait"),
                close("probe"),
                rest(protocol.FROM_THE_START),
            ),
        },
        BOTH,
        nobody_is_stuck,
    ),
    "the release forgets its guard": Wrong(
        without("unguard", "release GUARDED"), ONE, explorer.as_the_table_says
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    """The exploration can fail: each mistake in the protocol breaks what it is to break."""
    wrong = MISTAKES[mistake]
    found = explore(wrong.system._replace(scripts=wrong.scripts), wrong.shows)
    assert found.broken is not None, f"{found.worlds} worlds, and nothing was wrong"


# --- the model is the code's --------------------------------------------------------------------


def test_the_scripts_are_the_codes() -> None:
    """What portlease calls in each of its moves, refused ones too, is what the model says."""
    need.capability("abstract_unix")
    told = silent(
        run_python("import json; from model.observed import courses; print(json.dumps(courses()))")
    )
    seen = json.loads(told)
    for what, calls in seen.items():
        name, _, number = what.partition(", ")
        scripts = SCRIPTS
        if number == "in threads":
            scripts, number = protocol.IN_THREADS, ""
        refused = int(number) if number else None
        assert calls == protocol.course(scripts, name, refused), what
    whole = {name for name in SCRIPTS if ":" not in name and not name.startswith("serve")}
    # The others are the same code as those in every state of their kind.
    assert whole - {what.partition(", ")[0] for what in seen} <= {
        "release HANDED_OVER",
        f"release {protocol.FROM_THE_START}",
    }
