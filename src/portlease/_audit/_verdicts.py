"""What is wrong with the binds of a run, in the words of the rules: a pure function of its trail.

The rules and their codes are those of the lint, so that one comment, ``# portlease: allow``, and
one remedy serve both.

- PL001 a port that is no lease's and not the kernel's choice, and that nobody found to be free;
- PL003 a number that was found to be free and let go of. It is told where it was found, for there
  it must be mended;
- PL004 SO_REUSEADDR or SO_REUSEPORT on a TCP socket that a test's own code binds. A server that
  sets it, in whatever library or program, is right to do so;
- PL005 a TCP server on every interface, or a UDP socket on a port of its choice. A socket that
  finds a free port and never listens is none.
"""

from __future__ import annotations

import functools
import os
import tokenize
from typing import TYPE_CHECKING, NamedTuple

from portlease import _trail
from portlease._audit._site import _portlease_hook
from portlease._findings import _allow, _finding, _rules
from portlease._findings._finding import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Final

    from portlease._trail import Event

EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - names, nothing is bound
_NO_PROGRAM: Final = "a program"


class Verdict(NamedTuple):
    """A rule that was broken at one place, however often."""

    finding: Finding
    events: tuple[Event, ...]
    """The binds, in their order."""

    @property
    def level(self) -> _rules.Level:
        """How bad it is."""
        return _rules.RULES[self.finding.code].level

    @property
    def ports(self) -> list[int]:
        """The numbers that were asked for."""
        return sorted({event.port for event in self.events if event.port})

    @property
    def tests(self) -> list[str]:
        """The tests it happened in, in their order."""
        return list(dict.fromkeys(event.test for event in self.events if event.test))


class Place(NamedTuple):
    """Where something is to be mended: a line of Python, or a whole program."""

    path: str
    line: int | None
    text: str
    """What tells it from others from run to run: the source line."""


def verdicts(
    events: Iterable[Event], *, root: str, codes: Collection[str] = frozenset(_rules.RULES)
) -> list[Verdict]:
    """Judge the binds of a run.

    Args:
        events: of one trail, their origins known (:func:`._origin.judged`).
        root: the folder that paths are shown from.
        codes: the rules that count.

    Returns:
        The broken rules, worst first, then by place; without those that a comment allows.
    """
    found: dict[tuple[Place, str], list[tuple[Event, str]]] = {}
    for code, event, place, fact in _broken(list(events), root):
        if code in codes and not _is_allowed(place, code, root):
            found.setdefault((place, code), []).append((event, fact))
    told = [_verdict(place, code, seen) for (place, code), seen in found.items()]
    return sorted(told, key=_order)


def _order(verdict: Verdict) -> tuple[int, str, int, str, str]:
    finding = verdict.finding
    worst_first = ("error", "warning", "note").index(verdict.level)
    return worst_first, finding.path, finding.line or 0, finding.code, finding.text


def _is_allowed(place: Place, code: str, root: str) -> bool:
    path = os.path.join(root, place.path)
    return place.line is not None and _allow.covers_path(path, place.line, code)


# --- the rules ------------------------------------------------------------------------------------


def _broken(events: list[Event], root: str) -> Iterator[tuple[str, Event, Place, str]]:
    """Each break of a rule: its code, the bind, the place, and the fact."""
    finders: dict[int, Event] = {}
    """By number: the bind that has last found it to be free."""
    listens = [event for event in events if event.what == _trail.LISTEN]
    heard = {(event.pid, event.port) for event in listens}
    for event in events:
        if event.what != _trail.BIND or event.port is None:
            continue
        if event.origin == _trail.HARD_CODED:
            yield _rules.BOUND, event, place_of(event, root), _hard_coded(event)
        elif event.origin == _trail.UNHELD:
            finder = finders.get(event.port, event)
            yield _rules.UNHELD, event, _finders_place(finder, event, root), _unheld(event, root)
        if event.got is not None and event.origin != _trail.HARD_CODED:
            finders.setdefault(event.got, event)
            if event.port == 0:
                finders[event.got] = event
        if _is_reused(event, root):
            yield _rules.REUSED, event, place_of(event, root), _reused(event)
        if _is_everywhere(event, heard if listens else None):
            yield _rules.EVERY_INTERFACE, event, place_of(event, root), _everywhere(event)


def _is_reused(event: Event, root: str) -> bool:
    # Only what a test's own line binds: what a library binds for it is a server.
    is_its_own = event.file is not None and event.inner_file is None
    is_a_test = event.test is not None and event.runner == event.pid
    return bool(
        event.transport == "tcp"
        and (event.reuseaddr or event.reuseport)
        and event.origin != _trail.LEASE  # an offered lease asks for it
        and is_its_own
        and (is_a_test or _portlease_hook.is_test_file(event.file or "", root))
    )


