"""The parts of `repeat`: what texts, files and trails mean; and the kernel's tables, sampled."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Final, Literal, cast

import pytest

from _need import need
from _processes import wait_for
from portlease import _trail
from portlease._repeat import (
    _causes,
    _culprits,
    _holdings,
    _misled,
    _results,
    _runner,
    _shared,
    _spoken,
)
from portlease._repeat import _verdict as verdict
from portlease._repeat._case import THE_RUN, Case
from portlease._repeat._results import Results
from portlease._repeat._verdict import Told
from portlease._repeat._watch import Seen, Sights, Watch

if TYPE_CHECKING:
    from pathlib import Path

    from portlease._repeat._run import Run

MS: Final = 1_000_000


# --- the runner -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("pytest -q tests", "pytest -q tests ADDED"),
        ("/venv/bin/py.test", "/venv/bin/py.test ADDED"),
        ("python3.12 -m pytest x -- y", "python3.12 -m pytest x ADDED -- y"),
        ("uv run --with pytest pytest -x", "uv run --with pytest pytest -x ADDED"),
        ("env A=1 timeout 5 pytest", "env A=1 timeout 5 pytest ADDED"),
        ("coverage run -m pytest", "coverage run -m pytest ADDED"),
        ("ls pytest", "ls pytest"),
        ("python -m unittest pytest", "python -m unittest pytest"),
        ("sh -c pytest", "sh -c pytest"),
    ],
)
def test_pytest_is_recognised_and_told_where_to_write(command: str, told: str) -> None:
    """Behind its options and before its ``--``; nothing else is touched."""
    argv = command.split()
    added = [
        "--junitxml=/f/junit.xml",
        "-o",
        "junit_family=xunit1",
        "-o",
        "cache_dir=/f/pytest_cache",
    ]
    want = [word for one in told.split() for word in (added if one == "ADDED" else [one])]
    assert _runner.recognise(argv, None).command(argv, "/f") == want


def test_a_plugin_that_is_switched_off_is_not_told_anything() -> None:
    """Options that it does not know are refused by pytest."""
    argv = ["pytest", "-p", "no:junitxml", "-pno:cacheprovider"]
    runner = _runner.recognise(argv, None)
    assert (runner.command(argv, "/f"), runner.junit) == (argv, None)


# --- causes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cause", "port"),
    [
        ("OSError: [Errno 98] Address already in use", _causes.IN_USE, None),
        ("Error: listen EADDRINUSE: address already in use :::8080", _causes.IN_USE, 8080),
        ("Error: listen EADDRINUSE: address already in use 127.0.0.1:81", _causes.IN_USE, 81),
        ("listen tcp 127.0.0.1:9090: bind: address already in use", _causes.IN_USE, 9090),
        ("java.net.BindException: Address already in use (Bind failed)", _causes.IN_USE, None),
        ("ERROR: port 5432 is already in use", _causes.IN_USE, 5432),
        (
            "[Errno 48] while attempting to bind on address ('::1', 8765, 0): address in use",
            _causes.IN_USE,
            8765,
        ),
        ("ConnectionRefusedError: [Errno 111] Connection refused", _causes.REFUSED, None),
        ("dial tcp 127.0.0.1:6379: connect: connection refused", _causes.REFUSED, 6379),
        ("Error: socket hang up", _causes.REFUSED, None),
        ("sqlite3.OperationalError: database is locked", _causes.DATABASE, None),
        ("psycopg.errors.UniqueViolation: duplicate key value violates", _causes.DATABASE, None),
        ("FileExistsError: [Errno 17] File exists: '/tmp/x'", _causes.FILES, None),
        ("OSError: [Errno 24] Too many open files", _causes.LIMITS, None),
        ("Failed: Timeout >5.0s", _causes.TIME, None),
        ("assert 1 == 2", _causes.OTHER, None),
    ],
)
def test_the_cause_and_the_port_in_a_text(text: str, cause: str, port: int | None) -> None:
    """In the words of Python, Node, Go, Java and the databases."""
    assert (_causes.of_text(text, ""), _causes.port_of_text(text, "")) == (cause, port)
    log = "INFO connected to port 1\n" + "line\n" * 50 + text
    assert _causes.of_text("", log) == cause


def test_the_path_in_a_text_is_not_the_runs_own() -> None:
    """Its own folder is nobody else's."""
    text = "[Errno 17] File exists: '/tmp/own/a' -> '/tmp/lock'"
    assert _causes.path_of_text(text, "/tmp/own") == "/tmp/lock"  # noqa: S108 - a text
    assert _causes.path_of_text("File exists: '/tmp/own/a'", "/tmp/own") is None  # noqa: S108


