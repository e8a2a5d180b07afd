"""The pytest plugin. Registered by entry point: nothing to import, nothing that must be set.

Fixtures:

- ``leased_port``, ``leased_udp_port``: a port that nobody else can take, for one test: a plain int.
- ``leased_ports``, ``leased_block``: functions that lease more of them, for one test.
- ``leased_port_factory``: a function that leases one more port, until the end of the session.
- ``serve``, ``aserve``: start servers on leased ports, and stop them after the test.
- ``serve_once``: one server for all workers of a run.

Options, each described by ``pytest --help``: the ini options ``portlease_how``,
``portlease_takeover`` and ``portlease_leaks``; ``--portlease-report``. All of it is in
docs/pytest.md; the parts are in ``portlease/_pytest/``.

Every lease is labelled with the test that asked for it and its pytest-xdist worker, so that
``portlease ls`` and an error name the test that has a port.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from portlease import _pytest
from portlease._pytest._leaks import LeaseLeakWarning as LeaseLeakWarning  # noqa: PLC0414 - public

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the parts; their own hooks of this name are called by that."""
    del parser
    for part in _pytest.PARTS:
        name = f"{_pytest.__name__}.{part}"
        if not pluginmanager.hasplugin(name):
            pluginmanager.register(importlib.import_module(name), name)
