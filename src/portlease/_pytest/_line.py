"""The line from a worker to who has the servers: a Unix socket in the run's own folder.

Its address goes to each worker with xdist's own input, to one that replaces a crashed one too. It
has a path, and is not abstract, because a worker may have a network of its own (``--isolate``). Who
connects must know the run's key, and the folder is closed to other users; so what comes is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import shutil
import sys
import tempfile
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

from portlease._errors import PortleaseError, UsageError
from portlease._pytest._owner import sendable

if TYPE_CHECKING:
    from typing import Final, Protocol, TypedDict

    from portlease._pytest._owner import Owner

    class Wire(Protocol):
        """A connection, of whatever kind the system has."""

        def send_bytes(self, buf: bytes) -> None: ...
        def recv_bytes(self) -> bytes: ...
        def close(self) -> None: ...

    class Address(TypedDict):
        """What a worker must know."""

        address: str
        key: bytes


_LONGEST_PATH: Final = 100
"""unix(7): 108 bytes with the end's; other systems have 104."""
_BACKLOG: Final = 128


class Exchange:
    """Answers the workers of a run, each in a thread of its own. Owns its socket until `close()`.

    Args:
        owner: who knows the answers.
        folder: of the run; one is made if its path is too long for a socket.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, owner: Owner, folder: str) -> None:
        self._owner = owner
        self._own_folder: str | None = None
        self._key = os.urandom(32)
        self._closed = False
        if sys.platform == "win32":
            self._listener = Listener(family="AF_PIPE", authkey=self._key)
        else:
            path = os.path.join(folder, f"portlease-{os.getpid()}")
            if len(os.fsencode(path)) > _LONGEST_PATH:
                self._own_folder = tempfile.mkdtemp(prefix="portlease-", dir="/tmp")
                path = os.path.join(self._own_folder, "once")
            try:
                self._listener = Listener(path, "AF_UNIX", _BACKLOG, self._key)
            except OSError:
                self._remove_folder()
                raise
        self._thread = threading.Thread(target=self._accept, name="portlease once", daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """What a worker must know."""
        return {"address": str(self._listener.address), "key": self._key}

    def _accept(self) -> None:
        while not self._closed:
            try:
                line = self._listener.accept()
            except (AuthenticationError, EOFError):
                continue  # nobody of ours, or a worker that died in the midst of it
            except OSError as error:
                if self._closed:
                    return
                # A client that went away; or no descriptor is left: who asks is told by the end
                # of its connection, and all that runs goes on.
                if error.errno not in _PASSING:
                    raise
                continue
            if self._closed:
                line.close()
                return
            threading.Thread(
                target=self._talk, args=(line,), name="portlease once", daemon=True
            ).start()

    def _talk(self, line: Connection) -> None:
        with line, contextlib.suppress(EOFError, ConnectionError):  # the worker's end
            while True:
                line.send_bytes(self._reply(line.recv_bytes()))

    def _reply(self, question: bytes) -> bytes:
        try:
            asked, *given = _read(question)
            answer: object = self._owner.answer(asked, *given)
        except Exception as error:  # noqa: BLE001 - who asks raises it
            answer = error if sendable(error) else _in_words(error)
            return pickle.dumps((False, answer))
        return pickle.dumps((True, answer))

    def close(self) -> None:
        """Answer nobody any more. May be called again."""
        if self._closed:
            return
        self._closed = True
        # accept(2) does not end when another thread closes its socket.
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            Client(self._listener.address, authkey=self._key).close()
            self._thread.join()
        self._listener.close()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder)
            self._own_folder = None


_PASSING: Final = frozenset(
    {errno.ECONNABORTED, errno.ECONNRESET, errno.EPIPE, errno.EMFILE, errno.ENFILE}
)


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
        self._pid = -1

    def ask(self, question: str, *given: object) -> Any:  # noqa: ANN401 - as different as they are
        """Ask, and wait for the answer.

        Raises:
            PortleaseError: nobody answers.
            Exception: what the question was answered with.
        """
        __tracebackhide__ = True
        asked = pickle.dumps((question, *given))
        with self._lock:
            try:
                line = self._connected()
                line.send_bytes(asked)
                good, answer = pickle.loads(line.recv_bytes())  # noqa: S301 - from our controller
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

    def _connected(self) -> Wire:
        if self._pid != os.getpid():  # a forked child's copy is its parent's
            self._hang_up()
        if self._line is None:
            self._line = Client(self._address["address"], authkey=self._address["key"])
            self._pid = os.getpid()
        return self._line

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """Close it; it is opened again if there is a question."""
        with self._lock:
            self._hang_up()


def _in_words(error: Exception) -> PortleaseError:
    kind = UsageError if isinstance(error, (TypeError, ValueError)) else PortleaseError
    return kind(f"{type(error).__name__}: {error}")
