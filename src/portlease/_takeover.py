"""Other libraries' port helpers, served by leases: their functions keep name, place and signature.

Each of them promises a number that "is unused"; who has called it binds the number later, with or
without SO_REUSEADDR. So it gets a GUARDED port: free for any bind of that number, never given to
another lease, and outside the range from which bind(0) and connect() are served (docs/promise.md).

How long: the ports of the test that runs stay its own until it has ended, and longer while few
others are asked for; a function cannot know when its caller has bound, nor for how long. But what
is kept takes descriptors, of which the suite knows nothing: about half of those that the process
may have, and none that we need ourselves.

How a function is taken over: not its name is replaced but its code (``__code__``), in place. Who
has imported it earlier (``from portpicker import pick_unused_port``) has the same function object,
so the order of imports and of plugins does not matter. A library that is not imported yet is seen
to when it is (a finder on ``sys.meta_path``); none is ever imported from here. All of it can be
undone, and then nothing of it is left.
"""

from __future__ import annotations

import importlib.abc
import inspect
import os
import socket
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, NamedTuple

from portlease import _platform, socket_helper
from portlease._errors import PortleaseError
from portlease._take import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType
    from typing import Any, Final

    from portlease._wish import Kind

_ANY_FREE: Final = (None, 0, "0")


# --- what is called instead ---------------------------------------------------------------------


_KEPT_OF_OTHERS: Final = 64
_KEPT: Final = 256
"""How many leases are kept, where the limit of descriptors is not too low for that."""
_DESCRIPTORS: Final = 2
"""Of a lease; of one for TCP and UDP, three."""

_kept: Final = Kept()
"""Their labels say whose they are."""


def _port(kind: Kind, ports: Iterable[int] | None = None) -> int:
    """A GUARDED port, labelled with the test that runs."""
    label = _label()
    lease = _kept.lease(kind, label, ports)
    most = _most_kept()
    with _platform.spawn_lock:
        while len(_kept) > most or (len(_kept) > _KEPT_OF_OTHERS and _kept[0].label != label):
            _kept.popleft().release()
    return lease.port


if sys.platform == "win32":

    def _most_kept() -> int:
        return _KEPT

