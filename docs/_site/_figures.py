"""The tables of concepts/port-zero.md, made of the figures that `make bench` keeps.

``python docs/_site/_figures.py`` writes them anew; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

_DOCS: Final = Path(__file__).parents[1]
PAGE: Final = _DOCS / "concepts" / "port-zero.md"
_BEGIN: Final = "<!-- made by python docs/_site/_figures.py, from here -->\n"
_END: Final = "<!-- to here -->\n"
_KEYS: Final = {"name", "server", "taken", "failed", "double"}


def kept() -> Path | None:
    """The file with the collisions of the oldest Python that was measured, if it is there.

    A quick run, which shows that the benchmark works and measures little, does not count.
    """
    found = sorted((_DOCS.parent / "benchmarks" / "results").glob("collisions-python*.json"))
    whole = (one for one in found if "size" not in json.loads(one.read_bytes())["machine"])
    return next(whole, None)


def with_figures(page: str, figures: str) -> str:
    """The page with its tables made of *figures*, JSON as `make bench` keeps it.

    Raises:
        ValueError: there is no table of collisions among them, or no place for it on the page.
    """
    found = json.loads(figures)
    tables = [
        table
        for table in found["result"]["tables"]
        if table["rows"] and set(table["rows"][-1]) >= _KEYS
    ]
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (tables and begin and end):
        raise ValueError("no table of collisions, or no place for it")
    machine = found["machine"]
    lines = []
    for table in tables:
        lines += [
            f"**{table['title']}**",
            "",
            "| helper | server | ports given | servers that lost theirs | two owners at once |",
            "|---|---|--:|--:|--:|",
            *map(_row, table["rows"]),
            "",
        ]
    lines.append(f"{machine['kernel']}, {machine['processor']}, {machine['date']}.")
    return "".join([before, begin, "\n", "\n".join(lines), "\n\n", end, after])


def _row(row: Mapping[str, object]) -> str:
    cells = (row[key] for key in ("name", "server", "taken", "failed", "double"))
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Write the tables anew."""
    file = kept()
    if file is None:
        raise SystemExit("no figures of a whole run are kept: run `make bench` first")
    text = with_figures(PAGE.read_text(encoding="utf-8"), file.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
