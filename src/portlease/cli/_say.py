"""How the command line speaks: numbers and JSON to standard output, sentences to standard error.

A terminal gets colours and tables by rich; a pipe gets plain lines. NO_COLOR, FORCE_COLOR and
TERM=dumb are heeded (rich does so by itself).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import TYPE_CHECKING

import click

from portlease.cli import _status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Final, TextIO

    from rich.console import Console
    from rich.table import Table

_PREFIX: Final = "portlease: "
_STDOUT: Final = 1
_STDERR: Final = 2

# Errors speak to a caller of the library; here, its options are called otherwise.
_SPOKEN: Final = (
    ("leave how= out, or say ", "leave --how out, or say "),
    ("ask for it by how=", "ask for it by --how hand-over"),
    (
        "give it more time (timeout_s=), or another ready=",
        "give it more time (--timeout), or another --ready",
    ),
    (" by itself; restart() starts it again", " by itself"),
    ("name in wait_for= those", "name with --wait-for those"),
    ("in its command or in env=", "in its command or in --env"),
    ("wait_for= names", "--wait-for names"),
    ("(stop_timeout_s=) or another signal (stop_signal=)", "(--stop-timeout)"),
    ("give it more time: timeout_s=", "give it more time: --timeout"),
    ("name other ports, or lease any with portlease.lease()", "or leave --ports out"),
    ("take another port with portlease.lease()", "`portlease get` gives another port"),
    ("ports= ", "--ports "),
    ("give another cwd=", "give another directory"),
)


_HOW: Final = re.compile(r"\bhow='([a-z-]+)'")


def for_the_command_line(text: str) -> str:
    """An error's text, with the options as they are called on the command line."""
    text = _HOW.sub(r"--how \1", text)
    for library, here in _SPOKEN:
        text = text.replace(library, here)
    return text


def open_standard_streams() -> None:
    """Make sure that there are three, and that they can write whatever others' labels hold.

    Where one was closed, its number would go to the next pipe or socket that we open, and a command
    would inherit that for its own. It gets /dev/null.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)  # noqa: FBT003 - positional-only
    os.close(fd)
    for name, number in (("stdout", _STDOUT), ("stderr", _STDERR)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not if a test has put its own there
            stream.reconfigure(errors="backslashreplace")


# --- standard output ----------------------------------------------------------------------------


class OutputError(click.ClickException):
    """Standard output cannot be written to: a full disk, say."""

    exit_code = _status.FAILED


class NobodyReadsError(Exception):
    """The reader of our output has gone. No OSError: click would end with status 1 for that."""


def write(text: str) -> None:
    """Write *text* to standard output, at once, so that a reader in a pipe sees it now.

    Raises:
        NobodyReadsError: nobody reads it any more.
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        _discard(sys.stdout)
        raise NobodyReadsError from error
    except OSError as error:
        _discard(sys.stdout)
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def write_numbers(numbers: Sequence[int]) -> None:
    """Write *numbers*, one a line."""
    write("".join(f"{number}\n" for number in numbers))


def write_json(value: object) -> None:
    """Write one JSON document: indented for a person at a terminal, on one line for a pipe."""
    write(json.dumps(value, indent=2 if sys.stdout.isatty() else None) + "\n")


def flush() -> None:
    """Write out what click has left in the buffer, here, where a broken pipe can be caught."""
    write("")


def _discard(stream: TextIO) -> None:
    """Send what is left in a stream's buffer nowhere: the interpreter's end would stumble on it."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    finally:
        os.close(null)


# --- standard error -----------------------------------------------------------------------------


def say(text: str) -> None:
    """Tell the person at standard error, with a first line that says who speaks."""
    first, *rest = text.splitlines() or [""]
    tell("\n".join([_PREFIX + first, *(f"  {line}" for line in rest)]))


class _Screen:
    console: Console | None = None


@contextlib.contextmanager
def drawing(console: Console) -> Iterator[None]:
    """While something moves on this console: what is told meanwhile is written above it."""
    _Screen.console = console
    try:
        yield
    finally:
        _Screen.console = None


def tell(text: str) -> None:
    """Write *text* and a newline to standard error; where nobody can be told, nobody is."""
    if (console := _Screen.console) is not None:
        console.print(text, soft_wrap=True)
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        _discard(sys.stderr)


def tell_json(value: object) -> None:
    """Write one line of JSON to standard error."""
    tell(json.dumps(value))


def tell_output(whose: str, output: str) -> None:
    """Show what a process wrote, as it is, under a line that says whose it is."""
    if output.strip():
        say(f"{whose}:")
        tell(output.rstrip("\n"))
    else:
        say(f"{whose}: it wrote nothing")


def ports(numbers: Mapping[str, object]) -> str:
    """Ports and paths for a person: ``12345 (admin 23456)``."""
    named = ", ".join(f"{name} {number}" for name, number in numbers.items() if name != "port")
    return f"{numbers['port']}" + (f" ({named})" if named else "")


def usage_error(error: click.UsageError) -> int:
    """Tell of a wrong call in one line, and where to read how it goes."""
    path = error.ctx.command_path if error.ctx is not None else "portlease"
    message = error.format_message()
    tell(f"{path}: {message[:1].lower()}{message[1:].rstrip('.')}")
    tell(f"Try '{path} --help'.")
    return _status.USAGE


def show_warning(  # noqa: PLR0913, PLR0917 - the signature of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning in a sentence, without the line of Python that it came from."""
    del category, filename, lineno, file, line
    say(for_the_command_line(str(message)))


# --- terminals ----------------------------------------------------------------------------------


def console(*, stderr: bool = False) -> Console:
    """A rich console on standard output, or on standard error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def printable(text: str) -> str:
    """*text* with its control characters escaped: others' labels may write to our terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, stderr: bool = False) -> None:
    """A table: by rich on a terminal, aligned with blanks in a pipe.

    Columns in which every cell is a number are aligned to the right.
    """
    if (sys.stderr if stderr else sys.stdout).isatty():
        console(stderr=stderr).print(rich_table(headings, rows))
    elif stderr:
        tell(plain_table(headings, rows))
    else:
        write(plain_table(headings, rows) + "\n")


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as text."""
    columns = list(zip(headings, *rows, strict=True))
    numeric = _numeric(rows)
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in (headings, *rows)
    )


def rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The table for a terminal: long columns give way, the last one by being cut."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(zip(headings, *rows, strict=True))
    for heading, column, right in zip(headings, columns, _numeric(rows), strict=True):
        shown.add_column(
            heading,
            justify="right" if right else "left",
            min_width=len(heading),
            no_wrap=max(map(len, column)) <= _SHORT,
            overflow="fold",
        )
    for *row, last in rows:
        cells = [Text(cell, style=_STYLES.get(cell, "")) for cell in row]
        cut = Text(last, style=_STYLES.get(last, ""), no_wrap=True, overflow="ellipsis")
        shown.add_row(*cells, cut)
    return shown


_SHORT: Final = 12
"""How long the cells of a column may be that never gives way."""


def _numeric(rows: Sequence[Sequence[str]]) -> list[bool]:
    return [all(map(_is_number, column)) for column in zip(*rows, strict=True)]


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "", 1).isdecimal()


_STYLES: Final = {
    "OFFERED": "green",
    "HELD": "green",
    "GUARDED": "yellow",
    "HANDED_OVER": "cyan",
    "ok": "green",
    "ready": "cyan",
    "client": "cyan",
    "stopped": "yellow",
    "failed": "red",
}
