"""`portlease repeat`: what fails only in company is found, named, and nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from _cli import CTRL_C, PORTLEASE, Terminal, environment, portlease, python
from _documents import texts
from _need import need
from _processes import HANG_S, wait_for, watched, with_ever_more_time
from _repeated import MEET, PYTEST, WITHOUT_PLUGINS, hard_coded, nothing_left, repeat, told
from portlease import PortleaseError
from portlease._repeat import _runner
from portlease._repeat._crowd import Crowd
from portlease._repeat._plan import Plan
from portlease.cli import _temporary
from portlease.cli._repeated import Shown

# The first to come has the port until all have tried; line 15 binds.
COLLIDING = (
    MEET
    + """\
import pytest
def test_web():
    with socket.socket() as server:
        server.bind(("127.0.0.1", PORT))  # the hard-coded port
        server.listen()
        meet("tried")
@pytest.fixture(autouse=True)
def tried(request):
    yield
    if request.node.name == "test_web" and ALL > 1:
        (MEET / ("tried" + os.environ["PORTLEASE_ROUND"] + "of" + str(ALL))).mkdir(exist_ok=True)
        (MEET / ("tried" + os.environ["PORTLEASE_ROUND"] + "of" + str(ALL)) / str(ME)).touch()
def test_ok(): pass
def test_bad_everywhere(): assert 0
"""
)
LINE = COLLIDING[: COLLIDING.index("server.bind")].count("\n") + 1


def test_who_had_a_hard_coded_port_is_named(tmp_path: Path) -> None:
    """Test, instance, file and line of both; what fails alone is not; by every way of telling."""
    (tmp_path / "test_it.py").write_text(COLLIDING)
    files = "--html", "page.html", "--trace", "trace.json", "--junit-out", "all.xml"
    (tmp_path / "meet").mkdir()
    with hard_coded() as port:
        done = repeat(tmp_path, port, "-n", "2", "--json", *files, "--", *PYTEST, "test_it.py")
    assert done.returncode == 1, done.stderr
    report = told(done)
    assert report["causes"] == {"address in use": 1}
    [failure] = report["failures"]
    assert (failure["test"], failure["failed"], failure["of"]) == ("test_it.py::test_web", 1, 2)
    assert (failure["alone_failed"], failure["alone_of"]) == (0, 1)
    [case] = failure["cases"]
    assert case["port"] == port
    names = {case["own"]["run"], case["other"]["run"]}
    assert names == {"instance 1", "instance 2"}
    for side in case["own"], case["other"]:
        place = side["test"], side["file"], side["line"]
        assert place == ("test_it.py::test_web", "test_it.py", LINE)
    assert case["other"]["begin_s"] < case["own"]["begin_s"] < case["other"]["end_s"]
    assert [one["test"] for one in report["alone_too"]] == ["test_it.py::test_bad_everywhere"]
    assert [run["tests"] for run in report["runs"]] == [3, 3, 3]
    _check_junit(tmp_path / "all.xml")
    _check_trace(json.loads((tmp_path / "trace.json").read_text()))
    page = (tmp_path / "page.html").read_text()
    assert f'<td class="n" data-name="port">{port}</td>' in page
    assert "had it: test_it.py::test_web" in page
    assert nothing_left(tmp_path)
    assert not (tmp_path / ".pytest_cache").exists()


def _check_junit(path: Path) -> None:
    suites = ET.parse(path).getroot().findall("testsuite")  # noqa: S314 - our own
    assert [suite.get("name") for suite in suites] == ["alone", "instance 1", "instance 2"]
    assert [suite.get("tests") for suite in suites] == ["3", "3", "3"]
    kinds = [one.get("type") for one in suites[1].iter("failure")]
    kinds += [one.get("type") for one in suites[2].iter("failure")]
    assert kinds.count("only in company: address in use") == 1


def _check_trace(trace: dict[str, list[dict[str, object]]], *, rounds: bool = False) -> None:
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "i", "s", "f"}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ph"] == "M" or isinstance(event["ts"], (int, float))
        assert event["ph"] != "X" or event["dur"] >= 0  # type: ignore[operator]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}  # type: ignore[index]
    of = " of round 1" if rounds else ""
    assert names == {"alone", f"instance 1{of}", f"instance 2{of}"}
    [start], [end] = ([e for e in events if e["ph"] == ph] for ph in "sf")
    assert start["id"] == end["id"]
    assert start["pid"] != end["pid"]
    for arrow in start, end:  # an end of a flow binds to the slice that encloses it
        assert any(
            e["ph"] == "X"
            and (e["pid"], e["tid"]) == (arrow["pid"], arrow["tid"])
            and e["ts"] <= arrow["ts"] <= e["ts"] + e["dur"]  # type: ignore[operator]
            for e in events
        )


def test_isolated_instances_cannot_collide(tmp_path: Path) -> None:
    """The same suite with --isolate: nothing fails in company but what fails alone."""
    need.capability("netns")
    (tmp_path / "test_it.py").write_text(COLLIDING)
    (tmp_path / "meet").mkdir()
    with hard_coded() as port:
        done = repeat(tmp_path, port, "-n", "2", "--isolate", "--json", "--", *PYTEST, "test_it.py")
    report = told(done)
    assert (done.returncode, report["failures"], report["isolated"]) == (0, [], True)
    assert len(report["alone_too"]) == 1


WRONG_SERVER = (
    MEET
    + """\
