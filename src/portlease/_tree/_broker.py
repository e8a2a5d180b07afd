"""The broker: a server's own bind(2) and listen(2), done for it beside a hold that stays exclusive.

Runs in the keeper (:mod:`._keeper`), which is sent this module's code only when a server is to be
started on holds; so it imports built-in modules alone, and is loaded nowhere else. Linux only.

Theory of operation
-------------------
The server's process puts itself under a seccomp filter before exec(2): a bind or listen of it and
of all its descendants waits for an answer of whoever has the filter's *listener*, which is the
keeper (seccomp_unotify(2)). Where the bind is for a port that we hold, the keeper fetches the
process's own socket (pidfd_getfd(2)) and binds that very socket itself. Two sockets of the same
port exclude each other, so for the microseconds of the call the two are set apart:

- by *interface*, where we may (CAP_NET_RAW): sockets that are bound to two interfaces
  (SO_BINDTOIFINDEX) do not conflict. Anybody else's, which is bound to none, conflicts with either,
  whatever it sets; and the server's socket is judged by its own options, as it would be without us;
- else by SO_REUSEADDR, set on both, and for UDP by SO_REUSEPORT. A squatter that sets the same, for
  UDP one of the same user, can then get in. (TCP must not use SO_REUSEPORT: the kernel remembers it
  for the port, tb->fastreuseport.) SO_REUSEPORT servers are always set apart in this way.

Then both are put back, so the hold excludes everybody again, the server's socket from then on too,
and getsockopt(2) tells the server what it had set. The kernel judges anew in listen(2)
(inet_csk_listen_start()), hence the same there; only SO_REUSEADDR stays set on what listens. A UDP
hold is left bound to an interface that does not exist: it conflicts as before, and never receives a
datagram meant for the server.

A hold, which others may have copies of, is taken to be HELD: put back means exclusive.

Everything that is not a bind of a held port goes on untouched (SECCOMP_USER_NOTIF_FLAG_CONTINUE),
and so does whatever is not understood or goes wrong: the kernel then judges by itself.

The kernel allows one listener for a tree. A broker inside another broker's tree therefore registers
its holds with the outer one, over an abstract Unix socket whose name is in PORTLEASE_BROKER: they
count as long as that connection is open, and what is done for them is told over it.

How a call is caught and answered (:func:`install`, :class:`Listener`) knows nothing of ports; what
to do with it (:class:`Broker`) nothing of seccomp.
"""

import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import _ctypes  # noqa: E402 - what ctypes is made of; importing ctypes itself costs 3 ms
import _socket  # noqa: E402 - the same of socket, 6 ms
import fcntl  # noqa: E402
import marshal  # noqa: E402
import posix  # noqa: E402
import select  # noqa: E402
import time  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final, TypeAlias

    Watch: TypeAlias = Callable[[int, Callable[[int], bool]], None]
    """Have a function called with the events of a descriptor, until it returns False."""
    News: TypeAlias = tuple["Held", tuple[str, int, str, str]]
    """Whom to tell; and of which transport, port, address and action."""
    Hold: TypeAlias = tuple[str, int, int]
    """Transport, port, and the descriptor of the held socket."""

# The module errno is one more file to load.
_EPERM: "Final" = 1
_EIO: "Final" = 5
_EBADF: "Final" = 9
_EACCES: "Final" = 13
_EBUSY: "Final" = 16
_EINVAL: "Final" = 22
_ENFILE: "Final" = 23
_EMFILE: "Final" = 24
_ENOSYS: "Final" = 38
_ENOTSOCK: "Final" = 88
_ENOPROTOOPT: "Final" = 92
_EADDRINUSE: "Final" = 98
_ETIMEDOUT: "Final" = 110

# --- the kernel's numbers -----------------------------------------------------------------------

# By machine: AUDIT_ARCH_* (linux/audit.h), and the numbers of seccomp, bind and listen
# (asm/unistd.h). pidfd_getfd has the same one everywhere.
MACHINES: "Final" = {
    "x86_64": (0xC000003E, 317, 49, 50),
    "aarch64": (0xC00000B7, 277, 200, 201),
}
_PIDFD_GETFD: "Final" = 438

# linux/seccomp.h
_GET_NOTIF_SIZES: "Final" = 3
_SET_MODE_FILTER: "Final" = 1
_SPEC_ALLOW: "Final" = 1 << 2
_NEW_LISTENER: "Final" = 1 << 3
_WAIT_KILLABLE_RECV: "Final" = 1 << 5
_RET_ALLOW: "Final" = 0x7FFF0000
_RET_USER_NOTIF: "Final" = 0x7FC00000
_FLAG_CONTINUE: "Final" = 1
_SIGNALS_ARE_SAFE: "Final" = (6, 17)
_NR, _ARCH, _THIRD_ARGUMENT = 0, 4, 32  # offsets in struct seccomp_data, the low half of the third

