"""What a type checker makes of the lease: read by mypy, never run."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Literal, assert_type

import portlease
from portlease import Lease, LeaseGroup, LeaseInfo, State

# --- taking ---------------------------------------------------------------------------------------

assert_type(portlease.lease(), Lease)
assert_type(portlease.lease("udp"), Lease)
assert_type(portlease.lease(kind="both", host="127.0.0.1", label="db"), Lease)
portlease.lease(host=["127.0.0.1", "::1"], family=socket.AF_INET6, offer=False)
portlease.lease(ports=range(20000, 20100))
portlease.lease(ports={80, 443})
portlease.lease(ports=(port for port in (1, 2)))

assert_type(portlease.lease_many(3), LeaseGroup)
assert_type(portlease.lease_many(3, kind="udp", label="nodes"), LeaseGroup)
assert_type(portlease.lease_block(6, offsets=(0, 10000)), LeaseGroup)

portlease.lease("sctp")  # type: ignore[arg-type]
portlease.lease("tcp", "127.0.0.1")  # type: ignore[call-arg]
portlease.lease(ports=8080)  # type: ignore[arg-type]
portlease.lease_many("3")  # type: ignore[arg-type]
portlease.lease_many()  # type: ignore[call-arg]

# --- using ----------------------------------------------------------------------------------------

with portlease.lease() as port:
    assert_type(port, Lease)
    assert_type(port.port, int)
    assert_type(port.kind, Literal["tcp", "udp", "both"])
    assert_type(port.state, State)
    assert_type(port.host, str | Sequence[str] | None)
    assert_type(port.label, str | None)
    assert_type(port.since, float)

    assert_type(int(port), int)
    assert_type(str(port), str)
    assert_type(f"{port}", str)
    assert_type([0, 1, 2][port], int)  # __index__

    assert_type(port.offer(), None)
    assert_type(port.withdraw(), None)
    assert_type(port.step_aside(), None)
    assert_type(port.take_back(), None)
    assert_type(port.listen(), socket.socket)
    assert_type(port.listen(backlog=16), socket.socket)
    assert_type(port.hand_over(), socket.socket)
    assert_type(port.release(), None)

    port.state = State.HELD  # type: ignore[misc]

with portlease.lease_many(2) as group:
    assert_type(group, LeaseGroup)
    assert_type(group[0], Lease)
    assert_type(group.ports, tuple[int, ...])
    assert_type([lease.port for lease in group], list[int])
    assert_type(group.release(), None)

# --- looking --------------------------------------------------------------------------------------

for info in portlease.leases():
    assert_type(info, LeaseInfo)
    assert_type(info.port, int)
    assert_type(info.kind, str)
    assert_type(info.state, State)
    assert_type(info.pid, int | None)
    assert_type(info.command, str | None)
    assert_type(info.label, str | None)
    assert_type(info.since, float)
    info.port = 1  # type: ignore[misc]

# --- errors ---------------------------------------------------------------------------------------

try:
    portlease.lease(ports=[8080])
except portlease.PortUnavailableError as unavailable:
    assert_type(unavailable.port, int)
    assert_type(unavailable.message, str)
except portlease.LeaseStateError as wrong_state:
    assert_type(wrong_state.state, str)
    assert_type(wrong_state.action, str)
except portlease.ResourceLimitError as limit:
    assert_type(limit.errno, int)


def every_error_is_a_portlease_error(error: portlease.PortleaseError) -> None: ...


for kind in (
    portlease.LeaseStateError,
    portlease.PortUnavailableError,
    portlease.PortsExhaustedError,
    portlease.PrivilegeError,
    portlease.ResourceLimitError,
    portlease.ServerDiedError,
    portlease.ServerError,
    portlease.ServerStartError,
    portlease.ServerTimeoutError,
    portlease.UsageError,
):
    every_error_is_a_portlease_error(kind("the fact, the culprit and the remedy"))


def value_error(error: ValueError) -> None: ...
def permission_error(error: PermissionError) -> None: ...
def timeout_error(error: TimeoutError) -> None: ...


value_error(portlease.UsageError("wrong"))
permission_error(portlease.PrivilegeError("too low"))
timeout_error(portlease.ServerTimeoutError("too late"))