# --- what runners say -----------------------------------------------------------------------------

UNITTEST: Final = """\
test_b (m.T.test_b) ... ok
F
======================================================================
FAIL: test_a (m.T.test_a)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "m.py", line 4, in test_a
OSError: [Errno 98] Address already in use

======================================================================
ERROR: setUpClass (m.U)
----------------------------------------------------------------------
ValueError: no
"""
GO: Final = """\
=== RUN   TestA
    a_test.go:8: listen tcp 127.0.0.1:8080: bind: address already in use
--- FAIL: TestA (0.00s)
=== RUN   TestB
--- PASS: TestB (0.00s)
FAIL
"""
TAP: Final = """\
TAP version 13
ok 1 - fine
not ok 2 - serves
  ---
  error: 'listen EADDRINUSE: address already in use :::80'
not ok 3 - later # TODO not done yet
"""


@pytest.mark.parametrize(
    ("output", "names", "causes"),
    [
        (UNITTEST, ["test_a (m.T.test_a)", "setUpClass (m.U)"], [_causes.IN_USE, _causes.OTHER]),
        (GO, ["TestA"], [_causes.IN_USE]),
        (TAP, ["serves"], [_causes.IN_USE]),
        ("", [], []),
    ],
)
def test_failures_in_an_output(output: str, names: list[str], causes: list[str]) -> None:
    """Their names, and what was said of them: behind the name, or with Go before it."""
    cases = list(_spoken.failures(output))
    assert [case.name for case in cases] == names
    assert [_causes.of_text(case.message, case.text) for case in cases] == causes


def test_how_far_it_is() -> None:
    """A test done, a share done: pytest -v and -q, unittest -v, Go, TAP, CPython's runner."""
    done = [
        "tests/test_a.py::test_b PASSED    [ 50%]",
        "[gw1] [ 50%] PASSED tests/test_a.py::test_b ",
        "test_a (m.T.test_a) ... ok",
        "--- PASS: TestB (0.00s)",
        "not ok 2 - serves",
    ]
    assert all(map(_spoken.is_one_done, done))
    assert not _spoken.is_one_done("collected 3 items")
    assert _spoken.share_done("......F.  [ 42%]") == "42%"
    assert _spoken.share_done("0:00:01 load avg: 1.2 [ 3/12/1] test_ftplib passed") == "3/12"


def test_long_outputs_take_no_longer() -> None:
    """Megabytes of empty lines, of blanks, of one line: what grows with their square would hang."""
    for output in ("\n" * 3_000_000, " " * 300_000, "a" * 3_000_000, ":: " * 100_000):
        assert (
            list(_spoken.failures(output + GO)) == list(_spoken.failures(GO)) or output[-1] != "\n"
        )
        assert not _spoken.is_one_done(output)
        assert _spoken.share_done(output) is None
    assert _causes.of_text("lock " * 15_000, "") == _causes.OTHER


# --- JUnit XML ------------------------------------------------------------------------------------


def test_pytests_names_are_node_ids(tmp_path: Path) -> None:
    """From file, classes and name; the worst of a test and its teardown counts; lines from 1."""
    (tmp_path / "junit.xml").write_text(
        '<testsuites><testsuite name="pytest">'
        '<testcase classname="a.test_x.TestC" name="test_m[a.b]" file="a/test_x.py" line="4"'
        ' time="0.5"/>'
        '<testcase classname="a.test_x.TestC" name="test_m[a.b]" file="a/test_x.py" time="1">'
        '<error message="boom">Traceback\nBoom</error></testcase>'
        '<testcase classname="a.test_x" name="test_f" file="a/test_x.py"><skipped message="no"/>'
        "</testcase></testsuite></testsuites>"
    )
    found = _results.read(str(tmp_path / "junit.xml"), "")
    assert found.source == "junit"
    names = [(case.name, case.outcome) for case in found.cases]
    assert names == [
        ("a/test_x.py::TestC::test_m[a.b]", "error"),
        ("a/test_x.py::test_f", "skipped"),
    ]
    assert found.cases[0].message == "boom"