_PR_SET_NO_NEW_PRIVS: "Final" = 38
_PIDFD_THREAD: "Final" = posix.O_EXCL  # linux/pidfd.h, from 6.9 on

_SO_REUSEADDR: "Final" = _socket.SO_REUSEADDR
_SO_REUSEPORT: "Final" = _socket.SO_REUSEPORT
_SO_NETNS_COOKIE: "Final" = 71
_SO_BINDTOIFINDEX: "Final" = 62
NO_INTERFACE: "Final" = 0x7FFFFFFF
_LOOPBACK: "Final" = 1
"""The index of lo in every network namespace."""

_CAP_NET_BIND_SERVICE: "Final" = 10

_SMALLEST_ADDRESS: "Final" = 16
"""sizeof(struct sockaddr_in). Shorter ones are others': glibc binds a netlink socket (12 bytes)
for every getaddrinfo(3)."""
_LARGEST_ADDRESS: "Final" = 128
_FAMILIES: "Final" = (0, 2, 10)
"""AF_INET and AF_INET6; and AF_UNSPEC, which bind(2) of an AF_INET socket takes for AF_INET."""
_TRANSPORTS: "Final" = {(1, 6): "tcp", (1, 262): "tcp", (2, 17): "udp"}
"""By type and protocol: SOCK_STREAM with IPPROTO_TCP or IPPROTO_MPTCP, SOCK_DGRAM with UDP."""

# --- libc ---------------------------------------------------------------------------------------


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = 0x1 | 0x8  # FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


def _function(name: str) -> "Callable[..., int]":
    return _Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]


_syscall = _function("syscall")
_prctl = _function("prctl")
_bind = _function("bind")


def _called(what: str, answer: int) -> int:
    """Return what a function of libc has returned; *what* is the error's filename."""
    if answer < 0:
        code = _ctypes.get_errno()
        raise OSError(code, posix.strerror(code), what)
    return answer


# --- catching calls, in the process whose calls they are ----------------------------------------


