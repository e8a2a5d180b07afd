"""``portlease audit``: every bind of a command and of all that it starts, and what is wrong."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from portlease import _trail
from portlease._audit import _report, _run, _verdicts
from portlease._findings import _baseline, _file, _rules, _sarif
from portlease.cli import _foreground, _lookup, _options, _say, _signals, _status, _temporary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from portlease._audit._report import Audit
    from portlease._trail import Event

_TOOL: Final = "portlease audit"
_HELP = """\
Run CMD, and tell which ports it and all that it starts have bound, where the numbers came from,
and what to do about it.

\b
  portlease audit -- pytest -n 4
  portlease audit --strict --baseline ports.json -- npm test
  portlease audit --json -- ./run-tests.sh | jq '.findings[].path'
  portlease audit --sarif ports.sarif --html ports.html -- make check

Whatever it is written in (Linux): the kernel is asked to stop each bind(2) and listen(2) until we
have seen it. Of Python programs file and line are told as well, of pytest the test. CMD has our
terminal, its exit status is ours, and what it leaves running when it ends is ended.

\b
PL001 hard-coded-port   error    bound by a number nobody leased or found
PL003 unheld-free-port  warning  found free, and let go of before its use
PL004 reused-address    note     SO_REUSEADDR/-PORT on a test's TCP socket
PL005 every-interface   note     a server that is not on loopback alone

`# portlease: allow` on a line of Python, or allow[PL001], allows it; so does a baseline.

Without CAP_SYS_ADMIN the kernel does this only together with no_new_privs: sudo, su and other
setuid programs have no power in CMD then. --only-python does without all of it: it sees what
Python programs bind, by a hook in each of them, and nothing else does it see. That is also what is
done, and said, where the kernel refuses.

