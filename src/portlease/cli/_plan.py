"""What ``portlease run`` was asked for, checked."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import portlease
from portlease._server import _template
from portlease._server._command import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from portlease import Lease
    from portlease._server._command import How
    from portlease._wish import Kind

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of ``run``, and its two commands."""

    server: tuple[str, ...]
    client: tuple[str, ...]
    """Empty: there is none."""
    kinds: Mapping[str, Kind]
    """Of every port, by name; ``"port"`` among them."""
    env: Mapping[str, str]
    host: str | None
    ports: tuple[int, ...] | None
    label: str | None
    how: How | None
    ready: str | None
    wait_for: tuple[str, ...] | None
    timeout_s: float | None
    """None: not said."""
    stop_timeout_s: float
    n: int
    verbose: bool
    quiet: bool
    as_json: bool

    @property
    def patience_s(self) -> float:
        """How long a server has until it must be ready, if it must."""
        return TIMEOUT_S if self.timeout_s is None else self.timeout_s

    @property
    def talks(self) -> bool:
        """Whether to tell more than errors: to a person, or to whoever asked for it."""
        return self.verbose or (sys.stderr.isatty() and not self.quiet and not self.as_json)

    def templates(self) -> set[str]:
        """The names in braces that occur in the commands and in the values of ``-e``."""
        return _template.names_in((*self.server, *self.client, *self.env.values()))

    def command(self, *, foreground: bool = False, how: How | None = None) -> Command:
        """The server's command."""
        return Command(
            args=self.server,
            kinds=self.kinds,
            env=self.env,
            host=self.host,
            label=self.label,
            wait_for=self.wait_for,
            how=how or self.how,
            timeout_s=self.patience_s,
            stop_timeout_s=self.stop_timeout_s,
            known_only=True,
            collect=not foreground,
            own_stdin=not foreground,
            mode="inherit" if foreground else "session",
        )

    def filled(
        self, args: tuple[str, ...], ports: Mapping[str, int], host: str
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """Any other command's arguments and environment, numbers in place of names."""
        return Command(args=args, kinds=self.kinds, env=self.env, known_only=True).filled(
            ports, host
        )

    def main_lease(self, number: int | None = None) -> Lease:
        """The lease of the main port, of the server with this *number* among several."""
        return portlease.lease(
            self.kinds[_template.PORT],
            host=self.host,
            ports=self.ports,
            label=self._label(number),
        )

    @contextlib.contextmanager
    def all_leases(self) -> Iterator[dict[str, Lease]]:
        """The leases of all ports, by name."""
        with contextlib.ExitStack() as stack:
            leases = {_template.PORT: stack.enter_context(self.main_lease())}
            for name, kind in self.kinds.items():
                if name != _template.PORT:
                    label = f"{self._label(None)}:{name}"
                    leases[name] = stack.enter_context(
                        portlease.lease(kind, host=self.host, label=label)
                    )
            yield leases

    def _label(self, number: int | None) -> str:
        label = self.label or self.command().program
        return label if number is None else f"{label} {number}"
