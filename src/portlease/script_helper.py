"""CPython's `test.support.script_helper`, name for name, on every Python and without `test`.

Runs this interpreter, `sys.executable`, on scripts and options, and makes the scripts, packages
and zip files for it to run. The names are those of Python 3.11 to 3.14 together, on each of them.
This module never imports `test.support`; where that is loaded, run_test_script() follows its
`verbose`.

What differs from CPython, on purpose: as in 3.14 on every Python, a failed run is shown as UTF-8
and names the signal that ended the interpreter, and make_script() takes bytes; __run_using_command
(3.12) works on 3.11, too. What make_zip_pkg(compiled=True) makes can be imported: CPython's puts
bytecode under the name `__init__.py`, which zipimport refuses.
"""

# ruff: noqa: ANN401 - variables and options travel in one mapping, as CPython's callers write it

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import cache_from_source, source_from_cache
from typing import NamedTuple, NoReturn
from unittest import SkipTest

from portlease import _test_support

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

__all__ = [
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
]

# --- running the interpreter ------------------------------------------------------------------

# CPython's own test of this helper sets this name to None, to have the question asked afresh.
__cached_interp_requires_environment: bool | None = None

# WebAssembly and iOS have no processes; on Android sys.executable is empty or no interpreter.
_NO_SUBPROCESSES = frozenset({"emscripten", "wasi", "ios", "tvos", "watchos", "android"})


def interpreter_requires_environment() -> bool:
    """Tell whether this interpreter can start only with the help of environment variables.

    If so, a test that starts it with -I or -E cannot work, and is to be skipped. PYTHONHOME in the
    environment is taken as a yes; otherwise the interpreter is started with -E, once, and the
    answer kept.
    """
    global __cached_interp_requires_environment  # noqa: PLW0603 - see there
    if __cached_interp_requires_environment is None:
        __cached_interp_requires_environment = _needs_environment()
    return __cached_interp_requires_environment


def _needs_environment() -> bool:
    if "PYTHONHOME" in os.environ:
        return True
    if sys.platform in _NO_SUBPROCESSES:
        return False
    try:
        subprocess.check_call([sys.executable, "-E", "-c", "import sys; sys.exit(0)"])
    except subprocess.CalledProcessError:
        return True
    return False


class _PythonRunResult(NamedTuple):
    """How an interpreter ended, and what it wrote.

    Attributes:
        rc: the exit status; minus the signal's number if a signal ended it.
        out: all of standard output.
        err: all of standard error.
    """

    rc: int
    out: bytes
    err: bytes

    def fail(self, cmd_line: list[str]) -> NoReturn:
        """Raise an AssertionError that shows the command, how it ended, and what it wrote."""
        status = str(self.rc)
        if self.rc < 0:
            # A number outside the enumeration: a signal that this Python has no name for.
            with contextlib.suppress(ValueError):
                status += f" ({signal.Signals(-self.rc).name})"
        message = (
            f"Process return code is {status}\n"
            f"command line: {cmd_line!r}\n"
            f"{_section('stdout', self.out)}"
            f"{_section('stderr', self.err)}"
        )
        raise AssertionError(message)


# Of an output that fills a test log nobody reads the beginning: the end says what went wrong.
_SHOWN_BYTES = 30_000


def _section(name: str, output: bytes) -> str:
    shown = output[-_SHOWN_BYTES:].decode(errors="replace").rstrip()
    if len(output) > _SHOWN_BYTES:
        shown = f"(... truncated {name} ...){shown}"
    return f"\n{name}:\n---\n{shown}\n---\n"


