"""The tables of docs/takeover.md, from the figures, so that they can be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import _markdown
from _command import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PAGE: Final = ROOT / "docs" / "takeover.md"
_BEGIN: Final = "<!-- made by python -m benchmarks.takeover, from here -->"
_END: Final = "<!-- to here -->"


def page(figures: Mapping[str, Any]) -> str:
    """The page as it is, with these tables between its marks."""
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise RuntimeError(f"the page has no {_BEGIN!r} ... {_END!r}")
    return "\n".join([before + _BEGIN, "", *tables(figures), "", _END + after])


def tables(figures: Mapping[str, Any]) -> list[str]:
    """All of it, in lines."""
    lines = _markdown.facts(figures["machine"])
    if "suites" in figures:
        lines += ["", *_suites(figures["suites"])]
    if "storm" in figures:
        lines += ["", *_storm(figures["storm"])]
    return lines


def _suites(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    yield "### Suites that nobody here wrote"
    yield ""
    yield "| sdist | its tests that were run | off: passed / failed / skipped | on | ports given |"
    yield "|---|---|---|---|---|"
    for row in rows:
        name = f"{row['name']} {row['version']}"
        if "off" not in row:
            yield f"| {name} | none: it ships no tests | - | - | - |"
            continue
        given = row["on"]["given"]
        yield f"| {name} | {_which(row)} | {_counts(row['off'])} | {_counts(row['on'])} | {given} |"
        if "portserver" in row:
            what = "the same, under `portlease run --portserver`, takeover off"
            counts = _counts(row["portserver"])
            yield f"| {name} | {what} | {_counts(row['off'])} | {counts} | - |"
    yield ""
    hosts = sorted({row["hosts"] for row in rows if "off" in row})
    yield from (f"- {text}." for text in hosts)
    for row in rows:
        yield from _notes(row)


def _which(row: Mapping[str, Any]) -> str:
    names = [file.removeprefix("tests/") for file in row["files"]]
    if not names:
        return "all"
    own = [f"`{name}`" for name in names if not name.startswith("test_written_")]
    written = len(names) - len(own)
    more = f", and the {written} tests that it writes and never runs" if written else ""
    if len(own) > _FEW:
        return f"the {len(own)} files that use its helper, of {row['ships']}{more}"
    return ", ".join(own) + more


_FEW: Final = 2


def _counts(one: Mapping[str, Any]) -> str:
    return f"{one['passed']} / {one['failed']} / {one['skipped']}"


def _notes(row: Mapping[str, Any]) -> Iterator[str]:
    if row.get("off", {}).get("which"):
        failed = row["off"]["which"]
        steady = [test for test in failed if test in row["on"]["which"]]
        if steady:
            yield f"- {row['name']}, failed off and on: {', '.join(f'`{one}`' for one in steady)}."
    for key, mode in (("differ", "on"), ("portserver_differ", "with the port server")):
        for one in row.get(key, ()):
            yield (
                f"- {row['name']}: `{one['test']}` {one['off']} off, {one['on']} {mode}: "
                f"{one['again']}."
            )


def _storm(storm: Mapping[str, Any]) -> Iterator[str]:
    yield "### The storm"
    yield ""
    if storm["reason"]:
        yield f"Not run: {storm['reason']}."
        return
    first = storm["rows"][0]
    yield (
        f"{first['tests']} tests with `unused_tcp_port`, each with a bare bind 5 ms later, "
        f"`-n {first['workers']}`, in a network namespace with 400 ephemeral ports, while one "
        "process binds port 0 and one connects, over and over."
    )
    yield ""
    yield (
        "| takeover | tests | could not bind or listen | two tests had it at once | seconds | "
        "storm: bind(0) | storm: connect() |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for row in storm["rows"]:
        cells = [row["tests"], row["failed"], row["double"], row["seconds"], row["binds"]]
        state = "on" if row["takeover"] else "off"
        yield f"| {state} | {' | '.join(map(str, [*cells, row['connects']]))} |"
