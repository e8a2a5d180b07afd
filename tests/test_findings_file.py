"""Files that were asked for: found out before the work, written whole, with nothing left beside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portlease
from _cli import PORTLEASE, environment
from _need import need
from _processes import HANG_S, run_as
from portlease import UsageError
from portlease._findings import _file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
from portlease._findings import _file
_file.must_be_writable(sys.argv[2])
_file.write_whole(sys.argv[2], b"new")
"""
LIBRARY = str(Path(portlease.__file__).parents[1])


def names(folder: Path) -> list[str]:
    """What is in it."""
    return sorted(one.name for one in folder.iterdir())


def in_a_namespace(
    script: str, *words: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root of a user namespace, with mounts of its own."""
    need.capability("userns")
    unshare = need.program("unshare")
    return subprocess.run(
        [unshare, "--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=HANG_S,
        check=False,
    )


@linux
def test_a_mounted_file_is_written_in_place(tmp_path: Path) -> None:
    """As in `docker run -v $PWD/page.html:/out/page.html`: it cannot be replaced."""
    source, target = tmp_path / "page.html", tmp_path / "out" / "page.html"
    source.write_text("old" * 1_000_000)
    target.parent.mkdir()
    target.touch()
    script = (
        'mount --bind page.html out/page.html; exec "$@" repeat -n 1 --no-baseline --html '
        "out/page.html -- true"
    )
    done = in_a_namespace(script, *PORTLEASE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = source.read_text()
    assert (page[:9].lower(), page.rstrip()[-7:]) == ("<!doctype", "</html>")
    assert (names(target.parent), target.read_text()) == (["page.html"], "")


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that every user gets to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@linux
@pytest.mark.parametrize("mode", [0o1777, 0o755], ids=["a sticky folder", "another's folder"])
def test_anothers_file_that_may_be_written_is_written_in_place(everybodys: Path, mode: int) -> None:
    """It may not be replaced, neither where it is theirs nor where the folder is."""
    python = need.everybodys_python()
    everybodys.chmod(mode)
    target = everybodys / "page.html"
    target.write_text("longer than what is new")
    target.chmod(0o666)
    done = run_as(65534, [python, "-c", WRITE, LIBRARY, str(target)], environment())
    assert done.returncode == 0, done.stderr
    assert (target.read_text(), target.stat().st_uid) == ("new", os.getuid())
    assert names(everybodys) == ["page.html"]


@linux
def test_an_owner_whom_the_user_namespace_does_not_know(tmp_path: Path) -> None:
    """chown(2) calls the number invalid; the file is written all the same."""
    need.capability("root")
    target = tmp_path / "page.html"
    target.write_text("old")
    target.chmod(0o666)
    os.chown(target, 1234, 1234)
    done = in_a_namespace('exec "$@"', sys.executable, "-c", WRITE, LIBRARY, target)
    assert done.returncode == 0, done.stderr
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o666)
    assert names(tmp_path) == ["page.html"]


@linux
def test_nothing_is_left_on_a_full_disk(tmp_path: Path) -> None:
    """The old file is there, whole, and alone."""
    source = WRITE.replace('b"new"', 'b"new" * 1_000_000')
    script = (
        'mount -t tmpfs -o size=64k none "$1"; printf old > "$1/page"; shift; '
        '"$@" || { cd -P "$FOLDER"; ls -A; cat page; }'
    )
    words = (sys.executable, "-c", source, LIBRARY, tmp_path / "page")
    done = in_a_namespace(f"FOLDER=$1; {script}", tmp_path, *words)
    assert done.stdout == "page\nold"
    assert "No space left on device" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["open", "chmod", "replace"])
def test_nothing_is_left_by_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whenever it comes; one that comes just after a call is as one that comes in it."""
    path = tmp_path / "page"
    path.write_text("old")
    call: Callable[..., Any] = getattr(os, name)

    def interrupted(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as os has it
        got = call(*arguments, **options)
        if got is not None:
            os.close(got)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            _file.write_whole(str(path), b"new")
    assert path.read_text() == ("new" if name == "replace" else "old")
    assert names(tmp_path) == ["page"]


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such owners on Windows")
def test_an_owner_who_cannot_be_given_for_another_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what a user may not do is passed over."""
    path = tmp_path / "page"
    path.write_text("old")

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "chown", broken)
    with pytest.raises(UsageError, match=f"cannot write .*page: {os.strerror(errno.EIO)}"):
        _file.write_whole(str(path), b"new")
    assert (names(tmp_path), path.read_text()) == (["page"], "old")


def test_an_empty_path_is_refused() -> None:
    """With what it comes of, and the remedy; a shell's unset variable is an empty word."""
    for refuse in (_file.must_be_writable, lambda path: _file.write_whole(path, b"new")):
        with pytest.raises(UsageError, match=r"the path is empty, .* not set; name a file"):
            refuse("")
