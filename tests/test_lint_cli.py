"""`portlease lint`: what it looks at, how it tells, and with which status it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from _cli import Terminal, portlease
from _lint import findings
from _need import need
from portlease._errors import UsageError
from portlease._findings import _allow, _baseline, _file, _rules, _sarif
from portlease._findings._finding import Finding
from portlease._lint import _files, _run

ROOT = Path(__file__).parents[1]
SUITE = """\
import socket


def test_server():
    with socket.create_server(("127.0.0.1", 18080)):
        socket.create_connection(("127.0.0.1", 18080)).close()
"""


def lines(text: str) -> list[str]:
    """The codes at the lines of an output for editors."""
    return [
        f"{m[1]} {m[2]}" for m in re.finditer(r"^[^:\n]+:(\d+):\d+: (PL\d+) ", text, re.MULTILINE)
    ]


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a test in it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test_it.py"
    path.write_text(SUITE)
    return path


# --- the command --------------------------------------------------------------------------------


def test_in_a_pipe_each_finding_is_a_line(suite: Path) -> None:
    """Path, line, column, code, fact, remedy; the sum goes to standard error; status 1."""
    done = portlease("lint")
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert first == (
        "test_it.py:5:45: PL001 port 18080 is hard-coded: create_server() binds it; "
        + _rules.RULES["PL001"].remedy
    )
    assert second.startswith("test_it.py:6:48: PL002 port 18080 is hard-coded: create_connection()")
    assert done.stderr == "portlease: 2 findings in 1 of 1 file\n"
    suite.write_text("import socket\n")
    done = portlease("lint", suite)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "portlease: nothing found in 1 file\n"


def test_on_a_terminal_they_are_grouped(suite: Path) -> None:
    """By file, in colours, with the remedy below."""
    del suite
    with Terminal(["lint", "--select", "PL001"]) as terminal:
        code, seen = terminal.exit_status()
    assert code == 1
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert "\x1b[" in seen
    assert re.search(
        r"^test_it\.py\r\n +5:45  PL001  port 18080 is hard-coded", plain, re.MULTILINE
    )
    assert "take the fixture leased_port" in plain


def test_json_and_sarif(suite: Path) -> None:
    """The same findings for programs and for code hosts."""
    done = portlease("lint", "--json", "--sarif", "out.sarif")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert (told["files"], told["known"]) == (1, 0)
    assert [
        (one["path"], one["line"], one["code"], one["rule"], one["level"], one["fix"])
        for one in told["findings"]
    ] == [
        ("test_it.py", 5, "PL001", "hard-coded-port", "error", True),
        ("test_it.py", 6, "PL002", "hard-coded-peer", "warning", False),
    ]
    log = json.loads((suite.parent / "out.sarif").read_text())
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    rules = run["tool"]["driver"]["rules"]
    assert {rule["id"] for rule in rules} == set(_rules.RULES)
    first, second = run["results"]
    assert rules[first["ruleIndex"]]["id"] == first["ruleId"] == "PL001"
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "test_it.py", "uriBaseId": "ROOT"}
    assert place["region"] == {"startLine": 5, "startColumn": 45, "endLine": 5, "endColumn": 50}
    assert first["partialFingerprints"] != second["partialFingerprints"]


def test_standard_input(suite: Path) -> None:
    """`-` reads it, and it has a name of one's choice."""
    del suite
    done = portlease("lint", "-", stdin=SUITE)
    assert done.returncode == 1
    assert done.stdout.startswith("<stdin>:5:45: PL001 ")
    done = portlease("lint", "-", "--stdin-filename", "tests/test_b.py", stdin=SUITE)
    assert done.stdout.startswith("tests/test_b.py:5:45: PL001 ")


