"""docs/promise.md: each line names who attacks it, and what shows that the attack can do harm."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import _attacks
import _promise

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = _promise.DOCUMENT.read_text(encoding="utf-8")
LINES = _promise.lines(DOCUMENT)


def test_the_lines_are_numbered() -> None:
    """From 1 on, without a gap: other documents refer to them by number."""
    assert [line.number for line in LINES] == list(range(1, len(LINES) + 1))
    assert len(LINES) == sum(row.startswith(tuple(f"| {n} " for n in range(100))) for row in ROWS)


ROWS = [row for row in DOCUMENT.splitlines() if row.startswith("| ")]


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line.number))
def test_every_line_has_attackers_and_controls(line: _promise.Line) -> None:
    """Which exist, and are not the same."""
    attackers, controls = _promise.expanded(line.attackers), _promise.expanded(line.controls)
    assert attackers
    assert controls
    assert not set(attackers) & set(controls)


def test_every_attack_is_named() -> None:
    """By a line, or anywhere else in the document; or it is said why not."""
    named = set(itertools.chain.from_iterable((*line.attackers, *line.controls) for line in LINES))
    named |= _promise.mentioned(DOCUMENT)
    known = set(_promise.expanded(tuple(name for name in named if name.startswith("tests/"))))
    attacks = set(_promise.expanded(tuple(_promise.attack_files())))
    unnamed = set(_promise.UNNAMED)
    assert attacks - known - unnamed == set()
    assert unnamed - attacks == set(), "there is no such test any more"
    assert unnamed & known == set(), "the document does name it"
    assert all(_promise.UNNAMED.values())


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("`test_x`", "names no test"),
        ("`…udp…`", "names no test"),
        ("`tests/test_serve.py`; control: none", "only names"),
    ],
)
def test_what_is_no_name_is_refused(cell: str, words: str) -> None:
    """So that no typing error takes an attacker away."""
    with pytest.raises(ValueError, match=words):
        _promise.lines(f"| 1 | x | {cell} | `tests/test_serve.py` |")


def test_what_does_not_exist_is_refused() -> None:
    """Neither a file nor a test; a file stands for all its tests, a name alone is in the last."""
    for name in ("tests/test_no_such.py", "tests/test_promise.py::test_no_such"):
        with pytest.raises(ValueError, match="there is no"):
            _promise.expanded((name,))
    (line,) = _promise.lines("| 7 | x | `tests/test_promise.py` | `test_the_lines_are_numbered` |")
    assert line.controls == ("tests/test_promise.py::test_the_lines_are_numbered",)
    assert set(line.controls) < set(_promise.expanded(line.attackers))


# --- the runner -----------------------------------------------------------------------------------


def result(outcome: str) -> _attacks.Result:
    """Of a test."""
    return _attacks.Result(outcome, "because", 1.0, ["thefts 3"])


@pytest.mark.parametrize(
    ("attacks", "controls", "verdict"),
    [
        (["passed", "passed"], ["passed"], "held"),
        (["passed", "skipped"], ["passed", "skipped"], "held"),
        (["passed", "failed"], ["passed"], "BROKEN by 1"),
        (["skipped"], ["passed"], "no attack"),
        ([], ["passed"], "no attack"),
        (["passed"], ["failed"], "no control"),
        (["passed"], ["skipped"], "no control"),
        (["passed"], [], "no control"),
    ],
)
def test_what_became_of_a_line(attacks: list[str], controls: list[str], verdict: str) -> None:
    """It held only if an attack was repelled, none got through, and the control did its harm."""
    attack, control = SERVE, "tests/test_promise.py::test_the_lines_are_numbered"
    row = _attacks.Row(1, "x", [attack], [control])
    for name, outcomes in ((attack, attacks), (control, controls)):
        for number, outcome in enumerate(outcomes):
            row.expected.add(f"{name}[{number}]")
            assert not row.over
            row.take(f"{name}[{number}]", result(outcome))
    assert row.over
    assert row.verdict() == verdict
    fact = "From 1 on, without a gap: other documents refer to them by number."
    assert row.did == f"{fact} (thefts 3)" * ("passed" in controls)


SERVE = "tests/test_serve.py::test_python_http_server"


def test_the_runner(tmp_path: Path) -> None:
    """It runs what a document names, says in a pipe what is over, and prints the table."""
    document = tmp_path / "promise.md"
    document.write_text(
        "| 1 | **One** thing, and more. And more. "
        "| `tests/test_promise.py::test_what_does_not_exist_is_refused` "
        "| `test_what_became_of_a_line` |\n"
        "| 2 | Another | `tests/test_promise.py::test_what_is_no_name_is_refused` "
        "| `test_the_lines_are_numbered` |\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(_promise.ROOT / "tests" / "attacks"), "--fast"]
    command += ["--document", str(document), "--line", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("line 1: held, 1 attacks, ")
    heading, row, *_ = done.stdout.splitlines()
    assert heading.split() == ["line", "promise", "attacks", "result", "time", "the", "control"]
    assert row.split()[:4] == ["1", "One", "thing,", "and"]
    assert "9 tests: 1 of 1 held" in done.stdout
    done = subprocess.run([*command, "--line", "3"], capture_output=True, text=True, check=False)
    assert (done.returncode, "has no line 3" in done.stderr) == (2, True)
