"""A command that is to be served: its ports by name, its options checked, its templates filled in.

Pure: it starts nothing and leases nothing.
"""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portlease._errors import UsageError
from portlease._server import _ready, _template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final, Literal, TypeAlias

    from portlease._server._process import Mode
    from portlease._wish import Kind

    How: TypeAlias = Literal["offer", "step-aside"]

_HOWS: Final = (None, "offer", "step-aside")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is to be served, and how; checked. The command line makes one of its own.

    ``known_only`` leaves names in braces alone that are not in ``kinds``; else each is leased.
    ``collect`` says whether the output goes to a file of ours, or where our own goes, and
    ``own_stdin`` whether its standard input is a silent pipe, or ours.
    """

    args: tuple[str, ...]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    host: str | None = None
    label: str | None = None
    wait_for: tuple[str, ...] | None = None
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
        if self.how not in _HOWS:
            raise UsageError(f"how={self.how!r} is none of 'offer', 'step-aside' and None")
        for name, value in (("timeout_s", self.timeout_s), ("stop_timeout_s", self.stop_timeout_s)):
            if math.isnan(value) or value < 0:
                raise UsageError(f"{name}={value!r} is no number of seconds")
        if self.stop_signal not in signal.valid_signals():
            raise UsageError(f"stop_signal={self.stop_signal!r} is no signal that can be sent here")
        reserved = self.names() & _template.RESERVED
        for name in sorted(reserved | set(self.kinds)):
            if not _template.is_name(name):
                raise UsageError(
                    f"{name!r} cannot name a port: names are in lower case, and "
                    f"{', '.join(sorted(_template.RESERVED))} are reserved; "
                    f"write {{{{{name}}}}} for the text {{{name}}} itself"
                )
        if unknown := set(self.wait_for or ()) - self.names():
            raise UsageError(
                f"wait_for= names {', '.join(sorted(unknown))}, which no port is called; "
                f"there are {', '.join(sorted(self.names()))}"
            )

    def names(self) -> set[str]:
        """The names of the ports to be leased."""
        found = {_template.PORT, *self.kinds}
        if not self.known_only:
            found |= _template.names_in((*self.args, *self.env.values())) - {_template.HOST}
        return found

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

    def filled(self, ports: Mapping[str, int], host: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """The arguments and the whole environment, numbers in place of names."""
        values: dict[str, object] = {**ports, _template.HOST: host}

        def fill(text: str) -> str:
            return _template.substitute(text, values, known_only=self.known_only)

        env = dict(os.environ)
        for name, port in ports.items():
            env["PORT" if name == _template.PORT else f"{name.upper()}_PORT"] = str(port)
        env |= {name: fill(text) for name, text in self.env.items()}
        return tuple(map(fill, self.args)), env