def test_what_cannot_be_read_is_told_and_the_rest_is_looked_at(suite: Path) -> None:
    """Syntax errors and foreign encodings: file and line, and on to the next."""
    (suite.parent / "test_broken.py").write_text("def f(:\n")
    (suite.parent / "test_latin.py").write_bytes(b"x = 1\ny = '\xe9'\n")
    done = portlease("lint")
    assert done.returncode == 1
    broken, *rest, latin = done.stdout.splitlines()
    assert re.match(r"test_broken\.py:1:\d+: PL000 no Python: ", broken)
    assert latin.startswith("test_latin.py:2: PL000 byte 0xe9 is not utf-8, ")
    assert lines("\n".join(rest)) == ["5 PL001", "6 PL002"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "there is no file or folder nowhere"),
        (("--select", "PL9"), "there is no rule PL9; there are PL000 (unreadable)"),
        (("--write-baseline",), "--write-baseline needs --baseline FILE"),
        (("--fix", "--diff"), "--fix writes and --diff does not"),
        (("--fix", "-"), "- is standard input, which cannot be rewritten"),
        (("--baseline", "nowhere.json"), "cannot read the baseline nowhere.json"),
        (("--diff", "--json"), "--diff writes no findings"),
    ],
)
def test_wrong_calls(suite: Path, arguments: tuple[str, ...], said: str) -> None:
    """Status 2, and what is wrong."""
    del suite
    done = portlease("lint", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_rules_are_selected_and_ignored() -> None:
    """By code, by the beginning of some, and by name."""
    assert _rules.chosen(["PL001"], []) == {"PL000", "PL001"}
    assert _rules.chosen(["hard-coded-port", "pl003"], []) == {"PL000", "PL001", "PL003"}
    assert _rules.chosen([], []) == set(_rules.RULES)
    assert _rules.chosen(["PL"], ["PL000", "every-interface"]) == set(_rules.RULES) - {
        "PL000",
        "PL005",
    }
    with pytest.raises(KeyError):
        _rules.chosen(["E501"], [])


# --- files --------------------------------------------------------------------------------------


def test_which_files_are_looked_at(tmp_path: Path) -> None:
    """Those of tests, wherever they are; none that others made."""
    tmp_path /= "project"
    wanted = ["test_a.py", "a_test.py", "conftest.py", "tests/helper.py", "pkg/testing/x.py"]
    others = ["app.py", "pkg/latest.py", "setup.py", "tests/data.txt"]
    excluded = [".venv/tests/test_v.py", "node_modules/test_n.py", "mine/tests/test_m.py"]
    for name in [*wanted, *others, *excluded]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "mine" / "pyvenv.cfg").touch()

    def names(*paths: Path, choice: _files.Choice | None = None) -> set[str]:
        given = [str(path) for path in paths or (tmp_path,)]
        found = _files.collect(given, choice or _files.Choice())
        return {Path(name).relative_to(tmp_path).as_posix() for name in found}

    assert names() == set(wanted)
    python = {name for name in others if name.endswith(".py")}
    assert names(choice=_files.Choice(every=True)) == {*wanted, *python}
    assert names(choice=_files.Choice(exclude=("tests", "*_test.py"))) == {
        "test_a.py",
        "conftest.py",
        "pkg/testing/x.py",
    }
    assert names(tmp_path / "app.py", tmp_path / "app.py") == {"app.py"}
    assert names(tmp_path / "tests") == {"tests/helper.py"}


def test_many_files_are_looked_at_by_several_processes(tmp_path: Path) -> None:
    """With the findings in the same order."""
    for number in range(_run._MANY + 5):
        (tmp_path / f"test_{number:03}.py").write_text(f"s.bind(('127.0.0.1', {2000 + number}))\n")
    done = portlease("lint", "--select", "PL001", tmp_path)
    assert f"in {_run._MANY + 5} of {_run._MANY + 5} files" in done.stderr
    told = [int(line.split()[3]) for line in done.stdout.splitlines()]
    assert told == [2000 + number for number in range(_run._MANY + 5)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pytest.ini", "[pytest]\nportlease_takeover = true\n", True),
        ("pyproject.toml", '[tool.pytest.ini_options]\nportlease_takeover = "true"\n', True),
        ("tox.ini", "[pytest]\nportlease_takeover = false\n", False),
        ("setup.cfg", "[metadata]\n", False),
    ],
)
def test_the_ini_file_says_whether_helpers_are_taken_over(
    tmp_path: Path, name: str, text: str, *, expected: bool
) -> None:
    """Found above the tests, too."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / name).write_text(text)
    assert _files.takes_over(str(tmp_path / "tests")) is expected


# --- allowed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("s.bind(('', 8080))  # portlease: allow", []),
        ("s.bind(('', 8080))  # portlease: allow[PL001] the device has it", ["1 PL005"]),
        ("s.bind(('', 8080))  # portlease: allow[PL001, every-interface]", []),
        ("s.bind(('', 8080))  # portlease: allow[PL003]", ["1 PL005", "1 PL001"]),
        ("s.bind(('', 8080))  # portlease: allowed", ["1 PL005", "1 PL001"]),
        (
            "# portlease: allow[PL001]\ns.bind(('127.0.0.1', 8080))\ns.bind(('::1', 8080))",
            ["3 PL001"],
        ),
        ("s.bind(\n    (\n        '127.0.0.1',\n        8080,\n    )\n)  # portlease: allow", []),
        ("# portlease: allow\ndef test():\n    x = 1\n    s.bind(('::1', 8080))", []),
        ("# portlease: allow\n\n@deco\ndef test():\n    s.bind(('::1', 8080))", []),
        ("def test():  # portlease: allow\n    s.bind(('::1', 8080))", ["2 PL001"]),
        ("with x:  # portlease: allow\n    s.bind(('::1', 8080))", ["2 PL001"]),
        ("x = '# portlease: allow'; s.bind(('::1', 8080))", ["1 PL001"]),
        ("s.bind(('::1', 8080))\nx = 1\n# portlease: allow-file[PL001]", []),
        ("s.bind(('::1', 8080)) # portlease: allow-file-x", ["1 PL001"]),
    ],
)
def test_comments_allow(source: str, left: list[str]) -> None:
    """A line, a statement, a block, a file; with codes or without."""
    assert [f"{one.line} {one.code}" for one in findings(source)] == left


def test_allowed_by_path_for_the_audit(tmp_path: Path) -> None:
    """Without a tree the comment's own line counts; a file that is not there allows nothing."""
    path = tmp_path / "x.py"
    path.write_text("a = 1\nb = 2  # portlease: allow[PL004]\n")
    assert _allow.covers_path(str(path), 2, "PL004")
    assert not _allow.covers_path(str(path), 2, "PL001")
    assert not _allow.covers_path(str(path), 1, "PL004")
    assert not _allow.covers_path(str(tmp_path / "none.py"), 1, "PL004")
    assert _allow.read("x = (  # portlease: allow\n").covers(1, "PL001")


