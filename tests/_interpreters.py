"""The CPythons on this machine, for tests that compare with what each of them has.

Looked for: this interpreter; those named in PORTLEASE_PYTHONS (paths, separated as PATH is);
`python3.11` and later in PATH; and where pyenv, uv, manylinux images and GitHub's runners put
theirs. Each is asked what it is.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VARIABLE: Final = "PORTLEASE_PYTHONS"

VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""The versions that portlease supports."""

SOURCE: Final = Path(__file__).parent.parent / "src"
"""Where an interpreter that has not installed portlease finds it: for its PYTHONPATH."""

_ASK: Final = """
import importlib.util, json, os, sys

def has(name):
    return importlib.util.find_spec(name) is not None

print(json.dumps({
    "implementation": sys.implementation.name,
    "version": "%d.%d" % sys.version_info[:2],
    "program": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "has_helpers": has("test") and has("test.support.socket_helper"),
    "has_tests": has("test") and has("test.test_socket"),
}))
"""


class Interpreter(NamedTuple):
    """A CPython.

    Attributes:
        program: the path of its program, outside any virtual environment.
        version: such as "3.12".
        has_helpers: whether it has `test.support.socket_helper`.
        has_tests: whether it has CPython's own tests, too; Debian's has not.
    """

    program: str
    version: str
    has_helpers: bool
    has_tests: bool


def with_helpers(version: str) -> Interpreter:
    """Return a CPython *version* that has `test.support`; skip the test where there is none."""
    return _first(version, "test.support", lambda one: one.has_helpers)


def with_tests(version: str) -> Interpreter:
    """Return a CPython *version* that has its own tests; skip the test where there is none."""
    return _first(version, "its own tests", lambda one: one.has_tests)


def _first(version: str, what: str, fits: Callable[[Interpreter], bool]) -> Interpreter:
    """Return the first that fits, this interpreter before all others.

    Where CI demands every capability, this interpreter's own version must be there, but no other.
    """
    for found in _found():
        if found.version == version and fits(found):
            return found
    reason = f"no CPython {version} with {what} on this machine ({VARIABLE} can name one)"
    if os.environ.get("PORTLEASE_REQUIRE") == "1" and version == running_version():
        pytest.fail(f"CI must have one: {reason}", pytrace=False)
    pytest.skip(reason)


def running_version() -> str:
    """Return this interpreter's version, such as "3.12"."""
    return "{}.{}".format(*sys.version_info[:2])


@functools.cache
def _found() -> tuple[Interpreter, ...]:
    found: dict[str, Interpreter] = {}
    for candidate in _candidates():
        interpreter = _asked(candidate)
        if interpreter is not None and interpreter.version in VERSIONS:
            found.setdefault(interpreter.program, interpreter)
    return tuple(found.values())


def _candidates() -> Iterator[str]:
    yield sys.executable
    yield from filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    names = [f"python{version}" for version in VERSIONS]
    for directory in os.get_exec_path():
        for name in names:
            path = shutil.which(name, path=directory)
            if path is not None:
                yield path
    home = Path.home()
    roots = {
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions": "*",
        home / ".local/share/uv/python": "cpython-*",
        Path("/opt/python"): "cp3*",
        Path("/opt/hostedtoolcache/Python"): "*/*",
        Path("/Library/Frameworks/Python.framework/Versions"): "*",
    }
    for root, pattern in roots.items():
        for name in names:
            yield from (str(path) for path in sorted(root.glob(f"{pattern}/bin/{name}")))


@functools.cache
def _asked(program: str) -> Interpreter | None:
    """Ask a program what it is; None where it cannot be run or is no CPython."""
    try:
        done = subprocess.run(
            [program, "-I", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=HANG_S,
            check=False,
        )
    except (FileNotFoundError, PermissionError):
        return None
    if done.returncode != 0:  # such as pyenv's stand-in for a version that is not selected
        return None
    answer = json.loads(done.stdout)
    if answer["implementation"] != "cpython":
        return None
    return Interpreter(**{name: answer[name] for name in Interpreter._fields})
