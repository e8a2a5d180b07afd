"""Pythons as distributions ship them that leave the `test` package out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

import _interpreters
from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Sequence

_ASK: Final = """
import json, os, sys, sysconfig
print(json.dumps({
    "library": sysconfig.get_path("stdlib"),
    "name": os.path.join(sys.platlibdir, "python%d.%d" % sys.version_info[:2]),
}))
"""


class Stripped(NamedTuple):
    """A Python whose library lacks `test`, and the environment to run it in."""

    program: str
    env: dict[str, str]

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script that can import portlease; a warning is an error, so a leak shows."""
        command = [self.program, "-W", "error", "-s", "-c", script, *arguments]
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.env,
            cwd=cwd,
            timeout=HANG_S,
            check=False,
        )


def strip(interpreter: _interpreters.Interpreter, directory: Path) -> Stripped:
    """Give an interpreter a library without `test`: links to all of its own, but that.

    Args:
        interpreter: whose library to use.
        directory: an empty directory for the links.
    """
    if sys.platform == "win32":
        pytest.skip("on Windows a Python finds its library beside its program, not in PYTHONHOME")
    answer = subprocess.run(
        [interpreter.program, "-I", "-c", _ASK], capture_output=True, check=True, timeout=HANG_S
    )
    facts = json.loads(answer.stdout)
    library = directory / facts["name"]
    library.mkdir(parents=True)
    _link(Path(facts["library"]), library, without=["test", "site-packages", "dist-packages"])
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PYTHONHOME": str(directory), "PYTHONPATH": str(_interpreters.SOURCE)}
    return Stripped(interpreter.program, env)


def _link(source: Path, target: Path, *, without: Sequence[str]) -> None:
    for entry in source.iterdir():
        if entry.name not in without:
            (target / entry.name).symlink_to(entry)
