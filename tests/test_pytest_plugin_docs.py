"""docs/pytest.md and docs/unittest.md: every Python example is a file of tests that pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from _inner import few_plugins as few_plugins  # noqa: PLC0414 - a fixture
from _need import need
from _processes import HANG_S

DOCS = Path(__file__).parents[1] / "docs"


def write_examples(document: str, folder: Path) -> int:
    """Write each block into the file that its first line names; return how many there are."""
    text = (DOCS / document).read_text()
    blocks = re.findall(r"^```python\n# (test_\w+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for name, code in blocks:
        (folder / name).write_text(code)
    not_run = re.findall(r"^<!-- not run: .*\n```python$", text, re.MULTILINE)
    shown = text.count("```python\n") - len(not_run)
    assert len(blocks) == shown == len({name for name, _ in blocks})
    return len(blocks)


@pytest.fixture(autouse=True)
def redis() -> None:
    """Which examples start."""
    need.program("redis-server")


@pytest.mark.parametrize("document", ["pytest.md", "unittest.md"])
def test_examples_pass_in_pytest(pytester: pytest.Pytester, document: str) -> None:
    """Each of them, side by side; and no lease is forgotten."""
    assert write_examples(document, pytester.path) > 2
    plugins = ("-p", "portlease", "-p", "anyio", "-p", "xdist", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(
        *plugins, "-n", "2", "-W", "error", "-o", "portlease_leaks=error", "--portlease-report"
    )
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed"}
    assert outcomes["passed"] > 7
    result.stdout.fnmatch_lines(["*= portlease: * ports, * servers, * shared =*"])


def test_examples_pass_in_unittest(tmp_path: Path) -> None:
    """Those of unittest.md by `python -m unittest`, with every warning an error."""
    write_examples("unittest.md", tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "unittest", "discover"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 9 tests" in done.stderr


def test_every_fixture_and_option_is_described() -> None:
    """As `pytest --fixtures` and `pytest --help` know them."""
    text = (DOCS / "pytest.md").read_text()
    for part in ("_leases", "_serving", "_once"):
        source = (DOCS.parent / "src" / "portlease" / "_pytest" / f"{part}.py").read_text()
        for name in re.findall(r"^@pytest\.fixture.*\ndef (\w+)", source, re.MULTILINE):
            assert f"| `{name}` |" in text
    for option in ("portlease_how", "portlease_takeover", "portlease_leaks", "--portlease-report"):
        assert f"`{option}" in text or f"ini `{option}" in text
