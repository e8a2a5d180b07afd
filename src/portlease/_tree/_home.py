"""The home of a recipe's server: a temporary folder that is gone when the server has ended.

It lies in the folder for temporary files (TMPDIR)::

    /tmp/portlease-home-3f0c9a1be2/     ours, locked by flock(2) for as long as we live
        redis/                          the home: the server's, maybe another user's

Who removes it, on every path, is the janitor, a process of its own: see :mod:`._janitor` for how
and why. It is started before the folder is made, so that there is no moment in which our death
would leave something.
"""

from __future__ import annotations

import errno
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

from portlease import _platform
from portlease._tree import _process

if TYPE_CHECKING:
    from typing import Final

    from portlease.recipes._account import Account

_BOOT: Final = """\
# portlease: removes the folder behind -- when its server has ended
import marshal, os, sys
size, code = int(sys.argv[1]), b""
while len(code) < size:
    code += os.read(0, size - len(code)) or sys.exit()
space = {"__name__": "portlease._tree._janitor"}
exec(marshal.loads(code), space)
space["main"](sys.argv[2], int(sys.argv[3]))
"""
_PREFIX: Final = "portlease-home-"
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What flock(2) answers on a file system that has no locks."""

_HANG_GUARD_S: Final = 60.0


class Home:
    """A folder for one server's data. Owns it until :meth:`close`.

    Args:
        name: what the folder is called.
        given: a folder of the caller's, which stays; made if it is not there.
        account: whose it will be; None for ours.

    Raises:
        UsageError: *account* could not enter it.
        OSError: it could not be made.
    """

    path: Path

    def __init__(self, name: str, *, given: Path | None, account: Account | None) -> None:
        self._owner = os.getpid()
        self._janitor: Janitor | None = None
        self._folder = ""
        self._lock = -1
        if given is not None:
            self.path = given.absolute()
            _keep(self.path, account)
            return
        try:
            while not self._made():
                pass
            self.path = Path(self._folder, name)
            os.mkdir(self.path, 0o700)
            _give(self.path, account)
        except BaseException:
            self.close()
            raise

    def _made(self) -> bool:
        """Make the folder of ours; return whether it is still there when it is locked."""
        base = os.path.realpath(tempfile.gettempdir())
        self._folder = os.path.join(base, _PREFIX + os.urandom(5).hex())
        self._janitor = Janitor(self._folder)
        os.mkdir(self._folder, 0o711)  # others pass through, but do not look
        if sys.platform == "win32" or self._locked(self._folder):
            return True
        self.close()
        return False

    if sys.platform != "win32":

        def _locked(self, folder: str) -> bool:
            """Lock *folder*, unless another's janitor swept it first, as it had no lock yet."""
            try:
                self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                return os.path.samestat(os.fstat(self._lock), os.stat(folder))
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return True  # nor can a janitor lock it, which leaves alone what it cannot lock

    def close(self) -> None:
        """Remove the folder, if it is a temporary one. May be called again.

        Its server must have ended. Warns with RuntimeWarning if something could not be removed.
        """
        janitor, self._janitor = self._janitor, None
        try:
            if janitor is None or self._owner != os.getpid():
                return
            why = janitor.dismiss()
            if why and os.path.lexists(self._folder):
                # It was killed, or could not do it. Another one may.
                why = Janitor(self._folder).dismiss()
        finally:
            self._unlock()
        if why:
            warnings.warn(
                f"the folder {self._folder} could not be removed: {why}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __del__(self) -> None:
        # Whoever dropped the server was told so by it. The janitor waits until it has ended.
        self._unlock()
        if self._janitor is not None:
            self._janitor.abandon()


# --- who removes it -------------------------------------------------------------------------------

if sys.platform == "win32":

    class Janitor:
        """Ourselves: there are no keepers to wait for, and what our death leaves stays."""

        def __init__(self, folder: str) -> None:
            self._folder = folder

        def dismiss(self) -> str:
            """Remove the folder; return why it cannot be, or ''."""
            try:
                shutil.rmtree(self._folder)
            except FileNotFoundError:
                return ""
            except OSError as error:
                return str(error)
            return ""

        def abandon(self) -> None:
            """Nothing that could be waited for."""

else:
    import fcntl

    from portlease._tree import _janitor

    class Janitor:
        """The process that removes a folder; it ends with it."""

        def __init__(self, folder: str) -> None:
            code = _janitor_code()
            size, me = str(len(code)), str(os.getpid())
            self._owner = os.getpid()
            with _platform.spawn_lock:
                self._popen = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOT, size, folder, me],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # no signal of the terminal must reach it
                )
            assert self._popen.stdin is not None  # noqa: S101 - for the type checker
            try:
                os.write(self._popen.stdin.fileno(), code)  # at once: a pipe takes 64 KiB
            except BaseException:
                self._popen.kill()
                self._popen.communicate()
                raise

        def dismiss(self) -> str:
            """Have it remove the folder now, and end; return why it could not, or ''."""
            try:
                _, said = self._popen.communicate(b".", timeout=_HANG_GUARD_S)
            except BaseException:
                self._popen.kill()
                self._popen.communicate()
                raise
            if self._popen.returncode == 0:
                return ""
            return said.decode("utf-8", "replace").strip() or f"{self._popen.returncode=}"

        def abandon(self) -> None:
            """Have it wait until the server has ended, and do not wait for it."""
            for pipe in (self._popen.stdin, self._popen.stderr):
                if pipe is not None:
                    pipe.close()
            if self._owner == os.getpid():
                _process.abandon(self._popen)

    def _janitor_code() -> bytes:
        name = _janitor.__name__
        loader = _janitor.__loader__
        if not isinstance(loader, InspectLoader):  # pytest's, which rewrites the assertions
            loader = SourceFileLoader(name, _janitor.__file__)
        return marshal.dumps(loader.get_code(name))


# --- whose it is ----------------------------------------------------------------------------------


def _keep(path: Path, account: Account | None) -> None:
    """Make the caller's own folder, if it is not there; give it away if it is new."""
    try:
        os.makedirs(path, 0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
        if account is not None:
            account.must_enter(path)
        return
    _give(path, account)


def _give(path: Path, account: Account | None) -> None:
    if account is None:
        return
    account.must_enter(path.parent)
    account.own(path)
