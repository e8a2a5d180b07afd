"""What a type checker makes of `who` and of the drop-ins: read by mypy, never run."""

from __future__ import annotations

import socket
from typing import assert_type

import portlease
from portlease import Who

found = portlease.who(8080)
assert_type(found, Who)
assert_type(portlease.who(portlease.lease()), Who)  # a lease stands for its number
assert_type(portlease.who(53, transport="udp"), Who)
assert_type(found.port, int)
assert_type(found.free, bool)
assert_type(found.complete, bool)
assert_type(found.as_dict(), dict[str, object])
for occupant in found.occupants:
    assert_type(occupant.prevents, bool)
    assert_type(occupant.seconds_left, float | None)
    assert_type([process.pid for process in occupant.processes], list[int])

portlease.who("8080")  # type: ignore[arg-type]
portlease.who(8080, "tcp")  # type: ignore[call-arg]
portlease.who(8080, transport="both")  # type: ignore[arg-type]

assert_type(portlease.find_unused_port(), int)
assert_type(portlease.find_unused_port(socket.AF_INET6, socket.SOCK_DGRAM), int)
with socket.socket() as sock:
    assert_type(portlease.bind_port(sock), int)
    assert_type(portlease.bind_port(sock, portlease.HOST), int)
with portlease.transient_internet("localhost", timeout=1.0):
    pass
