"""The plots of docs/benchmarks.md, drawn by matplotlib of the figures that are kept.

Each file says by a digest which figures it was drawn of, so that a test without matplotlib can tell
whether it is that of the page. It brings its background along, light or dark as the reader's system
is set, and colours that are told apart by those who see fewer of them (Okabe and Ito's); what a
colour says is said by a word or by the marker's shape too.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import _peers
import lease_cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from _report import Cell, Kept

    Rows = Sequence[Mapping[str, Cell]]

_INK: Final = "#1a1a1c"
_QUIET: Final = "#66666a"
_RULE: Final = "#dcdce0"
_PAPER: Final = "#fefeff"
_OURS: Final = "#0072b2"
_HOLDER: Final = "#c25400"
_DARK: Final = {
    _INK: "#ececf0",
    _QUIET: "#a3a3aa",
    _RULE: "#3a3a40",
    _PAPER: "#16161a",
    _OURS: "#56b4e9",
    _HOLDER: "#f0a33a",
}
_FONTS: Final = ("DejaVu Sans", "Verdana", "Arial", "sans-serif")  # the first two as wide
_WIDTH: Final = 8.4
_STYLE: Final = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "text.color": _INK,
    "axes.labelcolor": _QUIET,
    "axes.edgecolor": _RULE,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.facecolor": _PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": _PAPER,
    "savefig.facecolor": _PAPER,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": _QUIET,
    "ytick.color": _INK,
    "ytick.left": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "portlease",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One of them: of which benchmark, what it shows in words, how it is drawn."""

    benchmark: str
    title: str
    draw: Callable[[Any, Kept], Any]


def draw(chosen: Mapping[str, Kept], directory: Path) -> Iterator[Path]:
    """Draw those whose figures are there; yield each file once it is written.

    Raises:
        ImportError: matplotlib is not installed.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    directory.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        if plot.benchmark not in chosen:
            continue
        with matplotlib.rc_context(_STYLE):
            figure = plot.draw(pyplot, chosen[plot.benchmark])
            text = io.StringIO()
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(text, format="svg", metadata=nothing)
            pyplot.close(figure)
        path = directory / f"{name}.svg"
        svg = _finished(text.getvalue(), plot, digest(plot, chosen))
        path.write_text(svg, encoding="utf-8")
        yield path


def digest(plot: Plot, chosen: Mapping[str, Kept]) -> str:
    """What tells the figures of a plot from any others."""
    tables = [[dict(row) for row in table.rows] for table in chosen[plot.benchmark].result.tables]
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def _finished(svg: str, plot: Plot, figures: str) -> str:
    """With a title, the dark colours, and the digest; without what matplotlib says of itself."""
    _, opening, rest = svg.partition("<svg ")
    attributes, _, body = rest.partition(">")
    body = body[body.index("</metadata>") + len("</metadata>") :] if "<metadata>" in body else body
    body = body.replace(
        "'DejaVu Sans'", ", ".join(f"'{one}'" for one in _FONTS[:-1]) + ", sans-serif"
    )
    dark = "\n".join(
        f'[style*="{part}: {light}"] {{ {part}: {dark} !important }}'
        for light, dark in _DARK.items()
        for part in ("fill", "stroke")
    )
    return (
        f'{opening}{attributes} role="img">\n'
        f" <title>{plot.title}</title>\n"
        f" <!-- figures {figures} -->\n"
        f" <style>@media (prefers-color-scheme: dark) {{\n{dark}\n}}</style>"
        + "\n".join(line.rstrip() for line in body.split("\n"))
    )


# --- what they have in common -------------------------------------------------------------------


def _value(row: Mapping[str, Cell], key: str) -> float:
    value = row[key]
    if not isinstance(value, (int, float)):
        raise TypeError(f"{key} of {row['name']} is {value!r}")
    return float(value)


def _colour(name: str) -> str:
    if name.startswith("portlease"):
        return _OURS
    if name in {lease_cost.BARE, lease_cost.BARE_C, lease_cost.HOLD}:
        return _INK
    return _HOLDER if name in _peers.HOLDERS else _QUIET


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _figure(pyplot: Any, height: float, columns: int = 1) -> tuple[Any, Sequence[Any]]:  # noqa: ANN401
    figure, axes = pyplot.subplots(
        1, columns, figsize=(_WIDTH, height), sharey=True, squeeze=False, layout="constrained"
    )
    return figure, axes[0]


def _names(axes: Any, names: Sequence[str]) -> None:  # noqa: ANN401
    """Rows from top to bottom, each named in its own colour."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for tick, name in zip(axes.yaxis.get_major_ticks(), names, strict=True):
        tick.label1.set_color(_INK if _colour(name) == _QUIET else _colour(name))
    axes.grid(visible=True, axis="x")
    axes.tick_params(length=0)


