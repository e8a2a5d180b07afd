"""Why a start failed: the error, with the fact, the culprit and the remedy."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from portlease import _pool
from portlease._errors import ServerDiedError, ServerTimeoutError
from portlease._server import _ready, _template
from portlease._server._awaited import ListeningAwaited

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

    from portlease._errors import ServerError
    from portlease._lease import Lease
    from portlease._server._attempt import Attempt
    from portlease._server._command import Command


def error(attempt: Attempt, earlier: Sequence[Attempt]) -> ServerError:
    """The error for a start that failed, and for those before it."""
    if attempt.outcome == "died":
        return _died(attempt, earlier)
    return _late(attempt, earlier)


def _died(attempt: Attempt, earlier: Sequence[Attempt]) -> ServerDiedError:
    command = attempt.command
    lines = [f"{command.program} {_ready.how_ended(attempt.returncode)} before it listened"]
    lines[0] += f" on {_and(one.place for one in attempt.missing)}"
    lines += _tried_before(attempt, earlier)
    lines += attempt.troubles
    lines += _about_the_port(attempt)
    lines += _last_output(attempt)
    return ServerDiedError(
        "\n".join(lines),
        argv=attempt.argv,
        returncode=attempt.returncode,
        output=attempt.said(),
        ports=attempt.ports,
        how=attempt.means.how,
    )


_PORT: Final = re.compile(r"(?<![\d.])[1-9]\d{3,4}(?![\d.])")
"""What may be a port in a command, and neither a small number nor a part of another."""
_LOOKED_UP: Final = 10


def _late(attempt: Attempt, earlier: Sequence[Attempt]) -> ServerTimeoutError:
    command = attempt.command
    unhanded = [one for one in attempt.missing if isinstance(one, ListeningAwaited)]
    lines = [f"{command.program} runs, but after {attempt.waited_s:g} s does not listen on "]
    lines[0] += _and(one.place for one in attempt.missing)
    leased = attempt.ports.values()
    elsewhere = {port for port in attempt.elsewhere if port not in leased}
    if elsewhere:
        lines[0] += f"; it listens on {_ready.sorted_ports(elsewhere)} instead"
    lines += _tried_before(attempt, earlier)
    if attempt.means.plan is not None and len(unhanded) < len(attempt.missing):
        lines.append(attempt.means.plan.hint)
    written = _written(command, elsewhere, attempt.missing[0].name)
    lines += written
    if elsewhere and not written:
        lines.append(
            "does it take its port from {port} in its arguments, or from PORT in its environment?"
        )
    partly = _partly(attempt)
    lines += partly
    lines += [] if written else _never_named(attempt)
    lines += attempt.troubles
    lines += _about_the_port(attempt)
    lines += _last_output(attempt)
    if not elsewhere and not partly and not command.suspicious():
        lines.append(
            "if it only needs longer, give it more time: timeout_s="
            + "; if it binds without SO_REUSEADDR, and waits in silence for the lease to go: "
            "how='step-aside'" * (attempt.means.how == "offer" and not attempt.stepped_aside)
        )
    return ServerTimeoutError(
        "\n".join(lines),
        argv=attempt.argv,
        timeout_s=command.timeout_s,
        output=attempt.said(),
        ports=attempt.ports,
        missing=tuple(one.name for one in attempt.missing),
        listening=tuple(sorted(attempt.elsewhere)),
        how=attempt.means.how,
    )


def _partly(attempt: Attempt) -> list[str]:
    return [
        f"on port {one.lease.port} it listens on {_and(x.address for x in one.found)} only, "
        f"and the lease is for {one.lease.scope}: tell it to bind {{host}}, or lease the port "
        "where it binds"
        for one in attempt.missing
        if isinstance(one, ListeningAwaited) and one.found
    ]


def _written(command: Command, elsewhere: Iterable[int], name: str) -> list[str]:
    """Where the command says a number that the server listens on, and should have said *name*."""
    found = []
    for port in sorted(elsewhere):
        number = re.compile(rf"(?<!\d){port}(?!\d)")
        places = ["its arguments"] * any(map(number.search, command.args[1:]))
        places += [f"its variable {var}" for var, at in command.env.items() if number.search(at)]
        if places:
            found.append(f"{port} stands in {_and(places)}: write {{{name}}} in its place")
    return found


def _never_named(attempt: Attempt) -> list[str]:
    named = attempt.command.named()
    named |= {port for name in named if (port := _template.port_of_fd(name)) is not None}
    # {prt}, say: where {port} itself is not used, another name may have been meant for it.
    others = set() if _template.PORT in named else named & attempt.ports.keys()
    others -= attempt.command.kinds.keys()
    meant = attempt.command.suspicious()
    return [
        f"{{{name}}} is another port, {attempt.ports[name]}"
        + "; if it was meant for the main one, write {port}" * (name in meant)
        for name in sorted(others)
    ] + [
        f"nothing in its command or in env= has {{{one.name}}} in it, so it knows that port "
        f"from its environment alone; if it does not listen there, name in wait_for= those "
        "that it does"
        for one in attempt.missing
        if one.name not in named and isinstance(one, ListeningAwaited)
    ]


_TRIED: Mapping[str, str] = {
    "offer": "beside the offered lease",
    "hand-over": "with a socket handed over",
    "broker": "under the broker",
    "step-aside": "with the lease out of its way",
}
_NOW: Mapping[str, str] = {
    "offer": "was to bind its port itself",
    "step-aside": "the lease had stepped aside",
}


def _tried_before(attempt: Attempt, earlier: Sequence[Attempt]) -> list[str]:
    if not earlier:
        return []
    told = [
        f"{_TRIED[one.means.how]} it "
        + (_ready.how_ended(one.returncode) if one.outcome == "died" else "did not get its port")
        for one in earlier
    ]
    times, last = ("twice", "second") if len(earlier) == 1 else ("three times", "third")
    now = _NOW.get(attempt.how_now(), "it was tried again")
    if attempt.how_now() == "offer":
        now = f"it {now}"
    return [f"(it was started {times}: {', '.join(told)}; the {last} time {now})"]


def _about_the_port(attempt: Attempt) -> list[str]:
    """Who has the ports, if the server says that they are in use or somebody else listens."""
    occupied = [
        text
        for lease in dict.fromkeys(one.lease for one in attempt.missing)
        if lease is not None and (text := _somebody_else_on(lease)) is not None
    ]
    if occupied:
        return occupied
    if _ready.failed_in_use(attempt.said(), attempt.env) is not True:
        return []
    if attempt.means.how == "offer" and attempt.command.how == "offer":
        return [
            (
                "it says that its address is in use, and nobody but the lease is there: it "
                "does not set SO_REUSEADDR; leave how= out, or say how='step-aside'"
            )
        ]
    if attempt.means.how == "hand-over":
        return [
            (
                "it says that its address is in use: does it bind its port itself, which it was "
                "handed a socket of? how='offer' lets it"
            )
        ]
    return [
        (
            "it says that an address is in use, but nobody else has its leased ports now: "
            "is it another, a hard-coded one?"
        ),
        *_taken_numbers(attempt),
    ]


def _taken_numbers(attempt: Attempt) -> list[str]:
    """Ports that the command itself says, and that somebody has."""
    from portlease._who import who

    command = attempt.command
    text = "\n".join((*command.args[1:], *command.env.values()))
    numbers = {int(number) for number in _PORT.findall(text)}
    lines = []
    for port in sorted(numbers)[:_LOOKED_UP]:
        if port <= _pool.MAX_PORT and not (found := who(port)).free:
            lines += [*_written(command, [port], attempt.missing[0].name), str(found)]
    return lines


def _last_output(attempt: Attempt) -> list[str]:
    said = _ready.tail(attempt.said())
    if not attempt.command.collect:
        return []
    return [f"its last output:\n{said}"] if said else ["it wrote nothing"]


def _and(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))


def _somebody_else_on(lease: Lease) -> str | None:
    """Who else has its port, in words, or None if nobody but this process's lease does."""
    from portlease._who import who

    found = who(lease.port)
    others = [
        one
        for one in found.occupants
        if one.prevents
        and not (one.kind in {"lease", "bound"} and os.getpid() in {p.pid for p in one.processes})
    ]
    return str(found) if others else None
