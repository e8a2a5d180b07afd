"""The drop-in for test.support.script_helper: every name, with and without the `test` package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import unittest
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import _interpreters
import _stripped
from _processes import HANG_S
from portlease import script_helper

if TYPE_CHECKING:
    import types

# The public names of CPython 3.11 to 3.14 together, from their sources; what a version imports
# into its module for its own use, and thereby offers, is among them.
NAMES = {
    "assert_python_failure",
    "assert_python_ok",
    "interpreter_requires_environment",
    "kill_python",
    "make_legacy_pyc",
    "make_pkg",
    "make_script",
    "make_zip_pkg",
    "make_zip_script",
    "run_python_until_end",
    "run_test_script",
    "source_from_cache",
    "spawn_python",
}


def test_every_name_is_offered() -> None:
    """Every public name of every supported version is there."""
    assert set(script_helper.__all__) == NAMES
    assert all(hasattr(script_helper, name) for name in NAMES)


USE_EVERYTHING = """
import os, subprocess, sys
from portlease.script_helper import *

assert not interpreter_requires_environment() or "PYTHONHOME" in os.environ
script = make_script(".", "script", "print('it runs')")
print(assert_python_ok(script).out)
print(assert_python_failure("-c", "raise SystemExit(3)").rc)
process = spawn_python("-c", "print(input())")
process.stdin.write(b"typed")
print(kill_python(process))
make_pkg("package")
main = make_script(".", "__main__", "print('from a zip file')")
print(assert_python_ok(make_zip_script(".", "one", main)[0]).out)
archive, inside = make_zip_pkg(".", "two", "pkg", "mod", "print('zipped')", 2, True)
print(run_python_until_end("-c", "import pkg.pkg.mod", PYTHONPATH=archive + os.pathsep
      + os.environ.get("PYTHONPATH", ""))[0].out)
assert not [name for name in sys.modules if name == "test" or name.startswith("test.")]
try:
    import test
except ModuleNotFoundError:
    print("no test package")
"""


@pytest.mark.parametrize("version", _interpreters.VERSIONS)
def test_everything_works_where_test_is_not_installed(version: str, tmp_path: Path) -> None:
    """On a Python whose library lacks `test`, every function does its work."""
    work = tmp_path / "work"
    work.mkdir()
    stripped = _stripped.strip(_interpreters.with_helpers(version), tmp_path / "home")
    done = stripped.run(USE_EVERYTHING, cwd=work)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "b'it runs\\n'",
        "3",
        "b'typed\\n'",
        "b'from a zip file\\n'",
        "b'zipped\\n'",
        "no test package",
    ]


# --- running ------------------------------------------------------------------------------------


def test_success_is_demanded() -> None:
    """What succeeds is returned: exit status, output, errors, by name and by position."""
    done = script_helper.assert_python_ok(
        "-c", "import sys; print('out'); print('err', file=sys.stderr)"
    )
    assert done == (0, done.out, done.err)
    assert (done.rc, done.out.strip(), done.err.strip()) == (0, b"out", b"err")


def test_failure_is_demanded() -> None:
    """What fails is returned, with its exit status."""
    rc, out, err = script_helper.assert_python_failure("-c", "print(1); raise SystemExit(3)")
    assert (rc, out.strip(), err) == (3, b"1", b"")


def test_an_unexpected_failure_shows_all() -> None:
    """The error has the exit status, the command line and the output, other letters included."""
    code = "import sys; sys.stdout.buffer.write('gr\\u00fcn'.encode()); raise SystemExit('red')"
    with pytest.raises(AssertionError) as caught:
        script_helper.assert_python_ok("-X", "utf8", "-c", code)
    text = str(caught.value)
    assert text.startswith("Process return code is 1\ncommand line: [")
    assert repr(sys.executable) in text
    assert "stdout:\n---\ngrün\n---" in text
    assert "stderr:\n---\nred\n---" in text


def test_an_unexpected_success_shows_all() -> None:
    """The same, where failure was expected."""
    with pytest.raises(AssertionError, match=r"Process return code is 0\ncommand line: .*fine"):
        script_helper.assert_python_failure("-c", "print('fine')")


def test_a_signal_is_named() -> None:
    """An interpreter that a signal ended is reported with the signal's name."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(AssertionError, match=r"Process return code is -9 \(SIGKILL\)\n"):
        script_helper.assert_python_ok("-c", code)


