"""What the audit says, where it writes it, and its exit status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _audited import audit, python
from _brokered import need_broker
from _cli import PORTLEASE, end, environment, started
from _need import need, netns_command
from _processes import HANG_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

if sys.platform != "linux":
    pytest.skip("the observer is Linux's", allow_module_level=True)

SOURCE = "import socket\nsocket.create_server(('127.0.0.1', 18500)).close()\n"


def run(
    folder: Path,
    *words: str | Path,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the audit itself, without --json."""
    need_broker()
    return subprocess.run(
        [*before, *netns_command([*PORTLEASE, "audit", *map(str, words)])],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(env),
        timeout=HANG_S,
        check=False,
    )


def test_strict_and_a_baseline(tmp_path: Path) -> None:
    """Old sins are known by their line's text, wherever it moves; a new one is not."""
    program = python(tmp_path, SOURCE)
    strict = ("--strict", "--baseline", "known.json")
    first = run(tmp_path, "--strict", "--", *program)
    assert (first.returncode, first.stdout) == (1, "")
    assert "18500/tcp  hard-coded  127.0.0.1  reuseaddr      1  program.py:2\n" in first.stderr
    assert "program.py:2: error: port 18500 (tcp, 127.0.0.1) is hard-coded [PL001" in first.stderr
    assert "1 bind (1 hard-coded); 1 error found\n" in first.stderr
    written = run(tmp_path, *strict, "--write-baseline", "--", *program)
    assert (written.returncode, "known.json now knows 1 finding" in written.stderr) == (0, True)
    python(tmp_path, "\n\n" + SOURCE)
    known = run(tmp_path, *strict, "--", *program)
    assert (known.returncode, "nothing new found; 1 known" in known.stderr) == (0, True)
    python(tmp_path, SOURCE.replace("18500", "18501"))
    new = run(tmp_path, *strict, "-q", "--", *program)
    assert new.returncode == 1
    assert new.stderr.startswith("program.py:2: error: port 18501")
    assert run(tmp_path, "--strict", "--ignore", "PL001", "--", *program).returncode == 0


