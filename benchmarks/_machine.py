"""On what machine a figure was measured: without it, it means nothing."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Final

from _ports import ephemeral_range

# 10,000 leases have 20,000, and so has each of two processes that hold them by turns.
_DESCRIPTORS: Final = 32_768


def describe(network: str) -> dict[str, str]:
    """Return what a reader must know of the machine; *network* says which one was measured in."""
    return {
        "date": dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d"),
        "portlease": importlib.metadata.version("portlease"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {_cores()} cores for this process",
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.python_compiler()}",
        "ephemeral range": "-".join(map(str, ephemeral_range())),
        "network": network,
        "load at the start": _load(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return platform.processor() or "unknown"
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model", "cpu"}:
            return value.strip()
    return platform.machine()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> str:
    one, five, _ = os.getloadavg()
    return f"{one:.1f} (1 min), {five:.1f} (5 min)"


def raise_descriptor_limit() -> int:
    """Let this process and its children open as many files as they may; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _DESCRIPTORS:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
        except ValueError:  # how Python tells EPERM: without CAP_SYS_RESOURCE
            pass
        else:
            return _DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
