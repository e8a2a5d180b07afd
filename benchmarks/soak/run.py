"""The command: the soak and its control, and then docs/soak.md and benchmarks/results/soak.json.

    make soak                                      all of it, and written (half an hour)
    python -m benchmarks.soak --leases 20000 --servers 40    a small one, shown and not written
    python -m benchmarks.soak --control            only the control

It is run in a network namespace of its own where one is to be had. The exit status is 1 if a port
was given to two at once, if anything is left, or if a detector is blind to the control's doubles.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import _command
import _machine
import _namespace
from _ports import free_ports

from portlease._tree import _process

from . import _counts, _figures, _leases, _log, _page, _servers
from ._board import Board
from ._crowd import Crowd, Observer, Size, environment, lines
from ._progress import Progress

DOCUMENT: Final = _command.Document("soak", _page.page)
_LEASES: Final = 1_000_000
_SERVERS: Final = 2_000
_PROCESSES: Final = 8
_END_S: Final = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.processes or not options.leases:
        parser.error("there is nothing to do without leases and processes")
    if options.render:
        DOCUMENT.render()
        return 0
    network = _command.network("soak", arguments, options)
    alone = options.network == "entered"
    seed = options.seed or secrets.token_hex(4)
    figures = {"machine": _machine.describe(network)}
    _machine.raise_descriptor_limit()
    size = _size(options)
    if not options.control:
        figures["soak"] = _soak(size, seed, held=True, alone=alone)
    figures["control"] = _soak(_size_of_the_control(size), seed, held=False, alone=alone)
    if options.update:
        DOCUMENT.write(figures)
    print(json.dumps(figures, indent=1) if options.json else _page.summary(figures))
    return 0 if _figures.sound(figures) else 1


def _size(options: argparse.Namespace) -> Size:
    return Size(
        leases=options.leases,
        servers=options.servers,
        processes=options.processes,
        kills=options.leases // 20_000 + 2 if options.kills is None else options.kills,
        quiet_points=24 if options.leases >= _PROCESSES * 10_000 else 4,
    )


def _size_of_the_control(size: Size) -> Size:
    """As many processes; a hundredth of the ports is more than enough to see doubles."""
    leases = min(size.leases, max(2_000, size.leases // 100))
    return Size(leases, 0, size.processes, kills=2, quiet_points=2)


def _soak(size: Size, seed: str, *, held: bool, alone: bool) -> dict[str, Any]:
    """Run one; return its figures."""
    run = f"{os.getpid()}-{seed}-{'held' if held else 'unheld'}"
    wanted = _leases.NAMED_SETS * _leases.NAMED_PORTS
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        directory, folder = Path(name, "written"), Path(name, "tmp")
        directory.mkdir()
        folder.mkdir()
        env = environment(run, folder)
        before = _counts.left(run, folder, alone=alone)
        refused = _process.why_no_broker()
        no_broker = None if refused is None else refused.reason
        task = {
            "named": free_ports(wanted),
            "means": [one for one in _servers.ALL if no_broker is None or one.how != "broker"],
            "isolates": held and size.servers > 0 and _namespace.why_not() is None,
            "held": held,
        }
        begin = time.monotonic()
        board = Board.create(size.processes)
        try:
            with (
                Observer(board, Path(name), env) as observer,
                Crowd(size, board, run, directory, task, env, random.Random(seed)) as crowd,  # noqa: S311 - who is killed is no secret
            ):
                progress = Progress(size, board, begin, "soak" if held else "control")
                crowd.go(progress.show)
                progress.end()
                kernel = observer.seen()
            counted = board.totals()
        finally:
            board.close()
        seconds = time.monotonic() - begin
        after = _after(before, run, folder, alone=alone)
        log = _log.merged(directory, crowd.killed_ns)
        troubles = [line for _, found in lines(directory, "*.troubles") for line in found]
        samples = lines(directory, "*.samples")
    return {
        "asked": asdict(size),
        "seed": seed,
        "seconds": seconds,
        "counted": counted,
        "killed": {"by the controller": len(crowd.killed_ns), "all": crowd.deaths},
        "no_broker": no_broker,
        "detectors": {
            "ledger": {"claims": counted["claims"], "doubles": counted["ledger doubles"]},
            "kernel": kernel,
            "log": asdict(log),
        },
        # Tracebacks in them name where this machine keeps the project, which is nobody's business.
        "troubles": _figures.troubles([one.replace(f"{_command.ROOT}/", "") for one in troubles]),
        "left": {"before": asdict(before), "after": asdict(after)},
        "processes": _figures.lives(samples),
    }


def _after(before: _counts.Left, run: str, folder: Path, *, alone: bool) -> _counts.Left:
    """What is left, once there is no more than before, or it had its time to go."""
    give_up = time.monotonic() + _END_S
    while (now := _counts.left(run, folder, alone=alone)) != before and time.monotonic() < give_up:
        time.sleep(0.1)
    return now


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("soak", __doc__)
    parser.add_argument("--leases", type=_number, default=_LEASES, metavar="N")
    parser.add_argument("--servers", type=_number, default=_SERVERS, metavar="N")
    parser.add_argument("--processes", type=_number, default=_PROCESSES, metavar="N")
    parser.add_argument(
        "--kills",
        type=_number,
        metavar="N",
        help="how many processes are killed at any moment (default: 2, and 1 in 20,000 leases); "
        "besides, one in 8 servers has its parent killed",
    )
    parser.add_argument(
        "--control", action="store_true", help="only the control: ports that nobody holds"
    )
    parser.add_argument("--seed", help="of the mix of leases; by default another each time")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--update", action="store_true", help="write the page and its figures")
    _command.add_render(parser)
    _command.add_network(parser)
    return parser


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of them")
    return int(text)
