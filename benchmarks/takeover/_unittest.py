"""A suite that has a runner of its own, on :mod:`unittest`: run as it is, its outcomes kept.

    python _unittest.py FILE [--takeover] MODULE ARGUMENTS...

runs MODULE as the main program, and writes each test's outcome into FILE, one a line.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import unittest
from pathlib import Path
from typing import Any

_outcomes: dict[str, str] = {}


class _Recorded(unittest.TextTestResult):
    def addSuccess(self, test: Any) -> None:  # noqa: ANN401, N802 - unittest's
        _outcomes.setdefault(test.id(), "passed")
        super().addSuccess(test)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: ANN401, N802
        _outcomes[test.id()] = "failed"
        super().addFailure(test, err)

    def addError(self, test: Any, err: Any) -> None:  # noqa: ANN401, N802
        _outcomes[test.id()] = "failed"
        super().addError(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: ANN401, N802
        if err is not None:
            _outcomes[test.id()] = "failed"
        super().addSubTest(test, subtest, err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: ANN401, N802
        _outcomes[test.id()] = "skipped"
        super().addSkip(test, reason)


def _main() -> None:
    file = Path(sys.argv[1])
    words = sys.argv[2:]
    if words[0] == "--takeover":
        words = words[1:]
        importlib.import_module("_counting")
        importlib.import_module("portlease.takeover").take_over()
    # A runner makes its own of it.
    unittest.TextTestResult = _Recorded  # type: ignore[misc,assignment]
    unittest.TextTestRunner.resultclass = _Recorded  # type: ignore[assignment]
    sys.argv = words
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        file.write_text(json.dumps(_outcomes), encoding="utf-8")


if __name__ == "__main__":
    _main()
