"""``portlease repeat``: N instances of a whole suite at once, and what fails only in company."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import click

from portlease._errors import UsageError
from portlease._findings import _file
from portlease.cli import _lookup, _options, _say, _signals, _status, _temporary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from portlease._repeat._plan import Plan
    from portlease._repeat._report import Report

GRACE_S: Final = 5.0

_HELP = """\
Run N instances of a whole test suite at once, and say what fails only in company.

\b
  portlease repeat -n 8 -- pytest -q
  portlease repeat -n 8 --isolate -- pytest -q   each in its own network
  portlease repeat -n 4 --until-failure -- go test ./...
  portlease repeat --html page.html -- python -m unittest
  portlease repeat --junit '{tmp}/report.xml' -- \\
      node --test --test-reporter junit \\
                  --test-reporter-destination '{tmp}/report.xml'
  portlease repeat -e DB=test_{instance} -- ./run-tests.sh

First the suite runs once alone, which is the baseline; then N instances at once, as often as
--rounds says, or until one fails. What fails in company and not alone is told, by cause: an address
in use, a wrong server, a refused connection, a database, files, limits, time. For a port it is told
who had it: instance, test, file and line where the programs are Python's, program and process id
else. So is a test that passed, but against another instance's server, as its own could not bind.

Each instance has a folder of its own for temporary files (TMPDIR, TEMP, TMP), and its number in
PORTLEASE_INSTANCE, 1 to N (PORTLEASE_INSTANCES). In the arguments, in --env and in --junit,
{instance}, {instances}, {round} and {tmp} are filled in. Standard input is empty. What an instance
writes is kept in a file, and shown with -v.

pytest is told to write JUnit XML, and to keep its cache apart. Any other runner is judged by the
JUnit XML that --junit names, else by the failed tests that it names on its output (unittest, go
test, TAP, node), else by its exit status.

Only the network is watched and, with --isolate, private: files, databases and services that
instances share are told of where they are seen.

Ctrl-C ends all of it: no process is left, nor a temporary folder; what is known by then is told.

\b
Exit status: 0 nothing failed in company beyond the baseline, 1 something did,
  or passed against another instance's server; 2 a wrong argument,
  125 it could not be done (no isolation here, say), 126 the command
  cannot be executed, 127 not found, 128+N signal N came.
