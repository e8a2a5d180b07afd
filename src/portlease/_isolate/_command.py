"""What to execute in place of a command, so that it has a network of its own."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import UsageError
from portlease._pool import MAX_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

# Gives the helper its modules by their names, without what `import portlease` loads (15 ms). The
# folder is an argument of its own, so that ps(1) shows a line that can be read.
_BOOT: Final = """\
# portlease: gives the command behind -- a network of its own, and becomes it
import sys
folder = sys.argv[1]
for name, path in ("portlease", folder), ("portlease._isolate", folder + "/_isolate"):
    sys.modules[name] = module = type(sys)(name)
    module.__path__ = [path]
from portlease._isolate import _enter
_enter.main(sys.argv[2:])
"""
_LOCALHOST: Final = "localhost"
_LOOPBACK: Final = ("127.0.0.1", "::1")
_MOST_DIGITS: Final = 9


class Reach(NamedTuple):
    """A service of the host that is to be reachable inside."""

    host: str
    port: int
    addresses: tuple[str, ...]
    """Where it is: the same inside as outside."""

    @property
    def is_loopback(self) -> bool:
        """Whether it is a service of this machine's loopback."""
        return all(one == "::1" or one.startswith("127.") for one in self.addresses)

    @property
    def is_a_name(self) -> bool:
        """Whether somebody must be asked for the address; inside there is nobody."""
        return self.host not in {_LOCALHOST, *self.addresses}

    def words(self) -> list[str]:
        """For the helper: a word for each address to listen on, and where that leads."""
        found = []
        for number, address in enumerate(self.addresses):
            optional = "?" if number else ""  # OPTIONAL of ._helper
            found.append(f"reach={self.port},{optional}{address},{','.join(self.targets(address))}")
        return found

    def targets(self, address: str) -> list[str]:
        """Where what comes to *address* inside may lead: the same outside, and then the others."""
        return [address, *(other for other in self.addresses if other != address)]


def command(
    argv: Sequence[str | os.PathLike[str]],
    *,
    low_ports: bool = False,
    reach: Iterable[str] = (),
    outside: bool = False,
    if_possible: bool = False,
) -> list[str]:
    """What to execute instead of *argv*, so that it runs in a network of its own (Linux).

    The process that executes it becomes *argv* after some milliseconds: process id, wait status,
    signals, terminal, directory, environment and inherited descriptors are the command's own.
    Nothing is tried or opened here but the names in *reach*, which are looked up.

    Args:
        argv: the command.
        low_ports: let ordinary users bind ports below 1024 in there.
        reach: services of the host that stay reachable under the address that they have:
            ``"5432"`` (of 127.0.0.1), ``"localhost:5432"``, ``"[::1]:5432"``, ``"10.0.0.5:5432"``.
        outside: give it DNS and outgoing connections, by pasta(1).
        if_possible: where no network of its own is to be had, warn on standard error, and run it
            in the shared one. Otherwise it is not run: one line on standard error says why, and
            the exit status is 125.

    Returns:
        The arguments, the program first: this interpreter.

    Raises:
        UsageError: *argv* is empty; something in *reach* is no HOST:PORT, or its host is unknown.

    Not guaranteed: anything but the network. Files, Unix sockets with a path, databases behind
    *reach* and the machine's load are shared.
    """
    return build(argv, low_ports=low_ports, reach=reach, outside=outside, if_possible=if_possible)


def build(  # noqa: PLR0913 - command(), and what only we ask for
    argv: Sequence[str | os.PathLike[str]],
    *,
    low_ports: bool = False,
    reach: Iterable[str | Reach] = (),
    outside: bool = False,
    if_possible: bool = False,
    late: bool = False,
    probe: bool = False,
    say: str = "",
) -> list[str]:
    """As `command`.

    Args:
        late: the command may ask for more to be reached: :func:`portlease._isolate.reach`.
        probe: only try; see :func:`._enter.main`.
        say: what to tell standard error before the command starts.
    """
    if not argv:
        raise UsageError("there is no command to give a network to")
    asked = {
        "low_ports": low_ports,
        "outside": outside,
        "if_possible": if_possible,
        "late": late,
        "probe": probe,
    }
    words = [name for name, wanted in asked.items() if wanted]
    for one in reach:
        words += (parse(one) if isinstance(one, str) else one).words()
    if say:
        words.append(f"say={say}")
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [
        *(sys.executable, "-I", "-S", "-c", _BOOT, folder),
        *(*words, "--"),
        *(os.fspath(word) for word in argv),
    ]


def parse(text: str) -> Reach:
    """``PORT``, ``HOST:PORT`` or ``[IPV6]:PORT``, with the host's addresses looked up.

    Raises:
        UsageError: it is none of them, or the host is unknown.
    """
    host, colon, number = text.rpartition(":")
    is_number = number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS
    if not is_number or not 0 < int(number) <= MAX_PORT:
        raise UsageError(
            f"{text!r} names no service to be reached; say HOST:PORT, such as localhost:5432, or a "
            "port of 127.0.0.1"
        )
    port = int(number)
    if not colon:
        return Reach(_LOOPBACK[0], port, _LOOPBACK[:1])
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or (":" in bare and bare == host) or "%" in bare:
        raise UsageError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:{port}")
    if bare == _LOCALHOST:
        return Reach(bare, port, _LOOPBACK)
    return Reach(bare, port, _look_up(bare, text))


def _look_up(host: str, text: str) -> tuple[str, ...]:
    import socket

    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{text}: host {host} is unknown: {error}") from error
    addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in found))
    if not addresses or {"0.0.0.0", "::"} & set(addresses):  # noqa: S104 - no address of anybody
        raise UsageError(f"{text}: {host} is the address of no host; did you mean 127.0.0.1?")
    return addresses
