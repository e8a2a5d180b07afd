"""docs/suites.md, from the figures: pure, so that the page can be made again without them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

from _markdown import facts, filled, section, table

from ._portlease import INSTANCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Figures = Mapping[str, Any]

# So many of a suite's findings are shown; the figures have all of them.
_SHOWN: Final = 4


def page(figures: Figures) -> str:
    """The whole page, in Markdown."""
    lines = [
        "# Suites side by side",
        "",
        filled(
            f"""
            Suites that nobody changed for portlease, {INSTANCES} instances at once: in one network,
            and each in a network of its own (`--isolate`). Made by `make suites`
            (`python -m benchmarks.suites`), not by hand; the same figures, and more of them, are in
            `benchmarks/results/suites.json`.
            """
        ),
        "",
        *facts(figures["machine"]),
        "",
        filled(
            """
            A figure such as `14 + 6 + 7 + 5` counts, for each of the instances, the tests that
            failed in it and did not fail when the suite ran alone, just before. `never ended` is an
            instance that still ran when its time was up, minutes after the others of its kind had
            finished.
            """
        ),
    ]
    for name, part in _PARTS.items():
        if figures.get(name):
            lines += ["", *part(figures[name])]
    return "\n".join(lines) + "\n"


def _beyond(tally: Figures) -> str:
    """What failed in company alone: ``14 + 6 + 7 + 5``; ``0`` where nothing did."""
    cells = [
        "never ended" if result in _UNENDED else str(count)
        for count, result in zip(tally["beyond"], tally["results"], strict=True)
    ]
    return "0" if set(cells) == {"0"} else " + ".join(cells)


_UNENDED: Final = {"timeout", "timed out", "ended"}


def _causes(tally: Figures) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in tally["causes"].items()) or "-"


def _alone(tally: Figures) -> str:
    (first, *_) = tally["alone"]
    return f"{first['failed']} of {first['tests'] or tally['tests'] or '?'}"


def _ports(numbers: Sequence[int]) -> str:
    if len(numbers) <= _SHOWN:
        return ", ".join(map(str, numbers)) or "-"
    return f"{', '.join(map(str, numbers[:_SHOWN]))} and {len(numbers) - _SHOWN} more"


# --- packages -----------------------------------------------------------------------------------


def _packages(rows: Sequence[Figures]) -> list[str]:
    disturbed = sum(any(row["beside"]["beyond"]) for row in rows)
    clean = sum(not any(row["isolated"]["beyond"]) for row in rows)
    lines = section(
        "Packages from their sdists",
        f"""
        {disturbed} of these {len(rows)} suites fail when {INSTANCES} instances run at once;
        isolated, {clean} of {len(rows)} have no failure that they do not have alone. The sdists,
        their versions, hashes and what was run of each are in `benchmarks/suites/catalogue.toml`;
        what was installed beside them in `benchmarks/suites/locks/`. portlease is not installed
        there: nothing of a suite knows of it.
        """,
    )
    lines += ["```sh", f"portlease repeat -n {INSTANCES} -- python -m pytest ..."]
    lines += [f"portlease repeat -n {INSTANCES} --isolate -- python -m pytest ...", "```", ""]
    lines += table(
        ["package", "failed alone", "in one network", "isolated", "alone, s", "isolated, s", "why"],
        [
            [
                f"{row['name']} {row['version']}",
                _alone(row["beside"]),
                _beyond(row["beside"]),
                _beyond(row["isolated"]),
                f"{row['beside']['alone'][0]['seconds']:.0f}",
                f"{row['isolated']['seconds']:.0f}",
                _causes(row["beside"]),
            ]
            for row in rows
        ],
    )
    lines += ["", *_notes(rows), "### What repeat says of them", ""]
    lines += _filled_list(_told(row) for row in rows if row["beside"]["failures"])
    lines += ["", "### Their hard-coded ports", ""]
    lines += [
        filled(
            """
            `portlease audit -- python -m pytest ...` names them by what is bound while the suite
            runs alone; `portlease lint` reads the text of the tests. The last column is what audit
            saw and lint did not. Lint cannot see a number that the tests do not contain, such as a
            library's default, nor one that only comes together at run time.
            """
        ),
        "",
        *table(
            ["package", "hard-coded (audit)", "bound at", "lint", "at", "not seen by lint"],
            [_found(row) for row in rows],
        ),
    ]
    return lines


def _notes(rows: Sequence[Figures]) -> list[str]:
    texts = [f"- {row['name']}: {row['note']}" for row in rows if row["note"]]
    for row in rows:
        for way in ("beside", "isolated"):
            texts += [f"- {row['name']}, {_WAYS[way]}: {one}" for one in row[way]["shared"]]
        if any(row["isolated"]["beyond"]):
            texts.append(f"- {row['name']}, isolated: {_told_of(row['isolated'])}")
    return [*texts, ""] if texts else []


_WAYS: Final = {"beside": "in one network", "isolated": "isolated"}


def _told(row: Figures) -> str:
    return f"{row['name']}: {_told_of(row['beside'])}"


def _told_of(tally: Figures) -> str:
    """The first failure of each cause, in repeat's own words."""
    texts = []
    for cause in tally["causes"]:
        failures = [one for one in tally["failures"] if one["cause"] == cause]
        first = next((one for one in failures if one["culprits"]), failures[0])
        ports = f", port {_ports(first['ports'])}" if first["ports"] else ""
        said = f"; {first['culprits'][0]}" if first["culprits"] else ""
        text = " ".join(first["messages"][0].split()) if first["messages"] else ""
        texts.append(f"{cause}: `{first['test']}`{ports}: {_cut(text)}{said}")
    return ". ".join(texts) + "."


