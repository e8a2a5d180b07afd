"""The page's HTML: everything but the timeline and the long tables, which the script draws."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from portlease._page import _data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from portlease._page._data import Record

_HEAD: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
"""

_TOOLS: Final = """\
<section aria-labelledby="timeline">
<h2 id="timeline">Timeline</h2>
<div class="tools">
<input type="search" id="search" placeholder="Find a test, port, file or program" \
aria-label="Find a test, port, file or program">
<label><input type="checkbox" id="bad"> only what is wrong</label>
<span class="group" role="group" aria-label="Rows">
<button type="button" data-grouping="lanes" aria-pressed="true">by run</button>
<button type="button" data-grouping="ports" aria-pressed="false">by port</button></span>
<span class="group" role="group" aria-label="Zoom">
<button type="button" data-deed="out" aria-label="Zoom out">&minus;</button>
<button type="button" data-deed="fit">all</button>
<button type="button" data-deed="in" aria-label="Zoom in">+</button></span>
<span class="group" role="group" aria-label="Collisions">
<button type="button" data-deed="back" aria-label="Previous collision">&lsaquo;</button>
<button type="button" data-deed="next">next collision &rsaquo;</button></span>
<span class="said" id="found" role="status"></span>
<span class="said" id="range"></span>
</div>
<canvas id="axis" aria-hidden="true"></canvas>
<div id="view"><canvas id="paper" tabindex="0" role="application" aria-describedby="keys picked" \
aria-label="Timeline of tests and ports; the same is in the tables below">\
</canvas><div id="spacer" aria-hidden="true"></div></div>
<div id="tip" hidden></div>
<p id="picked" role="status" aria-live="polite">Point at a bar or a mark, or pick one, to read \
what it is.</p>
"""

_COLOURS: Final = (
    ("passed", "test passed"),
    ("failed", "test failed"),
    ("skipped", "skipped"),
    ("error", "port of an error"),
    ("warning", "port of a warning"),
    ("note", "port of a note"),
    ("port", "port in use"),
    ("unknown", "other ports"),
)
_CROSS: Final = (
    '<li><span class="x">&times;</span>bind that failed, or collision; the line leads to who had '
    "the port</li>\n"
)
_LEVELS: Final = frozenset({"error", "warning", "note"})

_KEYS: Final = """\
<p class="help" id="keys">Drag to move, Ctrl and wheel to zoom. Keys: <kbd>&larr;</kbd> \
<kbd>&rarr;</kbd> move, <kbd>+</kbd> <kbd>-</kbd> zoom, <kbd>0</kbd> all, <kbd>n</kbd> \
<kbd>p</kbd> next and previous collision, <kbd>.</kbd> <kbd>,</kbd> next and previous in a row, \
<kbd>Esc</kbd> let go.</p>
</section>
"""

_NO_SCRIPT: Final = (
    "<noscript><p>The timeline and the tables of all ports and tests need JavaScript.</p>"
    "</noscript>"
)


def document(whole: Record, *, style: str, script: str) -> str:
    """The whole of it, from checked data."""
    parts = [
        _HEAD,
        f"<title>{_text(_data.joined((whole['title'], whole['command']), ': '))}</title>\n",
        f"<style>\n{style}</style>\n</head>\n<body>\n",
        *_header(whole),
        "<main>\n",
        _TOOLS,
        *_legend(whole),
        _KEYS,
        _NO_SCRIPT,
        *_failures(whole),
        *_findings(whole),
        *_tables(whole),
        *_notes(whole),
        "</main>\n",
        f'<script type="application/json" id="data">{_data.for_script(whole)}</script>\n',
        f"<script>\n{script}</script>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def _text(value: object) -> str:
    return escape(_data.printable(str(value)))


def _header(whole: Record) -> Iterator[str]:
    yield f"<header>\n<h1>{_text(whole['title'])}</h1>\n"
    if whole["command"]:
        yield f'<div class="command mono">{_text(whole["command"])}</div>\n'
    if whole["started"] is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(whole["started"]))
        yield f'<div class="said">{when}</div>\n'
    if whole["verdict"] is not None:
        level, text = whole["verdict"]["level"], _text(whole["verdict"]["text"])
        yield f'<p class="verdict {level}">{text}</p>\n'
    if whole["facts"]:
        facts = (
            f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
            for name, value in whole["facts"]
        )
        yield f'<dl class="facts">{"".join(facts)}</dl>\n'
    yield "</header>\n"


def _legend(whole: Record) -> Iterator[str]:
    levels = {_level(one) for one in whole["findings"]}
    yield '<ul class="legend">\n'
    for colour, meaning in _COLOURS:
        if colour not in _LEVELS - levels:
            yield f'<li><i style="background:var(--{colour})"></i>{meaning}</li>\n'
    yield f"{_CROSS}</ul>\n"


# --- what a person must see -----------------------------------------------------------------------


def _failures(whole: Record) -> Iterator[str]:
    if not whole["failures"]:
        return
    yield '<section>\n<h2>Failures</h2>\n<div class="scroll"><table class="stack" id="failures">\n'
    yield (
        '<thead><tr><th scope="col">test</th><th scope="col">how often</th>'
        '<th scope="col">port</th><th scope="col">who was in the way, and what was said</th>'
        '<th scope="col"></th></tr></thead>\n'
    )
    for cause, some in _by_cause(whole["failures"]).items():
        yield (
            '<tbody><tr class="group-row"><th colspan="5" scope="rowgroup">'
            f"{_text(cause)}: {len(some)}</th></tr>\n"
        )
        for one in some:
            yield _failure(one)
        yield "</tbody>\n"
    yield "</table></div>\n</section>\n"


