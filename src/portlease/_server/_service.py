"""What a group of servers is asked to be: its services, who waits for whom, their templates.

Pure: it starts nothing and leases nothing.
"""

from __future__ import annotations

import dataclasses
import graphlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from portlease._errors import PortleaseError, UsageError
from portlease._server import _check, _template
from portlease._server._command import Options, must_know
from portlease._server._serve import command_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Final, TypeVar, Unpack

    from portlease._lease import Lease
    from portlease._server._check import ReadyOption
    from portlease._server._command import Command
    from portlease._tree._process import StrPath

    Error = TypeVar("Error", bound=PortleaseError)

_NAME: Final = "[A-Za-z_][A-Za-z0-9_-]*"
# As in _template: the first alternative wins, and a dollar makes it the shell's.
_ELSEWHERE: Final = re.compile(
    rf"(?<!\$) (?: \{{\{{ (?P<literal> {_NAME}\.[a-z][a-z0-9_]* ) \}}\}}"
    rf"| \{{ (?P<service> {_NAME} ) \. (?P<what> [a-z][a-z0-9_]* ) \}} )",
    re.VERBOSE,
)


class Service:
    """One server of a group, see :func:`portlease.serve_many`.

    Args:
        args: the program and its arguments, as in :func:`portlease.serve`. In these, in *env* and
            in *ready*, ``{db.port}``, ``{db.host}`` and ``{db.admin}`` are of the service that is
            called ``db``, which is waited for then.
        after: the names of services that must be ready before it is started.
        beside: the names of services that it does not wait for, though its templates name them:
            the nodes of a cluster, each of which must be told of all the others.
        lease: as in :func:`portlease.serve`, and so are all other options. They are preferred to
            those that are given for the whole group; the two ``env=`` are joined.
    """

    __slots__ = ("after", "args", "beside", "lease", "options")

    def __init__(
        self,
        args: Sequence[StrPath],
        *,
        after: str | Iterable[str] = (),
        beside: str | Iterable[str] = (),
        lease: Lease | None = None,
        **options: Unpack[Options],
    ) -> None:
        must_know("Service()", options, Options)
        self.args = args
        self.after = _names(after)
        self.beside = _names(beside)
        self.lease = lease
        self.options = options

    def __repr__(self) -> str:
        return f"<Service {self.args!r} after={sorted(self.after)}>"


def _names(given: str | Iterable[str]) -> frozenset[str]:
    return frozenset([given] if isinstance(given, str) else given)


class Member(NamedTuple):
    """One server of a group, checked."""

    name: str
    service: Service
    options: Options
    command: Command
    """With the templates that speak of other services as they are."""
    after: frozenset[str]

    def filled(self, fill: Callable[[str], str]) -> Command:
        """Its command, with the templates that speak of other services filled in."""
        if not _texts(self):
            return self.command
        return dataclasses.replace(
            self.command,
            args=tuple(map(fill, self.command.args)),
            env={name: fill(value) for name, value in self.command.env.items()},
            ready=_map(self.command.ready, fill),
        )


def members(
    services: Mapping[str, Sequence[StrPath] | Service], common: Options
) -> dict[str, Member]:
    """The members of a group, in the order given.

    Raises:
        UsageError: an argument that can never work; its text begins with the service's name.
    """
    must_know("serve_many()", common, Options)
    if not isinstance(services, Mapping):
        raise UsageError("services is no mapping; give each a name: {'db': ['redis-server', ...]}")
    if not services:
        raise UsageError("there are no services; give one at least")
    found = {}
    for name, given in services.items():
        if not re.fullmatch(_NAME, str(name)):
            raise UsageError(
                f"{name!r} cannot name a service: names are made of letters, digits, _ and -, and "
                "do not begin with a digit"
            )
        service = given if isinstance(given, Service) else Service(given)
        try:
            found[name] = _member(name, service, common)
        except UsageError as error:
            raise named(name, error) from error
    for member in found.values():
        _check_names(member, found)
    _check_leases(found)
    _check_cycles(found)
    return found


