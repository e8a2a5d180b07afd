"""The line from a worker to who has the servers: a Unix socket in the run's own folder.

Its address goes to each worker with xdist's own input, to one that replaces a crashed one too. It
has a path, and is not abstract, because a worker may have a network of its own (``--isolate``). Who
connects must know the run's key, and the folder is closed to other users; so what comes is pickled.

Every run with workers opens one, and most never use it: what answers is loaded with the first
question.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import socket
import sys
import tempfile
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
    wait,
)
from typing import TYPE_CHECKING, Any

from portlease._errors import PortleaseError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol, TypedDict

    from portlease._pytest._owner import Owner

    class Wire(Protocol):
        """A connection, of whatever kind the system has."""

        def send_bytes(self, buf: bytes) -> None: ...
        def recv_bytes(self) -> bytes: ...
        def close(self) -> None: ...

    class Door(Protocol):
        """Where lines come in."""

        address: str

        def accept(self) -> Wire | None:
            """The next one; None: it was closed, or nobody came after all."""

        def admit(self, line: Any) -> None:  # noqa: ANN401 - of the kind that accept() gives
            """Return if who has come knows the key, and else raise AuthenticationError."""

        def wake(self) -> None:
            """Have accept() return, in whatever thread; before it is closed."""

        def close(self) -> None: ...

    class Address(TypedDict):
        """What a worker must know."""

        address: str
        key: bytes


_LONGEST_PATH: Final = 100
"""unix(7): 108 bytes with the end's; other systems have 104."""
_BACKLOG: Final = 128
_PAUSE_S: Final = 0.05
"""Until the next attempt, while there are no descriptors."""