def test_a_signal_without_a_name_is_a_number() -> None:
    """A real-time signal between the first and the last has no name; its number is shown."""
    number = signal.SIGRTMIN + 1
    code = f"import os; os.kill(os.getpid(), {number})"
    with pytest.raises(AssertionError, match=rf"Process return code is -{number}\n"):
        script_helper.assert_python_ok("-c", code)


def test_of_much_output_the_end_is_shown() -> None:
    """Of 40,000 bytes the last 30,000 are shown, and that some are missing is said."""
    code = "print('a' * 10_000 + 'b' * 29_990 + 'the end'); raise SystemExit(1)"
    with pytest.raises(AssertionError, match="the end") as caught:
        script_helper.assert_python_ok("-c", code)
    assert "(... truncated stdout ...)" in str(caught.value)
    assert "truncated stderr" not in str(caught.value)
    assert 29_900 < str(caught.value).count("b") < 30_100


FLAGS = "import sys; print(sys.flags.isolated, sys.flags.ignore_environment)"


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, b"1 1"),
        ({"PORTLEASE_NOTHING": "x"}, b"0 0"),
        ({"__isolated": False}, b"0 1"),
        ({"__isolated": True, "PORTLEASE_NOTHING": "x"}, b"1 1"),
        ({"__cwd": "."}, b"1 1"),
        ({"__cleanenv": True}, b"0 0"),
    ],
    ids=str,
)
def test_isolation(options: dict[str, object], flags: bytes) -> None:
    """Isolated unless a variable is given; then the environment is seen. __isolated decides."""
    assert script_helper.assert_python_ok("-c", FLAGS, **options).out.strip() == flags


def test_the_environment_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are added to those there are; TERM is empty unless given."""
    monkeypatch.setenv("PORTLEASE_OLD", "old")
    monkeypatch.setenv("TERM", "xterm")
    code = "import os; print(*[os.environ.get(n) for n in ('PORTLEASE_OLD', 'NEW', 'TERM')])"
    assert script_helper.assert_python_ok("-c", code, NEW="n").out.strip() == b"old n"
    assert script_helper.assert_python_ok("-c", code, TERM="vt").out.split() == [
        b"old",
        b"None",
        b"vt",
    ]


def test_a_clean_environment_has_only_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """With __cleanenv nothing else is handed on (LC_CTYPE is Python's own doing, PEP 538)."""
    monkeypatch.setenv("PORTLEASE_OLD", "old")
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE', 'SYSTEMROOT'}))"
    done = script_helper.assert_python_ok("-c", code, __cleanenv=True, NEW="n")
    assert done.out.strip() == b"['NEW', 'TERM']"


def test_another_directory_and_another_program(tmp_path: Path) -> None:
    """__cwd is where it runs; __run_using_command comes before the interpreter."""
    done = script_helper.assert_python_ok("-c", "import os; print(os.getcwd())", __cwd=tmp_path)
    assert Path(os.fsdecode(done.out.strip())) == tmp_path.resolve()
    prefix = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]
    result, command = script_helper.run_python_until_end("-V", __run_using_command=prefix)
    assert command == [*prefix, sys.executable, "-X", "faulthandler", "-I", "-V"]
    assert result.out.decode().strip() == str(command[len(prefix) :])


