"""Suites side by side: the catalogue is sound, the page is that of the figures, a real one runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from _need import need

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SUITES = ROOT / "benchmarks" / "suites"


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The command's modules, which are no part of the package; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield __import__("benchmarks.suites.run", fromlist=["run"])
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is not None and ROOT / "benchmarks" in Path(origin).parents:
            del sys.modules[name]


def test_every_package_is_pinned(suites: Any) -> None:  # noqa: ANN401 - a module
    """What is fetched has one version and one hash, and both stand in its lock file."""
    for package in suites._catalogue.packages():
        lock = package.lock.read_text(encoding="utf-8")
        pinned = re.search(rf"(?im)^{package.name}(\[[\w,-]+\])?==(\S+)", lock)
        assert pinned is not None, package.name
        assert pinned[2] == package.version
        assert f"sha256:{package.sha256}" in lock
        assert package.folders


def test_every_lock_file_is_a_packages(suites: Any) -> None:  # noqa: ANN401 - a module
    """No lock file is left of a package that is no longer in the catalogue."""
    locks = {package.lock.name for package in suites._catalogue.packages()}
    assert {path.name for path in (SUITES / "locks").iterdir()} == locks


def test_the_page_is_made_of_the_figures(suites: Any) -> None:  # noqa: ANN401 - a module
    """docs/suites.md is what the command makes of benchmarks/results/suites.json."""
    figures = json.loads((ROOT / "benchmarks/results/suites.json").read_text(encoding="utf-8"))
    page = suites._page.page(figures)
    assert (ROOT / "docs" / "suites.md").read_text(encoding="utf-8") == page
    for folder in (ROOT, Path.home(), tempfile.gettempdir()):
        assert f"{folder}/" not in page


def test_failures_are_counted_by_instance(suites: Any) -> None:  # noqa: ANN401 - a module
    """A test counts once in each instance in which it failed, and a process id is left out."""
    cases = [
        {"run": "instance 1", "message": "in use", "port": 8080, "culprit": "2 had it, pid 77"},
        {"run": "instance 2", "message": None, "port": None, "culprit": None},
    ]
    failure = {"test": "t", "cause": "address in use", "failed": 2, "whole_run": False}
    run = {"seconds": 1.0, "failed": 0, "tests": 3, "result": "failed"}
    tally = suites._portlease.tally(
        {
            "tests": 3,
            "failed_in_company": 1,
            "causes": {"address in use": 1},
            "alone_too": [],
            "shared": [],
            "notes": [],
            "runs": [{"name": "alone", "alone": True} | run]
            + [{"name": f"instance {n}", "alone": False} | run for n in (1, 2, 3)],
            "failures": [failure | {"cases": cases}],
        }
    )
    assert tally["beyond"] == [1, 1, 0]
    assert tally["failures"][0]["culprits"] == ["2 had it"]
    assert tally["failures"][0]["ports"] == [8080]


@pytest.mark.long
def test_suites_without_python() -> None:
    """Node, Go and a shell script collide in company, do not when isolated, and are audited."""
    for program in ("node", "go", "perl"):
        need.program(program)
    need.capability("netns")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.suites", "--parts", "elsewhere", "--json"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["elsewhere"]
    assert [row["audit"]["ports"] for row in rows] == [[8080], [8081], [8082]]
    for row in rows:
        assert any(row["beside"]["beyond"]), row["name"]
        assert not any(row["isolated"]["beyond"]), row["name"]