import unittest, threading
class Test(unittest.TestCase):
    def test_its_own_server(self):
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # passes TIME_WAIT by
        try:
            server.bind(("127.0.0.1", PORT))
            server.listen()
        except OSError:
            pass  # as a server in the background would end, unseen
        else:
            threading.Thread(target=self.serve, args=(server,), daemon=True).start()
        meet("serving")
        with socket.create_connection(("127.0.0.1", PORT)) as client:
            answer = client.recv(10)
        meet("asked")
        self.assertEqual(answer, str(ME).encode())
    def serve(self, server):
        while True:
            with server.accept()[0] as peer:
                peer.sendall(str(ME).encode())
unittest.main()
"""
)


def test_a_wrong_server_is_told_from_a_wrong_answer(tmp_path: Path) -> None:
    """unittest, known by its output: the test talked to the server of another instance."""
    (tmp_path / "suite.py").write_text(WRONG_SERVER)
    with hard_coded() as port:
        done = repeat(tmp_path, port, "-n", "2", "--json", "--", sys.executable, "suite.py")
    report = told(done)
    assert (done.returncode, report["causes"]) == (1, {"wrong server": 1}), done.stdout
    [failure] = report["failures"]
    [case] = failure["cases"]
    assert failure["test"].startswith("test_its_own_server (__main__.Test")
    assert (case["port"], case["other"]["file"]) == (port, "suite.py")
    assert case["other"]["run"] != case["run"]


# It looks at the status only: any server's will do.
MISLED = (
    MEET
    + """\
import subprocess, urllib.request
def test_api():
    server = [sys.executable, "api.py", str(PORT)]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() in {"serving\\n", ""}  # not: that it serves
            meet("started")
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/") as answer:
                assert answer.status == 200
            meet("asked")
        finally:
            process.kill()
def test_ok(): pass
"""
)
API = """\
import http.server, sys
class Server(http.server.HTTPServer):
    address_family = 2
with Server(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler) as server:
    print("serving", flush=True)
    server.serve_forever()
