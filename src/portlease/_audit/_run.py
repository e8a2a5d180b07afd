"""Running a command under the audit: its tree observed, its Python programs hooked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from typing import TYPE_CHECKING

from portlease import _trail
from portlease._audit import _inject, _origin
from portlease._errors import PortleaseError, UsageError
from portlease._tree._process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from portlease._errors import BrokerUnavailableError
    from portlease._trail import Event

if sys.platform == "linux":
    from portlease._audit._observer import Observer


class Watched:
    """A command that runs, or has run, under the audit. Context manager: leave it when it ended.

    Args:
        argv: the command.
        env: its environment, as it would be without us.
        trail: the path of the file that is written; made anew.
        only_python: do without the observer, and so without seccomp and its price.
        output: a descriptor for its standard output; None for ours.

    Raises:
        ServerStartError: it could not be executed.
        UsageError: the trail cannot be made.
    """

    process: Process
    unobserved: str | None
    """Why there is no observer, and only Python's binds are seen; None if there is one."""
    remedy: str | None
    """What would help against that."""
    is_unseen: bool
    """Whether it ended before it could be watched: it was not executed, and nothing was seen."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        trail: str,
        only_python: bool = False,
        output: int | None = None,
    ) -> None:
        self.trail = trail
        self.begun = _trail.now()
        self._events: list[Event] | None = None
        self._troubles: list[str] = []
        self._close: Callable[[], None] = lambda: None
        try:
            with open(trail, "wb"):
                pass
        except OSError as error:
            raise UsageError(f"cannot write the trail {trail}: {error.strerror}") from error
        self.unobserved, self.remedy = "it was not asked for (--only-python)", None
        self.is_unseen = False
        if not only_python and self._observe(argv, env, output):
            return
        self.process = Process.start(
            argv,
            env=_inject.environment(env, trail),
            stdin=None,
            output=output,
            errors=None,
            mode="inherit",
        )

    if sys.platform == "linux":

        def _observe(self, argv: Sequence[str], env: Mapping[str, str], output: int | None) -> bool:
            """Start it under an observer; return whether it need not be started without one."""
            observer = Observer(self.trail)
            try:
                words, fd = observer.command(list(argv))
                process = Process.start(
                    words,
                    env=_inject.environment(env, self.trail, observed=True),
                    stdin=None,
                    output=output,
                    errors=None,
                    mode="inherit",
                    pass_fds=[fd],
                )
                self.is_unseen = not observer.begin(process.pid) and observer.refused is None
                if observer.refused is not None:
                    process.stop()
                    self._set_unobserved(observer.refused)
                    observer.close()
                    return False
            except BaseException:
                observer.close()
                raise
            self.process, self.unobserved = process, None
            self._troubles, self._close = observer.troubles, observer.close
            return True

    else:

        def _observe(self, argv: Sequence[str], env: Mapping[str, str], output: int | None) -> bool:
            """There is none to be had."""
            del argv, env, output
            self.unobserved = f"{sys.platform} has no seccomp"
            return False

    def _set_unobserved(self, refused: BrokerUnavailableError | None) -> None:
        if refused is not None:
            self.unobserved, self.remedy = refused.reason, refused.remedy

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is left of the tree, and let go of it. May be called again."""
        close, self._close = self._close, lambda: None
        with contextlib.ExitStack() as stack:
            stack.callback(close)
            self.process.stop()

    def events(self) -> list[Event]:
        """What happened, in its order; call it when the command has ended.

        Raises:
            PortleaseError: the trail cannot be read.
        """
        if self._events is None:
            try:
                trail = _trail.read(self.trail)
            except OSError as error:
                raise PortleaseError(
                    f"what was seen is lost, as {self.trail} cannot be read: {error.strerror}; if "
                    "the command removes temporary files, name another place with --trail"
                ) from error
            self._events = _origin.judged(_without_ours(trail.events))
            known = set(self._troubles)
            lost = (
                f"line {number} of the trail is damaged: {text}" for number, text in trail.damaged
            )
            self._troubles += [one for one in lost if one not in known]
        return self._events

    @property
    def troubles(self) -> list[str]:
        """What was not written down, or is lost, and why."""
        return list(self._troubles)


def _without_ours(events: list[Event]) -> list[Event]:
    """The events without the name of the test that we are run by ourselves, which is inherited."""
    ours = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    theirs = {event.test for event in events if event.what == _trail.TEST_START}
    if not ours or ours in theirs:
        return events
    return [
        dataclasses.replace(event, test=None) if event.test == ours else event for event in events
    ]
