"""The suites: released packages whose port helpers are taken over, and the tests that they ship.

Which tests are run is not picked by hand: all files in which one of the names occurs, or the whole
suite where it leans on them throughout (tornado's every HTTP test is served on one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Suite:
    """A package's own tests, and what it takes to run them."""

    name: str
    """As the registry calls it."""
    copied: tuple[str, ...] = ()
    """What is copied out of the sdist: its tests without its package, which is installed."""
    named: str = ""
    """Run the test files in which this pattern occurs; without one, all."""
    needs: tuple[str, ...] = ()
    """What is installed besides, from the package's own list of what its tests need."""
    arguments: tuple[str, ...] = ()
    """Further ones of pytest."""
    unittest: str = ""
    """The module that is its own runner, in place of pytest."""
    written: tuple[str, ...] = ()
    """Files with tests that write tests and never run them: what they write is run, too."""
    portserver: bool = False
    """Whether its client is also run against ``portlease run --portserver``."""
    ships_none: bool = False
    """Whether its sdist has no tests."""


SUITES: Final = (
    Suite(
        "pytest-asyncio",
        copied=("tests", "pyproject.toml"),
        named="unused_(tcp|udp)_port",
        needs=("hypothesis", "coverage"),
        arguments=("-p", "pytester"),
        written=("tests/test_port_factories.py",),
    ),
    Suite(
        "anyio",
        copied=("tests", "pyproject.toml"),
        named="free_(tcp|udp)_port",
        needs=("blockbuster", "coverage", "hypothesis", "psutil", "pytest-mock", "pytest-timeout",
               "trio", "trustme", "truststore", "uvloop"),
        arguments=("-p", "pytester"),
    ),
    Suite(
        "aiohttp",
        copied=("tests", "pytest.ini"),
        named="unused_port",
        needs=("blockbuster", "coverage", "freezegun", "gunicorn", "isal", "proxy.py>=2.4.4rc5",
               "pytest-codspeed", "pytest-cov", "pytest-mock", "pytest-timeout", "python-on-whales",
               "pkgconfig", "setuptools-git", "trustme", "uvloop", "zlib_ng"),
        arguments=("-m", "not dev_mode and not autobahn and not internal", "-p", "pytester"),
    ),
    # It installs its tests with itself, and every one of its HTTP tests is served on such a port.
    Suite("tornado", unittest="tornado.test.runtests"),
    Suite("portend", copied=("test_portend.py", "pytest.ini")),
    # Its server is a script, and a module for its tests.
    Suite("portpicker", copied=("src/tests", "src/portserver.py"), portserver=True,
          arguments=("-o", "python_files=*_test.py", "-o", "pythonpath=src")),
    Suite("port-for", ships_none=True),
    Suite("ephemeral-port-reserve", ships_none=True),
)  # fmt: skip
