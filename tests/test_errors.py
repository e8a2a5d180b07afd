"""Errors cross process boundaries, carry their facts, and belong to the branch of whose fault."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import Any

import pytest

import portlease
from _thieves import run_python, silent

FACTS: dict[type[portlease.PortleaseError], dict[str, Any]] = {
    portlease.RecipeUnavailableError: {
        "recipe": "x",
        "program": "y",
        "packages": {"apt-get install": "y"},
    },
    portlease.PortleaseError: {"port": 1},
    portlease.UsageError: {},
    portlease.LeaseStateError: {"state": "HELD", "action": "withdraw"},
    portlease.PortUnavailableError: {"port": 8080, "ports": (8080, 8081)},
    portlease.PortsExhaustedError: {"tried": 7},
    portlease.PrivilegeError: {"port": 80},
    portlease.ResourceLimitError: {"errno": errno.EMFILE},
    portlease.LeasesUnseenError: {"errno": errno.ENOENT},
    portlease.ServerError: {"argv": ["a", "b"], "output": "o"},
    portlease.ServerStartError: {"argv": ["a"], "errno": errno.ENOENT},
    portlease.ServerDiedError: {"argv": ["a"], "returncode": -9, "output": "o"},
    portlease.ServerTimeoutError: {"argv": ["a"], "timeout_s": 0.5},
}

BRANCHES: dict[type[Exception], type[Exception]] = {
    portlease.UsageError: ValueError,
    portlease.LeaseStateError: RuntimeError,
    portlease.PrivilegeError: PermissionError,
    portlease.LeasesUnseenError: OSError,
    portlease.ServerTimeoutError: TimeoutError,
    portlease.ServerDiedError: portlease.ServerError,
    portlease.ServerStartError: portlease.ServerError,
}


def facts_of(error: portlease.PortleaseError) -> dict[str, Any]:
    """The attributes that its type promises."""
    return {name: getattr(error, name) for name in FACTS[type(error)]}


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_and_copying(kind: type[portlease.PortleaseError]) -> None:
    """Type, text, facts and notes, by every protocol."""
    error = kind("the fact; the remedy", **FACTS[kind])
    error.add_note("seen by the caller")
    doubles = [
        pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for double in [*doubles, copy.copy(error), copy.deepcopy(error)]:
        assert type(double) is kind
        assert str(double) == double.message == "the fact; the remedy"
        assert facts_of(double) == FACTS[kind]
        assert double.__notes__ == ["seen by the caller"]


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_an_error_belongs_to_its_branch(kind: type[portlease.PortleaseError]) -> None:
    """One base for all; and the built-in one that a caller would look for."""
    assert issubclass(kind, portlease.PortleaseError)
    assert issubclass(kind, BRANCHES.get(kind, Exception))
    assert kind.__doc__


def test_every_error_is_listed_here() -> None:
    """A new one cannot be forgotten."""
    found = {
        value
        for name in portlease.__all__
        if isinstance(value := getattr(portlease, name), type)
        and issubclass(value, portlease.PortleaseError)
    }
    assert found == set(FACTS)


def test_the_errors_that_are_os_errors_have_an_errno() -> None:
    """`except PermissionError as error: error.errno` is what people write."""
    with_errno = portlease.PrivilegeError("no", port=80)
    assert with_errno.errno == errno.EACCES
    assert str(with_errno) == "no"


def test_an_error_crosses_a_process_boundary() -> None:
    """As it does from pytest-xdist's workers and out of multiprocessing's pools."""
    done = run_python(
        """
        import pickle, sys, portlease
        with portlease.lease() as lease:
            try:
                portlease.lease(ports=[lease.port])
            except portlease.PortUnavailableError as error:
                sys.stdout.write(f"{lease.port} {pickle.dumps(error).hex()}")
        """
    )
    port, _, pickled = silent(done).partition(" ")
    error = pickle.loads(bytes.fromhex(pickled))  # noqa: S301 - our own
    assert isinstance(error, portlease.PortUnavailableError)
    assert (error.port, error.ports) == (int(port), (int(port),))
    assert port in str(error)
