"""The site: it is built without a warning, from these files alone, and holds together."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import click
import pytest

import portlease
from _cli import environment
from _documents import ROOT
from _need import need
from portlease import _states, recipes
from portlease.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCS: Final = ROOT / "docs"
_HANG_S: Final = 280.0  # all of Sphinx, on a machine that does much else; faulthandler has 300


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; built once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # what the workers of a run have in common
    folder = base / "site"
    with (base / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "said").exists():
            said = _build(folder)
            (folder / "said").write_text(said, encoding="utf-8")
        said = (folder / "said").read_text(encoding="utf-8")
    assert not said, said
    return folder / "html"


def _build(folder: Path) -> str:
    """As `make docs` does; what it complains of."""
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        timeout=_HANG_S,
        check=False,
    )
    return "" if done.returncode == 0 else f"status {done.returncode}\n{done.stdout}"


class Links(HTMLParser):
    """What a page points to, what it loads, and the places in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.to: set[str] = set()
        self.loads: set[str] = set()
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sort an element's attributes."""
        found = {name: value or "" for name, value in attrs}
        self.places |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.to.add(found["href"])
        elif tag == "link" and found.get("rel") not in {"canonical", "search", "index"}:
            self.loads.add(found.get("href", ""))
        elif tag in {"script", "img", "iframe", "source"} and "src" in found:
            self.loads.add(found["src"])


def test_every_link_leads_somewhere(site: Path) -> None:
    """Pages, and places on pages; other sites are not asked."""
    pages = {path: Links(path) for path in site.rglob("*.html")}
    assert len(pages) > 25
    wrong = []
    for path, links in pages.items():
        for link in links.to | links.loads:
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.exists():
                wrong.append(f"{path.name}: {link}")
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].places
            ):
                wrong.append(f"{path.name}: {link}: no such place")
    assert not wrong


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Neither scripts nor style sheets, pictures or letters: it can be read in a train."""
    for path in site.rglob("*.html"):
        assert not [link for link in Links(path).loads if urlsplit(link).netloc], path
    for path in [*site.rglob("*.css"), *site.rglob("*.html")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text), path


def test_the_api_is_all_there(site: Path) -> None:
    """Every name that `import portlease` offers, and every recipe."""
    places = Links(site / "reference" / "api.html").places
    ends = {place.rpartition(".")[2] for place in places}
    assert set(portlease.__all__) - {"recipes", "script_helper", "socket_helper"} <= ends
    assert set(recipes.__all__) <= ends


def test_the_help_of_every_command_is_there(site: Path) -> None:
    """As the command line prints it."""
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for name in app.list_commands(click.Context(app)):
        assert f'id="portlease-{name}"' in text


def test_the_drawing_of_the_states_is_the_table(site: Path) -> None:
    """Each state with who can take its port, each move on an arrow."""
    for page in ("architecture.html", "concepts/kernel.html"):
        (drawing,) = re.findall(
            r"<svg viewBox.*?</svg>", (site / page).read_text(encoding="utf-8"), re.DOTALL
        )
        for state, moves in _states.TRANSITIONS.items():
            assert f"<title>{_states.WHO_CAN_TAKE_IT[state]}</title>" in drawing
            assert f">{state}</text>" in drawing
            for action, end in moves.items():
                if end is not state:
                    assert re.search(rf"{action}\(\)[^;]* from {state} to {end}", drawing)


# Loads every page in a frame of a phone's width, one after the other, and writes down which of them
# is wider than that.
_MEASURE = """\
<body><script>
const pages = %s;
async function measure() {
  const wide = [];
  for (const page of pages) {
    const frame = document.createElement("iframe");
    frame.style.width = "400px";
    frame.style.height = "800px";
    frame.src = page;
    document.body.append(frame);
    await new Promise((loaded) => frame.addEventListener("load", loaded));
    const width = frame.contentDocument.documentElement.scrollWidth;
    if (width > frame.contentWindow.innerWidth) wide.push(page + " " + width);
    frame.remove();
  }
  document.body.dataset.measured = "measured " + pages.length + ", too wide: " + wide.join(", ");
}
measure();
</script></body>
"""


def test_no_page_is_wider_than_a_phone(site: Path, tmp_path: Path) -> None:
    """In a real browser, 400 pixels wide: tables and code scroll, the page does not.

    A page that is wider stands among them as a control.
    """
    chromium = need.program("chromium")
    control = tmp_path / "wide.html"
    control.write_text("<div style='width: 600px'>wide</div>", encoding="utf-8")
    pages = [path.as_uri() for path in (control, *sorted(_own_pages(site)))]
    measure = tmp_path / "measure.html"
    measure.write_text(_MEASURE % pages, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--allow-file-access-from-files", "--virtual-time-budget=100000"]
    done = subprocess.run(
        [
            chromium,
            *options,
            f"--user-data-dir={tmp_path / 'chromium'}",
            "--dump-dom",
            measure.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=_HANG_S,
        check=False,
    )
    found = re.search(r'data-measured="measured (\d+), too wide: ([^"]*)"', done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) == len(pages)
    assert re.fullmatch(rf"{control.as_uri()} 6\d\d", found[2])


def _own_pages(site: Path) -> Iterator[Path]:
    for path in site.rglob("*.html"):
        if path.name not in {"genindex.html", "search.html", "py-modindex.html"}:
            yield path
