"""The options of the plugin: known, read, and refused before any test runs if they mean nothing.

- ini ``portlease_how``: by which means ``serve`` gives a server its port where the test does not
  say ``how=`` itself; by default :func:`portlease.serve` chooses;
- ini ``portlease_takeover``: have other libraries' port helpers served by leases
  (:mod:`portlease.takeover`);
- ini ``portlease_leaks``: what becomes of a lease that a test forgets (:mod:`._leaks`);
- ``--portlease-report``: :mod:`._report`.
"""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Final, Literal, TypeAlias

    from portlease._server._command import How

    Leaks: TypeAlias = Literal["warn", "error", "off"]

HOW: Final = "portlease_how"
TAKEOVER: Final = "portlease_takeover"
LEAKS: Final = "portlease_leaks"
REPORT: Final = "--portlease-report"
_OURS: Final = "portlease_"
_KNOWN: Final = (HOW, TAKEOVER, LEAKS, "portlease_isolate")
_TAKEOVER_PLUGIN: Final = "portlease.takeover"
_HOWS: Final[tuple[How, ...]] = ("offer", "step-aside", "broker", "hand-over")
_WHAT_OF_LEAKS: Final[tuple[Leaks, ...]] = ("warn", "error", "off")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the options known."""
    parser.addini(
        HOW,
        f"how servers of the fixture `serve` get their ports: {', '.join(_HOWS)}; "
        "each by the best that it can take, by default",
        type="string",
        default="",
    )
    parser.addini(
        TAKEOVER,
        "serve other libraries' port helpers (unused_tcp_port, pick_unused_port(), ...) by leases",
        type="bool",
        default=False,
    )
    parser.addini(
        LEAKS,
        "what becomes of a lease or server that a test never gives back: warn (the default) names "
        "test and line, error fails the test, off says nothing",
        type="string",
        default="warn",
    )
    parser.getgroup("portlease").addoption(
        REPORT,
        nargs="?",
        const="",
        default=None,
        metavar="FILE.json",
        help="at the end list ports, servers and how long they took to be ready, test by test; "
        "=FILE.json: write it there too",
    )


# First of all: a suite's plugins may ask for ports while they are configured.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong ini option before any test runs, and take over what is to be.

    Raises:
        pytest.UsageError: an option means nothing.
    """
    how(config)
    leaks(config)
    report(config)
    _must_know_all(config)
    if _takes_over(config) and not config.pluginmanager.hasplugin(_TAKEOVER_PLUGIN):
        config.pluginmanager.import_plugin(_TAKEOVER_PLUGIN)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which means was set, if one was."""
    means = how(config)
    return None if means is None else f"{HOW}: {means}"


def how(config: pytest.Config) -> How | None:
    """The means that ``portlease_how`` names; None if it names none.

    Raises:
        pytest.UsageError: there is no such means.
    """
    asked = str(config.getini(HOW)).strip()
    for one in _HOWS:
        if asked == one:
            return one
    if asked:
        raise pytest.UsageError(
            f"{HOW} = {asked}: there is no such means; say one of {', '.join(_HOWS)}, or leave it "
            "out, and each server gets its port by the best that it can take"
        )
    return None


def leaks(config: pytest.Config) -> Leaks:
    """What ``portlease_leaks`` says.

    Raises:
        pytest.UsageError: it is none of the three.
    """
    asked = str(config.getini(LEAKS)).strip()
    for one in _WHAT_OF_LEAKS:
        if asked == one:
            return one
    raise pytest.UsageError(f"{LEAKS} = {asked}: say one of {', '.join(_WHAT_OF_LEAKS)}")


def report(config: pytest.Config) -> str | None:
    """What ``--portlease-report`` says: the path of a file, ``""`` for none, None if not given.

    Raises:
        pytest.UsageError: it is no such path.
    """
    given: str | None = config.getoption(REPORT)
    if not given:
        return given
    # As with every option whose value may be left out, a path of tests behind it is taken for one.
    if not given.endswith(".json"):
        raise pytest.UsageError(
            f"{REPORT} {given}: a report is written to a file whose name ends in .json; if that is "
            f"what to test, put {REPORT} behind it"
        )
    path = os.path.join(config.invocation_params.dir, given)
    if not os.path.isdir(os.path.dirname(path)):
        raise pytest.UsageError(f"{REPORT}={given}: there is no folder {os.path.dirname(path)}")
    if os.path.isdir(path):
        raise pytest.UsageError(f"{REPORT}={given}: that is a folder; name a file")
    return path


def _takes_over(config: pytest.Config) -> bool:
    try:
        return bool(config.getini(TAKEOVER))
    except (ValueError, pytest.UsageError) as error:  # which of them, depends on the version
        raise pytest.UsageError(f"{TAKEOVER}: {error}; say true or false") from error


def _must_know_all(config: pytest.Config) -> None:
    """Refuse a misspelt option of ours, of which pytest itself makes a warning at most."""
    # There is no public way to what the file says that nobody has asked for: `inicfg` was one
    # until pytest 9.
    for name in vars(config).get("_inicfg") or vars(config).get("inicfg") or ():
        if name.startswith(_OURS) and name not in _KNOWN:
            try:
                config.getini(name)
            except (ValueError, KeyError) as error:
                near = difflib.get_close_matches(name, _KNOWN, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_KNOWN)}"
                raise pytest.UsageError(f"{name}: there is no such option; {hint}") from error
