"""A port server: leases for suites in any language that honour ``PORTSERVER_ADDRESS``.

The protocol is portpicker's: a client connects to a Unix socket (``@name`` is an abstract one,
unix(7)), writes the process id on whose behalf it asks, in ASCII, with a newline, and reads a port
number with a newline. "No" is one line that says why, and begins with no digit: portpicker's client
takes it for "no", as does whoever reads a number there.

The port is free for TCP and UDP, GUARDED, and so kept from every other lease and portlease user
until that process has ended: pidfd_open(2) tells that, at once, and no later process of the same
id is taken for it. Nothing is looked through for a request, however many ports are out; where they
are more than this process has descriptors for, others keep their sockets (:mod:`._depot`).

Linux only, for pidfds and abstract sockets.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import selectors
import socket
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING

from portlease._errors import PortleaseError, UsageError
from portlease._take import guard_again, lease_guarded

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

import resource  # noqa: E402

from portlease._depot import AT_ONCE, MOST_DESCRIPTORS, Depot  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Final, Self

    from portlease._lease import Lease

_LONGEST_REQUEST: Final = 100
_LONGEST_NUMBER: Final = len("4194304") + 3
"""More digits than any process id has (PID_MAX_LIMIT, include/linux/threads.h)."""
_PATIENCE_S: Final = 10.0
"""How long a client that has connected may take to ask."""
_GRACE_S: Final = 0.1
"""How long after digits without a newline more of them may come: 12 may be what there is of 1234 so
far. portpicker's own server takes the first read(2) for all; its client writes the newline."""
_BACKLOG: Final = 1024
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid
_INIT: Final = 1
_HUNG_UP: Final = "a client hung up before it was answered"
_FEWEST_HERE: Final = 10
"""Even if there is hardly room for clients besides."""


class Refused(Exception):  # noqa: N818 - told to the client and to the operator
    """A request that gets no port, and why."""


