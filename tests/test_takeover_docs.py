"""docs/takeover.md does what it says: its examples run unchanged before and after the takeover."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _cli import portlease
from _documents import texts
from _need import need
from _processes import HANG_S
from portlease import _takeover

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Path(__file__).parents[1] / "docs" / "takeover.md"


def _tests() -> list[str]:
    return [code for code in texts(PAGE, "python") if "def test_" in code]


# Fails, with the option, if a function of the page gave anything but a lease.
_CONFTEST = """\
import portlease
import pytest
from portlease import _takeover

given = []
forward = _takeover.forward


def counted(*args):
    given.append(args)
    return forward(*args)


_takeover.forward = counted


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def is_leased(request):
    given.clear()
    yield
    assert bool(given) is request.config.getini("portlease_takeover")
"""


@pytest.mark.parametrize("option", ["true", "false"])
def test_each_example_runs_before_and_after(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """The same tests pass without the option, by nobody's lease, and with it, by leases alone."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(_CONFTEST)
    codes = _tests()
    if not _has_test_support():
        codes = [code for code in codes if "test.support" not in code]
    pytester.makepyfile(**{f"test_{number}": code for number, code in enumerate(codes)})
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin"]
    plugins += ["-p", "portlease.pytest_plugin", "-o", f"portlease_takeover={option}"]
    result = pytester.runpytest_subprocess(*plugins)
    result.assert_outcomes(passed=sum(code.count("def test_") for code in codes))
    need.module("test.support")  # for the rest


def _has_test_support() -> bool:
    return importlib.util.find_spec("test.support") is not None


def test_every_function_is_on_the_page() -> None:
    """What is taken over is named where its library is, by the name that users know."""
    text = PAGE.read_text()
    for target in _takeover.TARGETS:
        for name in re.findall(r"[a-z_]{5,}", target.shown):
            assert name in text or name == "their", name


def test_the_page_shows_the_header(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of the report's header is the one that pytest prints."""
    (shown,) = [block for block in texts(PAGE, "text") if "portlease takes over" in block]
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    plugins = ("pytest_asyncio.plugin", "anyio.pytest_plugin", "portlease.takeover")
    result = pytester.runpytest_subprocess(*(word for name in plugins for word in ("-p", name)))
    assert [line for line in result.outlines if "takes over" in line] == shown.splitlines()


def test_the_client_in_c(tmp_path: Path) -> None:
    """It compiles without a warning, and gets a port; without a server it says -1."""
    gcc = need.program("gcc")
    (code,) = texts(PAGE, "c")
    source, program = tmp_path / "client.c", tmp_path / "client"
    source.write_text(code)
    command = [gcc, "-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-o"]
    subprocess.run([*command, str(program), str(source)], check=True, timeout=HANG_S)
    done = portlease("run", "--portserver", "--", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 1023
    env = {name: text for name, text in os.environ.items() if name != "PORTSERVER_ADDRESS"}
    assert subprocess.run([program], capture_output=True, check=True, env=env).stdout == b"-1\n"


def test_the_options_on_the_page_are_there(tmp_path: Path) -> None:
    """Each command line of the page is one that portlease takes, with `true` in docker's place."""
    calls = set()
    for block in texts(PAGE, "console"):
        for line in block.splitlines():
            words = line.removeprefix("$ portlease ").partition("#")[0].split(" -- ")[0].split()
            calls.add(" ".join(_elsewhere_is_not(words)))
    for call in calls:
        words = call.replace(".env.ports", str(tmp_path / ".env.ports")).split()
        done = portlease(*words, "--", "true")
        assert done.returncode == 0, (call, done.stderr)


def _elsewhere_is_not(words: Sequence[str]) -> list[str]:
    """Nothing of a daemon is here to be waited for."""
    return [word for word in words if word != "--elsewhere"]


def test_the_file_on_the_page(tmp_path: Path) -> None:
    """.env.ports has the variables that the page shows, in that order."""
    (shown,) = [block for block in texts(PAGE, "text") if "of process" in block]
    file = tmp_path / ".env.ports"
    options = ("--port", "WEB", "--port", "DB")
    done = portlease("run", "--env-file", file, *options, "--", "cat", file)
    assert _normal(done.stdout) == _normal(shown)


def _normal(text: str) -> str:
    text = re.sub(r"portlease [0-9a-f]{16}", "portlease TOKEN", text)
    return re.sub(r"\d+", "N", text)
