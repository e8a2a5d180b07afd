"""An ASGI application, served by uvicorn or hypercorn: ``recipes.asgi()``."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Unpack

from portlease._errors import UsageError
from portlease._tree._process import override
from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings, braces

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final, Literal, TypeAlias

    from portlease._tree._process import StrPath

    By: TypeAlias = Literal["uvicorn", "hypercorn"]


class _PythonRecipe(Recipe):
    """One whose programs are Python modules too, and alternatives to each other."""

    @override
    def look_up(self, program: str) -> str | None:
        # This interpreter first: it is the one in which the caller's application can be imported.
        if importlib.util.find_spec(program) is not None:
            return sys.executable
        return super().look_up(program)

    @override
    def missing(self) -> tuple[str, ...]:
        lacking = super().missing()
        return lacking if len(lacking) == len(self.programs) else ()


RECIPE: Final[Recipe] = _PythonRecipe(
    name="asgi",
    summary="an ASGI application, by uvicorn or hypercorn",
    programs=("uvicorn", "hypercorn"),
    packages={"pip install": "uvicorn (or hypercorn)"},
)


class ASGIServer(RecipeServer):
    """A running ASGI application. What it keeps where is its own affair: its home stays empty."""

    recipe = RECIPE
    by: By
    """Which of the two serves it."""

    def __init__(self, app: str, settings: Settings, *, by: By, folder: StrPath | None) -> None:
        self._app = app
        self.by = by
        self._folder = folder
        super().__init__(settings)

    def _plan(self, home: Path) -> Plan:
        del home
        found = RECIPE.find(self.by)
        argv = [found, "-m", self.by] if found == sys.executable else [found]
        if self.by == "uvicorn":
            argv += ["--host", "{host}", "--port", "{port}"]
        else:
            argv += ["--bind", "[{host}]:{port}" if ":" in self._bind_host() else "{host}:{port}"]
        return Plan(
            argv=[*argv, braces(self._app)],
            # Both look for the application in their working directory.
            cwd=os.getcwd() if self._folder is None else self._folder,
            lives_at_home=False,
        )

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://{self.netloc}"

    @property
    def env(self) -> dict[str, str]:
        """BASE_URL."""
        return {"BASE_URL": self.url}


def asgi(
    app: str,
    *,
    by: By | None = None,
    folder: StrPath | None = None,
    **settings: Unpack[Settings],
) -> ASGIServer:
    """Serve an ASGI application on a leased port.

    Args:
        app: where it is, as uvicorn and hypercorn take it: ``"package.module:name"``.
        by: ``"uvicorn"`` or ``"hypercorn"``; by default whichever is installed, uvicorn first. One
            that this interpreter can import is run by this interpreter.
        folder: the working directory, from where it is imported; ours by default.
        **settings: as for every recipe, see :class:`Settings`; ``args=["--ws", "none"]`` are
            options of uvicorn or hypercorn.

    Returns:
        The server, once it listens, which both do when the application has started up.

    Raises:
        RecipeUnavailableError: neither is installed.
        ServerError: as :func:`portlease.serve`; with the traceback of an application that fails.
        UsageError: *app* names no module and application, or *by* neither of the two.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    if ":" not in app:
        raise UsageError(f"app={app!r} is no 'module:name' of an ASGI application")
    if by is None:
        by = "hypercorn" if RECIPE.look_up("uvicorn") is None else "uvicorn"
        if RECIPE.missing():
            raise RECIPE.unavailable("uvicorn")
    if by not in RECIPE.programs:
        raise UsageError(f"by={by!r} is neither 'uvicorn' nor 'hypercorn'")
    return ASGIServer(app, settings, by=by, folder=folder)
