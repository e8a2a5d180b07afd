"""What portlease really asks of the kernel, in the words of `model.protocol`.

The interpreter tells of every call of a C function (sys.setprofile()), and each socket itself of
what it was bound to. Nothing is replaced: it is the code as it is, on the real kernel.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import portlease
from _board import row
from portlease import _lease
from portlease._platform import backend
from portlease._registry import decode
from portlease._take import lease_guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import BuiltinMethodType, FrameType
    from typing import Final

_PREFIX: Final = b"\0portlease/1/"
_REFUSED: Final = portlease.PortUnavailableError


class Watch:
    """Notes each system call of interest of this thread; a context manager."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.made: object = None
        """What the last action returned."""
        self._bound: dict[int, str] = {}
        """What a socket that was bound is, by its descriptor."""
        self._reuse: dict[int, bool] = {}

    def __enter__(self) -> Self:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def during(
        self, act: Callable[[], object], refusal: type[Exception] | None = None
    ) -> list[str]:
        """What is called in *act*, which is to end with *refusal*."""
        self.seen = []
        if refusal is None:
            self.made = act()
        else:
            try:
                act()
            except refusal:
                pass
            else:
                raise AssertionError("it was not refused")
        seen, self.seen = self.seen, []
        return seen

    def _look(self, frame: FrameType, event: str, called: Any) -> None:  # noqa: ANN401 - any callable
        if event == "c_call" and called.__name__ == "open" and frame.f_code.co_name == "_names":
            self.seen.append("read")
        sock = getattr(called, "__self__", None)
        if event in {"c_call", "c_return", "c_exception"} and isinstance(sock, socket.SocketType):
            self._on_socket(event, called, sock)

    def _on_socket(self, event: str, called: BuiltinMethodType, sock: socket.SocketType) -> None:
        begins = event == "c_call"
        fd = sock.fileno()
        match called.__name__:
            case "bind" if not begins:
                self._on_bind(sock, refused=event == "c_exception")
            case "close" if begins and (what := self._bound.pop(fd, "")):
                self.seen.append({"guard": "unguard", "bind": "close"}.get(what, f"drop {what}"))
            case "connect_ex" if begins:
                self.seen.append("look")
            case "listen" if begins:
                self.seen.append("listen")
            case "setsockopt" if fd in self._bound:
                reuses = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
                if not begins and reuses != self._reuse[fd]:
                    self.seen.append(f"reuse {'on' if reuses else 'off'}")
                self._reuse[fd] = reuses

    def _on_bind(self, sock: socket.SocketType, *, refused: bool) -> None:
        what = "bind"
        if sock.family == socket.AF_UNIX:
            name = sock.getsockname()  # "": the bind of a guard that is there
            row = decode(name.removeprefix(_PREFIX)) if name else None
            what = "guard" if row is None else f"row {row.state}"
        self.seen.append(what)
        if not refused:
            self._bound[sock.fileno()] = what
            self._reuse[sock.fileno()] = False


def courses() -> dict[str, list[str]]:
    """What was called in each course of `model.protocol.course` that can be brought about here."""
    # With it a refusal of what somebody else has for good is quick; the steps are the same.
    _lease._COPIES_S = 0.0  # type: ignore[misc]
    _lease._STUCK_S = 0.0  # type: ignore[misc]
    found: dict[str, list[str]] = {}
    with Watch() as watch:
        for state in ("HELD", "OFFERED"):
            _of_takes(state, watch, found)
            _of_moves(state, watch, found)
            _of_refused_moves(state, watch, found)
        _of_guarded("take guarded", watch, found)
        with _another_thread():
            _of_guarded("take guarded, in threads", watch, found)
    return found


def _taken(state: str, port: int | None = None) -> portlease.Lease:
    return portlease.lease(offer=state == "OFFERED", ports=None if port is None else [port])


def _of_takes(state: str, watch: Watch, found: dict[str, list[str]]) -> None:
    with _taken(state) as one:
        found[f"take {state}, 2"] = watch.during(lambda: _taken(state, one.port), _REFUSED)[:4]
        one.step_aside()
        found[f"take {state}, 1"] = watch.during(lambda: _taken(state, one.port), _REFUSED)[:3]
        port = one.port
    taken: list[portlease.Lease] = []
    found[f"take {state}"] = watch.during(lambda: taken.append(_taken(state, port)))
    found[f"release {state}"] = watch.during(taken[0].release)


def _of_moves(state: str, watch: Watch, found: dict[str, list[str]]) -> None:
    moves = ["offer"] if state == "HELD" else ["withdraw"]
    for move in (*moves, "step_aside", "hand_over", "listen"):
        with _taken(state) as one, contextlib.ExitStack() as stack:
            found[f"{move} {state}"] = watch.during(getattr(one, move))
            if isinstance(watch.made, socket.socket):
                stack.enter_context(watch.made)
            if move == "step_aside":
                found["take_back GUARDED"] = watch.during(one.take_back)
                one.step_aside()
                with socket.create_server(("127.0.0.1", one.port)):
                    found["take_back GUARDED, 1"] = watch.during(one.take_back, _REFUSED)[:3]
                found["release GUARDED"] = watch.during(one.release)


def _of_refused_moves(state: str, watch: Watch, found: dict[str, list[str]]) -> None:
    with _taken(state) as one, row(one.port):
        found[f"step_aside {state}, 2"] = watch.during(one.step_aside, _REFUSED)[:5]
    with _taken(state) as one:
        guard = backend.guard("tcp", one.port)
        assert guard is not None
        found[f"step_aside {state}, 1"] = watch.during(one.step_aside, _REFUSED)[:3]
        guard.close()
    if state == "OFFERED":
        with _taken(state) as one, socket.create_server(("127.0.0.1", one.port)):
            found[f"listen {state}, 2"] = watch.during(one.listen, _REFUSED)[:5]


def _of_guarded(name: str, watch: Watch, found: dict[str, list[str]]) -> None:
    taken: list[portlease.Lease] = []
    seen = watch.during(lambda: taken.append(lease_guarded("tcp", "a model")))
    # Of several draws, the last is the one that was not refused.
    last = len(seen) - 1 - seen[::-1].index("row GUARDED")
    found[name] = seen[last:]
    found["take_back GUARDED from the start"] = watch.during(taken[0].take_back)
    taken[0].release()


@contextlib.contextmanager
def _another_thread() -> Iterator[None]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
