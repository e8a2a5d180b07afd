"""What a type checker makes of groups, logs and the async twins: read by mypy, never run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import assert_type

import portlease
from portlease import (
    AsyncServer,
    AsyncServerGroup,
    Lease,
    Server,
    ServerGroup,
    Service,
    aserve,
    aserve_many,
    serve_many,
)

# --- groups ---------------------------------------------------------------------------------------

REDIS = ["redis-server", "--port", "{port}"]
group = serve_many({"db": REDIS, "web": Service([Path("web"), "{db.port}"], after="db")})
assert_type(group, ServerGroup)
assert_type(group["db"], Server)
assert_type(group.get("db"), Server | None)
assert_type(list(group), list[str])
assert_type(group.ports, dict[str, dict[str, int]])
assert_type(group.restart("db"), None)
with serve_many({"db": REDIS}, timeout_s=5, label="suite", how="offer") as entered:
    assert_type(entered, ServerGroup)
Service(REDIS, after=["a"], beside={"b"}, lease=portlease.lease(), ready="/health", timeout_s=1)

serve_many({"db": 5})  # type: ignore[dict-item]
serve_many({"db": REDIS}, timeout=5)  # type: ignore[call-arg]
serve_many({"db": REDIS}, how="maybe")  # type: ignore[arg-type]
Service(REDIS, "db")  # type: ignore[call-arg]
Service(REDIS, nothing=1)  # type: ignore[call-arg]

# --- logs -----------------------------------------------------------------------------------------

server = group["db"]
found = server.wait_for_line(r"pid=(\d+)", 5.0)
assert_type(found.match, re.Match[str])
assert_type(found.upper(), str)
assert_type(server.wait_for_line(re.compile("x"), after=found).end, int)
assert_type([line.end for line in server.tail(3)], list[int])
assert_type([line.strip() for line in server.follow()], list[str])
assert_type(iter(server.follow(after=found)).__next__().end, int)

server.wait_for_line(re.compile(b"x"))  # type: ignore[arg-type]
server.follow(after="a line")  # type: ignore[arg-type]

# --- asyncio and trio -----------------------------------------------------------------------------


async def main() -> None:
    """Never run."""
    async with aserve(REDIS, ports={"admin": "udp"}, ready="/") as server:
        assert_type(server, AsyncServer)
        assert_type(server.port, int)
        assert_type(server.lease, Lease)
        assert_type(server.sync, Server)
        assert_type(await server.restart(), None)
        assert_type((await server.wait_for_line("x")).match, re.Match[str])
        async for line in server.follow():
            assert_type(line.end, int)
    assert_type(await aserve(REDIS), AsyncServer)
    assert_type(await aserve_many({"db": REDIS}), AsyncServerGroup)
    async with aserve_many({"db": REDIS, "web": Service(REDIS)}, timeout_s=1) as group:
        assert_type(group, AsyncServerGroup)
        assert_type(group["db"], AsyncServer)
        assert_type(await group.restart("db"), None)
    await aserve(REDIS, timeout=5)  # type: ignore[call-arg]
    await aserve(5)  # type: ignore[arg-type]
    aserve(REDIS)  # type: ignore[unused-awaitable]