"""


def test_who_passed_against_a_wrong_server_is_told(tmp_path: Path) -> None:
    """All tests passed, and it is a failure all the same: with both, in words, and on the page."""
    (tmp_path / "test_it.py").write_text(MISLED)
    (tmp_path / "api.py").write_text(API)
    with hard_coded() as port:
        files = "--html", "page.html", "--trace", "trace.json"
        options = "-n", "2", "--until-failure", "--rounds", "2", *files
        done = repeat(tmp_path, port, *options, "--", *PYTEST, "test_it.py")
    assert done.returncode == 1, (done.stdout, done.stderr)
    headline = "nothing failed in company, but 1 test passed against another instance's server ("
    assert f"\n{headline}2 instances, 1 round)\n" in done.stdout
    assert "\n\npassed against a wrong server: 1\n  test_it.py::test_api  (1 of 2)\n" in done.stdout
    where = re.search(
        rf"    port {port}, bound at api.py:4; instance (\d) of .*\n    (.*)", done.stdout
    )
    assert where is not None, done.stdout
    assert "had it: test_it.py::test_api, api.py:4, pid " in where[0]
    assert where[2] == (
        f"it passed, but its own server could not bind port {port}, and it connected there: "
        f"instance {where[1]} of round 1's server answered"
    )
    page = (tmp_path / "page.html").read_text()
    assert "passed against a wrong server: 1" in page
    assert headline.replace("'", "&#x27;") in page
    _check_trace(json.loads((tmp_path / "trace.json").read_text()), rounds=True)
    assert nothing_left(tmp_path)


def test_a_run_that_passed_against_a_wrong_server(tmp_path: Path) -> None:
    """unittest, whose tests nobody names: the run as a whole; as JSON."""
    text = WRONG_SERVER.replace("self.assertEqual(answer, str(ME).encode())", "self.assertTrue(1)")
    (tmp_path / "suite.py").write_text(text)
    with hard_coded() as port:
        done = repeat(tmp_path, port, "-n", "2", "--json", "--", sys.executable, "suite.py")
    report = told(done)
    assert (done.returncode, report["failures"]) == (1, []), done.stdout
    [misled] = report["misled"]
    assert (misled["test"], misled["passed"], misled["of"]) == ("(the whole run)", 1, 2)
    assert (misled["cause"], report["passed_at_wrong_server"]) == ("wrong server", 1)
    [case] = misled["cases"]
    assert (case["port"], case["own"]["file"], case["other"]["file"]) == (
        port,
        "suite.py",
        "suite.py",
    )
    assert {case["own"]["run"], case["other"]["run"]} == {"instance 1", "instance 2"}


SHARED_FILE = (
    MEET
    + """\
import unittest
class Test(unittest.TestCase):
    def test_file(self):
        path = MEET.parent / "state.lock"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        meet("tried")
        os.close(fd)
        path.unlink()
    def tearDown(self):
        place = MEET / ("tried" + os.environ["PORTLEASE_ROUND"] + "of" + str(ALL))
        place.mkdir(parents=True, exist_ok=True)
        (place / str(ME)).touch()
