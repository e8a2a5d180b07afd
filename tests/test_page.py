"""The page: one file that needs nothing, whatever the texts in it, quick with all that it shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final

import pytest

from _browser import look
from portlease._errors import UsageError
from portlease._page import page

if TYPE_CHECKING:
    from pathlib import Path

EVIL: Final = (
    "</script><!--<script>alert(1)</script> & \"'<img src=x onerror=alert(2)>\x00\ud800\u2028"
)


def small(text: str = "t") -> dict[str, Any]:
    """A page with a bit of everything, whose texts are *text*."""
    return {
        "title": text,
        "command": text,
        "started": 1_700_000_000.5,
        "verdict": {"level": "bad", "text": text},
        "facts": [[text, text]],
        "notes": [text],
        "lanes": [
            {"name": text, "begin": 0.0, "end": 2.0, "outcome": "failed", "note": text},
            {"name": "two", "begin": 0, "end": 2},
        ],
        "tests": [
            {"lane": 0, "name": text, "begin": 0.5, "end": 1.0, "outcome": "failed"},
            {"lane": 1, "name": text, "begin": 0.5, "end": None, "worker": text},
        ],
        "ports": [
            {
                "lane": 0,
                "port": 8080,
                "begin": 0.5,
                "end": None,
                "file": text,
                "line": 3,
                "options": text,
                "findings": [0],
            },
            {"lane": 1, "port": 8080, "begin": 0.6, "end": 0.6, "error": "EADDRINUSE"},
        ],
        "collisions": [{"at": 0.6, "lane": 1, "other": 0, "port": 8080, "text": text}],
        "failures": [
            {
                "test": text,
                "lanes": [1],
                "at": 0.6,
                "cause": text,
                "culprit": text,
                "port": 8080,
                "count": "1 of 2",
                "message": text,
                "alone": False,
            },
            {"test": "other", "alone": True},
        ],
        "findings": [
            {
                "level": "error",
                "code": text,
                "rule": text,
                "text": text,
                "file": text,
                "line": 1,
                "ports": [8080],
                "tests": [text] * 4,
                "remedy": text,
            },
        ],
    }


class _Tags(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Remember it, by the tag that it is in or behind."""
        if self.tags:
            self.text.setdefault(self.tags[-1][0], "")
            self.text[self.tags[-1][0]] += data


def data_of(text: str) -> dict[str, Any]:
    """The script's data."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_no_text_gets_out_of_its_place() -> None:
    """Whatever a test is called: the tags are the same, and the texts are all there."""
    evil, good = page(small(EVIL)), page(small())
    assert [tag for tag, _ in _Tags(evil).tags] == [tag for tag, _ in _Tags(good).tags]
    shown = EVIL.replace("\ud800", "\ufffd")
    assert data_of(evil)["strings"][0] == shown
    assert data_of(evil)["lanes"][0]["name"] == shown
    assert evil.encode()


def test_it_needs_nothing_from_anywhere() -> None:
    """No address in any tag, and a policy that forbids to load anything."""
    tags = _Tags(page(small())).tags
    links = [value for _, attrs in tags for name, value in attrs.items() if name in {"src", "href"}]
    assert links == ["data:,"]
    [policy] = [attrs["content"] for tag, attrs in tags if tag == "meta" and "http-equiv" in attrs]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in page(small()).replace('http-equiv="Content-Security-Policy"', "")


def test_what_matters_needs_no_script() -> None:
    """Verdict, failures, findings and notes are HTML; a button has a failure's place in time."""
    text = page(small("spoken"))
    for part in "verdict bad", 'id="failures"', 'id="findings"', "<h2>Notes</h2>":
        assert part in text
    assert 'data-at="600000" data-port="8080"' in text
    assert "failed alone too: 1" in text


def test_the_legend_names_the_levels_that_there_are() -> None:
    """A page without findings has no colours of theirs."""
    assert "port of an error" in page(small())
    assert "port of a warning" not in page(small())
    assert "port of an" not in page({"title": "t"})