def test_sarif_page_and_trail(tmp_path: Path) -> None:
    """Each in a file of its own; JSON on standard output, where the command's does not go."""
    program = python(tmp_path, SOURCE + "print('said')\n")
    options = ("--sarif", "a.sarif", "--html", "a.html", "--trail", "a.jsonl")
    seen = audit(*program, options=options, cwd=tmp_path)
    assert seen.status == 0
    assert "said" in seen.said
    assert seen.document["counts"] == {"hard-coded": 1}
    log: dict[str, Any] = json.loads((tmp_path / "a.sarif").read_text())
    (result,) = log["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert log["runs"][0]["tool"]["driver"]["name"] == "portlease audit"
    assert (result["ruleId"], result["level"]) == ("PL001", "error")
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("program.py", 2)
    page = (tmp_path / "a.html").read_text()
    assert "portlease audit: " in page
    assert "18500" in page
    kept = (tmp_path / "a.jsonl").read_text().splitlines()
    whats = [json.loads(line)["what"] for line in kept]
    assert whats == ["process", "place", "bind", "listen"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--baseline", "not-there.json", "--", "true"), "cannot read the baseline"),
        (("--write-baseline", "--", "true"), "needs --baseline FILE"),
        (("--select", "PL9", "--", "true"), "there is no rule 'PL9'"),
        (("--trail", ".", "--", "true"), "cannot write the trail"),
        (("--html", "no-folder/x.html", "--", "true"), "cannot write no-folder/x.html"),
        (("--html", ".", "--", "true"), "cannot write .: it is a folder"),
        (("--trail", "no-folder/x", "--", "true"), "cannot write the trail"),
        (
            ("--baseline", "no-folder/x.json", "--write-baseline", "--", "true"),
            "cannot write no-folder/x.json",
        ),
        *(
            ((option, "", "--", "true"), "cannot write '': the path is empty")
            for option in ("--html", "--sarif", "--trail")
        ),
        (("--baseline", "", "--write-baseline", "--", "true"), "cannot write '': the path is"),
        ((), "there is no command; it comes last: -- COMMAND ARGS"),
    ],
)
def test_what_can_never_work_is_told_before_the_run(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """In one sentence, with status 2."""
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[0]


def test_what_was_found_is_told_before_it_is_written(tmp_path: Path) -> None:
    """The run has taken its time: a file that cannot be written any more must not cost it."""
    need_broker()
    (tmp_path / "out").mkdir()
    program = python(tmp_path, SOURCE + "import os; os.rmdir('out')\n")
    done = run(tmp_path, "--html", "out/page.html", "--", *program)
    assert done.returncode == 2
    assert "port 18500 (tcp, 127.0.0.1) is hard-coded" in done.stderr
    assert "cannot write out/page.html" in done.stderr.splitlines()[-1]


def test_a_signal_while_a_file_is_written_is_no_sudden_death(tmp_path: Path) -> None:
    """What is half written is cleaned up after; the exit status is the signal's."""
    page = tmp_path / "page"
    os.mkfifo(page)
    more_than_fits = "x" * 100_000
    with (
        started("audit", "--html", page, "--only-python", "--", "true", more_than_fits) as audited,
        page.open("rb"),  # it is being written now
    ):
        assert end(audited, signal.SIGTERM)[0] == 128 + signal.SIGTERM


# --- a command that could not be watched ----------------------------------------------------------


def broken(folder: Path, entrant: str) -> dict[str, str]:
    """An environment with a portlease whose entrant, which is to become the command, is this."""
    copy = folder / "broken" / "portlease"
    shutil.copytree(Path(portlease.__file__).parent, copy)
    (copy / "_audit" / "_enter.py").write_text(entrant)
    return {"PYTHONPATH": str(copy.parent)}


DEFECT = "raise RuntimeError('a defect')"
KILLED = "import os; os.kill(os.getpid(), 9)"
NOT_WATCHED = "before it could be watched: nothing of it was run, nothing was seen; --only-python"


@pytest.mark.parametrize(
    ("entrant", "status", "how"),
    [(DEFECT, 125, "exit status 1"), ("", 125, "exit status 0"), (KILLED, 137, "signal 9")],
)
def test_an_audit_that_saw_nothing_is_no_clean_one(
    tmp_path: Path, entrant: str, status: int, how: str
) -> None:
    """It says so in text, JSON and page; what others would take for a clean one is not written."""
    env = broken(tmp_path, entrant)
    note = f"portlease: the command ended ({how}) {NOT_WATCHED}"
    options = ("--strict", "-q", "--json")
    ended = [run(tmp_path, option, "--", "touch", "begun", env=env) for option in options]
    for done in ended:
        assert done.returncode == status
        assert (note in done.stderr, "nothing was seen\n" in done.stderr) == (True, True)
        assert ("RuntimeError: a defect\n" in done.stderr) == (entrant == DEFECT)
        assert ("nothing found" in done.stderr, (tmp_path / "begun").exists()) == (False, False)
    document = json.loads(ended[-1].stdout)
    assert document["status"] == status
    assert NOT_WATCHED in document["notes"][0]
    known = tmp_path / "known.json"
    known.write_text("old")
    files = ("--html", "a.html", "--sarif", "a.sarif", "--baseline", "known.json")
    done = run(tmp_path, *files, "--write-baseline", "--", "true", env=env)
    assert done.returncode == status
    assert "portlease: a.sarif is not written\nportlease: known.json is not" in done.stderr
    assert (known.read_text(), (tmp_path / "a.sarif").exists()) == ("old", False)
    page = (tmp_path / "a.html").read_text()
    assert '<p class="verdict bad">nothing was seen</p>' in page
    assert NOT_WATCHED in page


@pytest.mark.parametrize(
    ("command", "status"),
    [(("true",), 0), (("false",), 1), (("sh", "-c", "kill -9 $$"), 137)],
)
def test_a_command_that_ends_at_once_was_watched(
    tmp_path: Path, command: tuple[str, ...], status: int
) -> None:
    """Its status is its own, and that nothing was found means that there was nothing."""
    done = run(tmp_path, "--", *command)
    assert (done.returncode, done.stderr) == (status, "portlease: 0 binds; nothing found\n")


def test_a_trail_that_the_command_removes(tmp_path: Path) -> None:
    """The command is not disturbed, and what is lost is told."""
    done = run(tmp_path, "--trail", "a.jsonl", "--", "rm", "a.jsonl")
    assert done.returncode == 125
    assert "what was seen is lost" in done.stderr
    assert "--trail" in done.stderr


def test_where_the_kernel_refuses(tmp_path: Path) -> None:
    """It says why, with the remedy, and Python is seen all the same; nothing was begun twice."""
    number = {"x86_64": 317, "aarch64": 277}.get(os.uname().machine)
    if number is None:
        pytest.skip("seccomp's number is not known here")
    forbid = [sys.executable, str(Path(__file__).parent / "_forbid.py"), str(number), "1"]
    source = SOURCE + "print('begun')\n"
    done = run(tmp_path, "--", *python(tmp_path, source), before=forbid)
    assert (done.returncode, done.stdout) == (0, "begun\n")
    first = done.stderr.splitlines()[0]
    assert "only what Python programs bind is seen: a seccomp profile forbids seccomp(2)" in first
    assert "seccomp=unconfined" in first
    assert "1 bind (1 hard-coded); 1 error found" in done.stderr


AS_USER = """
import sys
sys.path[:0] = sys.argv.pop(1).split(":")
from portlease.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_ordinary_user() -> None:
    """All of it without privileges, at the price of no_new_privs."""
    need_broker()
    need.capability("other_user")
    import click
    import rich

    libraries = {str(Path(str(one.__file__)).parents[1]) for one in (portlease, click, rich)}
    source = (
        "import socket; socket.create_server(('127.0.0.1', 18510)); "
        "print(open('/proc/self/status').read().partition('NoNewPrivs:')[2][:3].split())"
    )
    words = ["audit", "--json", "--", need.everybodys_python(), "-c", source]
    script = [need.everybodys_python(), "-c", AS_USER, ":".join(sorted(libraries)), *words]
    become = (
        "import os, sys; os.setgroups([]); os.setresgid(65534, 65534, 65534); "
        "os.setresuid(65534, 65534, 65534); os.chdir('/'); os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        netns_command([sys.executable, "-I", "-S", "-c", become, *script]),
        capture_output=True,
        text=True,
        env=environment({"TMPDIR": "/tmp"}),  # noqa: S108 - everybody's
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "['1']\n"
    (bind,) = json.loads(done.stdout)["binds"]
    assert (bind["port"], bind["got"], bind["file"]) == (18510, 18510, "<string>")
