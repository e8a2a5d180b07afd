"""Taking a port from the kernel: ``lease()`` and its sisters.

In this order, and so no two leases can share a port:

1. The row is published: "this process is about to have port P" (:mod:`portlease._registry`).
2. Is P guarded? Then another lease has stepped aside from it: hands off, next number.
3. The hold is bound exclusively. That fails if anybody at all is on P.
4. Is P guarded *now*? Then another lease stepped aside between 2 and 3: let go, next number.

A lease that steps aside (:mod:`portlease._lease`) takes the guard before it closes its hold, and
step 3 can succeed only after that: so step 4 always sees the guard. That alone keeps leases apart.

For the server it would still be bad luck if a taker sat on its port between 3 and 4, for some
microseconds. Therefore a lease that steps aside, guard in hand, first waits until no row says that
somebody is about to have P: either the taker sees the guard in step 2, or his row is seen and the
hold is there to refuse him (Dekker's handshake). It is as good as the reading of /proc/net/unix,
which can miss a row in the midst of many that come and go.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import sys
from _thread import _count as has_other_threads  # how many, besides the main thread
from array import array
from collections import deque
from time import monotonic

from portlease import _culprits, _platform, _pool, _refusal, _wish
from portlease._errors import (
    PortsExhaustedError,
    PortUnavailableError,
    PrivilegeError,
    ResourceLimitError,
    UsageError,
)
from portlease._grip import Grip, live
from portlease._lease import Lease, LeaseGroup, publish
from portlease._onlooker import look
from portlease._platform import backend
from portlease._registry import birth
from portlease._states import GUARDED, OFFERED, State
from portlease._wish import Wish
from portlease._wish import wish as wished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Final

    from portlease._grip import By
    from portlease._platform._types import Closable, Handle
    from portlease._pool import Rules
    from portlease._wish import Bind, Kind

# find_unused_port() cannot know when its caller has bound: a port stays guarded while this many
# later ones are asked for, at two descriptors each.
_GUARDED_PORTS: Final = 64
_QUICK_DRAWS: Final = 32
_RULES_AGE_S: Final = 0.25
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
            ephemeral range, or inside it where there is none.

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
    one = _take(wished(kind, host, family, offer, ports), _by(label))
    if look.took is not None:
        look.took(one)
    return one


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
    _checked_count(n)
    wish = wished(kind, host, family, offer, ports)
    by = _by(label)
    taken: list[Lease] = []
    try:
        for _ in range(n):
            taken.append(_take(wish, by))  # noqa: PERF401 - what was taken must be known
    except BaseException:
        LeaseGroup(taken).release()
        raise
    return _told_of(LeaseGroup(taken))


def _told_of(group: LeaseGroup) -> LeaseGroup:
    if look.took is not None:
        for one in group:
            look.took(one)
    return group


def lease_block(  # noqa: PLR0913
    n: int = 1,
    kind: Kind = "tcp",
    *,
    offsets: Iterable[int] = (0,),
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
    _checked_count(n)
    offsets = _checked_offsets(offsets)
    steps = [offset + i for offset in offsets for i in range(n)]
    if len(set(steps)) != len(steps):
        raise UsageError(
            f"{n} consecutive ports at offsets {offsets} overlap; "
            f"keep the offsets {n} apart at least"
        )
    if max(steps) >= _pool.MAX_PORT:
        raise UsageError(f"{n} ports at offsets {offsets} reach further than there are ports")
    wish = wished(kind, host, family, offer, ports)
    by = _by(label)
    tried = 0
    denied: PrivilegeError | None = None
    for first in _starts(wish, steps):
        tried += 1
        try:
            group = _take_these([first + step for step in steps], wish, by)
        except PrivilegeError as error:
            denied = error
            continue
        if group is not None:
            return _told_of(group)
    if denied is not None:
        raise denied
    if wish.named is not None and not tried:
        raise UsageError(
            f"the {len(wish.named)} ports given hold no {n} consecutive ones at offsets {offsets}"
        )
    if wish.named is not None:
        what = f"no {n} consecutive at offsets {offsets} of the {len(wish.named)} ports given"
        raise _culprits.none_of(wish.named, what)
    raise PortsExhaustedError(
        f"no {n} consecutive ports at offsets {offsets} are free: {tried} places were tried; ask "
        "for fewer, or for other offsets",
        tried=tried,
    )


def _starts(wish: Wish, steps: Sequence[int]) -> Iterator[int]:
    """Where a block may begin: outside the ephemeral range, and only then anywhere."""
    if wish.named is not None:
        yield from _pool.draw_blocks(wish.named, frozenset(wish.named), steps)
        return
    pool = _candidates()
    yield from _pool.draw_blocks(pool, frozenset(pool), steps)
    rules = backend.rules()
    first = max(1024, rules.first_unprivileged)
    anywhere = frozenset(range(first, _pool.MAX_PORT + 1)) - rules.reserved
    yield from _pool.draw_blocks(array("H", sorted(anywhere)), anywhere, steps)


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
    try:
        return _take_any(wish, by)
    except PrivilegeError:  # ip_unprivileged_port_start has been raised since we looked
        _candidates(fresh=True)
        return _take_any(wish, by)


def _take_any(wish: Wish, by: By) -> Lease:
    pool = _Pool.ports if monotonic() < _Pool.until else _candidates()
    # Nearly always one of the first draws succeeds; and of our own ports we know that they do not.
    for _ in range(_QUICK_DRAWS if pool else 0):
        if (port := _pool.pick(pool)) not in live and (one := _try(port, wish, by)) is not None:
            return one
        _pool.pick_elsewhere()
    tried = 0
    rules = backend.rules()
    for source in (pool, _pool.last_resort(rules)):
        for port in _pool.draw(source):
            tried += 1
            if (one := _try(port, wish, by)) is not None:
                return one
    low, high = rules.ephemeral
    raise PortsExhaustedError(
        f"no {wish.kind} port is left: none of {len(pool)} outside the ephemeral range, and none "
        f"inside it ({low}-{high}); `portlease ls` tells who has them, release some or give "
        "another host",
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
    raise denied or _culprits.none_of(ports)


def _try(port: int, wish: Wish, by: By) -> Lease | None:
    """Take this very port, or None if it is busy."""
    if wish.goal is GUARDED and wish.named is None:
        return _try_guarded(port, wish, by)
    born = birth()
    with _platform.spawn_lock:  # no fork may copy a socket that no lease knows of yet
        row = publish(port, wish, wish.born, born, by[0])
        if row is None:
            return None
        holds: list[tuple[Bind, Handle]] = []
        try:
            if not _hold(port, wish, row, holds):
                row.close()
                return None
        except BaseException as error:  # noqa: BLE001 - an interrupt: nothing stays bound
            row.close()
            for _, hold in holds:
                hold.close()
            _must_be_busy(error, port, wish)
            return None
        grip = Grip(port, wish, row, holds, born, by)
        one = Lease(grip)
        if wish.born is OFFERED:
            for _, hold in holds:
                backend.offer(hold)
            grip.state = OFFERED
    return one if wish.born is wish.goal or _reached(one, wish.goal) else None


def _must_be_busy(error: BaseException, port: int, wish: Wish) -> None:
    """Raise *error*, explained if it is the kernel's, unless it says that the port is in use."""
    if not isinstance(error, OSError):
        raise error
    if error.errno != errno.EADDRINUSE:
        _refusal.raise_explained(error, port, wish.scope)


