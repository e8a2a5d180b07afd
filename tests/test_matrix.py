"""The table of real servers: its catalogue is sound, its gauges see something, its page is kept."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from _need import find_program, need
from _processes import HANG_S
from portlease._server import _template
from portlease._tree import _process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark is Linux's alone")

ROOT = Path(__file__).resolve().parents[1]
HOWS = ("itself", "offer", "step-aside", "broker", "hand-over")
# Without SO_REUSEADDR nobody binds beside an offer.
PLAIN = {
    "Perl IO::Socket::INET",
    "Python socketserver.TCPServer",
    "socat as it comes",
    "static C, a bare bind",
}
# Programs that every machine has that runs these tests, or that come with another's package.
EVERYWHERE = {"bash", "java", "mosquitto_sub", "nohup", "python3", "sh", "sleep", "no-such-program"}


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the benchmark, which is run as `python -m benchmarks.servers`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # what all benchmarks share
        yield lambda name: importlib.import_module(f"benchmarks.servers.{name}")


class Programs(NamedTuple):
    """The benchmark's own C programs."""

    tiny: str
    thief: str
    binds: str
    stamp: str


@pytest.fixture(scope="module")
def programs(
    load: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Programs:
    """Compiled."""
    need.program("gcc")
    return Programs(*load("_build").build(tmp_path_factory.mktemp("programs")))


# --- the catalogue ------------------------------------------------------------------------------


def test_the_catalogue_is_sound(load: Callable[[str], ModuleType]) -> None:
    """Each entry is told its port, is asked on each transport, and says what installs it."""
    catalogue = load("_catalogue").CATALOGUE
    assert len({entry.name for entry in catalogue}) == len(catalogue) >= 24
    assert len({entry.program for entry in catalogue}) >= 20
    assert {entry.kind for entry in catalogue} == {"tcp", "udp", "both"}
    for entry in catalogue:
        told = "".join((*entry.args, *entry.env.values(), *entry.files.values()))
        ports = _template.names_in((*entry.args, *entry.env.values())) - {"host"}
        assert ports <= {"port", "peer"}, entry.name
        assert "port" in ports or "@PORT@" in told, entry.name
        assert len(entry.asks) == (2 if entry.kind == "both" else 1), entry.name
        assert re.fullmatch(r"[a-z0-9.+-]+(,[a-z0-9.+-]+)*", entry.package), entry.name
        if isinstance(entry.takes, str):
            assert entry.takes.startswith("takes no"), entry.name


# name in the catalogue, program: those that .ci/install installs
ENTRIES = {
    "HAProxy": "haproxy",
    "Mosquitto": "mosquitto",
    "Perl IO::Socket::INET": "perl",
    "Python asyncio datagrams": "python3",
    "Python socketserver.TCPServer": "python3",
    "Redis": "redis-server",
    "dnsmasq, TCP and UDP": "dnsmasq",
    "memcached, TCP and UDP": "memcached",
    "nginx": "nginx",
    "openssl s_server, DTLS": "openssl",
    "socat as it comes": "socat",
    "static C, a bare bind": "gcc",
}


@pytest.mark.parametrize("name", ENTRIES)
def test_real_servers(name: str, load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """By every means that applies it is served and answers, and by itself; else it says why."""
    need.program(ENTRIES[name])
    cells = load("_cells")
    (entry,) = (entry for entry in load("_catalogue").CATALOGUE if entry.name == name)
    made = cells.measure(names=[name], hows=HOWS, starts=1, directory=str(tmp_path), stamp=None)
    for cell in made:
        how = cell["how"]
        if how == "broker" and _process.why_no_broker() is not None:
            assert "broker" in cell["reason"]
            continue
        never = (
            (how == "offer" and (entry.kind == "udp" or name in PLAIN))
            or (how == "hand-over" and isinstance(entry.takes, str))
        )  # fmt: skip
        assert cell["served"] is not never, cell
        assert bool(cell["reason"]) is never, cell
    assert list(tmp_path.iterdir()) == []


def test_what_answers_wrongly_is_no(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """A server that listens and gives another answer is not counted as served."""
    clients = load("_clients")
    with pytest.raises(clients.NoAnswerError, match="tell me"):
        clients.ask(clients.tcp("tell me", b"", b"never"), "127.0.0.1", 1, within_s=0)
    cells = load("_cells")
    (cell,) = cells.measure(
        names=["Python http.server"],
        hows=["hand-over"],
        starts=1,
        directory=str(tmp_path),
        stamp=None,
    )
    assert (cell["served"], cell["reason"]) == (False, "takes no socket")


# --- the gauges ---------------------------------------------------------------------------------


def test_the_adversary_steals_what_is_not_held(
    load: Callable[[str], ModuleType], programs: Programs
) -> None:
    """Closed and spawned, ports are stolen; handed over and (if it can be had) brokered, none."""
    thefts = load("_thefts")
    means = [thefts.CONTROL, "hand-over"]
    if _process.why_no_broker() is None:
        means.append("broker")
    series = [
        {"user": "user", "transport": transport, "adversary": "plain", "means": one, "wanted": 12}
        for transport in ("tcp", "udp")
        for one in means
    ]
    for one in thefts.measure(thief=programs.thief, tiny=programs.tiny, series=series):
        assert (one["starts"], one["reason"]) == (12, "")
        assert one["attempts"] >= 12
        assert (one["thefts"] > 0) is (one["means"] == thefts.CONTROL), one
        assert one["failures"] == one["thefts"]


def test_delays_and_binds(
    load: Callable[[str], ModuleType], programs: Programs, tmp_path: Path
) -> None:
    """Every means has its delays, and both have their figures for a bind."""
    broker = _process.why_no_broker() is None
    (delays,) = load("_delays").measure(tiny=programs.tiny, directory=str(tmp_path), starts=2)
    for key, values in delays.items():
        if key.endswith("broker") and not broker:
            assert isinstance(values, str)
        else:
            assert len(values) == 2, key
    (binds,) = load("_binds").measure(binds=programs.binds, rounds=1, count=20)
    assert all(len(values) == 20 for values in binds["offer"].values())
    if broker:
        assert min(binds["broker"]["bind"]) > min(binds["offer"]["bind"])


@pytest.mark.parametrize("how", ["offer", "hand-over"])
def test_what_is_left_would_be_seen(
    how: str, load: Callable[[str], ModuleType], programs: Programs
) -> None:
    """A running server shows in the counts of processes, descriptors and ports; then it is gone."""
    need.capability("subreaper")
    measure = load("_leftovers").measure
    (found,) = measure(tiny=programs.tiny, how=how, starts=4, kills=1)
    assert (found["starts"], found["killed"], found["reason"]) == (4, 1, "")
    for what in ("processes", "descriptors"):
        assert found["during"][what] > found["before"][what]
        assert found["after"][what] == found["before"][what]
    assert found["after"]["files"] == 0


# --- the page, and what CI installs -------------------------------------------------------------


def test_the_command_shows_a_page(tmp_path: Path) -> None:
    """A small run writes the page and the figures, and both agree."""
    need.program("gcc")
    need.program("redis-server")
    command = [
        sys.executable,
        "-m",
        "benchmarks.servers",
        "--only",
        "^Redis$",
        "--parts",
        "servers",
    ]
    done = subprocess.run(
        [*command, "--quick", "--network", "shared", "--output", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "docs" / "servers.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| Redis \| tcp \|.*", text, re.MULTILINE)
    assert row.count("yes") >= 2
    figures = json.loads((tmp_path / "benchmarks/results/servers.json").read_text(encoding="utf-8"))
    assert all(cell["name"] == "Redis" for cell in figures["servers"]["user"])


def test_the_page_is_made_of_the_figures(load: Callable[[str], ModuleType]) -> None:
    """docs/servers.md is what the kept figures make."""
    text = (ROOT / "benchmarks" / "results" / "servers.json").read_text(encoding="utf-8")
    page = load("_page").page(json.loads(text))
    assert page == (ROOT / "docs" / "servers.md").read_text(encoding="utf-8")


def test_ci_installs_what_the_tests_need() -> None:
    """Each program that a test asks for by name is in .ci/install: CI must not lack it."""
    install = (ROOT / ".ci" / "install").read_text(encoding="utf-8")
    installed = set(re.findall(r"^    ([a-z0-9_-]+):[a-z0-9,.-]+$", install, re.MULTILINE))
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    needed = {name for text in texts for name in re.findall(r'need\.program\("([\w.+-]+)"\)', text)}
    assert needed - installed - EVERYWHERE == set()
    assert find_program("sh") is not None