def test_other_writers_of_junit_xml(tmp_path: Path) -> None:
    """Tests outside of any suite (Node), suites in suites, a folder of files."""
    (tmp_path / "a.xml").write_text(
        '<testsuites><testcase name="serves" classname="test" time="bad"><failure message="m"/>'
        "</testcase></testsuites>"
    )
    (tmp_path / "b.xml").write_text(
        '<testsuite name="o"><testsuite name="i"><testcase name="deep" classname="C"/></testsuite>'
        '<testcase name="C.flat" classname="C"/></testsuite>'
    )
    found = _results.read(str(tmp_path), "")
    assert [case.name for case in found.cases] == ["test.serves", "C.deep", "C.flat"]


def test_junit_xml_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    """Damaged, or not there: the output counts, and the trouble is kept."""
    (tmp_path / "torn.xml").write_text("<testsuites><testsuite>")
    for name in "torn.xml", "none.xml":
        found = _results.read(str(tmp_path / name), GO)
        assert (found.source, [case.name for case in found.cases]) == ("output", ["TestA"])
        assert found.trouble is not None
        assert name in found.trouble


@pytest.mark.parametrize(
    "text",
    [
        *("", "<html/>", '<?xml version="1.0" encoding="klingon"?><testsuite/>'),
        '<?xml version="1.0" encoding="utf-16"?><testsuite/>',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><testsuite name="&e;"/>',
    ],
)
def test_junit_xml_that_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands there: it is told of, and the output counts. No other file is read."""
    (tmp_path / "a.xml").write_text(text)
    found = _results.read(str(tmp_path / "a.xml"), GO)
    assert (found.source, "cannot be read" in (found.trouble or "")) == ("output", True)


@pytest.mark.parametrize("name", ["time", "line"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e308", "9" * 5000, "", "x"])
def test_numbers_that_are_none(tmp_path: Path, name: str, value: str) -> None:
    """The test counts, and of the number nothing is known."""
    (tmp_path / "a.xml").write_text(
        f'<testsuite><testcase name="t" {name}="{value}" file="f"/></testsuite>', encoding="utf-8"
    )
    (case,) = _results.read(str(tmp_path / "a.xml"), "").cases
    assert (case.seconds, case.line) == (0.0, None)


def test_other_encodings_and_endless_messages(tmp_path: Path) -> None:
    """Latin-1 as it says; a message is no longer than a text may be."""
    (tmp_path / "a.xml").write_bytes(
        b'<?xml version="1.0" encoding="latin-1"?>'
        b'<testsuite><testcase name="\xe9"><failure message="'
        + b"x" * 1_000_000
        + b'"/></testcase></testsuite>'
    )
    (case,) = _results.read(str(tmp_path / "a.xml"), "").cases
    assert (case.name, len(case.message)) == ("\xe9", 1 << 16)


def test_the_results_of_an_older_run_are_not_taken(tmp_path: Path) -> None:
    """A folder may have files of another run: what has not changed since is not read."""
    suite = '<testsuite><testcase name="{}"/></testsuite>'
    for name in "old", "rewritten":
        (tmp_path / f"{name}.xml").write_text(suite.format(name))
    old = _results.files(str(tmp_path))
    (tmp_path / "rewritten.xml").write_text(suite.format("rewritten-now"))
    (tmp_path / "new.xml").write_text(suite.format("new"))
    found = _results.read(str(tmp_path), "", old)
    assert sorted(case.name for case in found.cases) == ["new", "rewritten-now"]
    (tmp_path / "new.xml").unlink()
    (tmp_path / "rewritten.xml").unlink()
    assert "was not written" in str(_results.read(str(tmp_path), "", old).trouble)


# --- the verdict ----------------------------------------------------------------------------------


def _told(*bad: str, alone: bool = False, good: tuple[str, ...] = ("t",)) -> Told:
    cases = [Case(name=name, outcome="passed") for name in good if name not in bad]
    cases += [Case(name=name, outcome="failed") for name in bad]
    return Told(alone, Results(tuple(cases), "junit"))


def test_company_is_blamed_for_what_never_failed_alone() -> None:
    """How often, of how many; a test that did not run alone is told of as such."""
    runs = [_told(alone=True), _told("flaky", alone=True), _told("t", "flaky"), _told("t", "new")]
    found = {one.test: one for one in verdict.compare(runs)}
    assert {name for name, one in found.items() if one.blamed} == {"t", "new"}
    assert (found["t"].runs, verdict.how_often(found["t"])) == ((2, 3), "2 of 2")
    assert (found["t"].known_alone, found["new"].known_alone) == (True, False)
    assert verdict.how_often(found["flaky"]) == "1 of 2; alone 1 of 2"


@pytest.mark.parametrize(
    ("returncode", "bad", "pytest_runs", "message"),
    [
        (0, 0, 1, None),
        (1, 1, 1, None),
        (1, 0, 1, "exit status 1"),
        (3, 1, 1, "exit status 3"),
        (3, 1, 0, None),
        (-11, 1, 0, "ended by signal 11"),
    ],
)
def test_when_the_run_itself_has_failed(
    returncode: int, bad: int, pytest_runs: int, message: str | None
) -> None:
    """Whenever its tests do not account for its exit status."""
    results = _told("t").results if bad else _told().results
    case = verdict.run_failed(
        results,
        returncode=returncode,
        timeout_s=None,
        running=None,
        pytest=bool(pytest_runs),
        text="",
    )
    assert (None if case is None else case.message) == message


# --- culprits -------------------------------------------------------------------------------------


def _bind(
    t: int, *, error: str | None = None, test: str | None = "t", pid: int = 1
) -> _trail.Event:
    return _trail.Event(
        t=t * MS,
        what=_trail.BIND,
        pid=pid,
        port=8080,
        got=None if error else 8080,
        address="127.0.0.1",
        transport="tcp",
        error=error,
        file="/home/x/t.py",
        line=7,
        test=test,
    )


def _test(what: str, t: int) -> _trail.Event:
    return _trail.Event(t=t * MS, what=what, pid=1, test="t", outcome="failed")


def _seen(begin: int, end: int, gone: int) -> Seen:
    times = {"before": begin - 10, "begin": begin, "end": end, "gone": gone}
    times = {name: when * MS for name, when in times.items()}
    return Seen("tcp", "127.0.0.1", 8080, 5, 9, "/usr/bin/srv -p 8080", **times)


def _ports(*runs: tuple[list[_trail.Event], list[Seen]]) -> _culprits.Ports:
    found = []
    for number, (events, seen) in enumerate(runs):
        found += _holdings.of_run(number, events, seen, 0, 10_000 * MS, "/home/x")
    return _culprits.Ports(found)


def _scene(run: int, events: list[_trail.Event], ports: _culprits.Ports) -> _culprits.Scene:
    return _culprits.Scene(run, 0, 10_000 * MS, events, ports, {8080: "sshd (pid 1)"}, "/r")


IN_USE: Final = Case(
    name="t", outcome="failed", message="OSError: [Errno 98] Address already in use"
)


def test_the_holder_of_that_moment_is_the_culprit() -> None:
    """The last bind that succeeded; when the bind failed, and where each was."""
    first = [_bind(10), _test(_trail.TEST_END, 100)]
    second = [_bind(200), _test(_trail.TEST_END, 400)]
    failing = [_test(_trail.TEST_START, 250), _bind(300, error="EADDRINUSE")]
    ports = _ports((first, []), (second, []), (failing, []))
    found = _culprits.explain(_scene(2, failing, ports), IN_USE)
    assert found.other is not None
    assert (found.cause, found.port, found.at) == (_causes.IN_USE, 8080, 300 * MS)
    assert (found.other.run, found.other.where(), found.gone) == (1, "t, t.py:7, pid 1", False)


def test_another_runs_client_at_ones_own_server() -> None:
    """Who came to it is told, where nothing else says why the test failed; not who came later."""
    server = [_bind(10), _test(_trail.TEST_START, 20), _test(_trail.TEST_END, 100)]
    came = _trail.Event(t=50 * MS, what=_trail.CONNECT, pid=9, port=8080, transport="tcp", test="b")
    late = _trail.Event(t=500 * MS, what=_trail.CONNECT, pid=9, port=8080, transport="tcp")
    failed = Case(name="t", outcome="failed", message="assert 'visitor 2' == 'visitor 1'")
    for visitors, who in (([came, late], "b"), ([late], None)):
        holdings = _holdings.of_run(0, server, [_seen(20, 90, 110)], 0, 10_000 * MS, "/home/x")
        visits = [
            *_holdings.visits(0, [_trail.Event(t=30 * MS, what="connect", pid=1, port=8080)], "/"),
            *_holdings.visits(1, visitors, "/home/x"),
        ]
        found = _culprits.explain(_scene(0, server, _culprits.Ports(holdings, visits)), failed)
        assert (found.visitor.test if found.visitor else None) == who
        assert found.cause == (_causes.OTHER if who is None else _causes.WRONG_SERVER)
        assert found.port == (None if who is None else 8080)


def test_a_port_in_time_wait_has_a_culprit_too() -> None:
    """Who had it shortly before; after a minute nobody is blamed but an outsider."""
    first = [_bind(10), _test(_trail.TEST_END, 100)]
    failing = [_bind(5_000, error="EADDRINUSE")]
    found = _culprits.explain(_scene(1, failing, _ports((first, []), (failing, []))), IN_USE)
    assert (found.other is not None, found.gone) == (True, True)
    failing = [_bind(70_000, error="EADDRINUSE")]
    found = _culprits.explain(_scene(1, failing, _ports((first, []), (failing, []))), IN_USE)
    assert (found.other, found.outsider) == (None, "sshd (pid 1)")


def test_without_a_trail_the_text_and_the_kernel_do() -> None:
    """The port from the text, who had it from what was seen."""
    text = "listen tcp 127.0.0.1:8080: bind: address already in use"
    case = Case(name=THE_RUN, outcome="failed", message=text)
    ports = _ports(([], [_seen(100, 300, 320)]), ([], []))
    found = _culprits.explain(_scene(1, [], ports), case)
    assert found.other is not None
    assert (found.port, found.other.where()) == (8080, "srv -p 8080 (pid 9)")


def test_when_a_port_was_given_up() -> None:
    """Between the last look at which it was there and the next; at the test's end, if it can be."""
    events = [_bind(10), _test(_trail.TEST_END, 315)]
    [found] = _holdings.of_run(0, events, [_seen(100, 300, 320)], 0, 10_000 * MS, "/home/x")
    assert (found.begin, found.end, found.latest) == (10 * MS, 315 * MS, 320 * MS)
    [found] = _holdings.of_run(0, [_bind(10)], [_seen(100, 300, 320)], 0, 10_000 * MS, "/home/x")
    assert (found.end, found.latest) == (300 * MS, 320 * MS)


