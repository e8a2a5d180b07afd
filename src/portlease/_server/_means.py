"""By which of four means a server gets its port, why, and what its leases are to be for that.

- *hand over*: the server inherits a socket that listens already; the lease stays HELD.
- *broker*: the server binds, and that is done for it beside a lease that stays HELD.
- *offer*: the server binds beside the hold, by SO_REUSEADDR; the lease is OFFERED.
- *step aside*: the hold goes, and the server binds a port that is free; the lease is GUARDED.

Hand over costs the server nothing, but it must be known to take a socket. The broker costs it its
privileged programs (no_new_privs) and lives in the keeper, so it must be asked for. Most servers
set SO_REUSEADDR; what does not shows that by failing, and then the lease steps aside.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import LeaseStateError, PortUnavailableError
from portlease._platform import backend
from portlease._server import _handover
from portlease._states import GUARDED, HELD, OFFERED
from portlease._tree._process import Hold

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from portlease._lease import Lease
    from portlease._server._command import Command, How
    from portlease._server._handover import Plan


class Means(NamedTuple):
    """One of the four, and why it is this one: a clause without a full stop."""

    how: How
    why: str
    plan: Plan | None = None
    """What is handed over."""


# --- which ----------------------------------------------------------------------------------------


def choose(
    command: Command,
    leases: Mapping[str, Lease],
    paths: Mapping[str, str] | None = None,
    *,
    socketless: bool = False,
) -> Means | str:
    """What is to be tried first; or why it cannot be what was asked for.

    Args:
        command: with its ``how``.
        leases: by name.
        paths: of its Unix sockets, by name.
        socketless: whether the command has shown that it takes no socket, whatever it looks like.
    """
    asked = command.how
    if asked == "broker":
        if sys.platform != "linux":
            return "it is Linux's alone"
        return Means("broker", "how='broker' was asked for: each bind is done beside the hold")
    if asked is None and socketless and not command.fds():
        return by_itself(command, leases)
    if asked in {None, "hand-over"}:
        plan = _plan(command, leases, paths or {})
        if not isinstance(plan, str):
            return Means("hand-over", plan.why, plan)
        if asked is not None or command.fds():
            return plan
    return by_itself(command, leases)


def _plan(command: Command, leases: Mapping[str, Lease], paths: Mapping[str, str]) -> Plan | str:
    if not backend.CAN_OFFER:
        return f"on {sys.platform} no socket can be bound beside a hold"
    ports = {name: lease.port for name, lease in leases.items()}
    hosts = {name: command.bind_host(lease.host) for name, lease in leases.items()}
    return _handover.plan(
        command.args,
        {**_literal(command.surroundings(ports, paths)), **command.env},
        {name: lease.kind for name, lease in leases.items()} | dict.fromkeys(paths, "unix"),
        {**hosts, **paths},
        asked=command.how == "hand-over",
    )


def _literal(env: Mapping[str, str]) -> dict[str, str]:
    """As templates: what we have in our own environment is none."""
    return {name: value.replace("{", "{{").replace("}", "}}") for name, value in env.items()}


def by_itself(
    command: Command, leases: Mapping[str, Lease], *, needs_step_aside: bool = False
) -> Means:
    """The server is to bind its port itself: beside the hold, or in its place."""
    if command.how == "step-aside":
        return Means("step-aside", "how='step-aside' was asked for")
    if not backend.CAN_OFFER:
        return Means("step-aside", f"on {sys.platform} no hold can be shared with a server")
    if command.how == "offer":
        return Means("offer", "how='offer' was asked for")
    if needs_step_aside:
        return Means("step-aside", "this command could not bind beside a held lease before")
    if not command.collect:
        return _unseen(leases)
    return Means("offer", "it sets SO_REUSEADDR, so it binds beside the hold")


def _unseen(leases: Mapping[str, Lease]) -> Means:
    """Nobody sees what it writes. In the ephemeral range alone is GUARDED much less than held."""
    rules = backend.rules()
    if any(rules.is_ephemeral(lease.port) for lease in leases.values()):
        return Means("offer", "there was no port outside the ephemeral range, so it stays held")
    return Means(
        "step-aside",
        "it writes to the terminal, so why it failed to bind beside a hold goes unseen",
    )


ALONE = Means("step-aside", "it does not set SO_REUSEADDR, so it cannot bind beside the hold")
"""What is left once a server could not bind beside the hold."""


# --- the leases -----------------------------------------------------------------------------------


class LeaseTakenError(Exception):
    """A lease cannot be HELD, because somebody has its port; ``__cause__`` says who."""


def prepare(leases: Mapping[str, Lease], how: How, plan: Plan | None = None) -> None:
    """Bring every lease into the state in which a server can take its port.

    Raises:
        LeaseStateError: one of them was released or handed over.
        LeaseTakenError: one that had stepped aside must be held for this, and cannot be.
    """
    whole = _handed_whole(leases, plan)
    for name, lease in leases.items():
        if lease.state not in {HELD, OFFERED, GUARDED}:
            raise LeaseStateError(
                f"cannot serve on the lease of port {lease.port}, which is {lease.state}; "
                "take a new one with portlease.lease()",
                state=str(lease.state),
                action="serve",
            )
        if how == "broker" or name in whole:
            _hold(lease)
            continue
        partly = plan is not None and name in plan.names
        if partly and lease.state is GUARDED:
            _hold(lease)
        can_offer = lease.kind != "udp" and backend.CAN_OFFER
        if lease.state is HELD and can_offer and (how != "step-aside" or partly):
            lease.offer()
        elif partly:
            pass
        elif lease.state is HELD or (lease.state is OFFERED and how == "step-aside"):
            lease.step_aside()


def _handed_whole(leases: Mapping[str, Lease], plan: Plan | None) -> Collection[str]:
    """The ports of which nothing is left for the server to bind."""
    if plan is None:
        return ()
    handed = {(wanted.name, wanted.transport) for wanted in plan.sockets}
    return {
        name
        for name, lease in leases.items()
        if all((name, transport) in handed for transport in lease._grip.wish.transports)
    }


def _hold(lease: Lease) -> None:
    try:
        if lease.state is OFFERED:
            lease.withdraw()
        elif lease.state is GUARDED:
            lease.take_back()
    except PortUnavailableError as error:
        raise LeaseTakenError(str(error)) from error


def holds(leases: Mapping[str, Lease]) -> list[Hold]:
    """The sockets that hold them, for the broker."""
    return [
        Hold(bind.transport, lease.port, hold.fileno())
        for lease in leases.values()
        for bind, hold in lease._grip.holds
    ]


def how_it_is(leases: Mapping[str, Lease]) -> How:
    """Whether any of the leases is offered beside the server."""
    return "offer" if any(one.state is OFFERED for one in leases.values()) else "step-aside"


def why_it_is(means: Means, leases: Mapping[str, Lease], *, stepped_aside: bool) -> str:
    """Why the server got its ports as it did.

    Args:
        means: what was tried.
        leases: as they are now.
        stepped_aside: whether they did while the server was starting.
    """
    if stepped_aside:
        return ALONE.why
    if means.how != "offer" or how_it_is(leases) == "offer":
        return means.why
    if all(lease.kind == "udp" for lease in leases.values()):
        return "UDP: a hold cannot be shared with a server"
    return "the lease had stepped aside before"
