"""The forwarder: services of the host, reachable from inside under the address they have outside.

A socket belongs to the network namespace in which it was made, whoever uses it. So a process is
forked off *before* the namespace is left; inside, listening sockets are made and passed to it over
a Unix socket (SCM_RIGHTS, unix(7)); it accepts from those and connects outside.

Who owns what: the forwarder owns every socket that it is passed, and each connection's two. It is
nobody's child (its parent ends at once), so no wait(2) of the command's meets it; in a session of
its own, so no terminal's signal does; and it ends with the command, whose pidfd it polls. When it
is killed, its listening sockets go with it, and who connects inside is refused.

Messages are records (SOCK_SEQPACKET). To it: ``listen PORT TARGET...`` with the socket, answered
by ``ok``, and ``outside`` (:mod:`._outside`). It speaks first: ``ok``, or an errno and what was
refused.
"""

import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import _socket as socket  # noqa: E402
import errno  # noqa: E402
import posix  # noqa: E402
import time  # noqa: E402

from portlease._isolate import _links  # noqa: E402
from portlease._isolate._helper import OPTIONAL, Options, RefusedError, reap  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from select import epoll
    from typing import Final, NoReturn
else:
    import _signal as signal

ENVIRONMENT: "Final" = "PORTLEASE_REACH"
"""``FD:PID``: the Unix socket over which this process may ask for more, in a worker."""

NO_SUCH_ADDRESS: "Final" = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""What ::1 gives where there is no IPv6."""

_BACKLOG: "Final" = 4096
_MOST_UNSENT: "Final" = 1 << 18
_READ_BYTES: "Final" = 1 << 16
_RECORD_BYTES: "Final" = 4096
_INT_BYTES: "Final" = 4
_DRAIN_S: "Final" = 1.0
"""How long what the command wrote last has, once it has ended."""
_NONE_LEFT: "Final" = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_TRY_AGAIN_S: "Final" = 0.1
"""When a listener that met one of those is looked at again: others may have had what it lacked."""
_IGNORED: "Final" = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGUSR1", "SIGUSR2")


# --- the command's side, before it is the command -------------------------------------------------


def start() -> "socket.socket":
    """Fork the forwarder off, in the network that we are in now; return our end.

    Raises:
        RefusedError: there can be none.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    pid = posix.getpid()
    middle = posix.fork()
    if middle == 0:
        try:
            posix.setsid()
            if posix.fork() == 0:
                _run(theirs.fileno(), pid)
        finally:
            posix._exit(0)
    theirs.close()
    reap(middle)
    _answered(ours)
    return ours


def set_up(control: "socket.socket", options: Options, env: "dict[bytes, bytes]") -> None:
    """Give the forwarder its listening sockets, in the network that we are in now.

    Raises:
        RefusedError: one of them cannot be had.
    """
    for port, (inside, *targets) in options.reach:
        address = inside.removeprefix(OPTIONAL)
        try:
            listen(control, address, port, targets)
        except OSError as error:
            if inside.startswith(OPTIONAL) and error.errno in NO_SUCH_ADDRESS:
                continue
            raise RefusedError(f"to listen on {address} port {port}", error.errno or 0) from error
    if options.outside:
        from portlease._isolate import _outside

        control.send(b"outside")
        _answered(control)
        _outside.wait_until_connected(control)
    if options.late:
        posix.set_inheritable(control.fileno(), True)  # noqa: FBT003 - positional-only
        env[ENVIRONMENT.encode()] = f"{control.detach()}:{posix.getpid()}".encode()
    else:
        control.close()


def listen(control: "socket.socket", address: str, port: int, targets: "Iterable[str]") -> None:
    """Listen here, and have the forwarder lead what comes to the first of *targets* that answers.

    Raises:
        OSError: it cannot be listened on.
        RefusedError: the forwarder has gone.
    """
    family = _links.family(address)
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
        record = " ".join(("listen", str(port), *targets)).encode()
        number = listener.fileno().to_bytes(_INT_BYTES, sys.byteorder)
        control.sendmsg([record], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])
    finally:
        listener.close()
    _answered(control)


def _answered(control: "socket.socket") -> None:
    answer = control.recv(_RECORD_BYTES).decode("utf-8", "replace")
    if answer != "ok":
        number, _, stage = answer.partition(" ")
        raise RefusedError(stage or "the forwarder", int(number or errno.ECONNRESET))


# --- the forwarder --------------------------------------------------------------------------------


def _run(control: int, pid: int) -> "NoReturn":
    """Become the forwarder of process *pid*; *control* is our end."""
    _leave_everything(control)
    channel = socket.socket(-1, -1, -1, control)
    try:
        command = posix.pidfd_open(pid)
    except OSError as error:  # before Linux 5.3; an old seccomp profile
        channel.send(f"{error.errno} pidfd_open".encode())
        posix._exit(1)
    channel.send(b"ok")
    _many_descriptors()
    _Forwarder(channel, pid, command).run()
    posix._exit(0)


