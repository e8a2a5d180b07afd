"""One suite, run without takeover and with it; what became of each of its tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._catalogue import Suite
    from ._fetch import Fetched

HERE: Final = Path(__file__).resolve().parent
_HANG_S: Final = 1200.0
_AGAIN: Final = 3


class _Mode(NamedTuple):
    """In which a suite is run."""

    takeover: bool
    before: tuple[str, ...] = ()
    """What is put before the command."""

    @property
    def added(self) -> dict[str, str]:
        """To the environment; not -p, since tests of plugins run pytest themselves."""
        return {"PYTEST_PLUGINS": "portlease.takeover,_counting" if self.takeover else ""}


_OFF: Final = _Mode(takeover=False)
_ON: Final = _Mode(takeover=True)


def measure(suite: Suite, fetched: Fetched) -> dict[str, Any]:
    """Run it; return what goes into the table."""
    found: dict[str, Any] = {
        "name": suite.name,
        "version": fetched.version,
        "ships": fetched.ships,
        "files": _files(suite, fetched.tests),
    }
    if suite.ships_none:
        return found
    found["off"], off = _run(suite, fetched, _OFF)
    found["on"], on = _run(suite, fetched, _ON)
    found["differ"] = _differ(suite, fetched, off, on, _ON)
    if suite.portserver:
        words = (str(fetched.bin / "portlease"), "run", "--portserver", "--")
        served = _Mode(takeover=False, before=words)
        found["portserver"], client = _run(suite, fetched, served)
        found["portserver_differ"] = _differ(suite, fetched, off, client, served)
    return found


def _differ(
    suite: Suite, fetched: Fetched, off: Mapping[str, str], on: Mapping[str, str], mode: _Mode
) -> list[dict[str, str]]:
    """The tests that became something else; each is run three times more in both modes, alone.

    Released suites have tests that fail now and then on a busy machine. What fails for a reason
    fails again.
    """
    found = []
    for test in sorted({*off, *on}):
        was, is_now = off.get(test, "not run"), on.get(test, "not run")
        if was == is_now:
            continue
        passed = [0, 0]
        for index in (0, 1) * _AGAIN:
            _, outcomes = _run(suite, fetched, (_OFF, mode)[index], only=[test])
            passed[index] += outcomes.get(test) == "passed"
        told = f"run again {_AGAIN} times, it passed {passed[0]} times off and {passed[1]} on"
        found.append({"test": test, "off": was, "on": is_now, "again": told})
    return found


def _files(suite: Suite, tests: Path) -> list[str]:
    """The files that are run; empty: what pytest finds by itself."""
    if not suite.named:
        return []
    return sorted(
        str(path.relative_to(tests))
        for path in (tests / "tests").rglob("test_*.py")
        if re.search(suite.named, path.read_text(encoding="utf-8"))
    )


def _run(
    suite: Suite,
    fetched: Fetched,
    mode: _Mode,
    *,
    only: list[str] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The counts, and the outcome of each test by its name."""
    with tempfile.TemporaryDirectory(prefix="takeover-") as name:
        folder = Path(name)
        count = folder / "count"
        make = _unittest if suite.unittest else _pytest
        command, outcomes_in = make(suite, fetched, folder, mode, only or [])
        begun = time.monotonic()
        done = subprocess.run(
            [*fetched.prefix, *mode.before, str(fetched.bin / "python"), *command],
            cwd=fetched.tests,
            env={**_environment(fetched.bin, count), **mode.added},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HANG_S,
            check=False,
        )
        seconds = time.monotonic() - begun
        try:
            outcomes = outcomes_in()
        except FileNotFoundError:
            said = (done.stdout + done.stderr)[-4000:]
            raise RuntimeError(f"{suite.name} did not run:\n{said}") from None
        given = sum(map(int, count.read_text().split())) if count.exists() else 0
    counts = Counter(outcomes.values())
    failed = sorted(test for test, outcome in outcomes.items() if outcome == "failed")
    figures = {kind: counts[kind] for kind in ("passed", "failed", "skipped")}
    return {**figures, "given": given, "seconds": round(seconds, 1), "which": failed}, outcomes


def _pytest(
    suite: Suite, fetched: Fetched, folder: Path, mode: _Mode, only: list[str]
) -> tuple[list[str], Callable[[], dict[str, str]]]:
    """The command behind python, and what tells the outcomes afterwards."""
    del mode
    report = folder / "report.xml"
    # What the suite's own configuration adds (workers, coverage) is not what is compared.
    words = ["-m", "pytest", "-q", "-o", "addopts=", "-o", f"cache_dir={folder / 'cache'}"]
    words += ["-o", "junit_family=xunit1", f"--junitxml={report}", *suite.arguments]
    words += [f"--basetemp={folder / 'tmp'}", *(only or _files(suite, fetched.tests))]
    return words, lambda: _outcomes(report)


def _unittest(
    suite: Suite, fetched: Fetched, folder: Path, mode: _Mode, only: list[str]
) -> tuple[list[str], Callable[[], dict[str, str]]]:
    """The same, by the suite's own runner."""
    del fetched
    file = folder / "outcomes.json"
    takeover = ["--takeover"] if mode.takeover else []
    words = [str(HERE / "_unittest.py"), str(file), *takeover, suite.unittest, *only]

    def outcomes() -> dict[str, str]:
        found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        return found

    return words, outcomes


def _environment(programs: Path, count: Path) -> dict[str, str]:
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "PORTSERVER_", "VIRTUAL_ENV", "PYTHON"))
    }
    path = f"{programs}{os.pathsep}{ours.get('PATH', os.defpath)}"
    return {**ours, "PATH": path, "PORTLEASE_COUNT": str(count), "PYTHONPATH": str(HERE)}


def _outcomes(report: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest's own report
        test = _node(case)
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            found[test] = "failed"
        elif found.get(test) != "failed":
            found[test] = "skipped" if "skipped" in kinds else "passed"
    return found


def _node(case: ET.Element) -> str:
    """What pytest is to be told to run this test again."""
    file, classes = case.get("file") or "", case.get("classname") or ""
    module = file.removesuffix(".py").replace("/", ".").lstrip(".")
    inside = classes.removeprefix(module).strip(".") if module in classes else classes
    return "::".join(filter(None, [file, *inside.split("."), case.get("name") or ""]))