else:
    import resource

    def _most_kept() -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return _KEPT
        return max(1, min(_KEPT, soft // 2 // _DESCRIPTORS))


def _give_back(port: int) -> bool:
    """End the lease of a port before its time; False if there is none (any more)."""
    with _platform.spawn_lock:
        for one in _kept:
            if one.port == port:
                _kept.remove(one)
                one.release()
                return True
    return False


def _label() -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return f"{worker} {test}".strip() or "takeover"


def _kind(socket_type: int) -> Kind:
    return "udp" if socket_type == socket.SOCK_DGRAM else "tcp"


def _pytest_asyncio(_: Taken, socket_type: int) -> int:
    return _port(_kind(socket_type))


def _anyio(_: Taken, factory: Any, family: int | None = None) -> int:  # noqa: ANN401 - anyio's
    del family  # a leased port is free in both
    return _port(_kind(factory.kind))


def _no_arguments(_: Taken) -> int:
    return _port("tcp")


def _find_unused_port(
    _: Taken, family: int = socket.AF_INET, socktype: int = socket.SOCK_STREAM
) -> int:
    return socket_helper.find_unused_port(family, socktype)


def _bind_port(_: Taken, sock: socket.socket, host: str = socket_helper.HOST) -> int:
    return socket_helper.bind_port(sock, host)


def _portpicker_pick(
    taken: Taken, pid: int | None = None, portserver_address: str | None = None
) -> int:
    # A port server is somebody's decision; and reserved ports, add_reserved_port(), come first.
    module = sys.modules["portpicker"]
    if (
        portserver_address
        or "PORTSERVER_ADDRESS" in os.environ
        or getattr(module, "_free_ports", None)
    ):
        return int(taken.original(pid, portserver_address))
    return _port("both")


def _portpicker_return(taken: Taken, port: int) -> None:
    if not _give_back(port):
        taken.original(port)


def _tornado(
    _: Taken,
    reuse_port: bool = False,  # noqa: FBT001, FBT002 - tornado's
    address: str = "127.0.0.1",
) -> tuple[socket.socket, int]:
    bind_sockets: Callable[..., list[socket.socket]] = sys.modules["tornado.netutil"].bind_sockets
    port = _port("tcp")
    sock = bind_sockets(port, address, family=socket.AF_INET, reuse_port=reuse_port)[0]
    _give_back(port)  # the socket itself holds it
    return sock, port


def _ephemeral_port_reserve(_: Taken, ip: str = "127.0.0.1", port: int | str = 0) -> int:
    del ip
    if port not in _ANY_FREE:
        try:
            return _port("tcp", [int(port)])
        except PortleaseError:
            pass  # another one then, as it promises
    return _port("tcp")


def _port_for(
    taken: Taken, ports: set[int] | None = None, exclude_ports: Iterable[int] | None = None
) -> int:
    excluded = set(exclude_ports or ())
    if ports is None:
        port = _port("tcp")
        return port if port not in excluded else _port_for(taken, None, excluded)
    try:
        return _port("tcp", sorted(set(ports) - excluded))
    except PortleaseError as error:
        failure: type[Exception] = sys.modules["port_for"].PortForException
        raise failure(str(error)) from error


class Target(NamedTuple):
    """A function of another library, and what is called in its place."""

    library: str
    """As its users call it."""
    module: str
    name: str
    """In the module; with the class in front, where it is a method."""
    replacement: Callable[..., object]
    """Called with the :class:`Taken` first, then as the function was called."""
    shown: str
    """What users know it by."""


TARGETS: Final = (
    Target("pytest-asyncio", "pytest_asyncio.plugin", "_unused_port", _pytest_asyncio,
           "unused_tcp_port, unused_udp_port and their factories"),
    Target("anyio", "anyio.pytest_plugin", "FreePortFactory.__call__", _anyio,
           "free_tcp_port, free_udp_port and their factories"),
    Target("CPython's test.support", "test.support.socket_helper", "find_unused_port",
           _find_unused_port, "find_unused_port()"),
    Target("CPython's test.support", "test.support.socket_helper", "bind_port", _bind_port,
           "bind_port()"),
    Target("portpicker", "portpicker", "pick_unused_port", _portpicker_pick, "pick_unused_port()"),
    Target("portpicker", "portpicker", "return_port", _portpicker_return, "return_port()"),
    Target("aiohttp", "aiohttp.test_utils", "unused_port", _no_arguments, "unused_port()"),
    Target("tornado", "tornado.testing", "bind_unused_port", _tornado, "bind_unused_port()"),
    Target("portend", "portend", "find_available_local_port", _no_arguments,
           "find_available_local_port()"),
    Target("ephemeral-port-reserve", "ephemeral_port_reserve", "reserve", _ephemeral_port_reserve,
           "reserve()"),
    Target("port-for", "port_for.api", "select_random", _port_for, "get_port(), select_random()"),
)  # fmt: skip


# --- taking over --------------------------------------------------------------------------------

_FORWARD: Final = """\
def {name}(*args, **kwargs):
    from portlease import _takeover
    return _takeover.forward({number}, args, kwargs)
"""


class Taken:
    """A function that was taken over; ``original`` does what it did before."""

    def __init__(self, target: Target, function: FunctionType) -> None:
        self.function = function
        self._code, self._defaults = function.__code__, function.__defaults__
        self._kwdefaults = function.__kwdefaults__
        self.original = FunctionType(
            self._code,
            function.__globals__,
            function.__name__,
            self._defaults,
            function.__closure__,
        )
        self.original.__kwdefaults__ = self._kwdefaults
        function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        function.__defaults__ = None
        function.__kwdefaults__ = None
        function.__code__ = _forwarder(function.__name__, TARGETS.index(target))

    def undo(self) -> None:
        """Give the function back what it was."""
        self.function.__code__ = self._code
        self.function.__defaults__ = self._defaults
        self.function.__kwdefaults__ = self._kwdefaults
        del self.function.__signature__  # type: ignore[attr-defined]


def _forwarder(name: str, number: int) -> CodeType:
    scope: dict[str, Any] = {}
    exec(_FORWARD.format(name=name, number=number), scope)  # noqa: S102 - the text above
    function: FunctionType = scope[name]
    return function.__code__


def forward(number: int, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Call the replacement of the target with that number."""
    target = TARGETS[number]
    return target.replacement(_state.taken[target], *args, **kwargs)


class _State:
    def __init__(self) -> None:
        self.taken: dict[Target, Taken] = {}
        self.replaced: list[Taken] = []
        """Functions whose module was executed anew since (importlib.reload), and has others."""
        self.missing: dict[Target, str] = {}
        self.finder: _Finder | None = None


_state: Final = _State()


def take_over() -> bool:
    """Take over every known function, now or when its library is imported. May be called again.

    Returns:
        Whether it was this call that did it, and so whose :func:`undo` ends it.
    """
    if _state.finder is not None:
        return False
    _state.finder = _Finder()
    sys.meta_path.insert(0, _state.finder)
    for name in {target.module for target in TARGETS} & set(sys.modules):
        module = sys.modules[name]
        if isinstance(module, ModuleType):  # else None or a mock: a suite that wants it away
            _take_module(module)
    return True


def undo() -> None:
    """Give every function back, and let later imports alone."""
    if _state.finder is not None:
        sys.meta_path.remove(_state.finder)
        _state.finder = None
    for taken in (*_state.taken.values(), *_state.replaced):
        taken.undo()
    _kept.release()
    _state.taken.clear()
    _state.replaced.clear()
    _state.missing.clear()


def taken_over() -> dict[str, list[str]]:
    """What was taken over by now: for each library, what its users know it by."""
    return _shown(target for target in TARGETS if target in _state.taken)


def not_found() -> dict[str, list[str]]:
    """What should be there and is not: another version of a library than those known."""
    return _shown(target for target in TARGETS if target in _state.missing)


def _shown(targets: Iterable[Target]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target in targets:
        found.setdefault(target.library, []).append(target.shown)
    return found


def _take_module(module: ModuleType) -> None:
    for target in TARGETS:
        if target.module != module.__name__:
            continue
        found: object = module
        for part in target.name.split("."):
            found = getattr(found, part, None)
        # A closure's code cannot stand in for one without, nor a compiled function's at all.
        if not isinstance(found, FunctionType) or found.__code__.co_freevars:
            _state.missing[target] = target.name
            continue
        earlier = _state.taken.get(target)
        if earlier is None or earlier.function is not found:
            _state.taken[target] = Taken(target, found)
            if earlier is not None:
                _state.replaced.append(earlier)


# --- libraries that are imported later ----------------------------------------------------------


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the others find, and sees to our targets once they are executed."""

    _modules = frozenset(target.module for target in TARGETS)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """As the protocol has it."""
        if fullname not in self._modules:
            return None
        for finder in sys.meta_path:
            if finder is self or (find := getattr(finder, "find_spec", None)) is None:
                continue
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Another loader, and afterwards us."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the other does; it keeps its place, as if we had never been there."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if _state.finder is not None:
            _take_module(module)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - get_source, is_package, ...
        return getattr(self._loader, name)
