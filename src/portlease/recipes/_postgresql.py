"""PostgreSQL: ``recipes.postgresql()``."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from portlease.recipes import _login, _mould
from portlease.recipes._account import unprivileged
from portlease.recipes._database import DatabaseServer, Order, word
from portlease.recipes._login import Wish
from portlease.recipes._recipe import Plan, Recipe, Settings, braces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from portlease._server._serve import Server
    from portlease.recipes._login import Login
    from portlease.recipes._mould import Key

RECIPE: Final = Recipe(
    name="postgresql",
    summary="PostgreSQL, with a database and a user of its own",
    programs=("postgres", "initdb", "psql"),
    packages={
        "apt-get install": "postgresql",
        "dnf install": "postgresql-server",
        "brew install": "postgresql",
    },
    places=(
        "/usr/lib/postgresql/*/bin",
        "/usr/pgsql-*/bin",
        "/opt/homebrew/opt/postgresql@*/bin",
        "/usr/local/opt/postgresql@*/bin",
    ),
    user="postgres",
)

_PROTOCOL: Final = 3 << 16
_NOT_YET: Final = b"C57P03\0"  # cannot_connect_now, appendix A of its manual
_MAINTENANCE: Final = "postgres"
_RULES: Final = "host all all all scram-sha-256\nhost replication all all scram-sha-256\n"


class PostgreSQLServer(DatabaseServer):
    """A running PostgreSQL."""

    recipe = RECIPE
    scheme = "postgresql"

    def __init__(self, settings: Settings, order: Order, *, locale: str) -> None:
        self._locale = locale
        super().__init__(settings, unprivileged("postgres"), order)

    def _first_user(self) -> str:
        return "postgres"

    def _command(self, home: Path) -> Plan:
        # initdb would let in the loopback addresses alone, whatever host= says.
        rules = home / "pg_hba.conf"
        _login.write_private(rules, _RULES, self._account)
        options: dict[str, object] = {
            "port": "{port}",
            "listen_addresses": "{host}",
            "hba_file": braces(rules),
            # A path in TMPDIR can be longer than the 107 bytes that a Unix socket's may have, and
            # one in /tmp would stay there after a SIGKILL.
            "unix_socket_directories": "",
            # The default, posix, leaves files in /dev/shm after a SIGKILL.
            "dynamic_shared_memory_type": "mmap",
            # What was committed is with the kernel before the client hears of it, and survives any
            # end of the process; fsync would only help against a power cut.
            "fsync": False,
            "full_page_writes": False,
        }
        options |= {name: braces(word(value)) for name, value in self._order.options.items()}
        argv = [_program("postgres"), "-D", braces(home / "data")]
        for name, value in options.items():
            argv += ["-c", f"{name}={word(value)}"]
        # SIGINT: disconnects the clients and ends. SIGTERM would wait for them.
        return Plan(argv=argv, stop_signal=signal.SIGINT)

    # --- the folder ---

    def _make(self, home: Path, login: Login) -> None:
        data = home / "data"
        password = home / "password"
        _login.write_private(password, login.password, self._account)
        options = ["-U", login.user, "--pwfile", str(password), "-A", "scram-sha-256"]
        options += ["-E", "UTF8", f"--locale={self._locale}", "--no-sync"]
        self._run([_program("initdb"), "-D", str(data), *options])
        password.unlink()

    def _made_from(self, login: Login) -> Key:
        # initdb writes the time zone down.
        zone = os.environ.get("TZ")
        program = _mould.identity(Path(_program("initdb")))
        return *program, self._locale, zone, login.user, login.password

    def _fill(self, sql: str) -> None:
        script = ""
        if self.database != _MAINTENANCE:
            name = '"' + self.database.replace('"', '""') + '"'
            script = f"CREATE DATABASE {name};\n\\connect {name}\n"
        path = self.home / "init.sql"
        _login.write_private(path, script + sql, self._account)
        address = ["-h", self.host, "-p", str(self.port), "-U", self.user, "-d", _MAINTENANCE]
        psql = [_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *address]
        self._run([*psql, "-f", str(path)], env={"PGPASSWORD": self.password})
        path.unlink()

    # --- up ---

    def _came_up(self) -> None:
        _disown_shared_memory(self.process.pid)
        super()._came_up()

    def _answers(self, server: Server) -> bool:
        # It listens before it lets anybody in: until then it answers that it is starting up.
        words = f"user\0{self.user}\0database\0{_MAINTENANCE}\0\0".encode()
        with (
            socket.create_connection((server.host, server.port), timeout=1) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(struct.pack("!ii", 8 + len(words), _PROTOCOL) + words)
            head = answer.read(5)
            if len(head) < 5:  # noqa: PLR2004 - a letter and a length
                return False
            kind, length = struct.unpack("!ci", head)
            # It asks who we are, and that is answer enough.
            return kind == b"R" or (kind == b"E" and _NOT_YET not in answer.read(length - 4))

    # --- what a client needs ---

    @property
    def env(self) -> dict[str, str]:
        """DATABASE_URL, PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE."""
        return {
            "DATABASE_URL": self.url,
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
        }


def _program(name: str) -> str:
    """Return the path of one of its programs: all of them of one version.

    Debian has a version's programs in a folder of their own, and some of them in PATH too, maybe
    those of another version; its psql there is a script that looks for the right one.
    """
    beside = Path(RECIPE.find("initdb")).resolve().with_name(name)
    return str(beside) if beside.exists() else RECIPE.find(name)


def _disown_shared_memory(pid: int) -> None:
    """Have the kernel remove a server's System V shared memory when its last process has ended.

    PostgreSQL keeps 56 bytes of it, to know of its own processes by. Ended by SIGKILL, it would
    leave them to the machine until that is booted again. Marked by IPC_RMID they go with it, and
    serve until then (shmctl(2)). All that it loses is to notice another server on its folder, which
    no other has. In the end it writes that its own shmctl() failed.
    """
    if sys.platform != "linux":
        return
    import ctypes
    import errno

    try:
        with open("/proc/sysvipc/shm", encoding="ascii") as file:  # proc(5)
            rows = [line.split() for line in file][1:]
    except FileNotFoundError:  # a kernel without System V IPC, or a sandbox's own /proc
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for row in rows:
        number, creator, attached = int(row[1]), int(row[4]), int(row[6])
        # One that nobody is attached to was left by another, which had the same process id.
        if creator == pid and attached and libc.shmctl(number, 0, None) != 0:  # IPC_RMID
            code = ctypes.get_errno()
            if code not in {errno.EINVAL, errno.EIDRM}:  # it has just gone
                raise OSError(code, os.strerror(code), "shmctl")


def postgresql(  # noqa: PLR0913 - all by keyword
    *,
    database: str | None = None,
    user: str | None = None,
    password: str | None = None,
    options: Mapping[str, object] | None = None,
    init_sql: str | os.PathLike[str] | None = None,
    locale: str = "C.UTF-8" if sys.platform == "linux" else "C",
    **settings: Unpack[Settings],
) -> PostgreSQLServer:
    """Start PostgreSQL on a leased port, its data in a temporary folder.

    It refuses to run as root; for root it is run as user postgres, or nobody where there is none.
    It listens on TCP alone.

    Args:
        database: the name of a database that is made; ``test`` by default.
        user: the name of its superuser; ``postgres`` by default.
        password: that one's; one is drawn by default.
        options: parameters of its configuration: ``{"max_connections": 20}``.
        init_sql: the text of SQL, or the path of a file with SQL, that psql runs in the database
            once it is made; an error in it is an error of this function.
        locale: of the databases, for initdb; UTF-8 is the encoding in any case.
        **settings: as for every recipe, see :class:`Settings`. In a ``home`` that is used again the
            database is there already, and *init_sql* and *locale* are not looked at.

    Returns:
        The server, once it lets clients in. What was committed survives ``restart()``, and
        ``kill()`` too; fsync is off.

    Raises:
        RecipeUnavailableError: PostgreSQL is not installed.
        ServerDiedError: initdb, the server or psql failed; with its output.
        UsageError: *home* is another's, or out of reach for the unprivileged user.
        ServerError: as :func:`portlease.serve`.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    order = Order(Wish(user, password, database), dict(options or {}), init_sql)
    return PostgreSQLServer(settings, order, locale=locale)
