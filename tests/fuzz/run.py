"""Feeds the parsers for long, led by which of their branches an input has reached.

    python -m fuzz.run [--seconds N] [--keep FOLDER] [TARGET ...]

Run from `tests`, or with it in PYTHONPATH: `make fuzz` does. The engine is Atheris (libFuzzer),
which is no dependency of the tests; install it where this runs: ``pip install atheris``. Each
target has an interpreter of its own. An input that breaks a promise is shown, whole, and where it
was written to; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_PULSE: Final = re.compile(rb"#(?P<runs>\d+)\s+\w+\s+cov: (?P<branches>\d+)")
_SHOWN: Final = 400
# An input that takes more seconds, or MiB of memory, is a find as well.
_LIMITS: Final = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=8192")
_USAGE: Final = 2
_ALONE: Final = "--alone"


class Ended(NamedTuple):
    """How a target's run ended."""

    name: str
    runs: int
    branches: int
    finding: bytes | None
    said: str


def main(words: list[str]) -> int:
    """Run the targets that are named, or all."""
    parser = argparse.ArgumentParser(prog="fuzz.run", description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="*", help="which parsers; all of them by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each, 60 by default")
    parser.add_argument("--keep", type=Path, help="a folder for what was found worth keeping")
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is not installed here: pip install atheris", file=sys.stderr)  # noqa: T201
        return _USAGE
    if words[:1] == [_ALONE]:
        _feed(words[1], words[2:])
    asked = parser.parse_args(words)
    from fuzz.targets import TARGETS

    if unknown := set(asked.target) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; {', '.join(TARGETS)}")
    with contextlib.ExitStack() as stack:
        keep = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ended = [
            _run(name, keep / name, asked.seconds, f"{number}/{len(asked.target or TARGETS)}")
            for number, name in enumerate(asked.target or TARGETS, 1)
        ]
    return _tell(ended)


def _feed(name: str, options: list[str]) -> NoReturn:
    """In an interpreter of its own: never returns."""
    atheris = importlib.import_module("atheris")  # which the type checker need not know

    with atheris.instrument_imports(include=["portlease"]):
        from fuzz.targets import TARGETS
    atheris.Setup([name, *options], TARGETS[name].check)
    atheris.Fuzz()
    raise AssertionError


def _run(name: str, folder: Path, seconds: int, place: str) -> Ended:
    """Feed one target, and show how far it has got."""
    from fuzz.targets import TARGETS

    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    found = folder.parent / f"{name}-found-"
    command = [sys.executable, "-m", "fuzz.run", _ALONE, name, str(folder)]
    command += [f"-max_total_time={seconds}", f"-artifact_prefix={found}", *_LIMITS]
    tests = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    runs = branches = 0
    said: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    ) as process:
        try:
            for line in _lines(process):
                if pulse := _PULSE.match(line):
                    runs, branches = int(pulse["runs"]), int(pulse["branches"])
                    _show(f"{place} {name}: {runs:,} inputs, {branches} branches")
                elif not line.startswith((b"INFO:", b"#")):
                    said = [*said[-60:], line.decode("utf-8", "replace")]
        except BaseException:
            process.kill()
            raise
    _show("")
    finding = None
    for path in sorted(found.parent.glob(f"{found.name}*")):
        finding = path.read_bytes()
    if process.returncode and finding is None:
        finding = b""
    return Ended(name, runs, branches, finding, "".join(said))


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    assert process.stdout is not None
    yield from process.stdout


def _show(text: str) -> None:
    """A line that the next one replaces; nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)  # noqa: T201


def _tell(ended: list[Ended]) -> int:
    """The summary."""
    for one in ended:
        state = "ok" if one.finding is None else "BROKEN"
        print(f"{one.name:14} {one.runs:>12,} inputs {one.branches:>6} branches  {state}")  # noqa: T201
    broken = [one for one in ended if one.finding is not None]
    for one in broken:
        print(f"\n{one.name} breaks its word for {one.finding!r:.{_SHOWN}}\n{one.said}")  # noqa: T201
    print(  # noqa: T201
        f"\n{sum(one.runs for one in ended):,} inputs, {len(broken)} of {len(ended)} parsers broken"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
