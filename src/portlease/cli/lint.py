"""``portlease lint``: hard-coded ports in the text of tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from portlease.cli import _options, _say, _status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Final

    from portlease._findings._baseline import Baseline
    from portlease._findings._finding import Finding
    from portlease._lint._fix import Fixed

_HELP = """\
Find what ties tests to ports in their text: no test is run, nothing is opened.

\b
  portlease lint                           the tests below this folder
  portlease lint tests/test_server.py
  portlease lint --diff tests              what --fix would write
  portlease lint --baseline ports.json --write-baseline
  git show :tests/test_x.py | portlease lint -

\b
{rules}

Looked at are Python files of tests: test_*.py, *_test.py, conftest.py, and all below a folder
called tests, test or testing; --all takes every Python file, and a file that is named itself is
always looked at. Not looked into: .git, .venv, .tox, build, node_modules and their like.

A comment `# portlease: allow[PL001] why` allows the statement that it stands in, or the one below
it; `# portlease: allow-file` the file.

Exit status: 0 nothing found, 1 something found (of --diff: something to fix), 2 a wrong call.
"""
_STDIN: Final = "-"
_STDIN_NAME: Final = "<stdin>"
_STYLES: Final = {"error": "red", "warning": "yellow", "note": "cyan"}


def _help() -> str:
    import textwrap

    from portlease._findings import _rules

    lines = []
    for rule in _rules.RULES.values():
        head = f"{rule.code}  {rule.name:<17}  "
        lines += textwrap.wrap(head + rule.summary, 76, subsequent_indent=" " * len(head))
    return _HELP.format(rules="\n".join(lines))


class _Command(click.Command):
    """Its help has the rules' table, which is loaded when it is asked for."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.help = _help()
        super().format_help_text(ctx, formatter)


@click.command("lint", cls=_Command, short_help="Find hard-coded ports in tests, without a run.")
@click.argument("paths", nargs=-1, metavar="[PATHS]...")
@click.option("--select", metavar="RULES", help="Look for these alone: PL001,PL003 or their names.")
@click.option("--ignore", metavar="RULES", help="Do not look for these.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out files or folders.")
@click.option("--all", "every", is_flag=True, help="Every Python file, not those of tests alone.")
@click.option("--fix", is_flag=True, help="Rewrite the plain cases of pytest tests to leased_port.")
@click.option("--diff", is_flag=True, help="Show what --fix would write, and write nothing.")
@click.option("--baseline", metavar="FILE", help="Findings that are known, and not told again.")
@click.option("--write-baseline", is_flag=True, help="Write what is found to --baseline's file.")
@click.option("--sarif", metavar="FILE", help="Write the findings for code hosts: SARIF 2.1.0.")
@click.option("--stdin-filename", metavar="NAME", help="What standard input (-) is called.")
@_options.as_json
def command(  # noqa: PLR0913 - an argument for each option
    *,
    paths: tuple[str, ...],
    select: str | None,
    ignore: str | None,
    exclude: tuple[str, ...],
    every: bool,
    fix: bool,
    diff: bool,
    baseline: str | None,
    write_baseline: bool,
    sarif: str | None,
    stdin_filename: str | None,
    as_json: bool,
) -> int:
    """Look, and tell."""
    from portlease._findings import _baseline, _sarif
    from portlease._lint import _files, _run

    codes = _chosen(select, ignore)
    _check(
        {"--write-baseline": write_baseline, "--baseline": baseline, "--fix": fix, "--diff": diff,
         "--json": as_json, "--sarif": sarif, "-": _STDIN in paths, "further paths": paths[1:]}
    )  # fmt: skip
    known = _baseline.read(baseline) if baseline and not write_baseline else None
    if _STDIN in paths:
        files, read = [stdin_filename or _STDIN_NAME], _read_stdin()
    else:
        files, read = list(_files.collect(paths or (".",), _files.Choice(exclude, every))), None
    if diff:
        return _show_diff(_fix(files, codes, read, write=False))
    if fix:
        _fix(files, codes, read, write=True)
    looked = _run.look(files, codes, read=read)
    if write_baseline:
        return _write_baseline(baseline, looked.findings)
    findings, old = _sort_out(known, looked.findings)
    if sarif is not None:
        _sarif.write(sarif, findings, tool="portlease lint")
    if as_json:
        _say.write_json(_as_dict(findings, old, looked.files))
    else:
        _tell(findings, old, looked.files)
    return _status.NO if findings else _status.OK


_CONFLICTS: Final = (
    ("--write-baseline", "--fix", "--write-baseline says what is left: give it after --fix"),
    ("--write-baseline", "--diff", "--write-baseline says what is left: give it after --fix"),
    ("--fix", "--diff", "--fix writes and --diff does not: give one of them"),
    ("--diff", "--json", "--diff writes no findings: leave --json out"),
    ("--diff", "--sarif", "--diff writes no findings: leave --sarif out"),
    ("-", "further paths", "- is standard input, which stands alone"),
    ("-", "--fix", "- is standard input, which cannot be rewritten; --diff shows what would be"),
)


