"""`--ports=audit|strict`, and the tests' names in the trail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from _audited import DATA, audit, static_c
from _cli import environment
from _need import netns_command
from _processes import HANG_S
from portlease import _trail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PLUGINS = ("-p", "portlease.pytest_plugin", "-p", "xdist.plugin")
PYTEST = (sys.executable, "-m", "pytest", "-W", "error", *PLUGINS)
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Others' plugins take time, and one of them binds a port itself."""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder with a suite that has each kind of port."""
    shutil.copy(DATA / "suite.py", tmp_path / "test_suite.py")
    return tmp_path


def run(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a suite in a network of its own, where its ports are free."""
    return subprocess.run(
        netns_command([*PYTEST, *arguments]),
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment({**ALONE, **(env or {})}),
        timeout=HANG_S,
        check=False,
    )


def outcomes(path: Path) -> dict[str, str | None]:
    """What the trail says of each test."""
    return {
        (event.test or "").partition("::")[2]: event.outcome
        for event in _trail.read(str(path)).events
        if event.what == _trail.TEST_END
    }


def line(port: int) -> int:
    """In which line of the suite a port is bound."""
    lines = (DATA / "suite.py").read_text().splitlines()
    return next(number for number, text in enumerate(lines, 1) if f", {port})" in text)


BAD = {"test_hard_coded": "failed", "test_in_a_child": "failed", "test_in_a_fixture": "error"}
GOOD = dict.fromkeys(["test_allowed", "test_unheld", "test_kernel", "test_leased"], "passed")


def test_strict_fails_the_tests_that_hard_code_a_port(suite: Path) -> None:
    """With the line and the remedy; in the test, its fixture or its child; and no other test."""
    trail = suite / "trail.jsonl"
    trail.touch()
    done = run(suite, "--ports=strict", "-n", "2", env={"PORTLEASE_TRAIL": str(trail)})
    assert done.returncode == 1, done.stdout
    assert "2 failed, 4 passed, 1 error" in done.stdout
    assert (
        f"test_suite.py:{line(18201)}: port 18201 (tcp, 127.0.0.1) is hard-coded [PL001"
        in done.stdout
    )
    assert '>   with socket.create_server(("127.0.0.1", 18201)):' in done.stdout
    assert "take the fixture leased_port" in done.stdout
    assert "# portlease: allow[PL001]" in done.stdout
    assert "port 18202" in done.stdout
    assert "18204" not in done.stdout
    assert outcomes(trail) == BAD | GOOD
    # The rest is told at the end.
    assert f"test_suite.py:{line(0)}: warning: a free port was found and let go" in done.stdout
    assert "8 binds" in done.stdout
    assert "3 errors, 1 warning, 2 notes found" in done.stdout


def test_audit_only_tells(suite: Path) -> None:
    """And leaves nothing behind, not even its folder."""
    (suite / "tmp").mkdir()
    done = run(suite, "--ports=audit", env={"TMPDIR": str(suite / "tmp")})
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout
    assert "in test_suite.py::test_in_a_child" in done.stdout
    assert "8 binds" in done.stdout
    assert list((suite / "tmp").iterdir()) == []


def test_under_the_observer(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs in any language are seen, and fail a strict test; the audit tells the test."""
    program = static_c(tmp_path_factory.mktemp("c"))
    (suite / "test_c.py").write_text(
        "import subprocess\n"
        "def test_c():\n"
        f"    subprocess.run([{str(program)!r}, 't18210', 'c0'], stdin=subprocess.DEVNULL)\n"
    )
    seen = audit(*PYTEST, "--ports=strict", "-n", "2", cwd=suite, env=ALONE)
    assert seen.status == 1
    assert "3 failed, 4 passed, 1 error" in seen.said
    assert "binds: port 18210 (tcp, 127.0.0.1) is hard-coded" in seen.said
    tests = {one["ports"][0]: one["tests"] for one in seen.document["findings"] if one["ports"]}
    assert tests[18210] == ["test_c.py::test_c"]
    assert tests[18201] == ["test_suite.py::test_hard_coded"]
    assert tests[18202] == ["test_suite.py::test_in_a_child"]
    assert {bind.get("worker") for bind in seen.document["binds"]} == {"gw0", "gw1"}
    place = next(one for one in seen.document["findings"] if one["ports"] == [18201])
    assert (place["path"], place["line"]) == ("test_suite.py", line(18201))


def test_outside_of_all_tests(tmp_path: Path) -> None:
    """A port that is hard-coded in a conftest fails a strict session, though no test failed."""
    (tmp_path / "conftest.py").write_text(
        "import socket\nsocket.create_server(('127.0.0.1', 18220)).close()\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    done = run(tmp_path, "--ports=strict")
    assert "1 passed" in done.stdout
    assert "conftest.py:2: error: port 18220" in done.stdout
    assert done.returncode == 1


def test_a_session_inside_a_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves environment and process as they were; inside of a watched one it is its test's."""
    monkeypatch.setenv(*next(iter(ALONE.items())))
    before = dict(os.environ)
    pytester.makepyfile(
        """
        import os, pytest
        pytest_plugins = ["pytester"]
        def test_it(pytester):
            pytester.makepyfile("def test_inner(): pass")
            seen = dict(os.environ)
            inner = pytester.inline_run("-p", "portlease.pytest_plugin", "--ports=audit")
            inner.assertoutcome(passed=1)
            for name in "PORTLEASE_TRAIL", "PORTLEASE_RUNNER", "PYTHONPATH":
                assert os.environ[name] == seen[name]
        """
    )
    pytester.inline_run("-p", "portlease.pytest_plugin", "--ports=audit").assertoutcome(passed=1)
    for name in ("PORTLEASE_TRAIL", "PORTLEASE_RUNNER", "PYTHONPATH"):
        assert os.environ.get(name) == before.get(name)
