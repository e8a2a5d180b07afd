"""What test runners say on their output: which tests failed, and how many are done.

For runs without JUnit XML. Known are the lines of unittest and CPython's own runner, of Go's, of
TAP (Perl, bats, Node in a pipe), of Node's own reporter, and of pytest. What is not known is no
failure of a test, but the run's, by its exit status.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from portlease._repeat._case import Case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

# Blanks, not \s: with re.MULTILINE that would run over all the empty lines that follow, at each of
# them anew; three megabytes of those took minutes.
_FAILED: Final = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        # unittest: "FAIL: test_a (test_m.T.test_a)", "ERROR: setUpClass (test_m.T)"
        r"^(?:FAIL|ERROR): (?P<name>\w+ \([\w.]+\))",
        # What pytest has in its summary
        r"^(?:FAILED|ERROR) (?P<name>\S+?::.+?)(?: - .*)?$",
        # Go's, subtests indented
        r"^[ \t]*--- FAIL: (?P<name>\S+) \([\d.]+s\)",
        # TAP 13 and 14; what has such a directive is no failure
        r"^[ \t]*not ok \d+ (?:- )?(?P<name>(?:(?!# (?i:todo|skip)).)+?)(?: # time=.*)?$",
        # node --test, its "spec" reporter
        r"^[ \t]*\u2716 (?P<name>(?!failing tests:).+?) \([\d.]+ms\)",
        # CPython's `python -m test`
        r"^test (?P<name>test_\w+) (?:failed|crashed)",
    )
)

# What a sandwich of "FAIL: ..." lines has between them, as unittest and CPython's runner write it.
_RULE: Final = re.compile(r"^(?:={20,}|-{20,})$", re.MULTILINE)

_MOST_TEXT: Final = 1 << 14
_LINES_BEFORE: Final = 20


def failures(output: str) -> Iterator[Case]:
    """The tests that *output* says have failed, with what it says after each."""
    marks = sorted(
        (match.start(), match.end(), match["name"].strip())
        for pattern in _FAILED
        for match in pattern.finditer(output)
    )
    seen: set[str] = set()
    ends = [*(start for start, _, _ in marks), len(output)][1:]
    last = 0
    for (start, begin, name), end in zip(marks, ends, strict=True):
        if name in seen:
            continue
        seen.add(name)
        text = output[begin : min(end, begin + _MOST_TEXT)].strip()
        if not error_line(text):  # Go's -v tells what a test has logged before its end
            before = output[last:start].splitlines()[-_LINES_BEFORE:]
            text = "\n".join([*before, text]).strip()
        last = begin
        yield Case(name=name, outcome="failed", message=_message(text), text=text)


_ERROR_LINE: Final = re.compile(
    r"^[ \t]*(?:E[ \t]+)?((?:[\w.]+(?:Error|Exception|Timeout)\b.*)|"
    r"(?:.*\b(?:EADDRINUSE|ECONNREFUSED|address already in use|connection refused)\b.*))$",
    re.MULTILINE | re.IGNORECASE,
)


def _message(text: str) -> str:
    """The line of *text* that says most: the last that looks like an error, else the first."""
    found = _ERROR_LINE.findall(text)
    if found:
        return str(found[-1]).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _RULE.match(line)]
    return lines[0] if lines else ""


def error_line(text: str) -> str:
    """The line that tells best why a whole run failed; ``""`` if there is none."""
    found = _ERROR_LINE.findall(text)
    return str(found[-1]).strip() if found else ""


# --- while it runs --------------------------------------------------------------------------------

_ONE_DONE: Final = re.compile(
    r"""
    ^(?:.*::.*\ (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b   # pytest -v
    |  \[gw\d+\].*(?:PASSED|FAILED|ERROR|SKIPPED)\ .*::.*        # pytest -v -n
    |  .*\ \.\.\.\ (?:ok|FAIL|ERROR|skipped\b.*|expected\ failure)$  # unittest -v
    |  \s*---\ (?:PASS|FAIL|SKIP):                               # go test -v
    |  (?:not\ )?ok\ \d+                                         # TAP
    |  \s*[\u2714\u2716]\ .+\([\d.]+ms\)                         # node
    )""",
    re.VERBOSE,
)
_LONGEST_LINE: Final = 4096
"""Of longer lines nothing is read: what takes a time that grows with their square to search."""
_PERCENT: Final = re.compile(r"\[ *(\d+)%\]\s*$")
_OF_MANY: Final = re.compile(r"\[ *(\d+)/(\d+)(?:/\d+)?\] ")
"""CPython's runner: ``0:00:01 load avg: 1.2 [ 3/12/1] test_ftplib passed``."""


def is_one_done(line: str) -> bool:
    """Whether *line* says that one test is done."""
    return len(line) <= _LONGEST_LINE and _ONE_DONE.match(line) is not None


def share_done(line: str) -> str | None:
    """How far it is, if *line* says so: ``"42%"``, ``"3/12"``."""
    if len(line) > _LONGEST_LINE:
        return None
    if found := _PERCENT.search(line):
        return f"{found[1]}%"
    if found := _OF_MANY.search(line):
        return f"{found[1]}/{found[2]}"
    return None