def test_standard_input_is_empty() -> None:
    """A script that reads gets the end of the file at once."""
    assert script_helper.assert_python_ok(
        "-c", "print(len(input and __import__('sys').stdin.read()))"
    )


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    """When waiting is interrupted, the interpreter is killed and waited for."""
    script = f"""
import os, signal, threading
from portlease import script_helper

def interrupt(started):
    open(started, "rb").close()  # blocks until the interpreter opens the other end
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits SIG_IGN
started = {str(tmp_path / "started")!r}
os.mkfifo(started)
threading.Thread(target=interrupt, args=(started,)).start()
code = f"import signal; open({{started!r}}, 'wb').close(); signal.pause()"
try:
    script_helper.run_python_until_end("-c", code)
except KeyboardInterrupt:
    pass
else:
    raise AssertionError
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert done.stdout == "no child\n", done


def test_spawned_interpreters_talk_through_pipes() -> None:
    """Input is a pipe, output and errors one pipe; ending the input ends a reader."""
    code = "import os, sys; print(os.environ['TERM'], input()); sys.stdout.flush(); 1 / 0"
    process = script_helper.spawn_python("-c", code)
    assert process.stdin is not None
    process.stdin.write(b"hello\n")
    output = script_helper.kill_python(process)
    assert output.startswith(b"vt100 hello")
    assert b"ZeroDivisionError" in output
    assert process.returncode == 1


def test_a_spawned_interpreter_takes_options_of_popen() -> None:
    """The environment given is used, with TERM added, and text is text."""
    env = {**os.environ, "PORTLEASE_NEW": "new"}
    code = "import os; print(os.environ['PORTLEASE_NEW'])"
    process = script_helper.spawn_python("-c", code, env=env, text=True)
    assert script_helper.kill_python(process) == "new\n"
    assert env["TERM"] == "vt100", "as CPython does, in the caller's own mapping"


def test_a_process_without_pipes_cannot_be_ended_so() -> None:
    """To end it by its input, it needs one."""
    process = script_helper.spawn_python("-c", "", stdout=subprocess.DEVNULL)
    with process, pytest.raises(AssertionError, match="must be pipes"):
        script_helper.kill_python(process)


def test_the_need_for_an_environment_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONHOME is a yes; an interpreter that fails with -E is one; the answer is kept."""
    name = "__cached_interp_requires_environment"
    monkeypatch.delenv("PYTHONHOME", raising=False)
    monkeypatch.setitem(vars(script_helper), name, None)
    assert script_helper.interpreter_requires_environment() is False
    stubborn = tmp_path / "python"
    stubborn.write_text(f"#!/bin/sh\necho >> {tmp_path}/asked\nexit 1\n", encoding="utf-8")
    stubborn.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stubborn))
    assert script_helper.interpreter_requires_environment() is False, "the answer is kept"
    monkeypatch.setitem(vars(script_helper), name, None)
    assert script_helper.interpreter_requires_environment() is True
    assert script_helper.interpreter_requires_environment() is True
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "\n"
    assert "-I" not in script_helper.run_python_until_end()[1]
    monkeypatch.setitem(vars(script_helper), name, None)
    monkeypatch.setenv("PYTHONHOME", "somewhere")
    assert script_helper.interpreter_requires_environment() is True


