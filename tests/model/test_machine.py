"""The lease protocol, driven by Hypothesis on the real kernel; the rules are in `model.machine`."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from _need import in_new_netns, need

if sys.platform != "linux":
    pytest.skip("the whole promise is Linux's", allow_module_level=True)

from model.workers import MISTAKES


def run(call: str, timeout_s: float = 250) -> Any:  # noqa: ANN401 - what the script printed, as JSON
    """Call a function of the machine in a namespace whose only ephemeral ports are the model's."""
    need.capability("netns")
    need.capability("ipv6")
    done = in_new_netns(
        f"""
        import json
        from model import machine
        print(json.dumps(machine.{call}))
        """,
        ephemeral=(20000, 20003),
        timeout_s=timeout_s,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


# What has to have come about, or the run was harmless.
SEEN = {
    "bind 0 tcp: success",
    "bind tcp SO_REUSEADDR: EADDRINUSE",
    "bind tcp SO_REUSEADDR: success",
    "bind tcp: EADDRINUSE",
    "bind tcp: success",
    "bind udp: EADDRINUSE",
    "connect to: ECONNREFUSED",
    "fork: success",
    "kill in a move: success",
    "kill in a take: success",
    "kill: success",
    "stop: success",
    "take tcp: PortUnavailableError",
    "take tcp: success",
    "take udp: success",
}


def test_leases_do_what_the_table_says() -> None:
    """Some hundred steps of three processes and of thieves, the same in every run."""
    found = run("run(25, 30)")
    assert set(found["seen"]) >= SEEN, SEEN - set(found["seen"])
    assert found["steps"] > 300


@pytest.mark.long
@pytest.mark.parametrize("start", range(4))
def test_leases_do_what_the_table_says_long(start: int) -> None:
    """Some hundred thousand steps, from other beginnings."""
    found = run(f"run(1000, 80, {start})", timeout_s=2500)
    print(found)  # noqa: T201 - for docs/model.md
    assert set(found["seen"]) >= SEEN


def test_a_mistake_is_found() -> None:
    """The machine can fail: workers that keep what they have released are found out."""
    assert run("fails('releases no hold')")


@pytest.mark.long
@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_found_long(mistake: str) -> None:
    """Others take longer to meet."""
    assert run(f"fails({mistake!r})")
