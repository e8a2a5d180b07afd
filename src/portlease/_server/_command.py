"""A command that is to be served: its ports by name, its options checked, its templates filled in.

Pure: it starts nothing and leases nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from portlease._errors import UsageError
from portlease._server import _check, _ready, _template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final, Literal, TypeAlias

    from portlease._server._check import ReadyOption
    from portlease._server._trial import Check
    from portlease._tree._process import Mode, StrPath
    from portlease._wish import Kind

    How: TypeAlias = Literal["offer", "step-aside", "broker", "hand-over"]
    PortKind: TypeAlias = Kind | Literal["unix"]

HOWS: Final = ("offer", "step-aside", "broker", "hand-over")


class Options(TypedDict, total=False):
    """The options of :func:`portlease.serve`, all but the lease."""

    ports: Mapping[str, PortKind] | None
    host: str | None
    timeout_s: float
    stop_timeout_s: float
    stop_signal: int
    env: Mapping[str, str] | None
    cwd: StrPath | None
    label: str | None
    wait_for: Iterable[str] | None
    ready: ReadyOption
    how: How | None


def must_know(caller: str, options: Iterable[str], *kinds: type) -> None:
    """Refuse options that none of these TypedDicts has, as Python does of those written out.

    Raises:
        TypeError: one is unknown; with the name that it may have been meant for.
    """
    known = sorted({name for kind in kinds for name in kind.__optional_keys__})  # type: ignore[attr-defined]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"{caller} got an unexpected keyword argument {name!r}; {hint}")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is to be served, and how; checked. The command line makes one of its own.

    ``known_only`` leaves names in braces alone that are not in ``kinds``; else each is leased.
    ``collect`` says whether the output goes to a file of ours, or where our own goes, and
    ``own_stdin`` whether its standard input is a silent pipe, or ours.
    """

    args: tuple[str, ...]
    kinds: Mapping[str, PortKind] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    host: str | None = None
    label: str | None = None
    wait_for: tuple[str, ...] | None = None
    ready: ReadyOption = None
    checks: tuple[Check, ...] = field(init=False)
    """What ``ready`` stands for."""
    how: How | None = None
    timeout_s: float = 30.0
    stop_timeout_s: float = 5.0
    stop_signal: int = signal.SIGTERM
    known_only: bool = False
    collect: bool = True
    own_stdin: bool = True
    mode: Mode = "session"

    def __post_init__(self) -> None:
        if not self.args:
            raise UsageError("the command is empty; give a program and its arguments")
        if self.how is not None and self.how not in HOWS:
            raise UsageError(f"how={self.how!r} is none of {', '.join(map(repr, HOWS))} and None")
        if self.fds() and self.how not in {None, "hand-over"}:
            raise UsageError(
                f"{{{min(self.fds())}}} is the descriptor of a socket that is handed over; leave "
                f"how={self.how!r} out, or say how='hand-over'"
            )
        given: dict[str, object] = {
            "timeout_s": self.timeout_s,
            "stop_timeout_s": self.stop_timeout_s,
        }
        for name, value in given.items():
            if not isinstance(value, (int, float)) or math.isnan(value) or value < 0:
                raise UsageError(f"{name}={value!r} is no number of seconds")
        if self.stop_signal not in signal.valid_signals():
            raise UsageError(f"stop_signal={self.stop_signal!r} is no signal that can be sent here")
        self._check_names()
        object.__setattr__(self, "checks", _check.checks(self.ready, self))

    def _check_names(self) -> None:
        for name in sorted(self.names() | self.unix()):
            if not _template.is_name(name):
                raise UsageError(
                    f"{name!r} cannot name a port: names are in lower case, do not end in _fd, and "
                    f"{', '.join(sorted(_template.RESERVED))} are reserved; "
                    f"write {{{{{name}}}}} for the text {{{name}}} itself"
                )
        if _template.PORT in self.unix():
            raise UsageError(
                "its main port, 'port', cannot be a Unix socket: that has no number to be leased; "
                "give the socket another name"
            )
        if self.unix() and sys.platform == "win32":
            raise UsageError(
                f"{min(self.unix())} cannot be a Unix socket: Python has none on Windows; give it "
                "the kind 'tcp'"
            )
        known = self.names() | self.unix()
        if unknown := set(self.wait_for or ()) - known:
            raise UsageError(
                f"wait_for= names {', '.join(sorted(unknown))}, which no port is called; "
                f"there are {', '.join(sorted(known))}"
            )

    def named(self) -> set[str]:
        """The names in its templates, those of hosts and descriptors too."""
        return _template.names_in((*self.args, *self.env.values()))

    def names(self) -> set[str]:
        """The names of the ports to be leased."""
        found = {_template.PORT, *self.kinds}
        if not self.known_only:
            for name in self.named() - {_template.HOST}:
                found.add(_template.port_of_fd(name) or name)
        return found - self.unix()

    def unix(self) -> set[str]:
        """The names of its Unix sockets; they have paths, and no leases."""
        return {name for name, kind in self.kinds.items() if kind == "unix"}

    def fds(self) -> set[str]:
        """The names in its templates that stand for descriptors: of sockets to be handed over."""
        found = {name for name in self.named() if _template.port_of_fd(name) is not None}
        if self.known_only:
            known = {_template.PORT, *self.kinds}
            found = {name for name in found if _template.port_of_fd(name) in known}
        return found

    def suspicious(self) -> set[str]:
        """Names that are leased as further ports, and may have been meant for ``{port}``.

        There are none where ``{port}`` itself occurs, or the command speaks of PORT, or wait_for=
        says what it listens on; nor is one that was declared in ports=.
        """
        if self.known_only or self.wait_for is not None:
            return set()
        named = self.named() - {_template.HOST}
        speaks_of_it = any(
            _template.mentions_port(text) for text in (*self.args, *self.env.values(), *self.env)
        )
        if _template.PORT in named or speaks_of_it or self.fds() or "port" in self.kinds:
            return set()
        return named - self.kinds.keys()

    def shouted(self) -> set[str]:
        """Names in capitals, ``{PORT}``, which stay, and may have been meant for ports."""
        named = self.named()
        return {
            name
            for name in _template.shouted_in((*self.args, *self.env.values()))
            if name.lower() in {_template.PORT, *self.kinds} and name.lower() not in named
        }

    @property
    def key(self) -> tuple[tuple[str, ...], str | None]:
        """What is remembered about a command is remembered under this."""
        return self.args, self.cwd

    @property
    def program(self) -> str:
        """Its name, for messages and labels."""
        return os.path.basename(self.args[0]) or self.args[0]

    def bind_host(self, leased: str | Sequence[str] | None) -> str:
        """What ``{host}`` stands for, with a lease for these hosts."""
        return leased if isinstance(leased, str) else next(iter(leased or ()), _ready.LOOPBACK)

    def filled(
        self,
        ports: Mapping[str, int],
        host: str,
        paths: Mapping[str, str] | None = None,
        fds: Mapping[str, int] | None = None,
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """The arguments and the whole environment, numbers in place of names.

        Args:
            ports: by name.
            host: what ``{host}`` is.
            paths: those of its Unix sockets, by name.
            fds: the descriptors that its templates name (see :meth:`fds`).
        """
        paths = paths or {}
        values: dict[str, object] = {**ports, **paths, **(fds or {}), _template.HOST: host}

        def fill(text: str) -> str:
            return _template.substitute(text, values, known_only=self.known_only)

        filled = {name: fill(text) for name, text in self.env.items()}
        return tuple(map(fill, self.args)), self.surroundings(ports, paths) | filled

    def surroundings(self, ports: Mapping[str, int], paths: Mapping[str, str]) -> dict[str, str]:
        """Our environment, with the variables that tell a server its ports and paths."""
        env = dict(os.environ) | {f"{name.upper()}_PATH": path for name, path in paths.items()}
        for name, port in ports.items():
            env["PORT" if name == _template.PORT else f"{name.upper()}_PORT"] = str(port)
        return env

    def instead(self, args: Sequence[str], env: Mapping[str, str]) -> Command:
        """The same with other arguments, and with *env* (templates, too) besides its own."""
        return dataclasses.replace(
            self, args=tuple(args), env={**self.env, **env}, ready=None, wait_for=None, how=None
        )
