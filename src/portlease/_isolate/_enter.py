"""Enters a network of its own, and then becomes the command.

Runs as the main program of an interpreter of its own, ``python -I -S -c BOOT FOLDER OPTIONS --
COMMAND`` (:mod:`._command` writes that line). Linux only.

Theory of operation
-------------------
What unshare(2) gives, exec(2) keeps. So the process that was started in place of the command makes
the namespace for itself, sets it up, and executes the command: with the same process id, so that
signals, wait status, terminal, directory, environment and descriptors are the command's own, and
nobody is left in between. This must be a process with one thread: CLONE_NEWNET alone would move
only the thread that asks, and CLONE_NEWUSER is refused to more than one (EINVAL).

With CAP_SYS_ADMIN and CAP_NET_ADMIN a network namespace is all that is made. Without them it takes
a user namespace too, in which one's ids are mapped to themselves: files keep their owner, and
exec(2) takes away the capabilities that this process has in it.

What needs somebody outside, sockets into the host's network, is a process that is forked off
before (:mod:`._forward`).

What is odd here is so for speed, because each start waits for it, as in the keeper: `posix`,
`_socket` and `_signal` are the built-in halves of modules whose imports together take longer than
all that is done here.
"""

import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import _socket as socket  # noqa: E402
import errno  # noqa: E402
import fcntl  # noqa: E402
import posix  # noqa: E402

