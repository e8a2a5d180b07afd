"""docs/soak.md, from the figures: pure, so that the page can be made again without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from _markdown import facts, filled, section, table

from ._figures import doubles, sound
from ._leases import NAMED_PORTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Figures = Mapping[str, Any]

_LEFT: Final = {
    "descriptors": "descriptors of the controller",
    "processes": "processes",
    "networks": "network namespaces in use",
    "files": "temporary files",
    "abstract_sockets": "abstract Unix sockets of portlease and the ledger",
    "ports": "sockets bound or listening",
}


def summary(figures: Figures) -> str:
    """A few lines for a terminal."""
    lines = []
    if "soak" in figures:
        soak = figures["soak"]
        counted, asked = soak["counted"], soak["asked"]
        minutes, seconds = divmod(round(soak["seconds"]), 60)
        total = f"{counted['leases']:,} leases and {counted['servers']:,} servers"
        by = f"{asked['processes']} processes in {minutes} min {seconds} s"
        lines += [
            f"{total} by {by}; {soak['killed']['all']} processes killed and replaced",
            f"doubles: {_told(doubles(soak))}",
            f"left: {_changes(soak) or 'nothing'}",
            f"troubles: {soak['troubles']['count']}",
            *(f"  {line}" for line in _shown(soak)),
        ]
    control = figures["control"]
    lines += [
        f"control, {control['counted']['leases']:,} unheld ports: {_told(doubles(control))} double",
        "sound" if sound(figures) else "NOT SOUND",
    ]
    return "\n".join(lines)


def _told(found: Mapping[str, int]) -> str:
    return ", ".join(f"{detector} {number:,}" for detector, number in found.items())


def _changes(soak: Figures) -> str:
    before, after = soak["left"]["before"], soak["left"]["after"]
    changed = [f"{what} {before[what]} -> {after[what]}" for what in before]
    changed = [
        text for what, text in zip(before, changed, strict=True) if before[what] != after[what]
    ]
    lives = soak["processes"]
    grown = ("descriptors", "threads", "children", "rows")
    return ", ".join(
        changed + [f"{lives[what]} {what} in a process" for what in grown if lives[what]]
    )


def _shown(figures: Figures) -> list[str]:
    found = figures["detectors"]
    return [*found["kernel"]["shown"], *found["log"]["shown"], *figures["troubles"]["shown"]]


# --- the page -----------------------------------------------------------------------------------


def page(figures: Figures) -> str:
    """The whole page, in Markdown."""
    soak, control = figures["soak"], figures["control"]
    asked = soak["asked"]
    lines = [
        "# Soak",
        "",
        filled(
            f"""
            {soak["counted"]["leases"]:,} leases and {soak["counted"]["servers"]:,} servers by
            {asked["processes"]} processes, some of which are killed and replaced: was a port ever
            given to two at once, and what is left behind? Made by `make soak`
            (`python -m benchmarks.soak`), not by hand; the same figures are in
            `benchmarks/results/soak.json`.
            """
        ),
        "",
        *facts(figures["machine"]),
        f"- duration: {soak['seconds'] / 60:.1f} minutes",
        "",
        *_found(soak, control),
        "",
        *_mix(soak),
        "",
        *_left(soak),
    ]
    return "\n".join(lines) + "\n"


def _found(soak: Figures, control: Figures) -> list[str]:
    lines = section(
        "One port, two owners",
        """
        Three detectors, none of which asks portlease. The *ledger*: whoever has been given a port
        binds an abstract Unix socket of another name, and drops it before the port is given back;
        a bind that is refused is a double. The *kernel*: a process of its own reads the kernel's
        list of bound sockets (sock_diag) and whose they are (/proc/PID/fd), again and again;
        sockets of two processes on one port are a double, if both are there at the second
        look too. The *log*: everybody writes down from when until when a port was theirs, by the
        monotonic clock; intervals of one port that overlap are a double. The control is the same
        crowd with ports that nobody holds: a number is bound, closed and reported, and the server
        binds it some milliseconds later.
        """,
    )
    seen, unseen = doubles(soak), doubles(control)
    rows = []
    for detector, what in (("ledger", "claims"), ("kernel", "looks"), ("log", "intervals")):
        looked = [one["detectors"][detector][what] for one in (soak, control)]
        texts = [f"{number:,} {what}" for number in looked]
        rows.append([detector, texts[0], f"{seen[detector]:,}", texts[1], f"{unseen[detector]:,}"])
    headings = ["detector", "leases", "doubles", "control: unheld ports", "doubles"]
    lines += table(headings, rows)
    log, kernel = soak["detectors"]["log"], soak["detectors"]["kernel"]
    more = f"""
        At most {log["most_at_once"]:,} ports were out at a time (a port of both transports counts
        twice). The kernel's list showed {kernel["sockets"]:,} of their sockets, at most
        {kernel["most"]:,} ports in one look; a GUARDED lease has none and is seen by the other two
        only. {log["ended_by_death"]:,} ports were had by processes that were killed.
        """
    return [*lines, "", filled(more)]


def _mix(soak: Figures) -> list[str]:
    counted, killed = soak["counted"], soak["killed"]
    lines = section(
        "What they did",
        f"""
        {killed["all"]} processes were ended by SIGKILL, with all they had, and others took their
        places: {killed["by the controller"]} at any moment of theirs, {counted["suicides"]} while a
        server of theirs ran. Ports asked for by number come of sets of {NAMED_PORTS} that all of
        them want; all of a set were out {counted["refused"]:,} times. Each server was asked by a
        client who it is, and {counted["restarted"]:,} were restarted on their port.
        """,
    )
    kinds = {
        "tcp": "TCP",
        "udp": "UDP",
        "both": "TCP and UDP on one number",
        "named": "by number, of a set that all want",
        "host": "on one address, or on two",
        "family": "of one family",
        "many": "several at once",
        "block": "consecutive",
    }
    rows: list[Sequence[object]] = [
        ["leases", words, f"{counted[kind]:,}"] for kind, words in kinds.items()
    ]
    others = counted["leases"] - sum(counted[kind] for kind in kinds)
    rows.append(["leases", "of a server", f"{others:,}"])
    rows += [
        ["states", state, f"{counted[state]:,}"]
        for state in ("HELD", "OFFERED", "GUARDED", "HANDED_OVER")
    ]
    rows += [
        ["moves", f"`{move}()`", f"{counted[move]:,}"]
        for move in ("offer", "withdraw", "step_aside", "take_back", "listen", "hand_over_all")
    ]
    rows += [
        ["ends", words, f"{counted[way]:,}"]
        for way, words in {
            "with": "leaving a `with` block",
            "release": "`release()`",
            "garbage": "collected as garbage",
        }.items()
    ]
    rows += [
        ["servers", means, f"{number:,}"]
        for means, number in counted.items()
        if means.startswith(("tcp ", "udp "))
    ]
    rows.append(["commands", "`portlease isolate`", f"{counted['isolated']:,}"])
    lines += table(["what", "which", "how often"], rows)
    if soak["no_broker"]:
        lines += ["", filled(f"No broker: {soak['no_broker']}.")]
    if soak["troubles"]["count"]:
        lines += ["", filled(f"Calls that failed: {soak['troubles']['count']:,}."), ""]
        lines += [f"- {text}" for text in soak["troubles"]["shown"]]
    return lines


def _left(soak: Figures) -> list[str]:
    lives = soak["processes"]
    before, after = soak["left"]["before"], soak["left"]["after"]
    lines = section(
        "What is left",
        "Counted before the first process was started, and after the last had ended.",
    )
    lines += table(
        ["what", "before", "after"],
        [
            [words, before[what], after[what]]
            for what, words in _LEFT.items()
            if before[what] is not None
        ],
    )
    memory = lives["memory"]
    rss = memory["rss_kib"]
    slope = memory["slope_kib_a_thousand"]
    text = f"""
        Each process gives everything back now and then and counts what it still has:
        {lives["points"]:,} times in {lives["lives"]:,} lives. From the second time to the last, the
        most that a process had grown by was {lives["descriptors"]} descriptors and
        {lives["threads"]} threads; the most children that one had was {lives["children"]}, and
        the most rows of leases {lives["rows"]}.
        """
    lines += ["", filled(text)]
    if slope is not None:
        last = len(rss) - 1
        quarters = ", ".join(f"{rss[last * n // 4] / 1024:.1f}" for n in (1, 2, 3, 4))
        text = f"""
            The resident memory of a process that lived from the beginning to the end was
            {rss[0] / 1024:.1f} MiB before its first lease, and {quarters} MiB after a quarter,
            half, three quarters and all of them: {slope:+.2f} KiB for every thousand leases, by a
            line through the second half.
            """
        lines += ["", filled(text)]
    return lines
