"""Commands in a network of their own, as whoever runs the tests and as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from _need import need
from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE: Final = Path(__file__).parents[1] / "src" / "portlease"
PYTHON: Final = (sys.executable, "-I", "-S", "-c")
NOBODY: Final = 65534

# What the command line of an isolated command does, by an ordinary user. All is imported while we
# may still read it: the interpreter may be one that only root can reach. A process that changes its
# user is not dumpable, and its files in /proc are root's then; exec(2) would mend that, and so does
# PR_SET_DUMPABLE.
_AS_NOBODY: Final = f"""\
import ctypes, importlib, os, resource, select, sys
sys.path[:0] = [sys.argv[1]]
for name, path in ("portlease", sys.argv[1]), ("portlease._isolate", sys.argv[1] + "/_isolate"):
    sys.modules[name] = module = type(sys)(name)
    module.__path__ = [path]
for name in "_enter", "_forward", "_helper", "_links", "_outside", "_why":
    importlib.import_module("portlease._isolate." + name)
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
ctypes.CDLL(None).prctl(4, 1)
sys.modules["portlease._isolate._enter"].main(sys.argv[2:])
"""


def as_user(command: Sequence[str]) -> list[str]:
    """*command*, as `portlease._isolate.command` gives it, started by an ordinary user.

    As whoever we are, unless we are root.
    """
    if os.geteuid() != 0:
        return list(command)
    need.capability("other_user")
    assert list(command[1:4]) == ["-I", "-S", "-c"]
    return [*PYTHON, _AS_NOBODY, *command[5:]]


def run(
    command: Sequence[str], *, stdin: str = "", pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run it in pipes until it ends."""
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        pass_fds=pass_fds,
    )


def marked(mark: str) -> dict[int, str]:
    """The live processes that have MARK=*mark* in their environment, with their names.

    (Not by the network namespace: the number of one that is gone is soon given to another.)
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
            if f"MARK={mark}".encode() in words:
                name = (entry / "comm").read_text(encoding="utf-8", errors="replace").strip()
                found[int(entry.name)] = name
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def forwarders(mark: str) -> list[int]:
    """Those of them that are forwarders."""
    return [pid for pid, name in marked(mark).items() if name == "portlease-reach"]
