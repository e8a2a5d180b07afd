"""Packages' own suites: alone, side by side, isolated; and what audit and lint find in them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from . import _portlease

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ._catalogue import Package
    from ._environment import Environment


def measure(package: Package, environment: Environment) -> dict[str, Any]:
    """Run the suite in every way and look for its ports."""
    python, directory = str(environment.python), environment.directory
    command = [python, "-m", "pytest", *package.tests]
    env = {"PYTHONDONTWRITEBYTECODE": "1", "VIRTUAL_ENV": str(environment.python.parents[1])}
    env["PATH"] = f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}"
    limit = ("--timeout", str(package.timeout_s))
    beside = _portlease.repeat(command, directory, *limit, env=env)
    isolated = _portlease.repeat(command, directory, *limit, "--isolate", env=env)
    found = _portlease.audit(command, directory, env)
    read = _portlease.lint(package.folders, directory)
    return {
        "name": package.name,
        "version": package.version,
        "command": ["python", "-m", "pytest", *package.tests],
        "note": package.note,
        "beside": beside,
        "isolated": isolated,
        "audit": audited(found, directory),
        "lint": _linted(read),
    }


def audited(answer: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The hard-coded ports: where they were bound, and how often."""
    hard = [bind for bind in answer["binds"] if bind.get("origin") == "hard-coded"]
    return {
        "counts": answer["counts"],
        "status": answer["status"],
        "seconds": answer["seconds"],
        "notes": answer["notes"],
        "ports": _ports((bind.get("port") for bind in hard), answer["findings"]),
        "findings": [
            {
                "code": one["code"],
                "place": shown(one["path"], one["line"], directory),
                "ports": one["ports"],
                "count": one["count"],
                "tests": len(one["tests"]),
            }
            for one in answer["findings"]
            if one["code"] == "PL001"
        ],
        "others": _count(one["code"] for one in answer["findings"] if one["code"] != "PL001"),
    }


def _ports(bound: Iterable[int | None], findings: Iterable[Mapping[str, Any]]) -> list[int]:
    listed = {port for one in findings if one["code"] == "PL001" for port in one["ports"]}
    return sorted(listed | {port for port in bound if port})


def _linted(answer: Mapping[str, Any]) -> dict[str, Any]:
    findings = [
        {"code": one["code"], "place": f"{one['path']}:{one['line']}", "message": one["message"]}
        for one in answer["findings"]
    ]
    numbers = {
        int(number)
        for one in findings
        if one["code"] in {"PL001", "PL002"}
        for number in re.findall(r"\bport (\d+)\b", one["message"])
    }
    return {
        "files": answer["files"],
        "codes": _count(one["code"] for one in findings),
        "ports": sorted(numbers),
        "findings": [one for one in findings if one["code"] in {"PL001", "PL002"}],
    }


def _count(codes: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for code in codes:
        counts[code] = counts.get(code, 0) + 1
    return dict(sorted(counts.items()))


def shown(path: str, line: int | None, directory: Path) -> str:
    """A place as the page shows it: no folder of this machine in it."""
    text = path.removeprefix(f"{directory}/")
    _, inside, rest = text.rpartition("/site-packages/")
    text = f"site-packages/{rest}" if inside else text
    text = re.sub(r"^.*/lib/(python\d\.\d+/)", r"\1", text)
    return f"{text}:{line}" if line else text
