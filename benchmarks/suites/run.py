"""The command: every part, and then docs/suites.md and benchmarks/results/suites.json.

    make suites                                    all of it, about an hour, as root
    python -m benchmarks.suites --only pyModbusTCP --parts packages
    python -m benchmarks.suites --parts elsewhere --update

What it fetches (sdists, and an environment for each, by pip) it keeps outside the repository and
fetches once. Started by root, it measures in a network namespace of its own, where nobody else has
ports; started by anybody else, in the machine's network.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import _command
import _machine
from _command import say

from . import _catalogue, _cpython, _elsewhere, _environment, _packages, _page, _portlease

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ._catalogue import Package
    from ._environment import Environment

PARTS: Final = ("packages", "elsewhere", "cpython")
DOCUMENT: Final = _command.Document("suites", _page.page)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    chosen = [one for one in _catalogue.packages() if re.search(options.only or "", one.name)]
    if options.programs:
        print("\n".join(f"{one.program}:{one.package}" for one in _elsewhere.SUITES))
    elif options.render:
        DOCUMENT.render()
    elif options.lock:
        _lock(chosen)
    else:
        environments = _prepared(chosen, options) if "packages" in options.parts else []
        if not options.fetch:
            _measure(arguments, options, environments)
    return 0


def _measure(
    arguments: list[str],
    options: argparse.Namespace,
    environments: Sequence[tuple[Package, Environment]],
) -> None:
    network = _command.network("suites", arguments, options, of_root=True)
    document = replace(DOCUMENT, base=options.output or DOCUMENT.base)
    whole = not options.only and set(options.parts) == set(PARTS)
    writes = bool(options.output or options.update or whole) and not options.json
    figures = document.figures() if options.update else {}
    figures["machine"] = _machine.describe(network)
    for name in (part for part in PARTS if part in options.parts):
        for found in _measured(name, options, environments, figures.get(name)):
            figures[name] = found
            if writes:  # each as soon as it is there: all of them take long
                document.keep(figures)
    if options.json:
        print(json.dumps(figures, indent=1))
    elif writes:
        document.render()
    else:
        print(_page.page(figures))


def _measured(
    part: str,
    options: argparse.Namespace,
    environments: Sequence[tuple[Package, Environment]],
    kept: Any,  # noqa: ANN401 - figures of an earlier run, as JSON has them
) -> Iterator[Any]:
    """Yield the figures of a part, again and again as they grow."""
    if part == "packages":
        rows = {row["name"]: row for row in kept or ()}
        order = [one.name for one in _catalogue.packages()]
        for package, environment in environments:
            rows[package.name] = _packages.measure(package, environment)
            say(_summary(rows[package.name]))
            yield [rows[name] for name in order if name in rows]
    elif part == "elsewhere":
        yield _measured_elsewhere()
    else:
        reason = _cpython.why_not(options.python)
        if reason is not None:
            sys.exit(f"{options.python} cannot run CPython's tests: {reason}")
        wanted = re.compile(options.only or "")
        yield from _cpython.measure(
            options.python,
            say,
            modules=[one for one in _cpython.MODULES if wanted.search(one.name)],
            rounds=options.rounds if wanted.search(_cpython.ASKERS.name) else 0,
            kept=kept,
        )


def _measured_elsewhere() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    missing = _elsewhere.missing()
    with tempfile.TemporaryDirectory(prefix="suites-") as name:
        for suite in _elsewhere.SUITES:
            if suite in missing:
                found.append({"name": suite.name, "title": suite.title, "missing": True})
                say(f"{suite.name}: {suite.program} is not installed")
            else:
                found.append(_elsewhere.measure(suite, Path(name)))
                say(_summary(found[-1]))
    return found


def _prepared(
    packages: Sequence[Package], options: argparse.Namespace
) -> list[tuple[Package, Environment]]:
    found = []
    for package in packages:
        if options.network != "entered":
            say(f"{package.name} {package.version}: its sdist and an environment")
        found.append((package, _environment.prepare(package, options.folder)))
    return found


def _summary(row: dict[str, Any]) -> str:
    beside, isolated = row["beside"], row["isolated"]
    return (
        f"{row['name']}: {beside['tests']} tests; beyond the baseline side by side "
        f"{beside['beyond']}, isolated {isolated['beyond']}; audit: {row['audit']['ports']}"
    )


def _lock(packages: Sequence[Package]) -> None:
    """Write the lock files anew (uv resolves them)."""
    for package in packages:
        wanted = "\n".join([package.requirement, *package.needs, ""])
        options = ["--universal", "--generate-hashes", "--no-emit-index-url", "--no-header"]
        command = ["uv", "pip", "compile", "--quiet", "--python-version", "3.11", *options, "-"]
        subprocess.run(
            [*command, "--output-file", str(package.lock)],
            input=wanted,
            text=True,
            stdout=subprocess.DEVNULL,
            check=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("suites", __doc__)
    parser.epilog = f"{_portlease.INSTANCES} instances of each; Linux only."
    _command.add_parts(parser, PARTS, "packages, or modules of CPython's, with this in the name")
    parser.add_argument(
        "--folder",
        type=Path,
        default=_command.cache("suites"),
        help="where sdists and environments are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--python",
        default=getattr(sys, "_base_executable", sys.executable),
        help="the interpreter whose own tests are run (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=10,
        help="of the tests that ask for an unused port (default: %(default)s)",
    )
    parser.add_argument("--fetch", action="store_true", help="fetch and install, run nothing")
    parser.add_argument("--lock", action="store_true", help="write the lock files anew (needs uv)")
    _command.add_written(parser, "write, and keep the figures of the other parts")
    _command.add_output(parser)
    _command.add_programs(parser)
    _command.add_network(parser, "root may make one")
    return parser
