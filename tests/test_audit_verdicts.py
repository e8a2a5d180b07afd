"""Origins and verdicts: pure functions of a trail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from portlease import _registry, _trail
from portlease._audit import _origin, _report, _verdicts
from portlease._states import State
from portlease._trail import Event

if TYPE_CHECKING:
    from pathlib import Path

ROW = _registry.encode(5000, "tcp", State.OFFERED, _registry.birth(), "*", "a label").decode()


def event(what: str = _trail.BIND, **facts: Any) -> Event:  # noqa: ANN401 - any field
    """An event, with what most have in common."""
    usual = {
        "t": 0,
        "pid": 1,
        "transport": "tcp",
        "address": "127.0.0.1",
        "argv": ("/bin/prog", "x"),
    }
    if what == _trail.BIND:
        usual |= {"got": facts.get("port")}
    return Event(what=what, **{**usual, **facts})


# --- origins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "origin"),
    [
        ({"port": 0}, ("kernel", None)),
        ({"port": 8080}, ("hard-coded", None)),
        ({"port": 8080, "found": False}, ("unheld", None)),
        ({"port": 8080, "found": True}, ("kernel", None)),
        ({"port": 5000, "row": ROW}, ("lease", "a label")),
        ({"port": 5000, "row": ROW, "found": False}, ("lease", "a label")),
        ({"port": 5000, "row": "no row of ours"}, ("lease", "")),
        ({"port": 5000, "hint": "lease"}, ("lease", "")),
        ({"port": 5000, "hint": "unheld"}, ("unheld", None)),
    ],
)
def test_where_a_number_comes_from(facts: dict[str, Any], origin: tuple[str, str | None]) -> None:
    """Each of the origins, and what counts more."""
    assert _origin.judge(**{"hint": None, "row": None, "found": None, **facts}) == origin


def test_a_trail_of_the_hooks_is_judged_when_it_is_read() -> None:
    """What the hook has found out stays; the rest follows from what came before."""
    events = [
        event(port=0, got=4001),
        event(port=4001, pid=2),
        event(port=4001, pid=3, reuseport=True),
        event(port=4001, pid=4, instance=2),
        event(port=4002, origin="unheld"),
        event(port=4002, pid=5),
        event(port=5000, row=ROW),
        event(port=5000, origin="lease", hold=True),
        event(port=5000, pid=6),
        event(port=4003, origin="kernel"),
        event(_trail.LISTEN, port=4001),
    ]
    judged = _origin.judged(events)
    assert [one.origin for one in judged] == [
        *("kernel", "unheld", "kernel", "hard-coded", "unheld", "unheld"),
        *("lease", "lease", "unheld", "kernel", None),
    ]
    assert judged[6].lease == "a label"


# --- verdicts -------------------------------------------------------------------------------------


def judged(*events: Event) -> list[tuple[str, str, int | None]]:
    """Code, path and line of each finding."""
    found = _verdicts.verdicts(events, root="/suite")
    return [(one.finding.code, one.finding.path, one.finding.line) for one in found]


IN_TEST: dict[str, Any] = {"file": "/suite/tests/test_a.py", "line": 3}


def test_a_hard_coded_port_is_told_of_once_a_line() -> None:
    """With its ports, tests and how often; paths from the root; worst first."""
    found = _verdicts.verdicts(
        [
            event(port=0, got=4000, address="0.0.0.0", pid=7),  # noqa: S104
            event(_trail.LISTEN, port=4000, pid=7),
            event(port=8080, origin="hard-coded", test="a", **IN_TEST),
            event(port=8081, origin="hard-coded", test="b", **IN_TEST),
            event(
                port=8080, origin="hard-coded", test="a", got=None, error="EADDRINUSE", **IN_TEST
            ),
            event(port=8080, origin="hard-coded", file="/elsewhere/x.py", line=1),
        ],
        root="/suite",
    )
    first, second, note = found
    assert first.finding.place == "/elsewhere/x.py:1"
    assert second.finding.place == "tests/test_a.py:3"
    assert (second.ports, second.tests, len(second.events)) == ([8080, 8081], ["a", "b"], 3)
    assert (first.level, note.level) == ("error", "note")
    lines = _report.lines(second)
    assert "(3 times) [PL001 hard-coded-port]" in lines[0]
    assert lines[1].strip() == "in a, b"
    assert _report.summary(found) == "2 errors, 1 note"


def test_an_unheld_number_is_told_of_where_it_was_found() -> None:
    """Unless that is not known."""
    finder = event(port=0, got=4000, origin="kernel", **IN_TEST)
    user = event(port=4000, origin="unheld", argv=("redis-server",))
    assert judged(finder, user) == [("PL003", "tests/test_a.py", 3)]
    assert judged(user) == [("PL003", "redis-server", None)]


@pytest.mark.parametrize(
    ("facts", "is_found"),
    [
        ({}, True),
        ({"reuseaddr": False, "reuseport": True}, True),
        ({"file": "/suite/conftest.py"}, True),
        ({"file": "/suite/helpers.py", "test": "a", "runner": 1}, True),
        ({"file": "/suite/server.py"}, False),
        ({"file": "/suite/server.py", "test": "a", "runner": 9}, False),
        ({"inner_file": "/usr/lib/python3/socketserver.py", "inner_line": 1}, False),
        ({"transport": "udp"}, False),
        ({"origin": "lease"}, False),
        ({"reuseaddr": False}, False),
        ({"file": None, "line": None}, False),
    ],
)
def test_reused_addresses_are_the_tests_own_sockets(facts: dict[str, Any], is_found: bool) -> None:  # noqa: FBT001
    """Servers that set it, in whatever library or program, are right to do so."""
    usual = {**IN_TEST, "port": 0, "got": 1, "origin": "kernel", "reuseaddr": True}
    found = judged(event(**{**usual, **facts}))
    assert [code for code, _, _ in found] == ["PL004"] * is_found


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])  # noqa: S104
def test_every_interface_is_a_servers(address: str) -> None:
    """Who listens there, by TCP; who chooses a port there, by UDP; never the hold of a lease."""
    here: dict[str, Any] = {"address": address, "origin": "kernel"}
    tcp = event(port=0, got=4000, **here)
    listen = event(_trail.LISTEN, port=4000)
    assert judged(tcp, listen) == [("PL005", "prog", None)]
    assert judged(tcp, event(_trail.LISTEN, port=4001)) == []
    assert judged(tcp) == []  # nobody saw who listens: the kernel's choice is a search
    assert judged(event(port=4000, **here)) == [("PL005", "prog", None)]
    assert judged(event(port=0, got=4000, transport="udp", **here), listen) == []
    assert judged(event(port=4000, transport="udp", **here)) == [("PL005", "prog", None)]
    assert judged(event(port=4000, transport="udp", hold=True, **here)) == []
    assert judged(event(port=4000, got=None, error="EADDRINUSE", **here)) == []


def test_a_comment_allows(tmp_path: Path) -> None:
    """On the line, of this rule or of all."""
    source = tmp_path / "test_x.py"
    source.write_text(
        "bind(1)  # portlease: allow\nbind(2)  # portlease: allow[PL003]\n"
        "bind(3)  # portlease: allow[PL001]\n"
    )
    binds = [
        event(port=8000 + line, origin="hard-coded", file=str(source), line=line)
        for line in (1, 2, 3)
    ]
    (found,) = _verdicts.verdicts(binds, root=str(tmp_path))
    assert (found.finding.line, found.finding.text) == (
        2,
        "bind(2)  # portlease: allow[PL003]",
    )


def test_only_the_chosen_rules_count() -> None:
    """As --select and --ignore say."""
    bind = event(port=8080, origin="hard-coded")
    assert _verdicts.verdicts([bind], root="/", codes={"PL003"}) == []


def test_rows_put_equal_binds_together() -> None:
    """By number only where the number says something."""
    rows = _report.rows(
        [
            event(port=0, got=4000, origin="kernel"),
            event(port=0, got=4001, origin="kernel"),
            event(port=8080, origin="hard-coded", reuseaddr=True, reuseport=True),
            event(port=5000, origin="lease", hold=True),
        ],
        "/suite",
    )
    assert rows == [
        ("8080/tcp", "hard-coded", "127.0.0.1", "reuseaddr,reuseport", "1", "prog"),
        ("*/tcp", "kernel", "127.0.0.1", "-", "2", "prog"),
    ]


# --- the page -------------------------------------------------------------------------------------


def test_the_data_of_the_page() -> None:
    """Lanes of the runners, tests in time, and bars that end with their tests or the next bind."""
    second = 1_000_000_000
    events = [
        Event(t=second, what=_trail.TEST_START, pid=7, test="t::a", worker="gw0"),
        Event(
            t=2 * second,
            what=_trail.BIND,
            pid=8,
            runner=7,
            test="t::a",
            port=8080,
            got=8080,
            address="127.0.0.1",
            transport="tcp",
            origin="hard-coded",
        ),
        Event(t=3 * second, what=_trail.TEST_END, pid=7, test="t::a", outcome="passed"),
        Event(t=4 * second, what=_trail.TEST_START, pid=7, test="t::b", worker="gw0"),
        event(t=5 * second, port=8080, origin="hard-coded"),
        event(t=5 * second, port=8080, got=None, error="EADDRINUSE", origin="hard-coded"),
    ]
    audit = _report.Audit(
        command=("x",),
        status=1,
        events=events,
        verdicts=_verdicts.verdicts(events, root="/"),
        known=0,
        gone=0,
        notes=["a note"],
        begun=second,
        ended=6 * second,
        started=0.0,
        root="/",
    )
    data = _report.page_data(audit)
    assert [lane["name"] for lane in data["lanes"]] == ["the command", "gw0"]
    assert [(one["lane"], one["begin"], one["end"], one["outcome"]) for one in data["tests"]] == [
        (1, 0.0, 2.0, "passed"),
        (1, 3.0, 5.0, None),
    ]
    assert [(one["lane"], one["begin"], one["end"]) for one in data["ports"]] == [
        (1, 1.0, 2.0),
        (0, 4.0, None),
        (0, 4.0, None),
    ]
    assert data["verdict"]["level"] == "bad"
    assert data["findings"][0]["rule"] == "hard-coded-port"
