"""Suites that are not Python's: elsewhere/, each in a language and on a port of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import _packages, _portlease

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIMIT: Final = ("--timeout", "180")
_FOLDER: Final = Path(__file__).with_name("elsewhere")


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite, and what its language needs."""

    name: str
    title: str
    command: tuple[str, ...]
    program: str
    package: str
    """Debian's, that has the program."""


SUITES: Final = (
    Suite("node", "Node, `node:test`", ("node", "--test"), "node", "nodejs"),
    # -count=1: a result from go's cache is no run.
    Suite("go", "Go, `testing`", ("go", "test", "-count=1", "-v", "./..."), "go", "golang-go"),
    Suite("shell", "sh and perl, TAP", ("./suite.sh",), "perl", "perl"),
)


def missing(suites: Sequence[Suite] = SUITES) -> list[Suite]:
    """Those whose program is not installed."""
    return [one for one in suites if shutil.which(one.program) is None]


def measure(suite: Suite, temporary: Path) -> dict[str, Any]:
    """Run it in every way, in a copy, and audit it."""
    directory = temporary / suite.name
    shutil.copytree(_FOLDER / suite.name, directory)
    # Where go keeps what it has compiled; not among the instances' own files.
    env = {"GOCACHE": str(temporary / "go-cache"), "GOFLAGS": "-mod=mod -vet=off"}
    env["TMPDIR"] = str(temporary)
    beside = _portlease.repeat(suite.command, directory, *_LIMIT, env=env)
    isolated = _portlease.repeat(suite.command, directory, *_LIMIT, "--isolate", env=env)
    found = _portlease.audit(suite.command, directory, env)
    return {
        "name": suite.name,
        "title": suite.title,
        "command": list(suite.command),
        "beside": beside,
        "isolated": isolated,
        "audit": _packages.audited(found, directory),
    }