def _member(name: str, service: Service, common: Options) -> Member:
    options = cast("Options", {**common, **service.options})
    if common.get("env") and service.options.get("env"):
        options["env"] = {**(common["env"] or {}), **(service.options["env"] or {})}
    if service.options.get("label") is None:
        label = common.get("label")
        options["label"] = name if label is None else f"{label} {name}"
    if service.lease is not None and "host" not in service.options:
        options["host"] = None  # the group's; the lease has one of its own
    command = command_of(service.args, has_lease=service.lease is not None, **options)
    member = Member(name, service, options, command, frozenset())
    implied = {match["service"] for match in _mentions(member)}
    after = (service.after | implied) - service.beside
    return member._replace(after=frozenset(after - ({name} - service.after)))


def _check_names(member: Member, all_of_them: Mapping[str, Member]) -> None:
    there_are = f"there are {', '.join(sorted(all_of_them))}"
    for option, names in (("after", member.service.after), ("beside", member.service.beside)):
        if unknown := names - all_of_them.keys():
            raise UsageError(
                f"{member.name}: {option}= names {', '.join(sorted(unknown))}, which no service "
                f"is called; {there_are}"
            )
    if contrary := member.service.after & member.service.beside:
        raise UsageError(
            f"{member.name}: {', '.join(sorted(contrary))} cannot be both in after= and in beside="
        )
    for match in _mentions(member):
        service, what = match["service"], match["what"]
        if service not in all_of_them:
            raise UsageError(
                f"{member.name}: {match[0]} is of a service {service!r}, which there is none of; "
                f"{there_are} (write {{{match[0]}}} for the text {match[0]} itself)"
            )
        ports = all_of_them[service].command.names()
        if what != _template.HOST and what not in ports:
            raise UsageError(
                f"{member.name}: {match[0]} is a port that {service} does not have; it has "
                f"{', '.join(sorted(ports))}; name it in the ports= of {service}"
            )


def _check_leases(found: Mapping[str, Member]) -> None:
    owners: dict[int, str] = {}
    for member in found.values():
        if member.service.lease is None:
            continue
        other = owners.setdefault(id(member.service.lease), member.name)
        if other != member.name:
            raise UsageError(
                f"{member.name}: its lease is that of {other}, too; take one for each with "
                "portlease.lease()"
            )


def _check_cycles(found: Mapping[str, Member]) -> None:
    try:
        graphlib.TopologicalSorter(waits(found)).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1][::-1]  # each waits for the next, the last is the first
        raise UsageError(
            f"none of these could ever be started: {' waits for '.join(cycle)}; take one out of "
            "after=, or, where only its port has to be known, put it into beside="
        ) from None


def waits(found: Mapping[str, Member]) -> dict[str, frozenset[str]]:
    """Who waits for whom."""
    return {name: member.after for name, member in found.items()}


def substitute(text: str, value: Callable[[str, str], object]) -> str:
    """Return *text* with ``value("db", "port")`` in place of ``{db.port}``."""

    def replacement(match: re.Match[str]) -> str:
        if match["literal"] is not None:
            return "{" + match["literal"] + "}"
        return str(value(match["service"], match["what"]))

    return _ELSEWHERE.sub(replacement, text)


def _mentions(member: Member) -> Iterator[re.Match[str]]:
    for text in _texts(member):
        for match in _ELSEWHERE.finditer(text):
            if match["service"] is not None:
                yield match


def _texts(member: Member) -> list[str]:
    """Those of its texts that have something like ``{db.port}`` in them."""
    texts = [*member.command.args, *member.command.env.values()]

    def see(text: str) -> str:
        texts.append(text)
        return text

    _map(member.command.ready, see)
    return [text for text in texts if _ELSEWHERE.search(text)]


def _map(ready: ReadyOption, change: Callable[[str], str]) -> ReadyOption:
    """*ready* with each of its texts changed."""
    if isinstance(ready, str):
        return change(ready)
    if isinstance(ready, _check.Http):
        return dataclasses.replace(ready, path=change(ready.path))
    if isinstance(ready, Sequence):
        return cast("ReadyOption", [_map(one, change) for one in ready])
    return ready


def named(name: str, error: Error) -> Error:
    """The same error, whose text begins with the service's name, with ``service`` as a fact."""
    facts = {**error._facts, "service": name}
    return type(error)(f"{name}: {error.message}", **facts)