class PortServer:
    """Serves until :meth:`stop`. Context manager: leaving the block gives every port back.

    Args:
        address: ``@name`` for an abstract Unix socket, or a path.
        ports: the numbers that it may give out; by default as :func:`portlease.lease`.
        tell: called with one line for each port given or given back, and each client refused.
        refused: called instead of *tell* with the line for a client that gets no port.

    Raises:
        UsageError: the address can never be one, or somebody serves on it already.
    """

    def __init__(
        self,
        address: str,
        *,
        ports: Iterable[int] | None = None,
        tell: Callable[[str], None] | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self.address = address
        self._ports = None if ports is None else tuple(ports)
        self._tell = tell or (lambda _: None)
        self._tell_refused = refused or self._tell
        self._leases: dict[int, list[Lease]] = {}
        """By the process that asked."""
        self._pidfds: dict[int, int] = {}
        """The process of each pidfd."""
        self._clients: dict[socket.socket, tuple[bytes, float]] = {}
        """Who has not asked to the end: what came so far, and until when there may come more."""
        self._here: dict[Lease, None] = {}
        """Those of which the sockets are here, oldest first."""
        self._depot = Depot()
        self._freed: list[tuple[dict[int, int], str]] = []
        """What is to be told once each holder has closed what it had of it."""
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
                elif key.data is None:
                    self._on_end(key.fd)
                else:
                    self._on_holder(key.fd)
            self._end_waiting()

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
        return max(0.0, min(until for _, until in self._clients.values()) - time.monotonic())

    def _end_waiting(self) -> None:
        """No more comes from these: answer who has asked, and hang up on who has not."""
        now = time.monotonic()
        late = [client for client, (_, until) in self._clients.items() if until <= now]
        for client in late:
            request, _ = self._clients[client]
            if request:
                self._reply(client, request)
            else:
                self._tell_refused("a client connected and asked for nothing; hung up on it")
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
            self._tell_refused("no descriptor is left for another client; raise `ulimit -n`")
            return
        client.settimeout(0)
        self._clients[client] = b"", time.monotonic() + _PATIENCE_S
        self._selector.register(client, selectors.EVENT_READ)
        self._on_client(client)  # which has mostly asked already

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
        before, _ = self._clients[client]
        try:
            more = client.recv(_LONGEST_REQUEST - len(before))
        except BlockingIOError:
            return
        except ConnectionResetError:
            self._tell_refused(_HUNG_UP)
        else:
            request = before + more
            if more and _may_go_on(request):
                self._clients[client] = request, time.monotonic() + _GRACE_S
                return
            if request:
                self._reply(client, request)
        self._hang_up(client)

    def _reply(self, client: socket.socket, request: bytes) -> None:
        """Answer a whole request, with a port or with the reason why not."""
        try:
            self._answer(client, request)
        except Refused as refused:
            self._tell_refused(str(refused))
            # It is no less refused if it has gone, or has no room for the reason.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
                client.send(f"{refused}\n".encode("utf-8", "backslashreplace"))
        except (BrokenPipeError, ConnectionResetError):
            self._tell_refused(_HUNG_UP)

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
        self._keep_here(lease)
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
            why = " ".join(str(error).split())  # one line of it
            raise Refused(f"process {owner} gets no port: {why}") from error
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
            self._here.pop(lease, None)
        self._there_is_room()
        told = f"process {owner} has ended; {len(leases)} of its ports are free again"
        if awaited := dict(self._depot.flush()):
            self._freed.append((awaited, told))
        else:
            self._tell(told)

    # --- more leases than descriptors ---

    def _keep_here(self, lease: Lease) -> None:
        self._here[lease] = None
        if len(self._here) >= self._most_here():
            self._make_room()

    def _most_here(self) -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(_FEWEST_HERE, (soft // 2 - len(self._pidfds)) // MOST_DESCRIPTORS)

    def _make_room(self) -> None:
        """Have the sockets of the oldest ones kept elsewhere."""
        oldest = list(itertools.islice(self._here, AT_ONCE))
        try:
            gone = self._depot.keep(oldest)
        except PortleaseError as error:  # then they stay; the next client is told, if that fails
            self._tell_refused(str(error))
            return
        if gone:
            for lease in oldest:
                del self._here[lease]
        for fd in self._depot.holders():
            if fd not in self._selector.get_map():
                self._selector.register(fd, selectors.EVENT_READ, "holder")

    def _on_holder(self, fd: int) -> None:
        """A holder has closed what was released, or has ended."""
        done = self._depot.done(fd)
        if done is None:
            self._selector.unregister(fd)
        waiting, self._freed = self._freed, []
        for awaited, told in waiting:
            if done is None or awaited.get(fd, math.inf) <= done:
                awaited.pop(fd, None)
            if awaited:
                self._freed.append((awaited, told))
            else:
                self._tell(told)
        if done is None:
            self._regain(self._depot.lost(fd))

    def _regain(self, lost: list[Lease]) -> None:
        """Guard anew what a holder has lost, which was killed."""
        again = 0
        for lease in lost:
            try:
                regained = guard_again(lease)
            except PortleaseError as error:
                self._tell_refused(f"port {lease.port}: {error}")
                break
            if regained:
                again += 1
                self._keep_here(lease)
        self._tell_refused(
            f"a process that kept {len(lost)} ports was killed; {again} of them are kept again"
        )

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
            self._here.clear()
            for fd in self._depot.holders():
                self._selector.unregister(fd)
            self._depot.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def serving(
    address: str | None = None,
    *,
    ports: Iterable[int] | None = None,
    tell: Callable[[str], None] | None = None,
    refused: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Serve in a thread of this process while the block runs.

    Args:
        address: as :class:`PortServer`; by default an abstract one that nobody else knows.
        ports: as :class:`PortServer`.
        tell: called with one line for each port given or given back, from the server's thread.
        refused: the same for each request that gets no port; by default *tell*.

    Returns:
        A context manager, which gives the address: what PORTSERVER_ADDRESS is to be.

    Raises:
        UsageError: the address can never be one, or somebody serves on it already.
    """
    with (
        PortServer(
            address or f"@portlease-portserver-{os.urandom(8).hex()}",
            ports=ports,
            tell=tell,
            refused=refused,
        ) as server,
        server.in_background(),
    ):
        yield server.address


def _somebody_serves_at(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:  # a socket left over, or a file that is none
            return False
    return True


def _may_go_on(request: bytes) -> bool:
    """Whether this may be the beginning of a number: its newline has not come."""
    digits = request.strip()
    return (
        b"\n" not in request
        and (not digits or digits.isdigit())
        and len(digits) < _LONGEST_NUMBER
        and len(request) < _LONGEST_REQUEST
    )


def _owner(client: socket.socket, request: bytes) -> int:
    """The process that a request is made for, as we know it.

    Raises:
        Refused: it is no process id, or not one that such a client can speak for.
    """
    digits = request.partition(b"\n")[0].strip()
    if not (digits.isdigit() and len(digits) < _LONGEST_NUMBER):
        raise Refused(f"{request[:40]!r} is no process id: give one, in ASCII, and a newline")
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
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, _FOR_EVERY_PORT), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except ValueError:  # what EPERM becomes: above the hard limit
            continue
        return
