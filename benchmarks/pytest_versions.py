"""The pytest plugin under other releases of pytest: ``python benchmarks/pytest_versions.py``.

For each release it makes an environment in a temporary folder, installs that pytest, pytest-xdist
and this portlease from the package index, and runs the plugin's tests there: with the newest xdist
that goes with it, or the one behind a slash. By default those releases that docs/pytest.md names;
others may be named: ``pytest_versions.py 7.2.2 8.4.2/3.5.0 newest``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = ROOT / "tests"
NEWEST: Final = "newest"
# The oldest that are supported, of both; then some between.
RELEASES: Final = ("7.0.1/3.0.2", "7.4.4", "8.0.2", NEWEST)
# What the tests themselves need; the newest that this pytest allows.
XDIST: Final = "pytest-xdist"
BESIDE: Final = ("pytest-asyncio", "pytest-randomly", "anyio", "trio")
FILES: Final = (
    "test_pytest_plugin.py",
    "test_pytest_plugin_once.py",
    "test_pytest_plugin_more.py",
    "test_pytest_plugin_odd.py",
)
# TOML tables of pytest's own are news of pytest 9.
NOT_THERE: Final = "test_takeover_in_every_kind_of_ini"


def main() -> int:
    """Run them one after the other; return how many releases failed."""
    failed = 0
    for release in sys.argv[1:] or RELEASES:
        with tempfile.TemporaryDirectory() as folder:
            python = environment(Path(folder), release)
            print(f"--- pytest {release}", flush=True)
            failed += run(python).returncode != 0
    return failed


def environment(folder: Path, release: str) -> Path:
    """Make one with this pytest, and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet"]
    pytest, _, xdist = release.partition("/")
    chosen = [
        "pytest" if pytest == NEWEST else f"pytest=={pytest}",
        f"{XDIST}=={xdist}" if xdist else XDIST,
    ]
    subprocess.run([*install, *chosen, *BESIDE], check=True)
    subprocess.run([*install, "--editable", str(ROOT)], check=True)
    return python


def run(python: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the tests, without the configuration that they have at home: it is for a newer pytest."""
    return subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "-c", "/dev/null", f"--rootdir={TESTS}"),
            *("-o", f"pythonpath={TESTS}", "-p", "no:cacheprovider", "-p", "no:asyncio"),
            *("-p", "no:randomly", "-n", "2", "-k", f"not {NOT_THERE}"),
            *(TESTS / name for name in FILES),
        ],
        cwd=TESTS,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