def _ranges(axes: Any, rows: Rows, *, log: bool, above: bool) -> None:  # noqa: ANN401
    """The median as a dot, hollow for those who hold nothing, in the range of the quartiles."""
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    for at, row in enumerate(rows):
        colour = _colour(str(row["name"]))
        median, upper = _value(row, "median"), _value(row, "upper")
        axes.hlines(at, _value(row, "lower"), upper, color=colour, linewidth=3)
        hollow = row.get("holds") in {"nothing", "own memory"}
        axes.plot(
            median,
            at,
            marker="o",
            markersize=6.5,
            markeredgewidth=1.6,
            color=colour,
            markerfacecolor=_PAPER if hollow else colour,
        )
        axes.annotate(
            _number(median),
            (median if above else max(upper, median), at),
            xytext=(0, 6) if above else (8, 0),
            textcoords="offset points",
            ha="center" if above else "left",
            va="bottom" if above else "center",
            color=_INK if colour == _QUIET else colour,
            fontsize=8.5,
        )


def _ends(axes: Any, ends: Sequence[tuple[str, float, str]], *, gap: float) -> None:  # noqa: ANN401
    """Names at the right end of lines, moved apart by *gap* at least, in the unit of the axis."""
    placed: list[float] = []
    for name, y, colour in sorted(ends, key=lambda end: end[1]):
        placed.append(max(y, placed[-1] + gap) if placed else y)
        axes.annotate(
            name,
            (1, placed[-1]),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8.5,
            annotation_clip=False,
        )


def _line(
    axes: Any,  # noqa: ANN401
    xs: Sequence[float],
    row: Mapping[str, Cell],
    keys: Sequence[str],
    **look: Any,  # noqa: ANN401
) -> None:
    """A contestant's medians, in the band of its quartiles."""
    colour = look["color"]
    lower, upper = ([_value(row, f"{key} {end}") for key in keys] for end in ("lower", "upper"))
    axes.fill_between(xs, lower, upper, color=colour, alpha=0.15, linewidth=0)
    medians = [_value(row, f"{key} median") for key in keys]
    axes.plot(xs, medians, marker="o", markersize=4.5, linewidth=1.8, **look)


# --- each -----------------------------------------------------------------------------------------


def _cost(pyplot: Any, kept: Kept) -> Any:  # noqa: ANN401
    rows = sorted(kept.result.tables[0].rows, key=lambda row: _value(row, "median"))
    figure, (axes,) = _figure(pyplot, 0.29 * len(rows) + 0.9)
    _names(axes, [str(row["name"]) for row in rows])
    _ranges(axes, rows, log=True, above=False)
    axes.set_xlabel(
        "microseconds, median and quartiles, logarithmic\n"
        "filled: keeps others from the port;  hollow: holds nothing"
    )
    axes.margins(x=0.1)
    return figure


def _held(pyplot: Any, kept: Kept) -> Any:  # noqa: ANN401
    rows = {str(row["name"]): row for row in kept.result.tables[1].rows}
    counts = sorted(
        {int(key.split()[0]) for row in rows.values() for key in row if key[0].isdigit()}
    )
    looks = {
        lease_cost.LEASE: ("portlease.lease()", _OURS, "-"),
        lease_cost.BARE: ("bare, Python", _INK, "-"),
        lease_cost.BARE_C: ("bare, C", _INK, "--"),
        _peers.CPYTHON: ("CPython", _QUIET, "-"),
        "tornado bind_unused_port": ("tornado", _HOLDER, "-"),
    }
    figure, panels = _figure(pyplot, 3.4, 2)
    places = list(range(len(counts)))
    ends, top = [], 0.0
    for axes, who in zip(panels, (lease_cost.HERE, lease_cost.ELSEWHERE), strict=True):
        keys = [f"{count} {who}" if count else "0" for count in counts]
        for name, (short, colour, dash) in looks.items():
            if name in rows:
                _line(axes, places, rows[name], keys, color=colour, linestyle=dash)
                top = max(top, *(_value(rows[name], f"{key} median") for key in keys))
                if who == lease_cost.ELSEWHERE:
                    ends.append((short, _value(rows[name], f"{keys[-1]} median"), colour))
        axes.set_title(f"held by {who}" + (" process" if who == lease_cost.ELSEWHERE else ""))
        axes.set_xticks(places, [f"{count:,}" for count in counts])
        axes.set_xlabel("leases held")
        axes.grid(visible=True, axis="y")
        axes.tick_params(length=0)
    panels[0].set_ylabel("microseconds, median and quartiles")
    panels[0].set_ylim(0, 1.2 * top)  # for both; quartiles of a busy machine may be cut off
    _ends(panels[-1], ends, gap=1.2 * top / 18)
    return figure