def _try_guarded(port: int, wish: Wish, by: By) -> Lease | None:
    """Take this port, drawn from many, GUARDED from the start; None if it is busy.

    The guard stands before the port is tried, so every taker but one sees it: who looked before,
    and binds after our own bind is gone again, some 10 us later. It lets go at once, at its second
    look. A lease that was held all the while must fear it more, since many have been refused there;
    therefore step_aside() waits for takers. Here it would have to draw this very number of some
    20,000, and to sleep in just that moment.
    """
    born = birth()
    with _platform.spawn_lock:  # no fork may copy a socket that no lease knows of yet
        row = publish(port, wish, GUARDED, born, by[0])
        if row is None:
            return None
        guards: dict[str, Closable] = {}
        try:
            free = _guard_all(port, wish, guards) and _is_free(port, wish)
        except BaseException as error:  # noqa: BLE001 - as above
            _close_all(row, guards)
            _must_be_busy(error, port, wish)
            return None
        if not free:
            _close_all(row, guards)
            return None
        grip = Grip(port, wish, row, [], born, by)
        grip.guards, grip.state = guards, GUARDED
        one = Lease(grip)
        if has_other_threads():
            for bind in wish.binds:
                one._wait_for_copies(bind)
    return one


def _guard_all(port: int, wish: Wish, guards: dict[str, Closable]) -> bool:
    for transport in wish.transports:
        guard = backend.guard(transport, port)
        if guard is None:
            return False
        guards[transport] = guard
    return True


def _is_free(port: int, wish: Wish) -> bool:
    """Whether nobody at all is on the port: bind it exclusively, and let go."""
    tried: list[Handle] = []
    try:
        for bind in wish.binds:
            tried.append(_wish.bind(bind, port))  # noqa: PERF401 - known even if one fails
    finally:
        for one in tried:
            one.close()
    return True


def _close_all(row: Closable, guards: dict[str, Closable]) -> None:
    row.close()
    for guard in guards.values():
        guard.close()


def _hold(port: int, wish: Wish, row: Closable, holds: list[tuple[Bind, Handle]]) -> bool:
    """Bind the wish's sockets into *holds*; False, with *holds* empty, if the port is guarded."""
    for bind in wish.binds:
        hold = _wish.bind_unguarded(bind, port, row)
        if hold is None:
            while holds:
                holds.pop()[1].close()
            return False
        holds.append((bind, hold))
    return True