class Exchange:
    """Answers the workers of a run, each in a thread of its own. Owns its socket until `close()`.

    Args:
        own: gives who knows the answers; called when the first question comes.
        folder: of the run. One is made for the socket if there is none, or none can be in it: its
            path is too long, or its file system has no sockets (shared folders of containers and
            virtual machines).

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, own: Callable[[], Owner], folder: str | None) -> None:
        self._own = own
        self._key = os.urandom(32)
        self._closed = False
        self._door = _opened(folder, self._key)
        self._thread = threading.Thread(target=self._accept, name="portlease once", daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """What a worker must know."""
        return {"address": self._door.address, "key": self._key}

    def _accept(self) -> None:
        while not self._closed:
            try:
                line = self._door.accept()
            except OSError as error:
                # A client that went away; or no descriptor is left: who asks waits until there is.
                if error.errno not in _PASSING:
                    raise
                time.sleep(_PAUSE_S)
                continue
            if line is not None:
                threading.Thread(
                    target=self._talk, args=(line,), name="portlease once", daemon=True
                ).start()

    def _talk(self, line: Wire) -> None:
        # What ends it is the worker's end, or nobody of ours. Who connects and then says nothing
        # keeps nobody waiting but this thread.
        with (
            contextlib.closing(line),
            contextlib.suppress(EOFError, ConnectionError, AuthenticationError),
        ):
            self._door.admit(line)
            while not self._closed:
                line.send_bytes(self._reply(line.recv_bytes()))

    def _reply(self, question: bytes) -> bytes:
        from portlease._pytest._owner import sendable

        try:
            asked, *given = _read(question)
            answer: object = self._own().answer(asked, *given)
        except Exception as error:  # noqa: BLE001 - who asks raises it
            answer = error if sendable(error) else _in_words(error)
            return pickle.dumps((False, answer))
        return pickle.dumps((True, answer))

    def close(self) -> None:
        """Answer nobody any more. May be called again."""
        if self._closed:
            return
        self._closed = True
        try:
            self._door.wake()
            self._thread.join()
        finally:
            self._door.close()


_PASSING: Final = frozenset(
    {errno.ECONNABORTED, errno.ECONNRESET, errno.EPIPE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


if sys.platform == "win32":

    class _Pipe:
        """A named pipe."""

        def __init__(self, key: bytes) -> None:
            self._key = key
            self._listener = Listener(family="AF_PIPE", authkey=key)
            self.address = str(self._listener.address)

        def accept(self) -> Wire | None:
            """See `Door`."""
            try:
                return self._listener.accept()
            except (AuthenticationError, EOFError):
                return None  # nobody of ours, or a worker that died in the midst of it

        def admit(self, line: object) -> None:
            """See `Door`: accept() has seen to it."""

        def wake(self) -> None:
            """See `Door`."""
            with contextlib.suppress(OSError, EOFError, AuthenticationError):
                Client(self.address, authkey=self._key).close()

        def close(self) -> None:
            """See `Door`."""
            self._listener.close()

    def _opened(folder: str | None, key: bytes) -> Door:
        del folder  # a pipe is in none
        return _Pipe(key)

else:

    class _UnixSocket:
        """A Unix socket at a path. Owns both, and what wakes the thread that waits.

        Not multiprocessing's: that one can only be woken through its path, and insists on removing
        it. But pytest's own may be faster: with tmp_path_retention_count = 0 the run's folder is
        gone before the run is over.
        """

        def __init__(self, path: str, key: bytes, own_folder: str | None = None) -> None:
            self.address = path
            self._key = key
            self._own_folder = own_folder
            with contextlib.ExitStack() as undo:
                self._awake, self._wake = socket.socketpair()
                undo.callback(self._wake.close)
                undo.callback(self._awake.close)
                self._socket = undo.enter_context(socket.socket(socket.AF_UNIX))
                self._socket.bind(path)
                undo.callback(os.unlink, path)
                self._socket.listen(_BACKLOG)
                self._socket.setblocking(False)  # noqa: FBT003 - who knocked may be gone again
                undo.pop_all()

        def accept(self) -> Wire | None:
            """See `Door`."""
            wait([self._socket, self._awake])
            try:
                line, _ = self._socket.accept()
            except BlockingIOError:
                return None
            line.setblocking(True)  # noqa: FBT003 - BSD's inherits it
            return Connection(line.detach())

        def admit(self, line: Connection) -> None:
            """See `Door`."""
            deliver_challenge(line, self._key)
            answer_challenge(line, self._key)

        def wake(self) -> None:
            """See `Door`."""
            self._wake.close()

        def close(self) -> None:
            """See `Door`."""
            self._wake.close()
            self._awake.close()
            self._socket.close()
            with contextlib.suppress(FileNotFoundError):  # somebody has tidied up
                os.unlink(self.address)
            if self._own_folder is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(self._own_folder)

    def _opened(folder: str | None, key: bytes) -> Door:
        path = None if folder is None else os.path.join(folder, f"portlease-{os.getpid()}")
        if path is not None and _is_short_enough(path):
            # Whatever the file system answers to a socket that it cannot have, errno is no guide:
            # EPERM, EINVAL, EOPNOTSUPP and EACCES have been seen.
            with contextlib.suppress(OSError):
                return _UnixSocket(path, key)
        own_folder = _short_folder()
        try:
            return _UnixSocket(os.path.join(own_folder, "once"), key, own_folder)
        except OSError:
            os.rmdir(own_folder)
            raise

    def _short_folder() -> str:
        """A folder for a socket: in the usual place, if its path is short enough there."""
        folder = tempfile.mkdtemp(prefix="portlease-")
        if _is_short_enough(os.path.join(folder, "once")):
            return folder
        os.rmdir(folder)
        return tempfile.mkdtemp(prefix="portlease-", dir="/tmp")

    def _is_short_enough(path: str) -> bool:
        return len(os.fsencode(path)) <= _LONGEST_PATH


def _read(question: bytes) -> tuple[Any, ...]:
    try:
        read: tuple[Any, ...] = pickle.loads(question)  # noqa: S301 - see the module's head
    except Exception as error:
        raise UsageError(
            "what serve_once() was given cannot be read by the process that has the servers "
            f"({type(error).__name__}: {error}); give plain values"
        ) from error
    return read


class Line:
    """A worker's end. Its methods may be called from any thread, one at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._line: Wire | None = None
        self._pid = os.getpid()

    def ask(self, question: str, *given: object) -> Any:  # noqa: ANN401 - as different as they are
        """Ask, and wait for the answer.

        Raises:
            PortleaseError: nobody answers.
            Exception: what the question was answered with.
        """
        __tracebackhide__ = True
        asked = pickle.dumps((question, *given))
        if self._pid != os.getpid():  # a forked child's copies are its parent's, and maybe locked
            self._lock, self._pid = threading.Lock(), os.getpid()
            self._hang_up()
        with self._lock:
            try:
                good, answer = self._answer(asked)
            except (EOFError, OSError) as error:
                self._hang_up()
                raise PortleaseError(
                    "the pytest process that has the shared servers does not answer "
                    f"({str(error) or type(error).__name__}); it has ended, or is about to"
                ) from error
            except BaseException:  # Ctrl-C: the answer to this would be taken for the next one's
                self._hang_up()
                raise
        if not good:
            raise answer
        return answer

    def _answer(self, asked: bytes) -> tuple[bool, Any]:
        if self._line is not None:
            # A test may have closed it, with all the descriptors that it knows nothing of. To be
            # asked twice does no harm.
            try:
                return _asked(self._line, asked)
            except (EOFError, OSError):
                self._hang_up()
        self._line = Client(self._address["address"], authkey=self._address["key"])
        return _asked(self._line, asked)

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            try:
                line.close()
            except OSError as error:
                if error.errno != errno.EBADF:  # it was closed by somebody else
                    raise

    def close(self) -> None:
        """Close it; it is opened again if there is a question."""
        with self._lock:
            self._hang_up()


def _asked(line: Wire, question: bytes) -> tuple[bool, Any]:
    line.send_bytes(question)
    answer: tuple[bool, Any] = pickle.loads(line.recv_bytes())  # noqa: S301 - our controller's
    return answer


def _in_words(error: Exception) -> PortleaseError:
    kind = UsageError if isinstance(error, (TypeError, ValueError)) else PortleaseError
    return kind(f"{type(error).__name__}: {error}")
