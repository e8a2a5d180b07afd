"""Who may log in to a recipe's server, and into what.

A server that runs code for whoever connects (COPY TO PROGRAM, SELECT INTO OUTFILE) is not left open
to the other users of the machine, on a port that all of them can see. So each has a
password that was drawn. It lies in the home, so that a home that is used again has the same one.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from portlease._errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

    from portlease.recipes._account import Account

_FILE: Final = "login.json"


class Login(NamedTuple):
    """What a client must know besides the address."""

    user: str
    password: str
    database: str


class Wish(NamedTuple):
    """What the caller said of it; None where nothing was said."""

    user: str | None = None
    password: str | None = None
    database: str | None = None


@functools.cache
def drawn_password() -> str:
    """Return this process's password: 96 bits, in letters that need no quoting anywhere.

    One for all, since a folder that is copied (:mod:`._mould`) has its password in it.
    """
    return os.urandom(12).hex()


def new(wish: Wish, *, user: str, database: str) -> Login:
    """Return what was wished for; for the rest *user*, *database* and the drawn password.

    Raises:
        UsageError: a name is empty, or has a character that none can have.
    """
    login = Login(
        user if wish.user is None else wish.user,
        drawn_password() if wish.password is None else wish.password,
        database if wish.database is None else wish.database,
    )
    for field, value in login._asdict().items():
        if not value or any(letter < " " for letter in value):
            raise UsageError(f"{field}={value!r} is empty, or has a control character in it")
    return login


def kept(home: Path, wish: Wish) -> Login | None:
    """Return the login of a home that is used again, or None if this one is new.

    Raises:
        UsageError: it was made for another one than is wished for.
    """
    try:
        text = (home / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    login = Login(**json.loads(text))
    for field, wished, had in zip(Login._fields, wish, login, strict=True):
        if wished not in {None, had}:
            shown = "another one" if field == "password" else repr(had)
            raise UsageError(
                f"home={str(home)!r} was made with {field}: {shown}; "
                f"leave {field}= out, or give another home="
            )
    return login


def keep(home: Path, login: Login) -> None:
    """Write *login* down, readable for ourselves alone: *home* is complete now."""
    text = json.dumps(login._asdict())
    write_private(home / _FILE, text)


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Write a new file that only its owner can read, who is *account*, or we.

    Whatever lies there is replaced, and a link is never followed: the folder may be *account*'s.
    """
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        if account is not None and sys.platform != "win32":
            os.fchown(fd, account.uid, account.gid)
