"""The section of docs/lint.md that the figures make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from portlease._findings import _rules

if TYPE_CHECKING:
    from collections.abc import Mapping

_BEGIN: Final = "<!-- made by `python -m benchmarks.lint` -->\n"
_END: Final = "<!-- end -->\n"


def renewed(page: str, figures: Mapping[str, Any]) -> str:
    """The page with the section of these figures."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + section(figures) + _END + after


def section(figures: Mapping[str, Any]) -> str:
    """The tables, in Markdown."""
    suites = figures["suites"]
    files = sum(suite["files"] for suite in suites.values())
    lines = sum(suite["lines"] for suite in suites.values())
    seconds = figures["seconds of one processor"]
    sample = (
        f"{len(suites)} suites, {files:,} files, {lines:,} lines. Of each rule a random sample of "
        f"{figures['sample']} findings (all, where there are fewer; at most 8 of one suite) was "
        "judged by one reader from the lines round it. The rules were improved on these same "
        "suites, so that others may see more false alarms."
    )
    speed = (
        f"{files / seconds:.0f} files and {lines / seconds:,.0f} lines a second of one processor "
        f"(CPython {figures['python']}); from 200 files on two and more processes share them."
    )
    words = ["", sample, "", *_by_rule(figures, lines), "", speed, "", "Findings by suite:", ""]
    words += [*_by_suite(suites), ""]
    return "\n".join(words)


def _by_rule(figures: Mapping[str, Any], lines: int) -> list[str]:
    rows = [
        "| rule | findings | in 1,000 lines | judged | right | precision |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for code, judged in figures["precision"].items():
        count = sum(suite["findings"][code] for suite in figures["suites"].values())
        share = f"{judged['right'] / judged['judged']:.0%}" if judged["judged"] else ""
        rows.append(
            f"| {code} {_rules.RULES[code].name} | {count} | {count / lines * 1000:.2f} "
            f"| {judged['judged']} | {judged['right']} | {share} |"
        )
    return rows


def _by_suite(suites: Mapping[str, Any]) -> list[str]:
    codes = [code for code in _rules.RULES if code != _rules.UNREADABLE]
    rows = [
        f"| suite | files | lines | {' | '.join(codes)} |",
        "|---|--:|--:|" + "--:|" * len(codes),
    ]
    for name, suite in suites.items():
        counts = " | ".join(str(suite["findings"][code] or "") for code in codes)
        rows.append(
            f"| {name} {suite['version']} | {suite['files']} | {suite['lines']:,} | {counts} |"
        )
    return rows
