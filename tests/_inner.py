"""Suites that tests write, in pytest runs of their own."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that a run names: others warn or shuffle, and each costs every worker some 0.1 s.

    Nor is the run a worker of ours.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        monkeypatch.delenv(name)
