"""docs/audit.md: its sessions, run as they stand there, say what it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from _brokered import need_broker
from _cli import PORTLEASE, environment
from _documents import texts
from _need import need, netns_command
from _processes import HANG_S

PAGE = Path(__file__).parents[1] / "docs" / "audit.md"


def normal(text: str) -> list[str]:
    """Leased numbers and times differ from run to run, and so do widths made of them."""
    text = re.sub(r"\b\d+/tcp +lease", "N/tcp lease", text)
    text = re.sub(r"in \d+\.\d+s", "in N s", text)
    text = re.sub(r"\bpython3?(\.\d+)?\b", "python", text)
    lines = (re.sub(r" +", " ", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not re.search(r"^\d+ passed|^\.+ \[", line)]


@pytest.mark.parametrize("number", range(len(texts(PAGE, "console"))))
def test_sessions(number: int, tmp_path: Path) -> None:
    """Its example is the suite."""
    need_broker()
    (tmp_path / "test_web.py").write_text(texts(PAGE, "python")[0])
    command, _, shown = texts(PAGE, "console")[number].partition("\n")
    words = shlex.split(command.removeprefix("$ "))
    if words[0] == "portlease":
        words[:1] = PORTLEASE
    if "node" in words:
        need.program("node")
    plugins = {
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
        "PYTEST_ADDOPTS": "-p portlease.pytest_plugin",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "COLUMNS": "80",
    }
    done = subprocess.run(
        netns_command(words),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), **plugins},
        timeout=HANG_S,
        check=False,
    )
    assert normal(done.stdout) == normal(shown)