def _check(given: Mapping[str, object]) -> None:
    if given["--write-baseline"] and not given["--baseline"]:
        raise click.UsageError("--write-baseline needs --baseline FILE, which it writes")
    for one, other, what in _CONFLICTS:
        if given[one] and given[other]:
            raise click.UsageError(what)


def _write_baseline(path: str | None, findings: Sequence[Finding]) -> int:
    from portlease._findings import _baseline

    assert path is not None  # noqa: S101 - checked above
    count = _baseline.write(path, findings)
    _say.say(f"{_findings(count)} written to {path}; give it with --baseline from now on")
    return _status.OK


def _sort_out(
    known: Baseline | None, findings: list[Finding]
) -> tuple[list[Finding], list[Finding]]:
    """The new findings and the old ones; says how many of the baseline are gone."""
    if known is None:
        return findings, []
    gone = sum(entry.times for entry in known.gone(findings))
    if gone:
        are = "1 finding of the baseline is" if gone == 1 else f"{gone} of the baseline are"
        _say.say(f"{are} no longer there; --write-baseline forgets what is gone")
    return known.sort_out(findings)


def _chosen(select: str | None, ignore: str | None) -> frozenset[str]:
    from portlease._findings import _rules

    try:
        return _rules.chosen(_words(select), _words(ignore))
    except KeyError as error:
        names = ", ".join(f"{rule.code} ({rule.name})" for rule in _rules.RULES.values())
        raise click.UsageError(f"there is no rule {error.args[0]}; there are {names}") from None


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _read_stdin() -> Callable[[str], bytes]:
    data = sys.stdin.buffer.read()
    return lambda _: data


# --- fixing -------------------------------------------------------------------------------------


def _fix(
    files: Sequence[str],
    codes: frozenset[str],
    read: Callable[[str], bytes] | None,
    *,
    write: bool,
) -> list[Fixed]:
    from portlease._lint import _fix, _run

    fixed = _fix.fix(files, codes, read=read or _run.read_file, write=write)
    for one in fixed:
        for refusal in one.refused:
            _say.say(f"not rewritten: {refusal}")
    changed = [one for one in fixed if one.tests]
    if changed:
        tests = sum(one.tests for one in changed)
        where = "1 file" if len(changed) == 1 else f"{len(changed)} files"
        did = "rewrote" if write else "would rewrite"
        _say.say(f"{did} {tests} {'test' if tests == 1 else 'tests'} in {where}")
    else:
        _say.say("nothing that --fix can rewrite")
    return fixed


def _show_diff(fixed: Sequence[Fixed]) -> int:
    for one in fixed:
        if one.tests:
            _say.write(one.diff())
    return _status.NO if any(one.tests for one in fixed) else _status.OK


# --- telling ------------------------------------------------------------------------------------


def _tell(findings: Sequence[Finding], old: Sequence[Finding], files: int) -> None:
    if sys.stdout.isatty():
        _show(findings)
    else:
        _say.write("".join(f"{_line(finding)}\n" for finding in findings))
    _summarize(findings, old, files)


def _line(finding: Finding) -> str:
    """One finding on a line, as editors read it."""
    return f"{_say.printable(finding.place)}: {finding.code} {_text(finding)}"


def _text(finding: Finding) -> str:
    return f"{_say.printable(finding.message)}; {finding.remedy}"


def _as_dict(findings: Sequence[Finding], old: Sequence[Finding], files: int) -> dict[str, object]:
    from portlease._findings import _rules

    return {
        "files": files,
        "known": len(old),
        "findings": [
            {
                **finding._asdict(),
                "rule": _rules.RULES[finding.code].name,
                "level": _rules.RULES[finding.code].level,
            }
            for finding in findings
        ],
    }


def _show(findings: Sequence[Finding]) -> None:
    """By file, for a person."""
    import itertools

    from rich.text import Text

    from portlease._findings import _rules

    console = _say.console()
    for path, group in itertools.groupby(findings, key=lambda finding: finding.path):
        console.print(Text(_say.printable(path), style="bold underline"))
        remedy = ""
        for finding in group:
            if remedy and finding.remedy != remedy:
                console.print(Text(f"         {remedy}", style="dim"))
            remedy = finding.remedy
            place = f"{finding.line or ''}:{finding.column or ''}".strip(":")
            line = Text(f"  {place:>7}  ", style="bold")
            line.append(finding.code, style=_STYLES[_rules.RULES[finding.code].level])
            line.append(f"  {_say.printable(finding.message)}", style="not bold")
            console.print(line, soft_wrap=True)
        console.print(Text(f"           {remedy}\n", style="dim"), soft_wrap=True)


def _findings(count: int) -> str:
    return "1 finding" if count == 1 else f"{count} findings"


def _summarize(findings: Sequence[Finding], old: Sequence[Finding], files: int) -> None:
    looked = "1 file" if files == 1 else f"{files} files"
    known = f", {len(old)} known" if old else ""
    if findings:
        where = len({finding.path for finding in findings})
        _say.say(f"{_findings(len(findings))} in {where} of {looked}{known}")
    elif files == 0:
        _say.say("no Python files of tests here; name them, or say --all")
    else:
        _say.say(f"nothing found in {looked}{known}")
