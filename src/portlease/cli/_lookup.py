"""Whether a command is there, before anything is started for it."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from typing import TYPE_CHECKING

from portlease._errors import ServerStartError
from portlease._tree import _process
from portlease._tree._process import Launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def must_be_there(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Look a command up as its execution will.

    Args:
        argv: the command; its first word is looked up in the PATH of *env* if it has no slash.
        env: its whole environment.

    Raises:
        ServerStartError: it is not there, or may not be executed.

    Not found out: what execve(2) alone knows, that a script's interpreter is missing, say.
    """
    program = argv[0]
    # An empty PATH is the working directory, for execvp(3) as for this.
    path = env.get("PATH", os.defpath) or os.pathsep
    if shutil.which(program, path=path) is not None:
        return
    places = [program]
    if os.path.dirname(program) == "":
        places = [os.path.join(directory, program) for directory in path.split(os.pathsep)]
    code = errno.EACCES if any(map(os.path.exists, places)) else errno.ENOENT
    if code == errno.ENOENT and _has_blanks(program):
        raise ServerStartError(
            f"{shlex.quote(program)} is one argument with blanks, and no command is called so; "
            f"write the words apart: {program}",
            argv=tuple(argv),
            errno=code,
            output="",
        )
    launch = Launch(
        argv=tuple(argv),
        env=dict(env),
        cwd=None,
        stdin=None,
        output=None,
        pass_fds=(),
        mode="inherit",
    )
    raise _process.start_error(launch, "exec", code, program)


def must_be_apart(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Notice a whole command line that was given as one argument; see :func:`must_be_there`.

    Raises:
        ServerStartError: its first word has blanks, and is no command.
    """
    if _has_blanks(argv[0]):
        must_be_there(argv, env)


def _has_blanks(program: str) -> bool:
    return any(map(str.isspace, program))