# --- baseline -----------------------------------------------------------------------------------


def test_a_baseline_silences_what_is_known(suite: Path) -> None:
    """Written once, it outlives moved lines, and tells what is new and what is gone."""
    done = portlease("lint", "--baseline", "known.json", "--write-baseline")
    assert (done.returncode, done.stdout) == (0, "")
    assert "2 findings written to known.json" in done.stderr
    done = portlease("lint", "--baseline", "known.json")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "portlease: nothing found in 1 file, 2 known\n"
    moved = "# a line\n\n" + SUITE.replace("    with", "\n    with")
    suite.write_text(
        moved + "\n\ndef test_more():\n    socket.create_server(('', 18081)).close()\n"
    )
    done = portlease("lint", "--baseline", "known.json")
    assert done.returncode == 1
    assert lines(done.stdout) == ["13 PL005", "13 PL001"]
    suite.write_text(SUITE.replace("socket.create_connection", "print"))
    done = portlease("lint", "--baseline", "known.json")
    assert done.returncode == 0
    assert "1 finding of the baseline is no longer there" in done.stderr


def _finding(text: str, line: int = 1, code: str = "PL001") -> Finding:
    return Finding("t.py", line, 1, line, 2, code, "m", "r", text)


def test_a_second_copy_of_a_known_line_is_new(tmp_path: Path) -> None:
    """Each entry counts; blanks do not."""
    path = str(tmp_path / "b.json")
    assert _baseline.write(path, [_finding("a"), _finding("a", 5), _finding("b")]) == 3
    known = _baseline.read(path)
    new, old = known.sort_out([_finding("a  ", 7), _finding("a", 8), _finding("a", 9)])
    assert ([one.line for one in new], len(old)) == ([9], 2)
    assert known.gone([_finding("a")]) == [
        _baseline.Entry("t.py", "PL001", "a", 1),
        _baseline.Entry("t.py", "PL001", "b", 1),
    ]
    assert known.sort_out([_finding("a", code="PL002")])[0]
    assert len(set(_baseline.fingerprints([_finding("a"), _finding("a"), _finding("b")]))) == 3


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "\x00"),
        '{"portlease-baseline": 2, "findings": []}',
        '{"portlease-baseline": 1}',
        '{"portlease-baseline": 1, "findings": [{"path": "x"}]}',
        '{"portlease-baseline": 1, "findings": [{"path": 1, "code": "", "text": "", "times": 1}]}',
        *(
            '{"portlease-baseline": 1, "findings": [{"path": "a", "code": "PL001", "text": "", '
            f'"times": {times}}}]}}'
            for times in ("-3", "0", "true", "1.5", '"1"', "NaN", "[" * 100_000)
        ),
    ],
)
def test_a_damaged_baseline_is_refused(tmp_path: Path, text: str) -> None:
    """With the remedy."""
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="write it anew with --write-baseline"):
        _baseline.read(str(path))


