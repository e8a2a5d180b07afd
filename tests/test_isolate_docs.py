"""docs/isolate.md says what is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _documents import texts
from _need import need
from _processes import HANG_S

PAGE = Path(__file__).parents[1] / "docs" / "isolate.md"


def test_the_session_says_what_it_shows() -> None:
    """The console example, run as it stands there."""
    need.capability("netns")
    need.program("redis-server")
    need.program("redis-cli")
    command, _, shown = texts(PAGE, "console")[0].partition("\n")
    portlease = f"{sys.executable} -m portlease"
    done = subprocess.run(  # noqa: S602 - as a reader would
        command.removeprefix("$ ").replace("portlease", portlease, 1),
        shell=True,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_python_in_it_runs() -> None:
    """Each block of Python, as it stands there."""
    need.capability("netns")
    found = texts(PAGE, "python")
    assert len(found) == 2
    for code in found:
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=HANG_S)
