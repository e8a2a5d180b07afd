"""docs/benchmarks.md, from the figures that are kept: pure, so that it can be made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import _peers
import _plots
import _report
from _markdown import filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from _report import Kept


@dataclass(frozen=True, slots=True)
class _Section:
    """What stands above a benchmark's tables; *plots*: one for each table, from the first on."""

    heading: str
    text: str
    plots: tuple[str, ...] = ()


_SECTIONS: Final = {
    "lease_cost": _Section(
        "What a port costs",
        """
        One process takes ports and gives them back, nothing else going on: a default lease, the
        same system calls made bare, in a Python loop and in C, and the libraries that hand out port
        numbers. A lease makes ten calls where a helper that holds nothing makes four, and that is
        the difference between them. Then all again while this process, or another, holds many
        leases.
        """,
        ("cost", "held"),
    ),
    "crowd": _Section(
        "In a crowd",
        """
        How many ports 1 to 16 processes get in a second, all together. Two cores do twice as much
        as one at best; from there on, a line that falls means that they are in each other's way.
        """,
        ("crowd",),
    ),
    "collisions": _Section(
        "Handed to two at once",
        """
        What the hold is for. 16 processes are given 1,000 ports each, one after the other, wait 5
        ms as a server's start would, bind, listen, and stop. Nobody else is in their network, and
        it has the default ephemeral range. Then the same by 8 processes in a range of 400 ports,
        while one process binds port 0 and another connects, over and over.
        """,
        ("collisions",),
    ),
    "readiness": _Section(
        "Ready, how long after listen()",
        """
        A server notes the clock when its listen() has returned, and its starter when the call that
        waits for it has. In between, a test waits for nothing. A starter that connects every 100 ms
        is late by half of that; `serve()` looks into the kernel's socket table as soon as the
        server's process has done something.
        """,
        ("readiness",),
    ),
    "first_byte": _Section(
        "A suite with a server for each test",
        """
        The same pytest suite of 50 tests with each starter: every test starts a server, asks it,
        and reads the first byte of the answer. The starters that are told a port get it from
        CPython's `find_unused_port()`.
        """,
        ("first-byte",),
    ),
    "contention": _Section(
        "The same ports wanted by all",
        """
        8 processes lease of the same 500 numbers what they can get; then the holder of all 500 is
        killed, and they are leased again. Nobody else leases ports by number. The yardstick is a
        bare exclusive bind, which tells nobody who has the port.
        """,
    ),
    "import_time": _Section(
        "Import", "What each module adds to `import socket`, and what it loads for that."
    ),
    "portserver": _Section(
        "As a port server",
        """
        `portlease portserver` speaks portpicker's protocol. A request to each server while ports
        of a living process are out.
        """,
    ),
    "own_binds": _Section(
        "A test's own binds",
        """
        The pytest plugin lets servers inside the test process bind beside its leases, by an audit
        hook (PEP 578). What the hook costs each call.
        """,
    ),
    "isolate_cost": _Section(
        "A network of its own",
        """
        `portlease isolate` and its like start a command in a network namespace. From start to end
        of `true`, beside `unshare` and bubblewrap, which leave the interface down or do more.
        """,
    ),
    "audit_cost": _Section(
        "The audit", "What `portlease audit` costs calls, commands and a whole suite."
    ),
    "broker_cost": _Section(
        "The broker",
        """
        With `how="broker"` a server's bind(2) and listen(2) are made for it, beside a lease that
        stays held. What that costs those calls, others, and a server's throughput.
        """,
    ),
}
# What the project aims at, in this order; the others' goals stand in their own sections.
_AIMS: Final = ("lease_cost", "crowd", "collisions", "readiness", "first_byte")


def chosen(results: Iterable[Kept]) -> dict[str, Kept]:
    """Of each benchmark the figures that are shown: the oldest Python's."""
    found: dict[str, Kept] = {}
    for one in results:
        found.setdefault(one.result.name, one)
    return found


def page(results: Sequence[Kept]) -> str:
    """The whole page, in Markdown."""
    shown = chosen(results)
    lines = [
        "# Benchmarks",
        "",
        filled(
            """
            What portlease costs and what it is worth, beside the bare system calls and beside the
            libraries that hand out port numbers or start servers. Made by `make bench`
            (`python -m benchmarks`), not by hand; the same figures, and more of them, are in
            `benchmarks/results/`. How to read them, and how to measure
            them on your own machine, is in `benchmarks/README.md`.
            """
        ),
        "",
        filled(
            """
            Every contestant has its turn in every round, and a ratio is the median of the ratios
            within the rounds. Ratios carry over to other machines; microseconds do not.
            """
        ),
        "",
        *_machine(shown),
        *_aims(shown),
        *_ahead(shown),
    ]
    for name, section in _SECTIONS.items():
        if name in shown:
            lines += _section(section, shown[name])
            lines += _other_pythons(shown[name], results)
    return "\n".join(lines) + "\n"


