"""Tests that a suite writes into a file and then never runs (pytest-asyncio 1.5): run here.

They are taken out of the calls of ``pytester.makepyfile()`` and put into files of their own, the
imports that some of them lack in front.
"""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_IMPORTS = "import asyncio\n\nimport pytest\n\n"


def unpack(file: Path) -> list[Path]:
    """Write what the tests of *file* write beside it, a file each; return those."""
    made = []
    for number, text in enumerate(_written(ast.parse(file.read_text(encoding="utf-8")))):
        one = file.with_name(f"test_written_{number}_{file.name.removeprefix('test_')}")
        one.write_text(_IMPORTS + inspect.cleandoc(text) + "\n", encoding="utf-8")
        made.append(one)
    return made


def _written(tree: ast.Module) -> list[str]:
    return [
        node.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "makepyfile"
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
