"""The audit's page says what its text says, and its picture names the ports of findings."""

from __future__ import annotations

import re
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from _audited import DATA
from _brokered import need_broker
from _browser import look
from _cli import PORTLEASE, environment
from _need import netns_command
from _processes import HANG_S
from portlease import _trail
from portlease._audit import _report, _verdicts
from portlease._page import _part, page
from portlease._trail import Event

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("the observer is Linux's", allow_module_level=True)

MANY: Final = """

@pytest.mark.parametrize("number", range(5))
def test_many(number: int) -> None:
    with socket.create_server(("127.0.0.1", 18205)):
        assert number >= 0
"""
PYTEST: Final = (
    *(sys.executable, "-m", "pytest", "-q", "-p", "portlease.pytest_plugin"),
    *("-p", "no:cacheprovider"),
)
MOST_TESTS: Final = 3
"""How many the text names of each finding."""


class Shown(NamedTuple):
    """A finding as the page has it."""

    level: str
    rule: str
    place: str
    message: str
    remedy: str
    tests: list[str]
    more: str
    ports: str
    times: str

    def lines(self) -> list[str]:
        """As the text has it."""
        times = f" ({self.times} times)" if self.times != "1" else ""
        told = [f"{self.place}: {self.level}: {self.message}{times} [{self.rule}]"]
        if self.tests:
            more = f" {self.more}" if self.more else ""
            told.append(f"    in {', '.join(self.tests[:MOST_TESTS])}{more}")
        return [*told, f"    {self.remedy}"]


class Page(HTMLParser):
    """What a browser without scripts shows of it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.verdict = ""
        self.findings: list[Shown] = []
        self._open: list[tuple[str, str]] = []
        self._cells: list[dict[str, list[str]]] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember where we are."""
        given = dict(attrs)
        if tag not in {"meta", "link", "input"}:
            self._open.append((tag, given.get("class") or ""))
        self._inside = self._inside or given.get("id") == "findings"
        if self._inside and tag == "tr":
            self._cells = []
        if self._inside and tag == "td":
            self._cells.append({})
        if self._inside and tag == "li":
            self._cells[-1].setdefault("li", []).append("")

    def handle_endtag(self, tag: str) -> None:
        """A row has ended, or the table."""
        while self._open and self._open.pop()[0] != tag:
            pass
        if self._inside and tag == "tr" and self._cells:
            level, rule, place, message, _, ports, times, _ = (
                "".join(cell.get("td", ())) for cell in self._cells
            )
            what, tests = self._cells[3:5]
            remedy, more = "".join(what["span"]), "".join(tests.get("summary", ()))
            names = tests.get("li", [])
            self.findings.append(
                Shown(level, rule, place, message, remedy, names, more, ports, times)
            )
        self._inside = self._inside and tag != "table"

    def handle_data(self, data: str) -> None:
        """Text: of the verdict, or of a cell."""
        tag, kind = self._open[-1] if self._open else ("", "")
        if kind.startswith("verdict "):
            self.verdict += data
        if self._inside and self._cells:
            texts = self._cells[-1].setdefault(tag, [])
            if tag == "li":
                texts[-1] += data
            else:
                texts.append(data)


def audited(folder: Path) -> tuple[list[str], str]:
    """Audit a suite with each kind of port: what was told, line by line, and the page."""
    need_broker()
    source = (DATA / "suite.py").read_text()
    (folder / "test_suite.py").write_text(source + MANY)
    done = subprocess.run(
        netns_command([*PORTLEASE, "audit", "--html", "a.html", "--", *PYTEST]),
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
        timeout=HANG_S,
        check=False,
    )
    assert "12 passed" in done.stdout, done.stdout + done.stderr
    return done.stderr.splitlines(), (folder / "a.html").read_text("utf-8")