"""


@click.command(
    "repeat",
    help=_HELP,
    short_help="Run N instances of a suite at once.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "-n",
    "n",
    type=_options.WholeNumber(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="How many instances a round has.",
)
@click.option(
    "--jobs",
    type=_options.WholeNumber(min=1),
    metavar="N",
    help="How many of them run at once, at most; all, by default.",
)
@click.option(
    "--rounds",
    type=_options.WholeNumber(min=1),
    metavar="N",
    help="How often: once, by default; with --until-failure at most so often, by default without "
    "an end.",
)
@click.option("--until-failure", is_flag=True, help="End with the first round in which one fails.")
@click.option(
    "--baselines",
    type=_options.WholeNumber(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How often it runs alone first. A test that fails now and then needs several to show it.",
)
@click.option("--no-baseline", is_flag=True, help="Do not run it alone: blame company for all.")
@click.option("--isolate", is_flag=True, help="Give each run a network of its own (Linux).")
@click.option("--low-ports", is_flag=True, help="With --isolate: ports below 1024 may be bound.")
@click.option(
    "--reach",
    multiple=True,
    metavar="HOST:PORT",
    help="With --isolate: this service of the host stays reachable. May be repeated.",
)
@click.option(
    "--outside", is_flag=True, help="With --isolate: DNS and outgoing connections, by pasta."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=_options.Seconds(min=0),
    callback=_options.a_number,
    metavar="S",
    help="Seconds until a run is ended (SIGINT, SIGTERM, SIGKILL), and has failed; never, by "
    "default.",
)
@click.option(
    "--stop-timeout",
    "grace_s",
    type=_options.Seconds(min=0),
    callback=_options.a_number,
    default=GRACE_S,
    show_default=True,
    metavar="S",
    help="Seconds from SIGTERM to SIGKILL.",
)
@click.option(
    "-e",
    "--env",
    multiple=True,
    type=_options.Assignment(),
    metavar="NAME=VALUE",
    help="Set a variable for the suite; {instance} is filled in. May be repeated.",
)
@click.option(
    "--junit",
    metavar="PATH",
    help="Where the suite writes JUnit XML, a file or a folder of them, with {instance} or {tmp} "
    "in it; pytest is told by itself.",
)
@click.option("--junit-out", metavar="FILE", help="Write the results of all runs as JUnit XML.")
@click.option("--html", metavar="FILE", help="Write a page with a timeline: one file, no network.")
@click.option("--trace", metavar="FILE", help="Write a Chrome trace, for ui.perfetto.dev.")
@click.option("--keep", metavar="DIR", help="Keep what each run leaves, its output too, in here.")
@click.option("-v", "--verbose", is_flag=True, help="Show the output of runs that failed.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@_options.as_json
@click.argument("words", metavar="-- COMMAND ARGS...", nargs=-1, type=click.UNPROCESSED)
def command(  # noqa: PLR0913 - its options
    *,
    n: int,
    jobs: int | None,
    rounds: int | None,
    until_failure: bool,
    baselines: int,
    no_baseline: bool,
    isolate: bool,
    low_ports: bool,
    reach: tuple[str, ...],
    outside: bool,
    timeout_s: float | None,
    grace_s: float,
    env: tuple[tuple[str, str], ...],
    junit: str | None,
    junit_out: str | None,
    html: str | None,
    trace: str | None,
    keep: str | None,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    words: tuple[str, ...],
) -> int:
    """Sort out what is to be run, run it, and tell what came of it."""
    from portlease._repeat import _runner
    from portlease._repeat._plan import Plan

    _options.must_be_given(words)
    if not isolate and (low_ports or reach or outside):
        raise click.UsageError("--low-ports, --reach and --outside need --isolate")
    if junit is not None and not any(name in junit for name in ("{instance}", "{tmp}")):
        raise click.UsageError(
            f"--junit {junit}: all instances would write to it; put {{instance}} or {{tmp}} in it"
        )
    plan = Plan(
        argv=words,
        runner=_runner.recognise(words, junit),
        n=n,
        jobs=min(jobs or n, n),
        rounds=rounds if rounds is not None or until_failure else 1,
        until_failure=until_failure,
        baselines=0 if no_baseline else baselines,
        isolated=isolate,
        low_ports=low_ports,
        reach=reach,
        outside=outside,
        timeout_s=timeout_s,
        grace_s=grace_s,
        env=dict(env),
        keep=keep,
    )
    files = {"html": html, "trace": trace, "junit": junit_out}
    _must_be_possible(plan, [path for path in files.values() if path is not None])
    return _run(plan, files, verbose=verbose, quiet=quiet, as_json=as_json)


def _must_be_possible(plan: Plan, files: list[str]) -> None:
    """Find out what can never work before a suite is run for an hour."""
    _lookup.must_be_there(plan.argv, {**os.environ, **plan.env})
    for path in files:
        _file.must_be_writable(path)
    if plan.isolated:
        from portlease import _isolate

        _isolate.require(low_ports=plan.low_ports, reach=plan.reach, outside=plan.outside)


def _run(
    plan: Plan, files: dict[str, str | None], *, verbose: bool, quiet: bool, as_json: bool
) -> int:
    from portlease._repeat import _report
    from portlease._repeat._crowd import Crowd
    from portlease.cli._repeated import Shown

    interrupted: _signals.Interrupted | None = None
    with _signals.interrupting(), _folder(plan.keep) as folder:
        shown = Shown(plan, shown=not quiet)
        crowd = Crowd(plan, folder, shown)
        try:
            with shown:
                crowd.run()
        except _signals.Interrupted as error:
            interrupted = error
        report = _report.of_crowd(crowd, whole=interrupted is None)
        if report.runs:
            _tell(report, verbose=verbose, as_json=as_json)
            _write(report, files)
    if interrupted is not None:
        raise interrupted
    return _status.NO if report.bad else _status.OK


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[str]:
    """Where the runs have their folders: the caller's, or one that is gone afterwards."""
    if keep is not None:
        try:
            os.makedirs(keep, exist_ok=True)
            is_empty = not os.listdir(keep)
        except OSError as error:
            raise click.UsageError(f"--keep {keep}: {error.strerror}") from error
        if not is_empty:
            raise click.UsageError(f"--keep {keep}: it is not empty")
        yield os.path.abspath(keep)
        return
    with _temporary.folder("r") as path:
        yield path


class _FileError(click.ClickException):
    """A file that was asked for cannot be written; the report has been told all the same."""

    exit_code = _status.FAILED


def _write(report: Report, files: dict[str, str | None]) -> None:
    from portlease._repeat import _merged, _pages, _trace

    writers = {"html": _pages.page_of, "trace": _trace.trace_of, "junit": _merged.merged}
    for what, path in files.items():
        if path is None:
            continue
        text = writers[what](report)
        try:
            _file.write_whole(path, text.encode("utf-8", "backslashreplace"))
        except UsageError as error:
            raise _FileError(error.message) from error


def _tell(report: Report, *, verbose: bool, as_json: bool) -> None:
    from portlease._repeat import _report

    if as_json:
        _say.write_json(_report.as_dict(report))
        return
    _say.table(_report.HEADINGS, _report.rows(report))
    if verbose:
        for number, run in enumerate(report.runs):
            if run.state != "passed":
                _say.tell_output(f"the output of {report.name(number)}", run.output)
    lines = ["", _report.headline(report), *map(_say.printable, _report.lines(report))]
    _say.write("\n".join(lines) + "\n")
    if report.alone_too:
        names = ", ".join(failure.test for failure in report.alone_too[:3])
        more = f" and {len(report.alone_too) - 3} more" if len(report.alone_too) > 3 else ""  # noqa: PLR2004
        _say.write(f"\nfailed alone too: {_say.printable(names)}{more}\n")
    for note in report.notes:
        _say.write(f"\nnote: {_say.printable(note)}\n")
