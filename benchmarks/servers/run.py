"""The command: every part, and then docs/servers.md and benchmarks/results/servers.json.

    make servers                                   all of it, about ten minutes, as root
    python -m benchmarks.servers --quick           a small one, shown and not written
    python -m benchmarks.servers --only nginx --parts servers

Started by root it measures in a network namespace of its own, for root and for an ordinary user
(nobody); started by anybody else, in the machine's network, for that user alone.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import _command
import _machine
import _measure
from _command import say

from . import _build, _page, _thefts, _users
from ._catalogue import CATALOGUE, HOWS, ITSELF

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ._build import Programs
    from ._thefts import Series
    from ._users import User

PARTS: Final = ("servers", "thefts", "delays", "binds", "leftovers")
DOCUMENT: Final = _command.Document("servers", _page.page)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if options.programs:
        print("\n".join(sorted({f"{one.program}:{one.package}" for one in CATALOGUE})))
        return 0
    if options.render:
        DOCUMENT.render()
        return 0
    network = _command.network("servers", arguments, options, of_root=True)
    kept = DOCUMENT.figures() if options.update else {}
    figures = kept | _figures(options, network)
    whole = not options.quick and not options.only and set(options.parts) == set(PARTS)
    if options.json:
        print(json.dumps(figures, indent=1))
    elif options.output or options.update or whole:
        # Tracebacks in it name where this machine keeps its Python, which is nobody's business.
        text = json.dumps(figures).replace(f"{sys.base_prefix}/", "")
        replace(DOCUMENT, base=options.output or DOCUMENT.base).write(json.loads(text))
    else:
        print(_page.page(figures))
    return 0


def _figures(options: argparse.Namespace, network: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"machine": _machine.describe(network)}
    if options.quick:
        figures["machine"]["size"] = "small (--quick): it shows what works, and measures little"
    with tempfile.TemporaryDirectory(prefix="matrix-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the ordinary user's folder is in it, and the programs
        programs = _build.build(directory)
        users, notes = _users.users(directory)
        if "servers" in options.parts:
            figures["servers"] = {"notes": notes, **_servers(options, programs, users)}
        for part, measure in (
            ("delays", _ready),
            ("binds", _bound),
            ("leftovers", _left),
            ("thefts", _stolen),
        ):
            if part in options.parts:
                figures[part] = measure(programs, users, quick=options.quick)
    return figures


def _servers(
    options: argparse.Namespace, programs: Programs, users: Sequence[User]
) -> dict[str, list[Any]]:
    names = [one.name for one in CATALOGUE if re.search(options.only or "", one.name)]
    starts = 1 if options.quick else 3
    figures: dict[str, list[Any]] = {user: [] for user in _page.USERS}
    for user in users:
        for cell in user.measure(
            "_cells",
            names=names,
            hows=[ITSELF, *HOWS],
            starts=starts,
            directory=str(user.directory),
            stamp=programs.stamp,
        ):
            figures[user.name].append(cell)
            outcome = "yes" if cell["served"] else cell["reason"]
            say(f"{user.name}: {cell['name']}, {cell['how']}: {outcome}")
    return figures


def _ready(programs: Programs, users: Sequence[User], *, quick: bool) -> dict[str, Any]:
    say("ready, how long after listen()")
    starts = 5 if quick else 200
    directory = str(users[0].directory)
    found: dict[str, Any] = {}
    for one in users[0].measure("_delays", tiny=programs.tiny, directory=directory, starts=starts):
        found |= one
    return found


def _bound(programs: Programs, users: Sequence[User], *, quick: bool) -> dict[str, Any]:
    rounds, count = (1, 50) if quick else (4, 2000)
    figures: dict[str, Any] = {}
    for user in users:
        say(f"what a bind costs, {user.name}")
        (hows,) = user.measure("_binds", binds=programs.binds, rounds=rounds, count=count)
        figures[user.name] = {
            # Thousands of figures each: what describes them is kept.
            how: calls if isinstance(calls, str) else {c: _described(calls[c]) for c in calls}
            for how, calls in hows.items()
        }
    return figures


def _described(values: Sequence[float]) -> dict[str, float]:
    spread = _measure.spread(values)
    return {"count": spread.count, "median": spread.median, "p99": spread.p99, "most": spread.most}


def _left(programs: Programs, users: Sequence[User], *, quick: bool) -> list[Any]:
    starts, kills = (8, 2) if quick else (200, 50)
    figures: list[Any] = []
    for how in HOWS:
        say(f"left behind, {how}")
        figures += users[0].measure(
            "_leftovers", tiny=programs.tiny, how=how, starts=starts, kills=kills
        )
    return figures


def _stolen(programs: Programs, users: Sequence[User], *, quick: bool) -> list[Any]:
    counts = (10, 5) if quick else (2000, 500)

    def measure(user: User, series: Sequence[Series]) -> list[Any]:
        figures = []
        given = [asdict(one) for one in series]
        for one in user.measure("_thefts", thief=programs.thief, tiny=programs.tiny, series=given):
            figures.append(one)
            say(
                f"{one['user']}: {one['transport']} {one['adversary']} {one['means']}: "
                f"{one['thefts']} of {one['starts']} in {one['seconds']:.0f} s {one['reason']}"
            )
        return figures

    figures: list[Any] = []
    for user in users:
        # All of them once, by whoever is the first; the second has those that differ for him.
        series = _thefts.series(user.name, *counts, everything=user is users[0])
        # Most of a start that steps aside is waiting for copies of the hold that a fork may have
        # made, 50 ms, since the adversary looks like one. So these run side by side.
        patient = [one for one in series if one.means == "step-aside"]
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(measure, user, [one]) for one in patient]
            for one in waiting:
                figures += one.result()
        figures += measure(user, [one for one in series if one not in patient])
    return sorted(figures, key=_thefts.rank)


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("servers", __doc__)
    _command.add_parts(parser, PARTS, "servers whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="a few starts of everything")
    _command.add_written(parser, "write, and keep the figures of the other parts")
    _command.add_output(parser)
    _command.add_programs(parser)
    _command.add_network(parser, "root may make one")
    return parser