def _connect(t: int, address: str = "127.0.0.1") -> _trail.Event:
    return _trail.Event(
        t=t * MS, what=_trail.CONNECT, pid=1, port=8080, address=address, transport="tcp", test="t"
    )


def _bind_of(t: int, port: int) -> _trail.Event:
    return _trail.Event(t=t * MS, what=_trail.BIND, pid=1, port=port, got=port, test="t")


FAILED: Final = _bind(100, error="failed")


@pytest.mark.parametrize(
    ("events", "outcome", "misled"),
    [
        ([FAILED, _connect(200)], "passed", True),
        ([FAILED, _connect(200, "localhost")], "passed", True),
        ([FAILED, _connect(200, "::ffff:127.0.0.1")], "passed", True),
        ([_bind_of(90, 9000), FAILED, _connect(200)], "passed", True),
        ([FAILED, _connect(200)], "failed", False),  # that is told of as a failure
        ([FAILED], "passed", False),  # it was never asked
        ([_connect(90), FAILED], "passed", False),  # asked before: it was to see who is there
        ([_connect(200)], "passed", False),  # no server of its own: a service that they share
        ([FAILED, _connect(200, "10.1.2.3")], "passed", False),  # elsewhere
        ([FAILED, _bind(150), _connect(200)], "passed", False),  # it tried again, and got it
        ([FAILED, _connect(900)], "passed", False),  # nobody had it any more
        ([FAILED, _connect(200), _bind_of(210, 8081)], "passed", False),  # looking for a free one
        ([FAILED, _connect(200), _bind(9_000)], "passed", False),  # waiting until it is free
        ([FAILED, _connect(200), _bind_of(9_000, 8081)], "passed", True),  # what it does then
        ([_bind(2, error="failed"), _connect(200)], "passed", False),  # not the other's doing
    ],
)
def test_who_passed_against_a_wrong_server(
    events: list[_trail.Event], outcome: Literal["passed", "failed"], misled: int
) -> None:
    """Only where all of it was seen: the bind that failed, who had the port, the connection."""
    other = [_bind(10), _test(_trail.TEST_END, 400)]
    told = [
        Told(alone=False, results=Results((Case(name="t", outcome=one),), "junit"))
        for one in ("passed", outcome)
    ]
    ports = _ports((other, [_seen(20, 400, 420)]), (events, []))
    found = _misled.find(told, [other, events], ports)
    assert [(one.test, one.runs, one.of) for one in found] == [("t", (1,), 2)] * misled
    for one in found:
        [finding] = one.findings
        assert (finding.cause, finding.port, finding.at) == ("wrong server", 8080, 200 * MS)
        assert finding.own is not None
        assert finding.other is not None
        assert (finding.own.error, finding.other.run) == ("failed", 0)


