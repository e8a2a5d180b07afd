"""The documents say what is: their links lead somewhere, their tables are the code's."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import sys
from pathlib import Path
from typing import Final

import click
import pytest
from markdown_it import MarkdownIt

import _documents
import portlease
from _documents import ROOT
from portlease import _states
from portlease._pytest import _options
from portlease.cli import _status, app

DOCS: Final = ROOT / "docs"
PACKAGE: Final = Path(portlease.__file__).parent
PAGES: Final = _documents.pages()

# What the site is built with.
sys.path.insert(0, str(DOCS))
_docstrings = importlib.import_module("_site._docstrings")
_figures = importlib.import_module("_site._figures")
sys.path.remove(str(DOCS))


def text_of(page: str) -> str:
    """What a page below docs/ says."""
    return (DOCS / page).read_text(encoding="utf-8")


# --- the promise ----------------------------------------------------------------------------------


def test_the_promises_name_tests_that_exist() -> None:
    """Each test that docs/promise.md names is there, in the file it names."""
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    tests = {
        node.name
        for path in files.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", text_of("promise.md")))
    assert len(named) > 20
    assert named <= tests
    assert set(re.findall(r"\btest_\w+\.py\b", text_of("promise.md"))) <= set(files)


def test_every_promise_is_attacked() -> None:
    """Each numbered line of docs/promise.md names a test or a file of tests."""
    lines = re.findall(r"^\| (\d+) \|.*\|(.*)\|$", text_of("promise.md"), re.MULTILINE)
    assert [int(number) for number, _ in lines] == list(range(1, len(lines) + 1))
    assert all("test_" in attack for _, attack in lines)


# --- links, as a code host shows the pages --------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_links_to_files_lead_somewhere(path: Path) -> None:
    """Relative ones, to a file and to a heading of it."""
    for link in _links(path):
        file, _, place = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name}: {link}"
        if place:
            assert place in _places(target), f"{path.name}: {link}: no such heading"


def _links(path: Path) -> list[str]:
    """Where a page's links and pictures lead, of those that are no URLs."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8")):
        for inner in token.children or ():
            target = inner.attrs.get("href") or inner.attrs.get("src")
            if target and not re.match(r"[a-z]+:", str(target)):
                found.append(str(target))
    return found


def _places(path: Path) -> set[str]:
    """The anchors that a code host makes of a page's headings."""
    tokens = MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8"))
    found = set()
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            parts = [
                one.content for one in token.children or () if one.type in {"text", "code_inline"}
            ]
            found.add(re.sub(r"[^\w -]", "", "".join(parts).lower()).replace(" ", "-"))
    return found


# --- tables that are the code's -------------------------------------------------------------------


@pytest.mark.parametrize("page", ["architecture.md", "concepts/kernel.md"])
def test_the_table_of_states_is_the_codes(page: str) -> None:
    """Who can take the port, in the code's words."""
    for state, who in _states.WHO_CAN_TAKE_IT.items():
        assert f"| {state} | {who} |" in text_of(page)


def test_every_module_has_a_room() -> None:
    """docs/architecture.md names each module of the package."""
    text = text_of("architecture.md")
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.stem.strip("_") not in _GATES]
    modules += [f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")]
    assert modules
    missing = [name for name in modules if f"`{name}`" not in text]
    assert not missing


_GATES: Final = {"init", "main"}


def test_the_exit_statuses_are_the_codes() -> None:
    """docs/reference/exit-status.md has those of the command line's help, and every command."""
    text = text_of("reference/exit-status.md")
    found = re.findall(r"^  (\S+) ", _status.TABLE, re.MULTILINE)
    assert len(found) > 6
    for status in found:
        assert f"| {status} |" in text
    for name in app.list_commands(click.Context(app)):
        assert f"`{name}`" in text


def test_the_options_of_pytest_are_the_plugins() -> None:
    """docs/reference/options.md has every ini option, and every option of the command line."""
    text = text_of("reference/options.md")
    source = "".join(
        path.read_text(encoding="utf-8") for path in (PACKAGE / "_pytest").glob("*.py")
    )
    options = set(_options._KNOWN) | set(
        re.findall(r'(?:REPORT|addoption|OPTION)\b[^"]*?"(--[a-z-]+)"', source)
    )
    assert {"portlease_how", "portlease_isolate", "--portlease-report"} <= options
    missing = {name for name in options if not re.search(rf"`{name}\b", text)}
    assert not missing


def test_every_variable_of_the_environment_is_told() -> None:
    """docs/reference/environment.md has each PORTLEASE_... that the source reads or sets."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        found |= set(re.findall(r"\b_?PORTLEASE_[A-Z]+\b", path.read_text(encoding="utf-8")))
    assert "PORTLEASE_INSTANCE" in found
    missing = {name for name in found if f"`{name}`" not in text_of("reference/environment.md")}
    assert not missing


def test_the_figures_are_those_that_are_kept() -> None:
    """docs/concepts/port-zero.md is what the kept ones make: python docs/_site/_figures.py."""
    file = _figures.kept()
    page = _figures.PAGE.read_text(encoding="utf-8")
    if file is not None:  # else the page has those of an older way to keep them
        assert _figures.with_figures(page, file.read_text(encoding="utf-8")) == page


# --- docstrings -----------------------------------------------------------------------------------


def test_sections_of_docstrings() -> None:
    """What the site makes of them: fields, with whole sentences in place of types."""
    lines = """\
Take a port.

Args:
    kind: one of two: so it is.
        Goes on.

    **options: others.

Returns:
    The lease: use it.
    Or not.

Raises:
    UsageError: never.

Not guaranteed: much.""".splitlines()
    assert [line for line in _docstrings.with_fields(lines) if line] == [
        "Take a port.",
        ":param kind: one of two: so it is.",
        "    Goes on.",
        r":param \*\*options: others.",
        ":returns: The lease: use it.",
        "    Or not.",
        ":raises UsageError: never.",
        "Not guaranteed: much.",
    ]
    assert _docstrings.with_links("see docs/promise.md.") == "see :doc:`/promise`."
    with pytest.raises(ValueError, match="is no `name: text`"):
        _docstrings.with_fields(["Args:", "    nothing of the kind"])
