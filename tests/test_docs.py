"""The documents say what is: their examples run, their tests exist, their tables are the code's."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from _need import need
from portlease import _states

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_the_promises_name_tests_that_exist() -> None:
    """Each test that docs/promise.md names is there, in the file it names."""
    text = (ROOT / "docs" / "promise.md").read_text()
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    tests = {
        node.name
        for path in files.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", text))
    assert len(named) > 20
    assert named <= tests
    named_files = set(re.findall(r"\btest_\w+\.py\b", text))
    assert named_files <= set(files)


def test_every_promise_is_attacked() -> None:
    """Each numbered line of docs/promise.md names a test or a file of tests."""
    lines = re.findall(
        r"^\| (\d+) \|.*\|(.*)\|$", (ROOT / "docs" / "promise.md").read_text(), re.MULTILINE
    )
    assert [int(number) for number, _ in lines] == list(range(1, len(lines) + 1))
    assert all("test_" in attack for _, attack in lines)


def test_the_table_of_states_is_the_codes() -> None:
    """docs/architecture.md tells who can take the port as the code does."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    for state, who in _states.WHO_CAN_TAKE_IT.items():
        assert f"| {state} | {who} |" in text


def test_every_module_has_a_room() -> None:
    """docs/architecture.md names each module of the package."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "src" / "portlease"
    modules = [path.stem for path in package.glob("*.py") if path.stem.strip("_") not in _GATES]
    modules += [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    assert modules
    missing = [name for name in modules if f"`{name}`" not in text]
    assert not missing


_GATES = {"init", "main"}


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_python_in_the_readme_runs(number: int, tmp_path: Path) -> None:
    """Each Python block of the README runs, and prints what the block after it shows."""
    need.program("redis-server")
    text = README.read_text()
    code = blocks(README, "python")[number]
    following = text[text.index(code) + len(code) :]
    shown = re.match(r"```\n+```text\n(.*?)```", following, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if shown:
        assert _normal(done.stdout) == _normal(shown.group(1))


def _normal(text: str) -> str:
    """Numbers differ from run to run."""
    return re.sub(r"\d+(\.\d+)?", "N", text).strip()


def test_the_first_command_of_the_readme_says_what_it_shows(tmp_path: Path) -> None:
    """The console example at the top, run as it stands there."""
    need.program("redis-server")
    need.program("redis-cli")
    session = blocks(README, "console")[0]
    command, _, shown = session.partition("\n")
    assert command.startswith("$ portlease ")
    portlease = str(Path(sys.executable).with_name("portlease"))
    done = subprocess.run(  # noqa: S602 - as a reader would
        command.removeprefix("$ ").replace("portlease", portlease, 1),
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, shown.strip()), done.stderr
