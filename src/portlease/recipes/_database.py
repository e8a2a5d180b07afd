"""What the recipes of SQL servers have in common: a login, a database, and what is put into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from portlease._errors import UsageError
from portlease.recipes import _login, _mould
from portlease.recipes._login import Login
from portlease.recipes._recipe import RecipeServer

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import ClassVar

    from portlease.recipes._account import Account
    from portlease.recipes._login import Wish
    from portlease.recipes._mould import Key
    from portlease.recipes._recipe import Plan, Settings


class Order(NamedTuple):
    """What the caller wants of a database server."""

    wish: Wish
    options: Mapping[str, object]
    init_sql: str | os.PathLike[str] | None


class DatabaseServer(RecipeServer):
    """A running server with a user and a database of its own.

    A branch says in ``_make()`` how the folder is made, in ``_command()`` what is run, and in
    ``_fill()`` how SQL is run in the new database.
    """

    scheme: ClassVar[str]
    user: str
    """The user, who may do everything."""
    password: str
    """That one's password."""
    database: str
    """The database that was made."""

    def __init__(self, settings: Settings, account: Account | None, order: Order) -> None:
        self._order = order
        self._sql = _text(order.init_sql)
        self._fresh = False
        super().__init__(settings, account)

    # --- what a branch says ---

    def _make(self, home: Path, login: Login) -> None:
        """Fill the empty folder ``home / "data"``, which is the server's, as it wants it."""
        raise NotImplementedError

    def _made_from(self, login: Login) -> Key:
        """Name all that decides what ``_make()`` makes."""
        raise NotImplementedError

    def _command(self, home: Path) -> Plan:
        """Say what is to be run."""
        raise NotImplementedError

    def _fill(self, sql: str) -> None:
        """See to it that the running server has the database, and run *sql* in it."""
        raise NotImplementedError

    # --- how ---

    def _plan(self, home: Path) -> Plan:
        login = _login.kept(home, self._order.wish)
        if login is None:
            login = _login.new(self._order.wish, user=self._first_user(), database="test")
            self._prepare(home, login)
            self._fresh = True
        self.user, self.password, self.database = login
        return self._command(home)

    def _prepare(self, home: Path, login: Login) -> None:
        data = home / "data"
        try:
            data.mkdir(0o700)
        except FileExistsError as error:
            raise UsageError(
                f"home={str(home)!r} has a folder 'data' that this recipe did not make, or did not "
                "finish; give an empty folder"
            ) from error
        account = self._account
        key = (self.recipe.name, account, *self._made_from(login))
        copied = _mould.fill(key, data, account)
        if account is not None:
            account.own(data)
        if not copied:
            self._make(home, login)
            _mould.keep(key, data)

    def _first_user(self) -> str:
        return "root"

    def _came_up(self) -> None:
        if self._fresh:
            self._fill(self._sql)
            _login.keep(self.home, Login(self.user, self.password, self.database))
            self._fresh = False

    @property
    def url(self) -> str:
        """``SCHEME://USER:PASSWORD@127.0.0.1:PORT/DATABASE``."""
        user, password, database = (
            quote(text, safe="") for text in (self.user, self.password, self.database)
        )
        return f"{self.scheme}://{user}:{password}@{self.netloc}/{database}"


def word(value: object) -> str:
    """Return *value* as it is written in an option of a server."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _text(init_sql: str | os.PathLike[str] | None) -> str:
    """Read it before anything is started: a file that is not there is reported at once."""
    if init_sql is None or isinstance(init_sql, str):
        return init_sql or ""
    return Path(init_sql).read_text(encoding="utf-8")
