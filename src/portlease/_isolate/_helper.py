"""The helper that enters the network, and those that it forks: what each of them needs.

They are told by :class:`Options`, say no by :class:`RefusedError`, and make no more imports than
they must: see :mod:`._enter`.
"""

import sys

assert sys.platform == "linux"  # noqa: S101 - for the type checker: there are no others here

import errno  # noqa: E402
import posix  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

OPTIONAL: "Final" = "?"
"""Stands before an address that may be missing: ::1, where there is no IPv6."""


class RefusedError(Exception):
    """The system refuses something: what that was, and the errno, are its arguments."""

    def __init__(self, stage: str, number: int) -> None:
        super().__init__(stage, number)
        self.stage = stage
        self.errno = number


class Options:
    """What the words before ``--`` ask for."""

    def __init__(self) -> None:
        self.low_ports = False
        self.if_possible = False
        self.outside = False
        self.late = False
        """Whether the command may ask for more to be reached: :func:`._inside.reach`."""
        self.probe = False
        """Only try, and tell standard output how far it came."""
        self.say = ""
        """What to tell standard error before the command starts."""
        self.reach: list[tuple[int, list[str]]] = []
        """A port; the address to listen on inside, and those to connect to outside."""


def tell(text: str) -> None:
    """Write a line to standard error; where nobody can be told, nobody is."""
    data = text.encode("utf-8", "backslashreplace") + b"\n"
    try:
        while data:
            data = data[posix.write(2, data) :]
    except OSError as error:
        if error.errno not in {errno.EPIPE, errno.EBADF, errno.EIO, errno.ENOSPC, errno.EAGAIN}:
            raise


def reap(child: int) -> None:
    """Wait until a child has ended."""
    try:
        posix.waitpid(child, 0)
    except ChildProcessError:
        return  # SIGCHLD was ignored when we were started: the kernel reaps


def unshare(flags: int) -> None:
    """Ask the kernel for new namespaces."""
    if sys.version_info >= (3, 12):
        posix.unshare(flags)
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, posix.strerror(number))
