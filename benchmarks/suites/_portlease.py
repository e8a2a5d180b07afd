"""What portlease's own commands say of a suite, read from their JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INSTANCES: Final = 4
_ROOT: Final = Path(__file__).resolve().parents[2]


class FailedError(Exception):
    """A command of portlease did not do its work; the message is what it said."""


def repeat(
    command: Sequence[str],
    directory: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `portlease repeat` and return what the page needs of its answer.

    Args:
        command: one instance.
        directory: where it runs.
        options: of `portlease repeat`.
        env: what the environment has beside this process's own.
        inside: what portlease itself is started by, a namespace for example.
    """
    given = ["--quiet", "--json", *options]
    arguments = ["repeat", "-n", str(INSTANCES), *given, "--", *command]
    answer = _answer(arguments, directory, env, inside)
    if not answer["whole"]:
        raise FailedError(f"portlease {' '.join(arguments)} was ended before it had finished")
    return tally(answer)


def tally(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Count, for each instance, what failed in it and not alone."""
    answer = scrubbed(answer)
    runs = answer["runs"]
    company = [run for run in runs if not run["alone"]]
    beyond = {run["name"]: 0 for run in company}
    broken = []
    for failure in answer["failures"]:
        for case in failure["cases"]:
            if failure["whole_run"]:
                broken.append(f"{case['run']}: {case['message']}")
            beyond[case["run"]] += 1
    return {
        "tests": answer["tests"],
        "alone": [
            {"failed": run["failed"], "seconds": run["seconds"], "tests": run["tests"]}
            for run in runs
            if run["alone"]
        ],
        "alone_too": [one["test"] for one in answer["alone_too"]],
        "beyond": list(beyond.values()),
        "distinct": answer["failed_in_company"],
        "causes": answer["causes"],
        "seconds": max((run["seconds"] for run in company), default=0.0),
        "results": [run["result"] for run in company],
        "failures": [
            {
                "test": one["test"],
                "cause": one["cause"],
                "failed": one["failed"],
                "ports": sorted({case["port"] for case in one["cases"] if case["port"]}),
                "culprits": sorted({case["culprit"] or "" for case in one["cases"]} - {""}),
                "messages": sorted({case["message"] or "" for case in one["cases"]})[:3],
            }
            for one in answer["failures"]
        ],
        "broken": broken,
        "shared": answer["shared"],
        "notes": answer["notes"],
    }


def scrubbed(value: Any) -> Any:  # noqa: ANN401 - any part of an answer
    """Without what is of this machine or this run alone: process ids, folders."""
    if isinstance(value, str):
        for pattern, instead in _OF_THIS_MACHINE:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, dict):
        return {key: scrubbed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [scrubbed(one) for one in value]
    return value


_FOLDERS: Final = r"(?:/[\w.+-]+)+"
_OF_THIS_MACHINE: Final = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r",? \(?pid \d+\)?", ""),
        (rf"{_FOLDERS}/site-packages/", "site-packages/"),
        (rf"{_FOLDERS}/lib/(python3\.\d+)/", r"\1/"),
        (rf"{re.escape(str(_ROOT))}/", ""),
        (rf"{re.escape(tempfile.gettempdir())}{_FOLDERS}/", ""),
        (rf"{re.escape(str(Path.home()))}{_FOLDERS}/", ""),
    )
)


def audit(
    command: Sequence[str], directory: Path, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run `portlease audit`; return its findings and the counts of binds by origin."""
    return _answer(["audit", "--quiet", "--json", "--", *command], directory, env, ())


def lint(paths: Sequence[str], directory: Path, *options: str) -> dict[str, Any]:
    """Run `portlease lint`; return its findings."""
    return _answer(["lint", "--json", *options, *paths], directory, None, ())


def _answer(
    arguments: Sequence[str],
    directory: Path,
    env: Mapping[str, str] | None,
    inside: Sequence[str],
) -> dict[str, Any]:
    command = [*inside, sys.executable, "-m", "portlease", *arguments]
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"COLUMNS": "100"} | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    # What audit runs writes to the same standard output; the answer is the last line of it.
    last = (done.stdout.rstrip().splitlines() or [""])[-1]
    try:
        answer: dict[str, Any] = json.loads(last)
    except ValueError as error:
        raise FailedError(
            f"portlease {' '.join(arguments)}: status {done.returncode}\n"
            f"{done.stdout[-1000:]}\n{done.stderr[-1000:]}"
        ) from error
    return answer
