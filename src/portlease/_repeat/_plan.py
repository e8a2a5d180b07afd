"""What is to be run, how often, and how many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portlease._server import _template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portlease._repeat._runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asked for, checked.

    Attributes:
        argv: the suite's command, templates unfilled.
        runner: what is known of the program that runs the tests.
        n: how many instances a round has.
        jobs: how many of them run at once, at most.
        rounds: how many rounds, at most; None: no end but by *until_failure*.
        until_failure: whether the first round with a failure in company is the last.
        baselines: how often it runs alone first.
        isolated: whether each instance has a network of its own, with *low_ports*, *reach* and
            *outside* as in :func:`portlease._isolate.command`.
        timeout_s: seconds until a run is ended; None: never.
        grace_s: seconds from SIGTERM to SIGKILL.
        env: what is set in the environment besides; templates unfilled.
        keep: a folder for what the runs leave; None: a temporary one.
    """

    argv: tuple[str, ...]
    runner: Runner
    n: int
    jobs: int
    rounds: int | None
    until_failure: bool
    baselines: int
    isolated: bool
    low_ports: bool = False
    reach: tuple[str, ...] = ()
    outside: bool = False
    timeout_s: float | None
    grace_s: float
    env: Mapping[str, str]
    keep: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """One run's place: alone (round 0) or in a round, and as which instance.

    A baseline is instance 1 of 1, in round 0; ``attempt`` tells several of them apart.
    """

    round: int
    instance: int
    instances: int
    attempt: int = 1

    @property
    def alone(self) -> bool:
        """Whether it is a baseline."""
        return self.round == 0

    @property
    def folder(self) -> str:
        """What its folder is called. Short: a Unix socket's path has 107 bytes (unix(7))."""
        return f"a{self.attempt}" if self.alone else f"r{self.round}i{self.instance}"

    def __str__(self) -> str:
        if self.alone:
            return "alone" if self.attempt == 1 else f"alone, run {self.attempt}"
        return f"instance {self.instance}"

    def filled(self, text: str, folder: str) -> str:
        """*text* with ``{instance}``, ``{instances}``, ``{round}`` and ``{tmp}`` filled in."""
        values = {
            "instance": self.instance,
            "instances": self.instances,
            "round": self.round,
            "tmp": folder,
        }
        return _template.substitute(text, values, known_only=True)
