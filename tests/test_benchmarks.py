"""The benchmarks run: every command, in its smallest form. What they measure is not judged here."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _need import need
from _processes import HANG_S

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
        timeout=HANG_S,
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
    """A lease is measured beside the bare system calls, Python's and C's, and with many held."""
    need.program("gcc")
    alone, held = _measured("lease_cost")["tables"]
    medians = {row["name"]: row["median"] for row in alone["rows"]}
    assert all(median > 0 for median in medians.values())
    assert {
        "portlease.lease() ... release()",
        "the same 10 system calls, bare Python",
        "the same 10 system calls, C",
        "CPython find_unused_port",
    } <= set(medians)
    assert {row["name"] for row in held["rows"]} == set(medians)
    for row in held["rows"]:
        assert min(row[f"50 {who} median"] for who in ("this process", "another")) > 0


def test_bare_calls_are_those_of_a_lease(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """The yardstick of lease_cost makes the very system calls that strace sees of a lease."""
    need.program("strace")
    need.capability("ipv6")
    # The first does more; and one of the others may draw a number that somebody has.
    script = (
        "import os, portlease\n"
        "for _ in range(5):\n"
        "    portlease.lease().release()\n"
        "    os.getppid()\n"
    )
    calls = _traced([sys.executable, "-c", script], "", tmp_path)
    ends = [place for place, call in enumerate(calls) if call == "getppid"]
    made = [tuple(calls[first + 1 : last]) for first, last in itertools.pairwise(ends)]
    assert made.count(load("lease_cost").BARE_CALLS) >= len(made) - 1 == 3


def test_bare_calls_of_c_are_the_same(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """So does the program in C, for each port that it is told."""
    need.program("strace")
    need.capability("ipv6")
    program = str(tmp_path / "bare")
    source = str(BENCHMARKS / "programs" / "bare.c")
    subprocess.run([need.program("gcc"), "-o", program, source], check=True, timeout=HANG_S)
    with portlease.lease_many(2) as leases:
        ports = [lease.port for lease in leases]
    calls = _traced([program], f"{ports[0]} {ports[1]}\n", tmp_path)
    assert tuple(calls[calls.index("socket") :]) == load("lease_cost").BARE_CALLS * 2


def _traced(command: list[str], told: str, folder: Path) -> list[str]:
    """The system calls on sockets that it makes, and getppid(2)."""
    log = folder / "strace"
    traced = "getppid,socket,bind,connect,setsockopt,getsockopt,getsockname,listen,close"
    done = subprocess.run(
        ["strace", "-o", str(log), "-e", f"trace={traced}", *command],
        input=told,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = log.read_text(encoding="utf-8").splitlines()
    return [line.partition("(")[0] for line in lines if not line.startswith("+")]


def test_crowd() -> None:
    """Crowds take ports, and in one of two somebody gets some."""
    rows = {row["name"]: row for row in _rows(_measured("crowd"))}
    assert {"portlease.lease() ... release()", "CPython find_unused_port"} <= set(rows)
    assert sum(row["2 median"] for row in rows.values()) > 0


def test_collisions() -> None:
    """With nobody else, and under storms among 400 ports, no lease meets another owner."""
    need.capability("netns")
    wide, narrow = _measured("collisions")["tables"]
    for table in (wide, narrow):
        ours = [row for row in table["rows"] if row["name"].startswith("portlease")]
        assert {row["server"] for row in ours} == {"SO_REUSEADDR", "plain"}
        for row in ours:
            assert (row["taken"], row["failed"], row["double"], row["none"]) == (10, 0, 0, 0)
    assert all(row["binds"] and row["connects"] for row in narrow["rows"])


def test_first_byte() -> None:
    """A suite is run with each starter, and every test of it reads its server's first byte."""
    rows = {row["name"]: row for row in _rows(_measured("first_byte"))}
    assert {
        "portlease, fixture serve",
        "find_unused_port, Popen, connect every 10 ms",
    } <= set(rows)
    assert {row["tests"] for row in rows.values()} == {2}
    assert all(0 < row["median"] / 1000 < row["whole"] for row in rows.values())


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


