"""Who measures: root and an ordinary user, each in processes of his own.

``python -m benchmarks.servers._users MODULE ARGUMENTS`` is a worker: it calls ``measure()`` of that
module with the arguments, a JSON object, and writes each figure as a line of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import portlease

from ._catalogue import NOBODY, found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who measures."""

    name: str
    """``"root"`` or ``"user"``."""
    python: tuple[str, ...]
    """What makes a process his, and an interpreter that he may execute."""
    directory: Path
    """His own, to write in."""

    def measure(self, part: str, **arguments: object) -> Iterator[Any]:
        """Yield the figures of a part, as soon as each of them is there."""
        packages = [str(Path(portlease.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        directory = str(self.directory)
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, packages)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": directory,
            "TMPDIR": directory,
            "LC_ALL": "C.UTF-8",
        }
        with subprocess.Popen(
            [*self.python, "-m", "benchmarks.servers._users", part, json.dumps(arguments)],
            cwd=_ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            if process.stdout is None:  # for the type checker: it is a pipe
                raise RuntimeError("no output")
            yield from map(json.loads, process.stdout)
        if process.returncode != 0:
            raise RuntimeError(f"{part}: the worker for {self.name} ended: {process.returncode}")


def users(directory: Path) -> tuple[list[User], list[str]]:
    """Who can measure here, and notes for the reader on who cannot."""
    there: list[User] = []
    notes: list[str] = []
    if os.geteuid() != 0:
        notes.append("Root's columns are empty: this was started by an ordinary user.")
        there.append(User("user", (sys.executable,), _own(directory, "user")))
        return there, notes
    there.append(User("root", (sys.executable,), _own(directory, "root")))
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    become = (found("setpriv") or "setpriv", *ids)
    python = _interpreter(become)
    if python is None:
        notes.append("The user's columns are empty: there is no Python here that nobody may run.")
        return there, notes
    own = _own(directory, "user")
    os.chown(own, NOBODY, NOBODY)
    there.append(User("user", (*become, python), own))
    return there, notes


def _own(directory: Path, name: str) -> Path:
    own = directory / name
    own.mkdir()
    return own


def _interpreter(become: Sequence[str]) -> str | None:
    """A Python from 3.11 on that the ordinary user may execute: ours may be in root's home."""
    fits = (
        "import subprocess, sys; assert sys.version_info >= (3, 11);"
        " subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    names = ("python3.14", "python3.13", "python3.12", "python3.11", "python3")
    others = (shutil.which(name, path="/usr/local/bin:/usr/bin") for name in names)
    for python in (sys.executable, *filter(None, others)):
        done = subprocess.run(
            [*become, python, "-c", fits], check=False, stderr=subprocess.DEVNULL, cwd="/"
        )
        if done.returncode == 0:
            return python
    return None


def main(arguments: Sequence[str]) -> int:
    """Be a worker."""
    part, given = arguments
    module = importlib.import_module(f".{part}", __package__)
    with contextlib.suppress(BrokenPipeError):  # whoever wanted to know has gone
        for figure in module.measure(**json.loads(given)):
            print(json.dumps(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
