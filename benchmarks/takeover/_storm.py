"""A suite that uses ``unused_tcp_port`` and bare binds, ``-n 8``, among 400 ports, under storms.

In a network namespace with 400 ephemeral ports one process binds port 0 and another connects, over
and over (:mod:`collisions`), while pytest-xdist's workers run the suite: each test gets a port by
pytest-asyncio's fixture, waits 5 ms as a server's start would, and then binds and listens, without
SO_REUSEADDR. Once with takeover and once without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import _namespace
import collisions
from _crew import Crew

_LOW: Final = 40000
_HIGH: Final = 40399
_HANG_S: Final = 900.0
_SUITE: Final = """\
import json, os, socket, time
import pytest


@pytest.mark.parametrize("number", range({count}))
def test_server(unused_tcp_port, number):
    start = time.monotonic_ns()
    time.sleep(0.005)
    listened = False
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", unused_tcp_port))
            server.listen()
            listened = True
    finally:
        row = [unused_tcp_port, start, time.monotonic_ns(), listened]
        file = os.open(os.environ["PORTLEASE_STORM"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, (json.dumps(row) + "\\n").encode())
        os.close(file)
"""


def why_not() -> str | None:
    """Why it cannot be run here, or None."""
    return _namespace.why_not()


def measure(workers: int, tests: int) -> list[dict[str, Any]]:
    """Run the suite without takeover and with it, each in a namespace of its own."""
    rows = []
    for takeover in False, True:
        asked = json.dumps({"workers": workers, "tests": tests, "takeover": takeover})
        done = subprocess.run(
            _namespace.command(_LOW, _HIGH, [sys.executable, __file__, asked]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_HANG_S,
            check=True,
        )
        rows.append(json.loads(done.stdout))
    return rows


# --- in the namespace ---------------------------------------------------------------------------


def _run(*, workers: int, tests: int, takeover: bool) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="storm-") as name,
        Crew("collisions", "storm", [{"kind": "bind"}, {"kind": "connect"}]) as storm,
    ):
        folder = Path(name)
        (folder / "test_storm.py").write_text(_SUITE.format(count=tests), encoding="utf-8")
        rows = folder / "rows"
        storm.go()
        begun = time.monotonic()
        told = _pytest(folder, workers, takeover=takeover)
        seconds = time.monotonic() - begun
        storm.stop()
        binds, connects = storm.results()
        if not rows.exists():
            raise RuntimeError(f"no test ran:\n{told[-1000:]}")
        owned = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    return {
        "takeover": takeover,
        "workers": workers,
        "tests": len(owned),
        "none": tests - len(owned),
        "failed": sum(1 for *_, listened in owned if not listened),
        "double": collisions._doubles(owned),  # noqa: SLF001 - a neighbour's
        "seconds": round(seconds, 1),
        "binds": binds,
        "connects": connects,
    }


def _pytest(folder: Path, workers: int, *, takeover: bool) -> str:
    taken = ["-p", "portlease.takeover"] if takeover else ["-p", "no:portlease"]
    # Whatever else is installed here stays out: what is compared is the fixture.
    plugins = ["-p", "xdist", "-p", "pytest_asyncio.plugin", *taken]
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=no", "-n", str(workers), *plugins,
         "-o", "addopts=", "-o", "asyncio_mode=strict", "-p", "no:cacheprovider",
         "--rootdir", str(folder), str(folder)],
        cwd=folder,
        env={
            **environment,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PORTLEASE_STORM": str(folder / "rows"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_HANG_S,
        check=False,
    )  # fmt: skip
    return done.stdout


if __name__ == "__main__":
    print(json.dumps(_run(**json.loads(sys.argv[1]))))
