"""MariaDB: ``recipes.mariadb()``."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from portlease.recipes import _login, _mould
from portlease.recipes._account import unprivileged
from portlease.recipes._database import DatabaseServer, Order, word
from portlease.recipes._login import Wish
from portlease.recipes._recipe import Plan, Recipe, Settings, braces

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Final

    from portlease._server._serve import Server
    from portlease.recipes._login import Login
    from portlease.recipes._mould import Key

RECIPE: Final = Recipe(
    name="mariadb",
    summary="MariaDB, with a database and a user of its own",
    programs=("mariadbd", "mariadb-install-db", "mariadb"),
    packages={
        "apt-get install": "mariadb-server",
        "dnf install": "mariadb-server",
        "brew install": "mariadb",
    },
    user="mysql",
)

# The folder is half as large with them, and made in 0.5 s. They must stay as they are for it.
_INNODB: Final = ("--innodb-log-file-size=4M", "--innodb-undo-tablespaces=0")
# Nothing is flushed to the disk itself: only a power cut can tell.
_UNSAFE: Final = ("--innodb-flush-method=nosync", "--skip-innodb-doublewrite", "--sync-binlog=0")

_ACCOUNTS: Final = """\
DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';
FLUSH PRIVILEGES;
CREATE USER {user}@'%' IDENTIFIED BY {password};
GRANT ALL PRIVILEGES ON *.* TO {user}@'%' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4;
"""


class MariaDBServer(DatabaseServer):
    """A running MariaDB. Its user is the only account that it has."""

    recipe = RECIPE
    scheme = "mysql"

    def _command(self, home: Path) -> Plan:
        argv = [RECIPE.find("mariadbd"), "--no-defaults", braces(f"--datadir={home}/data")]
        argv += ["--port={port}", "--bind-address={host}"]
        # Relative to the data, since a Unix socket's path may have 107 bytes and no more.
        argv += ["--socket=mariadb.sock", "--pid-file=mariadb.pid", braces(f"--tmpdir={home}/data")]
        # Accounts are for every host: it need not ask the DNS for a client's name.
        argv += ["--skip-name-resolve", "--character-set-server=utf8mb4"]
        # What was committed is with the kernel before the client hears of it.
        argv += ["--innodb-flush-log-at-trx-commit=2", *_UNSAFE, *_INNODB]
        for name, value in self._order.options.items():
            argv.append(braces(f"--{name.replace('_', '-')}={word(value)}"))
        return Plan(argv=argv)

    # --- the folder ---

    def _make(self, home: Path, login: Login) -> None:
        accounts = home / "accounts.sql"
        script = _ACCOUNTS.format(
            user=_quoted(login.user),
            password=_quoted(login.password),
            database=_quoted(login.database, "`"),
        )
        _login.write_private(accounts, script, self._account)
        # Nobody can log in before the password is set: this is no server yet.
        argv = [RECIPE.find("mariadb-install-db"), "--no-defaults", f"--datadir={home}/data"]
        argv += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        argv += ["--skip-name-resolve", "--force", f"--extra-file={accounts}", *_UNSAFE, *_INNODB]
        # The folder for temporary files may be closed to the account.
        self._run(argv, env={"TMPDIR": str(home / "data")})
        accounts.unlink()

    def _made_from(self, login: Login) -> Key:
        programs = map(Path, (RECIPE.find("mariadb-install-db"), RECIPE.find("mariadbd")))
        return *map(_mould.identity, programs), login

    # --- up ---

    def _fill(self, sql: str) -> None:
        if not sql:
            return
        script = self.home / "init.sql"
        _login.write_private(script, sql)
        options = self.home / "client.cnf"
        address = f"[client]\nhost={self.host}\nport={self.port}\n"
        _login.write_private(options, address, self._account)
        argv = [RECIPE.find("mariadb"), f"--defaults-file={options}", f"--user={self.user}"]
        argv += ["--protocol=tcp", f"--database={self.database}", "--batch"]
        with open(script, "rb") as file:
            self._run(argv, env={"MYSQL_PWD": self.password}, stdin=file.fileno())
        script.unlink()
        options.unlink()

    def _answers(self, server: Server) -> bool:
        # It greets first: a length of three bytes, a number, and the version of the protocol, 10.
        with socket.create_connection((server.host, server.port), timeout=1) as connection:
            return connection.recv(512)[4:5] == b"\x0a"

    # --- what a client needs ---

    @property
    def socket(self) -> Path:
        """Its Unix socket, which belongs to the account that it runs as."""
        return self.home / "data" / "mariadb.sock"

    @property
    def env(self) -> dict[str, str]:
        """DATABASE_URL, and the ``MYSQL_`` variables that its clients and others read.

        MYSQL_HOST, MYSQL_TCP_PORT and MYSQL_PWD are what its own programs read, MYSQL_PORT,
        MYSQL_USER, MYSQL_PASSWORD and MYSQL_DATABASE what is customary besides.
        """
        return {
            "DATABASE_URL": self.url,
            "MYSQL_HOST": self.host,
            "MYSQL_TCP_PORT": str(self.port),
            "MYSQL_PORT": str(self.port),
            "MYSQL_USER": self.user,
            "MYSQL_PWD": self.password,
            "MYSQL_PASSWORD": self.password,
            "MYSQL_DATABASE": self.database,
        }


def _quoted(text: str, quote_mark: str = "'") -> str:
    """Return *text* as SQL writes it, between quotation marks or backquotes."""
    if quote_mark == "'":
        text = text.replace("\\", "\\\\")
    return quote_mark + text.replace(quote_mark, quote_mark * 2) + quote_mark


def mariadb(
    *,
    database: str | None = None,
    user: str | None = None,
    password: str | None = None,
    options: Mapping[str, object] | None = None,
    init_sql: str | os.PathLike[str] | None = None,
    **settings: Unpack[Settings],
) -> MariaDBServer:
    """Start MariaDB on a leased port, its data in a temporary folder.

    For root it is run as user mysql, or nobody where there is none. No file of options is read.

    Args:
        database: the name of a database that is made; ``test`` by default.
        user: the one account that there is; ``root`` by default.
        password: that one's; one is drawn by default.
        options: system variables to start with: ``{"max_connections": 20}``.
        init_sql: the text of SQL, or the path of a file with SQL, that the client mariadb runs in
            the database once it is made; an error in it is an error of this function.
        **settings: as for every recipe, see :class:`Settings`. In a ``home`` that is used again the
            database is there already, and *init_sql* is not looked at.

    Returns:
        The server, once it greets clients. What was committed to an InnoDB table survives
        ``restart()``, and ``kill()`` too; nothing is flushed to the disk.

    Raises:
        RecipeUnavailableError: MariaDB is not installed.
        ServerDiedError: mariadb-install-db, the server or the client failed; with its output.
        UsageError: *home* is another's, or out of reach for the unprivileged user.
        ServerError: as :func:`portlease.serve`.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    order = Order(Wish(user, password, database), dict(options or {}), init_sql)
    return MariaDBServer(settings, unprivileged("mysql"), order)
