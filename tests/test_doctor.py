"""What `portlease doctor` finds, and how it tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import portlease as library
from _cli import environment, portlease
from _need import in_new_netns, need, netns_command, why_not
from portlease import _doctor

NAMES = {
    "system",
    "ephemeral range",
    "pool",
    "reserved ports",
    "first unprivileged port",
    "IPv6",
    "holds",
    "guards",
    "list of leases",
    "socket tables",
    "processes",
    "servers",
    "open files",
    "private networks",
    "broker",
}


@pytest.fixture(scope="module")
def diagnosis() -> _doctor.Diagnosis:
    """Of this machine."""
    return _doctor.examine()


def test_every_fact_says_what_follows(diagnosis: _doctor.Diagnosis) -> None:
    """And how to mend it, where it is not as promised."""
    assert {fact.name for fact in diagnosis.facts} == NAMES
    for fact in diagnosis.facts:
        assert fact.found
        assert fact.follows
        assert (fact.remedy is None) == (fact.level == "ok"), fact


def test_it_leaves_nothing_behind() -> None:
    """No lease stays; descriptors and children are watched by every test's fixture."""
    _doctor.examine()
    assert not [info for info in library.leases() if info.pid == os.getpid()]


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("private networks", "netns"),
        ("broker", "seccomp"),
        ("servers", "subreaper"),
        ("list of leases", "abstract_unix"),
    ],
)
def test_it_agrees_with_a_probe_that_knows_nothing_of_it(
    diagnosis: _doctor.Diagnosis, name: str, capability: str
) -> None:
    """The tests' own probes and the doctor find the same."""
    assert (diagnosis[name].level == "ok") == (why_not(capability) is None)


def test_full_needs_only_what_is_promised_today() -> None:
    """What later parts need does not count."""
    fine = _doctor.Fact(name="a", found="x", follows="y")
    later = _doctor.Fact(name="b", found="x", follows="y", level="missing", promised=False)
    less = _doctor.Fact(name="c", found="x", follows="y", level="limited")
    assert _doctor.Diagnosis((fine, later)).full
    assert not _doctor.Diagnosis((fine, less)).full


def test_without_room_outside_the_ephemeral_range_the_pool_is_limited() -> None:
    """Then leases come from bind(0), and the doctor says so and how to mend it."""
    done = in_new_netns(
        """
        from portlease import _doctor, lease
        facts = _doctor.examine()
        pool = facts["pool"]
        assert pool.level == "limited" and not facts.full, pool
        assert pool.data == {"ports": 0, "from": "kernel"}, pool
        assert "ip_local_port_range" in pool.remedy
        assert facts["holds"].level == facts["guards"].level == "ok"
        lease().release()
        """,
        ephemeral=(1024, 65535),
    )
    assert done.returncode == 0, done.stderr


def test_reserved_ports_and_low_ports_are_read() -> None:
    """From the sysctls of the network namespace."""
    done = in_new_netns(
        """
        from pathlib import Path
        from portlease import _doctor
        ipv4 = Path("/proc/sys/net/ipv4")
        (ipv4 / "ip_local_reserved_ports").write_text("8080,9000-9002,9004")
        (ipv4 / "ip_unprivileged_port_start").write_text("80")
        facts = _doctor.examine()
        assert facts["reserved ports"].found == "8080, 9000-9002, 9004", facts["reserved ports"]
        assert facts["first unprivileged port"].found == "80"
        """
    )
    assert done.returncode == 0, done.stderr


def test_an_ordinary_user_is_promised_as_much() -> None:
    """Root is not needed: what is promised to it is promised to nobody, too."""
    need.capability("other_user")
    script = """
import json
from portlease import _doctor
print(json.dumps([f.name for f in _doctor.examine().facts if f.promised and f.level != "ok"]))
"""
    found = []
    for user in (0, 65534):
        done = subprocess.run(
            [need.everybodys_python(), "-c", script],
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            env={"PYTHONPATH": str(Path(library.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]


def test_few_open_files_are_limited() -> None:
    """RLIMIT_NOFILE bounds the number of leases."""
    script = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from portlease import _doctor
fact = _doctor.examine()["open files"]
assert (fact.level, fact.data["soft"]) == ("limited", 64), fact
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw", None),
        ("22 1 0:21 / /proc rw,nosuid - proc proc rw,hidepid=2,gid=4", "2"),
        ("22 1 0:21 / /proc rw - proc proc rw,hidepid=invisible", "invisible"),
        ("22 1 0:21 / /x/proc rw - proc proc rw,hidepid=2", None),
        ("1 1 0:1 / /proc rw - proc p rw,hidepid=2\n2 1 0:2 / /proc rw - proc p rw", None),
        ("", None),
    ],
)
def test_hidepid(text: str, value: str | None) -> None:
    """The last mount on /proc counts."""
    assert _doctor.hidepid(text) == value


# --- the command ----------------------------------------------------------------------------------


def test_the_command_tells_a_line_a_fact(diagnosis: _doctor.Diagnosis) -> None:
    """In a pipe; status 0 if the promise is whole, else 1."""
    done = portlease("doctor")
    assert done.returncode == (0 if diagnosis.full else 1)
    lines = done.stdout.splitlines()
    assert len(lines) == len(NAMES)
    for text, fact in zip(lines, diagnosis.facts, strict=True):
        assert text.startswith(f"{fact.level:<7}  {fact.name}: ")
    assert done.stderr == ""


def test_the_command_as_json(diagnosis: _doctor.Diagnosis) -> None:
    """--json: the same facts."""
    told = json.loads(portlease("doctor", "--json").stdout)
    assert told["full"] == diagnosis.full
    assert [fact["name"] for fact in told["facts"]] == [fact.name for fact in diagnosis.facts]
    assert set(told["facts"][0]) == {
        "name", "found", "level", "follows", "remedy", "promised", "data"
    }  # fmt: skip


def test_status_1_where_the_promise_is_limited() -> None:
    """And the remedy is on the line."""
    command = netns_command([sys.executable, "-m", "portlease", "doctor"], ephemeral=(1024, 65535))
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1
    (pool,) = (text for text in done.stdout.splitlines() if " pool: " in text)
    assert pool.startswith("limited")
    assert "remedy: " in pool
