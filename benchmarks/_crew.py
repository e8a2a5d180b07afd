"""Several processes that begin at the same moment, and what they found.

Each member is ``python _crew.py MODULE FUNCTION ARGUMENTS``. It calls the function, which gets
everything ready and returns the task; it says "ready" and waits. When all are ready, all are told
to go; what each one's task returns goes back as one line of JSON. The end of a member's input is
the end of it, so none outlives its crew.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_START_S: Final = 60.0
_END_S: Final = 300.0


class Crew:
    """Processes that are ready to begin; a context manager that ends them."""

    def __init__(self, module: str, function: str, members: Sequence[Mapping[str, object]]) -> None:
        self._members: list[subprocess.Popen[str]] = []
        try:
            for arguments in members:
                self._members.append(_member(module, function, arguments))
            for member in self._members:
                _line(member, _START_S)  # "ready"
        except BaseException:
            self._end()
            raise

    def go(self) -> None:
        """Let all of them begin."""
        for member in self._members:
            _tell(member, "go")

    def stop(self) -> None:
        """Ask those who look (:func:`asked_to_stop`) to stop."""
        for member in self._members:
            _tell(member, "stop")

    def kill(self) -> None:
        """End all of them by SIGKILL; return when they are gone."""
        for member in self._members:
            member.kill()
        for member in self._members:
            member.wait()

    def results(self) -> list[Any]:
        """Wait for all of them and return what each task returned."""
        return [json.loads(_line(member, _END_S)) for member in self._members]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """Close their inputs, which ends them, and wait; kill whoever does not end."""
        for member in self._members:
            if member.stdin is not None:
                member.stdin.close()
        for member in self._members:
            try:
                member.wait(timeout=20)
            except subprocess.TimeoutExpired:
                member.kill()
                member.wait()
            if member.stdout is not None:
                member.stdout.close()


def _member(module: str, function: str, arguments: Mapping[str, object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, module, function, json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _tell(member: subprocess.Popen[str], word: str) -> None:
    if member.stdin is None:  # for the type checker: it is a pipe
        raise RuntimeError("a member without input")
    member.stdin.write(word + "\n")
    member.stdin.flush()


def _line(member: subprocess.Popen[str], seconds: float) -> str:
    if member.stdout is None:  # for the type checker: it is a pipe
        raise RuntimeError("a member without output")
    if not select.select([member.stdout], [], [], seconds)[0]:
        raise TimeoutError(f"process {member.pid} said nothing for {seconds:.0f} s")
    line = member.stdout.readline()
    if not line:
        raise RuntimeError(f"process {member.pid} ended with {member.wait()}: see above")
    return line.rstrip("\n")


def asked_to_stop() -> bool:
    """Whether this member was told to stop, or its crew is gone."""
    return bool(select.select([0], [], [], 0)[0])


def _main() -> None:
    module, function, arguments = sys.argv[1:]
    task = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print("ready", flush=True)
    # Not through sys.stdin: its buffer would swallow a "stop" that asked_to_stop() looks for.
    if os.read(0, len(b"go\n")) != b"go\n":
        return
    with contextlib.suppress(BrokenPipeError):  # nobody waits for the answer any more
        print(json.dumps(task()), flush=True)
    while os.read(0, 1024):  # what it holds is held until the crew is dismissed
        pass


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    _main()