def test_the_scripts_data() -> None:
    """Columns, in microseconds; every text once; what has no end ends with its lane."""
    data = data_of(page(small()))
    assert data["span"] == [0, 2_000_000]
    assert data["tests"]["end"] == [1_000_000, 2_000_000]
    assert data["ports"]["end"] == [2_000_000, 600_000]
    assert data["ports"]["error"][0] == -1
    assert data["strings"][data["ports"]["error"][1]] == "EADDRINUSE"
    assert data["strings"].count("t") == 1
    assert data["collisions"] == [{"at": 600_000, "lane": 1, "other": 0, "port": 8080, "text": "t"}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "title=None"),
        ({"title": "t", "lane": []}, "no 'lane'"),
        ({"title": "t", "tests": [{"lane": 0, "name": "n", "begin": 0}]}, "lane 0"),
        ({**small(), "findings": []}, "has finding 0"),
        ({"title": "t", "lanes": [{"name": "n", "begin": 0, "end": float("nan")}]}, "end=nan"),
        ({"title": "t", "lanes": [{"name": "n", "begin": 0, "end": True}]}, "end=True"),
        ({"title": "t", "lanes": [{"name": "n", "begin": 0, "end": 1, "x": 1}]}, "no 'x'"),
        ({"title": "t", "verdict": {"level": "green", "text": ""}}, "verdict="),
    ],
)
def test_what_means_nothing_is_refused(data: dict[str, Any], said: str) -> None:
    """A misspelt key would be a page without what the caller meant."""
    with pytest.raises(UsageError, match=re.escape(said)):
        page(data)
    assert page({"title": "nothing at all"})


def large(lanes: int, tests: int) -> dict[str, Any]:
    """So many lanes of so many tests; every third has a port, every hundredth a contested one."""
    made: dict[str, Any] = {
        "title": "large",
        "lanes": [],
        "tests": [],
        "ports": [],
        "collisions": [],
    }
    for lane in range(lanes):
        made["lanes"].append({"name": f"instance {lane}", "begin": 0.0, "end": tests / 100 + 1})
        for n in range(tests):
            name, begin = f"tests/test_{n // 50}.py::test_{n % 50}", n / 100 + lane / 1000
            bad = lane > 0 and n % 100 == 1
            outcome = "failed" if bad else "passed"
            place = {"lane": lane, "begin": begin}
            made["tests"].append({**place, "name": name, "end": begin + 0.009, "outcome": outcome})
            if n % 3 == 0:
                port = {"port": 30_000 + (n * 7 + lane * 999) % 20_000, "end": begin + 0.009}
                made["ports"].append({**place, **port, "file": "tests/util.py", "line": 7})
            if n % 100 == 1:
                error = {"error": "EADDRINUSE", "end": begin} if bad else {"end": begin + 0.5}
                made["ports"].append({**place, "port": 8080 + n // 100 % 5, **error, "test": name})
            if bad:
                collision = {"at": begin, "other": 0, "port": 8080 + n // 100 % 5, "text": name}
                made["collisions"].append({"lane": lane, **collision})
    return made


# Presses what a person would, then says how it went, for --dump-dom. A handler comes before all.
PRESS: Final = """
<script>
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("load", () => {
  const paper = document.getElementById("paper"), marks = [];
  const press = key => paper.dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true}));
  for (const key of ["n", "n", "p", "+", "-", "ArrowRight", "ArrowLeft", ".", ",", "Escape", "0"])
    press(key);
  for (const box of document.querySelectorAll("[data-grouping]")) { box.click(); press("n"); }
  for (const table of document.querySelectorAll("details")) table.open = true;
  const pen = paper.getContext("2d");
  const ink = () => new Set(pen.getImageData(0, 0, paper.width, 300).data).size > 8;
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => {
    document.title = JSON.stringify({errors, drawn: ink(),
      said: document.getElementById("picked").textContent,
      tests: document.querySelectorAll("#all-tests tbody tr").length,
      ports: document.querySelectorAll("#all-ports tbody tr").length});
  }, 50)));
});
</script>
"""


def test_a_browser_draws_it(tmp_path: Path) -> None:
    """8 instances of 2,000 tests: drawn without an error; keys and tables work; no name runs."""
    data = large(8, 2_000)
    data["tests"][0]["name"] = EVIL
    text = page(data)
    assert len(text) < 2_000_000
    found = look(tmp_path / "page.html", text.replace("<body>", "<body>" + PRESS, 1))
    assert (found["errors"], found["drawn"]) == ([], True)
    assert found["said"].startswith("Collision 2 of 140, at ")
    assert (found["tests"], found["ports"]) == (100, 100)
