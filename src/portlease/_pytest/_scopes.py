"""A fixture of ours in one of a wider scope: to pytest's error, what to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, Final

_INSTEAD: Final = {
    "leased_port": "leased_port_factory",
    "leased_udp_port": 'leased_port_factory, as in leased_port_factory("udp")',
    "leased_ports": "leased_port_factory",
    "leased_block": "portlease.lease_block(), in a `with` block round the yield",
    "serve": "serve_once; or portlease.serve(), in a `with` block round the yield",
    "aserve": "serve_once; or portlease.aserve(), in an `async with` block round the yield",
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, Any, Any]:
    """Add the remedy to ScopeMismatch."""
    report = yield
    if call.excinfo is None or call.when != "setup" or "ScopeMismatch" not in str(report.longrepr):
        return report
    text = str(call.excinfo.value)
    for name, instead in _INSTEAD.items():
        if f"fixture {name} " in text:
            report.sections.append(
                (
                    "portlease",
                    f"{name} is given back after each test; in wider scopes use {instead}",
                )
            )
    return report
