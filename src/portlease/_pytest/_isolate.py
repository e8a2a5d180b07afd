"""``--isolate=worker``: each worker of pytest-xdist in a network of its own (Linux).

A suite that hard-codes ports then runs under ``-n 8`` as it is. The ini option
``portlease_isolate = worker`` says it for every run that has workers.

The workers are started through :func:`portlease._isolate.command`, put before the interpreter of
each ``popen`` spec; a crashed worker's successor is started from the same spec. They talk to the
controller through pipes, which lead out of any network. What talks to it by TCP is led there by a
forwarder: pytest-rerunfailures by us, others by :func:`portlease._isolate.reach`.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

_OPTION: Final = "--isolate"
_DEST: Final = "portlease_isolate_option"
_INI: Final = "portlease_isolate"
_WORKER: Final = "worker"
_OFF: Final = frozenset({"", "no"})
_NETWORK: Final = "portlease_network"
_RERUNFAILURES: Final = "sock_port"
"""Where pytest-rerunfailures tells its workers on which port the controller listens."""
_HOW: Final = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the options known."""
    parser.getgroup("portlease").addoption(
        _OPTION,
        dest=_DEST,
        metavar="WHAT",
        default=None,
        help="worker: give each worker of pytest-xdist (-n) a network of its own, so that tests "
        "which use the same ports do not meet (Linux); no: undo the ini option",
    )
    parser.addini(
        _INI,
        "worker: give each worker of pytest-xdist a network of its own, in runs that have workers",
        type="string",
        default="",
    )


# Before pytest-rerunfailures, which connects to the controller here.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Try once whether it can be had, before any worker is started.

    Raises:
        pytest.UsageError: it cannot, or what was asked for means nothing.
    """
    said, source = _asked(config)
    if said in _OFF or config.option.collectonly:
        return
    if said != _WORKER:
        raise pytest.UsageError(
            f"{source}: there is no such isolation; say {_WORKER} (each worker of pytest-xdist in "
            "a network of its own), or no"
        )
    if hasattr(config, "workerinput"):
        _arrive(config.workerinput)
    elif _has_workers(config, insist=source.startswith(_OPTION)):
        config.stash[_HOW] = _require(source)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that it is so, and by which rights."""
    how = config.stash.get(_HOW, None)
    return how and f"isolate: each worker in a network of its own, {how}"


@pytest.hookimpl(optionalhook=True, trylast=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Iterable[Any]) -> None:
    """Have each worker start in a network of its own.

    Raises:
        pytest.UsageError: a worker is not started by this very machine's controller.
    """
    if _HOW not in config.stash:
        return
    from portlease._isolate._command import build

    for spec in specs:
        if not spec.popen or spec.via:
            raise pytest.UsageError(
                f"{_OPTION}={_WORKER} is for workers that are started here, and {spec} is not; "
                "leave --tx out, or say popen"
            )
        python = shlex.split(spec.python) if spec.python else [sys.executable]
        spec.python = shlex.join(build(python, late=True))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist's own, which may be missing
    """Tell the worker which network it must not be in."""
    if _HOW in node.config.stash:
        from portlease._isolate import network

        node.workerinput[_NETWORK] = network()


def _asked(config: pytest.Config) -> tuple[str, str]:
    """What was said, and how it was said."""
    option = config.getoption(_DEST)
    if option is not None:
        return option, f"{_OPTION}={option}"
    said = str(config.getini(_INI)).strip()
    return said, f"{_INI} = {said}"


def _has_workers(config: pytest.Config, *, insist: bool) -> bool:
    distribution = config.getoption("dist", None)
    if distribution is None:
        missing = "pytest-xdist, which is not installed, or not loaded: pip install pytest-xdist"
    elif distribution == "no":
        missing = "workers, and there are none: add -n auto, or -n 4"
    else:
        return True
    if insist:
        raise pytest.UsageError(f"{_OPTION}={_WORKER} needs {missing}")
    return False


def _require(source: str) -> str:
    """By which rights it can be had, in words."""
    from portlease._errors import IsolationUnavailableError
    from portlease._isolate import RIGHTS, require

    try:
        return RIGHTS[require()]
    except IsolationUnavailableError as error:
        raise pytest.UsageError(f"{source}: {error.reason}; {error.remedy}") from error


def _arrive(told: dict[str, Any]) -> None:
    """In the worker: make sure that it is where it should be."""
    from portlease import _isolate

    if _NETWORK not in told:
        return
    if told[_NETWORK] == _isolate.network():
        raise RuntimeError(f"{_OPTION}={_WORKER}: this worker is in the network of the controller")
    _isolate.adopt()
    if _RERUNFAILURES in told:
        _isolate.reach("localhost", told[_RERUNFAILURES])
