"""What the commands have in common: options, the network, what they say and what they write."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import _namespace
from _ports import ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT: Final = Path(__file__).resolve().parents[1]


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# --- options ------------------------------------------------------------------------------------


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """One for ``python -m benchmarks.NAME``, described by the first line of its docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=(description or "").partition("\n")[0]
    )


def add_parts(options: argparse.ArgumentParser, parts: Sequence[str], only: str) -> None:
    """Add what chooses from what is measured: --parts, and --only, of which *only* is the help."""
    options.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(parts),
        help=f"with commas, of: {', '.join(parts)} (default: all)",
    )
    options.add_argument("--only", metavar="PATTERN", help=only)


def add_written(options: argparse.ArgumentParser, update: str) -> None:
    """Add what says where the figures go: --json, --update, whose help is given, and --render."""
    options.add_argument("--json", action="store_true", help="print the figures, write nothing")
    options.add_argument("--update", action="store_true", help=update)
    add_render(options)


def add_render(options: argparse.ArgumentParser) -> None:
    """Add --render."""
    options.add_argument("--render", action="store_true", help="make the page of the kept figures")


def add_output(options: argparse.ArgumentParser) -> None:
    """Add --output."""
    options.add_argument(
        "--output", type=Path, metavar="DIRECTORY", help="write below it, whatever was measured"
    )


def add_programs(options: argparse.ArgumentParser) -> None:
    """Add --programs."""
    options.add_argument(
        "--programs", action="store_true", help="list program:package of all that it starts"
    )


def add_network(options: argparse.ArgumentParser, where: str = "there are any") -> None:
    """Add --network; *where* a namespace is entered by default."""
    options.add_argument(
        "--network",
        choices=("own", "shared", "entered"),
        default="own",
        help=f"a namespace of its own, where {where} (the default), or the machine's (`entered`: "
        "already in one)",
    )


def cache(name: str) -> Path:
    """Where ``benchmarks.NAME`` keeps what it fetches (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / f"portlease-{name}"


# --- the network --------------------------------------------------------------------------------


def network(
    name: str, arguments: Sequence[str], options: argparse.Namespace, *, of_root: bool = False
) -> str:
    """In which one ``python -m benchmarks.NAME`` measures, in words for the page.

    Where it is to be one of its own, this process is replaced by another in it; *of_root*: only
    root's is.
    """
    if options.network == "entered":
        return "a namespace of its own"
    may = os.geteuid() == 0 or not of_root
    if options.network == "own" and may and _namespace.why_not() is None:
        os.chdir(ROOT)
        again_in_a_namespace(["-m", f"benchmarks.{name}", *arguments])
    return "the machine's"


def again_in_a_namespace(words: Sequence[str]) -> NoReturn:
    """Replace this process by Python with these words, and ``--network entered``.

    It is where nobody else has ports: what others do would disturb.
    """
    inner = [sys.executable, *words, "--network", "entered"]
    command = _namespace.command(*ephemeral_range(), inner)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


# --- files --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """A page in ``docs``, and the figures in ``benchmarks/results`` of which it is made.

    Args:
        name: of both files.
        page: makes it.
        base: the folder in which those two are.
    """

    name: str
    page: Callable[[Any], str]
    base: Path = ROOT

    def figures(self) -> dict[str, Any]:
        """The figures that are kept."""
        found: dict[str, Any] = json.loads(self._figures().read_text(encoding="utf-8"))
        return found

    def keep(self, figures: object) -> None:
        """Write the figures."""
        _write(self._figures(), json.dumps(figures, indent=1) + "\n")

    def render(self) -> None:
        """Make the page of the figures that are kept."""
        _write(self.base / "docs" / f"{self.name}.md", self.page(self.figures()))

    def write(self, figures: object) -> None:
        """Write both."""
        self.keep(figures)
        self.render()

    def _figures(self) -> Path:
        return self.base / "benchmarks" / "results" / f"{self.name}.json"


def _write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    say(f"wrote {file}")
