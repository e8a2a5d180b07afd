"""The command: suites and storm, and then the tables in docs/takeover.md.

    python -m benchmarks.takeover                    all of it, about ten minutes; needs a registry
    python -m benchmarks.takeover --parts storm      the storm alone
    python -m benchmarks.takeover --only aiohttp --json

Suites are fetched by pip into a folder outside of the repository (--cache), and run there with
portlease as it stands here. The figures are kept in benchmarks/results/takeover.json; the page is
made of them, between its two marks.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import _command
import _machine
from _command import say

from . import _fetch, _hosts, _page, _storm, _suites
from ._catalogue import SUITES

if TYPE_CHECKING:
    import argparse

PARTS: Final = ("suites", "storm")
DOCUMENT: Final = _command.Document("takeover", _page.page)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    options = _parser().parse_args(arguments)
    # Whoever starts us in the background may have it ignored, which suites that send it inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.render:
        DOCUMENT.render()
        return 0
    figures = DOCUMENT.figures() if options.update else {}
    figures["machine"] = _machine.describe("the machine's; the storm in a namespace of its own")
    if "suites" in options.parts:
        figures["suites"] = _measure_suites(options, figures.get("suites", []))
    if "storm" in options.parts:
        figures["storm"] = _measure_storm(options)
    whole = not options.only and set(options.parts) == set(PARTS) and not options.quick
    if options.json:
        print(json.dumps(figures, indent=1))
    elif whole or options.update:
        DOCUMENT.write(figures)
    else:
        print("\n".join(_page.tables(figures)))
    return 0


def _measure_suites(options: argparse.Namespace, kept: list[Any]) -> list[Any]:
    cache: Path = options.cache
    cache.mkdir(parents=True, exist_ok=True)
    found = {row["name"]: row for row in kept}
    for suite in SUITES:
        if re.search(options.only or "", suite.name) is None:
            continue
        say(f"{suite.name}: fetching")
        fetched = _fetch.fetch(suite, cache)
        say(f"{suite.name} {fetched.version}: running")
        row = _suites.measure(suite, fetched)
        row["hosts"] = _hosts.prefix(cache)[1]
        found[suite.name] = row
        for mode in ("off", "on", "portserver"):
            if mode in row:
                counts = {key: row[mode][key] for key in ("passed", "failed", "skipped", "given")}
                say(f"{suite.name}, {mode}: {counts}")
    return [found[suite.name] for suite in SUITES if suite.name in found]


def _measure_storm(options: argparse.Namespace) -> dict[str, Any]:
    if (reason := _storm.why_not()) is not None:
        return {"reason": reason, "rows": []}
    workers, tests = (2, 60) if options.quick else (8, 4000)
    say(f"storm: {tests} tests, {workers} workers, off and on")
    return {"reason": "", "rows": _storm.measure(workers, tests)}


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("takeover", __doc__)
    _command.add_parts(parser, PARTS, "suites whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="a small storm; writes nothing")
    _command.add_written(parser, "write, and keep the figures of what is not run")
    parser.add_argument(
        "--cache",
        type=Path,
        default=_command.cache("takeover"),
        metavar="FOLDER",
        help="where releases and environments are kept (default: %(default)s)",
    )
    return parser
