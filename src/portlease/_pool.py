"""Where may ports come from? Pure decisions over plain numbers; no system call but the draw's.

A port outside the ephemeral range (``ip_local_port_range``) is one that no bind(0) and no connect()
of anybody ever lands on, so a lease there is safe from everything but a bind of that very number,
even in the moment in which it is unheld. Inside the outside, some numbers are left alone because
somebody is likely to want just them:

- what ``/etc/services`` names, and what ``ip_local_reserved_ports`` reserves;
- what browsers refuse to open (WHATWG Fetch, section "port blocking"): a test server there cannot
  be reached by the very client it was started for;
- Kubernetes' NodePort range, 30000-32767, which kube-proxy takes without asking;
- below 10000, where people's hard-coded ports live (3000, 5000, 8000, 9000 ...), as long as there
  are enough others.
"""

from __future__ import annotations

import os
from array import array
from math import gcd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from typing import Final

MAX_PORT: Final = 65535
_PORT_DIGITS: Final = 5
_QUIET_START: Final = 10000
# Fewer than this many quiet ports, and two busy machines' worth of workers would feel it.
_ENOUGH: Final = 1000
NODE_PORTS: Final = range(30000, 32768)
# WHATWG Fetch, "bad port" list, its entries from 1024 on.
BROWSERS_REFUSE: Final = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6679, 6697, 10080}
    | set(range(6665, 6670))
)


# getrandom(2) takes 0.4 us for 4 bytes and 1 us for 256.
_WORDS_AT_ONCE: Final = 64
_RUN: Final = 64
_STRIDE: Final = 7919  # prime, so that the neighbours in a run are none as ports


class Rules:
    """What this machine says about its ports, as the platform read it.

    Args:
        ephemeral: first and last port of the ephemeral range, both included.
        reserved: ports that ``ip_local_reserved_ports`` names.
        services: ports that ``/etc/services`` names.
        first_unprivileged: the first port that any user may bind.
    """

    __slots__ = ("ephemeral", "first_unprivileged", "reserved", "services")

    def __init__(
        self,
        *,
        ephemeral: tuple[int, int],
        reserved: AbstractSet[int],
        services: AbstractSet[int],
        first_unprivileged: int,
    ) -> None:
        self.ephemeral = ephemeral
        self.reserved = frozenset(reserved)
        self.services = frozenset(services)
        self.first_unprivileged = first_unprivileged

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rules):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.ephemeral, self.first_unprivileged, self.reserved, self.services))

    def is_ephemeral(self, port: int) -> bool:
        """Whether bind(0) or connect() may land on *port*."""
        low, high = self.ephemeral
        return low <= port <= high


def candidates(rules: Rules) -> array[int]:
    """The ports that a lease may take without having been told a number, in ascending order.

    Empty where the ephemeral range and the exceptions leave nothing.
    """
    low, high = rules.ephemeral
    avoid = rules.reserved | rules.services | BROWSERS_REFUSE
    start = max(1024, rules.first_unprivileged)
    allowed = [
        port
        for part in (range(start, low), range(max(start, high + 1), MAX_PORT + 1))
        for port in part
        if port not in avoid and port not in NODE_PORTS
    ]
    quiet = [port for port in allowed if port >= _QUIET_START]
    return array("H", quiet if len(quiet) >= _ENOUGH else allowed)


def last_resort(rules: Rules) -> array[int]:
    """The ports that the kernel itself would choose from, bind(2) with port 0."""
    low, high = rules.ephemeral
    first = max(low, rules.first_unprivileged)
    return array("H", [port for port in range(first, high + 1) if port not in rules.reserved])


_ahead: list[int] = []
_run: list[int] = []


def _more_words() -> None:
    """Fill ``_ahead`` with random numbers of 32 bits of the operating system, by one system call.

    Not of :mod:`random`: test runners reseed that generator with one seed in every worker, and all
    of them would then draw alike.
    """
    _ahead.extend(array("I", os.urandom(4 * _WORDS_AT_ONCE)))


def _word() -> int:
    while True:
        try:
            return _ahead.pop()
        except IndexError:
            _more_words()


if hasattr(os, "register_at_fork"):  # or parent and child would draw alike
    os.register_at_fork(after_in_child=_ahead.clear)
    os.register_at_fork(after_in_child=_run.clear)


def pick(ports: array[int]) -> int:
    """One of *ports*: the next of a short run from a random start on.

    So what one process holds lies in runs as well, and others, which leave a run at the first
    number that is taken, seldom meet it: with 9,500 leases held by another process a lease takes
    40 us, and 61 where every number is drawn at random.
    """
    # 2**32 % count of them are favoured by one in 2**32/count: nothing for 64 thousand ports.
    while True:
        try:
            return ports[_run.pop() % len(ports)]
        except IndexError:  # of the numbers, or another thread took the last
            start = _word()
            _run.extend(range(start, start + _RUN * _STRIDE, _STRIDE))


def pick_elsewhere() -> None:
    """Begin a new run: the last number was not to be had."""
    _run.clear()


def draw(ports: array[int]) -> Iterator[int]:
    """Yield every one of *ports* once, from a random start on, in steps of a random stride.

    Two processes that sweep the same ports at once so do not run into each other all the way.
    """
    count = len(ports)
    if not count:
        return
    start = _word() % count
    stride = 1 + _word() % count
    while gcd(stride, count) != 1:
        stride += 1
    for index in range(count):
        yield ports[(start + index * stride) % count]


def draw_blocks(
    ports: array[int], members: AbstractSet[int], steps: Sequence[int]
) -> Iterator[int]:
    """As :func:`draw`, only ports from which every step leads to one of *members*."""
    for first in draw(ports):
        if all(first + step in members for step in reversed(steps)):  # the farthest fails first
            yield first


def parse_port_list(text: str) -> frozenset[int]:
    """The numbers of a kernel port list such as ``"8080,9000-9009"``.

    Raises:
        ValueError: the text is not such a list, or a number in it is no port.
    """
    found: set[int] = set()
    for item in text.replace(",", " ").split():
        first, dash, last = item.partition("-")
        start = _number(first)
        end = _number(last) if dash else start
        if start > end:
            raise ValueError(f"{item!r} runs backwards")
        found.update(range(start, end + 1))
    return frozenset(found)


def _number(text: str) -> int:
    """A number up to MAX_PORT, in the only form that the kernel writes: decimal digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _PORT_DIGITS):
        raise ValueError(f"{text[:20]!r} is no port")
    number = int(text)
    if number > MAX_PORT:
        raise ValueError(f"{text} is no port")
    return number


def parse_services(text: str) -> frozenset[int]:
    """The port numbers that a ``/etc/services`` names (services(5)); odd lines are skipped."""
    found: set[int] = set()
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) >= 2:  # noqa: PLR2004 - name and port/protocol, services(5)
            try:
                found.add(_number(fields[1].partition("/")[0]))
            except ValueError:
                continue
    return frozenset(found)