def test_output(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """What is measured is kept, and a page is made of it and of what was there before."""
    results = tmp_path / "benchmarks" / "results"
    report = load("_report")
    rows = [{"name": "portlease.lease(ports=...)", "taken": 40}]
    columns = [report.Column("name", "contestant"), report.Column("taken", "taken")]
    before = report.Result("contention", "Before", [report.Table("8 processes", columns, rows)])
    report.save(before, {"date": "d", "python": "p", "load at the start": "0"}, 1, results)
    done = _run("own_binds", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "[1/1]" in done.stderr
    version = ".".join(map(str, sys.version_info[:2]))
    assert {path.name for path in results.iterdir()} == {
        f"own_binds-python{version}.json",
        f"contention-python{version}.json",
    }
    page = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "tiny: it shows that it works" in page
    assert "## A test's own binds" in page
    assert "| portlease.lease(ports=...) | 40 |" in page


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    """A part, and a small run, are printed and change no kept figures."""
    before = {path: path.stat().st_mtime_ns for path in (BENCHMARKS / "results").iterdir()}
    done = _run("own_binds")
    assert done.returncode == 0, done.stderr
    assert "socket, bind to port 0, close" in done.stdout
    assert "wrote" not in done.stderr
    after = {path: path.stat().st_mtime_ns for path in (BENCHMARKS / "results").iterdir()}
    assert before == after
    assert not list(tmp_path.iterdir())


def test_one_that_cannot_be_run(
    load: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It is told, the others are kept all the same, and the exit status is 1."""
    run = load("run")
    monkeypatch.setattr(run, "BENCHMARKS", {"no_such_thing": "a test", "own_binds": "another"})
    where = ["--network", "shared", "--output", str(tmp_path)]
    assert run.main(["--scale", "tiny", *where]) == 1
    told = capfd.readouterr().err
    assert "No module named 'no_such_thing'" in told
    assert "no_such_thing could not be run" in told
    (kept,) = (tmp_path / "benchmarks" / "results").iterdir()
    assert kept.name.startswith("own_binds-")


def test_the_page_is_made_of_the_figures(load: Callable[[str], ModuleType]) -> None:
    """docs/benchmarks.md is what the command makes of benchmarks/results, and so are its plots."""
    docs = BENCHMARKS.parent / "docs"
    results = load("_report").kept(BENCHMARKS / "results")
    pages, plots = load("_page"), load("_plots")
    page = pages.page(results)
    assert (docs / "benchmarks.md").read_text(encoding="utf-8") == page
    shown = pages.chosen(results)
    assert set(shown) == set(load("run").BENCHMARKS)
    for name, plot in plots.PLOTS.items():
        assert f"(benchmarks/{name}.svg)" in page
        svg = (docs / "benchmarks" / f"{name}.svg").read_text(encoding="utf-8")
        assert plots.digest(plot, shown) in svg, f"{name}.svg is of other figures: --render"
    for folder in (BENCHMARKS.parent, Path.home(), tempfile.gettempdir()):
        assert f"{folder}/" not in page


def test_every_benchmark_is_described(load: Callable[[str], ModuleType]) -> None:
    """The table of benchmarks/README.md has them all, and each has a section of the page."""
    table = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for name in load("run").BENCHMARKS:
        assert f"\n| `{name}` | " in table
        assert name in load("_page")._SECTIONS


def test_every_peer_is_described(load: Callable[[str], ModuleType]) -> None:
    """Of each it is said what it holds; those that are installed give a port."""
    peers = load("_peers")
    found, missing = peers.installed()
    assert {peer.name for peer in found} <= set(peers.HOLDS)
    assert len(found) + len(missing) + 1 == len(peers.HOLDS)  # the server of one is not asked here
    for peer in found:
        if not peer.milliseconds:
            assert 0 < peer.take() < 65536


def test_kept_and_read_again(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """A result that was saved is the same when it is read."""
    report = load("_report")
    table = report.Table("A table", [report.Column("a", "A", "{:.2f}")], [{"a": 1.5, "more": "x"}])
    goal = report.Goal("a goal", 2.0, 1.0, "ms")
    result = report.Result("thing", "A title", [table], [goal], ["a note"])
    report.save(result, {"date": "today"}, 3.4, tmp_path)
    (kept,) = report.kept(tmp_path)
    assert kept.result == result
    assert (kept.python, kept.seconds) == (sys.version_info[:2], 3)
    assert report.markdown(kept.result.tables[0]) == ["| A |", "|---|", "| 1.50 |"]
    assert not goal.reached


def test_a_page_is_made_of_the_figures_that_are_kept(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """As the commands beside this one write theirs, and can make them again."""
    document = load("_command").Document("thing", lambda figures: f"{figures['n']}\n", tmp_path)
    document.keep({"n": 1})
    assert document.figures() == {"n": 1}
    assert not (tmp_path / "docs").exists()
    document.render()
    page = tmp_path / "docs" / "thing.md"
    assert page.read_text(encoding="utf-8") == "1\n"
    document.write({"n": 2})
    assert (document.figures(), page.read_text(encoding="utf-8")) == ({"n": 2}, "2\n")


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
