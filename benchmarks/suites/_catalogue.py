"""catalogue.toml: which packages, of which version, and what of their tests."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose sdist ships tests that hard-code ports."""

    name: str
    version: str
    sha256: str
    """Of the sdist."""
    needs: tuple[str, ...]
    """What its tests need beside itself, as for pip."""
    tests: tuple[str, ...]
    """pytest's arguments, paths below the sdist's folder among them."""
    extras: tuple[str, ...] = ()
    timeout_s: int = 180
    """When an instance is taken for hung: it may wait for ever for what could not bind."""
    note: str = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """Where those tests lie, helpers and conftest.py included: what lint is given."""
        files = [Path(one) for one in self.tests if one.endswith(".py")]
        folders = {str(file.parent) for file in files} or {"tests"}
        return tuple(
            sorted(
                one
                for one in folders
                if not any(str(parent) in folders for parent in Path(one).parents)
            )
        )

    @property
    def requirement(self) -> str:
        """The package itself, as for pip."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}=={self.version}"

    @property
    def lock(self) -> Path:
        """The file with all that its environment is made of, hashes included."""
        return _HERE / "locks" / f"{self.name.lower()}.txt"


def packages() -> tuple[Package, ...]:
    """All of them, in the order in which the tables show them."""
    with (_HERE / "catalogue.toml").open("rb") as file:
        entries = tomllib.load(file)["package"]
    return tuple(
        Package(
            name=entry["name"],
            version=entry["version"],
            sha256=entry["sha256"],
            needs=tuple(entry["needs"]),
            tests=tuple(entry["tests"]),
            extras=tuple(entry.get("extras", ())),
            timeout_s=entry.get("timeout_s", 180),
            note=entry.get("note", ""),
        )
        for entry in entries
    )
