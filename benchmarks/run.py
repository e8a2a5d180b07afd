#!/usr/bin/env python3
"""Measure portlease against the bare system calls and its peers, side by side in one run.

    make bench                                   all of it, into docs/benchmarks.md (a quarter hour)
    make bench ARGS=--quick                      a small run of each, printed
    make bench ARGS='lease_cost collisions'      some of them, printed
    make bench ARGS='lease_cost --update'        one of them, into the page

Each one's figures are kept in benchmarks/results/ as soon as they are there. Nothing here passes or
fails: a goal that is missed is told. The exit status is 1 only if a benchmark could not be run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import _command  # noqa: E402
import _machine  # noqa: E402
import _namespace  # noqa: E402
import _page  # noqa: E402
import _plots  # noqa: E402
import _report  # noqa: E402
from _command import say  # noqa: E402

BENCHMARKS: Final = {
    "lease_cost": "take and give back, against the bare calls and the peers; with many held",
    "crowd": "the same by 1 to 16 processes at once",
    "collisions": "of 16,000 ports, how many had two owners; and 8 processes under storms",
    "readiness": "from a server's listen() to its starter's return",
    "first_byte": "a pytest suite of 50 tests, each with a server of its own",
    "contention": "8 processes for 500 named ports; a holder that is killed",
    "import_time": "what `import portlease` adds to `import socket`, and what it loads",
    "portserver": "a request to a port server with up to 10,000 ports out, beside portpicker's",
    "own_binds": "the audit hook that lets a test's own servers bind beside its leases",
    "isolate_cost": "start of a command in a network of its own; 200 of them alive",
    "audit_cost": "calls, starts and a suite, with and without the audit",
    "broker_cost": "bind, listen, redis and starts, with and without the broker",
}
_RESULTS: Final = Path("benchmarks/results")
_DOCS: Final = Path("docs")


class Scale:
    """How much is measured: picks the figure for the size that was asked for."""

    SIZES: Final = ("tiny", "quick", "full")

    def __init__(self, size: str) -> None:
        if size not in self.SIZES:
            raise ValueError(f"{size!r} is none of {', '.join(self.SIZES)}")
        self.size = size

    def __call__(self, *, tiny: int, quick: int, full: int) -> int:
        """Return the figure for this size."""
        return {"tiny": tiny, "quick": quick, "full": full}[self.size]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    base = options.output or HERE.parent
    if options.render:
        _write(base)
        return 0
    network = "a namespace of its own"
    if options.network == "own":
        reason = _namespace.why_not()
        if reason is None:
            _command.again_in_a_namespace([str(HERE / "run.py"), *arguments])
        network = f"shared with the machine ({reason})"
    elif options.network == "shared":
        network = "shared with the machine"
    some = options.benchmark or options.only
    wanted = some or list(BENCHMARKS)
    keep = not options.json and bool(
        options.output or options.update or (options.scale == "full" and not some)
    )
    machine = _machine.describe(network)
    if options.scale != "full":
        machine["size"] = f"{options.scale}: it shows that it works, and measures little"
    _machine.raise_descriptor_limit()
    results, failed = _run(wanted, options, machine, base / _RESULTS if keep else None)
    if options.json:
        print(_report.to_json(machine, results))
    if keep:
        _write(base)
    for name in failed:
        say(f"{name} could not be run: see above")
    return 1 if failed else 0


def _run(
    wanted: list[str],
    options: argparse.Namespace,
    machine: dict[str, str],
    directory: Path | None,
) -> tuple[list[_report.Result], list[str]]:
    """Run them one after the other, and keep each in *directory* when it is there."""
    before = _report.kept(HERE / "results")
    known = {one.result.name: one.seconds for one in before if "size" not in one.machine}
    results, failed = [], []
    for at, name in enumerate(wanted):
        left = _left(wanted[at:], known) if options.scale == "full" else ""
        say(f"[{at + 1}/{len(wanted)}] {name}: {BENCHMARKS[name]} ...{left}")
        start = time.monotonic()
        try:
            result = importlib.import_module(name).measure(Scale(options.scale))
        except Exception:  # noqa: BLE001 - told, and the others are measured all the same
            traceback.print_exc()
            failed.append(name)
            continue
        seconds = time.monotonic() - start
        missed = [goal for goal in result.goals if not goal.reached]
        say(
            f"[{at + 1}/{len(wanted)}] {name}: {seconds:.0f} s, "
            f"{len(result.goals) - len(missed)} of {len(result.goals)} goals reached"
        )
        results.append(result)
        if not options.json:
            _report.show(result)
        if directory is not None:
            say(f"wrote {_report.save(result, machine, seconds, directory)}")
    return results, failed


def _left(names: list[str], known: dict[str, int]) -> str:
    """How long these took the last time."""
    if not all(name in known for name in names):
        return ""
    minutes, seconds = divmod(sum(known[name] for name in names), 60)
    return f" ({known[names[0]]} s the last time; {minutes}:{seconds:02} to go with it)"


def _write(base: Path) -> None:
    """Make the page and its plots of the figures that are kept."""
    results = _report.kept(base / _RESULTS)
    page = base / _DOCS / "benchmarks.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_page.page(results), encoding="utf-8")
    say(f"wrote {page}")
    try:
        for path in _plots.draw(_page.chosen(results), page.parent / "benchmarks"):
            say(f"wrote {path}")
    except ImportError as error:
        say(f"no plots: {error} (`make bench` installs it)")


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in BENCHMARKS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(BENCHMARKS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:12} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"benchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "benchmark", nargs="*", choices=[*BENCHMARKS, []], metavar="BENCHMARK", help="all if none"
    )
    parser.add_argument("--only", type=_names, metavar="NAMES", help="the same, with commas")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale",
        choices=Scale.SIZES,
        default="full",
        help="how much is measured; tiny only proves that the command works (default: full)",
    )
    size.add_argument(
        "--quick", dest="scale", action="store_const", const="quick", help="--scale quick"
    )
    _command.add_network(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, write nothing")
    parser.add_argument(
        "--update",
        action="store_true",
        help="write what was measured, and keep the figures of the others",
    )
    _command.add_output(parser)
    _command.add_render(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