def test_every_finding_of_the_text_is_on_the_page(tmp_path: Path) -> None:
    """Word for word: place, level, rule, message, how often, tests and remedy; and the sum."""
    told, text = audited(tmp_path)
    shown = Page(text)
    first = next(n for n, line in enumerate(told) if ": error: " in line)
    assert [line for one in shown.findings for line in one.lines()] == told[first:-1]
    assert told[-1] == f"portlease: {shown.verdict}"
    [many] = [one for one in shown.findings if one.ports == "18205"]
    assert many.tests == [f"test_suite.py::test_many[{number}]" for number in range(5)]
    assert (many.more, many.times) == ("and 2 more", "5")


def test_every_bind_of_the_text_is_on_the_page(tmp_path: Path) -> None:
    """Each row of the text's table is in the page's table of ports, address and options too."""
    told, text = audited(tmp_path)
    headings, *rows = [re.split(r"\s{2,}", line) for line in told if re.search(r"\S\s{2,}\S", line)]
    assert headings == list(_report.HEADINGS)
    assert len(rows) > 5
    table = browsed(tmp_path, text)["ports"]
    for port, origin, address, options, _, where in rows:
        number, transport = port.split("/")
        assert transport == "tcp"
        assert [
            row
            for row in table
            if number in {"*", row["port"]}
            and origin in row["number"]
            and address in row["address"]
            and (options == "-" or options in row["options"])
            and where in row["where"].split(", ")
        ], (port, origin, where)


def audit_of(*events: Event, known: int = 0) -> _report.Audit:
    """An audit of these events, in the folder /suite."""
    return _report.Audit(
        command=("pytest",),
        status=1,
        events=list(events),
        verdicts=_verdicts.verdicts(events, root="/suite"),
        known=known,
        gone=known,
        notes=[],
        begun=0,
        ended=10_000_000_000,
        started=0.0,
        root="/suite",
    )


def bind(second: float, **facts: Any) -> Event:  # noqa: ANN401 - any field
    """A bind at this second."""
    usual = {"pid": 8, "transport": "tcp", "address": "127.0.0.1", "argv": ("server",)}
    usual |= {"got": facts.get("port")}
    return Event(what=_trail.BIND, t=round(second * 1e9), **{**usual, **facts})


EVIL: Final = "t.py::<script>alert(1)</script>[\"'&<img src=x onerror=alert(2)>-\x07]"


def test_names_of_tests_are_text() -> None:
    """Whatever a test, a file or a program is called, it is shown and nothing else."""
    facts: dict[str, Any] = {"test": EVIL, "file": f"/suite/{EVIL[6:]}", "line": 3}
    audit = audit_of(bind(1, port=8080, origin="hard-coded", **facts))
    text = page(_report.page_data(audit))
    [one] = Page(text).findings
    shown = EVIL.replace("\x07", "\ufffd")
    assert (one.tests, one.place) == ([shown], f"{shown[6:]}:3")
    assert "<script>alert" not in text
    assert "<img" not in text


def test_what_the_baseline_knows_is_counted() -> None:
    """As in the text's last line, where nothing new is found too."""
    audit = audit_of(bind(1, port=0, got=4000, origin="kernel"), known=2)
    assert Page(page(_report.page_data(audit))).verdict == _report.headline(audit)
    told = "1 bind (1 kernel); nothing new found; 2 known; 2 of the baseline gone"
    assert _report.headline(audit) == told


# --- the picture ----------------------------------------------------------------------------------

