"""What a page is drawn from: checked, and made small for the script."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from portlease._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Final, TypeAlias

    Record: TypeAlias = dict[str, Any]

_TEXT: Final = (str, type(None))
_NUMBER: Final = (int, type(None))
_SECONDS: Final = (int, float)
_MAYBE_SECONDS: Final = (int, float, type(None))
_LIST: Final = (list, tuple, type(None))

SHAPE: Final[Mapping[str, Mapping[str, tuple[type, ...]]]] = {
    # A row of the timeline: an instance, or a process.
    "lanes": {
        "name": (str,),
        "begin": _SECONDS,
        "end": _SECONDS,
        "outcome": _TEXT,  # passed, failed, timeout, stopped
        "note": _TEXT,
    },
    "tests": {
        "lane": (int,),
        "name": (str,),
        "begin": _SECONDS,
        "end": _MAYBE_SECONDS,  # None: until the lane's end
        "outcome": _TEXT,  # passed, failed, error, skipped, xfailed, xpassed
        "worker": _TEXT,
    },
    # Binds; those with an error are marks.
    "ports": {
        "lane": (int,),
        "port": (int,),
        "transport": _TEXT,
        "address": _TEXT,
        "begin": _SECONDS,
        "end": _MAYBE_SECONDS,
        "error": _TEXT,
        "origin": _TEXT,
        "program": _TEXT,
        "pid": _NUMBER,
        "file": _TEXT,
        "line": _NUMBER,
        "test": _TEXT,
        "lease": _TEXT,
        "options": _TEXT,
        "findings": _LIST,  # by number: what is wrong with it
    },
    "collisions": {
        "at": _SECONDS,
        "lane": (int,),
        "other": _NUMBER,
        "port": (int,),
        "text": (str,),
    },
    "failures": {
        "test": (str,),
        "lanes": _LIST,
        "at": _MAYBE_SECONDS,
        "cause": _TEXT,
        "culprit": _TEXT,
        "port": _NUMBER,
        "count": _TEXT,
        "message": _TEXT,
        "alone": (bool, type(None)),
    },
    "findings": {
        "level": (str,),  # error, warning, note
        "code": _TEXT,
        "rule": _TEXT,
        "text": (str,),
        "file": _TEXT,
        "line": _NUMBER,
        "ports": _LIST,
        "tests": _LIST,
        "count": _NUMBER,
        "remedy": _TEXT,
    },
}
"""The lists of records. A field whose types have None among them may be left out."""

_PLAIN: Final[Mapping[str, tuple[type, ...]]] = {
    "title": (str,),
    "command": _TEXT,
    "started": _MAYBE_SECONDS,
    "verdict": (dict, type(None)),
    "facts": _LIST,
    "notes": _LIST,
}

LEVELS: Final = frozenset({"good", "warning", "bad", "neutral"})


def checked(data: Mapping[str, Any]) -> Record:
    """A copy of *data* with every field there.

    Raises:
        UsageError: see :func:`portlease._page.page`.
    """
    if unknown := data.keys() - _PLAIN.keys() - SHAPE.keys():
        raise UsageError(f"the page has no {', '.join(sorted(map(repr, unknown)))}")
    whole: Record = {name: _value(data, name, types, "") for name, types in _PLAIN.items()}
    for name, shape in SHAPE.items():
        whole[name] = [_record(one, shape, name) for one in data.get(name) or ()]
    verdict = whole["verdict"]
    if verdict is not None and (
        verdict.keys() != {"level", "text"} or verdict["level"] not in LEVELS
    ):
        raise UsageError(f"verdict={verdict!r} has not a level of {sorted(LEVELS)} and a text")
    _check_lanes(whole)
    _check_findings(whole)
    return whole


def _record(one: Mapping[str, Any], shape: Mapping[str, tuple[type, ...]], where: str) -> Record:
    if unknown := one.keys() - shape.keys():
        raise UsageError(f"a record of {where} has no {', '.join(sorted(map(repr, unknown)))}")
    return {name: _value(one, name, types, f" of {where}") for name, types in shape.items()}


def _value(one: Mapping[str, Any], name: str, types: tuple[type, ...], where: str) -> Any:  # noqa: ANN401
    value = one.get(name)
    right = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"{name}={value!r}{where} is not what the page can show")
    return value


def _check_lanes(whole: Record) -> None:
    lanes = range(len(whole["lanes"]))
    for name in ("tests", "ports", "collisions"):
        for one in whole[name]:
            for number in (one["lane"], one.get("other")):
                if number is not None and number not in lanes:
                    raise UsageError(f"a record of {name} is in lane {number}, which there is not")


def _check_findings(whole: Record) -> None:
    findings = range(len(whole["findings"]))
    for one in whole["ports"]:
        for number in one["findings"] or ():
            if number not in findings:
                raise UsageError(f"a record of ports has finding {number!r}, which there is not")


# --- for the script -------------------------------------------------------------------------------

_US: Final = 1_000_000
_LONGEST_TEXT: Final = 4000
_PORTS_TEXTS: Final = (
    *("address", "error", "origin", "program", "file", "test", "lease", "options"),
)


class _Strings:
    """Every text once: names of tests come up in each lane."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._known: dict[str, int] = {}

    def number(self, text: str | None) -> int:
        if text is None:
            return -1
        if text not in self._known:
            self._known[text] = len(self.all)
            self.all.append(text[:_LONGEST_TEXT])
        return self._known[text]