def _leave_everything(control: int) -> None:
    """Keep nothing that was inherited: a copy of a pipe's end would keep its reader waiting."""
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    null = posix.open("/dev/null", posix.O_RDWR)
    for fd in (0, 1, 2):
        if fd != control:
            posix.dup2(null, fd)
    posix.closerange(3, control)
    posix.closerange(max(control + 1, 3), posix.sysconf("SC_OPEN_MAX"))
    posix.chdir("/")
    fd = posix.open("/proc/self/comm", posix.O_WRONLY | posix.O_CLOEXEC)
    posix.write(fd, b"portlease-reach")
    posix.close(fd)


def _many_descriptors() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Half:
    """One socket of a connection, and what is to be written to it."""

    __slots__ = ("connected", "ended", "events", "fd", "pair", "shut", "socket", "unsent")

    def __init__(self, sock: "socket.socket", pair: "_Pair", *, connected: bool) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.pair = pair
        self.connected = connected
        self.unsent = bytearray()
        self.ended = False
        """Whether its end of file has been read."""
        self.shut = False
        """Whether we have shut our direction down."""
        self.events = 0


class _Pair:
    """A connection: its half inside, and its half outside."""

    __slots__ = ("inside", "outside", "port", "targets")

    def __init__(self, inside: "socket.socket", port: int, targets: "list[str]") -> None:
        self.inside = _Half(inside, self, connected=True)
        self.outside: _Half | None = None
        self.port = port
        self.targets = targets
        """Those that have not been tried."""

    def other(self, half: _Half) -> "_Half | None":
        """The half on the other side."""
        return self.outside if half is self.inside else self.inside

    @property
    def is_over(self) -> bool:
        """Whether both have said all, and been told all."""
        return self.outside is not None and self.inside.shut and self.outside.shut

    @property
    def is_busy(self) -> bool:
        """Whether something that was written inside has not arrived outside."""
        return self.outside is None or not self.outside.connected or bool(self.outside.unsent)


