"""Commands under `portlease audit`, each in a network of its own: its hard-coded ports are free."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _brokered import need_broker
from _cli import PORTLEASE, environment
from _need import need, netns_command
from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = Path(__file__).parent / "audited"


class Audited(NamedTuple):
    """An audit that has ended."""

    status: int
    said: str
    """What the command wrote, and we to standard error."""
    document: dict[str, Any]

    @property
    def binds(self) -> list[tuple[int, str, str | None]]:
        """Of each bind of a program: the port asked for, its origin, and the error."""
        return [
            (bind["port"], bind["origin"], bind.get("error"))
            for bind in self.document["binds"]
            if not bind.get("hold")
        ]

    @property
    def findings(self) -> list[tuple[str, str, int | None]]:
        """Of each finding: its code, path and line."""
        return [(one["code"], one["path"], one["line"]) for one in self.document["findings"]]


def audit(
    *words: str | Path,
    options: tuple[str | Path, ...] = (),
    stdin: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Audited:
    """Audit a command until it ends."""
    need_broker()
    command = [*PORTLEASE, "audit", "--json", *map(str, options), "--", *map(str, words)]
    done = subprocess.run(
        netns_command(command),
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(env),
        timeout=HANG_S,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr
    return Audited(done.returncode, done.stderr, json.loads(done.stdout))


@functools.cache
def _compiled(folder: str) -> Path:
    program = Path(folder, "binds")
    source = DATA / "binds.c"
    subprocess.run(
        [need.program("gcc"), "-static", "-O1", "-o", program, source], check=True, timeout=HANG_S
    )
    return program


def static_c(folder: Path) -> Path:
    """A static C program that binds what its arguments say: see audited/binds.c."""
    return _compiled(str(folder))


def python(tmp_path: Path, source: str, name: str = "program.py") -> tuple[str, Path]:
    """The command that runs a Python program of these lines."""
    path = tmp_path / name
    path.write_text(source, encoding="utf-8")
    return sys.executable, path
