"""Many files: the findings of all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from portlease._lint import _checks, _files
from portlease._lint._source import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from portlease._findings._finding import Finding


class Looked(NamedTuple):
    """What was found, and in how many files it was looked for."""

    findings: list[Finding]
    files: int


_MANY: Final = 200
"""From how many files on other processes help: below, their start costs more than they save."""


def look(
    files: Sequence[str], codes: frozenset[str], *, read: Callable[[str], bytes] | None = None
) -> Looked:
    """Look for *codes* in *files*.

    Args:
        files: paths, see `_files.collect`.
        codes: see `_rules.chosen`.
        read: what gives a file's content; the file itself by default.

    Returns:
        The findings by file and line. A file that cannot be read is a finding, PL000.
    """
    processes = min(os.cpu_count() or 1, len(files) // _MANY + 1) if read is None else 1
    if processes == 1:
        return Looked(
            [finding for path in files for finding in _one(path, codes, read)], len(files)
        )
    import concurrent.futures
    import functools
    import multiprocessing

    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        each = pool.map(functools.partial(_one, codes=codes), files, chunksize=16)
        return Looked([finding for found in each for finding in found], len(files))


def _one(
    path: str, codes: frozenset[str], read: Callable[[str], bytes] | None = None
) -> list[Finding]:
    shown = _files.shown(path)
    try:
        data = read_file(path) if read is None else read(path)
    except OSError as error:
        what = UnreadableError(f"cannot be read: {error.strerror}")
        return _checks.unreadable(shown, what, codes)
    takeover = _files.takes_over(os.path.dirname(os.path.abspath(path)))
    return _checks.check(data, shown, codes, takeover=takeover)


def read_file(path: str) -> bytes:
    """All of a file."""
    with open(path, "rb") as file:
        return file.read()
