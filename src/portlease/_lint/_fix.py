"""--fix: files read, planned, rewritten and written."""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import PortleaseError
from portlease._findings import _allow, _file, _rules
from portlease._lint import _checks, _files, _hard_coded, _left, _places, _plan, _proof
from portlease._lint._module import Module
from portlease._lint._source import Source, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portlease._lint._plan import Plan, Refusal


class Fixed(NamedTuple):
    """What became of one file."""

    path: str
    before: bytes
    after: bytes
    tests: int
    """How many were rewritten."""
    refused: tuple[str, ...]
    """Which were not, and why; and why each other finding is left."""

    def diff(self) -> str:
        """What is changed, as a unified diff."""
        lines = difflib.unified_diff(
            _lines(self.before), _lines(self.after), f"a/{self.path}", f"b/{self.path}"
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )


def _lines(data: bytes) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", data.decode("utf-8", "replace"))


def fix(
    files: Sequence[str],
    codes: frozenset[str],
    *,
    read: Callable[[str], bytes],
    write: bool,
) -> list[Fixed]:
    """Rewrite the plain cases of hard-coded ports in *files* to the fixture ``leased_port``.

    Args:
        files: paths; one that cannot be read or parsed is left alone, which is a finding's affair.
        codes: the rules that are looked for; without PL001 nothing is rewritten.
        read: what gives a file's content.
        write: whether the files are written.

    Raises:
        PortleaseError: libcst is not installed.
        UsageError: a file cannot be written.
    """
    try:
        from portlease._lint import _rewrite  # noqa: F401 - missed before anything is written
    except ModuleNotFoundError as error:
        if error.name != "libcst":
            raise
        raise PortleaseError(
            "--fix rewrites with libcst, which is not installed; install it with "
            "`pip install 'portlease[lint]'`"
        ) from error
    fixed = []
    for path in files if _rules.BOUND in codes else ():
        try:
            one = _fixed(path, read(path), codes)
        except (OSError, UnreadableError, RecursionError):
            continue
        if write and one.after != one.before:
            _file.write_whole(path, one.after)
        if one.tests or one.refused:
            fixed.append(one)
    return fixed


def _fixed(path: str, data: bytes, codes: frozenset[str]) -> Fixed:
    """What becomes of a file, which is not written yet."""
    from portlease._lint import _rewrite

    shown = _files.shown(path)
    source = Source(data)
    if not source.is_relevant:
        return Fixed(shown, data, data, 0, ())
    module = Module(source)
    plans, refusals = _planned(path, module)
    try:
        after = _rewrite.rewrite(data, plans) if plans else data
        failed = list(_proof.failures(source.tree, after, plans)) if plans else []
        if failed:
            refusals = sorted([*refusals, *failed], key=lambda refusal: refusal.line)
            left = {(one.name, one.line) for one in failed}
            plans = [plan for plan in plans if (plan.name, plan.line) not in left]
            after = _rewrite.rewrite(data, plans) if plans else data
    except (_rewrite.UnwritableError, RecursionError) as error:
        why = "nested too deeply for libcst" if isinstance(error, RecursionError) else error
        return Fixed(shown, data, data, 0, (*_told(shown, refusals), f"{shown}: {why}"))
    told = _told(shown, refusals)
    takeover = _files.takes_over(os.path.dirname(os.path.abspath(path)))
    found = _checks.of_module(module, shown, codes, takeover=takeover)
    if plans:
        found = _left.left(found, _checks.check(after, shown, codes, takeover=takeover))
    has_reason = {(one.name, one.line) for one in refusals}
    told += _left.reasons(source.tree, found, has_reason)
    return Fixed(shown, data, after, len(plans), tuple(told))


def _told(shown: str, refusals: Sequence[Refusal]) -> list[str]:
    return [f"{shown}:{one.line} {one.name}: {one.why}" for one in refusals]


def _planned(path: str, module: Module) -> tuple[list[Plan], list[Refusal]]:
    source = module.source
    allows = _allow.in_tree(source.text, source.tree)
    uses = [
        use
        for use in _hard_coded.uses(module)
        if not allows.covers(use.origin.lineno, use.code, use.origin.end_lineno)
    ]
    plans, refused = _plan.plans(module, uses)
    kept = []
    for plan in plans:
        where = next(
            (where for number in plan.names if (where := _in_conftest(path, number))), None
        )
        if where is None:
            kept.append(plan)
        else:
            refused.append(_plan.Refusal(plan.name, plan.line, f"{where} has its port, too"))
    return kept, sorted(refused, key=lambda refusal: refusal.line)


def _in_conftest(path: str, number: int) -> str | None:
    """The conftest.py, beside the test or above it, that has the number."""
    folder = os.path.dirname(os.path.abspath(path))
    while True:
        name = os.path.join(folder, "conftest.py")
        try:
            with open(name, "rb") as file:
                found = _places.digits(number).search(file.read().decode("latin-1"))
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found and not os.path.samefile(name, path):
            return _files.shown(name)
        parent = os.path.dirname(folder)
        if parent == folder or any(
            os.path.exists(os.path.join(folder, mark)) for mark in (".git", ".hg", "pytest.ini")
        ):
            return None
        folder = parent
