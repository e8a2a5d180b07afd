"""The command: suites and storm, and then the tables in docs/takeover.md.

    python -m benchmarks.takeover                    all of it, about ten minutes; needs a registry
    python -m benchmarks.takeover --parts storm      the storm alone
    python -m benchmarks.takeover --only aiohttp --json

Suites are fetched by pip into a folder outside of the repository (--cache), and run there with
portlease as it stands here. The figures are kept in benchmarks/results/takeover.json; the page is
made of them, between its two marks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import _machine

from . import _fetch, _hosts, _page, _storm, _suites
from ._catalogue import SUITES

PARTS: Final = ("suites", "storm")
_PAGE: Final = _fetch.ROOT / "docs" / "takeover.md"
_RESULTS: Final = _fetch.ROOT / "benchmarks" / "results" / "takeover.json"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    options = _parser().parse_args(arguments)
    # Whoever starts us in the background may have it ignored, which suites that send it inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.render:
        _write(json.loads(_RESULTS.read_text(encoding="utf-8")))
        return 0
    figures: dict[str, Any] = {}
    if options.update:
        figures = json.loads(_RESULTS.read_text(encoding="utf-8"))
    figures["machine"] = _machine.describe("the machine's; the storm in a namespace of its own")
    if "suites" in options.parts:
        figures["suites"] = _measure_suites(options, figures.get("suites", []))
    if "storm" in options.parts:
        figures["storm"] = _measure_storm(options)
    whole = not options.only and set(options.parts) == set(PARTS) and not options.quick
    if options.json:
        print(json.dumps(figures, indent=1))
    elif whole or options.update:
        _write(figures)
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
        _say(f"{suite.name}: fetching")
        fetched = _fetch.fetch(suite, cache)
        _say(f"{suite.name} {fetched.version}: running")
        row = _suites.measure(suite, fetched)
        row["hosts"] = _hosts.prefix(cache)[1]
        found[suite.name] = row
        for mode in ("off", "on", "portserver"):
            if mode in row:
                counts = {key: row[mode][key] for key in ("passed", "failed", "skipped", "given")}
                _say(f"{suite.name}, {mode}: {counts}")
    return [found[suite.name] for suite in SUITES if suite.name in found]


def _measure_storm(options: argparse.Namespace) -> dict[str, Any]:
    if (reason := _storm.why_not()) is not None:
        return {"reason": reason, "rows": []}
    workers, tests = (2, 60) if options.quick else (8, 4000)
    _say(f"storm: {tests} tests, {workers} workers, off and on")
    return {"reason": "", "rows": _storm.measure(workers, tests)}


def _write(figures: dict[str, Any]) -> None:
    _RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    text = _PAGE.read_text(encoding="utf-8")
    _PAGE.write_text(_page.put_into(text, figures), encoding="utf-8")
    _say(f"wrote {_RESULTS.name} and {_PAGE.name}")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.takeover", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help=f"with commas, of: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument("--only", metavar="PATTERN", help="suites whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="a small storm; writes nothing")
    parser.add_argument("--json", action="store_true", help="print the figures, write nothing")
    parser.add_argument(
        "--update", action="store_true", help="write, and keep the figures of what is not run"
    )
    parser.add_argument("--render", action="store_true", help="make the page of the kept figures")
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache / "portlease-takeover",
        metavar="FOLDER",
        help="where releases and environments are kept (default: %(default)s)",
    )
    return parser
