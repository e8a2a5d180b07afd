"""Options and argument types that several commands have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from portlease import _pool
from portlease._server import _template
from portlease.cli import _names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, TypeAlias, TypeVar

    from portlease._server._command import How

    AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
    Option: TypeAlias = Callable[[AnyFunction], AnyFunction]
    Numbers: TypeAlias = click.ParamType[tuple[int, ...]]
    Text: TypeAlias = click.ParamType[str]
    Pair: TypeAlias = click.ParamType[tuple[str, str]]
else:
    # Before click 8.4 the class takes no type arguments.
    Numbers = Text = Pair = click.ParamType


class WholeNumber(click.IntRange):
    """As click's, which would call it an "integer range"."""

    name = "whole number"


class Seconds(click.FloatRange):
    """As click's, which would call it a "float range"."""

    name = "number of seconds"


class PortNumber(click.IntRange):
    """A port number, completed from the live leases."""

    name = "port"

    def __init__(self) -> None:
        super().__init__(1, _pool.MAX_PORT)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """As click does it; of a pasted ``localhost:8080`` it says what to leave out."""
        given: Any = value
        before, colon, number = str(value).rpartition(":")
        if colon and number.strip("/").isdecimal():
            self.fail(f"{value!r} is no number; leave out {before + colon!r}", param, ctx)
        return int(super().convert(given, param, ctx))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """The ports that are leased now."""
        del ctx, param
        from click.shell_completion import CompletionItem

        from portlease import _registry

        return [
            CompletionItem(str(row.port), help=row.label)
            for row in _registry.rows()
            if str(row.port).startswith(incomplete)
        ]


class PortList(Numbers):
    """Numbers and ranges, ``8000-8099,9000``, as a tuple of numbers."""

    name = "ports"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Raise what click shows for anything else."""
        if isinstance(value, tuple):
            return value
        text = str(value)
        # Numbers that are no ports are refused before a range is made of them.
        if any(len(digits) > 5 for digits in text.replace(",", "-").split("-")):  # noqa: PLR2004
            self.fail(f"{text!r} names no ports: they go to {_pool.MAX_PORT}", param, ctx)
        try:
            ports = _pool.parse_port_list(text)
        except ValueError as error:
            self.fail(f"{text!r} is no list of ports, such as 8000-8099,9000: {error}", param, ctx)
        if not ports or not 0 < min(ports) <= max(ports) <= _pool.MAX_PORT:
            self.fail(f"{text!r} names no ports from 1 to {_pool.MAX_PORT}", param, ctx)
        return tuple(sorted(ports))


class Offsets(Numbers):
    """Numbers, ``0,10000``, as a tuple."""

    name = "offsets"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Raise what click shows for anything else."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(word.isascii() and word.isdecimal() for word in words):
            self.fail(f"{value!r} is no list of offsets, such as 0,10000", param, ctx)
        # int() itself refuses thousands of digits, with an error of its own.
        if any(len(word) > 5 for word in words):  # noqa: PLR2004
            self.fail(f"there are ports to {_pool.MAX_PORT}, and no further", param, ctx)
        return tuple(int(word) for word in words)


class PortName(Text):
    """The name of a port in templates; in upper case, that of its variable too."""

    name = "name"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Raise what click shows for anything else."""
        text = str(value)
        if text.isdecimal():
            main = "--udp port " if param is not None and param.name == "udp_names" else ""
            self.fail(
                f"{text} is a number, and this takes the name of a further port; to run on port "
                f"{text} itself: {main}--ports {text}",
                param,
                ctx,
            )
        if not _template.is_name(_names.in_lower_case(text)):
            self.fail(
                f"{text!r} cannot name a port: use lower-case letters, digits and _, beginning "
                f"with a letter, and none of {', '.join(sorted(_template.RESERVED))}; or a name "
                "all in upper case, which is its variable's too",
                param,
                ctx,
            )
        return text


class Assignment(Pair):
    """``NAME=VALUE``, as a pair."""

    name = "name=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Raise what click shows for anything else."""
        if isinstance(value, tuple):
            return value
        name, sign, text = str(value).partition("=")
        if not name or not sign:
            self.fail(f"{value!r} is no NAME=VALUE", param, ctx)
        return name, text


class MayCommand(click.Command):
    """One that may do without a command, but not with an empty one, as ``-- $CMD`` may be."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, which forgets that there was a ``--``."""
        if "--" in args and args.index("--") == len(args) - 1:
            raise click.UsageError("there is no command after --; leave -- out, or name one", ctx)
        return super().parse_args(ctx, args)


def must_be_given(words: Sequence[str]) -> None:
    """Refuse a command line that ends where its command should begin.

    Raises:
        click.UsageError: there are no words.
    """
    if not words:
        raise click.UsageError("there is no command; it comes last: -- COMMAND ARGS...")


def a_number(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse what `click.FloatRange` lets through: NaN, which is outside of no range."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("that is no number of seconds", ctx, param)
    return value


def count(what: str) -> Option[Any]:
    """``-n N``."""
    return click.option(
        "-n", "n", type=WholeNumber(min=1), default=1, show_default=True, metavar="N", help=what
    )


def kind(function: AnyFunction) -> AnyFunction:
    """``--udp`` and ``--both``; TCP without them. The last one counts."""
    both = click.option("--both", "kind", flag_value="both", help="TCP and UDP on one number.")
    udp = click.option("--udp", "kind", flag_value="udp", help="UDP instead of TCP.")
    return udp(both(function))


def where(function: AnyFunction) -> AnyFunction:
    """``--host`` and ``--ports``."""
    host = click.option(
        "--host",
        metavar="HOST",
        help="Lease the port on this address alone; by default on every address.",
    )
    ports = click.option(
        "--ports",
        type=PortList(),
        metavar="LIST",
        help="Take only these, such as 8000-8099,9000; by default any outside the range that the "
        "system itself gives ports from.",
    )
    return host(ports(function))


def label(function: AnyFunction) -> AnyFunction:
    """``--label``."""
    return click.option(
        "--label", metavar="TEXT", help="What `portlease ls` and errors call the lease."
    )(function)


def block(function: AnyFunction) -> AnyFunction:
    """``--block`` and ``--offsets``."""
    consecutive = click.option("--block", is_flag=True, help="N consecutive ports.")
    offsets = click.option(
        "--offsets",
        type=Offsets(),
        metavar="LIST",
        help="N consecutive ports at each of these distances, such as 0,10000; implies --block.",
    )
    return consecutive(offsets(function))


def as_json(function: AnyFunction) -> AnyFunction:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="For programs: JSON.")(function)


_MEANS: Final[dict[How, str]] = {
    "offer": "keep the hold beside a server that sets SO_REUSEADDR",
    "step-aside": "free the port for any server, and guard it against other leases",
    "broker": "have its bind(2) done for it while the hold stays (Linux)",
    "hand-over": "give it the listening socket: LISTEN_FDS, or {fd} in its arguments",
}


def how(function: AnyFunction) -> AnyFunction:
    """``--how`` for what is only held: there is no server to do more for."""
    return _how(function, ("offer", "step-aside"))


def any_how(function: AnyFunction) -> AnyFunction:
    """``--how`` for a server."""
    return _how(function, tuple(_MEANS), " By default the best that costs it nothing.")


def _how(function: AnyFunction, means: tuple[How, ...], more: str = "") -> AnyFunction:
    told = "; ".join(f"{one}: {_MEANS[one]}" for one in means)
    return click.option(
        "--how",
        type=click.Choice(means),
        metavar="MEANS",
        help=f"How it gets its port. {told}.{more}",
    )(function)
