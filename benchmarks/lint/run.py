"""The command: lints the suites, and writes what came of it into docs/lint.md.

    python -m benchmarks.lint              all of it; the first time it downloads fifty sdists
    python -m benchmarks.lint --sample 60  a larger sample: shows what is not judged yet
    python -m benchmarks.lint --only aiohttp redis --show

The findings of a sample are judged by reading, and the judgements kept, with the reason, in
judged.json beside this file. Which findings are in a sample depends on their fingerprints alone, so
that it is random and the same for everybody.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import portlease
from portlease._findings import _baseline, _rules
from portlease._lint import _files, _run

from . import _page, _suites

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portlease._findings._finding import Finding

ROOT: Final = Path(__file__).resolve().parents[2]
JUDGED: Final = Path(__file__).with_name("judged.json")
FIGURES: Final = ROOT / "benchmarks" / "results" / "lint.json"
PAGE: Final = ROOT / "docs" / "lint.md"
SAMPLE: Final = 40
"""Findings of each rule that are judged; all, where there are fewer."""
OF_ONE_SUITE: Final = 8
"""So that no suite with a habit of its own decides the figure."""
RULES: Final = [code for code in _rules.RULES if code != _rules.UNREADABLE]


def main() -> int:
    """Run it."""
    asked = _arguments()
    cache = Path(asked.cache).expanduser()
    source = (cache / "src").resolve()
    found: list[Finding] = []
    suites: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    for name in asked.only or _suites.VERSIONS:
        before = time.process_time()
        suites[name], more = _lint(_suites.fetch(name, cache), source)
        seconds += time.process_time() - before
        found += more
    if asked.show:
        _show(found, source)
    sampled = sample(found, asked.sample)
    judged = _judgements()
    unjudged = [finding for finding in sampled if _key(finding) not in judged]
    if unjudged:
        print(f"{len(unjudged)} of the sample are not judged yet (judged.json):", file=sys.stderr)
        _show(unjudged, source)
        return 1
    figures = {
        "portlease": portlease.__version__,
        "python": sys.version.split()[0],
        "suites": suites,
        "sample": asked.sample,
        "precision": _precision(sampled, judged),
        "seconds of one processor": round(seconds, 1),
    }
    if not asked.only:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        PAGE.write_text(_page.renewed(PAGE.read_text(), figures))
    print(_page.section(figures))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lint")
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "portlease-lint"
    parser.add_argument("--cache", default=str(default), help="where the sdists are kept")
    parser.add_argument("--only", nargs="+", choices=sorted(_suites.VERSIONS), metavar="NAME")
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help="of each rule")
    parser.add_argument("--show", action="store_true", help="show every finding")
    return parser.parse_args()


def _lint(folder: Path, source: Path) -> tuple[dict[str, Any], list[Finding]]:
    """The figures of one suite, and its findings with paths from *source* on."""
    files = list(_files.collect([str(folder)], _files.Choice(exclude=_suites.EXCLUDED)))
    lines = sum(Path(path).read_bytes().count(b"\n") for path in files)
    looked = _run.look(files, frozenset(_rules.RULES))
    findings = [
        finding._replace(path=Path(finding.path).resolve().relative_to(source).as_posix())
        for finding in looked.findings
    ]
    count = Counter(finding.code for finding in findings)
    figures = {"version": folder.name.rpartition("-")[2], "files": looked.files, "lines": lines}
    return {**figures, "findings": {code: count[code] for code in _rules.RULES}}, findings


def sample(findings: Iterable[Finding], size: int) -> list[Finding]:
    """Up to *size* findings of each rule, a few of each suite: the smallest fingerprints."""
    chosen = []
    for code in RULES:
        of_rule = [finding for finding in findings if finding.code == code]
        named = sorted(zip(_baseline.fingerprints(of_rule), of_rule, strict=True))
        of_suite: Counter[str] = Counter()
        few = []
        for _, finding in named:
            suite = finding.path.partition("/")[0]
            of_suite[suite] += 1
            if of_suite[suite] <= OF_ONE_SUITE:
                few.append(finding)
        chosen += few[:size]
    return chosen


# --- judgements ---------------------------------------------------------------------------------

_Key = tuple[str, int | None, str]


def _key(finding: Finding) -> _Key:
    return finding.path, finding.line, finding.code


def _judgements() -> dict[_Key, bool]:
    """Path, line and rule of each judged finding, and whether it is right."""
    told = json.loads(JUDGED.read_text())
    return {(one["path"], one["line"], one["code"]): one["right"] for one in told}


def _precision(sampled: Sequence[Finding], judged: dict[_Key, bool]) -> dict[str, dict[str, int]]:
    return {
        code: {
            "judged": sum(finding.code == code for finding in sampled),
            "right": sum(finding.code == code and judged[_key(finding)] for finding in sampled),
        }
        for code in RULES
    }


def _show(findings: Iterable[Finding], source: Path) -> None:
    """Each finding with the lines round it."""
    for finding in findings:
        print(f"\n{finding.place}: {finding.code} {finding.message}")
        lines = (source / finding.path).read_text(errors="replace").splitlines()
        at = finding.line or 1
        for number in range(max(1, at - 4), min(len(lines), at + 4) + 1):
            print(f"{'>' if number == at else ' '}{number:5} {lines[number - 1][:110]}")
