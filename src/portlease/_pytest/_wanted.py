"""What a test asks ``serve_once`` for: checked where it is asked, and sent to who has the servers.

Two that ask for the same get the same server. The same is what has the same *name*, or else the
same command and options. Where they ask from, their folder, environment and label, is no part of
it: the server gets those of the first.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from portlease._errors import UsageError
from portlease._onlooker import look
from portlease._server._check import Http
from portlease._server._serve import command_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    Check = Callable[[Any], bool]

# What the run's processes tell each other: none of it is the server's business.
_PRIVATE: Final = ("PYTEST_", "PORTLEASE_")
_PATHS: Final = ("cwd", "home", "folder")
"""The options that are paths, which the one that has the servers would look for where it is."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A server that somebody asks for; can be pickled.

    Attributes:
        name: what the test calls it; None if it does not.
        recipe: the recipe's name; None for a command.
        args: the command, or the recipe's arguments.
        options: those of ``serve()`` or of the recipe, without the functions in ``ready=``.
        functions: the names of those, which are called in the process that asks.
        env: the environment of who asks.
        here: the working directory of who asks; None if it has been removed.
        label: of its leases, if one was given; else it is *by*.
        by: the test that asks, and its worker.
    """

    name: str | None
    recipe: str | None
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    functions: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    here: str | None = None
    label: str | None = None
    by: str = ""

    @property
    def key(self) -> str:
        """The same for all that mean the same server."""
        return f"name {self.name}" if self.name is not None else f"command {self.text}"

    @property
    def text(self) -> str:
        """What is to be started, for a person, and the same for whatever is the same."""
        if self.recipe is None:
            words = [shlex.join(self.args)]
        else:
            words = [f"recipes.{self.recipe}", *map(_shown, self.args)]
        words += [f"{name}={_shown(value)}" for name, value in sorted(self.options.items())]
        words += [f"ready={name}()" for name in self.functions]
        return " ".join(words)


def wanted(
    what: Any,  # noqa: ANN401 - anything may be given
    more: tuple[Any, ...],
    name: str | None,
    options: dict[str, Any],
) -> tuple[Wanted, tuple[Check, ...]]:
    """What the arguments of ``serve_once`` ask for, and the functions of its ``ready=``.

    Raises:
        UsageError: an argument that can never work.
    """
    if name is not None and not isinstance(name, str):
        raise UsageError(f"name={name!r} is no text; give a str")
    if options.get("lease") is not None:
        raise UsageError(
            "serve_once() takes no lease=: it would end with the worker that has it, and the "
            "server with it; the server's own leases are taken where it is started"
        )
    options = {key: value for key, value in options.items() if value is not None}
    label = options.pop("label", None)
    recipe = _recipe(what)
    functions: tuple[Check, ...] = ()
    if recipe is None:
        if more:
            raise UsageError(
                f"serve_once() takes one command, a list; {more[0]!r} is left over (options are "
                "given by keyword)"
            )
        ready, functions = _without_functions(options.pop("ready", None))
        if ready is not None:
            options["ready"] = ready
        args: tuple[Any, ...] = command_of(what, **options).args
    else:
        args = more
    for path in _PATHS:
        if path in options:
            options[path] = os.path.abspath(options[path])
    made = Wanted(
        name=name,
        recipe=recipe,
        args=args,
        options=options,
        functions=tuple(getattr(one, "__qualname__", type(one).__name__) for one in functions),
        env={key: value for key, value in os.environ.items() if not key.startswith(_PRIVATE)},
        here=_here(),
        label=label,
        by=look.label or "the session",
    )
    _must_be_sendable(made)
    return made, functions


def _here() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _recipe(what: object) -> str | None:
    """The name of the recipe that *what* is; None for a command.

    Raises:
        UsageError: it is another function, or a recipe's server.
    """
    from portlease import recipes

    if callable(what):
        name = getattr(what, "__name__", "")
        if name in recipes.names() and getattr(recipes, name) is what:
            return str(name)
        raise UsageError(
            f"{what!r} is neither a command nor a recipe: what it starts would be this worker's "
            "alone; give serve_once() a list (the program and its arguments), or a recipe's "
            "function, as in serve_once(recipes.postgresql)"
        )
    if hasattr(what, "recipe") and hasattr(what, "server"):
        raise UsageError(
            f"{what!r} runs already, and is this worker's alone; give the recipe itself, without "
            "calling it: serve_once(recipes.postgresql, ...)"
        )
    return None


def _without_functions(ready: object) -> tuple[object, tuple[Check, ...]]:
    """What of ``ready=`` can be asked by anybody, and the functions, for who wants the server."""
    if callable(ready):
        return None, (ready,)
    if not isinstance(ready, Sequence) or isinstance(ready, str):
        return ready, ()
    functions = tuple(one for one in ready if callable(one))
    if not functions:
        return ready, ()
    # What is left of a list that had functions in it is no command, though it may be of strings.
    rest = [Http(one) if isinstance(one, str) else one for one in ready if not callable(one)]
    return rest or None, functions


def _must_be_sendable(made: Wanted) -> None:
    try:
        pickle.dumps(made)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"serve_once({made.text}): {error}; the server is started by another process of this "
            "run, so arguments and options must be plain values"
        ) from error


def _shown(value: object) -> str:
    """A text that is the same for values that mean the same."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key!r}: {_shown(value[key])}" for key in sorted(value))
        return f"{{{inside}}}"
    if isinstance(value, AbstractSet):
        return f"{{{', '.join(sorted(map(_shown, value)))}}}"
    if isinstance(value, re.Pattern):
        return f"re.compile({value.pattern!r}, {value.flags})"
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, range)):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)