def _instruction(code: int, k: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """One struct sock_filter (bpf(4), linux/filter.h)."""
    return (
        code.to_bytes(2, sys.byteorder) + bytes((if_true, if_false)) + k.to_bytes(4, sys.byteorder)
    )


def program(machine: str) -> bytes:
    """Return the filter: bind and listen of the native ABI are notified, the rest is allowed."""
    arch, _, bind, listen = MACHINES[machine]
    load, equals, at_least, done = 0x20, 0x15, 0x35, 0x06
    return b"".join(
        (
            _instruction(load, _ARCH),
            _instruction(equals, arch, if_false=5),
            _instruction(load, _NR),
            _instruction(equals, listen, if_true=4),
            _instruction(equals, bind, if_false=2),
            _instruction(load, _THIRD_ARGUMENT),
            _instruction(at_least, _SMALLEST_ADDRESS, if_true=1),
            _instruction(done, _RET_ALLOW),
            _instruction(done, _RET_USER_NOTIF),
        )
    )


def install() -> "tuple[int, bool]":
    """Put this process, and all that it will start, under the filter.

    Sets no_new_privs only where that takes it, which is without CAP_SYS_ADMIN.

    Returns:
        The listener; and whether a signal may take a call back that is being answered.

    Raises:
        OSError: it cannot be had; its filename says what was refused.
    """
    machine = posix.uname().machine
    if machine not in MACHINES or sys.maxsize < 1 << 32:
        raise OSError(_ENOSYS, "not known", f"seccomp on {machine}")
    code = program(machine)
    array = type("_Array", (_ctypes.Array,), {"_type_": _Byte, "_length_": len(code)})
    kept = array(*(bytes((byte,)) for byte in code))
    # struct sock_fprog: the number of instructions, and where they are.
    head = (len(code) // 8).to_bytes(8, sys.byteorder)
    fprog = head + _ctypes.addressof(kept).to_bytes(8, sys.byteorder)
    if sys.byteorder == "big":
        raise OSError(_ENOSYS, "not known", "a big-endian machine")
    try:
        return _listen_in(MACHINES[machine][1], fprog)
    except PermissionError as error:
        if error.errno != _EACCES:
            raise
    _called("prctl", _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return _listen_in(MACHINES[machine][1], fprog)


def _release() -> "tuple[int, ...]":
    """Return the first two numbers of the kernel's release."""
    numbers = posix.uname().release.split("-")[0].split(".")
    return tuple(int(number) for number in numbers[:2] if number.isdecimal())


def _listen_in(seccomp: int, fprog: bytes) -> "tuple[int, bool]":
    # SPEC_ALLOW: before 5.16 the kernel slows every filtered process down otherwise (SSBD).
    # WAIT_KILLABLE_RECV, from 5.19 on: a signal does not take a call back that is being answered;
    # one that has just been answered only from 6.17 on.
    flags = _NEW_LISTENER | _SPEC_ALLOW
    fd = _syscall(seccomp, _SET_MODE_FILTER, flags | _WAIT_KILLABLE_RECV, fprog)
    if fd < 0 and _ctypes.get_errno() == _EINVAL:
        return _called("seccomp", _syscall(seccomp, _SET_MODE_FILTER, flags, fprog)), True
    return _called("seccomp", fd), not _WAIT_KILLABLE_RECV or _release() < _SIGNALS_ARE_SAFE


# --- answering them -----------------------------------------------------------------------------


class Call:
    """A system call that waits for its answer."""

    __slots__ = ("arguments", "id", "nr", "tid")

    def __init__(self, raw: bytearray) -> None:
        numbers = memoryview(raw)[:80].cast("Q")
        self.id = numbers[0]
        self.tid = numbers[1] & 0xFFFFFFFF
        self.nr = numbers[2] & 0xFFFFFFFF
        self.arguments = numbers[4:10].tolist()


class Listener:
    """Receives the calls of a filtered tree and answers them. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        machine = posix.uname().machine
        _, seccomp, self.bind, self.listen = MACHINES[machine]
        # struct seccomp_notif_sizes: what this kernel's structures measure may grow.
        sizes = type("_Array", (_ctypes.Array,), {"_type_": _Byte, "_length_": 6})()
        _called("seccomp", _syscall(seccomp, _GET_NOTIF_SIZES, 0, sizes))
        self._in, self._out = memoryview(bytes(sizes)).cast("H")[:2]
        # SECCOMP_IOCTL_NOTIF_*: _IOWR('!', 0), _IOWR('!', 1), _IOW('!', 2, __u64)
        self._recv = 0xC0002100 | self._in << 16
        self._send = 0xC0002101 | self._out << 16
        self._id_valid = 0x40082102

    def close(self) -> None:
        """Give it up; calls that wait, and all that come, end with ENOSYS."""
        posix.close(self.fd)
        self.fd = -1

    def receive(self) -> "Call | None":
        """Return the call that waits, or None if its process has died meanwhile."""
        raw = bytearray(self._in)  # all zeros, or EINVAL
        try:
            fcntl.ioctl(self.fd, self._recv, raw, True)  # noqa: FBT003 - positional-only
        except FileNotFoundError:
            return None
        except InterruptedError:
            return None  # a signal for us; poll(2) says again that there is one
        return Call(raw)

    def waits(self, call: Call) -> bool:
        """Whether *call* still waits: its process lives, and what was fetched of it is its own."""
        try:
            fcntl.ioctl(self.fd, self._id_valid, call.id.to_bytes(8, sys.byteorder))
        except FileNotFoundError:
            return False
        return True

    def answer(self, call: Call, code: "int | None") -> bool:
        """Let *call* return 0, or the error *code*; None: let the kernel do it itself.

        Returns:
            False if it does not wait any more.
        """
        flags = _FLAG_CONTINUE if code is None else 0
        # struct seccomp_notif_resp: id, val, error, flags
        reply = call.id.to_bytes(8, sys.byteorder) + bytes(8)
        reply += (-(code or 0)).to_bytes(4, sys.byteorder, signed=True)
        reply += flags.to_bytes(4, sys.byteorder)
        try:
            fcntl.ioctl(self.fd, self._send, reply.ljust(self._out, b"\0"))
        except FileNotFoundError:
            return False
        return True


def memory(tid: int, address: int, size: int) -> bytes:
    """Return *size* bytes of the memory of a thread, or as many as are mapped there."""
    # Not process_vm_readv(2), which container profiles forbid more often.
    fd = posix.open(f"/proc/{tid}/mem", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.pread(fd, size, address)
    except OSError as error:
        if error.errno != _EIO:
            raise
        return b""  # nothing is mapped there: EFAULT, the kernel will say
    finally:
        posix.close(fd)


class _Pidfd:
    threads = True
    """Whether this kernel may have pidfds of threads."""


def fetch(tid: int, fd: int) -> int:
    """Return a copy of the descriptor *fd* of a thread: pidfd_getfd(2)."""
    pidfd = _open_pidfd(tid)
    try:
        return _called("pidfd_getfd", _syscall(_PIDFD_GETFD, pidfd, fd, 0))
    finally:
        posix.close(pidfd)


def _open_pidfd(tid: int) -> int:
    if _Pidfd.threads:
        try:
            return posix.pidfd_open(tid, _PIDFD_THREAD)
        except OSError as error:
            if error.errno != _EINVAL:
                raise
            _Pidfd.threads = False
    return posix.pidfd_open(process_of(tid), 0)


def status(tid: int) -> "dict[str, str]":
    """Return /proc/TID/status."""
    fd = posix.open(f"/proc/{tid}/status", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        text = posix.read(fd, 1 << 16).decode("utf-8", "replace")
    finally:
        posix.close(fd)
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def process_of(tid: int) -> int:
    """Return the process id of a thread; its own where it has ended meanwhile."""
    try:
        return int(status(tid)["Tgid"])
    except (FileNotFoundError, ProcessLookupError):
        return tid


# --- what to do with a call ---------------------------------------------------------------------


class Gone(Exception):  # noqa: N818 - nothing went wrong
    """The process died before anything was done for it."""


class Held:
    """A hold, and who is to be told of what is done beside it. Owns the socket."""

    __slots__ = ("netns", "sock", "tell")

    def __init__(self, sock: _socket.socket, tell: "Callable[..., None]") -> None:
        self.sock = sock
        self.netns = _cookie(sock)
        self.tell = tell


class Broker:
    """Does the binds and listens of a tree that are for held ports.

    Args:
        holds: the held sockets. They become the broker's.
        tell: is called with what has happened, as messages for our side:
            ``("brokered", transport, port, address, pid, action)`` and ``("trouble", text)``.
        watch: is called with the descriptors that are to be polled.
    """

    MOST_TROUBLES: "Final" = 100
    MOST_DONE: "Final" = 1000
    REPLAY_S: "Final" = 0.1
    MOST_ATTEMPTS: "Final" = 10

    def __init__(
        self, holds: "Iterable[Hold]", tell: "Callable[..., None]", watch: "Watch"
    ) -> None:
        self._tell = tell
        self._watch = watch
        self._own = list(holds)
        for _, _, fd in self._own:
            posix.set_inheritable(fd, False)  # noqa: FBT003 - positional-only
        self._holds: dict[tuple[str, int], list[Held]] = {}
        self._ports: set[int] = set()
        self.listener: Listener | None = None
        self._pair: tuple[_socket.socket, _socket.socket] | None = _socket.socketpair(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        )
        self._door: _socket.socket | None = None
        """Where brokers inside our tree come in."""
        self._outer: _socket.socket | None = None
        """Our connection to the broker that we are inside of ourselves."""
        self._by_interface = _may_choose_interface()
        self._first_unprivileged = _first_unprivileged_port()
        self._bound = False
        """Whether any TCP socket has been bound beside a hold, so that listens concern us."""
        self._replays = False
        """Whether a signal may make a call come again that has been done: before Linux 6.17."""
        self._last: tuple[int, bytes] = (0, b"")
        self._done: dict[int, tuple[tuple[int, bytes], float]] = {}
        """By thread: socket and address of its last bind that was done; until when it counts."""
        self._troubles: set[str] = set()

    def _add(self, transport: str, port: int, held: Held) -> None:
        self._holds.setdefault((transport, port), []).append(held)
        self._ports.add(port)

    def _remove(self, transport: str, port: int, held: Held) -> None:
        known = self._holds[transport, port]
        known.remove(held)
        held.sock.close()
        if not known:
            del self._holds[transport, port]
            self._ports = {number for _, number in self._holds}

    # --- before exec ---

    def enlist(self, env: "dict[bytes, bytes]") -> None:
        """In the child: install the filter and give the listener to the keeper.

        Raises:
            OSError: the broker cannot be had; its filename says what was refused.
        """
        assert self._pair is not None  # noqa: S101 - engage() is the keeper's
        keepers, ours = self._pair
        keepers.close()
        try:
            (listener, replays), refused = install(), (0, "")
        except OSError as error:
            listener, replays = -1, False
            refused = (error.errno or _EINVAL, str(error.filename))
        ours.send(marshal.dumps((listener, replays, *refused)))
        code, what, door = marshal.loads(ours.recv(4096))  # noqa: S302 - from ourselves
        ours.close()
        if listener >= 0:
            posix.close(listener)
        if code:
            raise OSError(code, posix.strerror(code), what)
        env[_VARIABLE] = door

    def engage(self, pid: int) -> None:
        """In the keeper: take the listener from the child *pid*, if that has been given one."""
        assert self._pair is not None  # noqa: S101 - called once
        ours, childs = self._pair
        self._pair = None
        childs.close()
        try:
            if message := ours.recv(4096):  # nothing: the child failed before it came so far
                listener, self._replays, *refused = marshal.loads(message)  # noqa: S302 - ours
                try:
                    door = self._begin(pid, listener, *refused)
                    answer = (0, "", door)
                except OSError as error:
                    answer = (error.errno or _EINVAL, str(error.filename or "pidfd_open"), b"")
                ours.send(marshal.dumps(answer))
        except (BrokenPipeError, ConnectionResetError):
            return  # it has died, which wait(2) will say
        finally:
            ours.close()

    def _begin(self, pid: int, listener: int, code: int, what: str) -> bytes:
        """Take the listener; return the name under which brokers inside of ours find one."""
        if not code:
            # In the way in which memory will be read, and sockets will be fetched.
            posix.close(posix.open(f"/proc/{pid}/mem", posix.O_RDONLY | posix.O_CLOEXEC))
            self.listener = Listener(fetch(pid, listener))
            self._watch(self.listener.fd, self._on_call)
            for transport, port, fd in self._own:
                self._add(transport, port, Held(_socket.socket(fileno=fd), self._tell))
            return self._open_door()
        outer = posix.environ.get(_VARIABLE)
        if code != _EBUSY or outer is None:
            raise OSError(code, posix.strerror(code), what)
        self._outer = register(outer, self._own)
        for _, _, fd in self._own:
            posix.close(fd)
        self._watch(self._outer.fileno(), self._on_outer)
        return outer

    # --- brokers inside of ours, and the one we may be inside of ---

    def _open_door(self) -> bytes:
        name = b"portlease-broker-" + posix.urandom(12).hex().encode()
        self._door = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        )
        self._door.bind(b"\0" + name)
        self._door.listen(64)
        self._watch(self._door.fileno(), self._on_knock)
        return name

    def _on_knock(self, _: int) -> bool:
        assert self._door is not None  # noqa: S101 - it has just been readable
        try:
            fd, _ = self._door._accept()  # type: ignore[attr-defined] # socket.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return True
        except OSError as error:
            if error.errno not in {_EMFILE, _ENFILE}:
                raise
            self._tell("trouble", f"no broker inside can register: {error.strerror}")
            self._door.close()
            return False
        guest = Guest(_socket.socket(fileno=fd), self._add, self._remove)
        self._watch(fd, guest.on_message)
        return True

    def _on_outer(self, _: int) -> bool:
        assert self._outer is not None  # noqa: S101 - it has just been readable
        try:
            message = self._outer.recv(_LONGEST_MESSAGE)
        except ConnectionResetError:
            message = b""
        if message:
            self._tell(*marshal.loads(message))  # noqa: S302 - from a keeper
            return True
        self._outer.close()
        self._tell("trouble", "the keeper of the outer broker has ended: no bind can succeed")
        return False

    # --- while the tree runs ---

    def _on_call(self, events: int) -> bool:
        """Answer one call; return whether there may ever be another."""
        assert self.listener is not None  # noqa: S101 - it has just been readable
        if not events & select.POLLIN:  # POLLHUP: nobody is left under the filter
            self.listener.close()
            return False
        call = self.listener.receive()
        if call is None:
            return True
        news: list[News] = []
        code: int | None = None
        try:
            code = self._judge(call, news)
        except Gone:
            return True
        except OSError as error:
            # ESRCH, ENOENT: it has ended. Whatever else it is, the kernel judges by itself.
            if not isinstance(error, ProcessLookupError | FileNotFoundError):
                self._trouble(call, f"{error.strerror} ({error.filename or 'a socket'})")
        except Exception as error:  # noqa: BLE001 - fail open, and say so
            self._trouble(call, f"a defect: {error!r}")
        answered = self.listener.answer(call, code)
        if self._replays and code == 0 and call.nr == self.listener.bind:
            self._remember(call.tid, answered=answered)
        for held, (transport, port, address, action) in news:
            held.tell("brokered", transport, port, address, process_of(call.tid), action)
        return True

    def _trouble(self, call: Call, what: str) -> None:
        action = "bind" if self.listener is None or call.nr == self.listener.bind else "listen"
        text = f"{action} of thread {call.tid}: {what}"
        if text not in self._troubles and len(self._troubles) < self.MOST_TROUBLES:
            self._troubles.add(text)
            self._tell("trouble", text)

    def _judge(self, call: Call, news: "list[News]") -> "int | None":
        """Do what *call* asks for; return its result: 0, an errno, or None for the kernel's own."""
        assert self.listener is not None  # noqa: S101 - the call came from it
        fd, argument, size = call.arguments[:3]
        if call.nr == self.listener.bind:
            address = memory(call.tid, argument, min(size & 0xFFFFFFFF, _LARGEST_ADDRESS))
            if port_of(address) not in self._ports:
                return None
        elif self._bound:
            address = b""
        else:
            return None
        try:
            sock = _adopted(fetch(call.tid, fd & 0xFFFFFFFF))
        except OSError as error:
            if error.errno in {_EBADF, _ENOTSOCK}:  # as the kernel will say
                return None
            raise
        # The copy must be closed before the answer: the server's close() would not free its port.
        try:
            return self._on_socket(call, sock, address, argument, news)
        finally:
            sock.close()

    def _on_socket(
        self,
        call: Call,
        sock: _socket.socket,
        address: bytes,
        argument: int,
        news: "list[News]",
    ) -> "int | None":
        assert self.listener is not None  # noqa: S101 - the call came from it
        transport = _TRANSPORTS.get((sock.type, sock.proto), "")
        port = port_of(address) if address else _port_of_socket(sock)
        netns = _cookie(sock)
        held = [one for one in self._holds.get((transport, port), ()) if one.netns == netns]
        if not held or _is_for_a_lease(sock):
            return None
        if not address and _get(sock, _socket.SO_ACCEPTCONN):
            return None  # only its backlog changes, which takes nobody's leave
        if port < self._first_unprivileged and not may_bind_privileged(call.tid):
            return None
        if not self.listener.waits(call):
            raise Gone
        holds = [one.sock for one in held]
        if address:
            replayed = self._replays and self._was_done(call.tid, sock, address)
            code = self._bind(transport, holds, sock, address)
            if code == _EINVAL and replayed:
                code = 0
        else:
            code = self._listen(transport, holds, sock, argument & 0xFFFFFFFF)
        if code == 0:
            self._bound = self._bound or transport == "tcp"
            action = "bind" if address else "listen"
            done = (transport, port, sock.getsockname()[0], action)
            news += [(one, done) for one in held]
        return code

    # --- before Linux 6.17 ---

    # A signal can take a call back that is being answered, or just has been: the kernel then
    # forgets the answer and has the call made again (seccomp_do_user_notification()). A bind that
    # was done must not fail with EINVAL, "already bound", then.

    def _remember(self, tid: int, *, answered: bool) -> None:
        if len(self._done) >= self.MOST_DONE:
            self._done.clear()
        until = time.monotonic() + self.REPLAY_S if answered else float("inf")
        self._done[tid] = (self._last, until)

    def _was_done(self, tid: int, sock: _socket.socket, address: bytes) -> bool:
        self._last = (posix.fstat(sock.fileno()).st_ino, address)
        last, until = self._done.pop(tid, ((0, b""), 0.0))
        return last == self._last and time.monotonic() < until

    def _bind(
        self, transport: str, holds: "list[_socket.socket]", sock: _socket.socket, address: bytes
    ) -> int:
        code = self._apart(transport, holds, sock, lambda: bind(sock, address))
        if code != _EADDRINUSE or transport != "tcp" or _get(sock, _SO_REUSEADDR):
            return code
        # Connections in TIME_WAIT, which the one before has closed, keep out who comes without.
        _set(sock, _SO_REUSEADDR, 1)
        try:
            return self._apart(transport, holds, sock, lambda: bind(sock, address))
        finally:
            _set(sock, _SO_REUSEADDR, 0)

    def _listen(
        self, transport: str, holds: "list[_socket.socket]", sock: _socket.socket, backlog: int
    ) -> int:
        own = _get(sock, _SO_REUSEADDR)
        if not own:
            _set(sock, _SO_REUSEADDR, 1)
        code = self._apart(transport, holds, sock, lambda: listen(sock, backlog), listens=True)
        # It stays set, or a server without it could not come back for 60 s: its connections
        # inherit it, and take it into TIME_WAIT. It lets nobody in beside a socket that listens.
        if code and not own:
            _set(sock, _SO_REUSEADDR, 0)
        return code

    # --- two sockets, apart ---

    def _apart(
        self,
        transport: str,
        holds: "list[_socket.socket]",
        sock: _socket.socket,
        act: "Callable[[], int]",
        *,
        listens: bool = False,
    ) -> int:
        """Do *act* while *holds* do not exclude *sock*; return its errno, or 0."""
        if transport == "udp":
            for hold in holds:
                _set_interface(hold, NO_INTERFACE)
        # The kernel makes a group of SO_REUSEPORT sockets of the same interface (UDP: in bind, TCP:
        # in listen), and shares their clients out among them: so they keep theirs.
        grouped = _get(sock, _SO_REUSEPORT) and (transport == "udp" or listens)
        code, disturbed = _EADDRINUSE, True
        for _ in range(self.MOST_ATTEMPTS):
            if code != _EADDRINUSE or not disturbed:
                break
            if self._by_interface and not grouped:
                code, disturbed = self._by_two_interfaces(transport, holds, sock, act)
            else:
                code, disturbed = self._by_option(_option(transport, holds, sock), holds, sock, act)
        return code

    @staticmethod
    def _by_two_interfaces(
        transport: str,
        holds: "list[_socket.socket]",
        sock: _socket.socket,
        act: "Callable[[], int]",
    ) -> "tuple[int, bool]":
        own = _get(sock, _SO_BINDTOIFINDEX)
        try:
            for hold in holds:
                _set_interface(hold, NO_INTERFACE)
            if not own:
                _set_interface(sock, _LOOPBACK)
            code = act()
            # Another keeper that has the same hold may have put it back in the midst of it.
            disturbed = any(_get(hold, _SO_BINDTOIFINDEX) != NO_INTERFACE for hold in holds)
        finally:
            if (
                _get(sock, _SO_BINDTOIFINDEX) == _LOOPBACK != own
            ):  # a link-local address has chosen another
                _set_interface(sock, 0)
            if transport == "tcp":
                for hold in holds:
                    _set_interface(hold, 0)
        return code, disturbed

    @staticmethod
    def _by_option(
        option: int, holds: "list[_socket.socket]", sock: _socket.socket, act: "Callable[[], int]"
    ) -> "tuple[int, bool]":
        own = _get(sock, option)
        try:
            for hold in holds:
                _set(hold, option, 1)
            if not own:
                _set(sock, option, 1)
            code = act()
            disturbed = not all(_get(hold, option) for hold in holds)
        finally:
            for hold in holds:
                _set(hold, option, 0)
            if not own:
                _set(sock, option, 0)
        return code, disturbed


# --- one broker inside another ------------------------------------------------------------------

_VARIABLE: "Final" = b"PORTLEASE_BROKER"
_OUTER: "Final" = "the outer broker"
_LONGEST_MESSAGE: "Final" = 1 << 16
_MOST_AT_ONCE: "Final" = 100
"""Holds in one message; the kernel passes 253 descriptors at most (SCM_MAX_FD)."""
_PATIENCE_S: "Final" = 10.0
"""How long the outer broker's keeper may take to answer: it may be stopped."""


class Guest:
    """A broker inside our tree, as the outer one sees it. Owns the connection."""

    def __init__(
        self,
        sock: _socket.socket,
        add: "Callable[[str, int, Held], None]",
        remove: "Callable[[str, int, Held], None]",
    ) -> None:
        self._sock = sock
        self._sock.setblocking(False)  # noqa: FBT003 - positional-only
        self._add = add
        self._remove = remove
        self._holds: list[tuple[str, int, Held]] = []

    def on_message(self, _: int) -> bool:
        """Take holds, or give them up when it has ended."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                _LONGEST_MESSAGE, _socket.CMSG_SPACE(4 * _MOST_AT_ONCE)
            )
        except BlockingIOError:
            return True
        except ConnectionResetError:
            data, ancillary = b"", []
        fds = [fd for _, _, raw in ancillary for fd in _integers(raw)]
        if not data:
            for fd in fds:  # with a message of no bytes, which is none of ours
                posix.close(fd)
            for one in self._holds:
                self._remove(*one)
            self._sock.close()
            return False
        self._say(self._take(data, fds))
        return True

    def _take(self, data: bytes, fds: list[int]) -> int:
        """Take the holds that came with a message; return 0, or the errno of why not."""
        for fd in fds:
            posix.set_inheritable(fd, False)  # noqa: FBT003 - positional-only
        named = _named(data) if self._is_ours() else []
        if len(named) != len(fds) or not fds:
            for fd in fds:
                posix.close(fd)
            return _EMFILE if named else _EPERM  # no room for them here (MSG_CTRUNC)
        held = []
        try:
            while fds:
                held.append(Held(_adopted(fds.pop(0)), self._say))
        except OSError as error:  # ENOTSOCK
            for fd in fds:
                posix.close(fd)
            for one in held:
                one.sock.close()
            return error.errno or _EINVAL
        for (transport, port), one in zip(named, held, strict=True):
            self._holds.append((transport, port, one))
            self._add(transport, port, one)
        return 0

    def _is_ours(self) -> bool:
        """Whether it is the same user, or root: a hold must not be opened for a stranger."""
        raw = self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        return _integers(raw)[1] in {posix.geteuid(), 0}

    def _say(self, *message: object) -> None:
        """Tell it something; what it has no room for is lost, as nothing here may wait for it."""
        try:
            self._sock.send(marshal.dumps(message))  # type: ignore[arg-type] # plain values
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return


def _named(data: bytes) -> "list[tuple[str, int]]":
    """The transports and ports of a message; none where it is not one."""
    try:
        named = marshal.loads(data)  # noqa: S302 - from a process of our own user
    except (EOFError, ValueError, TypeError):
        return []
    known = _TRANSPORTS.values()
    if type(named) is not list or not all(
        type(one) is tuple and len(one) == 2 and one[0] in known and type(one[1]) is int  # noqa: PLR2004
        for one in named
    ):
        return []
    return named


def _integers(raw: bytes) -> list[int]:
    return memoryview(raw).cast("i").tolist()


def register(outer: bytes, holds: "list[Hold]") -> _socket.socket:
    """Give *holds* to the outer broker; return the connection, over which it tells what it does.

    Raises:
        OSError: it does not take them, or is gone.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_PATIENCE_S)
        sock.connect(b"\0" + outer)
        for start in range(0, len(holds), _MOST_AT_ONCE):
            some = holds[start : start + _MOST_AT_ONCE]
            fds = b"".join(fd.to_bytes(4, sys.byteorder) for _, _, fd in some)
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)]
            sock.sendmsg([marshal.dumps([hold[:2] for hold in some])], rights)
            (code,) = marshal.loads(sock.recv(_LONGEST_MESSAGE))  # noqa: S302 - from a keeper
            _called_back(code)
        sock.settimeout(None)
    except OSError as error:
        sock.close()
        code = error.errno or _ETIMEDOUT
        raise OSError(code, posix.strerror(code), _OUTER) from error
    return sock


