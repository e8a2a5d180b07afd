"""Old sins: findings that are known, and not told again.

A finding is recognised by its path, its rule and its source line without blanks, and by how many of
the same there are; not by its line's number, which moves. So a file in which lines are added keeps
its baseline, and a second copy of a known line is a new finding.
"""

from __future__ import annotations

import collections
import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import UsageError
from portlease._findings._file import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from portlease._findings._finding import Finding

_VERSION: Final = 1
_KEY: Final = "portlease-baseline"


class Entry(NamedTuple):
    """What is known: findings of a rule at the same text in a file, and how many of them."""

    path: str
    code: str
    text: str
    times: int


_Key = tuple[str, str, str]


class Baseline:
    """What is known."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._known: collections.Counter[_Key] = collections.Counter()
        for entry in entries:
            self._known[entry.path, entry.code, entry.text] += entry.times

    def sort_out(self, findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
        """The findings that are new, and those that are known, in their order."""
        left = self._known.copy()
        new, known = [], []
        for finding in findings:
            key = _key(finding)
            if left[key] > 0:
                left[key] -= 1
                known.append(finding)
            else:
                new.append(finding)
        return new, known

    def gone(self, findings: Iterable[Finding]) -> list[Entry]:
        """What is known and no longer found."""
        left = self._known.copy()
        left.subtract(_key(finding) for finding in findings)
        return [Entry(*key, times) for key, times in sorted(left.items()) if times > 0]


def fingerprints(findings: Sequence[Finding]) -> list[str]:
    """A name for each finding that stays when lines move: for code hosts."""
    seen: collections.Counter[_Key] = collections.Counter()
    names = []
    for finding in findings:
        key = _key(finding)
        seen[key] += 1
        text = "\0".join((*key, str(seen[key])))
        names.append(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32])
    return names


def _key(finding: Finding) -> _Key:
    return finding.path, finding.code, " ".join(finding.text.split())


def read(path: str) -> Baseline:
    """The baseline in the file at *path*.

    Raises:
        UsageError: there is none, or it is not one, or one of a later version.
    """
    try:
        with open(path, encoding="utf-8") as file:
            told = json.load(file)
    except OSError as error:
        raise UsageError(
            f"cannot read the baseline {path}: {error.strerror}; "
            "--write-baseline writes one of what is found now",
            path=path,
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(told, dict) or _KEY not in told:
        raise _damaged(path, f"it has no {_KEY!r}")
    if told[_KEY] != _VERSION:
        raise UsageError(
            f"the baseline {path} is of version {told[_KEY]}, and this portlease reads version "
            f"{_VERSION}; write it anew with --write-baseline",
            path=path,
        )
    try:
        return Baseline([_entry(item) for item in told["findings"]])
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _entry(item: dict[str, object]) -> Entry:
    path, code, text, times = item["path"], item["code"], item["text"], item["times"]
    if not (isinstance(path, str) and isinstance(code, str) and isinstance(text, str)):
        raise TypeError("path, code and text must be strings")
    if not isinstance(times, int) or isinstance(times, bool) or times < 1:
        raise TypeError("times must be a number, from 1 on")
    return Entry(path, code, text, times)


def _damaged(path: str, why: str) -> UsageError:
    return UsageError(
        f"{path} is no baseline of portlease ({why}); write it anew with --write-baseline",
        path=path,
    )


def write(path: str, findings: Iterable[Finding]) -> int:
    """Write a baseline of *findings* to *path*, whole or not at all; how many there are.

    Raises:
        UsageError: the file cannot be written.
    """
    counted = collections.Counter(_key(finding) for finding in findings)
    lines = [
        json.dumps(Entry(*key, times)._asdict(), ensure_ascii=True)
        for key, times in sorted(counted.items())
    ]
    text = f'{{"{_KEY}": {_VERSION}, "findings": [' + "".join(
        f"{',' if number else ''}\n{line}" for number, line in enumerate(lines)
    )
    text += "\n]}\n" if lines else "]}\n"
    write_whole(path, text.encode())
    return counted.total()
