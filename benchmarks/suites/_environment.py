"""An sdist and an environment for its tests, in a folder outside the repository."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._catalogue import Package


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a package's suite runs."""

    python: Path
    """An interpreter of its own, with what the lock file names and without portlease."""
    directory: Path
    """The unpacked sdist."""


class NotPreparedError(Exception):
    """The sdist or the environment could not be had; the message says what was tried."""


def prepare(package: Package, folder: Path) -> Environment:
    """Fetch, check, unpack and install what is not there yet."""
    home = folder / f"{package.name.lower()}-{package.version}"
    home.mkdir(parents=True, exist_ok=True)
    return Environment(_venv(package, home), _unpacked(package, home))


def _unpacked(package: Package, home: Path) -> Path:
    place = home / "source"
    if not place.is_dir():
        archive = _sdist(package, home)
        partial = home / "source.part"
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        (top,) = partial.iterdir()
        top.rename(place)
        partial.rmdir()
    return place


def _sdist(package: Package, home: Path) -> Path:
    """Fetch it; pip asks the package what it is made of, which runs its build backend."""
    # Not the extras: the line is for the archive alone.
    wanted = f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
    requirement = home / "sdist.txt"
    requirement.write_text(wanted, encoding="utf-8")
    _pip(
        Path(sys.executable),
        ["download", "--no-deps", "--no-binary=:all:", "--require-hashes"],
        ["--dest", str(home), "--requirement", str(requirement)],
    )
    for file in home.glob("*.tar.gz"):
        if hashlib.sha256(file.read_bytes()).hexdigest() == package.sha256:
            return file
    raise NotPreparedError(f"pip left no sdist of {package.name} {package.version} in {home}")


def _venv(package: Package, home: Path) -> Path:
    place, stamp = home / "venv", home / "venv" / ".made-of"
    python = place / "bin" / "python"
    lock = package.lock.read_bytes()
    made_of = f"{sys.version} {hashlib.sha256(lock).hexdigest()}"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != made_of:
        base = getattr(sys, "_base_executable", sys.executable)
        _run([base, "-m", "venv", "--clear", str(place)])
        _pip(python, ["install", "--require-hashes", "--no-deps", "-r", str(package.lock)])
        stamp.write_text(made_of, encoding="utf-8")
    return python


def _pip(python: Path, *arguments: Sequence[str]) -> None:
    flat = [one for part in arguments for one in part]
    _run([str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *flat])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotPreparedError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