# --- what is shared; the kernel's tables ----------------------------------------------------------


def test_what_two_runs_used_is_shared() -> None:
    """Files by their path, services with their owner; caches are not worth a word."""
    one = Sights(files={"/tmp/state", "/x/__pycache__/y.pyc"}, services={("127.0.0.1", 5432): ""})  # noqa: S108
    two = Sights(files={"/tmp/state", "/tmp/mine"}, services={("127.0.0.1", 5432): "postgres"})  # noqa: S108
    two.files.add("/x/__pycache__/y.pyc")
    assert [str(one) for one in _shared.shared([one, two])] == [
        "/tmp/state: written in 2 runs in company",  # noqa: S108
        "127.0.0.1:5432 (postgres): a service used in 2 runs in company",
    ]
    assert str(_shared.shared([one, two], {0})[0]) == (
        "/tmp/state: written in 1 run in company, and alone"  # noqa: S108
    )
    assert str(_shared.shared([one, two, two], {0})[0]).endswith("written in 2 runs in company")
    assert not _shared.shared([one, two], {0, 1})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("assert json.loads(Path('state.json').read_text()) == 1", "/x/state.json"),
        ("E  '/x/state.json' is empty", "/x/state.json"),
        ("assert 1 == 2", None),
        ("assert mystate.json", None),
        ("state.json5", None),
    ],
)
def test_a_wrong_content_of_a_shared_file(text: str, path: str | None) -> None:
    """The failure names the file that several wrote: a matter of files; else it is a suspicion."""
    scene = _culprits.Scene(1, 0, MS, [], _ports(), {}, "/r", ["/x/other", "/x/state.json"])
    case = Case(name="t", outcome="failed", message="AssertionError", text=text)
    found = _culprits.explain(scene, case)
    if path is not None:
        assert (found.cause, found.path, found.suspects) == (_causes.FILES, path, ())
    else:
        suspects = ("/x/other", "/x/state.json")
        assert (found.cause, found.path, found.suspects) == (_causes.OTHER, None, suspects)


