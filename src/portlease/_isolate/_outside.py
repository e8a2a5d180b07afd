"""DNS and outgoing connections for a network of its own: by pasta(1), of the package passt.

pasta gives the new network an interface of its own, and opens for each connection made through it a
socket outside. It is started by the forwarder, the only one that is still outside, with every
option that keeps it from binding a port of the host, or leading to its loopback.

Who ends it: a watcher, its parent, ends it when the command or the forwarder ends; the forwarder
ends it when the command does, also if the watcher has been killed. Root's pasta would give up its
rights before it opens the namespace, by a path that then is closed to it; so the watcher, in a
mount namespace of its own, binds that on a path that is open: this very file's.
"""

import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import errno  # noqa: E402
import posix  # noqa: E402
import time  # noqa: E402

from portlease._isolate._helper import RefusedError, tell, unshare  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    import signal
    from typing import Final, NoReturn
else:
    import _signal as signal

PROGRAM: "Final" = "pasta"
_CLOSED: "Final" = (
    *("--config-net", "--no-map-gw", "--foreground", "--quiet"),
    *("--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"),
)
_DIRECTORIES: "Final" = ("/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin")
_CLONE_NEWNS: "Final" = 0x00020000
_MS_BIND: "Final" = 4096
_MS_REC: "Final" = 16384
_MS_PRIVATE: "Final" = 1 << 18
_PATIENCE_S: "Final" = 10.0
_LOOK_AGAIN_S: "Final" = 0.01
_LAST_WORDS: "Final" = 2000


def find() -> "str | None":
    """The path of pasta, or None."""
    folders = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape").split(":")
    for folder in dict.fromkeys((*folders, *_DIRECTORIES)):
        path = f"{folder}/{PROGRAM}"
        if folder and posix.access(path, 1):  # X_OK
            return path
    return None


# --- the command's side, before it is the command -------------------------------------------------


def wait_until_connected(control: "socket.socket") -> None:
    """Wait until there is a default route in the network that we are in.

    Raises:
        RefusedError: pasta has ended, or does not come to it.
    """
    control.setblocking(False)  # noqa: FBT003 - positional-only
    give_up = time.monotonic() + _PATIENCE_S
    while not _has_default_route():
        try:
            words = control.recv(_LAST_WORDS * 2)
        except BlockingIOError:
            words = b""
        if words:
            tell(words.decode("utf-8", "replace").strip())
        if words or time.monotonic() > give_up:
            raise RefusedError(PROGRAM, errno.ENOTCONN)
        time.sleep(_LOOK_AGAIN_S)
    control.setblocking(True)  # noqa: FBT003 - positional-only


def _has_default_route() -> bool:
    """By proc_pid_net(5): interface, destination, ..., mask; of IPv6 destination, length, ..."""
    for path, place, interface in (("route", 1, 0), ("ipv6_route", 0, -1)):
        try:
            with open(f"/proc/self/net/{path}", encoding="ascii") as file:
                lines = [line.split() for line in file]
        except FileNotFoundError:  # no IPv6
            continue
        for words in lines:
            if not words[place].strip("0") and words[interface] != "lo":
                return True
    return False


# --- the forwarder's side -------------------------------------------------------------------------


def start(pid: int, command: int) -> "tuple[int, int]":
    """Have process *pid*, whose pidfd is *command*, connected.

    Returns:
        A pidfd of pasta's, and a pipe: it ends when pasta does, and then has its last words.

    Raises:
        OSError: ENOENT: it is not installed; or it cannot be started.
    """
    path = find()
    if path is None:
        raise FileNotFoundError(errno.ENOENT, PROGRAM)
    reader, writer = posix.pipe2(posix.O_CLOEXEC)
    us = posix.pidfd_open(posix.getpid())
    watcher = posix.fork()
    if watcher == 0:
        try:
            _watch(path, pid, (command, us), writer)
        finally:
            posix._exit(1)
    posix.close(writer)
    posix.close(us)
    answer = posix.read(reader, 32)
    if not answer:
        raise OSError(errno.EIO, "pasta cannot be started")
    try:
        return posix.pidfd_open(int(answer.decode())), reader
    except ProcessLookupError:
        return -1, reader


def stop(pidfd: int) -> None:
    """End it, however it fares."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return


def _watch(path: str, pid: int, lives: "tuple[int, ...]", writer: int) -> "NoReturn":
    """Run pasta for as long as those live."""
    import select

    arguments = [path, *_CLOSED, *_namespace(pid)]
    words = posix.memfd_create("pasta")
    child = posix.fork()
    if child == 0:
        try:
            posix.dup2(words, 2)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)  # it will not start with SIGPIPE ignored
            posix.execv(path, arguments)
        finally:
            posix._exit(127)
    posix.write(writer, f"{child:<32}".encode())
    ended = posix.pidfd_open(child)
    poll = select.poll()
    for fd in (*lives, ended):
        poll.register(fd, select.POLLIN)
    poll.poll()
    stop(ended)
    posix.waitpid(child, 0)
    size = posix.lseek(words, 0, 2)
    posix.lseek(words, max(0, size - _LAST_WORDS), 0)
    posix.write(writer, posix.read(words, _LAST_WORDS) or b"pasta has ended")
    posix._exit(0)


def _namespace(pid: int) -> "list[str]":
    """How pasta is told where to go, once the way there is open."""
    if posix.geteuid():
        return [str(pid)]
    if not _same_user_namespace(pid):
        return ["--runas", "0", str(pid)]
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    unshare(_CLONE_NEWNS)
    for source, target, flags in (
        (b"none", b"/", _MS_REC | _MS_PRIVATE),
        (b"/proc/%d/ns/net" % pid, __file__.encode(), _MS_BIND),
    ):
        if libc.mount(source, target, None, flags, None):
            number = ctypes.get_errno()
            raise OSError(number, posix.strerror(number))
    return ["--runas", "0", "--netns", __file__]


def _same_user_namespace(pid: int) -> bool:
    return posix.readlink("/proc/self/ns/user") == posix.readlink(f"/proc/{pid}/ns/user")
