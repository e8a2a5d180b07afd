"""What ``portlease run`` was asked for, checked."""

from __future__ import annotations

import contextlib
import difflib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import portlease
from portlease._server import _template
from portlease._server._command import Command
from portlease._server._starter import take_leases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from portlease import Lease
    from portlease._server._check import Ready
    from portlease._server._command import How, PortKind
    from portlease._server._server import Server
    from portlease.cli._env_file import EnvFile

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of ``run``, and its two commands."""

    server: tuple[str, ...]
    client: tuple[str, ...]
    """Empty: there is none."""
    kinds: Mapping[str, PortKind]
    """Of every port and Unix socket, by name; ``"port"`` among them."""
    env: Mapping[str, str]
    host: str | None
    ports: tuple[int, ...] | None
    label: str | None
    how: How | None
    ready: tuple[Ready, ...]
    wait_for: tuple[str, ...] | None
    timeout_s: float | None
    """None: not said."""
    stop_timeout_s: float
    n: int
    verbose: bool
    quiet: bool
    as_json: bool
    env_file: EnvFile | None = None
    """To be written before the server starts."""
    elsewhere: bool = False
    """Its servers are run by somebody else."""
    portserver: str | None = None
    """The address of the port server that serves meanwhile."""

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

    def unknown(self) -> set[str]:
        """Those that stay as they are: of no port, and of no socket that is handed over."""
        known = {*self.kinds, _template.HOST}
        return {n for n in self.templates() if (_template.port_of_fd(n) or n) not in known}

    def hints(self) -> list[str]:
        """What is to be said of those: one may be misspelt."""
        known = [*self.kinds, _template.HOST, _template.FD]
        texts = (*self.server, *self.client, *self.env.values())
        found = [
            f"{{{name}}} stays as it is; did you mean {{{name.lower()}}}?"
            for name in sorted(_template.shouted_in(texts))
            if name.lower() in known and name.lower() not in self.templates()
        ]
        for name in sorted(self.unknown()):
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {{{near[0]}}}? " if near else ""
            further = _template.port_of_fd(name) or name
            found.append(
                f"{{{name}}} stays as it is; {meant}if it is to be a port, say --port {further}"
            )
        return found

    def said_of_portserver(self) -> dict[str, str]:
        """For JSON: nothing, where there is none."""
        return {} if self.portserver is None else {"portserver": self.portserver}

    @property
    def is_timed(self) -> bool:
        """Whether a command in the foreground must be ready at some time, which is asked for."""
        return bool(self.ready) or self.timeout_s is not None or self.elsewhere

    def elsewhere_names(self) -> tuple[str, ...]:
        """The ports that somebody else is to listen on: those that were named, or the main one."""
        if self.wait_for is not None:
            return self.wait_for
        named = [
            name
            for name, kind in self.kinds.items()
            if kind != "unix" and (name != _template.PORT or name in self.templates())
        ]
        return tuple(named) or (_template.PORT,)

    def command(self, *, foreground: bool = False) -> Command:
        """The server's command; in the foreground it counts as up at once, if nothing is asked.

        Raises:
            UsageError: something that can never work.
        """
        at_once = foreground and not self.is_timed
        return Command(
            args=self.server,
            kinds=self.kinds,
            env=self.env,
            host=self.host,
            label=self.label,
            wait_for=() if at_once or self.elsewhere else self.wait_for,
            ready=self.ready or None,
            how=self.how or ("step-aside" if self.elsewhere else None),
            timeout_s=self.patience_s,
            stop_timeout_s=self.stop_timeout_s,
            known_only=True,
            collect=not foreground,
            own_stdin=not foreground,
            mode="inherit" if foreground else "session",
        )

    def filled(self, args: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
        """Another command's arguments and environment, before there are numbers for the names."""
        return self._like(args).filled(dict.fromkeys(self.kinds, 1), "127.0.0.1")

    def for_client(self, server: Server) -> tuple[tuple[str, ...], dict[str, str]]:
        """The client's arguments and environment, numbers in place of names.

        Raises:
            ServerDiedError: the server has ended by itself.
        """
        return self._like(self.client).filled(server.ports, server.host, server.paths)

    def variables(
        self, ports: Mapping[str, int], host: str, paths: Mapping[str, str]
    ) -> dict[str, str]:
        """What is added to the server's environment, for an env file.

        Descriptors are left out: they mean nothing to any other process.
        """
        command = self.command()
        _, env = command.filled(ports, host, paths)
        names = ["PORT" if name == _template.PORT else f"{name.upper()}_PORT" for name in ports]
        names += [f"{name.upper()}_PATH" for name in paths]
        names += [
            name
            for name, text in self.env.items()
            if command.fds().isdisjoint(_template.names_in([text]))
        ]
        return {name: env[name] for name in dict.fromkeys(names)}

    def _like(self, args: tuple[str, ...]) -> Command:
        return Command(args=args, kinds=self.kinds, env=self.env, known_only=True)

    def main_lease(self, number: int | None = None) -> Lease:
        """The lease of the main port, of the server with this *number* among several."""
        kind = self.kinds[_template.PORT]
        label = self.label or self.command().program
        return portlease.lease(
            "tcp" if kind == "unix" else kind,  # it is none: command() refuses that
            host=self.host,
            ports=self.ports,
            label=label if number is None else f"{label} {number}",
        )

    @contextlib.contextmanager
    def all_leases(self) -> Iterator[dict[str, Lease]]:
        """The leases of all ports, by name."""
        with self.main_lease() as main, contextlib.ExitStack() as stack:
            taken: list[Lease] = []

            def release() -> None:
                for lease in taken:
                    lease.release()

            stack.callback(release)
            yield take_leases(self.command(), main, taken)