class _Forwarder:
    def __init__(self, control: "socket.socket", pid: int, command: int) -> None:
        import select

        self._control = control
        self._pid = pid
        self._command = command
        self._IN, self._OUT = select.EPOLLIN, select.EPOLLOUT
        self._epoll: epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        """What to do when a descriptor is readable that is no half of a connection."""
        self._listeners: dict[int, tuple[socket.socket, int, list[str]]] = {}
        self._halves: dict[int, _Half] = {}
        self._new: set[int] = set()
        """Numbers of halves that are younger than the events at hand, which are of others."""
        self._full: set[int] = set()
        """Listeners that wait until there are descriptors again."""
        self._pasta = -1
        """A pidfd."""
        self._give_up: float | None = None
        self._handle(control.fileno(), self._on_control)
        self._handle(command, self._on_end)

    def _handle(self, fd: int, handler: "Callable[[int], None]") -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, self._IN)

    def _handle_no_more(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def run(self) -> None:
        """Forward until the command has ended and what it wrote has arrived."""
        while self._give_up is None or time.monotonic() < self._give_up:
            timeout_s = self._timeout_s()
            events = self._epoll.poll(timeout_s)
            if not events and not timeout_s:
                break
            if not events:
                self._listen_again()
            self._new.clear()
            for fd, _ in events:
                if fd in self._handlers:
                    self._handlers[fd](fd)
                elif fd in self._halves and fd not in self._new:
                    self._go_on(self._halves[fd])
        if self._pasta >= 0:
            from portlease._isolate import _outside

            _outside.stop(self._pasta)

    def _timeout_s(self) -> float:
        """For ever, until the command has ended; then as long as something is under way."""
        if self._give_up is None:
            return _TRY_AGAIN_S if self._full else -1.0
        return 0.02 if any(half.pair.is_busy for half in self._halves.values()) else 0.0

    def _on_end(self, fd: int) -> None:
        self._give_up = time.monotonic() + _DRAIN_S
        self._handle_no_more(fd)

    def _on_control(self, fd: int) -> None:
        try:
            record, ancillary, _, _ = self._control.recvmsg(
                _RECORD_BYTES, socket.CMSG_SPACE(_INT_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:  # killed, with an answer of ours that it has not read
            record, ancillary = b"", []
        if not record:  # the command has begun, or closed it
            self._handle_no_more(fd)
            return
        word, *rest = record.decode().split()
        if word == "outside":
            from portlease._isolate import _outside

            try:
                self._pasta, last_words = _outside.start(self._pid, self._command)
            except OSError as error:
                self._answer(f"{error.errno} pasta")
                return
            self._handle(last_words, self._on_last_words)
        else:
            number = int.from_bytes(ancillary[0][2][:_INT_BYTES], sys.byteorder)
            listener = socket.socket(-1, -1, -1, number)
            listener.setblocking(False)  # noqa: FBT003 - positional-only
            self._listeners[number] = (listener, int(rest[0]), rest[1:])
            self._handle(number, self._accept)
        self._answer("ok")

    def _on_last_words(self, fd: int) -> None:
        """Pasta has ended; whoever still waits for it is told why."""
        self._handle_no_more(fd)
        self._answer(posix.read(fd, _RECORD_BYTES).decode("utf-8", "replace"))
        posix.close(fd)

    def _answer(self, text: str) -> None:
        try:
            self._control.send(text.encode())
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.ECONNRESET}:  # it has been killed
                raise

    # --- connections ---

    def _accept(self, fd: int) -> None:
        listener, port, targets = self._listeners[fd]
        try:
            # Held for the socket outside: a client that has been accepted could but be refused.
            spare = posix.dup(fd)
            try:
                number, _ = listener._accept()  # type: ignore[attr-defined] # accept()'s own
            finally:
                posix.close(spare)
        except OSError as error:
            if error.errno in _NONE_LEFT:
                self._epoll.unregister(fd)
                self._full.add(fd)
                return
            if error.errno not in {errno.EAGAIN, errno.ECONNABORTED, errno.EINTR}:
                raise
            return
        client = socket.socket(-1, -1, -1, number)
        _prepare(client)
        pair = _Pair(client, port, list(targets))
        self._remember(pair.inside)
        self._connect(pair)

    def _connect(self, pair: _Pair) -> None:
        """Begin with the next target; where there is none left, the client is refused (RST)."""
        while pair.targets:
            address = pair.targets.pop(0)
            family = _links.family(address)
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            except OSError as error:
                if error.errno not in {errno.EAFNOSUPPORT, *_NONE_LEFT}:
                    raise
                continue
            _prepare(sock)
            code = sock.connect_ex((address, pair.port))
            if code not in {0, errno.EINPROGRESS}:
                sock.close()
                continue
            pair.outside = _Half(sock, pair, connected=code == 0)
            self._remember(pair.outside)
            self._watch(pair)
            return
        self._drop(pair, abort=True)

    def _go_on(self, half: _Half) -> None:
        """Something has become possible on this socket: do all that is."""
        pair = half.pair
        if not half.connected:
            if half.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._forget(half)
                pair.outside = None
                self._connect(pair)
                return
            half.connected = True
        other = pair.other(half)
        if other is None:
            return
        try:
            _write(half, other)
            _read(half, other)
            _write(other, half)
        except OSError as error:
            if error.errno in {errno.EBADF, errno.EINVAL, errno.EFAULT, errno.ENOTSOCK}:
                raise  # a defect of ours; anything else is the connection's end
            self._drop(pair, abort=True)
            return
        if pair.is_over:
            self._drop(pair, abort=False)
        else:
            self._watch(pair)

    def _watch(self, pair: _Pair) -> None:
        for half in (pair.inside, pair.outside):
            if half is None:
                continue
            other = pair.other(half)
            events = 0
            if not half.connected:
                events = self._OUT
            else:
                if (
                    other is not None
                    and other.connected
                    and not half.ended
                    and len(other.unsent) < _MOST_UNSENT
                ):
                    events |= self._IN
                if half.unsent:
                    events |= self._OUT
            if events == half.events:
                continue
            # Without any it is not watched at all: a hang-up is told whatever was asked for.
            if not half.events:
                self._epoll.register(half.fd, events)
            elif events:
                self._epoll.modify(half.fd, events)
            else:
                self._epoll.unregister(half.fd)
            half.events = events

    def _drop(self, pair: _Pair, *, abort: bool) -> None:
        for half in (pair.inside, pair.outside):
            if half is None:
                continue
            if abort:  # so that the other end learns of it as we did: l_onoff, l_linger of 0
                linger = (1).to_bytes(_INT_BYTES, sys.byteorder) + bytes(_INT_BYTES)
                half.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._forget(half)
        self._listen_again()

    def _listen_again(self) -> None:
        for fd in self._full:
            self._epoll.register(fd, self._IN)
        self._full.clear()

    def _remember(self, half: _Half) -> None:
        self._halves[half.fd] = half
        self._new.add(half.fd)

    def _forget(self, half: _Half) -> None:
        del self._halves[half.fd]
        half.socket.close()  # which takes it out of the epoll too


def _prepare(sock: "socket.socket") -> None:
    sock.setblocking(False)  # noqa: FBT003 - positional-only
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _read(half: _Half, other: _Half) -> None:
    """Take what has come, for the other half."""
    if not other.connected:
        return
    while not half.ended and len(other.unsent) < _MOST_UNSENT:
        try:
            data = half.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if data:
            other.unsent += data
            if len(data) < _READ_BYTES:
                return
        else:
            half.ended = True


def _write(half: _Half, other: _Half) -> None:
    """Pass on what the other half said; its end of file last."""
    if not half.connected:
        return
    while half.unsent:
        try:
            sent = half.socket.send(half.unsent)
        except BlockingIOError:
            return
        del half.unsent[:sent]
    if other.ended and not half.shut:
        half.shut = True
        try:
            half.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it has gone altogether
                raise
