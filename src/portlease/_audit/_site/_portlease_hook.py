"""The hook in each Python interpreter of a watched tree: who binds, and in which line.

Loaded by the sitecustomize beside it, in whatever Python comes by (3.8 and later) and without
portlease, or by the pytest plugin. It writes lines of the trail (:mod:`portlease._trail`, which is
the reader) and changes nothing: no function is wrapped, no module loaded that the program would see
(`_json`, `_socket` and `posix` are the built-in halves), no descriptor stays open, no error is
raised but what the program's own call raises.

The interpreter announces a bind before it is made (sys.addaudithook(), event ``socket.bind``). Two
ways to go on:

- there is an *observer* (PORTLEASE_OBSERVED names our trail): it sees each bind(2) and its result.
  All that it lacks is the place in the source, so that is what is written. The line is in the file
  before the system call is made, so the observer, which is asked by the kernel then, finds it;
- there is none. What the bind came to is asked of the socket itself right after it, at the next
  event of a profile function that is there for just that one event (sys.setprofile()): the number
  may be gone with the next line, as in ``s.bind(("", 0)); port = s.getsockname()[1]; s.close()``.
  Where a profiler runs already, the result stays unknown.
"""

from __future__ import annotations

import _socket
import os
import sys
import time

try:
    from _json import encode_basestring_ascii as _quoted
except ImportError:  # PyPy
    from json.encoder import py_encode_basestring_ascii as _quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Facts = dict[str, Any]
    """None: not known; left out of the line."""

_FAMILIES = {int(_socket.AF_INET): "0.0.0.0", int(_socket.AF_INET6): "::"}  # noqa: S104 - names
_TRANSPORTS = {int(_socket.SOCK_STREAM): "tcp", int(_socket.SOCK_DGRAM): "udp"}
_FLAGS = getattr(_socket, "SOCK_NONBLOCK", 0) | getattr(_socket, "SOCK_CLOEXEC", 0)
_REUSEPORT = getattr(_socket, "SO_REUSEPORT", None)
_CONNECTS = frozenset(("socket.connect",))
_HELPERS = frozenset(("portpicker", "portend", "port_for", "ephemeral_port_reserve"))
"""Packages that find free ports by other ways than port 0: what they bind is only being tried."""
_MOST_CONNECTS = 2000
"""Of a process: clients of a benchmark would fill the trail."""
_MOST_WORDS, _LONGEST_WORD = 30, 200


class _Hook:
    installed = False
    trail = ""
    observed = False
    directory = ""
    """The working directory at the start, which relative file names go from."""
    connects = 0
    given: dict[int, list[tuple[int, int]]] = {}  # noqa: RUF012 - one for the process
    """Numbers that the kernel gave, or a helper found, and descriptor and inode of the sockets."""


def install(trail: str | None = None) -> None:
    """Write to a trail from now on, which is that of the environment unless it is given.

    May be called again; the hook itself cannot be taken away.
    """
    _Hook.trail = trail or os.environ.get("PORTLEASE_TRAIL", "")
    _Hook.observed = os.environ.get("PORTLEASE_OBSERVED") == _Hook.trail
    if _Hook.installed:
        return
    _Hook.installed = True
    try:
        _Hook.directory = os.getcwd()
    except OSError:  # it was removed
        _Hook.directory = "/"
    sys.addaudithook(_on_event)
    _write({"what": "process", "exe": sys.executable or None, "argv": _argv()})


def stop() -> None:
    """Write nothing more."""
    _Hook.trail = ""


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.bind":
        _tried(_on_bind, arguments)
    elif event in _CONNECTS:
        _tried(_on_connect, arguments)


