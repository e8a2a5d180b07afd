"""docs/servers.md, from the figures: pure, so that the page can be made again without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import _measure
from _markdown import facts, filled, section, table

from ._catalogue import CATALOGUE, HOWS, ITSELF
from ._thefts import CONTROL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Figures = Mapping[str, Any]

USERS: Final = ("root", "user")
_WORDS: Final = {
    "offer": "offer",
    "step-aside": "step aside",
    "broker": "broker",
    "hand-over": "hand over",
    CONTROL: CONTROL,
}
_ADVERSARIES: Final = {"plain": "binds", "reuse": "SO_REUSEADDR, binds and listens"}


def page(figures: Figures) -> str:
    """The whole page, in Markdown."""
    lines = [
        "# Servers",
        "",
        filled(
            """
            Real servers, started by each means, as root and as an ordinary user; and what each
            means is worth. Made by `make servers` (`python -m benchmarks.servers`), not by hand;
            the same figures are in `benchmarks/results/servers.json`.
            """
        ),
        "",
        *facts(figures["machine"]),
    ]
    for name, part in _PARTS.items():
        if name in figures:
            lines += ["", *part(figures[name])]
            if name == "servers":
                lines += ["", *_real_delays(figures[name])]
    return "\n".join(lines) + "\n"


# --- which servers ------------------------------------------------------------------------------


def _servers(figures: Figures) -> list[str]:
    cells = {(user, one["name"], one["how"]): one for user in USERS for one in figures[user]}
    reasons: list[str] = []
    rows = []
    for entry in CATALOGUE:
        mine = [cells.get((user, entry.name, how)) for how in HOWS for user in USERS]
        if any(mine):
            delays = [delay for cell in mine if cell for delay in cell["delays_ms"]]
            texts = [_cell(cell, reasons) for cell in mine]
            itself = [cells.get((user, entry.name, ITSELF)) for user in USERS]
            rows.append([entry.name, entry.kind, _chosen(itself, reasons), *texts, _median(delays)])
    served = sum(any(cell == "yes" for cell in row) for row in rows)
    kinds = {kind: sum(row[1] == kind for row in rows) for kind in ("tcp", "udp", "both")}
    lines = section(
        "Served, and answering",
        f"""
        {served} of {len(rows)} entries ({kinds["tcp"]} for TCP, {kinds["udp"]} for UDP,
        {kinds["both"]} for both) are served by one means at least. `by itself` is what `serve()`
        chose where nothing was asked for. `yes`: started by this means and no other, it listened on
        its leased port, gave a real client the answer that only it would give, and stopped with all
        that it had started. `-`: there is no such thing; a UDP socket cannot be offered (of both,
        the TCP socket is, and the UDP socket steps aside), and a server that takes no socket cannot
        be handed one. Anything else is `no`, with the reason below. The last column is the median
        time from the server's own listen() (UDP: bind()) to the return of `serve()`, where a
        preloaded library sees it; programs that make system calls themselves (Go, static ones) are
        not seen by it.
        """,
    )
    lines += [note for text in figures.get("notes", ()) for note in (text, "")]
    headings = [f"{_WORDS[how]}, {user}" for how in HOWS for user in USERS]
    lines += table(["server", "port", "by itself", *headings, "ready after, ms"], rows)
    if reasons:
        lines += ["", *(f"{number}. {reason}." for number, reason in enumerate(reasons, 1))]
    lines += ["", "### How a client knows it", ""]
    lines += table(
        ["server", "Debian package", "the client's question"],
        [
            [
                entry.name,
                f"`{entry.package.replace(',', ' ')}`",
                "; ".join(a.what for a in entry.asks),
            ]
            for entry in CATALOGUE
        ],
    )
    return lines


def _cell(cell: Figures | None, reasons: list[str]) -> str:
    if cell is None:
        return "not run"
    if cell["served"]:
        return "yes"
    if not_applicable(cell):
        return "-"
    reason = f"{cell['name']}: {cell['reason']}" if ":" in cell["reason"] else cell["reason"]
    if reason not in reasons:
        reasons.append(reason)
    return f"no ({reasons.index(reason) + 1})"


def _chosen(cells: Sequence[Figures | None], reasons: list[str]) -> str:
    """What serve() chose by itself; told once where the users agree."""
    texts = [
        _WORDS[cell["chosen"]] if cell["served"] else _cell(cell, reasons)
        for cell in cells
        if cell is not None
    ]
    return ", ".join(dict.fromkeys(texts)) or "not run"


def not_applicable(cell: Figures) -> bool:
    """Whether there is no such thing as this server by this means."""
    return bool(
        (cell["how"] == "offer" and cell["reason"].startswith("a UDP socket"))
        or (cell["how"] == "hand-over" and cell["reason"].startswith("takes no"))
    )


def _median(values: Sequence[float]) -> str:
    return _ms(_measure.spread(values).median) if values else ""


# --- what each means is worth -------------------------------------------------------------------


def _thefts(figures: Sequence[Figures]) -> list[str]:
    lines = section(
        "Thefts",
        f"""
        An adversary in C binds exactly the leased port in a tight loop, on a core of its own, from
        before the server is started until it is up or has failed. A theft is a start at the end of
        which the adversary has the port. The server is a small static C program: with SO_REUSEADDR
        for an offer, without for the others. `{CONTROL}` is the control: a free port is found, its
        socket closed, and the server started. (Those that step aside were measured side by side:
        they mostly wait.) An adversary that itself sets SO_REUSEADDR and
        listens is not promised against; the figures are what they are. Who may (CAP_NET_RAW: root)
        sets the sockets apart by interface for the moment of the bind: that keeps this one out too.
        """,
    )
    rows = []
    for one in figures:
        text = f"**{one['thefts']}** of {one['starts']}" if not one["reason"] else one["reason"]
        failed = one["failures"] if not one["reason"] else ""
        tried = round(one["attempts"] / one["starts"]) if one["starts"] else ""
        means = _WORDS[one["means"]]
        adversary = _ADVERSARIES[one["adversary"]]
        rows.append([one["transport"].upper(), adversary, means, one["user"], text, failed, tried])
    headings = [
        "port",
        "adversary",
        "means",
        "user",
        "thefts",
        "servers that failed",
        "binds tried a start",
    ]
    return lines + table(headings, rows)


def _real_delays(figures: Figures) -> list[str]:
    lines = section(
        "Ready, how long after listen(): these servers",
        """
        From the return of the server's own listen() (UDP: bind()) to the return of `serve()`, in
        milliseconds, over all starts above in which that was seen. Less than nothing: it was known
        before the call had returned to the server.
        """,
    )
    rows = []
    for how in HOWS:
        for user in USERS:
            mine = [cell for cell in figures[user] if cell["how"] == how]
            delays = [delay for cell in mine for delay in cell["delays_ms"]]
            rows.append([f"{_WORDS[how]}, {user}", *_spread(delays)])
    return lines + table(["means", "starts", "median", "p99", "most"], rows)


def _spread(values: Sequence[float]) -> list[str]:
    if not values:
        return ["0", "", "", ""]
    spread = _measure.spread(values)
    return [str(spread.count), *map(_ms, (spread.median, spread.p99, spread.most))]


def _ms(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _delays(figures: Figures) -> list[str]:
    lines = section(
        "Ready, how long after listen(): one small server",
        """
        The same for a small static C program that notes the time itself, the means by turns.
        """,
    )
    rows = []
    for key, values in figures.items():
        transport, _, how = key.partition(" ")
        row = [transport.upper(), _WORDS[how]]
        if isinstance(values, str):
            rows.append([*row, values, "", "", ""])
        else:
            rows.append([*row, *_spread(values)])
    return lines + table(["port", "means", "starts", "median", "p99", "most"], rows)


def _binds(figures: Figures) -> list[str]:
    lines = section(
        "What a bind costs",
        """
        Microseconds in the server, median and 99th percentile. `bind(0)` is the bind of a port that
        is not leased, which the broker looks at and lets through; it never sees `getpid`.
        """,
    )
    rows = []
    for user, hows in figures.items():
        for how, calls in hows.items():
            name = f"{'with the broker' if how == 'broker' else 'without'}, {user}"
            if isinstance(calls, str):
                rows.append([name, calls, "", "", "", ""])
                continue
            texts = [f"{one['median']:.1f}, {one['p99']:.1f}" for one in calls.values()]
            rows.append([name, *texts, str(calls["bind"]["count"])])
    headings = ["", "bind, leased", "listen, leased", "bind(0)", "getpid", "calls"]
    return lines + table(headings, rows)


def _leftovers(figures: Sequence[Figures]) -> list[str]:
    lines = section(
        "Nothing left behind",
        """
        Three counts: before, while one server runs (to show that the count sees something), and
        after many starts and stops, some of them by SIGKILL of the process that had started the
        server. After each SIGKILL the port was leased anew at once. Abstract sockets and ports are
        those of the network namespace. A running server has no temporary file: the one that
        collects its output has no name.
        """,
    )
    rows = []
    for one in figures:
        row: list[object] = [_WORDS[one["how"]], one["starts"], one["killed"]]
        if one["reason"]:
            rows.append([*row, one["reason"], "", "", "", ""])
            continue
        for what in one["before"]:
            before, during, after = (one[when][what] for when in ("before", "during", "after"))
            row.append(f"{before}, {during}, {after}")
        rows.append(row)
    headings = ["means", "starts", "by SIGKILL", "descriptors", "processes", "temporary files"]
    return lines + table([*headings, "abstract sockets", "ports"], rows)


_PARTS: Final[Mapping[str, Callable[[Any], list[str]]]] = {
    "servers": _servers,
    "thefts": _thefts,
    "delays": _delays,
    "binds": _binds,
    "leftovers": _leftovers,
}