def _is_everywhere(event: Event, heard: set[tuple[int, int | None]] | None) -> bool:
    """Whether strangers can reach it; *heard*: who listens where, None where nobody saw that."""
    if event.address not in EVERYWHERE or event.got is None or event.hold:
        return False
    if event.transport == "udp" or heard is None:
        return event.port != 0
    return (event.pid, event.got) in heard


def _hard_coded(event: Event) -> str:
    return f"port {_socket(event)} is hard-coded" + _outcome(event)


def _unheld(event: Event, root: str) -> str:
    who = place_of(event, root)
    where = f"{who.path}:{who.line}" if who.line is not None else who.path
    return f"a free port was found and let go before {where} bound it" + _outcome(event)


def _reused(event: Event) -> str:
    names = ("SO_REUSEADDR", "SO_REUSEPORT")
    options = [
        name for name, on in zip(names, (event.reuseaddr, event.reuseport), strict=True) if on
    ]
    return f"{' and '.join(options)} is set on a test's TCP socket"


def _everywhere(event: Event) -> str:
    return f"{program(event)} is bound to every interface ({event.transport}, {event.address})"


def _socket(event: Event) -> str:
    return f"{event.port} ({event.transport}, {event.address})"


def _outcome(event: Event) -> str:
    return "" if event.error is None else f"; the bind failed: {event.error}"


# --- places ---------------------------------------------------------------------------------------


def place_of(event: Event, root: str) -> Place:
    """Where a bind is to be looked for."""
    name = program(event)
    number = event.port if event.origin == _trail.HARD_CODED else event.origin
    told = f"{name} {event.transport} {event.address} {number}"
    if event.file is None or event.line is None:
        return Place(name, None, told)
    if event.file.startswith("<"):  # <string>: python -c
        return Place(f"{name} {event.file}", None, told)
    return _in_source(event.file, event.line, root)


def _finders_place(finder: Event, event: Event, root: str) -> Place:
    return place_of(event if finder.file is None else finder, root)


def _in_source(path: str, line: int, root: str) -> Place:
    text = _finding.source_text(_lines(path), line)
    return Place(shown(path, root), line, text)


@functools.lru_cache(maxsize=256)
def _lines(path: str) -> tuple[str, ...]:
    """The lines of a source file; none where it cannot be read: it may be gone by now."""
    try:
        with tokenize.open(path) as file:
            return tuple(file.read().splitlines())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ()


def shown(path: str, root: str) -> str:
    """A path as it is shown: from *root* where it lies below it, with ``/``."""
    if os.path.isabs(path):
        try:
            relative = os.path.relpath(path, root)
        except ValueError:  # on another drive of Windows
            relative = path
        if not relative.startswith(os.pardir):
            path = relative
    return path.replace(os.sep, "/")


def program(event: Event) -> str:
    """The name of the program that made a bind."""
    word = (event.argv or ("",))[0] or event.exe or _NO_PROGRAM
    return os.path.basename(word.split(" ")[0].rstrip(":")) or _NO_PROGRAM


_NOT_PYTHON: Final = {
    _rules.BOUND: (
        "run the command by `portlease run -- COMMAND`, which leases a port for it, and bind the "
        "number in the variable PORT (--port NAME: more, in NAME_PORT)"
    ),
    _rules.UNHELD: (
        "run the command by `portlease run -- COMMAND`, which keeps a port for it, and bind the "
        "number in the variable PORT; or bind port 0, and ask the socket"
    ),
}
"""The remedies where there are no fixtures, and no module portlease."""


def _remedy(code: str, events: Iterable[Event]) -> str:
    # What a Python test starts, in whatever language, is given its port by the test.
    if all(event.file is None and event.test is None and event.runner is None for event in events):
        return _NOT_PYTHON.get(code, _rules.RULES[code].remedy)
    return _rules.RULES[code].remedy


def _verdict(place: Place, code: str, seen: Sequence[tuple[Event, str]]) -> Verdict:
    facts = list(dict.fromkeys(fact for _, fact in seen))
    message = facts[0] if len(facts) == 1 else f"{facts[0]} (and {len(facts) - 1} more like it)"
    finding = Finding(
        path=place.path,
        line=place.line,
        column=None,
        end_line=None,
        end_column=None,
        code=code,
        message=message,
        remedy=_remedy(code, [event for event, _ in seen]),
        text=place.text,
    )
    return Verdict(finding, tuple(event for event, _ in seen))
