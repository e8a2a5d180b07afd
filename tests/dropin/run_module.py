"""Run one of CPython's own test modules, with its own test helpers or with portlease's.

    PYTHON run_module.py test.test_socket --helpers portlease --source SRC --output FILE

Run by the interpreter whose `test` package is to be run; standard library only. With
`--helpers original` nothing is replaced. With `--helpers portlease`, `portlease.socket_helper` and
`portlease.script_helper` stand in `sys.modules`, and as attributes of `test.support`, under the
names of the originals before the test module is imported, so that whatever it imports from there,
in whatever way, is ours.

What came of each test is written to FILE as JSON:

    {"module": ..., "python": ..., "helpers": ..., "helper_files": {...}, "resources": [...],
     "refused": [...], "seconds": ...,
     "tests": {ID: {"outcome": [...], "detail": ..., "seconds": ...}}}

`outcome` is what the comparison looks at: a list, since one test can fail in several subtests.
`detail` holds tracebacks for a person to read. The exit status is 0 whenever FILE was written,
however the tests went.
"""

# ruff: noqa: N802, D102 - the methods of unittest.TestResult, under its names

from __future__ import annotations

import argparse
import errno
import faulthandler
import fnmatch
import importlib
import ipaddress
import json
import os
import platform
import re
import signal
import socket
import sys
import time
import traceback
import unittest
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType, TracebackType
    from typing import Any

    from typing_extensions import override

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
else:  # typing.override is not in 3.11

    def override(method: object) -> object:
        """Say that a method takes the place of one of the base class."""
        return method


HELPERS = ("socket_helper", "script_helper")

# A number that differs from run to run has no place in a comparison: an address in a repr, a
# process id, a port.
_VOLATILE = re.compile(r"0x[0-9a-fA-F]{6,}|\b\d{4,}\b")


class Outcomes(unittest.TestResult):
    """A test result that keeps one list of outcomes for each test id."""

    def __init__(self) -> None:
        super().__init__()
        self.tests: dict[str, dict[str, Any]] = {}
        self._started = 0.0
        self._cwd = str(Path.cwd())

    def _row(self, test: unittest.TestCase) -> dict[str, Any]:
        return self.tests.setdefault(test.id(), {"outcome": [], "detail": "", "seconds": 0.0})

    def _note(self, test: unittest.TestCase, outcome: str, detail: str = "") -> None:
        row = self._row(test)
        stable = _VOLATILE.sub("#", outcome.replace(self._cwd, "(the current directory)"))
        row["outcome"] = sorted([*row["outcome"], stable])
        row["detail"] += detail

    @override
    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._started = time.monotonic()

    @override
    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._row(test)["seconds"] = round(time.monotonic() - self._started, 3)

    @override
    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._note(test, "ok")

    @override
    def addError(self, test: unittest.TestCase, err: ExcInfo) -> None:
        super().addError(test, err)
        self._note(test, f"error: {_kind(err)}", _traceback(err))

    @override
    def addFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        super().addFailure(test, err)
        self._note(test, "failure", _traceback(err))

    @override
    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, f"skipped: {reason}")

    @override
    def addExpectedFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        super().addExpectedFailure(test, err)
        self._note(test, "expected failure", _traceback(err))

    @override
    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._note(test, "unexpected success")

    @override
    def addSubTest(
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExcInfo | None
    ) -> None:
        super().addSubTest(test, subtest, err)
        if err is None or err[0] is None:
            return  # a subtest that passes is part of its test's pass
        kind = "failure" if issubclass(err[0], test.failureException) else f"error: {_kind(err)}"
        name = subtest.id().removeprefix(test.id()).strip()
        self._note(test, f"{kind} in {name}", _traceback(err))


def _kind(err: ExcInfo) -> str:
    return err[0].__name__ if err[0] is not None else "unknown"


def _traceback(err: ExcInfo) -> str:
    return "".join(traceback.format_exception(err[1])) if err[1] is not None else ""


