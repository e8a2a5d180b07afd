"""docs/lint.md: its examples are run as they stand, its table is the code's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from _cli import PORTLEASE, environment
from _documents import texts
from _need import need
from _processes import HANG_S
from portlease._findings import _rules

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "lint.md"


def test_the_table_of_rules_is_the_codes() -> None:
    """Each rule with its name, what is found and the remedy."""
    page = PAGE.read_text()
    for rule in _rules.RULES.values():
        assert f"| {rule.code} | {rule.name} | {rule.summary} | {rule.remedy} |" in page


def test_the_console_says_what_the_page_shows(tmp_path: Path) -> None:
    """Every command in order, in a folder with the first example; and the example passes."""
    suite = tmp_path / "tests" / "test_server.py"
    suite.parent.mkdir()
    suite.write_text(texts(PAGE, "python")[0])
    for block in texts(PAGE, "console"):
        for command, shown in re.findall(
            r"^\$ portlease (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE
        ):
            done = subprocess.run(
                [*PORTLEASE, *command.split()],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            told = done.stdout + "".join(
                line for line in done.stderr.splitlines(keepends=True) if line in shown
            )
            assert told == shown, done.stderr
    fixed = subprocess.run(
        [*PORTLEASE, "lint", "--fix", "tests"], cwd=tmp_path, capture_output=True, check=False
    )
    assert fixed.returncode == 0
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:asyncio", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_the_hook_runs_under_pre_commit(tmp_path: Path) -> None:
    """As the page has it: a test's hard-coded port keeps a commit back; of tests alone."""
    pre_commit, git = need.program("pre-commit"), need.program("git")
    (tmp_path / ".pre-commit-config.yaml").write_text(texts(PAGE, "yaml")[0])
    for name in "tests/test_server.py", "server.py":
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(texts(PAGE, "python")[0])
    folders = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = environment({"PATH": folders, "PRE_COMMIT_HOME": str(tmp_path / "cache")})
    for command in ("init", "-q"), ("add", "tests", "server.py"):
        subprocess.run([git, *command], cwd=tmp_path, env=env, check=True)
    done = subprocess.run(
        [pre_commit, "run", "--color", "never"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Failed\n- hook id: portlease-lint\n- exit code: 1\n" in done.stdout
    assert re.search(r"^tests/test_server.py:\d+:\d+: PL001 port 18080", done.stdout, re.MULTILINE)
    assert "\nserver.py" not in done.stdout


def test_each_judgement_has_a_reason() -> None:
    """benchmarks/lint/judged.json, which the figures rest on."""
    judged = json.loads((ROOT / "benchmarks" / "lint" / "judged.json").read_text())
    assert len(judged) > 100
    for one in judged:
        assert set(one) == {"path", "line", "code", "right", "why"}
        assert one["why"]
        assert one["code"] in _rules.RULES