def _tried(function: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Call it; an error of ours must not become one of the program's call."""
    if not _Hook.trail:
        return
    try:
        function(*arguments)
    except Exception:  # noqa: BLE001 - the program's own call says what is wrong with its arguments
        return


# --- what is written -----------------------------------------------------------------------------


def _on_bind(sock: _socket.socket, address: object) -> None:
    facts = _facts(sock, address)
    if facts is None:
        return
    port = facts["port"]
    found = _found_by()
    facts["origin"] = found
    facts["hold"] = True if found == "lease" else None
    if _Hook.observed:
        _write({"what": "place", **facts})
        return
    facts["reuseaddr"] = bool(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR))
    if _REUSEPORT is not None:
        facts["reuseport"] = bool(sock.getsockopt(_socket.SOL_SOCKET, _REUSEPORT))
    facts.update(exe=sys.executable or None, argv=_argv())
    if port and found is None:
        facts["origin"] = _origin_here(port)
        facts["row"] = row_of(port, facts["transport"])
    _after_the_call(sock, {"what": "bind", **facts}, finds=not port or found is not None)


def _found_by() -> str | None:
    """The origin, where it follows from who binds: a lease, or a helper that tries a number."""
    inner = _innermost()
    if inner is None:
        return None
    name = str(inner.f_globals.get("__name__", ""))
    if name.startswith("portlease._platform"):
        return "lease"
    return "unheld" if name.partition(".")[0] in _HELPERS else None


def _on_connect(sock: _socket.socket, address: object) -> None:
    facts = _facts(sock, address)
    if facts is None or facts["transport"] != "tcp" or _Hook.connects >= _MOST_CONNECTS:
        return
    _Hook.connects += 1
    _write({"what": "connect", **facts})


def _facts(sock: _socket.socket, address: object) -> Facts | None:
    """What is known of a call before it is made; None if it is not about a port."""
    anywhere = _FAMILIES.get(sock.family)
    transport = _TRANSPORTS.get(sock.type & ~_FLAGS)
    if anywhere is None or transport is None or not isinstance(address, tuple):
        return None
    host, port = address[:2]
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    facts: Facts = {
        "tid": _thread(),
        "port": int(port),
        "address": str(host) or anywhere,
        "transport": transport,
    }
    _add_place(facts)
    return facts


def _thread() -> int | None:
    from _thread import get_native_id

    return get_native_id()


def _argv() -> list[str]:
    words = getattr(sys, "orig_argv", None) or getattr(sys, "argv", None) or []
    return [str(word)[:_LONGEST_WORD] for word in words[:_MOST_WORDS]]


