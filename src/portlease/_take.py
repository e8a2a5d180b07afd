"""Taking a port from the kernel: ``lease()`` and its sisters.

In this order, and so no two leases can share a port:

1. The row is published: "this process is about to have port P" (:mod:`portlease._registry`).
2. Is P guarded? Then another lease has stepped aside from it: hands off, next number.
3. The hold is bound exclusively. That fails if anybody at all is on P.

A lease that steps aside (:mod:`portlease._lease`) does it in the opposite order: it takes the
guard, waits until no row says that somebody is about to have P, and only then closes its hold. So
either the taker saw the guard in step 2, or the guard's owner saw the taker's row and let the hold
refuse him (Dekker's handshake). Not even for an instant does a lessee sit on a port that another
lease has stepped aside from.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import sys
from array import array
from collections import deque
from time import time_ns

from portlease import _explain, _platform, _pool, _wish
from portlease._errors import (
    PortsExhaustedError,
    PortUnavailableError,
    PrivilegeError,
    UsageError,
)
from portlease._lease import Lease, LeaseGroup, live, publish
from portlease._platform import backend
from portlease._states import OFFERED
from portlease._wish import wish as wished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from portlease._lease import By
    from portlease._platform._types import Closable, Handle
    from portlease._pool import Rules
    from portlease._wish import Bind, Kind, Wish
# How often bind(0) is asked again after a port that is guarded or taken for the other transport.
_KERNEL_TRIES: Final = 128
# find_unused_port() cannot know when its caller has bound: a port stays guarded while this many
# later ones are asked for, at two descriptors each.
_GUARDED_PORTS: Final = 64
_PACKAGE: Final = os.path.dirname(__file__) + os.sep


def lease(  # noqa: PLR0913 - all but the first by keyword
    kind: Kind = "tcp",
    *,
    host: str | Sequence[str] | None = None,
    family: int | None = None,
    offer: bool = True,
    label: str | None = None,
    ports: Iterable[int] | None = None,
) -> Lease:
    """Take a port that nobody else can take.

    Args:
        kind: ``"tcp"``, ``"udp"``, or ``"both"`` on one number.
        host: the address or name, or several of them, to hold the port on; by default every
            address of the machine.
        family: ``socket.AF_INET`` or ``socket.AF_INET6`` to hold it in that family only; by
            default both, where the machine has IPv6.
        offer: True opens the port to a server at once: OFFERED for TCP, GUARDED for UDP (and for
            every kind on macOS and Windows); ``kind="both"`` is OFFERED with its UDP part guarded.
            False leaves it HELD.
        label: shown by :func:`leases`, ``portlease ls`` and in errors that name who has a port.
        ports: the numbers it may have, in no order of preference; by default any outside the
            ephemeral range, or the kernel's choice where there is none.

    Returns:
        The lease: use it in a ``with`` block, or call ``release()``.

    Raises:
        UsageError: an argument that can never work.
        PortUnavailableError: none of ``ports`` can be had; it says who has them.
        PortsExhaustedError: no port is left.
        PrivilegeError: the ports are below the first that this user may bind.
        ResourceLimitError: too many open files, or no memory in the kernel.

    Not guaranteed: safety from a process that binds this very number with SO_REUSEADDR while the
    lease is OFFERED, or at all while it is GUARDED. See docs/promise.md.

    Source: bind(2), ip(7), socket(7); net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict().
    """
    wish = wished(kind, host=host, family=family, offer=offer, ports=ports)
    return _take(wish, _by(label))


def lease_many(  # noqa: PLR0913
    n: int,
    kind: Kind = "tcp",
    *,
    host: str | Sequence[str] | None = None,
    family: int | None = None,
    offer: bool = True,
    label: str | None = None,
    ports: Iterable[int] | None = None,
) -> LeaseGroup:
    """Take *n* ports, all or none of them.

    The options are those of :func:`lease`; so are the errors, and none leaves a port taken.
    """
    _check_count(n)
    wish = wished(kind, host=host, family=family, offer=offer, ports=ports)
    by = _by(label)
    taken: list[Lease] = []
    try:
        for _ in range(n):
            taken.append(_take(wish, by))  # noqa: PERF401 - what was taken must be known
    except BaseException:
        LeaseGroup(taken).release()
        raise
    return LeaseGroup(taken)


def lease_block(  # noqa: PLR0913
    n: int = 1,
    kind: Kind = "tcp",
    *,
    offsets: Sequence[int] = (0,),
    host: str | Sequence[str] | None = None,
    family: int | None = None,
    offer: bool = True,
    label: str | None = None,
    ports: Iterable[int] | None = None,
) -> LeaseGroup:
    """Take *n* consecutive ports, and those at the same distance from each, all or none.

    Args:
        n: how many consecutive ports.
        offsets: for each offset, *n* consecutive ports begin that far above the first.
            ``lease_block(6, offsets=(0, 10000))`` is what six nodes of a Redis cluster need:
            p ... p+5 and p+10000 ... p+10005.

    Returns:
        ``n * len(offsets)`` leases, offset by offset, each in ascending order.

    The other options and the errors are those of :func:`lease`.
    """
    _check_count(n)
    if not offsets or len(set(offsets)) != len(offsets) or min(offsets) < 0:
        raise UsageError(f"offsets={offsets!r} must be different numbers from 0 on, one at least")
    steps = [offset + i for offset in offsets for i in range(n)]
    if len(set(steps)) != len(steps):
        raise UsageError(
            f"{n} consecutive ports at offsets {tuple(offsets)} overlap; "
            f"keep the offsets {n} apart at least"
        )
    wish = wished(kind, host=host, family=family, offer=offer, ports=ports)
    by = _by(label)
    rules = backend.rules()
    pool = _candidates(rules) if wish.named is None else wish.named
    starts = _pool.blocks(pool, steps)
    if not starts and wish.named is None:
        # Nothing outside the ephemeral range is long enough: blocks must come from inside it.
        everywhere = range(max(1024, rules.first_unprivileged), _pool.MAX_PORT + 1)
        starts = _pool.blocks(everywhere, steps)
    tried = 0
    for first in _pool.draw(starts):
        tried += 1
        group = _take_these([first + step for step in steps], wish, by)
        if group is not None:
            return group
    raise PortsExhaustedError(
        f"no {n} consecutive ports at offsets {tuple(offsets)} are free: {tried} places were tried"
        + (f" among the {len(pool)} ports given" if wish.named is not None else "")
        + "; ask for fewer, or for other offsets",
        tried=tried,
    )


def _take_these(numbers: list[int], wish: Wish, by: By) -> LeaseGroup | None:
    taken: list[Lease] = []
    try:
        for port in numbers:
            one = _try(port, wish, by)
            if one is None:
                LeaseGroup(taken).release()
                return None
            taken.append(one)
    except BaseException:
        LeaseGroup(taken).release()
        raise
    return LeaseGroup(taken)


def _take(wish: Wish, by: By) -> Lease:
    if wish.named is not None:
        return _take_named(wish.named, wish, by)
    pool = _candidates(backend.rules())
    # The first draw nearly always succeeds; the generator below would cost it a microsecond.
    if pool and (port := _pool.pick(pool)) not in live and (one := _try(port, wish, by)):
        return one
    tried = 0
    for port in _pool.draw(pool):
        tried += 1
        if port not in live and (one := _try(port, wish, by)) is not None:
            return one
    if (one := _from_kernel(wish, by)) is not None:
        return one
    low, high = backend.rules().ephemeral
    raise PortsExhaustedError(
        f"no {wish.kind} port is left: {tried} were tried outside the ephemeral range, and "
        f"bind(0) has none in {low}-{high}; `portlease ls` tells who has them, release some or "
        "give another host",
        tried=tried,
    )


def _take_named(ports: array[int], wish: Wish, by: By) -> Lease:
    denied: PrivilegeError | None = None
    for port in _pool.draw(ports):
        try:
            if (one := _try(port, wish, by)) is not None:
                return one
        except PrivilegeError as error:
            denied = error
    raise denied or _explain.none_of(ports)


def _try(port: int, wish: Wish, by: By, first: Handle | None = None) -> Lease | None:
    """Take this very port, or None if it is busy. *first*: its first hold, if bound already.

    *first* becomes the lease's; if the answer is None it stays the caller's.
    """
    since_ms = time_ns() // 1_000_000
    with _platform.spawn_lock:  # no fork may copy a socket that no lease knows of yet
        row = publish(port, wish, wish.born, since_ms, by[0])
        if row is None:
            return None
        try:
            holds = _hold(port, wish, row, first)
            if holds is None:
                row.close()
                return None
        except BaseException:  # KeyboardInterrupt, MemoryError: nothing may stay bound
            row.close()
            raise
        one = Lease(port, wish, row, holds, since_ms, by)
        if wish.born is OFFERED:
            for _, hold in holds:
                backend.offer(hold)
            one._state = OFFERED
            return one
    return one if not wish.offer or _opened(one) else None


def _hold(
    port: int, wish: Wish, row: Closable, first: Handle | None
) -> list[tuple[Bind, Handle]] | None:
    """Bind the wish's sockets, or None if the port is guarded or busy."""
    for transport in wish.transports:
        if backend.is_guarded(row, transport, port):
            return None
    holds: list[tuple[Bind, Handle]] = []
    try:
        for bind in wish.binds:
            hold = first if first is not None and not holds else _wish.bind(bind, port)
            holds.append((bind, hold))
    except BaseException as error:
        for _, hold in holds:
            if hold is not first:
                hold.close()
        if not isinstance(error, OSError):
            raise
        if error.errno != errno.EADDRINUSE:
            _explain.raise_explained(error, port)
        return None
    return holds


