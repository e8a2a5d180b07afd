"""The command: every part, and then docs/servers.md and benchmarks/results/servers.json.

    make servers                                   all of it, about ten minutes, as root
    python -m benchmarks.servers --quick           a small one, shown and not written
    python -m benchmarks.servers --only nginx --parts servers

Started by root it measures in a network namespace of its own, for root and for an ordinary user
(nobody); started by anybody else, in the machine's network, for that user alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import _machine
import _measure
import _namespace
from _ports import ephemeral_range

from . import _build, _page, _thefts, _users
from ._catalogue import CATALOGUE, HOWS, ITSELF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._build import Programs
    from ._thefts import Series
    from ._users import User

ROOT: Final = Path(__file__).resolve().parents[2]
PARTS: Final = ("servers", "thefts", "delays", "binds", "leftovers")
_PAGE: Final = Path("docs/servers.md")
_RESULTS: Final = Path("benchmarks/results/servers.json")


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if options.programs:
        print("\n".join(sorted({f"{one.program}:{one.package}" for one in CATALOGUE})))
        return 0
    if options.render:
        figures = json.loads((ROOT / _RESULTS).read_text(encoding="utf-8"))
        (ROOT / _PAGE).write_text(_page.page(figures), encoding="utf-8")
        return 0
    network = "the machine's"
    if options.network == "own" and os.geteuid() == 0 and _namespace.why_not() is None:
        _again_in_a_namespace(arguments)
    elif options.network == "entered":
        network = "a namespace of its own"
    kept: dict[str, Any] = {}
    if options.update:
        kept = json.loads((ROOT / _RESULTS).read_text(encoding="utf-8"))
    figures = kept | _figures(options, network)
    text = _page.page(figures)
    whole = not options.quick and not options.only and set(options.parts) == set(PARTS)
    if options.json:
        print(json.dumps(figures, indent=1))
    elif options.output or options.update or whole:
        _write(options.output or ROOT, figures, text)
    else:
        print(text)
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
            _say(f"{user.name}: {cell['name']}, {cell['how']}: {outcome}")
    return figures


def _ready(programs: Programs, users: Sequence[User], *, quick: bool) -> dict[str, Any]:
    _say("ready, how long after listen()")
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
        _say(f"what a bind costs, {user.name}")
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
        _say(f"left behind, {how}")
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
            _say(
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


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _write(base: Path, figures: dict[str, Any], text: str) -> None:
    kept = json.dumps(figures, indent=1) + "\n"
    # Tracebacks in it name where this machine keeps its Python, which is nobody's business.
    kept = kept.replace(f"{sys.base_prefix}/", "")
    for path, content in ((_PAGE, text), (_RESULTS, kept)):
        file = base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        _say(f"wrote {file}")


def _again_in_a_namespace(arguments: list[str]) -> NoReturn:
    """Replace this process by one where nobody else has ports: what others do would disturb."""
    module = [sys.executable, "-m", "benchmarks.servers"]
    inner = [*module, *arguments, "--network", "entered"]
    command = _namespace.command(*ephemeral_range(), inner)
    os.chdir(ROOT)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.servers",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help=f"with commas, of: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument("--only", metavar="PATTERN", help="servers whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="a few starts of everything")
    parser.add_argument("--json", action="store_true", help="print the figures, write nothing")
    parser.add_argument(
        "--output", type=Path, metavar="DIRECTORY", help="write below it, whatever was measured"
    )
    parser.add_argument(
        "--update", action="store_true", help="write, and keep the figures of the other parts"
    )
    parser.add_argument("--render", action="store_true", help="make the page of the kept figures")
    parser.add_argument(
        "--programs", action="store_true", help="list program:package of all that it starts"
    )
    parser.add_argument(
        "--network",
        choices=("own", "shared", "entered"),
        default="own",
        help="a namespace of its own, where root may make one (the default), or the machine's",
    )
    return parser
