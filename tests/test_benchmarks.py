"""The benchmarks run: every command, in its smallest form. What they measure is not judged here."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from _need import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), "--scale", "tiny", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _measured(name: str) -> dict[str, Any]:
    done = _run(name, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {"kernel", "processor", "python"} <= set(answer["machine"])
    (result,) = answer["benchmarks"]
    assert result["name"] == name
    found: dict[str, Any] = result
    return found


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for table in result["tables"] for row in table["rows"]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the benchmarks, which are no package; forgets it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is not None and Path(origin).parent == BENCHMARKS:
            del sys.modules[name]


def test_lease_cost() -> None:
    """A lease is measured beside the bare system calls, and with many held."""
    result = _measured("lease_cost")
    medians = {row["name"]: row["median"] for row in _rows(result)}
    assert all(median > 0 for median in medians.values())
    assert "portlease.lease() ... release()" in medians
    assert {row["by"] for row in _rows(result) if "by" in row} == {
        "nobody",
        "this process",
        "another",
    }


def test_bare_calls_are_those_of_a_lease(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """The yardstick of lease_cost makes the very system calls that strace sees of a lease."""
    strace = need.program("strace")
    need.capability("ipv6")
    script = (
        "import os, portlease\n"
        "portlease.lease().release()\n"
        "os.getppid()\n"
        "portlease.lease().release()\n"
        "os.getppid()\n"
    )
    log = tmp_path / "strace"
    traced = "getppid,socket,bind,connect,setsockopt,getsockopt,getsockname,listen,close"
    done = subprocess.run(
        [strace, "-o", str(log), "-e", f"trace={traced}", sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = [line.partition("(")[0] for line in log.read_text(encoding="utf-8").splitlines()]
    first = calls.index("getppid")
    between = calls[first + 1 : calls.index("getppid", first + 1)]
    assert tuple(between) == load("lease_cost").BARE_CALLS


def test_collisions() -> None:
    """Under storms in a namespace of 400 ports no lease meets another owner."""
    need.capability("netns")
    ours = [row for row in _rows(_measured("collisions")) if row["name"].startswith("portlease")]
    assert {row["server"] for row in ours} == {"SO_REUSEADDR", "plain"}
    for row in ours:
        assert (row["taken"], row["failed"], row["double"], row["none"]) == (10, 0, 0, 0)


def test_contention() -> None:
    """Every named port is leased once, and is free again once its holder is killed."""
    result = _measured("contention")
    lease, bare, *_ = _rows(result)
    assert lease["taken"] == lease["different"] == lease["board"] == 40
    assert bare["taken"] == bare["different"] == 40
    assert all(goal["reached"] for goal in result["goals"])


def test_readiness() -> None:
    """Quick and slow servers are started by serve() and by polling."""
    rows = _rows(_measured("readiness"))
    assert len({row["server"] for row in rows}) == 2
    assert {"portlease.serve()", "connect every 50 ms"} <= {row["name"] for row in rows}


def test_import_time() -> None:
    """Importing portlease loads no third-party package."""
    rows = {row["name"]: row for row in _rows(_measured("import_time"))}
    assert rows["portlease"]["foreign"] == 0
    assert rows["portlease"]["median"] > 0


def test_save(tmp_path: Path) -> None:
    """--save writes one Markdown file for each benchmark, the machine on top."""
    done = _run("import_time", "--save", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Added to `import socket`" in done.stdout
    (file,) = tmp_path.iterdir()
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# import portlease\n\n- date: ")
    assert "| portlease | " in text


def test_unknown_benchmark() -> None:
    """A benchmark that does not exist is bad usage, and says which do."""
    done = _run("speed")
    assert done.returncode == 2
    assert "lease_cost" in done.stderr


def test_spread(load: Callable[[str], ModuleType]) -> None:
    """Quartiles and percentiles are values that were measured; the median may lie between two."""
    spread = load("_measure").spread(range(200, 0, -1))
    assert (spread.count, spread.least, spread.most) == (200, 1, 200)
    assert (spread.lower, spread.median, spread.upper, spread.p99) == (51, 100.5, 151, 199)
    assert load("_measure").spread([7.0]).p99 == 7.0


def test_rounds_are_interleaved(load: Callable[[str], ModuleType]) -> None:
    """Every contestant has one turn a round, and the order moves on by one."""
    measure = load("_measure")
    order: list[str] = []

    def contestant(name: str) -> object:
        return measure.Contestant(lambda _: order.append(name), 1)

    figures = measure.interleaved(
        {name: contestant(name) for name in "abc"}, rounds=3, warm_up=False
    )
    assert "".join(order) == "abcbcacab"
    assert {name: len(values) for name, values in figures.items()} == {"a": 3, "b": 3, "c": 3}


def test_doubles(load: Callable[[str], ModuleType]) -> None:
    """A port counts as double once for each time it is given out while somebody has it."""
    doubles = load("collisions")._doubles
    apart = [[1, 0, 10, True], [1, 10, 20, True], [2, 5, 15, True]]
    assert doubles(apart) == 0
    assert doubles([*apart, [1, 9, 12, False]]) == 2