class Loopback:
    """An audit hook that keeps the tests on this machine, and notes who wanted to leave it.

    Neither set of helpers is meant to reach another host. What goes elsewhere than to loopback is
    refused as a firewall would, and a name that is no address and not this host's own is unknown,
    so that no name server is asked. The hook does not reach into programs that a test starts.
    """

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self._own_names = {"", "localhost", "ip6-localhost", socket.gethostname()}

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Judge one event of `sys.addaudithook`; the event's arguments are in the library docs."""
        if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            sock, address = args
            is_ip = sock.family in {socket.AF_INET, socket.AF_INET6}
            if is_ip and isinstance(address, tuple) and not self._is_here(address[0]):
                self.refused.add(f"{event} {address[0]!r}")
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address[0]!r} is elsewhere")
        lookups = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
        if event in lookups and not self._is_known(args[0]):
            self.refused.add(f"{event} {args[0]!r}")
            raise socket.gaierror(socket.EAI_NONAME, f"no name server is asked for {args[0]!r}")

    def _is_here(self, host: object) -> bool:
        address = _address(host)
        return address is None or address.is_loopback or address.is_unspecified

    def _is_known(self, host: object) -> bool:
        return (
            not isinstance(host, str | bytes)
            or _text(host) in self._own_names
            or bool(_address(host))
        )


def _text(host: str | bytes) -> str:
    return host if isinstance(host, str) else host.decode("ascii", "replace")


def _address(host: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address; None for whatever is none, names included: those are looked up first."""
    if not isinstance(host, str | bytes):
        return None
    try:
        return ipaddress.ip_address(_text(host).partition("%")[0])
    except ValueError:
        return None


def put_in_place(source: Path) -> None:
    """Put portlease's helpers where CPython's are looked for.

    Args:
        source: the directory that holds the package `portlease`.
    """
    sys.path.insert(0, str(source))
    support = importlib.import_module("test.support")
    for name in HELPERS:
        ours = importlib.import_module(f"portlease.{name}")
        sys.modules[f"test.support.{name}"] = ours
        setattr(support, name, ours)


def each_test(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite and of the suites in it, in order."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each_test(item)
        else:
            yield item


def chosen(suite: unittest.TestSuite, only: list[str], without: list[str]) -> unittest.TestSuite:
    """Keep the tests whose id matches a shell-style pattern of `only` and none of `without`."""

    def matches(test: unittest.TestCase, patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(test.id(), pattern) for pattern in patterns)

    return unittest.TestSuite(
        test
        for test in each_test(suite)
        if matches(test, only or ["*"]) and not matches(test, without)
    )


def helper_files() -> dict[str, str]:
    """Tell where the helpers that a test module would get now come from."""
    files = {}
    for name in HELPERS:
        module: ModuleType = importlib.import_module(f"test.support.{name}")
        files[name] = str(module.__file__)
    return files


def main() -> int:
    """Run the module and write what came of it."""
    parser = argparse.ArgumentParser(description="Run one module of CPython's test package.")
    parser.add_argument("module", help="such as test.test_socket")
    parser.add_argument("--helpers", choices=("original", "portlease"), required=True)
    parser.add_argument("--source", type=Path, required=True, help="the directory with portlease")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--resource", action="append", default=[], help="as in regrtest -u")
    parser.add_argument("--only", action="append", default=[], help="a pattern of test ids")
    parser.add_argument("--without", action="append", default=[], help="a pattern of test ids")
    parser.add_argument("--timeout-s", type=float, default=240.0, help="hang guard")
    options = parser.parse_args()

    faulthandler.dump_traceback_later(options.timeout_s, exit=True)
    # A shell without job control starts its background jobs with SIGINT ignored, and that is
    # inherited; test_asyncio's tests that interrupt themselves would then wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    support = importlib.import_module("test.support")
    # As regrtest without -v and with -u of exactly these. A mapping serves where a list did: both
    # are only ever asked whether they contain a name, and newer versions store a value beside it.
    vars(support).update(verbose=0, use_resources=dict.fromkeys(options.resource))
    if options.helpers == "portlease":
        put_in_place(options.source)
    loopback = Loopback()
    sys.addaudithook(loopback)

    started = time.monotonic()
    result = Outcomes()
    suite = unittest.defaultTestLoader.loadTestsFromName(options.module)
    chosen(suite, options.only, options.without).run(result)
    report = {
        "module": options.module,
        "python": platform.python_version(),
        "helpers": options.helpers,
        "helper_files": helper_files(),
        "resources": options.resource,
        "refused": sorted(loopback.refused),
        "seconds": round(time.monotonic() - started, 3),
        "tests": result.tests,
    }
    partial = options.output.with_suffix(".part")
    partial.write_text(json.dumps(report, indent=1), encoding="utf-8")
    partial.replace(options.output)
    sys.stdout.flush()
    sys.stderr.flush()
    # Some of the modules leave non-daemon threads or atexit hooks that wait; the report is written.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