def _called_back(code: int) -> None:
    if code:
        raise OSError(code, posix.strerror(code))


# --- sockets ------------------------------------------------------------------------------------


def _adopted(fd: int) -> _socket.socket:
    """Return the socket object that owns *fd*, which is closed if it is none."""
    try:
        return _socket.socket(fileno=fd)
    except OSError:
        posix.close(fd)
        raise


def port_of(address: bytes) -> int:
    """Return the port in a struct sockaddr of the Internet families; 0 where there is none."""
    if len(address) < _SMALLEST_ADDRESS:
        return 0
    if int.from_bytes(address[:2], sys.byteorder) not in _FAMILIES:
        return 0
    return int.from_bytes(address[2:4], "big")


def _port_of_socket(sock: _socket.socket) -> int:
    if sock.family not in _FAMILIES:
        return 0
    return int(sock.getsockname()[1])


def bind(sock: _socket.socket, address: bytes) -> int:
    """Bind to exactly these bytes; return the errno, or 0."""
    if _bind(sock.fileno(), address, len(address)) < 0:
        return _ctypes.get_errno()
    return 0


def listen(sock: _socket.socket, backlog: int) -> int:
    """Listen as the kernel does: a negative backlog is the largest; return the errno, or 0."""
    try:
        sock.listen(min(backlog, 0x7FFFFFFF))
    except OSError as error:
        return error.errno or _EINVAL
    return 0