unittest.main()
"""
)


def test_a_shared_file_is_told_with_its_path(tmp_path: Path) -> None:
    """Not a matter of the network, and so not of --isolate; the words for people."""
    (tmp_path / "suite.py").write_text(SHARED_FILE)
    done = repeat(tmp_path, 1, "-n", "2", "--", sys.executable, "suite.py")
    assert done.returncode == 1
    assert "failed only in company (2 instances)" in done.stdout
    assert "\nfiles: 1\n" in done.stdout
    assert f"    {tmp_path}/state.lock\n" in done.stdout
    assert "instance 1: " in done.stderr  # how far it is, a line a run


NODE = """\
const net = require("net"), fs = require("fs"), test = require("node:test");
const {MEET, HARD_CODED, PORTLEASE_INSTANCE: me, PORTLEASE_INSTANCES: all} = process.env;
test("serves", (t, done) => {
  const server = net.createServer(), place = MEET + "/of" + all;
  fs.mkdirSync(place, {recursive: true});
  const over = error => {
    fs.writeFileSync(place + "/" + me, "");
    const look = () => {
      if (!error && fs.readdirSync(place).length < all) return setTimeout(look, 5);
      // The owner has it for a while still: the failed one's run is to end before.
      setTimeout(() => { server.close(); done(error); }, error ? 0 : 700);
    };
    look();
  };
  server.on("error", over);
  server.listen(Number(HARD_CODED), "127.0.0.1", () => over());
});
test("is fine", () => {});
"""


def test_a_suite_in_node(tmp_path: Path) -> None:
    """No Python in it: JUnit XML by --junit, the port from the text, its owner from the kernel."""
    node = need.program("node")
    need.capability("proc")
    (tmp_path / "a.test.js").write_text(NODE)
    xml = "{tmp}/report.xml"
    with hard_coded() as port:
        done = repeat(
            *(tmp_path, port, "-n", "2", "--json", "--junit", xml, "--", node, "--test"),
            *("--test-reporter", "junit", "--test-reporter-destination", xml, "a.test.js"),
        )
    report = told(done)
    assert (done.returncode, report["causes"]) == (1, {"address in use": 1}), done.stdout
    [failure] = report["failures"]
    [case] = failure["cases"]
    assert ("serves" in failure["test"], case["port"], failure["failed"]) == (True, port, 1)
    assert case["other"]["run"] != case["run"]
    assert case["other"]["program"].startswith("node ")


GO = """\
package suite
import ("net"; "os"; "testing"; "time")
func TestListen(t *testing.T) {
	place := os.Getenv("MEET") + "/of" + os.Getenv("PORTLEASE_INSTANCES")
	os.MkdirAll(place, 0o755)
	me := place + "/" + os.Getenv("PORTLEASE_INSTANCE")
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("HARD_CODED"))
	os.WriteFile(me, nil, 0o644)
	if err != nil { t.Fatal(err) }
	defer listener.Close()
	for {
		found, _ := os.ReadDir(place)
		if string(rune('0'+len(found))) == os.Getenv("PORTLEASE_INSTANCES") { break }
		time.Sleep(5 * time.Millisecond)
	}
}
func TestFine(t *testing.T) {}
"""


@pytest.mark.long
def test_a_suite_in_go(tmp_path: Path) -> None:
    """`go test`, known by its output: the failed test and its port are named."""
    go = need.program("go")
    (tmp_path / "suite_test.go").write_text(GO)
    (tmp_path / "go.mod").write_text("module suite\n")
    env = {"GOFLAGS": "-mod=mod", "GOCACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    with hard_coded() as port:
        build = subprocess.run(
            [go, "test", "-c", "-o", "suite.test"],
            cwd=tmp_path,
            env={**os.environ, **env},
            check=True,
            capture_output=True,
        )
        del build
        done = repeat(tmp_path, port, "-n", "2", "--json", "--", "./suite.test", "-test.v")
    report = told(done)
    assert (done.returncode, report["causes"]) == (1, {"address in use": 1})
    [failure] = report["failures"]
    assert (failure["test"], failure["cases"][0]["port"]) == ("TestListen", port)


def test_what_fails_now_and_then_alone_is_not_blamed(tmp_path: Path) -> None:
    """A shell script that fails every second time: the second baseline shows it."""
    (tmp_path / "meet").mkdir()
    script = "mkdir $MEET/odd && exit 0; rmdir $MEET/odd; exit 1"
    done = repeat(
        *(tmp_path, 1, "-n", "2", "--jobs", "1", "--baselines", "2", "--json"),
        *("--", "sh", "-c", script),
    )
    report = told(done)
    assert done.returncode == 0
    [failure] = report["alone_too"]
    assert (failure["whole_run"], failure["failed"], failure["of"]) == (True, 1, 2)
    assert (failure["alone_failed"], failure["alone_of"]) == (1, 2)


def test_each_instance_has_its_own(tmp_path: Path) -> None:
    """Numbers, a folder, templates; --jobs; --rounds and --until-failure; --keep keeps it all."""
    (tmp_path / "meet").mkdir()
    # Fails in the second round; and whenever two of them run at once.
    script = (
        'mkdir "$MEET/alone" || exit 9; test "$TMPDIR$TMP" = "$2$2" -a -d "$2" || exit 8;'
        'echo "$1 $NAME $PORTLEASE_INSTANCE/$PORTLEASE_INSTANCES"; rmdir "$MEET/alone";'
        'test "$PORTLEASE_ROUND" != 2'
    )
    options = [
        "-n",
        "3",
        "--jobs",
        "1",
        "--rounds",
        "5",
        "--until-failure",
        "--json",
        "--keep",
        "kept",
    ]
    words = ["sh", "-c", script, "sh", "{instance}{{instance}}", "{tmp}"]
    done = repeat(tmp_path, 1, *options, "-e", "NAME=db{round}{instance}", "--", *words)
    report = told(done)
    assert done.returncode == 1
    assert [run["result"] for run in report["runs"]] == ["passed"] * 4 + ["failed"] * 3
    said = (tmp_path / "kept" / "r2i3" / "output.txt").read_text()
    assert said == "3{instance} db23 3/3\n"
    assert (tmp_path / "kept" / "a1" / "output.txt").read_text() == "1{instance} db01 1/1\n"
    assert report["failures"][0]["cases"][0]["message"] == "exit status 1"


def test_until_failure_goes_on_until_one_fails(tmp_path: Path) -> None:
    """Without --rounds it has no end; what earlier rounds have left on the disk is gone by then."""
    (tmp_path / "meet").mkdir()
    script = (
        'test "$PORTLEASE_ROUND" = 0 || ls "$(dirname "$(dirname "$TMPDIR")")" > "$MEET/folders";'
        'test "$PORTLEASE_ROUND" != 4'
    )
    options = "-n", "1", "--until-failure", "--json", "--"
    done = repeat(tmp_path, 1, *options, "sh", "-c", script)
    report = told(done)
    assert (done.returncode, report["rounds"]) == (1, 4), done.stderr
    assert [run["result"] for run in report["runs"]] == ["passed"] * 4 + ["failed"]
    assert (tmp_path / "meet" / "folders").read_text() == "r4i1\n"


def test_a_folder_without_room_is_told() -> None:
    """What is to be done about it; here it is a name that is too long, and no folder at all."""
    with pytest.raises(PortleaseError, match="make room there"), _temporary.folder("x" * 300):
        pass
    plan = Plan(
        argv=("true",),
        runner=_runner.recognise(["true"], None),
        n=1,
        jobs=1,
        rounds=1,
        until_failure=False,
        baselines=1,
        isolated=False,
        timeout_s=None,
        grace_s=1.0,
        env={},
        keep=None,
    )
    with pytest.raises(PortleaseError, match="no room for alone: cannot make /dev/null"):
        Crowd(plan, "/dev/null", Shown(plan, shown=False)).run()


def test_a_suite_that_writes_megabytes(tmp_path: Path) -> None:
    """Nobody has to read it for it to go on; N may be 1, and there may be no baseline."""
    script = "import sys\nfor n in range(80): sys.stdout.write('x' * 99_999 + '\\n')\nsys.exit(3)"
    options = "-n", "1", "--no-baseline", "--json", "--"
    done = repeat(tmp_path, 1, *options, *python(script))
    report = told(done)
    assert done.returncode == 1
    assert report["failures"][0]["cases"][0]["message"] == "exit status 3"
    assert len(report["runs"]) == 1
    assert len(report["runs"][0]["output"]) == 1 << 14
    assert any("without a baseline" in note for note in report["notes"])


def test_a_run_that_hangs_is_ended(tmp_path: Path) -> None:
    """--timeout ends the whole tree; the failure's cause is time."""
    script = "trap 'exit 7' INT; sleep 1000 & wait"

    def attempt(seconds: float) -> dict[str, Any]:
        options = "-n", "1", "--timeout", str(seconds), "--json", "--"
        done = repeat(tmp_path, 1, *options, "sh", "-c", script)
        assert done.returncode == 0  # alone it hangs as well
        return told(done)

    report = with_ever_more_time(attempt, lambda report: report["runs"][0]["left_running"])
    [failure] = report["alone_too"]
    assert (failure["cause"], report["runs"][0]["result"]) == ("time", "timeout")
    assert report["runs"][0]["status"] == 7
    assert "sleep 1000" in report["runs"][0]["left_running"][0]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--", "no-such-command-here"], 127, "command not found"),
        ([], 2, "there is no command"),
        (["--reach", "127.0.0.1:5", "--", "true"], 2, "need --isolate"),
        (["--junit", "report.xml", "--", "true"], 2, "all instances would write to it"),
        (["--html", "no/such/page.html", "--", "true"], 2, "cannot write no/such/page.html"),
        *(
            ([option, "", "--", "true"], 2, "cannot write '': the path is empty")
            for option in ("--html", "--trace", "--junit-out")
        ),
        (["--keep", ".", "--", "true"], 2, "it is not empty"),
        (["--keep", "/dev/null", "--", "true"], 2, "--keep /dev/null: File exists"),
        (["--keep", "/dev/null/x", "--", "true"], 2, "--keep /dev/null/x: Not a directory"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    """One sentence, its exit status, and nothing left."""
    done = repeat(tmp_path, 1, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert nothing_left(tmp_path)


def test_a_report_that_cannot_be_written_any_more_is_told_all_the_same(tmp_path: Path) -> None:
    """The runs have taken their time; its exit status says that something was not done."""
    (tmp_path / "out").mkdir()
    options = "-n", "1", "--no-baseline", "--html", "out/page.html", "--"
    done = repeat(tmp_path, 1, *options, "rmdir", "out")
    assert done.returncode == 125
    assert "nothing failed in company" in done.stdout
    assert "portlease: cannot write out/page.html" in done.stderr.splitlines()[-1]
    assert nothing_left(tmp_path)


# --- ends -----------------------------------------------------------------------------------------

SLEEPERS = 'setsid sleep 1000 & sleep 1000 & echo $! $$ > "$MEET/$PORTLEASE_INSTANCE"; wait'


def _sleepers(folder: Path, count: int) -> list[int]:
    """The process ids that the instances have written."""
    files = [folder / "meet" / str(n) for n in range(1, count + 1)]
    wait_for(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files))
    return [int(word) for file in files for word in file.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM and SIGKILL: no process of any instance is left, nor the temporary folder."""
    need.capability("subreaper")
    (tmp_path / "meet").mkdir()
    (tmp_path / "tmp").mkdir()
    env = environment({"MEET": str(tmp_path / "meet"), "TMPDIR": str(tmp_path / "tmp")})
    options = "-n", "2", "--no-baseline", "--", "sh", "-c", SLEEPERS
    with (
        subprocess.Popen(
            [*PORTLEASE, "repeat", *options],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        watched(_sleepers(tmp_path, 2)) as all_ended,
    ):
        process.send_signal(number)
        out, _ = process.communicate(timeout=HANG_S)
        assert not all_ended()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert [line.split()[2] for line in out.splitlines()[1:3]] == ["stopped", "stopped"]
    wait_for(lambda: nothing_left(tmp_path))


def test_ctrl_c_and_the_live_table(tmp_path: Path) -> None:
    """On a terminal: a line for each instance; Ctrl-C stops all of it, once, with status 130."""
    need.capability("subreaper")
    (tmp_path / "meet").mkdir()
    (tmp_path / "tmp").mkdir()
    script = "echo here I am; " + SLEEPERS
    env = {"MEET": str(tmp_path / "meet"), "TMPDIR": str(tmp_path / "tmp")}
    options = ["repeat", "-n", "2", "--no-baseline", "--", "sh", "-c", script]
    with Terminal(options, env) as terminal, watched(_sleepers(tmp_path, 2)) as all_ended:
        terminal.expect("round 1 of 1")
        terminal.expect("instance 2")
        terminal.expect("here I am")
        terminal.type(CTRL_C)
        status, _ = terminal.exit_status()
        assert status == 130
        assert not all_ended()
    wait_for(lambda: nothing_left(tmp_path))


# --- the documentation ----------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[1] / "docs" / "repeat.md"


def test_the_document_shows_what_is(tmp_path: Path) -> None:
    """Its suite, run as it says: what is printed is what it shows, but for numbers and rounds."""
    need.capability("netns")
    (tmp_path / "test_web.py").write_text(texts(DOCUMENT, "python")[0])
    bin_folder = str(Path(sys.executable).parent)
    env = environment(
        {
            **WITHOUT_PLUGINS,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTEST_ADDOPTS": "-p portlease.pytest_plugin",
        }
    )
    for session in texts(DOCUMENT, "console")[:2]:
        command, _, shown = session.partition("\n")
        done = subprocess.run(  # noqa: S602 - as a reader would
            command.removeprefix("$ "),
            shell=True,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert _normal(done.stdout) == _normal(shown), done.stderr
        assert done.returncode == ("--isolate" not in command)


def _normal(text: str) -> list[str]:
    """Numbers differ from run to run; and which round is the first in which they meet."""
    text = re.sub(r"\d+(\.\d+)?", "N", text.strip()).replace("N rounds", "N round")
    lines = [line.rstrip() for line in text.splitlines()]
    return [re.sub(" +", " ", line) for line in lines if not line.startswith("instance")]


def test_the_document_names_every_option() -> None:
    """Each option that the document speaks of is there."""
    shown = repeat_help()
    named = set(re.findall(r"`(--[a-z-]+)", DOCUMENT.read_text()))
    assert len(named) > 10
    assert {one for one in named if one not in shown} == set()


def repeat_help() -> str:
    """What --help says."""
    return portlease("repeat", "--help").stdout