def _reached(one: Lease, goal: State) -> bool:
    """Bring a lease that is HELD to *goal*; False, and released, if the port was contested."""
    try:
        if goal is OFFERED:
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


class _Pool:
    """The candidates, and the rules that they were made of."""

    rules: Rules | None = None
    ports: array[int] = array("H")
    until: float = 0.0
    """When to ask for the rules again."""


def _candidates(*, fresh: bool = False) -> array[int]:
    try:
        rules = backend.rules(fresh=fresh)
    except OSError as error:  # EMFILE, in the first lease of a process
        _refusal.raise_explained(error, 0)
    if _Pool.rules is not rules:
        _Pool.ports = _pool.candidates(rules)
        _Pool.rules = rules
    _Pool.until = monotonic() + _RULES_AGE_S
    return _Pool.ports


def _checked_count(n: object) -> None:
    if not isinstance(n, int) or not 0 < n <= _pool.MAX_PORT:
        raise UsageError(f"n={n!r} is no number of ports; ask for 1 to {_pool.MAX_PORT}")


def _checked_offsets(offsets: Iterable[object]) -> tuple[int, ...]:
    try:
        given = tuple(offsets)
    except TypeError:
        given = ()
    numbers = tuple(one for one in given if isinstance(one, int) and one >= 0)
    if not numbers or len(numbers) < len(given):
        raise UsageError(f"offsets={offsets!r} must be numbers from 0 on, one at least")
    return numbers


def _by(label: str | None) -> By:
    """The label, and where our caller called from: the first frame outside of this package."""
    if label is not None and not isinstance(label, str):
        raise UsageError(f"label={label!r} is no text; give a str")
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return look.label if label is None else label, frame.f_code, frame.f_lasti


class Kept(deque[Lease]):
    """GUARDED leases of which only the numbers were given away, the oldest first.

    What is left of them is released when the interpreter ends. In a forked child there are none.
    """

    def __init__(self) -> None:
        super().__init__()
        atexit.register(self.release)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.clear)

    def lease(self, kind: Kind, label: str, ports: Iterable[int] | None = None) -> Lease:
        """Take one more, and keep it; where descriptors are short, the oldest make room for it.

        Raises:
            As :func:`lease`.
        """
        while True:
            try:
                one = lease_guarded(kind, label, ports)
            except ResourceLimitError:
                with _platform.spawn_lock:
                    if not self:
                        raise
                    self.popleft().release()
            else:
                with _platform.spawn_lock:
                    self.append(one)
                return one

    def release(self) -> None:
        """Release all of them."""
        while self:
            self.popleft().release()


_guarded: Final = Kept()


def guarded_port(family: int, socktype: int) -> int:
    """A port that anything can bind at once, and that no other lease is given meanwhile.

    Args:
        family: AF_INET or AF_INET6; the port is free in both, where the machine has both.
        socktype: SOCK_STREAM or SOCK_DGRAM.

    Raises:
        As :func:`lease`.
    """
    del family  # free everywhere is free there
    return guarded("udp" if socktype == socket.SOCK_DGRAM else "tcp", "find_unused_port")


def guarded(kind: Kind, label: str, ports: Iterable[int] | None = None) -> int:
    """The same, of any kind and from given ports.

    The guards of the last 64 ports are kept, two descriptors each (``"both"``: three); older ones
    are dropped, and where descriptors are short, younger ones too.

    Raises:
        As :func:`lease`.
    """
    one = _guarded.lease(kind, label, ports)
    if look.took is not None:
        look.took(one)
    with _platform.spawn_lock:
        if len(_guarded) > _GUARDED_PORTS:
            _guarded.popleft().release()
    return one.port


def lease_guarded(kind: Kind, label: str, ports: Iterable[int] | None = None) -> Lease:
    """The same as a lease, which is the caller's to release."""
    return _take(Wish(kind, GUARDED, ports=ports), _by(label))


def guard_again(one: Lease) -> bool:
    """Give a GUARDED lease, whose sockets were lost, new ones; False if another lease is there.

    Raises:
        ResourceLimitError: no descriptor is left for them.
    """
    grip = one._grip
    with _platform.spawn_lock:
        row = publish(grip.port, grip.wish, GUARDED, grip.born, grip.by[0])
        if row is None:
            return False
        guards: dict[str, Closable] = {}
        try:
            done = _guard_all(grip.port, grip.wish, guards)
        except BaseException as error:
            _close_all(row, guards)
            if isinstance(error, OSError):
                _refusal.raise_explained(error, grip.port)
            raise
        if done:
            grip.row, grip.guards = row, guards
        else:
            _close_all(row, guards)
        return done