class _Us:
    """Ourselves, as a run."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def pids(self) -> list[int]:
        return [os.getpid()]


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is seen elsewhere")
def test_servers_services_and_files_are_seen(tmp_path: Path) -> None:
    """A listener, a bound UDP socket, and a file that is open for writing; not its own files."""
    need.capability("proc")
    own = tmp_path / "own"
    own.mkdir()
    us = cast("Run", _Us(str(own)))
    with (
        socket.create_server(("127.0.0.1", 0)) as service,
        Watch(network=True) as watch,
        (tmp_path / "state").open("w"),
        (own / "mine").open("w"),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        sights = watch.follow(us)
        ports = {("tcp", service.getsockname()[1]), ("udp", udp.getsockname()[1])}
        wait_for(lambda: ports <= {(one.transport, one.port) for one in sights.sockets})
        wait_for(lambda: str(tmp_path / "state") in sights.files)
        assert str(own / "mine") not in sights.files
        udp.close()
        wait_for(lambda: all(s.gone for s in sights.sockets if s.port == udp_port(ports)))
        assert watch.trouble is None


def udp_port(ports: set[tuple[str, int]]) -> int:
    """The port of UDP."""
    return next(port for transport, port in ports if transport == "udp")


def test_a_socket_seen_after_the_next_bind_is_that_binds() -> None:
    """A bind that came and went between two looks does not get the next one's time."""
    events = [_bind(10, test=None), _bind(90, test=None)]
    first, second = _holdings.of_run(0, events, [_seen(100, 300, 320)], 0, 1_000 * MS, "/home/x")
    assert (first.end, first.latest) == (60 * MS, 90 * MS)
    assert (second.begin, second.end) == (90 * MS, 300 * MS)