def _by_cause(failures: list[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for one in failures:
        cause = "failed alone too" if one["alone"] else one["cause"] or "unknown"
        groups.setdefault(cause, []).append(one)
    return groups


def _failure(one: Record) -> str:
    sought = _data.joined((one["test"], one["culprit"], str(one["port"] or ""), one["message"]))
    where = "" if one["at"] is None else _button(one)
    said = "" if not one["message"] else f'<span class="why mono">{_first_line(one)}</span>'
    return (
        f'<tr data-text="{_text(sought.lower())}"{" class=alone" if one["alone"] else ""}>'
        f'<td class="mono">{_text(one["test"])}</td>'
        f'<td class="nowrap" data-name="how often">{_text(one["count"] or "")}</td>'
        f'<td class="n" data-name="port">{_text(one["port"] or "")}</td>'
        f"<td>{_text(one['culprit'] or '')}{said}</td><td>{where}</td></tr>\n"
    )


_LONGEST: Final = 400


def _first_line(one: Record) -> str:
    return _text(one["message"].strip().partition("\n")[0][:_LONGEST])


def _button(one: Record) -> str:
    at = round(one["at"] * 1_000_000)
    return (
        f'<button type="button" class="go" data-at="{at}" data-port="{one["port"] or 0}" '
        f'aria-label="Show {_text(one["test"])} in the timeline">show</button>'
    )


def _findings(whole: Record) -> Iterator[str]:
    if not whole["findings"]:
        return
    yield '<section>\n<h2>Findings</h2>\n<div class="scroll"><table class="stack" id="findings">\n'
    yield (
        '<thead><tr><th scope="col">level</th><th scope="col">rule</th>'
        '<th scope="col">where</th><th scope="col">what, and what to do</th>'
        '<th scope="col">in tests</th><th scope="col">ports</th>'
        '<th scope="col">times</th><th scope="col"></th></tr></thead>\n<tbody>\n'
    )
    for number, one in enumerate(whole["findings"]):
        yield _finding(one, number)
    yield "</tbody></table></div>\n</section>\n"


def _finding(one: Record, number: int) -> str:
    place = _data.joined((one["file"], str(one["line"]) if one["line"] else None), ":")
    level, rule = _level(one), _data.joined((one["code"], one["rule"]))
    tests, ports = one["tests"] or (), ", ".join(map(str, one["ports"] or ()))
    sought = _data.joined((rule, place, one["text"], ports, *tests))
    remedy = f'<span class="why">{_text(one["remedy"])}</span>' if one["remedy"] else ""
    return (
        f'<tr data-text="{_text(sought.lower())}"><td class="level {level}">{level}</td>'
        f'<td class="rule">{_text(rule)}</td><td class="mono place">{_text(place)}</td>'
        f"<td>{_text(one['text'])}{remedy}</td>"
        f'<td class="tests mono" data-name="in">{_tests(tests)}</td>'
        f'<td class="ports" data-name="ports">{_text(ports)}</td>'
        f'<td class="n" data-name="times">{_text(one["count"] or "")}</td>'
        f'<td><button type="button" class="go" data-finding="{number}" '
        f'aria-label="Show {_text(rule)}, {_text(place)} in the timeline">show</button></td></tr>\n'
    )


def _level(one: Record) -> str:
    return one["level"] if one["level"] in _LEVELS else "note"


_MOST_TESTS: Final = 3


def _tests(names: Sequence[str]) -> str:
    """All of them; the first few are in sight."""
    items = [f"<li>{_text(name)}</li>" for name in names]
    first, more = items[:_MOST_TESTS], items[_MOST_TESTS:]
    if not items:
        return ""
    if not more:
        return f"<ul>{''.join(first)}</ul>"
    return (
        f"<ul>{''.join(first)}</ul><details><summary>and {len(more):,} more</summary>"
        f"<ul>{''.join(more)}</ul></details>"
    )


def _notes(whole: Record) -> Iterator[str]:
    if whole["notes"]:
        items = "".join(f"<li>{_text(note)}</li>" for note in whole["notes"])
        yield f'<section><h2>Notes</h2>\n<ul class="notes">{items}</ul></section>\n'


# --- what the script fills in ---------------------------------------------------------------------


def _tables(whole: Record) -> Iterator[str]:
    ports = len({(one["transport"], one["port"]) for one in whole["ports"]})
    yield _table(
        "all-ports",
        f"All ports ({ports:,})",
        ("port", "runs", "address", "options", "bound", "failed", "number from", "where", "tests"),
    )
    yield _table(
        "all-tests",
        f"All tests ({len(whole['tests']):,})",
        ("run", "test", "outcome", "begin, s", "ms"),
    )


def _table(name: str, title: str, headings: tuple[str, ...]) -> str:
    cells = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    return (
        f'<details id="{name}"><summary>{title}</summary>\n'
        '<div class="pager"><button type="button">&lsaquo; back</button>'
        '<button type="button">on &rsaquo;</button><span class="said" role="status"></span></div>\n'
        f'<div class="scroll"><table class="stack"><thead><tr>{cells}</tr></thead>'
        "<tbody></tbody></table></div></details>\n"
    )
