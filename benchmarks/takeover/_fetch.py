"""A suite's release, fetched by pip into a folder outside of the repository, and an environment.

    CACHE/sdists/NAME/      what `pip download` brought
    CACHE/NAME-3.11/        an environment with the package, what its tests need, and portlease
    CACHE/NAME-tests/       the tests, copied out of the sdist

What is there already is used again; remove the folder for newer releases.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from . import _hosts, _written

if TYPE_CHECKING:
    from ._catalogue import Suite

ROOT: Final = Path(__file__).resolve().parents[2]
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_DONE: Final = "portlease-complete"


class Fetched(NamedTuple):
    """A suite that can be run."""

    version: str
    bin: Path
    """Where its environment's programs are."""
    tests: Path
    """The working directory of its tests."""
    ships: int
    """How many test files the sdist has."""
    prefix: list[str]
    """What is put before the command that runs them."""


def fetch(suite: Suite, cache: Path) -> Fetched:
    """Bring what is not there yet.

    Raises:
        subprocess.CalledProcessError: pip could not; its words are on standard error.
    """
    sdist = _sdist(suite.name, cache / "sdists" / suite.name)
    version = sdist.name.removesuffix(".tar.gz").rpartition("-")[2]
    environment = cache / f"{suite.name}-{_PYTHON}"
    tests = cache / f"{suite.name}-tests"
    with tarfile.open(sdist) as archive:
        names = [Path(*Path(one.name).parts[1:]) for one in archive if one.isfile()]
        ships = sum(1 for name in names if _is_test(name))
        if suite.ships_none and ships:
            raise RuntimeError(f"{sdist.name} has {ships} test files: the catalogue says none")
        if not suite.ships_none:
            _copy(archive, suite, tests)
            for file in suite.written:
                _written.unpack(tests / file)
            _install(suite, version, environment)
    words, _ = _hosts.prefix(cache)
    return Fetched(version, environment / "bin", tests, ships, words)


def _is_test(path: Path) -> bool:
    return path.suffix == ".py" and (path.stem.startswith("test_") or path.stem.endswith("_test"))


def _sdist(name: str, folder: Path) -> Path:
    if not list(folder.glob("*.tar.gz")):
        _pip(Path(sys.executable), "download", "--no-deps", "--no-binary", name, "-d", folder, name)
    (found,) = folder.glob("*.tar.gz")
    return found


def _copy(archive: tarfile.TarFile, suite: Suite, tests: Path) -> None:
    shutil.rmtree(tests, ignore_errors=True)
    tests.mkdir(parents=True)
    for one in archive:
        _, _, inside = one.name.partition("/")
        if any(inside == kept or inside.startswith(f"{kept}/") for kept in suite.copied):
            one.name = inside
            archive.extract(one, tests, filter="data")


def _install(suite: Suite, version: str, environment: Path) -> None:
    if (environment / _DONE).exists():
        return
    venv.create(environment, with_pip=True, clear=True)
    python = environment / "bin" / "python"
    wanted = ["pytest", "pytest-xdist", *suite.needs, f"{suite.name}=={version}"]
    _pip(python, "install", "-e", str(ROOT), *wanted)
    (environment / _DONE).touch()


def _pip(python: Path, command: str, *arguments: str | Path) -> None:
    words = [str(python), "-m", "pip", command, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*words, *map(str, arguments)], check=True, stdout=sys.stderr)
