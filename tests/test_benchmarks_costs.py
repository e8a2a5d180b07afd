"""The benchmarks of what parts of portlease cost run, in their smallest form; nothing is judged."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _brokered import need_broker
from _need import need
from _processes import HANG_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks are Linux's alone")

COMMAND = Path(__file__).resolve().parents[1] / "benchmarks" / "run.py"


def _measured(name: str) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The rows of each table, by its title, and the notes."""
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--scale", "tiny", name, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["benchmarks"]
    assert result["name"] == name
    for goal in result["goals"]:
        assert math.isfinite(goal["measured"]), goal
    return {table["title"]: table["rows"] for table in result["tables"]}, result["notes"]


def test_portserver() -> None:
    """Requests to our port server are timed while none and some of its ports are out."""
    need.capability("abstract_unix")
    tables, notes = _measured("portserver")
    (rows,) = tables.values()
    ours = [row for row in rows if row["name"] == "portlease portserver"]
    assert [(row["out"], row["requests"]) for row in ours] == [(0, 50), (20, 50)]
    assert all(0 < row["median"] <= row["p99"] <= row["most"] for row in rows)
    theirs = {row["name"] for row in rows} - {"portlease portserver"}
    assert theirs or any("is not installed" in note for note in notes)


def test_own_binds() -> None:
    """The hook is measured against nothing, and where it has leases to look through."""
    tables, _ = _measured("own_binds")
    (rows,) = tables.values()
    assert [row["name"] for row in rows] == [
        "open and close",
        "socket, bind to port 0, close",
        "the same, 100 leases held",
    ]
    for row in rows:
        assert row["without"] > 0
        assert row["more"] == pytest.approx(row["with"] - row["without"])


def test_isolate_cost() -> None:
    """Commands are started with a network of their own and without; many alive have as many."""
    need.capability("netns")
    tables, _ = _measured("isolate_cost")
    medians = {row["name"]: row["median"] for row in tables["Start of a command"]}
    assert {"plain", "portlease._isolate.command", "the same, with reach="} <= set(medians)
    # Nothing starts an interpreter and a network in the time that it takes to start `true`.
    assert medians["plain"] < medians["portlease._isolate.command"]
    (alive,) = tables["Many at once"]
    assert alive["alive"] == alive["networks"] == 5


def test_audit_cost() -> None:
    """Calls, a command and a suite are timed by themselves, with the hook, and observed."""
    need.capability("seccomp")
    tables, _ = _measured("audit_cost")
    calls = {row["name"]: row for row in tables["Calls"]}
    assert {"bind", "listen", "connect", "setsockopt", "open a file"} <= set(calls)
    # A bind that the observer writes down first cannot be as quick as one that nobody sees.
    assert calls["bind"]["observed"] > calls["bind"]["plain"] > 0
    for title in ("Run a command that does nothing", "Run a suite"):
        assert [row["name"] for row in tables[title]] == ["plain", "only Python", "observed"]


def test_broker_cost() -> None:
    """Calls and starts are timed under the broker and without it."""
    need_broker()
    tables, notes = _measured("broker_cost")
    calls = {row["name"]: row for row in tables["System calls"]}
    assert calls["bind, TCP"]["brokered"] > calls["bind, TCP"]["native"] > 0
    assert {row["name"] for row in tables["Start a command under a keeper"]} == {
        "native",
        "brokered",
    }
    assert "A server beside it" in tables or any("redis is not installed" in one for one in notes)
