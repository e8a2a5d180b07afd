"""Which program runs the tests, and what it must be told so that instances do not share files.

pytest is told by ``--junitxml`` where to write its results (JUnit's first format, which has file
and line), and by ``-o cache_dir`` to keep its cache apart. Other runners are told by their user,
with ``--junit TEMPLATE``, where they write.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

FOLDER: Final = "{folder}"
"""Stands for the run's own folder in what we add; users have ``{tmp}``."""
JUNIT: Final = FOLDER + "/junit.xml"
"""Where a runner that we tell so writes its results."""


@dataclass(frozen=True, slots=True)
class Runner:
    """What is known of it.

    Attributes:
        name: ``"pytest"``, or None: any other.
        junit: where its JUnit XML will be, a template; None: it writes none that we know of.
        added: the arguments to add to its command, templates.
    """

    name: str | None
    junit: str | None
    added: tuple[str, ...] = ()

    def command(self, argv: Sequence[str], folder: str) -> list[str]:
        """The suite's command with what is added: behind its options, before its ``--``."""
        words = list(argv)
        if not self.added:
            return words
        start = _place_of_pytest(words)
        end = words.index("--", start) if start is not None and "--" in words[start:] else None
        place = len(words) if end is None else end
        added = [word.replace(FOLDER, folder) for word in self.added]
        return [*words[:place], *added, *words[place:]]


def recognise(argv: Sequence[str], junit: str | None) -> Runner:
    """What runs the tests in *argv*; *junit*: where its user says that it writes."""
    place = _place_of_pytest(argv)
    if place is None:
        return Runner(None, junit)
    given = argv[place + 1 :]
    added: list[str] = []
    if junit is None and not _switched_off(given, "junitxml"):
        # The last of two counts, and so a path of the user's, which all would share, does not.
        added += [f"--junitxml={JUNIT}", "-o", "junit_family=xunit1"]
        junit = JUNIT
    if not _switched_off(given, "cacheprovider"):
        added += ["-o", f"cache_dir={FOLDER}/pytest_cache"]
    return Runner("pytest", junit, tuple(added))


def _switched_off(given: Sequence[str], plugin: str) -> bool:
    """Whether pytest is told to do without one of its plugins: an option of it is then unknown."""
    return f"-pno:{plugin}" in given or any(
        pair == ("-p", f"no:{plugin}") for pair in itertools.pairwise(given)
    )


# --- where pytest is, in a command ----------------------------------------------------------------

_PYTEST: Final = re.compile(r"(?:pytest|py\.test)(?:-3(?:\.\d+)?)?(?:\.exe)?")
_PYTHON: Final = re.compile(r"(?:python|pypy)[\d.]*t?(?:\.exe)?")

# Programs that run the command that follows them.
_BEFORE: Final = frozenset(
    (
        *("chrt", "coverage", "doas", "env", "exec", "hatch", "ionice", "nice", "nohup", "numactl"),
        *("pdm", "pipenv", "poetry", "prlimit", "rye", "setarch", "setpriv", "setsid", "stdbuf"),
        *("strace", "sudo", "taskset", "time", "timeout", "unshare", "uv", "uvx", "xvfb-run"),
    )
)


def _place_of_pytest(argv: Sequence[str]) -> int | None:
    """At which word of *argv* pytest is run; None if it is not, as far as one can see."""
    names = [os.path.basename(word) for word in argv]
    if not names:
        return None
    if _PYTEST.fullmatch(names[0]):
        return 0
    if _PYTHON.fullmatch(names[0]) or names[0] in _BEFORE:
        for place in range(1, len(argv)):
            if argv[place - 1] == "-c":  # a program in a word, or a shell's
                return None
            if argv[place - 1] == "-m" and argv[place] == "pytest":
                return place
            runs_it = not _PYTHON.fullmatch(names[0]) and _PYTEST.fullmatch(names[place])
            if runs_it and argv[place - 1] not in _TAKES_NAME:
                return place
    return None


_TAKES_NAME: Final = frozenset({"--with", "--from", "--only-group", "--group", "--extra"})
"""Options of uv before which a name stands that is no command: ``uv run --with pytest pytest``."""
