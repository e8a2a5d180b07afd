r"""A file of variables, for tools that are told ports by one: ``run --env-file .env.ports``.

docker compose, python-dotenv, direnv, just, systemd and a shell's ``. ./.env.ports`` read the same
lines differently, so only what all of them agree on is written:

- ``NAME=VALUE`` as it is, where the value has none but letters, digits and ``_./:@%+,=-``: every
  number, and most paths and URLs;
- ``NAME='VALUE'`` where it has others. In single quotes a shell, docker compose and node take
  everything literally; python-dotenv and just expand ``${...}`` there, and python-dotenv takes
  ``\\`` for one backslash. Values with these, with a single quote, a line break or anything else
  that cannot be printed are refused.

The file is there, whole (link(2)), before the command starts, and gone when it has ended. It has
the mode of any other file (umask(2)): whoever runs the tools reads it, and there is nothing in it
that our command line has not shown to everybody in /proc. Its first line says whose it is, and
flock(2) whether that one lives:

- a file that we did not write is never overwritten, unless --force says so;
- one of ours whose writer lives is not either, and one whose writer is dead is replaced;
- when we are killed, a small process that waits for our end removes it. Should that be killed too,
  what stays is a file of ours whose writer is dead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from portlease import _platform
from portlease._errors import UsageError
from portlease.cli import _say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Final, Self

_MARK: Final = re.compile(rb"# portlease ([0-9a-f]{16}) of process ([0-9]+)")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DISAGREE: Final = {
    "'": "a single quote",
    "\n": "a line break",
    "\r": "a line break",
    "\\\\": "two backslashes",
    "${": "${",
}
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What link(2) answers on a file system that has no links."""
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})

# python -I -S -c ... PATH TEMPORARY TOKEN: waits for the end of its input; a byte before that says
# that there is nothing left to do.
_WATCH: Final = """\
# portlease: removes the file behind when its writer has died
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
path, temporary, token = sys.argv[1:]
if not os.read(0, 1):
    for one in temporary, path:
        try:
            with open(one, "rb") as file:
                is_ours = token.encode() in file.readline()
            if is_ours:
                os.unlink(one)
        except FileNotFoundError:
            pass
"""


def text(variables: Mapping[str, str]) -> str:
    """The lines of an env file.

    Raises:
        UsageError: a name or a value that its readers would not understand alike.
    """
    return "".join(f"{_name(name)}={_value(name, value)}\n" for name, value in variables.items())


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"--env {name}: not every reader of an env file takes such a name; use letters, "
            "digits and _, or leave --env-file out"
        )
    return name


def _value(name: str, value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    found = next((what for text, what in _DISAGREE.items() if text in value), None)
    if found is None and not value.replace("\t", "").isprintable():
        found = "a character that cannot be printed, or a byte that is no UTF-8"
    if found is None and value.endswith("\\"):
        found = "a backslash at its end"
    if found is not None:
        raise UsageError(
            f"the value of {name} has {found}, which the readers of env files (shells, docker "
            "compose, python-dotenv) take differently; give another value, or leave --env-file out"
        )
    return f"'{value}'"


class EnvFile:
    """The file, from :meth:`write` until the end of the block. Context manager.

    Args:
        path: where.
        force: overwrite whatever file is there.

    Raises:
        UsageError: there is a file that is not ours, or is in use; or none can be made there.
    """

    def __init__(self, path: str, *, force: bool) -> None:
        self.path = os.path.abspath(path)
        self._shown = path
        self._force = force
        self._token = os.urandom(8).hex()
        folder, name = os.path.split(self.path)
        self._temporary = os.path.join(folder, f".{name}.{self._token}")
        self._lock = -1
        self._written = False
        self._watcher: subprocess.Popen[bytes] | None = None
        if not os.path.isdir(folder):
            raise UsageError(f"--env-file {path}: there is no folder {folder}")
        with self._explained():
            self._make_way(remove=False)

    # --- writing ---

    def write(self, variables: Mapping[str, str]) -> None:
        """Write it, whole.

        Raises:
            UsageError: as the constructor; or a value that its readers take differently.
        """
        lines = text(variables)
        head = f"# portlease {self._token} of process {os.getpid()}: gone when that ends\n"
        self._watch()
        with self._explained():
            self._lock = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            try:
                _lock(self._lock)  # before anybody can find it
                with open(self._lock, "wb", closefd=False) as file:
                    file.write((head + lines).encode())
                self._publish()
                self._written = True
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary)

    def _publish(self) -> None:
        while True:
            self._make_way(remove=True)
            try:
                os.link(self._temporary, self.path)
            except FileExistsError:
                continue  # somebody was faster: who is it?
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.rename(self._temporary, self.path)
            return

    def _make_way(self, *, remove: bool) -> None:
        """See to what is at the path: a dead writer's is removed, all else is in the way.

        Raises:
            UsageError: there is a file that is not ours, or is in use.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            if not os.path.islink(self.path):
                return
            raise UsageError(f"--env-file {self._shown} is a link to nowhere; remove it") from None
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise UsageError(f"--env-file {self._shown} is no ordinary file; name another")
            mark = _MARK.match(os.read(fd, 200))
            if mark is None and not self._force:
                raise UsageError(
                    f"--env-file {self._shown} is there already, and was not written by portlease "
                    "(or has been changed since); name another file, remove it, or say --force to "
                    "have it overwritten, and removed in the end"
                )
            if mark is not None and not _lock(fd) and not self._force:
                raise UsageError(
                    f"--env-file {self._shown} is in use by process {mark[2].decode()}, which runs "
                    "portlease too; name another file"
                )
            # With the lock in hand: nobody else replaces it now, if it is still the same.
            if remove and _is_at(self.path, about):
                os.unlink(self.path)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"--env-file {self._shown} cannot be written: {error.strerror}; name another file"
            ) from error

    # --- removing ---

    def close(self) -> None:
        """Remove it, unless somebody else has changed or replaced it. May be called again."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            self._remove()
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            watcher.communicate(b".")

    def _remove(self) -> None:
        try:
            with open(self.path, "rb") as file:
                is_ours = self._token.encode() in file.readline()
            if is_ours:
                os.unlink(self.path)
            elif self._written:
                _say.say(f"{self._shown} is not what was written there; it stays")
        except FileNotFoundError:
            pass  # who has removed it wanted it so
        except OSError as error:
            _say.say(f"{self._shown} could not be removed: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- our death ---

    def _watch(self) -> None:
        """Start the process that removes it if we are killed, before there is anything."""
        if sys.platform == "win32" or self._watcher is not None:
            return
        words = [sys.executable, "-I", "-S", "-c", _WATCH, self.path, self._temporary, self._token]
        with _platform.spawn_lock:
            self._watcher = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # no signal of the terminal must reach it
                cwd="/",
            )


def _is_at(path: str, about: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), about)
    except FileNotFoundError:
        return False


if sys.platform == "win32":

    def _lock(fd: int) -> bool:
        """There is no flock(2): of two that write the same file, the later one has it."""
        del fd
        return True

else:
    import fcntl

    def _lock(fd: int) -> bool:
        """Lock what was opened, for as long as it is open; False if another has it locked."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True