def _cut(text: str, most: int = 140) -> str:
    return text if len(text) <= most else text[:most].rstrip() + "..."


def _filled_list(texts: Iterable[str]) -> list[str]:
    return [
        line
        for text in texts
        for line in textwrap.wrap(
            f"- {text}",
            100,
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    ]


def _found(row: Figures) -> list[str]:
    audit, lint = row["audit"], row["lint"]
    unseen = sorted(set(audit["ports"]) - set(lint["ports"]))
    return [
        row["name"],
        _ports(audit["ports"]),
        _places(one["place"] for one in audit["findings"]),
        ", ".join(f"{code} {count}" for code, count in lint["codes"].items()) or "-",
        _places(one["place"] for one in lint["findings"]),
        _ports(unseen),
    ]


def _places(places: Iterable[str]) -> str:
    found = list(dict.fromkeys(places))
    text = ", ".join(f"`{one}`" for one in found[:_SHOWN])
    return f"{text} and {len(found) - _SHOWN} more" if len(found) > _SHOWN else text or "-"


# --- other languages ----------------------------------------------------------------------------


def _elsewhere(rows: Sequence[Figures]) -> list[str]:
    lines = section(
        "Without Python",
        """
        Three small suites, written for this page (`benchmarks/suites/elsewhere/`), in which there
        is no Python: each has a server on a port that is written in its text. `repeat` reads their
        results from what they print. In the shell's the instance that has the server fails as well:
        the others' clients reach it and count on it. `audit` names the program: of other languages
        than Python no line is known.
        """,
    )
    lines += table(
        ["suite", "command", "failed alone", "in one network", "isolated", "why", "audit"],
        [
            [row["title"], *(["not installed"] + [""] * 5)]
            if row.get("missing")
            else [
                row["title"],
                f"`{' '.join(row['command'])}`",
                str(row["beside"]["alone"][0]["failed"]),
                _beyond(row["beside"]),
                _beyond(row["isolated"]),
                _causes(row["beside"]),
                "; ".join(
                    f"{_ports(one['ports'])} by `{one['place']}`"
                    for one in row["audit"]["findings"]
                ),
            ]
            for row in rows
        ],
    )
    return lines


# --- CPython ------------------------------------------------------------------------------------


def _cpython(figures: Figures) -> list[str]:
    low, high = figures["narrow"]
    lines = section(
        "CPython's own network tests",
        f"""
        Of Python {figures["python"]}, run by its own regrtest, {INSTANCES} instances of each module
        at once: in one network, each in a network of its own, and in one network with
        {high - low + 1} ephemeral ports, with the helper that is CPython's own and with
        `portlease.socket_helper` in its place. A cell counts failures beyond the baseline, and the
        instances that had any. The last row is of those tests alone, of these and three more
        modules, that ask for an unused port, {figures.get("rounds", 0)} rounds of them.
        """,
    )
    rows = [
        [
            f"`{row['module'].removeprefix('test.')}`",
            _alone(row["beside"]),
            *(_summed(row[way]) for way in _NAMES),
        ]
        for row in figures["modules"]
    ]
    headings = ["module", "failed alone", "in one network", "isolated"]
    headings += [
        f"{high - low + 1} ports, CPython's helper",
        f"{high - low + 1} ports, portlease's",
    ]
    total = [f"**{_total(figures['modules'], way)}**" for way in _NAMES]
    rows += [["**all of these**", "", *total]]
    askers = figures.get("askers", {})
    if askers:
        rows += [
            [
                "those that ask for an unused port",
                _alone(askers["original"]),
                *("", ""),
                *(_summed(askers[way]) for way in ("original", "portlease")),
            ]
        ]
    lines += table(headings, rows)
    lines += [
        "",
        filled(
            f"""
            A closed connection keeps its port for a minute (TIME_WAIT), and one instance of
            `test_smtplib` alone then uses up {high - low + 1} ports: `bind(0)` itself fails,
            whoever asks. In the narrow networks closed connections are therefore forgotten at once
            (`tcp_max_tw_buckets` = 0). At the default range of 28,232 ports the original's fault is
            the same, and rarer.
            """
        ),
        "",
    ]
    lines += _filled_list(
        f"`{row['module'].removeprefix('test.')}`, {_NAMES[way]}: {_told_of(row[way])}"
        for row in [*figures["modules"], {"module": "those that ask", **askers}]
        for way in _NAMES
        if way in row and row[way]["failures"]
    )
    return lines


_NAMES: Final = {
    "beside": "in one network",
    "isolated": "isolated",
    "original": "few ports, CPython's helper",
    "portlease": "few ports, portlease's",
}


def _summed(tally: Figures) -> str:
    count = len(tally["beyond"])
    return f"{sum(tally['beyond'])} in {sum(map(bool, tally['beyond']))} of {count}"


def _total(rows: Iterable[Figures], way: str) -> str:
    beyond = [one for row in rows for one in row[way]["beyond"]]
    return f"{sum(beyond)} in {sum(map(bool, beyond))} of {len(beyond)}"


_PARTS: Final[Mapping[str, Callable[[Any], list[str]]]] = {
    "packages": _packages,
    "elsewhere": _elsewhere,
    "cpython": _cpython,
}
