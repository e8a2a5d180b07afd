"""One run of the suite: started, watched, ended, and what became of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

from portlease import _trail
from portlease._audit import _inject
from portlease._errors import UsageError
from portlease._repeat import _results
from portlease._repeat._pace import Pace
from portlease._tree._process import Process

if TYPE_CHECKING:
    from typing import Final, Literal, TypeAlias

    from portlease._repeat._plan import Place, Plan
    from portlease._repeat._results import Results

    State: TypeAlias = Literal["running", "stopping", "passed", "failed", "timeout", "stopped"]

_TAIL_BYTES: Final = 16 << 20
"""How much of the output is searched for failures: the end of it."""

_SHOWN_BYTES: Final = 1 << 14
"""How much of the output is kept for who reads the report."""

_SIGINT: Final = 2

_OUTER: Final = frozenset(
    (
        *("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"),
        *("PYTEST_XDIST_TESTRUNUID", _trail.RUNNER),
    )
)
"""What a test that runs us has in its environment, and what is not true of the suite's."""


class Run:
    """A run of the suite in its place. Owns its process from `start` until `stop` or its end.

    Its folder is the caller's, who removes it: ``t`` is its TMPDIR, ``output.txt`` what it wrote,
    ``trail.jsonl`` its trail, ``junit.xml`` its results where its runner writes them there.

    Attributes:
        begun: when it was started, in nanoseconds of the monotonic clock; ``ended`` likewise, or
            None.
        returncode: as in :mod:`subprocess`; None while the command runs.
        state: how far it is, and in the end how it ended.
        left: what the command left running when it ended, and was ended then.
        results: its tests, once it is over.
        output: the end of what it wrote, once it is over.
    """

    def __init__(self, plan: Plan, place: Place, folder: str) -> None:
        self.place = place
        self.folder = folder
        self.tmp = os.path.join(folder, "t")
        self.state: State = "running"
        self.ended: int | None = None
        self.returncode: int | None = None
        self.left: tuple[str, ...] = ()
        self.results: Results | None = None
        self.output = ""
        self._plan = plan
        self._told_at: float | None = None
        self._asked = False
        self._old: frozenset[_results.File] = frozenset()
        self._junit = self._path_of_junit()
        self._path = os.path.join(folder, "output.txt")
        os.makedirs(self.tmp)
        self._trail = os.path.join(folder, "trail.jsonl")
        with open(self._trail, "ab"), open(self._path, "ab"):
            self.pace = Pace(self._path, self._trail)
        self.argv = self.command()
        self.begun = time.monotonic_ns()
        self._process: Process | None = None

    def start(self) -> None:
        """Start it.

        Raises:
            ServerStartError: it cannot be executed.
        """
        # Appended to, by all processes of the tree, wherever another has written or truncated it.
        with open(self._path, "ab") as file:
            self.begun = time.monotonic_ns()
            # The note tells the folder's janitor that it is still in use, should we be killed.
            self._process = Process.start(
                self.argv, env=self.environment(), output=file.fileno(), note=self.folder
            )

    # --- what is run ---

    def command(self) -> list[str]:
        """Its command, nothing left to fill in."""
        words = [self.place.filled(word, self.tmp) for word in self._plan.argv]
        argv = self._plan.runner.command(words, self.folder)
        if self._plan.isolated:
            from portlease import _isolate

            return _isolate.command(
                argv,
                low_ports=self._plan.low_ports,
                reach=self._plan.reach,
                outside=self._plan.outside,
            )
        return argv

    def environment(self) -> dict[str, str]:
        """Its whole environment."""
        env = {name: text for name, text in os.environ.items() if name not in _OUTER}
        env.update(
            TMPDIR=self.tmp,
            TEMP=self.tmp,
            TMP=self.tmp,
            PORTLEASE_INSTANCE=str(self.place.instance),
            PORTLEASE_INSTANCES=str(self.place.instances),
            PORTLEASE_ROUND=str(self.place.round),
        )
        # coverage.py would have all of them write to one database in the working directory.
        env.setdefault("COVERAGE_FILE", os.path.join(self.folder, "coverage"))
        for name, text in self._plan.env.items():
            env[name] = self.place.filled(text, self.tmp)
        return _inject.environment(env, self._trail)

    def _path_of_junit(self) -> str | None:
        template = self._plan.runner.junit
        if template is None:
            return None
        path = self.place.filled(template, self.tmp).replace("{folder}", self.folder)
        # An older run's would be taken for this one's. Of a folder nothing is removed, which may
        # have more in it than results.
        if os.path.isfile(path):
            try:
                os.unlink(path)
            except OSError as error:
                raise UsageError(
                    f"--junit: {path} is there already, and cannot be removed: {error.strerror}"
                ) from error
        self._old = _results.files(path)
        return path

    # --- while it runs ---

    @property
    def events(self) -> list[_trail.Event]:
        """Its trail, as far as it was read."""
        return self.pace.events

    @property
    def over(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.results is not None

    @property
    def seconds(self) -> float:
        """How long it has run."""
        end = time.monotonic_ns() if self.ended is None else self.ended
        return (end - self.begun) / 1e9

    def pids(self) -> list[int]:
        """Its processes."""
        return [] if self._process is None else self._process.tree()

    def look(self) -> list[_trail.Event]:
        """Take in what has happened since; return what its trail has got since."""
        process = self._process
        if self.over or process is None:
            return []
        new = self.pace.look()
        if self.ended is None and (code := process.returncode) is not None:
            self.ended, self.returncode = time.monotonic_ns(), code
            self._end_what_is_left(process)
        elif self.ended is None:
            self._mind_the_time(process)
        if process.ended:
            new += self.pace.look()  # what it wrote between the look and its end
            self._finish()
        return new

    def _end_what_is_left(self, process: Process) -> None:
        if not process.ended and not self._asked:
            self.left = tuple(filter(None, map(_command_of, process.tree())))
            self.begin_stop()

    def _mind_the_time(self, process: Process) -> None:
        limit = self._plan.timeout_s
        if self._told_at is None and limit is not None and self.seconds >= limit:
            # As Ctrl-C does: a test runner then says where it stood, and writes its results.
            self.state = "stopping"
            self._told_at = time.monotonic()
            with contextlib.suppress(PermissionError):  # another user's now; the keeper tells
                process.send_signal(_SIGINT)
        elif self._told_at is not None and not self._asked:
            waited_s = time.monotonic() - self._told_at
            if waited_s >= self._plan.grace_s:
                self.begin_stop()

    def begin_stop(self) -> None:
        """Ask all of it to end; not waited for."""
        self._asked = True
        if self._process is not None:
            self._process.begin_stop(self._plan.grace_s)

    def stop(self) -> None:
        """End all of it, now; on return nothing of it runs. Nothing happens if it is over."""
        if self.over:
            return
        if self._process is not None:
            self._process.stop(grace_s=self._plan.grace_s)
        self.pace.look()
        if self.ended is None:
            self.ended = time.monotonic_ns()
            self.returncode = None if self._process is None else self._process.returncode
            self.state = "stopped"
        self._finish()

    def clean(self) -> None:
        """Remove what it has left in its folder; nothing of that is read any more.

        The disk may be too small for what all runs leave. What cannot be removed is left to the
        janitor of the folder that it lies in, who says so.
        """
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self) -> None:
        self.output = self._read_end(_SHOWN_BYTES)
        self.results = _results.read(self._junit, self._read_end(_TAIL_BYTES), self._old)
        if self._told_at is not None:
            self.state = "timeout"
        elif self.state != "stopped":
            self.state = "passed" if self.returncode == 0 else "failed"

    def _read_end(self, most: int) -> str:
        with open(self._path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most))
            return file.read(most).decode("utf-8", "replace")


def _command_of(pid: int) -> str | None:
    if sys.platform != "linux":
        return f"pid {pid}"
    from portlease._platform import _linux_proc

    info = _linux_proc.process_info(pid)
    return None if info is None or not info.command else f"{info.command} (pid {pid})"