def _crowd(pyplot: Any, kept: Kept) -> Any:  # noqa: ANN401
    rows = {str(row["name"]): row for row in kept.result.tables[0].rows}
    crowds = [column.key for column in kept.result.tables[0].columns if column.key.isdigit()]
    looks = {
        lease_cost.LEASE: ("portlease.lease()", _OURS, "-"),
        lease_cost.FIND: ("portlease.find_unused_port()", _OURS, "--"),
        lease_cost.BARE: ("bare calls, Python", _INK, "-"),
        _peers.CPYTHON: ("CPython", _QUIET, "-"),
        "aiohttp unused_port": ("aiohttp", _QUIET, "-"),
        "portend": ("portend", _QUIET, "-"),
        "portpicker": ("portpicker", _QUIET, "-"),
        _peers.PORTSERVER: ("portpicker, its server", _HOLDER, "-"),
        "tornado bind_unused_port": ("tornado", _HOLDER, "-"),
    }
    figure, (axes,) = _figure(pyplot, 4.2)
    ends = []
    for name, (short, colour, dash) in looks.items():
        if name in rows:
            _line(axes, list(map(int, crowds)), rows[name], crowds, color=colour, linestyle=dash)
            ends.append((short, _value(rows[name], f"{crowds[-1]} median"), colour))
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(map(int, crowds)), crowds)
    axes.minorticks_off()
    axes.set_xlabel("processes at once")
    axes.set_ylabel("thousand ports a second, all together")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y")
    axes.tick_params(length=0)
    _ends(axes, ends, gap=axes.get_ylim()[1] / 24)
    return figure


def _collisions(pyplot: Any, kept: Kept) -> Any:  # noqa: ANN401
    rows = sorted(kept.result.tables[0].rows, key=lambda row: _value(row, "per"))
    figure, (axes,) = _figure(pyplot, 0.29 * len(rows) + 0.8)
    _names(axes, [str(row["name"]) for row in rows])
    for label in axes.get_yticklabels():
        if not label.get_text().startswith("portlease"):
            label.set_color(_INK)
    for at, row in enumerate(rows):
        # Nobody's hold but ours is left of those that were asked for a number.
        colour = _OURS if _colour(str(row["name"])) == _OURS else _QUIET
        axes.barh(at, _value(row, "per"), height=0.55, color=colour)
        axes.annotate(
            f"{_value(row, 'per'):.0f}",
            (_value(row, "per"), at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=_INK if colour == _QUIET else colour,
        )
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("ports that two had at once, of 16,000 that 16 processes were given")
    return figure


def _panels(pyplot: Any, rows: Rows, label: str, *, log: bool) -> Any:  # noqa: ANN401
    """One panel for each server; of each the same starters."""
    servers = list(dict.fromkeys(str(row["server"]) for row in rows))
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    figure, panels = _figure(pyplot, 0.42 * len(names) + 1.1, len(servers))
    for axes, server in zip(panels, servers, strict=True):
        of_it = [row for row in rows if row["server"] == server]
        _names(axes, names)
        _ranges(axes, of_it, log=log, above=True)
        for at, row in enumerate(of_it):
            axes.plot(_value(row, "p99"), at, marker="|", markersize=9, color=_colour(names[at]))
        axes.set_title(server)
        axes.margins(x=0.1)
        if not log:
            axes.set_xlim(left=0)
    figure.supxlabel(label, fontsize=9.5, color=_QUIET)
    return figure


def _readiness(pyplot: Any, kept: Kept) -> Any:  # noqa: ANN401
    label = "milliseconds after listen(), logarithmic: median, quartiles, | 99th percentile"
    return _panels(pyplot, kept.result.tables[0].rows, label, log=True)


def _first_byte(pyplot: Any, kept: Kept) -> Any:  # noqa: ANN401
    label = "milliseconds from start to first byte: median, quartiles, | 99th percentile"
    return _panels(pyplot, kept.result.tables[0].rows, label, log=False)


PLOTS: Final = {
    "cost": Plot("lease_cost", "Microseconds to take a port and give it back", _cost),
    "held": Plot("lease_cost", "The same while 1,000 and 10,000 leases are held", _held),
    "crowd": Plot("crowd", "Ports a second by 1 to 16 processes", _crowd),
    "collisions": Plot("collisions", "Ports that two had at once, of 16,000", _collisions),
    "readiness": Plot(
        "readiness", "Milliseconds from listen() to the starter's return", _readiness
    ),
    "first-byte": Plot("first_byte", "Milliseconds from start to first byte", _first_byte),
}