from portlease._isolate._helper import (  # noqa: E402
    OPTIONAL,
    Options,
    RefusedError,
    reap,
    tell,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence
    from typing import Final, Literal, NoReturn, TypeAlias, TypeVar

    from portlease._isolate._links import Links

    Answer = TypeVar("Answer")
    How: TypeAlias = Literal["root", "user"]
else:
    import _signal as signal

FAILED: "Final" = 125
CANNOT_EXECUTE: "Final" = 126
NOT_FOUND: "Final" = 127

CLONE_NEWUSER: "Final" = 0x10000000
CLONE_NEWNET: "Final" = 0x40000000
CAP_NET_ADMIN: "Final" = 12
CAP_SYS_ADMIN: "Final" = 21

# netdevice(7), <linux/sockios.h>, <net/if.h>
_SIOCGIFFLAGS: "Final" = 0x8913
_SIOCSIFFLAGS: "Final" = 0x8914
_IFF_UP: "Final" = 1
_NAME_BYTES: "Final" = 16

_LOW_PORTS: "Final" = "net/ipv4/ip_unprivileged_port_start"
CARRIED_OVER: "Final" = (
    _LOW_PORTS,
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/ip_nonlocal_bind",
    "net/ipv6/bindv6only",
    "net/core/somaxconn",
)
"""Settings of the host's network that decide which binds succeed; a new one has the defaults."""


def main(words: "list[str]") -> "NoReturn":
    """Do what *words* ask for, and become the command behind ``--``."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as if the command were there already
    options, argv = _parse(words)
    if options.probe:
        _probe(options)
    try:
        if options.if_possible:
            _try_first(options)
        env = original_environment()
        how, notes = enter(options, env)
    except RefusedError as refused:
        from portlease._isolate import _why

        why, remedy = _why.explain(refused.stage, refused.errno, _why.settings())
        if not options.if_possible:
            tell(f"portlease: no network of its own for {argv[0]}: {why}; {remedy}")
            posix._exit(FAILED)
        tell(f"portlease: {argv[0]} shares the network of this machine: {why}; {remedy}")
        become(argv, original_environment())
    del how
    for note in (*notes, *filter(None, (options.say,))):
        tell(f"portlease: {note}")
    become(argv, env)


def _parse(words: "list[str]") -> "tuple[Options, list[str]]":
    options = Options()
    end = words.index("--")
    for word in words[:end]:
        name, _, value = word.partition("=")
        if name == "reach":
            port, *addresses = value.split(",")
            options.reach.append((int(port), addresses))
        elif name == "say":
            options.say = value
        else:
            setattr(options, name, True)
    return options, words[end + 1 :]


# --- trying ---------------------------------------------------------------------------------------


def _probe(options: Options) -> "NoReturn":
    """Print ``ok HOW``, or what was refused: an errno and its stage."""
    try:
        answer = f"ok {enter(options, {})[0]}"
    except RefusedError as refused:
        answer = f"{refused.errno} {refused.stage}"
    posix.write(1, answer.encode("utf-8", "surrogateescape"))
    posix._exit(0)


def _try_first(options: Options) -> None:
    """Have a child try: who has entered a user namespace cannot go back when the rest fails.

    Raises:
        RefusedError: as `enter`.
    """
    reader, writer = posix.pipe2(0x80000)  # O_CLOEXEC
    child = posix.fork()
    if child == 0:
        posix.dup2(writer, 1)
        _probe(options)
    posix.close(writer)
    answer = b""
    while part := posix.read(reader, 1024):
        answer += part
    posix.close(reader)
    reap(child)
    word, _, rest = answer.decode("utf-8", "surrogateescape").partition(" ")
    if word != "ok":  # nothing at all: a filter that kills has ended it
        raise RefusedError(rest or "a child that tried it was killed", int(word or errno.EPERM))


# --- the namespace --------------------------------------------------------------------------------


def enter(options: Options, env: "dict[bytes, bytes]") -> "tuple[How, list[str]]":
    """Move this process into a network of its own, and set that up.

    Args:
        options: what is asked for.
        env: the command's environment; gets what :func:`._inside.reach` needs, if that is asked
            for.

    Returns:
        By which rights; and what differs from the host's network and could not be helped.

    Raises:
        RefusedError: something of it cannot be had; this process may already be elsewhere.
    """
    settings = {name: _read_setting(name) for name in CARRIED_OVER}
    if options.low_ports:
        settings[_LOW_PORTS] = "0"
    addresses = [] if options.outside else _own_addresses()
    control = None
    if options.reach or options.late or options.outside:
        from portlease._isolate import _forward

        control = _forward.start()
    how = _unshare()
    notes = _set(settings, must=(_LOW_PORTS,) if options.low_ports else ())
    _attempt("lo", _raise_lo)
    _address(addresses, options)
    if control is not None:
        from portlease._isolate import _forward

        _forward.set_up(control, options, env)
    return how, notes


def _attempt(stage: str, function: "Callable[..., Answer]", *arguments: "object") -> "Answer":
    try:
        return function(*arguments)
    except OSError as error:
        raise RefusedError(stage, error.errno or 0) from error


def _unshare() -> "How":
    if _has_capabilities():
        try:
            unshare(CLONE_NEWNET)
        except OSError as error:
            # The other way may be open; if not, it is refused for the same reason.
            if error.errno not in {errno.EPERM, errno.EACCES, errno.ENOSPC}:
                raise RefusedError("unshare", error.errno or 0) from error
        else:
            return "root"
    uid, gid = posix.geteuid(), posix.getegid()
    _attempt("unshare", unshare, CLONE_NEWUSER | CLONE_NEWNET)
    # In this order: user_namespaces(7).
    _attempt("setgroups", _write, "/proc/self/setgroups", "deny")
    _attempt("uid_map", _write, "/proc/self/uid_map", f"{uid} {uid} 1")
    _attempt("gid_map", _write, "/proc/self/gid_map", f"{gid} {gid} 1")
    return "user"


def _has_capabilities() -> bool:
    """Whether we may make a network namespace and raise an interface in it: capabilities(7).

    A container's root may have the one without the other. Then it takes a user namespace.
    """
    needed = 1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN
    for line in _read("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16) & needed == needed
    return False


def _raise_lo() -> None:
    """Set the flag; 127.0.0.1 and ::1 come with it."""
    with_padding = b"lo".ljust(_NAME_BYTES, b"\0") + bytes(24)
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        answer = bytearray(fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, with_padding))
        answer[_NAME_BYTES] |= _IFF_UP if sys.byteorder == "little" else 0
        answer[_NAME_BYTES + 1] |= _IFF_UP if sys.byteorder == "big" else 0
        fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, bytes(answer))
    finally:
        probe.close()


def _own_addresses() -> "list[str]":
    from portlease._isolate import _links

    return _links.own_addresses()


def _address(addresses: "Sequence[str]", options: Options) -> None:
    """Give ``lo`` the addresses of the host, those to be reached, and a way for multicast."""
    from portlease._isolate import _links

    asked = [inside.removeprefix(OPTIONAL) for _, (inside, *_) in options.reach]
    try:
        links = _links.Links()
    except OSError as error:
        if error.errno not in _links.UNKNOWN or asked:
            raise RefusedError("addresses", error.errno or 0) from error
        return
    try:
        for address in dict.fromkeys((*addresses, *asked)):
            if not _links.is_loopback(address):
                _give(links, address, must=address in asked)
        if not options.outside:
            links.spread()
    except OSError as error:
        raise RefusedError("addresses", error.errno or 0) from error
    finally:
        links.close()


def _give(links: "Links", address: str, *, must: bool) -> None:
    from portlease._isolate import _links

    try:
        links.give(address)
    except OSError as error:
        if must or error.errno not in _links.UNKNOWN:
            raise


# --- settings -------------------------------------------------------------------------------------


def _set(settings: "dict[str, str | None]", must: "Sequence[str]") -> "list[str]":
    """Write those that differ; return what could not be, in words.

    Raises:
        RefusedError: one of those that *must* be.
    """
    notes = []
    for name, value in settings.items():
        found = _read_setting(name)
        if value is None or found == value:
            continue
        try:
            _write(f"/proc/sys/{name}", value)
        except OSError as error:
            if name in must:
                raise RefusedError(f"/proc/sys/{name}", error.errno or 0) from error
            dotted = name.replace("/", ".")
            why = posix.strerror(error.errno or 0)
            notes.append(f"{dotted} is {found} inside, not {value} as outside: {why}")
    return notes


def _read_setting(name: str) -> "str | None":
    try:
        return _read(f"/proc/sys/{name}").strip()
    except OSError as error:
        # Of a kernel without it (IPv6), or hidden from this user namespace.
        if error.errno not in {errno.ENOENT, errno.EACCES, errno.EPERM}:
            raise
        return None


def _read(path: str) -> str:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts = []
        while part := posix.read(fd, 65536):
            parts.append(part)
    finally:
        posix.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def _write(path: str, text: str) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(fd, text.encode("ascii"))
    finally:
        posix.close(fd)


# --- the command ----------------------------------------------------------------------------------


def original_environment() -> "dict[bytes, bytes]":
    """What this process was started with: Python may have set LC_CTYPE since (PEP 538)."""
    env = dict(posix.environ)
    if b"LC_CTYPE" in env and not any(
        word.startswith("LC_CTYPE=") for word in _read("/proc/self/environ").split("\0")
    ):
        del env[b"LC_CTYPE"]
    return env


def become(argv: "list[str]", env: "dict[bytes, bytes]") -> "NoReturn":
    """Execute it, found as execvp(3) finds it; tells of it and exits if that cannot be."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec(2) keeps that
        signal.signal(number, signal.SIG_DFL)
    encoded = [word.encode(sys.getfilesystemencoding(), "surrogateescape") for word in argv]
    candidates = [encoded[0]]
    if b"/" not in encoded[0]:
        folders = env.get(b"PATH", b"/bin:/usr/bin").split(b":")
        candidates = [folder + b"/" + encoded[0] if folder else encoded[0] for folder in folders]
    refused: OSError | None = None
    for path in candidates:
        try:
            posix.execve(path, encoded, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = refused or error
    if refused is None:
        what = "command not found; install it, or give its whole path"
        if b"/" in encoded[0]:
            what = "no such file; install it, or correct the path"
        tell(f"portlease: {argv[0]}: {what}")
        posix._exit(NOT_FOUND)
    tell(f"portlease: {argv[0]}: cannot be executed: {refused.strerror}")
    posix._exit(CANNOT_EXECUTE)
