"""What ``import portlease`` adds to ``import socket``, and which modules it loads.

Each import happens in an interpreter of its own (``python -I``, bytecode written already), the
contestants by turns. ``import socket`` comes first in each: every one of them needs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import _measure
from _report import Cell, Column, Goal, Result, Table, time_cells, time_columns

if TYPE_CHECKING:
    from run import Scale

_SOCKET: Final = "socket alone"
_CONTESTANTS: Final = {
    "portlease": "portlease",
    "CPython's test.support.socket_helper": "test.support.socket_helper",
    "portend": "portend",
    "port-for": "port_for",
    "portpicker": "portpicker",
    "ephemeral-port-reserve": "ephemeral_port_reserve",
    "anyio": "anyio",
    "aiohttp.test_utils": "aiohttp.test_utils",
    "pytest-asyncio": "pytest_asyncio",
    "tornado.testing": "tornado.testing",
}
_PROBE: Final = """\
import sys, time
name = sys.argv[1]
start = time.perf_counter_ns()
import socket
middle = time.perf_counter_ns()
before = set(sys.modules)
__import__(name)
end = time.perf_counter_ns()
import json
new = {module: sys.modules[module] for module in set(sys.modules) - before}
own = name.partition(".")[0]
foreign = {
    module.partition(".")[0]
    for module, loaded in new.items()
    if "-packages" in (getattr(loaded, "__file__", None) or "")
}
print(json.dumps([middle - start, end - middle, len(new), len(foreign - {own})]))
"""


def measure(scale: Scale) -> Result:
    """Import each of them in many interpreters."""
    present = {name: module for name, module in _CONTESTANTS.items() if _installed(module)}
    socket_ms: list[float] = []
    added_ms: dict[str, list[float]] = {name: [] for name in present}
    loaded: dict[str, int] = {}
    foreign: dict[str, int] = {}
    for turn in range(-1, scale(tiny=1, quick=4, full=30)):
        for name, module in present.items():
            socket_ns, added_ns, loaded[name], foreign[name] = _import(module)
            if turn >= 0:  # the first turn writes bytecode and fills the page cache
                socket_ms.append(socket_ns / 1e6)
                added_ms[name].append(added_ns / 1e6)
    rows: list[dict[str, Cell]] = [time_cells(_SOCKET, _measure.spread(socket_ms))]
    rows += [
        {
            **time_cells(name, _measure.spread(added_ms[name])),
            "modules": loaded[name],
            "foreign": foreign[name],
        }
        for name in present
    ]
    ours = _measure.spread(added_ms["portlease"]).median
    columns = time_columns("import", "ms")
    table = Table(
        "Added to `import socket`",
        [
            *columns,
            Column("modules", "modules loaded"),
            Column("foreign", "third-party packages"),
        ],
        rows,
    )
    return Result(
        "import_time",
        "import portlease",
        [table],
        [
            Goal("import portlease on top of import socket", ours, 15, "ms"),
            Goal("third-party packages it loads", foreign["portlease"], 0, ""),
        ],
        [f"{name} was left out: not installed" for name in _CONTESTANTS if name not in present],
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False


def _import(module: str) -> tuple[int, int, int, int]:
    # Without the variable that forbids it, bytecode is written in the first turn and then read.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", _PROBE, module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    socket_ns, added_ns, loaded, foreign = json.loads(done.stdout)
    return socket_ns, added_ns, loaded, foreign
