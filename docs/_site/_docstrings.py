"""The sections of our docstrings, as the field lists that Sphinx knows; their pages, as links.

sphinx.ext.napoleon reads the same style, but takes what stands before the first colon of a sentence
under ``Returns:``, or of a property's first line, for a type. Ours stand in the signature alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from sphinx.application import Sphinx

_FIELDS: Final = {"Args": "param", "Attributes": "ivar", "Raises": "raises"}
_HEAD: Final = re.compile(r"(Args|Attributes|Raises|Returns):")
_PAGE: Final = re.compile(r"(?<![`\w/])docs/([\w/-]+)\.md\b")
_ENTRY: Final = re.compile(r"(\*{0,2}[\w.]+): (.*)")


def with_fields(lines: list[str]) -> list[str]:
    """The same docstring with fields in place of sections; *lines* begin at column 0.

    Raises:
        ValueError: an entry of a section is no ``name: text``.
    """
    done: list[str] = []
    left = list(lines)
    while left:
        line = left.pop(0)
        head = _HEAD.fullmatch(line)
        if head is None:
            done.append(line)
            continue
        body = []
        while left and (not left[0] or left[0].startswith(" ")):
            body.append(left.pop(0))
        done += ["", *_fields(head[1], body), ""]
    return done


def with_links(line: str) -> str:
    """The same line with links to the pages that it names, such as docs/promise.md."""
    return _PAGE.sub(r":doc:`/\1`", line)


def _fields(section: str, body: list[str]) -> list[str]:
    while body and not body[-1]:
        body.pop()
    if section == "Returns":
        first, *rest = (line[4:] for line in body)
        return [f":returns: {first}", *(f"    {line}" if line else "" for line in rest)]
    done = []
    for line in (line[4:] for line in body):
        if not line or line.startswith(" "):
            done.append(line)
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            raise ValueError(f"{section}: {line!r} is no `name: text`")
        name = entry[1].replace("*", r"\*")
        done.append(f":{_FIELDS[section]} {name}: {entry[2]}")
    return done


def process(  # noqa: PLR0913, PLR0917 - as Sphinx calls it
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """The event ``autodoc-process-docstring``: *lines* are changed in place."""
    del app, what, obj, options
    try:
        lines[:] = with_fields([with_links(line) for line in lines])
    except ValueError as error:
        raise ValueError(f"the docstring of {name}: {error}") from error
