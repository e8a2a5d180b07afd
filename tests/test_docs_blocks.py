"""Every fenced block of every document is run, or read, or says why it cannot be."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
from yaml import YAMLError

import _documents
from _blocks import Reader
from _documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = _documents.pages()


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_a_reader_who_does_what_it_says(path: Path, tmp_path: Path) -> None:
    """From top to bottom, in one folder: every command ends well, and writes what is shown."""
    Reader(_documents.read(path), tmp_path).read()


def test_what_is_run_elsewhere_is_run_there() -> None:
    """A block that is tested by another test names one that exists and that reads this page."""
    for path in PAGES:
        for block in _documents.read(path).blocks:
            if test := block.marks.get("tested by"):
                file, _, name = test.partition("::")
                text = (ROOT / file).read_text(encoding="utf-8")
                tests = {
                    node.name
                    for node in ast.walk(ast.parse(text))
                    if isinstance(node, ast.FunctionDef)
                }
                assert name in tests, f"{block}: there is no {test}"
                assert path.name in text, f"{block}: {file} knows nothing of it"


def test_what_is_not_run_says_why() -> None:
    """A reason is a few words at least."""
    for path in PAGES:
        for block in _documents.read(path).blocks:
            if "not run" in block.marks:
                assert len(re.findall(r"\w+", block.marks["not run"])) >= 3, str(block)


# --- the reader itself: whatever is wrong on a page fails -----------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```\nls\n```\n", "no language"),
        ("```fortran\nEND\n```\n", "nobody knows how to run"),
        ("Text.\n\n    indented\n", "an indented block"),
        ("```python\nraise SystemExit(3)\n```\n", "status 3"),
        ("```python\nimport warnings\nwarnings.warn('x')\n```\n", "UserWarning"),
        ("```python\nprint(1)\n```\n\n```text\none\n```\n", "shows"),
        ("```text\none\n```\n", "the output of what"),
        ("```python\ndef test_it():\n    assert 0\n```\n", "status 1"),
        ("```python\n# test_it.py\ndef test_it():\n    assert 0\n```\n", "status 1"),
        ("```python\n# helper.py\n```\n", "nothing on the page uses"),
        ("```go\npackage main\n```\n", "let its first line be a comment"),
        ("```console\nls\n```\n", "begins with"),
        ("```console\n$ echo a\nb\n```\n", "shows"),
        ("```console\n$ false\n```\n", "status 1"),
        ("<!-- status: 1 -->\n```console\n$ true\n```\n", "status 0"),
        ("<!-- some of: order -->\n```console\n$ echo a\nb\n```\n", "not in"),
        ("```sh\nfalse\ntrue\n```\n", "status 1"),
        ("```sh\nmake nothing-of-the-kind\n```\n", "make nothing"),
        ("<!-- not run: for a reason -->\n```sh\nportlease run --prot a -- x\n```\n", "--prot"),
        ("<!-- not run: for a reason -->\n```sh\nx=$(portlease gte)\n```\n", "gte"),
        ("```yaml\na: [\n```\n", "expected"),
        ("```yaml\njobs: {a: {steps: [{run: 'false'}]}}\n```\n", "status 1"),
        ("```yaml\na: {script: ['pip install nothing-of-the-kind']}\n```\n", "is not installed"),
        ("```toml\na =\n```\n", "Invalid value"),
        ("```ini\n[pytest]\nportlease_haw = offer\n```\n", "did you mean portlease_how"),
        ("```json\n{\n```\n", "Expecting"),
        ("```mermaid\nstateDiagram-v2\n```\n", "draws another table"),
        ("<!-- runs: never -->\n```sh\ntrue\n```\n", "what is"),
    ],
)
def test_what_is_wrong_is_found(text: str, complaint: str, tmp_path: Path) -> None:
    """One mistake a page."""
    page = ROOT / "docs" / "page.md"  # its name alone: nothing is there
    with pytest.raises((AssertionError, ValueError, YAMLError, LookupError), match=complaint):
        Reader(_documents.read(page, f"<!-- anywhere: a test -->\n\n{text}"), tmp_path).read()


def test_what_is_right_passes(tmp_path: Path) -> None:
    """Every kind of block once."""
    text = """\
<!-- anywhere: a test -->
<!-- file data.txt
one
-->

```sh
grep one data.txt
make help
```

```python
print(12.5, "seconds")
```

```text
7.25 seconds
```

```python
# test_it.py
def test_it(leased_port): ...
```

```console
$ pytest -q test_it.py
...
2 passed in 3s
$ echo one; echo two; echo three
one
...
three
```
"""
    Reader(_documents.read(ROOT / "docs" / "page.md", text), tmp_path).read()
