"""SARIF 2.1.0, for code hosts and editors (OASIS, Static Analysis Results Interchange Format)."""

from __future__ import annotations

import json
import os
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

import portlease
from portlease._findings import _baseline, _file, _rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from portlease._findings._finding import Finding

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_ROOT: Final = "ROOT"
_UNDECODED: Final = sys.getfilesystemencodeerrors()
"""How names that are no text came in, and so go out."""


def document(findings: Iterable[Finding], *, tool: str) -> dict[str, object]:
    """The log of one run; relative paths start from the current folder.

    Args:
        findings: in the order in which they are told.
        tool: who found them, ``portlease lint``.
    """
    told = list(findings)
    codes = sorted({finding.code for finding in told} | set(_rules.RULES))
    base = "file://" + _uri(os.getcwd().replace(os.sep, "/")).rstrip("/") + "/"
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": tool,
                        "version": portlease.__version__,
                        "semanticVersion": portlease.__version__,
                        "rules": [_rule(code) for code in codes],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {_ROOT: {"uri": base}},
                "results": _results(told, codes),
            }
        ],
    }


def write(path: str, findings: Iterable[Finding], *, tool: str) -> None:
    """Write the log to the file at *path*, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    log = document(findings, tool=tool)
    _file.write_whole(path, f"{json.dumps(log, indent=2)}\n".encode())


def _rule(code: str) -> dict[str, object]:
    rule = _rules.RULES.get(code)
    if rule is None:
        return {"id": code}
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": f"{rule.summary}: {rule.why}."},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": rule.level},
    }


def _results(findings: Sequence[Finding], codes: Sequence[str]) -> list[dict[str, object]]:
    places = {code: number for number, code in enumerate(codes)}
    return [
        {
            "ruleId": finding.code,
            "ruleIndex": places[finding.code],
            "level": rule.level if (rule := _rules.RULES.get(finding.code)) else "warning",
            "message": {"text": f"{finding.message}; {finding.remedy}"},
            "locations": [{"physicalLocation": _place(finding)}],
            "partialFingerprints": {"portlease/v1": fingerprint},
        }
        for finding, fingerprint in zip(findings, _baseline.fingerprints(findings), strict=True)
    ]


def _uri(path: str) -> str:
    """Its bytes, since a name need not be text."""
    return urllib.parse.quote(path.encode("utf-8", _UNDECODED))


def _place(finding: Finding) -> dict[str, object]:
    uri = _uri(finding.path)
    location: dict[str, Any] = (
        {"uri": f"file://{uri}"}
        if os.path.isabs(finding.path)
        else {"uri": uri, "uriBaseId": _ROOT}
    )
    place: dict[str, object] = {"artifactLocation": location}
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.end_line,
        "endColumn": finding.end_column,
    }
    if finding.line is not None:
        place["region"] = {name: number for name, number in region.items() if number is not None}
    return place
