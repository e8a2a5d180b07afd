"""One self-contained HTML page of ports and tests over time.

It needs nothing from anywhere: style, script and data are in the file, and its Content-Security-
Policy forbids it to load anything. What it is drawn from is a plain dict, so that every command may
use it; what may be in there is in :mod:`._data`. What a person must see (the verdict, failures,
findings, notes) is plain HTML; the timeline and the long tables are the script's (``page.js``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from portlease._page import _data, _html

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def page(data: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        data: what it shows, as :data:`._data.SHAPE` describes it. Texts may be any text; times are
            seconds since the page's beginning. Only ``title`` must be there.

    Returns:
        An HTML document, to be written as UTF-8. What no encoding can carry (lone surrogates) and
        what no document may have in it has become U+FFFD.

    Raises:
        UsageError: a key that means nothing here, a value of a wrong type, or a number of a lane
            that there is not.
    """
    checked = _data.checked(data)
    return _html.document(checked, style=_part("page.css"), script=_part("page.js"))


def _part(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()