def _opened(one: Lease) -> bool:
    """Open a lease that is born HELD; False, and released, if the port was contested just now."""
    try:
        if one.kind == "both" and backend.CAN_OFFER:
            one.offer()
        else:
            one.step_aside()
    except PortUnavailableError:
        one.release()
        return False
    except BaseException:
        one.release()
        raise
    return True


def _from_kernel(wish: Wish, by: By) -> Lease | None:
    """A port of the kernel's choice; None if it has none. Refused ones are kept until the end."""
    refused: list[Handle] = []
    try:
        for _ in range(_KERNEL_TRIES):
            try:
                hold = _wish.bind(wish.binds[0], 0)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:  # what an exhausted range says, bind(2)
                    _explain.raise_explained(error, 0)
                return None
            refused.append(hold)
            if (one := _try(hold.getsockname()[1], wish, by, hold)) is not None:
                refused.remove(hold)
                return one
    finally:
        for hold in refused:
            hold.close()
    return None


class _Pool:
    """The candidates, and the rules that they were made of."""

    rules: Rules | None = None
    ports: array[int] = array("H")


def _candidates(rules: Rules) -> array[int]:
    if _Pool.rules is not rules:
        _Pool.ports = _pool.candidates(rules)
        _Pool.rules = rules
    return _Pool.ports


def _check_count(n: int) -> None:
    if n < 1:
        raise UsageError(f"n={n} is no number of ports; ask for one at least")


def _by(label: str | None) -> By:
    """The label, and where our caller called from: the first frame outside of this package."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return label, frame.f_code.co_filename, frame.f_lineno


_guarded: deque[Lease] = deque()


def guarded_port(family: int, socktype: int) -> int:
    """A port that anything can bind at once, and that no other lease is given meanwhile.

    The guards of the last 64 such ports are kept, two descriptors each; older ones are dropped.

    Args:
        family: AF_INET or AF_INET6; the port is free in both, where the machine has both.
        socktype: SOCK_STREAM or SOCK_DGRAM.

    Raises:
        As :func:`lease`.
    """
    del family  # free everywhere is free there
    kind: Kind = "udp" if socktype == socket.SOCK_DGRAM else "tcp"
    one = lease(kind, offer=False, label="find_unused_port")
    one.step_aside()
    with _platform.spawn_lock:
        _guarded.append(one)
        if len(_guarded) > _GUARDED_PORTS:
            _guarded.popleft().release()
    return one.port


def _drop_guarded() -> None:
    while _guarded:
        _guarded.popleft().release()


atexit.register(_drop_guarded)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guarded.clear)
