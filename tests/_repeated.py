"""Suites as data, whose instances meet: what collides does so every time, and nobody sleeps for it.

Instances tell each other how far they are by files in the folder MEET.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import portlease
from _cli import PORTLEASE, environment
from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Only what is needed: a run with every plugin that is installed takes a second of a processor.
PYTEST: Final = (
    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:terminalreporter"),
    *("-p", "portlease.pytest_plugin"),
)
WITHOUT_PLUGINS: Final = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

MEET: Final = """\
import os, pathlib, socket, sys, time
MEET = pathlib.Path(os.environ["MEET"])
ME, ALL = int(os.environ["PORTLEASE_INSTANCE"]), int(os.environ["PORTLEASE_INSTANCES"])
PORT = int(os.environ["HARD_CODED"])

def meet(name):
    '''Wait until every instance of the round has come here.'''
    place = MEET / (name + os.environ["PORTLEASE_ROUND"] + "of" + str(ALL))
    place.mkdir(parents=True, exist_ok=True)
    (place / str(ME)).touch()
    deadline = time.monotonic() + 120
    while len(list(place.iterdir())) < ALL:
        assert time.monotonic() < deadline, "the others never came"
        time.sleep(0.005)
"""
"""What a suite of Python code begins with."""


@contextlib.contextmanager
def hard_coded() -> Iterator[int]:
    """A number for a suite to hard-code: nobody else is given it, and any bind of it succeeds."""
    with portlease.lease() as lease:
        lease.step_aside()
        yield lease.port


def repeat(
    folder: Path, port: int, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``portlease repeat`` in *folder*; what it leaves for a while is in ``folder/tmp``."""
    tmp = folder / "tmp"
    tmp.mkdir(exist_ok=True)
    return subprocess.run(
        [*PORTLEASE, "repeat", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(
            {
                "MEET": str(folder / "meet"),
                "HARD_CODED": str(port),
                "TMPDIR": str(tmp),
                **WITHOUT_PLUGINS,
                **(env or {}),
            }
        ),
        timeout=HANG_S,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What ``--json`` says."""
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def nothing_left(folder: Path) -> bool:
    """Whether no temporary folder is left."""
    return not list((folder / "tmp").iterdir())
