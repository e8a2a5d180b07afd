"""What the instances share besides the network: fixed files, Unix sockets, services. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Final

    from portlease._repeat._watch import Sights

_UNINTERESTING: Final = ("/__pycache__/", "/.pytest_cache/", "/.mypy_cache/", "/.git/")


class Shared(NamedTuple):
    """One thing that several runs used."""

    kind: str
    """``"file"`` or ``"service"``."""
    what: str
    """The path, or ``"127.0.0.1:5432"``."""
    who: str
    """Whose a service is, as far as that was seen."""
    runs: tuple[int, ...]
    """The numbers of the runs that used it."""
    company: int
    """How many of them ran in company: at least one."""

    def __str__(self) -> str:
        runs = "1 run" if self.company == 1 else f"{self.company} runs"
        # Then its place is fixed all the same, and what one was not seen to use it may use.
        by = f"{runs} in company" if self.company > 1 else f"{runs} in company, and alone"
        if self.kind == "file":
            return f"{self.what}: written in {by}"
        who = f" ({self.who})" if self.who else ""
        return f"{self.what}{who}: a service used in {by}"


def shared(sights: Sequence[Sights], alone: Collection[int] = ()) -> list[Shared]:
    """What at least two of the runs used, the baseline among them: so its path is fixed.

    Args:
        sights: what was seen of each run.
        alone: the numbers of the baselines; what none but they used is not shared.
    """
    files: dict[str, list[int]] = {}
    services: dict[tuple[str, int], list[int]] = {}
    names: dict[tuple[str, int], str] = {}
    for number, one in enumerate(sights):
        for path in one.files:
            if not any(part in path for part in _UNINTERESTING):
                files.setdefault(path, []).append(number)
        for place, who in one.services.items():
            services.setdefault(place, []).append(number)
            names[place] = who or names.get(place, "")
    found = [("file", path, "", runs) for path, runs in sorted(files.items())]
    found += [
        ("service", _place(*place), names[place], runs) for place, runs in sorted(services.items())
    ]
    return [
        Shared(kind, what, who, tuple(runs), company)
        for kind, what, who, runs in found
        if len(runs) > 1 and (company := sum(run not in alone for run in runs))
    ]


def _place(address: str, port: int) -> str:
    address = address.removeprefix("::ffff:")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