def run_python_until_end(*args: str, **env_vars: Any) -> tuple[_PythonRunResult, list[str]]:
    """Run this interpreter and wait for its end.

    With neither a variable nor __cwd and the like it runs isolated (-I); otherwise it sees the
    environment and the user's site directory as any program does. Its standard input is empty, and
    faulthandler is on.

    Args:
        *args: the interpreter's arguments.
        **env_vars: environment variables, on top of the present ones. TERM is set to the empty
            string if not given, since GNU readline writes control sequences for some terminals.
            These four are no variables:
            __cwd: the directory to run in.
            __isolated: whether to run with -I, in place of the rule above.
            __cleanenv: if true, the present environment is not handed on (but SYSTEMROOT on
            Windows, where Python cannot start without it).
            __run_using_command: a list of arguments, a program first, to put before the
            interpreter.

    Returns:
        The exit status and output, and the command line.

    Raises:
        unittest.SkipTest: this platform has no processes.
    """
    _skip_without_subprocesses()
    env_required = interpreter_requires_environment()
    cwd = env_vars.pop("__cwd", None)
    prefix = env_vars.pop("__run_using_command", None)
    isolated = env_vars.pop("__isolated", not env_vars and not env_required)
    cmd_line = [*(prefix or ()), sys.executable, "-X", "faulthandler"]
    if isolated:
        cmd_line.append("-I")
    elif not env_vars and not env_required:
        cmd_line.append("-E")
    env = _base_environment(clean=bool(env_vars.pop("__cleanenv", False)))
    env["TERM"] = ""
    env.update(env_vars)
    cmd_line.extend(args)
    with subprocess.Popen(
        cmd_line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            # Ctrl-C, a test's time limit. Popen's own end of the block would wait for as long as
            # the interpreter runs, and after a KeyboardInterrupt not at all.
            process.kill()
            process.wait()
            raise
    return _PythonRunResult(process.returncode, out, err), cmd_line


def _base_environment(*, clean: bool) -> dict[str, str]:
    if not clean:
        return dict(os.environ)
    return {"SYSTEMROOT": os.environ["SYSTEMROOT"]} if sys.platform == "win32" else {}


def _assert_python(expected_success: bool, /, *args: str, **env_vars: Any) -> _PythonRunResult:  # noqa: FBT001 - CPython's tests call it so
    result, cmd_line = run_python_until_end(*args, **env_vars)
    if (result.rc == 0) != bool(expected_success):
        result.fail(cmd_line)
    return result


def assert_python_ok(*args: str, **env_vars: Any) -> _PythonRunResult:
    """Run this interpreter and require that it succeeds.

    Args:
        *args: as for run_python_until_end().
        **env_vars: as for run_python_until_end().

    Returns:
        The exit status (0) and the output: `rc`, `out`, `err`.

    Raises:
        AssertionError: the exit status was not 0; the message shows the output.
        unittest.SkipTest: this platform has no processes.
    """
    return _assert_python(True, *args, **env_vars)  # noqa: FBT003 - see there


def assert_python_failure(*args: str, **env_vars: Any) -> _PythonRunResult:
    """Run this interpreter and require that it fails.

    Args:
        *args: as for run_python_until_end().
        **env_vars: as for run_python_until_end().

    Returns:
        The exit status (not 0) and the output: `rc`, `out`, `err`.

    Raises:
        AssertionError: the exit status was 0; the message shows the output.
        unittest.SkipTest: this platform has no processes.
    """
    return _assert_python(False, *args, **env_vars)  # noqa: FBT003 - see there


def spawn_python(
    *args: str,
    stdout: int | IO[Any] | None = subprocess.PIPE,
    stderr: int | IO[Any] | None = subprocess.STDOUT,
    **kw: Any,
) -> subprocess.Popen[Any]:
    """Start this interpreter and return while it runs; end it with kill_python().

    Args:
        *args: the interpreter's arguments; -E comes before them where it can do without its
            environment.
        stdout: as for subprocess.Popen; a pipe by default.
        stderr: likewise; by default it goes where standard output goes.
        **kw: further arguments for subprocess.Popen. An `env` given here gets TERM=vt100, as
            does the copy of the present environment otherwise: for other terminals GNU readline
            may write control sequences as it starts.

    Returns:
        The process, the caller's to end and to wait for. Its standard input is a pipe.

    Raises:
        unittest.SkipTest: this platform has no processes.
    """
    _skip_without_subprocesses()
    cmd_line = [sys.executable]
    if not interpreter_requires_environment():
        cmd_line.append("-E")
    cmd_line.extend(args)
    kw.setdefault("env", dict(os.environ))["TERM"] = "vt100"
    return subprocess.Popen(cmd_line, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, **kw)


def kill_python(p: subprocess.Popen[Any]) -> Any:
    """End an interpreter of spawn_python() by closing its input, and wait for it.

    Despite the name no signal is sent: an interpreter that does not read its input, or goes on
    after its end, is waited for as long as it runs.

    Args:
        p: the process, started with its input and its output as pipes.

    Returns:
        What it wrote to standard output since it was last read.
    """
    if p.stdin is None or p.stdout is None:
        raise AssertionError("standard input and standard output of the process must be pipes")
    p.stdin.close()
    data = p.stdout.read()
    p.stdout.close()
    p.wait()
    return data


def run_test_script(script: str) -> None:
    """Run a script of tests with -v and require that it succeeds.

    Where test.support is loaded and verbose, or not loaded, the script writes to the standard
    output and error of this process as it goes; where it is loaded and quiet, the output is shown
    only on failure.

    Args:
        script: the path of the script.

    Raises:
        AssertionError: its exit status was not 0.
        unittest.SkipTest: this platform has no processes.
    """
    _skip_without_subprocesses()
    if not _test_support.verbose():
        assert_python_ok("-u", script, "-v")
        return
    name = f"script {os.path.basename(script)}"
    _say(f"\n===== {name} ======")
    command = [sys.executable, "-E", "-X", "faulthandler", "-u", script, "-v"]
    rc = subprocess.run(command, check=False).returncode
    _say(f"===== {name} completed: exit code {rc} ======")
    if rc:
        raise AssertionError(f"{name} failed")


run_test_script.__test__ = False  # type: ignore[attr-defined]  # pytest: no test, whatever its name


def _say(text: str) -> None:
    # Flushed: the script's own output goes to the same place through a buffer of its own.
    print(text, flush=True)  # noqa: T201 - the output is for whoever watches the tests


def _skip_without_subprocesses() -> None:
    if sys.platform in _NO_SUBPROCESSES:
        raise SkipTest("requires subprocess support")


# --- making what it runs ----------------------------------------------------------------------


def make_script(
    script_dir: str,
    script_basename: str,
    source: str | bytes,
    omit_suffix: bool = False,  # noqa: FBT001, FBT002 - CPython's signature
) -> str:
    """Write a script.

    Import's caches are invalidated, so that the script can be imported at once.

    Args:
        script_dir: an existing directory.
        script_basename: the file's name without ".py".
        source: the text, written as UTF-8 with the platform's line ends, or the bytes.
        omit_suffix: whether to leave out the ".py".

    Returns:
        The path of the file.
    """
    suffix = "" if omit_suffix else f"{os.extsep}py"
    path = os.path.join(script_dir, script_basename + suffix)
    if isinstance(source, str):
        with open(path, "w", encoding="utf-8") as text_file:
            text_file.write(source)
    else:
        with open(path, "wb") as file:
            file.write(source)
    importlib.invalidate_caches()
    return path


def make_pkg(pkg_dir: str, init_source: str | bytes = "") -> None:
    """Make a directory and an `__init__.py` in it.

    Args:
        pkg_dir: the directory; it must not exist, its parent must.
        init_source: the text or bytes of `__init__.py`.
    """
    os.mkdir(pkg_dir)
    make_script(pkg_dir, "__init__", init_source)


def make_legacy_pyc(source: str) -> str:
    """Move a compiled file out of `__pycache__`, to where its source is or was (PEP 3147).

    There the interpreter runs and imports it without its source.

    Args:
        source: the path of the source file, which need not exist.

    Returns:
        The path of the compiled file: absolute, the source's with a "c" at its end.
    """
    legacy = os.path.abspath(source) + "c"
    shutil.move(cache_from_source(source), legacy)
    return legacy


def make_zip_script(
    zip_dir: str,
    zip_basename: str,
    script_name: str,
    name_in_zip: str | None = None,
) -> tuple[str, str]:
    """Put a script into a new zip file.

    Args:
        zip_dir: an existing directory.
        zip_basename: the zip file's name without ".zip".
        script_name: the path of the script. One in a `__pycache__` directory is moved out of it
            by make_legacy_pyc() first, unless `name_in_zip` is given.
        name_in_zip: its name inside; its own by default.

    Returns:
        The path of the zip file, and that path with the name inside appended.
    """
    from zipfile import ZipFile  # here: few callers zip, and it costs 10 ms

    if name_in_zip is None:
        if os.path.basename(os.path.dirname(script_name)) == "__pycache__":
            script_name = make_legacy_pyc(source_from_cache(script_name))
        name_in_zip = os.path.basename(script_name)
    zip_name = os.path.join(zip_dir, f"{zip_basename}{os.extsep}zip")
    with ZipFile(zip_name, "w") as zip_file:
        zip_file.write(script_name, name_in_zip)
    return zip_name, os.path.join(zip_name, name_in_zip)


def make_zip_pkg(  # noqa: PLR0913, PLR0917 - CPython's signature
    zip_dir: str,
    zip_basename: str,
    pkg_name: str,
    script_basename: str,
    source: str | bytes,
    depth: int = 1,
    compiled: bool = False,  # noqa: FBT001, FBT002 - CPython's signature
) -> tuple[str, str]:
    """Make a zip file of a script inside a package, at any depth.

    Depth 2 with the name `pkg` gives `pkg/__init__.py`, `pkg/pkg/__init__.py` and the script
    beside the latter. The files are made in `zip_dir` and removed again.

    Args:
        zip_dir: an existing directory.
        zip_basename: the zip file's name without ".zip".
        pkg_name: the name of the package, and of each package in it.
        script_basename: the script's name without ".py".
        source: the script's text or bytes.
        depth: how many packages are inside one another, 1 or more.
        compiled: whether the compiled files go into the zip file in place of the sources, under
            names that zipimport knows (`script.pyc`).

    Returns:
        The path of the zip file, and that path with the script's name inside appended.
    """
    import py_compile  # here, as zipfile
    from zipfile import ZipFile  # as above

    packages = [os.sep.join([pkg_name] * level) for level in range(1, depth + 1)]
    zip_name = os.path.join(zip_dir, f"{zip_basename}{os.extsep}zip")
    with contextlib.ExitStack() as made:

        def make(basename: str, text: str | bytes) -> str:
            path = make_script(zip_dir, basename, text)
            made.callback(os.unlink, path)
            if compiled:
                py_compile.compile(path, path + "c", doraise=True)
                path += "c"
                made.callback(os.unlink, path)
            return path

        init = make("__init__", "")
        script = make(script_basename, source)
        script_in_zip = os.path.join(packages[-1], os.path.basename(script))
        with ZipFile(zip_name, "w") as zip_file:
            for package in packages:
                zip_file.write(init, os.path.join(package, os.path.basename(init)))
            zip_file.write(script, script_in_zip)
    return zip_name, os.path.join(zip_name, script_in_zip)