def _machine(shown: Mapping[str, Kept]) -> list[str]:
    """What all have in common; the rest stands under each heading."""
    machines = [one.machine for one in shown.values()]
    names = list(dict.fromkeys(name for machine in machines for name in machine))
    common = [
        name for name in names if name not in _TOLD and len({m.get(name) for m in machines}) == 1
    ]
    return [f"- {name}: {machines[0][name]}" for name in common] if machines else []


_TOLD: Final = ("date", "load at the start")


def _aims(shown: Mapping[str, Kept]) -> list[str]:
    goals = [goal for name in _AIMS if name in shown for goal in shown[name].result.goals]
    lines = [
        "",
        "## Aims, reached and not",
        "",
        "| aim | at most | measured | |",
        "|---|---:|---:|---|",
    ]
    for goal in goals:
        unit = f" {goal.unit}" if goal.unit else ""
        verdict = "reached" if goal.reached else "**not reached**"
        lines.append(
            f"| {goal.what} | {goal.at_most:g}{unit} | {goal.measured:.3g}{unit} | {verdict} |"
        )
    others = [goal for name, one in shown.items() if name not in _AIMS for goal in one.result.goals]
    missed = [goal for goal in others if not goal.reached]
    told = (
        f"Of the {len(others)} smaller ones, further down, {len(others) - len(missed)} are reached"
    )
    lines += ["", told + (". Not:" if missed else ".")]
    if missed:
        lines += ["", *(f"- {goal.text()}" for goal in missed)]
    return lines


def _ahead(shown: Mapping[str, Kept]) -> list[str]:
    """Who is quicker than portlease, said plainly."""
    lines: list[str] = []
    if "lease_cost" in shown:
        lines += _quicker_to_take(shown["lease_cost"])
    if "first_byte" in shown:
        lines += _quicker_to_start(shown["first_byte"])
    return ["", "## Where another is ahead", "", *lines] if lines else []


_NOTHING: Final = "They hold nothing; what that is worth stands [below](#handed-to-two-at-once)."
_SOCKET: Final = (
    "They return a listening socket of this very process, on 127.0.0.1, and are ahead where that "
    "is all that is wanted; a server that is told a number cannot have it."
)
_WHY: Final = {
    _peers.NOTHING: _NOTHING,
    _peers.MEMORY: "It remembers what it gave, for this process alone.",
    _peers.SOCKET: _SOCKET,
}


def _quicker_to_take(kept: Kept) -> list[str]:
    rows = {str(row["name"]): row for row in kept.result.tables[0].rows}
    quicker: dict[str, list[str]] = {}
    for name, hold in _peers.HOLDS.items():
        share = float(rows[name]["lease"] or 0) if name in rows else 1
        if share < 1:
            why = _WHY.get(hold, f"It holds by {hold}.")
            quicker.setdefault(why, []).append(f"{name} ({share:.2f} times)")
    return [f"- Taking a port: {', '.join(names)}. {why}" for why, names in quicker.items()]


def _quicker_to_start(kept: Kept) -> list[str]:
    (table,) = kept.result.tables
    quicker: dict[str, list[str]] = {}
    for row in table.rows:
        if isinstance(row["ratio"], float) and row["ratio"] < 1:
            found = quicker.setdefault(str(row["server"]), [])
            found.append(f"{row['name']} ({row['ratio']:.2f} times)")
    return [
        f"- The whole suite with {server}: {'; '.join(names)}. `serve()` starts a keeper beside "
        "each server, so that nothing is left of it; they do not."
        for server, names in quicker.items()
    ]


def _section(section: _Section, kept: Kept) -> list[str]:
    lines = ["", f"## {section.heading}", "", filled(section.text), "", filled(_made(kept))]
    for at, table in enumerate(kept.result.tables):
        lines += ["", f"### {table.title}"]
        if at < len(section.plots):
            name = section.plots[at]
            lines += ["", f"![{_plots.PLOTS[name].title}](benchmarks/{name}.svg)"]
        lines += ["", *_report.markdown(table)]
    if kept.result.goals:
        lines += ["", *(f"- {goal.text()}" for goal in kept.result.goals)]
    if kept.result.notes:
        lines += ["", "Notes:", "", *(f"- {note}" for note in kept.result.notes)]
    return lines


def _made(kept: Kept) -> str:
    machine = kept.machine
    size = f"; {machine['size']}" if "size" in machine else ""
    return (
        f"Measured on {machine['date']} with {machine['python'].partition(',')[0]}, in "
        f"{kept.seconds} s; load at the start {machine['load at the start']}{size}."
    )


def _other_pythons(kept: Kept, results: Iterable[Kept]) -> list[str]:
    """Its goals on every Python that it was measured with, if that is more than one."""
    same = [one for one in results if one.result.name == kept.result.name]
    if len(same) == 1:
        return []
    heads = [".".join(map(str, one.python)) for one in same]
    lines = [
        "",
        "### By Python",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(same),
    ]
    for goal in kept.result.goals:
        found = [{one.what: one for one in other.result.goals}.get(goal.what) for other in same]
        cells = ["" if one is None else f"{one.measured:.3g} {one.unit}".strip() for one in found]
        lines.append(f"| {goal.what} | " + " | ".join(cells) + " |")
    return lines
