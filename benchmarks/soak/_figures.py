"""From what the processes wrote down to the figures; pure."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Figures = Mapping[str, Any]

_SHOWN: Final = 5


def doubles(figures: Figures) -> dict[str, int]:
    """How many each detector found."""
    found = figures["detectors"]
    return {
        "ledger": found["ledger"]["doubles"],
        "kernel": found["kernel"]["doubles"],
        "log": found["log"]["overlaps"],
    }


def sound(figures: Figures) -> bool:
    """Whether nothing was double, nothing was left, and the detectors can see."""
    seeing = all(doubles(figures["control"]).values())
    if "soak" not in figures:
        return seeing
    soak = figures["soak"]
    lives = soak["processes"]
    return (
        seeing
        and not any(doubles(soak).values())
        and soak["left"]["before"] == soak["left"]["after"]
        and not any(lives[what] for what in ("descriptors", "children", "threads", "rows"))
        and not soak["troubles"]["count"]
    )


def troubles(found: Sequence[str]) -> dict[str, Any]:
    """How many there were, and the first of each."""
    kinds = Counter(one.partition(":")[0] for one in found)
    return {"count": len(found), "kinds": dict(kinds), "shown": list(found[:_SHOWN])}


def lives(files: Sequence[tuple[str, Sequence[Figures]]]) -> dict[str, Any]:
    """What the processes had at their quiet points, when they had given everything back.

    The first point of each is before its first lease, the second is what the others are compared
    with: by then everything is loaded.
    """
    long = [samples for _, samples in files if len(samples) > 2]  # noqa: PLR2004 - see above
    longest = max((samples for _, samples in files), key=len, default=())
    return {
        "lives": len(files),
        "points": sum(len(samples) for _, samples in files),
        **{
            what: max((one[-1][what] - one[1][what] for one in long), default=0)
            for what in ("descriptors", "threads")
        },
        **{
            what: max((one[what] for _, samples in files for one in samples), default=0)
            for what in ("children", "rows")
        },
        "memory": _memory(longest),
    }


def _memory(samples: Sequence[Figures]) -> dict[str, Any]:
    """How the resident memory of one long life went."""
    later = samples[len(samples) // 2 :]
    leases = [one["leases"] - later[0]["leases"] for one in later]
    rss = [one["rss_kib"] for one in later]
    slope = None
    if len(set(leases)) > 1:
        slope = statistics.linear_regression(leases, rss).slope * 1000
    return {
        "leases": [one["leases"] for one in samples],
        "rss_kib": [one["rss_kib"] for one in samples],
        "slope_kib_a_thousand": slope,
    }
