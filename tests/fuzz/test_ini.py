"""The plugin's options in an ini file, with anything at all as their values.

In a process of its own: a second pytest in this one would leave its marks on the first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _thieves import run_python, silent
from fuzz.generous import generous

if TYPE_CHECKING:
    from pathlib import Path

ALLOWED = {
    "portlease_how": {"", "offer", "step-aside", "broker", "hand-over"},
    "portlease_leaks": {"warn", "error", "off"},
    "portlease_takeover": {"true", "yes", "on", "1", "false", "no", "off", "0", "True", "OFF"},
}


def read_any(folder: str, examples: int) -> dict[str, int]:
    """Have pytest read ini files: a value is taken, or is a usage error that names its option."""
    from _pytest.config import _prepareconfig

    path = f"{folder}/pytest.ini"
    found = {"taken": 0, "refused": 0}
    values = st.one_of(
        st.sampled_from(sorted(set.union(*ALLOWED.values()))),
        st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30),
    )

    @settings(generous, max_examples=examples)
    @given(st.sampled_from(sorted(ALLOWED)), values)
    def check(name: str, value: str) -> None:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - as plain as it goes
            file.write(f"[pytest]\n{name} = {value}\n")
        arguments = ["-c", path, "--rootdir", folder, "-p", "portlease.pytest_plugin", folder]
        # As iniconfig reads a line: without a comment that follows a blank.
        said = value.partition(" #")[0].partition(" ;")[0].strip()
        config = _prepareconfig(arguments)
        refusal = ""
        try:
            config._do_configure()
        except pytest.UsageError as error:
            refusal = str(error)
        finally:
            config._ensure_unconfigure()
        found["refused" if refusal else "taken"] += 1
        allowed = said in ALLOWED[name] or (
            said.lower() in ALLOWED[name] and "true" in ALLOWED[name]
        )
        assert allowed == (not refusal), said
        if refusal:
            assert name in refusal
        else:
            assert config.getini(name) in {said, said.lower() in {"true", "yes", "on", "1"}}

    check()
    return found


def test_any_value_of_an_option(tmp_path: Path) -> None:
    """What means nothing is refused before any test runs, and what means something is taken."""
    done = run_python(
        """
        import os, sys
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        from fuzz.test_ini import read_any
        print(*read_any(sys.argv[1], 30).values())
        """,
        str(tmp_path),
        options=("-W", "error::ResourceWarning"),
    )
    taken, refused = map(int, silent(done).split())
    assert taken > 2
    assert refused > 2


if sys.platform == "win32":
    pytest.skip("written for POSIX's paths", allow_module_level=True)