def _option(transport: str, holds: "list[_socket.socket]", sock: _socket.socket) -> int:
    """Return the option by which these may be bound side by side."""
    # SO_REUSEPORT wants sockets of one user: a server may have become another since.
    user = posix.fstat(sock.fileno()).st_uid
    same = all(posix.fstat(hold.fileno()).st_uid == user for hold in holds)
    return _SO_REUSEPORT if transport == "udp" and same else _SO_REUSEADDR


def _get(sock: _socket.socket, option: int) -> int:
    return sock.getsockopt(_socket.SOL_SOCKET, option)


def _set(sock: _socket.socket, option: int, value: int) -> None:
    sock.setsockopt(_socket.SOL_SOCKET, option, value)


def _set_interface(sock: _socket.socket, index: int) -> None:
    """Bind *sock* to an interface. The kernel lets anybody do so once, but only us change it."""
    if _get(sock, _SO_BINDTOIFINDEX) != index:
        _set(sock, _SO_BINDTOIFINDEX, index)


def put_back(holds: "Iterable[Hold]") -> None:
    """Make *holds* exclusive, whose broker may have been killed in the midst of a call; close them.

    What a server's own socket had set for the moment stays.
    """
    for transport, _, fd in holds:
        hold = _adopted(fd)
        try:
            _set(hold, _SO_REUSEADDR, 0)
            _set(hold, _SO_REUSEPORT, 0)
            if transport == "tcp":
                _set_interface(hold, 0)
        finally:
            hold.close()


