"""The observer: sees every bind and listen of a tree, whatever it is written in. Linux only.

A tree can have one listener (:mod:`portlease._tree._broker`), so the observer is a broker: one
that is asked for inside of its tree registers its holds here, and gets what it would have got.

What becomes of a call that is not for a held port
--------------------------------------------------
- A *bind* of TCP or UDP is made by us, on the very socket of the process (pidfd_getfd(2)), and the
  process gets the errno. That is the only way to know what it came to: let go on and looked at
  afterwards, the socket may be closed before we look; and as long as we have a copy of it, its
  close() would not free the port. Socket, network namespace, options and their judge are the same
  as if the process had called; and its answer is the kernel's own.
- A port that is for the privileged is the one case in which it matters who calls. It is left to
  the kernel, with the process's own rights, unless these are ours as well; and so is whatever we
  are refused that the process may not be (EACCES, EPERM).
- A *listen* is written down and left to the kernel. So are sockets of other families, and whatever
  is not understood.

The line of the trail is there before the call returns: whoever reads the trail after a call of its
own, or of a child it has heard of, finds it.

Which line of Python it was stands in the trail already, as the hook in that interpreter wrote it
before its call, in the same thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

from portlease import _trail
from portlease._audit import _origin
from portlease._audit._site import _portlease_hook
from portlease._trail import Event
from portlease._tree import _process

assert sys.platform == "linux"  # noqa: S101 - tells the type checker that the rest is Linux's alone

import _socket  # noqa: E402
import errno  # noqa: E402

from portlease._audit import _scene  # noqa: E402
from portlease._platform import _linux_proc  # noqa: E402
from portlease._tree import _broker  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final

    from portlease._errors import BrokerUnavailableError
    from portlease._tree._broker import Call, News

_FAMILIES: Final = frozenset({_socket.AF_INET, _socket.AF_INET6})
_ENTER: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_enter.py")
_OURS_ALONE: Final = frozenset({errno.EACCES, errno.EPERM})


class Observer(_broker.Broker):
    """Watches one command's tree, and writes what it sees to a trail.

    Args:
        trail: the path of the file, which is there.
    """

    def __init__(self, trail: str) -> None:
        self._poll = select.poll()
        self._watched: dict[int, Callable[[int], bool]] = {}
        super().__init__((), self._on_news, self._on_watch)
        self.troubles: list[str] = []
        """Calls that were left to the kernel unseen, and why; parts of the trail that are lost."""
        self.refused: BrokerUnavailableError | None = None
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="portlease observes", daemon=True)
        self._path = trail
        self._scene = _scene.Scene(trail)
        self._ledger = _origin.Ledger()

    # --- from start to end ---

    def command(self, argv: list[str]) -> tuple[list[str], int]:
        """What to execute in place of *argv*, and the descriptor it must inherit, which is ours."""
        assert self._pair is not None  # noqa: S101 - engage() comes later
        fd = self._pair[1].fileno()
        return [sys.executable, "-I", "-S", _ENTER, str(fd), *argv], fd

    def begin(self, pid: int) -> bool:
        """Take the listener from the process *pid*; return whether it may go on under our eyes.

        If not, the process has ended without executing anything: ``refused`` says why, or is None
        where it has died before it came so far.
        """
        self.engage(pid)
        if self.refused is not None or self.listener is None:
            return False
        self._thread.start()
        return True

    def _begin(self, pid: int, listener: int, code: int, what: str) -> bytes:
        try:
            if code:  # EBUSY too: inside of another we would see nothing
                raise OSError(code, os.strerror(code), what)  # noqa: TRY301 - one way for all
            return super()._begin(pid, listener, code, what)
        except OSError as error:
            refused = str(error.filename or "pidfd_open"), error.errno or errno.EINVAL
            self.refused = _process.broker_error(refused)
            raise

    def close(self) -> None:
        """Let go of the tree, of which nothing may be left: its calls would end with ENOSYS."""
        if self._thread.is_alive():
            os.write(self._waker, b".")
            self._thread.join()
        for fd in (self._wake, self._waker):
            os.close(fd)
        if self._pair is not None:
            for sock in self._pair:
                sock.close()
        if self.listener is not None and self.listener.fd >= 0:
            self.listener.close()
        if self._door is not None:
            self._door.close()

    # --- in the thread ---

    def _run(self) -> None:
        self._poll.register(self._wake, select.POLLIN)
        while True:
            for fd, events in self._poll.poll():
                if fd == self._wake:
                    return
                if fd in self._watched and not self._watched[fd](events):
                    self._poll.unregister(fd)
                    del self._watched[fd]

    def _on_watch(self, fd: int, act: Callable[[int], bool]) -> None:
        self._watched[fd] = act
        self._poll.register(fd, select.POLLIN)

    def _on_news(self, what: str, *facts: object) -> None:
        if what == "trouble":
            self.troubles.append(str(facts[0]))

    # --- one call ---

    def _judge(self, call: Call, news: list[News]) -> int | None:
        assert self.listener is not None  # noqa: S101 - the call came from it
        fd, argument, size = call.arguments[:3]
        address = b""
        if call.nr == self.listener.bind:
            size = min(size & 0xFFFFFFFF, _broker._LARGEST_ADDRESS)
            address = _broker.memory(call.tid, argument, size)
            if int.from_bytes(address[:2], sys.byteorder) not in _broker._FAMILIES:
                return None
        try:
            sock = _broker._adopted(_broker.fetch(call.tid, fd & 0xFFFFFFFF))
        except OSError as error:
            if error.errno in {errno.EBADF, errno.ENOTSOCK}:  # as the kernel will say
                return None
            raise
        # The copy must be closed before the answer: the process's close() would not free its port.
        try:
            if sock.family not in _FAMILIES:
                return None
            return self._see(call, sock, address, argument, news)
        finally:
            sock.close()

    def _see(
        self, call: Call, sock: _socket.socket, address: bytes, argument: int, news: list[News]
    ) -> int | None:
        """Do, or leave to the kernel, what is asked for; and write it down."""
        transport = _broker._TRANSPORTS.get((sock.type, sock.proto))
        if transport is None:
            return None
        seen: _Seen | None = None
        with self._harmless(call):
            seen = self._look(call, sock, address, transport)
        code = self._on_socket(call, sock, address, argument, news)  # beside a guest's hold
        if address and code is None:
            code = self._made(call, sock, address)
        with self._harmless(call):
            if seen is not None:
                self._write(seen, sock, code)
        return code

    def _made(self, call: Call, sock: _socket.socket, address: bytes) -> int | None:
        """Bind as the process would; None where that is its own business."""
        assert self.listener is not None  # noqa: S101 - the call came from it
        port = _broker.port_of(address)
        if 0 < port < self._first_unprivileged and not _broker.may_bind_privileged(call.tid):
            return None
        if not self.listener.waits(call):
            raise _broker.Gone
        replayed = self._replays and self._was_done(call.tid, sock, address)
        code = _broker.bind(sock, address)
        if code in _OURS_ALONE:
            return None
        return 0 if code == errno.EINVAL and replayed else code

    @contextlib.contextmanager
    def _harmless(self, call: Call) -> Iterator[None]:
        """Whatever goes wrong with looking and writing must not touch the program."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - as the broker: fail open, and say so
            self._trouble(call, f"not written down: {error!r}")

    # --- what is written ---

    def _look(self, call: Call, sock: _socket.socket, address: bytes, transport: str) -> _Seen:
        """All that is known of a call before it is made."""
        pid = _broker.process_of(call.tid)
        facts: dict[str, Any] = {"pid": pid, "tid": call.tid, "transport": transport}
        if not address:  # who it is, its bind has told
            host, port = sock.getsockname()[:2]
            now = _trail.now()
            return _Seen(Event(t=now, what=_trail.LISTEN, address=host, port=port, **facts), None)
        for number, text in self._scene.catch_up():
            self.troubles.append(f"line {number} of the trail is damaged: {text}")
        facts |= self._scene.facts(pid)
        port = _broker.port_of(address)
        hint = _trail.LEASE if _broker._is_for_a_lease(sock) else None
        place = self._scene.place(call.tid, port, transport)
        if place is not None:
            hint = hint or place.origin
            facts.update((name, getattr(place, name)) for name in _OF_A_PLACE)
            if facts.get("runner") is None and place.test is not None:
                facts["test"] = place.test  # a pytest without our plugin
        origin = self._origin(port, hint, call.tid, pid, transport)
        event = Event(
            t=_trail.now(),
            what=_trail.BIND,
            port=port,
            address=_ip(address),
            reuseaddr=bool(_broker._get(sock, _broker._SO_REUSEADDR)),
            reuseport=bool(_broker._get(sock, _broker._SO_REUSEPORT)),
            origin=origin.name,
            lease=origin.label,
            hold=True if hint == _trail.LEASE else None,
            **facts,
        )
        return _Seen(event, hint)

    def _origin(
        self, port: int, hint: str | None, tid: int, pid: int, transport: str
    ) -> _origin.Origin:
        row = None if port == 0 else _portlease_hook.row_of(port, transport, str(tid))
        finders = None if row or hint else self._ledger.finders(port)
        found = None if finders is None else _is_still_open(finders, pid)
        return _origin.judge(port=port, hint=hint, row=row, found=found)

    def _write(self, seen: _Seen, sock: _socket.socket, code: int | None) -> None:
        event, hint = seen
        if event.what == _trail.BIND and code is not None:
            if code:
                event = dataclasses.replace(event, error=errno.errorcode.get(code, str(code)))
            else:
                got = sock.getsockname()[1]
                event = dataclasses.replace(event, got=got)
                if _origin.finds(event.port or 0, hint):
                    inode = os.fstat(sock.fileno()).st_ino
                    self._ledger.note(got, _origin.Finder(event.pid, inode))
        _trail.write(event, self._path)


_OF_A_PLACE: Final = ("file", "line", "inner_file", "inner_line")


class _Seen(NamedTuple):
    """What is to be written of a call, and what follows from who makes it."""

    event: Event
    hint: str | None


def _ip(address: bytes) -> str:
    """The address in a struct sockaddr_in or sockaddr_in6, ip(7), ipv6(7)."""
    if int.from_bytes(address[:2], sys.byteorder) == _socket.AF_INET6:
        return _socket.inet_ntop(_socket.AF_INET6, address[8:24].ljust(16, b"\0"))
    return _socket.inet_ntop(_socket.AF_INET, address[4:8])


def _is_still_open(finders: Iterable[_origin.Finder], pid: int) -> bool:
    """Whether any process has one of those sockets; the likely ones are looked at first."""
    inodes = [finder.inode for finder in finders]
    likely = {pid, *(finder.pid for finder in finders)}
    return any(any(_linux_proc.inode_owners(inodes, pids).pids.values()) for pids in (likely, None))
