"""Which ports tests bind: ``--ports=audit`` tells at the end, ``--ports=strict`` fails tests.

Every bind of this process and of the Python programs that a test starts is written to a trail
(:mod:`portlease._trail`) by the hook in their interpreters (:mod:`portlease._audit`); after each
phase of a test its own are read back. A hard-coded port fails the test then, where it is strict.
Under ``portlease audit`` its observer writes the trail, and programs of all kinds are seen.

Where PORTLEASE_TRAIL is set, with or without the option, the beginning and end of each test are
written to it. The workers of pytest-xdist inherit trail and hook from their controller, which reads
the whole of it in the end.

All of that is in :mod:`._watch`, which is loaded only where there is something to watch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Final

_AUDIT: Final = "audit"
_STRICT: Final = "strict"
_TRAIL: Final = "PORTLEASE_TRAIL"
"""As :mod:`portlease._trail` has it, which is not loaded for its name."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make ``--ports`` known."""
    parser.getgroup("portlease").addoption(
        "--ports",
        choices=(_AUDIT, _STRICT),
        help="watch what tests bind, and the Python programs that they start: audit tells at the "
        "end which ports are hard-coded, found free and let go of, ...; strict also fails a test "
        "that binds a hard-coded port",
    )


# Before any conftest is imported; pytest-xdist starts its workers later, with the environment as it
# is then.
@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin to watch, if that was asked for, by the option or by a trail in the environment."""
    _begin(early_config, early_config.known_args_namespace.ports)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin now, where a conftest has named the plugin (pytest_plugins): it was too late for that.

    What the conftest itself has bound until now is not seen then.
    """
    _begin(config, config.getoption("--ports"))


def _begin(config: pytest.Config, mode: str | None) -> None:
    if mode or os.environ.get(_TRAIL):
        from portlease._pytest import _watch

        _watch.begin(config, told=mode is not None, strict=mode == _STRICT)
