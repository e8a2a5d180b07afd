"""What a refusal of the kernel means for a lease: errnos into errors that say so."""

from __future__ import annotations

import errno

from portlease._errors import (
    LeasesUnseenError,
    PrivilegeError,
    ResourceLimitError,
    UsageError,
)
from portlease._platform import backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

# EINVAL, ENODEV: ::ffff:127.0.0.1 on a socket for IPv6 only, a link-local address without its link.
_NOT_OUR_ADDRESS: Final = (
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EINVAL,
    errno.ENODEV,
)
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def raise_explained(error: OSError, port: int, scope: str = "it") -> NoReturn:
    """Raise the error of ours that says what *error* means for a lease, or *error* itself.

    Args:
        error: what the system call said.
        port: the port it was called for; 0 for none in particular.
        scope: the addresses it was called for.
    """
    first = backend.rules(fresh=True).first_unprivileged if error.errno == errno.EACCES else 0
    if port < first:  # at any other port it is a security module's word, which we cannot explain
        raise PrivilegeError(
            f"port {port} is below {first}, the first that an ordinary user may bind; "
            f"take one from {first} on, or lower net.ipv4.ip_unprivileged_port_start, or give the "
            "interpreter CAP_NET_BIND_SERVICE",
            port=port,
        ) from error
    if error.errno in _NOT_OUR_ADDRESS:
        raise UsageError(
            f"no lease can be held on {scope}: {error.strerror}. It is no address of this machine "
            "or network namespace; `ip address` lists them"
        ) from error
    if error.errno in _NO_ROOM:
        raise ResourceLimitError(
            f"no socket for one more lease: {error.strerror}; a lease needs two descriptors "
            "for as long as it lives. Release leases, or raise the limit (`ulimit -n`, "
            "resource.RLIMIT_NOFILE)",
            errno=error.errno,
        ) from error
    raise error


def raise_unseen(error: OSError) -> NoReturn:
    """Raise the error of ours that says why the board cannot be read, or *error* itself."""
    if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM):
        raise LeasesUnseenError(
            f"the leases of this network namespace cannot be listed: {error.filename}: "
            f"{error.strerror}; mount /proc (mount -t proc proc /proc), or let this process read "
            "it",
            errno=error.errno,
        ) from error
    if error.errno in _NO_ROOM:
        raise ResourceLimitError(
            f"the leases of this network namespace cannot be listed: {error.strerror}; that takes "
            "one descriptor. Release leases, or raise the limit (`ulimit -n`, "
            "resource.RLIMIT_NOFILE)",
            errno=error.errno,
        ) from error
    raise error
