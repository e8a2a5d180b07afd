"""The C programs of the benchmark, compiled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

_SOURCES: Final = Path(__file__).with_name("programs")
_STATIC: Final = ("tiny", "thief", "binds")


class Programs(NamedTuple):
    """Where they are."""

    tiny: str
    thief: str
    binds: str
    stamp: str


def build(directory: Path) -> Programs:
    """Compile all of them into *directory*.

    Raises:
        FileNotFoundError: there is no gcc.
    """
    gcc = shutil.which("gcc")
    if gcc is None:
        raise FileNotFoundError("gcc is not installed; benchmarks/servers/install installs it")
    for name in _STATIC:
        _compile(gcc, "-static", "-o", str(directory / name), str(_SOURCES / f"{name}.c"))
    library = directory / "stamp.so"
    _compile(gcc, "-shared", "-fPIC", "-o", str(library), str(_SOURCES / "stamp.c"), "-ldl")
    tiny, thief, binds = (str(directory / name) for name in _STATIC)
    return Programs(tiny, thief, binds, str(library))


def _compile(*command: str) -> None:
    subprocess.run(
        [command[0], "-O2", "-Wall", "-Wextra", "-Werror", *command[1:]],
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