# Notes what is written and in which colours, opens the table, and says it all in the title. Frames
# are drawn by the timer's clock, which the browser is told to run to its end.
LOOK: Final = """
<script>
const words = [], fills = new Set(), errors = [];
addEventListener("error", event => errors.push(event.message));
window.requestAnimationFrame = draw => setTimeout(draw, 1);
const pen = CanvasRenderingContext2D.prototype, {fillText, fillRect} = pen;
pen.fillText = function (...all) { words.push(String(all[0])); fillText.apply(this, all); };
pen.fillRect = function (...all) { fills.add(this.fillStyle); fillRect.apply(this, all); };
addEventListener("load", () => {
  document.getElementById("all-ports").open = true;
  setTimeout(() => {
    const rows = [...document.querySelectorAll("#all-ports tbody tr")].map(row =>
      Object.fromEntries([...row.cells].map(cell => [cell.dataset.name || "", cell.textContent])));
    const first = words.splice(0), wide = document.documentElement;
    document.querySelector("button.go").click();
    parent.document.title = JSON.stringify({errors, words: first, fills: [...fills], ports: rows,
      picked: document.getElementById("picked").textContent,
      overflow: wide.scrollWidth - wide.clientWidth, width: innerWidth});
  }, 100);
});
</script>
"""
# A window is never as narrow as a telephone; a frame may be.
FRAME: Final = """\
<!doctype html><title></title>
<iframe srcdoc="{page}" style="width: {width}px; height: 900px; border: 0"></iframe>
"""


def browsed(folder: Path, text: str, width: int = 1200) -> dict[str, Any]:
    """What a browser makes of a page in a frame of this width."""
    inside = escape(text.replace("<body>", "<body>" + LOOK, 1))
    return look(folder / "look.html", FRAME.format(page=inside, width=width))


def of_each_level() -> str:
    """A page with an error, a warning, a note, and a port with which nothing is wrong."""
    return page(
        _report.page_data(
            audit_of(
                bind(1, port=8080, origin="hard-coded"),
                bind(2, port=0, got=4001, origin="kernel", file="/suite/test_a.py", line=3),
                bind(2.1, port=4001, origin="unheld"),
                bind(3, port=0, got=4002, origin="kernel", file="/suite/server.py", line=3),
                bind(4, port=9090, origin="lease", reuseaddr=True),
                Event(
                    what=_trail.BIND,
                    t=5_000_000_000,
                    pid=9,
                    transport="tcp",
                    address="127.0.0.1",
                    port=0,
                    got=4003,
                    origin="kernel",
                    reuseaddr=True,
                    file="/suite/test_a.py",
                    line=4,
                ),
            )
        )
    )


@pytest.mark.parametrize("width", [400, 1600])
def test_the_ports_of_findings_are_named_and_coloured(tmp_path: Path, width: int) -> None:
    """By number and rule, in the colour of their level; on a narrow screen nothing sticks out."""
    text = of_each_level()
    assert [one.level for one in Page(text).findings] == ["error", "warning", "note"]
    seen = browsed(tmp_path, text, width)
    assert (seen["width"], seen["overflow"]) == (width, 0)
    # In the margin: a row for the number that was chosen, one for each rule of the others.
    assert {"8080", "PL003", "PL004", "others"} <= set(seen["words"])
    for number, rule in ((8080, "PL001 hard-coded-port"), (4001, "PL003 unheld-free-port")):
        assert f"{number} {rule}" in seen["words"]
    assert not [one for one in seen["words"] if one.startswith(("4002", "9090"))]
    assert {colour for name, colour in colours("light").items() if name in LEVELS} <= set(
        seen["fills"]
    )
    assert "error: port 8080 (tcp, 127.0.0.1) is hard-coded [PL001 hard-coded-port]" in (
        seen["picked"].splitlines()
    )


LEVELS: Final = ("error", "warning", "note")


def colours(scheme: str) -> Mapping[str, str]:
    """The page's colours, by name."""
    light, dark = re.findall(r":root \{(.*?)\}", _part("page.css"), re.DOTALL)
    pairs = re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if scheme == "light" else dark)
    return dict(pairs)


def luminance(colour: str) -> float:
    """WCAG 2.1's relative luminance."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", LEVELS)
def test_a_level_is_legible(scheme: str, name: str) -> None:
    """Its name on the page, and what is written on its bars: WCAG's contrast of 4.5, in both."""
    found = colours(scheme)
    for other in ("back", "on"):
        lights = sorted((luminance(found[name]), luminance(found[other])))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5