def _write(facts: Facts) -> None:
    """Append a line to the trail; nobody is told if it cannot be done, who could do nothing."""
    environ = os.environ
    facts = {"t": time.monotonic_ns(), "pid": os.getpid(), **facts}
    test = environ.get("PYTEST_CURRENT_TEST")
    if test:
        facts["test"] = test.rpartition(" (")[0]
    facts["worker"] = environ.get("PYTEST_XDIST_WORKER")
    facts["instance"] = _number(environ.get("PORTLEASE_INSTANCE"))
    facts["runner"] = _number(environ.get("PORTLEASE_RUNNER"))
    known = ",".join(
        _quoted(name) + ":" + _json(value) for name, value in facts.items() if value is not None
    )
    try:
        fd = os.open(_Hook.trail, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
    except OSError:  # it has been removed; another user's; no descriptor is left
        return
    try:
        os.write(fd, ("{" + known + "}\n").encode("ascii"))
    except OSError:  # a full disk
        return
    finally:
        os.close(fd)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _json(value: Any) -> str:  # noqa: ANN401 - what JSON can be
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return str(_quoted(value))
    return "[" + ",".join(_json(one) for one in value or ()) + "]"


# --- after the call ------------------------------------------------------------------------------


def _after_the_call(sock: _socket.socket, facts: Facts, *, finds: bool) -> None:
    """Write *facts* with what the bind came to, once it has been made.

    *finds*: whether it is how a number is come by, rather than a use of one.
    """
    if sys.getprofile() is not None:
        _write(facts)
        return

    def look(frame: FrameType, event: str, argument: object) -> None:
        del frame, event, argument
        sys.setprofile(None)
        _tried(_on_bound, (sock, facts, finds))

    sys.setprofile(look)


def _on_bound(sock: _socket.socket, facts: Facts, finds: bool) -> None:  # noqa: FBT001 - _tried()
    got = sock.getsockname()[1]
    if got:
        facts["got"] = got
        if finds:
            fd = sock.fileno()
            _Hook.given.setdefault(got, []).append((fd, os.fstat(fd).st_ino))
    else:
        facts["error"] = "failed"
    _write(facts)


def _origin_here(port: int) -> str | None:
    """Where a number came from that is bound by this process, as far as that was here too."""
    sockets = _Hook.given.get(port)
    if sockets is None:
        return None
    return "kernel" if any(_is_open(fd, inode) for fd, inode in sockets) else "unheld"


def _is_open(fd: int, inode: int) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


def row_of(port: int, transport: str, process: str = "thread-self") -> str | None:
    """Return the row of the lease that a port has, as portlease._registry writes it; or None.

    *process*: whose network namespace, as a name in /proc.
    """
    try:
        with open("/proc/" + process + "/net/unix", "rb") as file:
            text = file.read()
    except OSError:  # not Linux; the process has ended
        return None
    wanted = b"@portlease/1/%d/" % port
    start = text.find(wanted)
    while start >= 0:
        end = text.find(b"\n", start)
        row = text[start + len(b"@portlease/1/") : end].decode("utf-8", "replace")
        if row.split("/", 2)[1] in {transport[0], "b"}:
            return row
        start = text.find(wanted, end)
    return None


# --- where in the source --------------------------------------------------------------------------

_OURS = frozenset((os.path.abspath(__file__), __file__))
_NOT_OWN = (
    "<frozen ",
    os.path.dirname(os.path.abspath(os.__file__)) + os.sep,
    os.path.dirname(os.path.realpath(os.__file__)) + os.sep,
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep,
)
"""The standard library, and portlease."""
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
_TEST_FOLDERS = frozenset(("test", "tests", "testing"))
_OTHERS, _OWN, _TEST = range(3)
_kinds: dict[CodeType, int] = {}
_MOST_KINDS = 10_000


def _add_place(facts: Facts) -> None:
    """Add file and line: of the test, else the first of the program's own; and the innermost.

    A library that is tested in its own folder is the program's own, but it is a test that calls it
    with a number.
    """
    inner = _innermost()
    shown, frame = None, inner
    while frame is not None:
        kind = _kind(frame.f_code)
        if kind == _TEST:
            shown = frame
            break
        if kind == _OWN and shown is None:
            shown = frame
        frame = frame.f_back
    shown = shown or inner
    if shown is None or inner is None:
        return
    facts["file"], facts["line"] = _path(shown.f_code.co_filename), shown.f_lineno
    if shown is not inner:
        facts["inner_file"] = _path(inner.f_code.co_filename)
        facts["inner_line"] = inner.f_lineno


def _innermost() -> FrameType | None:
    """Whoever called, beyond this module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in _OURS:
        frame = frame.f_back
    return frame


def _kind(code: CodeType) -> int:
    """Whose code it is: a test's, the program's own, or neither (Python, portlease, installed)."""
    known = _kinds.get(code)
    if known is None:
        path = code.co_filename
        if path.startswith(_NOT_OWN) or any(part in path for part in _INSTALLED):
            known = _OTHERS
        else:
            known = _TEST if is_test_file(path, _Hook.directory) else _OWN
        if len(_kinds) < _MOST_KINDS:
            _kinds[code] = known
    return known


def is_test_file(path: str, root: str) -> bool:
    """Whether a file is called as tests are, or lies in a folder of them below *root*."""
    if path.startswith(root + os.sep):  # what lies above says nothing
        path = path[len(root) + 1 :]
    elif os.path.isabs(path):
        path = os.path.basename(path)
    *folders, name = path.split(os.sep)
    return (
        name == "conftest.py"
        or name.startswith("test_")
        or name.endswith(("_test.py", "_tests.py"))
        or not _TEST_FOLDERS.isdisjoint(folders)
    )


def _path(name: str) -> str:
    """The absolute path of a source file; what is none, ``<string>``, as it is."""
    return name if name.startswith("<") else os.path.join(_Hook.directory, name)
