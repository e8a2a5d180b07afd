"""How Hypothesis is asked here: the same in every run, and however slow the machine is."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

generous: Final = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