@pytest.mark.parametrize("platform", ["emscripten", "wasi", "ios", "android"])
def test_without_processes_tests_are_skipped(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no processes, what starts one skips the test that asked for it."""
    monkeypatch.setattr(sys, "platform", platform)
    for start in (
        script_helper.assert_python_ok,
        script_helper.assert_python_failure,
        script_helper.run_python_until_end,
        script_helper.spawn_python,
    ):
        with pytest.raises(unittest.SkipTest, match="requires subprocess support"):
            start("-c", "")
    with pytest.raises(unittest.SkipTest, match="requires subprocess support"):
        script_helper.run_test_script("script")


# --- test scripts -------------------------------------------------------------------------------


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A test.support that is loaded and not verbose."""
    support = type(sys)("test.support")
    vars(support).update(verbose=0)
    monkeypatch.setitem(sys.modules, "test.support", support)
    return support


def test_a_test_script_writes_as_it_goes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In verbose mode its output is ours, between two lines that name it; it gets -v."""
    script = script_helper.make_script(str(tmp_path), "script", "import sys; print(sys.argv[1:])")
    script_helper.run_test_script(script)
    assert capfd.readouterr().out.splitlines() == [
        "",
        "===== script script.py ======",
        "['-v']",
        "===== script script.py completed: exit code 0 ======",
    ]
    failing = script_helper.make_script(str(tmp_path), "failing", "raise SystemExit(2)")
    with pytest.raises(AssertionError, match=r"script failing\.py failed"):
        script_helper.run_test_script(failing)


@pytest.mark.usefixtures("quiet")
def test_a_quiet_test_script_is_shown_only_if_it_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Outside verbose mode its output is in the error, and nowhere else."""
    script = script_helper.make_script(str(tmp_path), "script", "print('fine')")
    script_helper.run_test_script(script)
    failing = script_helper.make_script(str(tmp_path), "failing", "raise SystemExit('why')")
    with pytest.raises(AssertionError, match="stderr:\n---\nwhy"):
        script_helper.run_test_script(failing)
    assert capfd.readouterr() == ("", "")


# --- making -------------------------------------------------------------------------------------


def test_make_script_writes_text_and_bytes(tmp_path: Path) -> None:
    """Text as UTF-8, bytes as they are, with ".py" unless told otherwise; the path comes back."""
    path = script_helper.make_script(str(tmp_path), "one", "print('ä')")
    assert path == str(tmp_path / "one.py")
    assert Path(path).read_bytes() == b"print('\xc3\xa4')"
    path = script_helper.make_script(str(tmp_path), "two", b"# \xff\r\n", omit_suffix=True)
    assert path == str(tmp_path / "two")
    assert Path(path).read_bytes() == b"# \xff\r\n"


def test_paths_come_back_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path stays one, with its "./"."""
    monkeypatch.chdir(tmp_path)
    path = script_helper.make_script(".", "one", "")
    assert path == "./one.py"
    archive, inside = script_helper.make_zip_script(".", "archive", path)
    assert archive == "./archive.zip"
    assert inside == f"{archive}/one.py"


def test_a_new_script_can_be_imported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the directory was looked at before: import's caches are invalidated."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [f"portlease_new_{number}" for number in range(5)]
    for name in names:
        with pytest.raises(ModuleNotFoundError):
            __import__(name)
        script_helper.make_script(str(tmp_path), name, "")
        monkeypatch.delitem(sys.modules, name, raising=False)
        __import__(name)
        del sys.modules[name]


def test_make_pkg_makes_a_package(tmp_path: Path) -> None:
    """A directory with an __init__.py; one that exists is an error."""
    package = tmp_path / "package"
    script_helper.make_pkg(str(package), "made = True")
    assert (package / "__init__.py").read_text(encoding="utf-8") == "made = True"
    with pytest.raises(FileExistsError):
        script_helper.make_pkg(str(package))


def test_make_zip_script_makes_what_the_interpreter_runs(tmp_path: Path) -> None:
    """A zip file with a __main__ in it runs; the script keeps its name unless given another."""
    script = script_helper.make_script(str(tmp_path), "__main__", "print('zipped')")
    archive, inside = script_helper.make_zip_script(str(tmp_path), "one", script)
    assert inside == f"{archive}/__main__.py"
    assert script_helper.assert_python_ok(archive).out.strip() == b"zipped"
    archive, inside = script_helper.make_zip_script(str(tmp_path), "two", script, "a/b.py")
    assert zipfile.ZipFile(archive).namelist() == ["a/b.py"]
    assert inside == f"{archive}/a/b.py"


def test_make_zip_script_takes_a_compiled_script_out_of_its_cache(tmp_path: Path) -> None:
    """A file in __pycache__ is moved to where its source is, and zipped under that name."""
    import py_compile

    source = script_helper.make_script(str(tmp_path), "__main__", "print('compiled')")
    compiled = py_compile.compile(source, doraise=True)
    assert compiled is not None
    archive, inside = script_helper.make_zip_script(str(tmp_path), "one", compiled)
    assert inside == f"{archive}/__main__.pyc"
    assert script_helper.assert_python_ok(archive).out.strip() == b"compiled"
    assert not Path(compiled).exists()
    assert (tmp_path / "__main__.pyc").exists()


def test_make_legacy_pyc_moves_the_compiled_file(tmp_path: Path) -> None:
    """It runs without its source, from the path that is returned."""
    import py_compile

    source = script_helper.make_script(str(tmp_path), "one", "print('legacy')")
    py_compile.compile(source, doraise=True)
    Path(source).unlink()
    legacy = script_helper.make_legacy_pyc(source)
    assert legacy == source + "c"
    assert script_helper.assert_python_ok(legacy).out.strip() == b"legacy"
    assert script_helper.source_from_cache(str(tmp_path / "__pycache__" / "one.cpython-311.pyc"))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_make_zip_pkg_makes_packages_to_import(
    depth: int,
    compiled: bool,  # noqa: FBT001 - a column of the table
    tmp_path: Path,
) -> None:
    """The script can be imported from inside its packages; nothing else stays in the directory."""
    archive, inside = script_helper.make_zip_pkg(
        str(tmp_path), "archive", "pkg", "mod", "print(__name__)", depth=depth, compiled=compiled
    )
    suffix = ".pyc" if compiled else ".py"
    assert inside == "/".join([archive, *["pkg"] * depth, "mod" + suffix])
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]
    name = "pkg." * depth + "mod"
    done = script_helper.assert_python_ok("-c", f"import {name}", PYTHONPATH=archive)
    assert done.out.decode().strip() == name
    assert len(zipfile.ZipFile(archive).namelist()) == depth + 1


def test_make_zip_pkg_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    """A script that cannot be compiled is an error, and its files are removed."""
    import py_compile

    with pytest.raises(py_compile.PyCompileError):
        script_helper.make_zip_pkg(str(tmp_path), "a", "pkg", "mod", "1 +", compiled=True)
    assert list(tmp_path.iterdir()) == []
