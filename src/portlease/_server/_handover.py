"""Sockets handed over: a server inherits a socket that is bound and listens already.

The lease keeps its hold: a second socket is made beside it (:meth:`portlease.Lease._beside`), bound
where the server would have bound, and inherited by it. Nobody can take the port in between, clients
may connect before the server is up (the backlog queues them), and each start gets a new socket.

How the server is told, one of:

- *by number*: ``{fd}`` in its arguments or environment stands for the descriptor of its main port,
  ``{admin_fd}`` for that of its port ``admin``. Whoever writes one has asked for it;
- *by a preset* (:mod:`._presets`): the command of a known server is rewritten to do so;
- *by LISTEN_FDS*, as systemd does, sd_listen_fds(3): descriptors from 3 on, LISTEN_FDS says how
  many, LISTEN_FDNAMES what each is called (by the names of the ports), LISTEN_PID for whom. That is
  what ``how="hand-over"`` does where neither of the others applies.

Where it is asked for, PORT_FD and NAME_FD (ADMIN_FD) are in its environment too.

**The trap**: a connect succeeds as soon as the socket listens, that is before the server runs. So
readiness is asked of the socket itself. We keep a copy until the server is up; socket options and
status flags belong to the socket, not to the descriptor, so the copy shows what the server does:

- ``listen``: it called listen(2) on it with its own backlog (TCP_INFO tells; ours is an odd one);
- ``nonblocking``: it set O_NONBLOCK;
- ``epoll``: one of its processes waits for it in epoll(7) (/proc/PID/fdinfo);
- ``exec``: nothing is known about this server: it is ready as soon as it was executed.

Pure: no system calls. The sockets are made by :mod:`._handed`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from portlease._errors import UsageError
from portlease._server import _presets, _template
from portlease._server._presets import fd_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Final, Literal, Self, TypeAlias

    from portlease._lease import Lease
    from portlease._server._presets import Sign, Traits
    from portlease._tree._home import Home

    Transport: TypeAlias = Literal["tcp", "udp", "unix"]

_TRANSPORTS: Final[dict[str, tuple[Transport, ...]]] = {
    "tcp": ("tcp",),
    "udp": ("udp",),
    "both": ("tcp", "udp"),
    "unix": ("unix",),
}


class Wanted(NamedTuple):
    """One socket that the server is to inherit."""

    name: str
    """The port's."""
    transport: Transport
    address: str
    """Where it is bound: an address or host name; for a Unix socket its path."""
    v6only: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A command on sockets that are handed over to it."""

    args: tuple[str, ...]
    """Templates, ``{fd}`` among them."""
    env_added: dict[str, str]
    """Templates too, to be put into its environment over what is there."""
    sockets: tuple[Wanted, ...]
    """In the order in which it is given them."""
    by_number: bool
    """Whether it is told the number of each; else by LISTEN_FDS."""
    traits: Traits
    preset: str | None
    why: str
    """What it is told by, a sentence."""

    @property
    def names(self) -> frozenset[str]:
        """The ports that are handed over. Those of the others are prepared as ever."""
        return frozenset(one.name for one in self.sockets)

    @property
    def sign(self) -> Sign:
        """What shows that the server has taken its sockets over."""
        return self.traits.sign

    @property
    def hint(self) -> str:
        """For the error of a server that never took them over."""
        told = " and ".join(dict.fromkeys(f"{{{fd_name(one.name)}}}" for one in self.sockets))
        by = f"by number ({told})" if self.by_number else "by LISTEN_FDS"
        return (
            f"it was handed its sockets {by} and has not used them; if it cannot take any, say "
            "how='offer'"
        )

    def open(self, leases: Mapping[str, Lease]) -> Handed:
        """Make the sockets, for one start of the server.

        Args:
            leases: by the ports' names; those in :attr:`names` HELD or OFFERED (UDP: HELD).

        Raises:
            PortleaseError: as :meth:`portlease.Lease._beside`.
            OSError: no Unix socket can be bound at its path.
        """
        if sys.platform == "linux":
            from portlease._server._handed import Sockets

            return Sockets(self, leases)
        raise NotImplementedError(f"plan() makes no plan on {sys.platform}")


class Handed(Protocol):
    """The sockets for one start of a server, until it has taken them over; made by Plan.open().

    Our copies are open until close(), and with them the queue of clients: close it as soon as the
    server is ready, or has failed.
    """

    @property
    def values(self) -> dict[str, int]:
        """What ``{fd}`` and its like stand for: the descriptors as the server will see them."""

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for Process.start()."""

    def adopted(self, tree: Callable[[], Sequence[int]]) -> bool:
        """Whether the server has taken every one of them over, as far as its sign tells.

        Args:
            tree: gives the ids of its processes; asked for only where the sign is ``epoll``.
        """

    def close(self) -> None:
        """Close our copies; may be called again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


# --- planning -----------------------------------------------------------------------------------


def plan(  # noqa: PLR0913 - all by which it is decided
    args: Sequence[str],
    env: Mapping[str, str],
    kinds: Mapping[str, str],
    hosts: Mapping[str, str],
    *,
    asked: bool,
    written: Collection[str] | None = None,
) -> Plan | str:
    """How a command is to be given its sockets.

    Args:
        args: its arguments, templates.
        env: its whole environment, templates.
        kinds: ``"tcp"``, ``"udp"``, ``"both"`` or ``"unix"``, for each of its ports by name.
        hosts: for each of them the address that it would bind (``{host}``); its path for ``unix``.
        asked: whether the user has asked for it (``how="hand-over"``). Otherwise only a command
            that names a descriptor, or a preset that does not change its meaning, is planned.
        written: the names of descriptors (``"fd"``, ``"admin_fd"``) in its templates, where not
            all of *env* is templates; by default they are looked for.

    Returns:
        A str says why it cannot or should not be done, as a clause.
    """
    if sys.platform != "linux":
        return f"a socket beside a lease's own is not to be had on {sys.platform}"
    if written is None:
        written = _template.names_in((*args, *env.values()))
    if names := _named(written, kinds):
        why = "its command names the descriptor of a socket"
        return _plan(args, {}, _wanted(names, kinds, hosts), why=why)
    found = _presets.rewrite(args, env, tuple(kinds), asked=asked)
    if not isinstance(found, str):
        return _by_preset(found, kinds, hosts)
    if not asked:
        return found
    known = _presets.recognise(args)
    if known is not None and known.preset in _presets.IGNORES_LISTEN_FDS:
        return found
    why = "it is handed its sockets by LISTEN_FDS"
    return _plan(args, {}, _wanted(kinds, kinds, hosts), why=why, by_number=False)


def _plan(
    args: Sequence[str],
    env: dict[str, str],
    sockets: tuple[Wanted, ...],
    *,
    why: str,
    by_number: bool = True,
) -> Plan:
    env |= {
        "PORT_FD" if one.name == _template.PORT else f"{one.name.upper()}_FD": (
            f"{{{fd_name(one.name)}}}"
        )
        for one in sockets
    }
    known = _presets.recognise(args)
    return Plan(
        args=tuple(args),
        env_added=env,
        sockets=sockets,
        by_number=by_number,
        traits=_presets.traits(args),
        preset=None if known is None else known.preset,
        why=why,
    )


def _by_preset(
    found: _presets.Rewritten, kinds: Mapping[str, str], hosts: Mapping[str, str]
) -> Plan | str:
    if kinds[_template.PORT] != "tcp":
        return f"{found.preset} takes a TCP socket, and the port is {kinds[_template.PORT]}"
    names = _named(_template.names_in((*found.args, *found.env.values())), kinds)
    own = found.host if found.host not in {None, "{host}"} else None
    return Plan(
        args=found.args,
        env_added=found.env,
        sockets=tuple(
            one._replace(address=own or one.address, v6only=found.v6only)
            for one in _wanted(names, kinds, hosts)
        ),
        by_number=True,
        traits=found.traits,
        preset=found.preset,
        why=f"{found.preset} takes a socket ({found.how})",
    )


def _named(written: Collection[str], kinds: Mapping[str, str]) -> list[str]:
    """The ports whose descriptor is named, in their own order."""
    return [name for name in kinds if fd_name(name) in written]


def _wanted(
    names: Iterable[str], kinds: Mapping[str, str], hosts: Mapping[str, str]
) -> tuple[Wanted, ...]:
    return tuple(
        Wanted(name, transport, hosts[name])
        for name in names
        for transport in _TRANSPORTS[kinds[name]]
    )


# --- Unix sockets -------------------------------------------------------------------------------


class UnixPaths:
    """Paths for Unix sockets, in a temporary folder that is this user's alone; close() removes it.

    It goes too when this process dies (:mod:`portlease._tree._home`).

    Args:
        names: of the sockets; none makes no folder.

    Raises:
        UsageError: the folder for temporary files has so long a name that no socket fits in there.
        OSError: the folder could not be made.
    """

    paths: dict[str, str]

    def __init__(self, names: Iterable[str]) -> None:
        self.paths = {}
        self._home: Home | None = None
        if not (names := tuple(names)):
            return
        from portlease._tree._home import Home

        self._home = Home("s", given=None, account=None)
        self.paths = {name: os.path.join(self._home.path, name) for name in names}
        for path in self.paths.values():
            if len(os.fsencode(path)) > _LONGEST_PATH:
                self.close()
                raise UsageError(
                    f"{path} is longer than the {_LONGEST_PATH} bytes that the path of a Unix "
                    "socket may have; set TMPDIR to a folder with a shorter name"
                )

    def close(self) -> None:
        """Remove the folder with all that is in it; may be called again."""
        if self._home is not None:
            self._home.close()


# sockaddr_un.sun_path has 108 bytes (macOS: 104) and ends with a zero, unix(7).
_LONGEST_PATH: Final = 103