def for_script(whole: Record) -> str:
    """The timeline's data as JSON that may stand in a ``<script>``; times in microseconds.

    Records are columns, and texts numbers of ``strings``, -1 for none.
    """
    strings = _Strings()
    ends = [lane["end"] for lane in whole["lanes"]]
    tests, ports = whole["tests"], whole["ports"]
    outcomes = sorted({test["outcome"] or "" for test in tests})
    numbered = {outcome: number for number, outcome in enumerate(outcomes)}
    data = {
        "span": _span(whole),
        "lanes": [
            {**lane, "begin": _us(lane["begin"]), "end": _us(lane["end"])}
            for lane in whole["lanes"]
        ],
        "tests": {
            "lane": [test["lane"] for test in tests],
            "name": [strings.number(test["name"]) for test in tests],
            "begin": [_us(test["begin"]) for test in tests],
            "end": _ends(tests, ends),
            "outcome": [numbered[test["outcome"] or ""] for test in tests],
            "worker": [strings.number(test["worker"]) for test in tests],
            "outcomes": outcomes,
        },
        "ports": {
            "lane": [port["lane"] for port in ports],
            "port": [port["port"] for port in ports],
            "transport": [int(port["transport"] == "udp") for port in ports],
            "begin": [_us(port["begin"]) for port in ports],
            "end": _ends(ports, ends),
            "pid": [port["pid"] or 0 for port in ports],
            "line": [port["line"] or 0 for port in ports],
            **{name: [strings.number(port[name]) for port in ports] for name in _PORTS_TEXTS},
            "findings": [list(port["findings"] or ()) for port in ports],
        },
        "findings": [
            {
                "level": one["level"],
                "name": joined((one["code"], one["rule"])),
                "text": one["text"][:_LONGEST_TEXT],
            }
            for one in whole["findings"]
        ],
        "collisions": [
            {
                **one,
                "at": _us(one["at"]),
                "other": -1 if one["other"] is None else one["other"],
            }
            for one in sorted(whole["collisions"], key=lambda one: one["at"])
        ],
        "strings": strings.all,
    }
    return _in_script(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def _us(seconds: float) -> int:
    return round(seconds * _US)


def _ends(records: Sequence[Record], ends: Sequence[float]) -> list[int]:
    return [
        max(_us(one["begin"]), _us(ends[one["lane"]] if one["end"] is None else one["end"]))
        for one in records
    ]


def _span(whole: Record) -> list[int]:
    records = (*whole["lanes"], *whole["tests"], *whole["ports"])
    begins = [one["begin"] for one in records] or [0.0]
    ends = [one["end"] for one in records if one["end"] is not None] or [0.0]
    return [_us(min(begins)), _us(max(*ends, *begins))]


def _in_script(text: str) -> str:
    """JSON that no HTML parser takes for a tag or a comment: ``<`` can but be in a string."""
    return (
        printable(text)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


# Lone surrogates, and what HTML forbids besides: NUL, most control characters, noncharacters.
_FORBIDDEN: Final = re.compile(
    "[\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]"
)


def printable(text: str) -> str:
    """*text* as UTF-8 and HTML can carry it."""
    return _FORBIDDEN.sub("\ufffd", text)


def joined(values: Iterable[str | None], separator: str = " ") -> str:
    """Those that say something."""
    return separator.join(value for value in values if value)