Exit status: CMD's own. With --strict, where CMD ended with 0: 1 if there are errors or warnings
that the baseline does not know. 125 if it ended before it could be watched.
"""


@click.command("audit", help=_HELP, short_help="Tell which ports a command binds, and why.")
@click.option("--strict", is_flag=True, help="Exit status 1 if there are errors or warnings.")
@click.option(
    "--baseline",
    "baseline_path",
    metavar="FILE",
    help="What is known, and therefore not told of again.",
)
@click.option(
    "--write-baseline", is_flag=True, help="Write what is found now to the --baseline file."
)
@click.option("--select", metavar="RULES", multiple=True, help="These rules alone: PL001,PL003.")
@click.option("--ignore", metavar="RULES", multiple=True, help="All rules but these.")
@_options.as_json
@click.option("--sarif", metavar="FILE", help="Write the findings in SARIF 2.1.0, for code hosts.")
@click.option("--html", metavar="FILE", help="Write a page: the findings, and all ports over time.")
@click.option("--trail", metavar="FILE", help="Keep what was seen, a line of JSON an event.")
@click.option("--only-python", is_flag=True, help="Without seccomp: see Python's binds alone.")
@click.option("-q", "--quiet", is_flag=True, help="Tell of findings alone, and of nothing else.")
@click.argument("words", nargs=-1, metavar="-- CMD...")
def command(  # noqa: PLR0913 - its options
    *,
    strict: bool,
    baseline_path: str | None,
    write_baseline: bool,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    as_json: bool,
    sarif: str | None,
    html: str | None,
    trail: str | None,
    only_python: bool,
    quiet: bool,
    words: tuple[str, ...],
) -> int:
    """Run it, watch it, and judge."""
    _options.must_be_given(words)
    if write_baseline and baseline_path is None:
        raise click.UsageError("--write-baseline needs --baseline FILE: where to")
    codes = _chosen(select, ignore)
    known = _baseline.Baseline()
    if baseline_path is not None and not write_baseline:
        known = _baseline.read(baseline_path)  # one that is damaged is told of before the run
    if trail is not None:
        _file.must_be_named(trail)  # it is made before the command starts
    for path in (sarif, html, baseline_path if write_baseline else None):
        if path is not None:
            _file.must_be_writable(path)
    audit = _judged(_watch(words, trail, only_python=only_python, as_json=as_json), codes, known)
    # First told, then written: the disk may be full, and the run has taken its time.
    if as_json:
        _say.write_json(_report.as_dict(audit))
        if audit.is_unseen:
            _tell_end(audit)
    else:
        _tell(audit, quiet=quiet)
    with _signals.interrupting():
        _write(audit, sarif=sarif, html=html, baseline=baseline_path if write_baseline else None)
    bad = any(verdict.level != "note" for verdict in audit.verdicts)
    if strict and bad and not write_baseline and audit.status == _status.OK:
        return _status.NO
    return audit.status


def _write(audit: Audit, *, sarif: str | None, html: str | None, baseline: str | None) -> None:
    """Write the files; where nothing was seen, none that others would take for a clean audit."""
    findings = [verdict.finding for verdict in audit.verdicts]
    if audit.is_unseen:
        for path in filter(None, (sarif, baseline)):
            _say.say(f"{path} is not written")
        sarif = baseline = None
    if sarif is not None:
        _sarif.write(sarif, findings, tool=_TOOL)
    if html is not None:
        from portlease._page import page

        _file.write_whole(html, page(_report.page_data(audit)).encode())
    if baseline is not None:
        count = _baseline.write(baseline, findings)
        _say.say(f"{baseline} now knows {count} finding{'s' * (count != 1)}")


def _chosen(select: Sequence[str], ignore: Sequence[str]) -> frozenset[str]:
    try:
        return _rules.chosen(
            *([word for part in words for word in part.split(",")] for words in (select, ignore))
        )
    except KeyError as error:
        known = ", ".join(_rules.RULES)
        raise click.UsageError(f"there is no rule {error.args[0]!r}; there are {known}") from None


# --- the run --------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """A run that has ended, not judged yet."""

    command: tuple[str, ...]
    status: int
    events: list[Event]
    notes: list[str]
    begun: int
    ended: int
    started: float
    is_unseen: bool


def _watch(words: tuple[str, ...], trail: str | None, *, only_python: bool, as_json: bool) -> _Seen:
    env = dict(os.environ)
    _lookup.must_be_there(words, env)
    started = time.time()
    with _signals.interrupting(), _trail_file(trail) as path:
        begun = time.monotonic()
        # A signal that comes while the command starts is for the command.
        before = _signals.hold_back()
        try:
            watched = _run.Watched(
                words,
                env,
                trail=path,
                only_python=only_python,
                # Our standard output is the document's then, so the command gets our other one.
                output=sys.stderr.fileno() if as_json else None,
            )
        except BaseException:
            _signals.let_go(before)
            raise
        with watched:
            if watched.unobserved is not None and not only_python:
                _say.say(_why_unobserved(watched))
            status = _foreground.see_out(watched.process, begun, before, ports=())
        ended = _trail.now()
        events = watched.events()
    notes = [_why_unobserved(watched)] if watched.unobserved is not None else []
    if watched.is_unseen:
        returncode = watched.process.wait()
        notes.append(_why_unseen(returncode))
        status = status if returncode < 0 else _status.FAILED
    return _Seen(
        words,
        status,
        events,
        [*notes, *watched.troubles],
        watched.begun,
        ended,
        started,
        watched.is_unseen,
    )


def _why_unobserved(watched: _run.Watched) -> str:
    text = f"only what Python programs bind is seen: {watched.unobserved}"
    return text if watched.remedy is None else f"{text}; {watched.remedy}"


def _why_unseen(returncode: int) -> str:
    how = f"exit status {returncode}" if returncode >= 0 else f"signal {-returncode}"
    return (
        f"the command ended ({how}) before it could be watched: nothing of it was run, nothing was "
        "seen; --only-python does without the observer"
    )


@contextlib.contextmanager
def _trail_file(given: str | None) -> Iterator[str]:
    """The path of the trail; in a folder that goes with us, unless it is to be kept."""
    if given is not None:
        yield os.path.abspath(given)
        return
    with _temporary.folder("trail") as path:
        yield os.path.join(path, "trail.jsonl")


def _judged(seen: _Seen, codes: frozenset[str], known: _baseline.Baseline) -> Audit:
    root = os.getcwd()
    every = _verdicts.verdicts(seen.events, root=root, codes=codes)
    new, old = known.sort_out([verdict.finding for verdict in every])
    gone = known.gone([verdict.finding for verdict in every])
    by_finding = {verdict.finding: verdict for verdict in every}
    return _report.Audit(
        command=seen.command,
        status=seen.status,
        events=seen.events,
        verdicts=[by_finding[finding] for finding in new],
        known=len(old),
        gone=len(gone),
        notes=seen.notes,
        begun=seen.begun,
        ended=seen.ended,
        started=seen.started,
        root=root,
        is_unseen=seen.is_unseen,
    )


# --- for people -----------------------------------------------------------------------------------


def _tell(audit: Audit, *, quiet: bool) -> None:
    """The table, the findings, and a last line."""
    rows = _report.rows(audit.events, audit.root)
    if rows and not quiet:
        shown = [[_say.printable(cell) for cell in row] for row in rows[:_MOST_ROWS]]
        _say.table(_report.HEADINGS, shown, stderr=True)
        if len(rows) > _MOST_ROWS:
            _say.tell(f"... and {len(rows) - _MOST_ROWS} more; --html shows all")
    for line in (line for verdict in audit.verdicts for line in _report.lines(verdict)):
        _say.tell(_say.printable(line))
    if audit.is_unseen or not quiet:
        _tell_end(audit)


def _tell_end(audit: Audit) -> None:
    for note in audit.notes:
        _say.say(note)
    _say.say(_report.headline(audit))


_MOST_ROWS: Final = 40
