"""Which files are looked at: those of tests, below the folders that were given."""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

# What others made, and what tools keep.
EXCLUDED: Final = frozenset(
    {".bzr", ".eggs", ".git", ".hg", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache", ".svn"}
    | {".tox", ".venv", ".venvs", "__pycache__", "build", "dist", "node_modules", "site-packages"}
    | {"venv", "_vendor", "vendored", "third_party"}
)
_TEST_FOLDER: Final = re.compile(r"(tests?|testing|test_\w+|\w+_tests?|t)", re.IGNORECASE)
_TEST_FILE: Final = re.compile(r"(test_.*|.*_tests?|tests?|conftest)\.py", re.IGNORECASE)
_INI_FILES: Final = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
_TAKEOVER: Final = re.compile(r"^\s*portlease_takeover\s*=\s*[\"']?(\w+)", re.MULTILINE)


class Choice(NamedTuple):
    """Which of the files below a folder are looked at. A file that is named itself always is."""

    exclude: tuple[str, ...] = ()
    """Patterns, as in a shell, of files and folders that are left out."""
    every: bool = False
    """Every Python file, not those of tests alone."""


def collect(paths: Iterable[str], choice: Choice) -> Iterator[str]:
    """The files to look at, each once, in a fixed order; their paths as the given ones begin.

    Raises:
        UsageError: one of the paths does not exist.
    """
    seen: set[str] = set()
    for path in paths:
        if os.path.isdir(path):
            found = _below(path, choice)
        elif os.path.exists(path):
            found = iter([path])
        else:
            raise UsageError(f"there is no file or folder {path}", path=path)
        for name in found:
            real = os.path.realpath(name)
            if real not in seen:
                seen.add(real)
                yield os.path.normpath(name)


def _below(root: str, choice: Choice) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"cannot look into {error.filename}: {error.strerror}", path=root)

    # Of an absolute path only its end: what lies above a project says nothing of it.
    given = [] if os.path.isabs(root) else os.path.normpath(root).split(os.sep)
    given.append(os.path.basename(os.path.realpath(root)))
    tests_above = any(map(_TEST_FOLDER.fullmatch, given))
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(
            name
            for name in folders
            if name not in EXCLUDED
            and not _matches(folder, name, choice.exclude)
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        parts = os.path.relpath(folder, root).split(os.sep)
        of_tests = choice.every or tests_above or any(map(_TEST_FOLDER.fullmatch, parts))
        for name in sorted(files):
            if (
                name.endswith((".py", ".pyw"))
                and (of_tests or _TEST_FILE.fullmatch(name))
                and not _matches(folder, name, choice.exclude)
                and _may_be_read(os.path.join(folder, name))
            ):
                yield os.path.join(folder, name)


def _may_be_read(path: str) -> bool:
    """Whether it is no pipe, socket or device, which would keep us waiting.

    A link that leads nowhere may be: that it cannot is told then.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _matches(folder: str, name: str, patterns: tuple[str, ...]) -> bool:
    path = os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")
    return any(
        fnmatch.fnmatch(name, pattern)
        or fnmatch.fnmatch(path, pattern)
        or fnmatch.fnmatch(path, f"*/{pattern}")
        for pattern in (one.rstrip("/").removeprefix("./") for one in patterns)
    )


@functools.cache
def takes_over(folder: str) -> bool:
    """Whether pytest's ini file for *folder* says ``portlease_takeover = true``."""
    for name in _INI_FILES:
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                said = _TAKEOVER.search(file.read())
        except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError):
            continue
        if said is not None:
            return said[1].lower() in {"true", "1", "yes", "on"}
    parent = os.path.dirname(folder)
    if parent == folder or os.path.exists(os.path.join(folder, ".git")):
        return False
    return takes_over(parent)


def shown(path: str) -> str:
    """A path as findings show it: from the current folder where it lies below, with ``/``."""
    absolute = os.path.abspath(path)
    here = os.getcwd()
    if absolute == here or absolute.startswith(here.rstrip(os.sep) + os.sep):
        path = os.path.relpath(absolute, here)
    return path.replace(os.sep, "/")
