"""The hook in Python's interpreters: what it sees by itself, and that it disturbs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

import _interpreters
from _need import netns_command
from _processes import HANG_S
from portlease import _trail
from portlease._audit import _inject, _origin

if TYPE_CHECKING:
    from pathlib import Path

    from portlease._trail import Event

PROGRAM = """\
    import asyncio, socket, sys
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        number = finder.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as beside:
            beside.bind(("localhost", number))
    server = socket.create_server(("127.0.0.1", number))
    try:
        socket.socket().bind(("127.0.0.1", number))
    except OSError as error:
        print(error.errno)
    socket.socket().connect(("127.0.0.1", number))
    async def main():
        (await asyncio.start_server(print, "127.0.0.1", 18300)).close()
    asyncio.run(main())
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(b"\\0" + str(number).encode())
    assert sys.getprofile() is None
"""


class Hooked:
    """A folder in which hooked programs run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trail = folder / "trail.jsonl"
        self.trail.touch()
        names = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTHONPATH")
        self.env = {name: value for name, value in os.environ.items() if name not in names}

    def run(self, source: str, *before: str, python: str = sys.executable, **env: str) -> str:
        """Run a program; return what it wrote."""
        path = self.folder / "program.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        done = subprocess.run(
            netns_command([python, *before, str(path)]),
            env=_inject.environment({**self.env, **env}, str(self.trail)),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def binds(self) -> list[Event]:
        """What the trail says."""
        events, damaged = _trail.read(str(self.trail))
        assert not damaged
        return [event for event in _origin.judged(events) if event.what == _trail.BIND]


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    """Its own folder and trail."""
    return Hooked(tmp_path)


@pytest.mark.parametrize("version", _interpreters.VERSIONS)
def test_every_python(hooked: Hooked, version: str) -> None:
    """Results and origins without an observer, in an interpreter that has no portlease."""
    python = _interpreters._first(version, "anything", lambda _: True).program
    hooked.run(PROGRAM, python=python)
    binds = hooked.binds()
    number = binds[0].got
    assert [(one.port, one.got, one.error, one.origin) for one in binds] == [
        (0, number, None, "kernel"),
        (number, number, None, "kernel"),  # beside the finder
        (number, number, None, "unheld"),
        (number, None, "failed", "unheld"),
        (18300, 18300, None, "hard-coded"),
    ]
    assert [one.line for one in binds] == [3, 6, 7, 9, 14]
    assert binds[2].inner_file is not None
    assert binds[2].reuseaddr
    assert not binds[0].reuseaddr
    assert binds[1].address == "localhost"
    connects = [one for one in _trail.read(str(hooked.trail)).events if one.what == "connect"]
    assert [(one.port, one.line) for one in connects] == [(number, 12)]


def test_beside_a_profiler(hooked: Hooked) -> None:
    """The program keeps it; of the binds the results are unknown, and so all that follows."""
    source = "import socket, sys\nsys.setprofile(lambda *_: None)\nsocket.socket().bind(('', 0))\n"
    hooked.run(source + "assert sys.getprofile()\nsys.setprofile(None)\n")
    (bind,) = hooked.binds()
    assert (bind.port, bind.got, bind.error) == (0, None, None)


def test_threads_and_forks(hooked: Hooked) -> None:
    """Each bind with its own result, whoever else binds at the same time."""
    source = """\
        import os, socket, threading
        def bind(n):
            for i in range(25):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", 0 if i % 2 else 18400 + n))
        threads = [threading.Thread(target=bind, args=(n,)) for n in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        pid = os.fork()
        bind(9 if pid else 10)
        if pid: os.waitpid(pid, 0)
    """
    hooked.run(source)
    binds = hooked.binds()
    assert len(binds) == 10 * 25
    assert all(one.got for one in binds if one.port == 0)
    assert all(one.got == one.port for one in binds if one.port)
    assert len({one.tid for one in binds}) == 10
    assert {one.origin for one in binds} == {"kernel", "hard-coded"}


def test_the_users_own_sitecustomize(hooked: Hooked) -> None:
    """It is loaded as without us, from PYTHONPATH too; and nothing of ours is left to be seen."""
    (hooked.folder / "sitecustomize.py").write_text("print('mine')\n")
    source = """\
        import sys
        assert "_audit" not in " ".join(sys.path), sys.path
        assert "_audit" not in (sys.modules["sitecustomize"].__file__ or "")
    """
    assert hooked.run(source, PYTHONPATH=str(hooked.folder)) == "mine\n"
    (hooked.folder / "sitecustomize.py").unlink()
    hooked.run("import sys; assert '_audit' not in ' '.join(sys.path)")


def test_what_it_does_not_see(hooked: Hooked) -> None:
    """An interpreter that is told to look at nothing in the environment."""
    for option in ("-I", "-S", "-E"):
        hooked.run("import socket; socket.socket().bind(('', 0))", option)
    assert hooked.binds() == []


def test_a_trail_that_is_gone_harms_nothing(hooked: Hooked) -> None:
    """Removed, a directory, another's: the program notices nothing."""
    hooked.trail.unlink()
    assert hooked.run(PROGRAM) == "98\n"
    assert not hooked.trail.exists()


def test_helpers_that_draw_a_number_themselves(hooked: Hooked) -> None:
    """Their own binds try a number; who uses it later has an unheld one."""
    source = """\
        import portpicker, socket
        number = portpicker.pick_unused_port()
        socket.create_server(("127.0.0.1", number)).close()
    """
    hooked.run(source)
    assert {(one.origin, one.line) for one in hooked.binds()} == {("unheld", 2), ("unheld", 3)}


def test_a_tests_line_is_told_before_the_librarys(hooked: Hooked) -> None:
    """The library lies in the working directory too, but the number is the test's."""
    (hooked.folder / "library.py").write_text(
        "import socket\ndef serve(port): socket.create_server(('127.0.0.1', port)).close()\n"
    )
    (hooked.folder / "test_it.py").write_text("import library\n\nlibrary.serve(18310)\n")
    hooked.run("import test_it, library\nlibrary.serve(18311)\n")
    found = [(os.path.basename(one.file or ""), one.line) for one in hooked.binds()]  # noqa: PTH119
    assert found == [("test_it.py", 3), ("library.py", 2)]
