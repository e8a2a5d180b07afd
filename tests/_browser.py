"""A page in a real browser, which says in its title what it has seen there."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from typing import TYPE_CHECKING, Any

from _need import need
from _processes import HANG_S

if TYPE_CHECKING:
    from pathlib import Path


def look(page: Path, html: str) -> dict[str, Any]:
    """Open *html*, written to *page*; the JSON that its scripts have made the title."""
    page.write_text(html, "utf-8")
    done = subprocess.run(
        [
            *(need.program("chromium"), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--dump-dom", f"--user-data-dir={page.parent}/profile"),
            *("--virtual-time-budget=5000", page.as_uri()),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=HANG_S,
        check=False,
    )
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    found: dict[str, Any] = json.loads(unescape(title[1]))
    assert found["errors"] == []
    return found
