"""A port server: leases for suites in any language that honour ``PORTSERVER_ADDRESS``.

The protocol is portpicker's: a client connects to a Unix socket (``@name`` is an abstract one,
unix(7)), writes the process id on whose behalf it asks, in ASCII, with a newline, and reads a port
number with a newline. Nothing but the end of the connection means "no".

The port is free for TCP and UDP, GUARDED, and so kept from every other lease and portlease user
until that process has ended: pidfd_open(2) tells that, at once, and no later process of the same
id is taken for it. Nothing is looked through for a request, however many ports are out.

Linux only, for pidfds and abstract sockets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING

from portlease._errors import PortleaseError, UsageError
from portlease._take import lease_guarded

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Final, Self

    from portlease._lease import Lease

_LONGEST_REQUEST: Final = 100
_PATIENCE_S: Final = 10.0
"""How long a client that has connected may take to ask."""
_BACKLOG: Final = 1024
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid
_INIT: Final = 1


class Refused(Exception):  # noqa: N818 - told to the operator, and nobody else
    """A request that gets no port, and why."""


class PortServer:
    """Serves until :meth:`stop`. Context manager: leaving the block gives every port back.

    Args:
        address: ``@name`` for an abstract Unix socket, or a path.
        ports: the numbers that it may give out; by default as :func:`portlease.lease`.
        tell: called with one line for each port given, given back, or refused.

    Raises:
        UsageError: the address can never be one, or somebody serves on it already.
    """

    def __init__(
        self,
        address: str,
        *,
        ports: Iterable[int] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.address = address
        self._ports = None if ports is None else tuple(ports)
        self._tell = tell or (lambda _: None)
        self._leases: dict[int, list[Lease]] = {}
        """By the process that asked."""
        self._pidfds: dict[int, int] = {}
        """The process of each pidfd."""
        self._clients: dict[socket.socket, float] = {}
        """Who has not asked yet, and when it connected."""
        self._stopped = False
        self._full = False
        with contextlib.ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            self._wake_out, self._wake_in = socket.socketpair()
            stack.enter_context(self._wake_out)
            stack.enter_context(self._wake_in)
            self._bind(stack)
            for sock in (self._listener, self._wake_out, self._wake_in):
                sock.settimeout(0)
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._wake_out, selectors.EVENT_READ)
            self._stack = stack.pop_all()

    def _bind(self, stack: contextlib.ExitStack) -> None:
        abstract = self.address.startswith("@")
        if not self.address.removeprefix("@") or "\0" in self.address:
            raise UsageError(f"address {self.address!r} names no Unix socket; give @name or a path")
        try:
            self._listener.bind(f"\0{self.address[1:]}" if abstract else self.address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"cannot serve at {self.address}: {error.strerror or error}; give another "
                    "address, @NAME for one without a file"
                ) from error
            if abstract or _somebody_serves_at(self.address):
                raise UsageError(
                    f"somebody serves at {self.address} already; use that, or give another address"
                ) from error
            raise UsageError(
                f"{self.address} is there already, and nobody serves at it: remove the file, or "
                "give another address"
            ) from error
        if not abstract:
            stack.callback(os.unlink, self.address)
        self._listener.listen(_BACKLOG)

    @property
    def count(self) -> int:
        """How many ports are out."""
        return sum(map(len, self._leases.values()))

    # --- the loop ---

    def serve(self) -> None:
        """Answer requests until :meth:`stop` is called from another thread or a signal handler."""
        while not self._stopped:
            for key, _ in self._selector.select(self._patience_s()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_out:
                    self._wake_out.recv(64)
                elif isinstance(key.fileobj, socket.socket):
                    self._on_client(key.fileobj)
                else:
                    self._on_end(key.fd)
            self._drop_silent()

    def stop(self) -> None:
        """Have :meth:`serve` return."""
        self._stopped = True
        # A full buffer wakes it as well.
        with contextlib.suppress(BlockingIOError):
            self._wake_in.send(b"x")

    @contextlib.contextmanager
    def in_background(self) -> Iterator[Self]:
        """Serve in a thread while the block runs."""
        thread = threading.Thread(target=self.serve, name="portlease serves ports")
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join()

    def _patience_s(self) -> float | None:
        if not self._clients:
            return None
        return max(0.0, min(self._clients.values()) + _PATIENCE_S - time.monotonic())

    def _drop_silent(self) -> None:
        late = time.monotonic() - _PATIENCE_S
        for client in [client for client, since in self._clients.items() if since <= late]:
            self._tell("a client connected and asked for nothing; hung up on it")
            self._hang_up(client)

    # --- clients ---

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            # It waits in the backlog until a descriptor comes back; asking on would find nothing.
            self._selector.unregister(self._listener)
            self._full = True
            self._tell("no descriptor is left for another client; raise the limit (ulimit -n)")
            return
        client.settimeout(0)
        self._clients[client] = time.monotonic()
        self._selector.register(client, selectors.EVENT_READ)

    def _hang_up(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._clients[client]
        client.close()
        self._there_is_room()

    def _there_is_room(self) -> None:
        if self._full:
            self._full = False
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _on_client(self, client: socket.socket) -> None:
        try:
            request = client.recv(_LONGEST_REQUEST)
            if request:
                self._answer(client, request)
        except BlockingIOError:
            return
        except Refused as refused:
            self._tell(str(refused))
        except (BrokenPipeError, ConnectionResetError):
            self._tell("a client hung up before it was answered")
        self._hang_up(client)

    def _answer(self, client: socket.socket, request: bytes) -> None:
        owner = _owner(client, request)
        lease = self._take(owner)
        try:
            # One small message into an empty buffer: all of it or, to a client that is gone, none.
            client.send(b"%d\n" % lease.port)
        except BaseException:
            self._leases[owner].remove(lease)
            lease.release()
            raise
        self._tell(f"port {lease.port} is process {owner}'s")

    def _take(self, owner: int) -> Lease:
        if owner not in self._leases:
            try:
                pidfd = os.pidfd_open(owner)
            except OSError as error:  # ESRCH: it has just ended; EMFILE; EINVAL: a thread's id
                raise Refused(f"process {owner} gets no port: {error.strerror}") from error
            self._selector.register(pidfd, selectors.EVENT_READ)
            self._pidfds[pidfd] = owner
            self._leases[owner] = []
        try:
            lease = lease_guarded("both", f"portserver: {owner}", self._ports)
        except PortleaseError as error:
            raise Refused(f"process {owner} gets no port: {error}") from error
        self._leases[owner].append(lease)
        return lease

    def _on_end(self, pidfd: int) -> None:
        """A process has ended: its ports go back."""
        self._selector.unregister(pidfd)
        os.close(pidfd)
        owner = self._pidfds.pop(pidfd)
        leases = self._leases.pop(owner)
        for lease in leases:
            lease.release()
        self._there_is_room()
        self._tell(f"process {owner} has ended; {len(leases)} of its ports are free again")

    # --- the end ---

    def close(self) -> None:
        """Give everything back; may be called again."""
        with self._stack:
            for client in list(self._clients):
                self._hang_up(client)
            for pidfd in list(self._pidfds):
                self._selector.unregister(pidfd)
                os.close(pidfd)
            self._pidfds.clear()
            for leases in self._leases.values():
                for lease in leases:
                    lease.release()
            self._leases.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _somebody_serves_at(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:  # a socket left over, or a file that is none
            return False
    return True


def _owner(client: socket.socket, request: bytes) -> int:
    """The process that a request is made for, as we know it.

    Raises:
        Refused: it is no process id, or not one that such a client can speak for.
    """
    digits = request.strip()
    if not (digits.isdigit() and len(digits) < len("4194304") + 3):
        raise Refused(f"{request[:40]!r} is no process id; hung up on whoever asked")
    pid = int(digits)
    peer, uid, _ = _CREDENTIALS.unpack(
        client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if peer and _pid_namespace(peer) != _pid_namespace(os.getpid()):
        return int(peer)  # its numbers are not ours: a container's
    if pid <= _INIT:
        raise Refused(f"process {pid} gets no port: whoever asked has lost its parent")
    try:
        owned_by = os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        raise Refused(f"process {pid} gets no port: there is no such process") from None
    if uid not in {0, owned_by}:
        raise Refused(f"process {pid} gets no port: it is not user {uid}'s, who asked")
    return pid


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, PermissionError):  # another user's, whom we may not look at
        return os.readlink("/proc/self/ns/pid")


_FOR_EVERY_PORT: Final = 200_000


def many_descriptors() -> None:
    """Allow this process the descriptors that it may need, three for each port that is out.

    Who may (CAP_SYS_RESOURCE) gets enough for every port there is, anybody else as many as the
    hard limit has (getrlimit(2)).
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, _FOR_EVERY_PORT), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except ValueError:  # what EPERM becomes: above the hard limit
            continue
        return
