"""The documents: their fenced blocks, with what their authors say of them in comments.

A comment of HTML before a block is for the tests, and is not shown on the page:

- ``<!-- tested by tests/test_x.py::test_y -->``: it is run there;
- ``<!-- not run: REASON -->``: it is read as far as that goes without running it;
- ``<!-- status: 1 -->``: its command ends with this exit status;
- ``<!-- some of: REASON -->``: each line that is shown is written, and others may be;
- ``<!-- anywhere: REASON -->`` at a page's top: commands run in the machine's own network.

And three that may stand anywhere on a page, for it as a whole or for what follows:

- ``<!-- needs: redis-server node -->``: programs without which the page is skipped;
- ``<!-- plugins: pytest_asyncio.plugin -->``: plugins of pytest that it speaks of;
- ``<!-- file NAME`` ... ``-->``: a file that the page's reader would have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).parents[1]
_COMMENT: Final = re.compile(r"<!-- ?(.*?) ?-->", re.DOTALL)
_FILE: Final = re.compile(r"file ([\w./-]+)\n(.*)", re.DOTALL)
# The first line of a block that is a file: its comment sign and its name.
_NAMED: Final = re.compile(r"(?:#!.*\n)?(?:#|//) ([\w.][\w./-]*\.\w+|Makefile)(?:,.*)?\n")
_WORDS: Final = re.compile(
    r"(tested by|not run|some of|status|needs|plugins|anywhere):? ?(.*)", re.DOTALL
)

# Pages that are to have no comments of ours: by the page and the language.
_OF_OTHERS: Final = {
    ("README.md", "sh"): {
        "not run": "many commands side by side, for programs of the reader's own"
    },
}


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if its first line tells one."""
        found = _NAMED.match(self.text)
        return None if found is None else found[1]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} ({self.language or 'no language'})"


@dataclass(frozen=True)
class File:
    """A file that the page's reader would have, and which is not shown."""

    name: str
    text: str


@dataclass(frozen=True)
class Page:
    """A document: its blocks and hidden files in their order."""

    path: Path
    parts: Sequence[Block | File]
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def blocks(self) -> list[Block]:
        """The blocks alone."""
        return [part for part in self.parts if isinstance(part, Block)]


def pages() -> list[Path]:
    """Every document that people read, the ones that a tool writes included."""
    docs = ROOT / "docs"
    below = [path for path in docs.rglob("*.md") if "_build" not in path.parts]
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(below)]


def read(path: Path, text: str | None = None) -> Page:
    """Read a document; *text*: what it says, if it is not there yet.

    Raises:
        ValueError: a block without a fence, which nobody could tell the language of; a comment
            that looks like one of ours and is none.
    """
    marks: dict[str, str] = {}
    text = path.read_text(encoding="utf-8") if text is None else text
    parts = list(_parts(path, text, marks))
    return Page(path, parts, marks)


def texts(path: Path, language: str) -> list[str]:
    """What stands in the fenced blocks of one language."""
    found = [block.text for block in read(path).blocks if block.language == language]
    assert found, f"{path.name} has no block of {language}"
    return found


def _parts(path: Path, text: str, of_page: dict[str, str]) -> Iterator[Block | File]:
    pending: dict[str, str] = {}
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        where = f"{path.name}:{token.map[0] + 1 if token.map else 0}"
        if token.type == "code_block":
            raise ValueError(f"{where}: an indented block: put it between fences, with a language")
        if token.type == "fence":
            language = token.info.strip()
            line = token.map[0] + 1 if token.map else 0
            marks = pending or _OF_OTHERS.get((path.name, language), {})
            yield Block(path, line, language, token.content, marks)
        elif token.type == "html_block":
            for comment in _COMMENT.findall(token.content):
                if found := _FILE.fullmatch(comment):
                    yield File(found[1], found[2] + "\n")
                elif found := _WORDS.fullmatch(comment):
                    mark = of_page if found[1] in {"needs", "plugins", "anywhere"} else pending
                    mark[found[1]] = found[2].strip()
                elif re.match(r"(runs?|tested|not|needs|plugins|file|status|some)\b", comment):
                    raise ValueError(f"{where}: what is <!-- {comment} -->?")
            continue
        pending = {}