def _may_choose_interface() -> bool:
    """Whether a socket may be taken off an interface again: CAP_NET_RAW, and Linux 5.1."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        _set_interface(probe, _LOOPBACK)
        _set_interface(probe, 0)
    except OSError as error:
        if error.errno not in {_EPERM, _ENOPROTOOPT}:
            raise
        return False
    finally:
        probe.close()
    return True


def _cookie(sock: _socket.socket) -> bytes:
    """What identifies the network namespace of *sock*; empty before Linux 5.14."""
    try:
        return sock.getsockopt(_socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError as error:
        if error.errno != _ENOPROTOOPT:
            raise
        return b""


def _is_for_a_lease(sock: _socket.socket) -> bool:
    """Whether it is to hold a port for a lease taken inside the tree.

    That one must fail where somebody has the port, and so marks its socket by an odd timeout
    (portlease._platform._linux).
    """
    return sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, 16) == LEASE_MARK


LEASE_MARK: "Final" = (0x706C).to_bytes(8, sys.byteorder) + bytes(8)
"""struct timeval, in seconds."""


def _first_unprivileged_port() -> int:
    try:
        fd = posix.open("/proc/sys/net/ipv4/ip_unprivileged_port_start", posix.O_RDONLY)
    except FileNotFoundError:  # before Linux 4.11
        return 1024
    try:
        return int(posix.read(fd, 64))
    finally:
        posix.close(fd)


def may_bind_privileged(tid: int) -> bool:
    """Whether a thread has CAP_NET_BIND_SERVICE over our network: it is its bind, not ours."""
    if not int(status(tid)["CapEff"], 16) >> _CAP_NET_BIND_SERVICE & 1:
        return False
    return posix.readlink(f"/proc/{tid}/ns/user") == posix.readlink("/proc/self/ns/user")
