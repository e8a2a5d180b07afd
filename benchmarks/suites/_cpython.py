"""CPython's own network tests, several instances at once, in four ways."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import _namespace

import portlease

from . import _portlease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_RUNNER: Final = Path(__file__).with_name("_regrtest.py")
_HUNG_S: Final = 900
# Few enough for instances to be given each other's; more than the 80 servers that four times
# test_socketserver.test_shutdown has at once, each by bind(0).
NARROW: Final = (40000, 40127)
# A closed connection keeps its port for a minute (TIME_WAIT), so that one instance of test_smtplib
# alone would use up 64, and bind(0) itself would fail, whoever asks. In the narrow namespace
# closed connections are forgotten at once (tcp_max_tw_buckets, ip-sysctl.rst; a namespace's own).
_WITHOUT_TIME_WAIT: Final = [
    "sh",
    "-c",
    'echo 0 >/proc/sys/net/ipv4/tcp_max_tw_buckets && exec "$@"',
    "sh",
]


@dataclass(frozen=True, slots=True)
class Part:
    """One of CPython's test modules, or tests of several."""

    name: str
    modules: tuple[str, ...] = ()
    """As regrtest knows them; the name's own by default."""
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    """As for regrtest -u. Never `network` where that means other hosts; test_socketserver asks for
    it though it uses nothing but localhost."""

    @property
    def arguments(self) -> list[str]:
        """Regrtest's."""
        given = [f"--use={','.join(self.resources)}"] if self.resources else []
        given += [f"--match={one}" for one in self.only]
        given += [f"--ignore={one}" for one in self.ignore]
        return [*given, *(self.modules or (self.name,))]


MODULES: Final = (
    Part("test_ftplib"),
    Part("test_httplib"),
    Part("test_smtplib"),
    Part("test_poplib"),
    # An AF_VSOCK socket talks to the hypervisor, which no network namespace keeps apart.
    Part("test_socket", ignore=("*VSOCK*",)),
    Part("test_ssl"),
    Part("test_socketserver", resources=("network",)),
    Part("test.test_asyncio.test_events"),
    Part("test.test_asyncio.test_streams"),
    Part("test.test_asyncio.test_server"),
)
# The tests that call find_unused_port(), of all modules.
ASKERS: Final = Part(
    "askers",
    modules=(
        "test_ftplib",
        "test_httplib",
        "test_smtplib",
        "test_socket",
        "test.test_asyncio.test_events",
        "test.test_asyncio.test_sendfile",
        "test.test_asyncio.test_streams",
        "test.test_asyncio.test_unix_events",
    ),
    only=(
        "*SourceAddress*",
        "*source_address*",
        "*local_addr*",
        "*unhandled_exceptions*",
        "*endfile*",
        "*testSockName",
        "*test_getsockaddrarg",
        "*NetworkConnectionNoServer*",
        "*NetworkConnectionAttributesTest*",
        "*CreateServer*",
    ),
    # Seconds of sending, and no port asked for.
    ignore=("*SendfileUsing*",),
)
WAYS: Final = ("beside", "isolated", "original", "portlease")
_NARROW_WAYS: Final = ("original", "portlease")


def why_not(python: str) -> str | None:
    """Return why *python* cannot run these, or None."""
    done = subprocess.run(
        [python, "-c", "import test.test_ftplib, test.libregrtest.main"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def version_of(python: str) -> str:
    """Return the version of an interpreter."""
    if Path(python) == Path(sys.executable):
        return platform.python_version()
    code = "import platform; print(platform.python_version())"
    return subprocess.run(
        [python, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def measure(
    python: str,
    say: Callable[[str], None],
    *,
    modules: Sequence[Part],
    rounds: int,
    kept: Mapping[str, Any] | None,
) -> Iterator[dict[str, Any]]:
    """Run each module in each way, and *rounds* times those tests that ask for an unused port.

    Args:
        python: the interpreter.
        say: told of each figure as soon as it is there.
        modules: which of them.
        rounds: 0 leaves those tests out.
        kept: figures of an earlier run, which stay where they are not measured again.
    """

    def run(part: Part, way: str, again: int = 1) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="suites-") as name:
            found = _one(python, Path(name), part, way, again)
        say(f"{part.name}, {way}: beyond the baseline {found['beyond']} of {found['tests']}")
        return found

    done = {row["module"]: row for row in (kept or {}).get("modules", ())}
    figures: dict[str, Any] = dict(kept or {})
    figures |= {"python": version_of(python), "narrow": list(NARROW)}
    for one in modules:
        done[one.name] = {"module": one.name} | {way: run(one, way) for way in WAYS}
        figures["modules"] = [done[each.name] for each in MODULES if each.name in done]
        yield figures
    if rounds:
        figures["rounds"] = rounds
        figures["askers"] = {way: run(ASKERS, way, rounds) for way in _NARROW_WAYS}
        yield figures


def _one(python: str, directory: Path, part: Part, way: str, rounds: int) -> dict[str, Any]:
    helpers = "portlease" if way == "portlease" else "original"
    source = str(Path(portlease.__file__).parents[1])
    report = "{tmp}/report.xml"
    command = [python, str(_RUNNER), "--helpers", helpers, "--source", source]
    command += ["--junit-xml", report, *part.arguments]
    options = ["--timeout", str(_HUNG_S), "--junit", report, "--rounds", str(rounds)]
    inside: list[str] = []
    if way == "isolated":
        options.append("--isolate")
    elif way != "beside":
        inside = _namespace.command(*NARROW, _WITHOUT_TIME_WAIT)
    # No setting of ours or of the caller's reaches an interpreter that tests interpreters.
    env = {"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    return _portlease.repeat(command, directory, *options, env=env, inside=inside)
