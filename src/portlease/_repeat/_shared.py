"""What the instances share besides the network: fixed files, Unix sockets, services. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
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

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.what}: written in {len(self.runs)} runs"
        who = f" ({self.who})" if self.who else ""
        return f"{self.what}{who}: a service that {len(self.runs)} runs used"


def shared(sights: Sequence[Sights]) -> list[Shared]:
    """What at least two of the runs used, the baseline among them: so its path is fixed."""
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
    found = [
        Shared("file", path, "", tuple(runs)) for path, runs in sorted(files.items()) if runs[1:]
    ]
    found += [
        Shared("service", _place(*place), names[place], tuple(runs))
        for place, runs in sorted(services.items())
        if runs[1:]
    ]
    return found


def _place(address: str, port: int) -> str:
    address = address.removeprefix("::ffff:")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
