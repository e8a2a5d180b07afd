#!/usr/bin/env python3
"""Measure portlease against the bare system calls and its peers, side by side in one run.

    make bench                                   every benchmark, in an environment of its own
    python -m benchmarks lease_cost --save       one of them, kept in benchmarks/results/

Nothing here passes or fails: a goal that is missed is told, and the exit status stays 0.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

HERE: Final = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import _machine  # noqa: E402
import _namespace  # noqa: E402
import _report  # noqa: E402
from _ports import ephemeral_range  # noqa: E402

BENCHMARKS: Final = {
    "import_time": "what `import portlease` adds to `import socket`, and what it loads",
    "lease_cost": "take and give back, against the bare calls and the peers; with many held",
    "collisions": "8 processes in a namespace with 400 ports, under storms (a minute or two)",
    "contention": "8 processes for 500 named ports; a holder that is killed",
    "portserver": "a request to a port server with up to 10,000 ports out, beside portpicker's",
    "own_binds": "the audit hook that lets a test's own servers bind beside its leases",
    "readiness": "from a server's listen() to serve() returning (minutes)",
    "isolate_cost": "start of a command in a network of its own; 200 of them alive",
    "audit_cost": "calls, starts and a suite, with and without the audit (minutes)",
    "broker_cost": "bind, listen, redis and starts, with and without the broker (minutes)",
}


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
    network = "a namespace of its own"
    if options.network == "own":
        reason = _namespace.why_not()
        if reason is None:
            _again_in_a_namespace(arguments)
        network = f"shared with the machine ({reason})"
    elif options.network == "shared":
        network = "shared with the machine"
    wanted = options.benchmark or list(BENCHMARKS)
    machine = _machine.describe(network)
    _machine.raise_descriptor_limit()
    results = []
    for name in wanted:
        start = time.monotonic()
        print(f"{name}: {BENCHMARKS[name]} ...", file=sys.stderr, flush=True)
        result = importlib.import_module(name).measure(Scale(options.scale))
        print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        results.append(result)
        if not options.json:
            _report.show(result)
        if options.save:
            print(f"saved {_report.save(result, machine, options.results)}", file=sys.stderr)
    if options.json:
        print(_report.to_json(machine, results))
    return 0


def _again_in_a_namespace(arguments: list[str]) -> NoReturn:
    """Replace this process by one where nobody else has ports: what others do would disturb."""
    inner = [sys.executable, str(HERE / "run.py"), *arguments, "--network", "entered"]
    command = _namespace.command(*ephemeral_range(), inner)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


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
    parser.add_argument(
        "--scale",
        choices=Scale.SIZES,
        default="full",
        help="how much is measured; tiny only proves that the command works (default: full)",
    )
    parser.add_argument(
        "--network",
        choices=("own", "shared", "entered"),
        default="own",
        help="measure in a network namespace of its own, if there are any (the default), or in "
        "the machine's (`entered`: already in one)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no tables")
    parser.add_argument(
        "--save", action="store_true", help="also write each as Markdown into the results"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=HERE / "results",
        metavar="DIRECTORY",
        help="where (default: benchmarks/results)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