def test_files_are_written_whole(tmp_path: Path) -> None:
    """Permissions stay, a link stays a link, and nothing is left behind where it cannot be."""
    path = tmp_path / "b.json"
    path.write_text("old")
    path.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    _file.write_whole(str(link), b"new")
    assert (path.read_text(), path.stat().st_mode & 0o777, link.is_symlink()) == (
        "new",
        0o640,
        True,
    )
    with pytest.raises(UsageError, match="cannot write"):
        _file.write_whole(str(tmp_path / "none" / "b.json"), b"x")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.json", "link.json"]


def test_whether_a_file_can_be_written_is_known_before(tmp_path: Path) -> None:
    """What replaces a file needs its folder, a link's where it leads; a device is written to."""
    (tmp_path / "link.json").symlink_to(tmp_path / "none" / "b.json")
    for name in ("b.json", "/dev/null"):
        _file.must_be_writable(str(tmp_path / name))
    for name in ("none/b.json", "link.json", "/dev/null/b.json", "."):
        with pytest.raises(UsageError, match="cannot write"):
            _file.must_be_writable(str(tmp_path / name))
    assert [one.name for one in tmp_path.iterdir()] == ["link.json"]


def test_a_program_without_source_in_sarif() -> None:
    """As the audit finds it: no region, an absolute path as a URI."""
    found = Finding("/usr/bin/redis server", None, None, None, None, "PL001", "m", "r", "t")
    log: dict[str, Any] = _sarif.document([found], tool="portlease audit")
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "file:///usr/bin/redis%20server"}}
    assert found.place == "/usr/bin/redis server"


# --- the hook for pre-commit --------------------------------------------------------------------


def _hooks() -> list[dict[str, str]]:
    """The hooks; the file's YAML is of the plainest."""
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    anchors = dict(re.findall(r"&(\w+) '(.*)'$", text, re.MULTILINE))
    hooks = []
    for block in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
        pairs = dict(re.findall(r"^ *(\w+): (.*)$", block, re.MULTILINE))
        files = pairs["files"]
        pairs["files"] = anchors[files[1:].split()[0]]
        hooks.append(pairs)
    return hooks


def test_the_entries_of_the_hooks_run(suite: Path) -> None:
    """On the files that pre-commit would give them; the second one mends what the first tells."""
    first, second = _hooks()
    assert (first["id"], second["id"]) == ("portlease-lint", "portlease-lint-fix")
    program, *arguments = first["entry"].split()
    assert shutil.which(program, path=str(Path(sys.executable).parent))
    assert portlease(*arguments, suite.name).returncode == 1
    program, *arguments = second["entry"].split()
    assert portlease(*arguments, suite.name).returncode == 0
    assert "leased_port" in suite.read_text()
    for hook in (first, second):
        chosen = re.compile(hook["files"])
        for path in ("tests/x.py", "a/test_b.py", "b_test.py", "conftest.py", "t/y.py"):
            assert chosen.search(path), path
        for path in ("src/app.py", "latest.py", "contest.py", "docs/conf.py"):
            assert not chosen.search(path), path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_no_ordinary_file_is_written_to(tmp_path: Path) -> None:
    """A named pipe, and as root /dev/null, are not replaced by a file; nobody else's remains."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    _file.write_whole(str(pipe), b"data")
    reader.join()
    assert (read, pipe.is_fifo()) == ([b"data"], True)
    _file.write_whole("/dev/null", b"data")
    assert not Path("/dev/null").is_file()
    with pytest.raises(UsageError, match="cannot write"):
        _file.write_whole(str(tmp_path), b"data")
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_a_file_that_is_written_anew_keeps_its_owner(tmp_path: Path) -> None:
    """Root may rewrite what is somebody else's."""
    need.capability("root")
    path = tmp_path / "test_it.py"
    path.write_text(SUITE)
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    assert "rewrote 1 test" in portlease("lint", "--fix", path).stderr
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 4321, 0o640)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipes_and_names_that_are_no_text(suite: Path) -> None:
    """A pipe in the folder is not waited for; a name in bytes is told, in SARIF as those bytes."""
    os.mkfifo(suite.with_name("test_pipe.py"))
    name = b"test_\xff.py"
    try:
        Path(os.fsdecode(name)).write_text(SUITE)
    except OSError as error:  # APFS takes UTF-8 alone
        need.missing("a file system that takes any name", str(error))
    done = portlease("lint", "--sarif", "out.sarif")
    assert (done.returncode, "4 findings in 2 of 2 files" in done.stderr) == (1, True)
    log = json.loads(Path("out.sarif").read_text())
    uris = {
        one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for one in log["runs"][0]["results"]
    }
    assert uris == {"test_it.py", "test_%FF.py"}
