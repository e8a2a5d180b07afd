"""Many servers side by side, with a client each or without; ``--json`` for one of them too.

A thread sees to each of them: it starts the server, runs the client, stops the server. The main
thread shows how far they are, writes what the clients wrote, and on a signal ends everything.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING

from portlease._errors import PortleaseError, ResourceLimitError, ServerError
from portlease._server._cancel import Cancel, StartCancelledError
from portlease._server._output import Output
from portlease._tree._process import Process
from portlease.cli import _say, _signals, _status, _told
from portlease.cli._job import HEADINGS, Job
from portlease.cli._progress import Progress
from portlease.cli._started import PlannedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portlease._server._server import Server
    from portlease.cli._plan import Plan


def run(plan: Plan) -> int:
    """Run them all; the exit status is the highest of theirs."""
    crowd = _Crowd(plan)
    try:
        with _signals.interrupting():
            try:
                crowd.start()
                if plan.client:
                    crowd.see_clients()
                else:
                    crowd.see_servers()
            finally:
                crowd.end()
    except _signals.Interrupted:
        if plan.client:
            crowd.report()
        raise
    if plan.client:
        crowd.report()
    return crowd.status()


class _Crowd:
    """All of them. Each job is written by its own thread, and read by the main thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._jobs = [Job(number) for number in range(1, plan.n + 1)]
        self._news: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._end = Cancel()
        self._threads: list[threading.Thread] = []
        self._progress = Progress(self._jobs, shown=not (plan.quiet or plan.as_json))

    # --- the main thread ---

    def start(self) -> None:
        """Start a thread for each.

        Raises:
            ResourceLimitError: so many cannot be had.
        """
        for job in self._jobs:
            thread = threading.Thread(
                target=self._see_to, args=(job,), name=f"portlease {job.number}"
            )
            try:
                thread.start()
            except RuntimeError as error:  # pthread_create(3) fails with EAGAIN
                raise ResourceLimitError(
                    f"no thread for number {job.number} of {len(self._jobs)}; ask for fewer, or "
                    "raise the limit (`ulimit -u`)"
                ) from error
            self._threads.append(thread)

    def see_clients(self) -> None:
        """Wait for every client, and write what it wrote once it has ended."""
        with self._progress:
            for job in self._each_change():
                if job.is_over and not self._plan.as_json:
                    with self._progress.aside():
                        self._write(job)

    def see_servers(self) -> None:
        """Wait until all servers are ready, print their ports, and wait until all have ended.

        If one does not get ready, the others are of no use: they are ended, too.
        """
        changes = self._each_change()
        if (failed := self._first_failure(changes)) is not None:
            self._write(failed)
            return
        if self._plan.as_json:
            servers = [job.as_server() for job in self._jobs]
            _say.write_json({"servers": servers, **self._plan.said_of_portserver()})
        else:
            _say.write_numbers([job.ports["port"] for job in self._jobs])
        for job in changes:
            if job.is_over:
                self._write(job)

    def _first_failure(self, changes: Iterator[Job]) -> Job | None:
        """The first job that is over before all are ready."""
        ready: set[int] = set()
        with self._progress:
            while len(ready) < len(self._jobs):
                job = next(changes)
                if job.is_over:
                    return job
                if job.state == "ready":
                    ready.add(job.number)
        return None

    def _each_change(self) -> Iterator[Job]:
        """Each job whose state has changed, until all are over."""
        left = {job.number for job in self._jobs}
        while left:
            job = self._news.get()
            if job.defect is not None:
                raise job.defect
            if job.is_over:
                left.discard(job.number)
            yield job

    def end(self) -> None:
        """End whatever still runs, and wait for the threads. Nothing is left to do if all is over.

        It reaches what is being started now, what runs, and what a thread was about to start.
        """
        self._end.cancel()
        for thread in self._threads:
            thread.join()

    def _write(self, job: Job) -> None:
        """What a job's commands wrote, each to where it belongs."""
        if job.output:
            _say.write(_with_newline(job.output))
        if job.errors:
            _say.tell(job.errors.removesuffix("\n"))
        if job.error is not None:
            _say.say(f"{job.number}: {job.error}")
        if self._plan.verbose and job.how is not None and job.why is not None:
            _told.means(job.how, job.why, f"{job.number}: ")
        if job.server_output and (self._plan.verbose or job.state == "failed"):
            whose = f"{job.number}: the output of {self._plan.server[0]}"
            _say.tell_output(whose, job.shown(whole=self._plan.verbose))

    def report(self) -> None:
        """Tell how it went."""
        if self._plan.as_json:
            runs = [job.as_dict() for job in self._jobs]
            told = self._plan.said_of_portserver()
            _say.write_json({"status": self.status(), **told, "runs": runs})
        elif not self._plan.quiet:
            _say.table(HEADINGS, [job.row() for job in self._jobs], stderr=True)

    def status(self) -> int:
        """The highest exit status."""
        return max(job.status or 0 for job in self._jobs)

    # --- a job's own thread ---

    def _see_to(self, job: Job) -> None:
        try:
            self._serve(job)
        except StartCancelledError:
            pass  # by end(), which finish() is told of
        except PortleaseError as error:
            job.error = _say.for_the_command_line(error.message)
            job.status = _status.of_error(error)
            if isinstance(error, ServerError):
                job.server_output = job.server_output or error.output
        except BaseException as defect:  # noqa: BLE001 - the main thread raises it
            job.defect = defect
        finally:
            job.finish(stopped=self._end.cancelled)
            self._news.put(job)

    def _serve(self, job: Job) -> None:
        plan, begun = self._plan, time.monotonic()
        with plan.main_lease(job.number) as main:
            job.ports = {"port": main.port}
            server = PlannedServer(plan, plan.command(), main, cancel=self._end)
            try:
                job.ready_s = time.monotonic() - begun
                job.starts, job.pid = server.starts, server.process.pid
                job.how, job.why = server.how, _say.for_the_command_line(server.why)
                with self._ending(server.process):
                    job.host, job.ports, job.paths = server.host, server.ports, server.paths
                    self._change(job, "ready")
                    if plan.client:
                        self._change(job, "client")
                        self._run_client(job, server)
                    else:
                        server.process.wait_ended()
                        job.status = _status.of_returncode(server.process.returncode or 0)
            finally:
                server.stop()
                job.server_output = server.output

    def _run_client(self, job: Job, server: Server) -> None:
        argv, env = self._plan.for_client(server)
        begun = time.monotonic()
        with contextlib.closing(Output()) as output, contextlib.closing(Output()) as errors:
            with (
                Process.start(
                    argv, env=env, output=output.fileno(), errors=errors.fileno()
                ) as client,
                self._ending(client),
            ):
                job.status = _status.of_returncode(client.wait())
            job.client_s = time.monotonic() - begun
            job.output, job.errors = output.text(), errors.text()

    def _ending(self, process: Process) -> contextlib.AbstractContextManager[None]:
        return self._end.ending(lambda: process.begin_stop(self._plan.stop_timeout_s))

    def _change(self, job: Job, state: str) -> None:
        job.state = state
        self._news.put(job)


def _with_newline(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
