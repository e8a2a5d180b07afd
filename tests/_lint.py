"""For the tests of `portlease lint`: sources, and what is found in them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from portlease._findings import _rules
from portlease._lint import _checks

if TYPE_CHECKING:
    from portlease._findings._finding import Finding

ALL: Final = frozenset(_rules.RULES)


def findings(source: str | bytes, *codes: str, takeover: bool = False) -> list[Finding]:
    """What is found in a source, which is dedented first."""
    data = textwrap.dedent(source).encode() if isinstance(source, str) else source
    wanted = frozenset(codes) if codes else ALL
    return _checks.check(data, "test_x.py", wanted, takeover=takeover)


def found(source: str | bytes, *codes: str) -> list[str]:
    """The same in short: ``3 PL001``."""
    return [f"{finding.line} {finding.code}" for finding in findings(source, *codes)]


def ports(source: str, code: str = "PL001") -> list[int]:
    """The hard-coded ports that are told."""
    return [
        int(finding.message.split()[1])
        for finding in findings(source, "PL001", "PL002")
        if finding.code == code
    ]
