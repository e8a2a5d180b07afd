"""A reader who does what a document says, from its top to its bottom, in a folder of their own."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import yaml

from _cli import environment
from _documents import ROOT, Block, File, Page
from _need import need, netns_command
from portlease import _states
from portlease.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Ours, and none that happens to be installed; a page names those that it speaks of besides.
_PLUGINS: Final = ("portlease.pytest_plugin", "no:cacheprovider")
# What a fence may call itself besides a language: test_docs_site.py builds the site.
_OF_THE_SITE: Final = {"{eval-rst}", "{toctree}", "{cli-help}", "{include}"}
_SOURCES: Final = {"c", "go", "java", "javascript"}
_INSTALLS: Final = re.compile(r"(?:sudo )?(pip|apt-get|python -m pip)\b.*? install (.*)")
_HANG_S: Final = 250.0  # a command of a page may be many commands
# Lines that a machine of CI has had done before: its package lists.
_DONE: Final = ("apt-get update", "sudo apt-get update")


class Reader:
    """Does what a page says."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self._output: str | None = None
        """What the last block wrote, for a block of text that shows it."""
        self._files: dict[str, Block] = {}
        self._used = ""
        """All that could name a file, for the question whether a file is of any use."""

    def read(self) -> None:
        """Do all of it; the first block that is not as it says fails the test."""
        for program in self.page.marks.get("needs", "").split():
            need.program(program)
        for part in self.page.parts:
            if isinstance(part, File):
                self._write(part.name, part.text)
            elif "tested by" not in part.marks:
                self._do(part)
        self._run_what_was_not_run()

    # --- a block --------------------------------------------------------------------------------

    def _do(self, block: Block) -> None:
        if block.language in _OF_THE_SITE:
            return
        do = getattr(self, f"_{block.language}", None)
        if block.language in _SOURCES:
            do = self._source
        assert do is not None, f"{block}: nobody knows how to run this language"
        if block.file is not None:
            self._write(block.file, block.text)
            self._files[block.file] = block
        do(block)
        if block.file is None:
            self._used += block.text

    def _python(self, block: Block) -> None:
        tree = ast.parse(block.text, str(block))
        if "not run" in block.marks or block.file is not None:
            self._used += "".join(
                f" {ast.unparse(node)}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
            )
            return
        if re.search(r"^(async )?(def|class) test_|^@pytest\.fixture", block.text, re.MULTILINE):
            name = f"test_line_{block.line}.py"
            self._write(name, block.text)
            self._run(block, f"pytest -q {name}")
            (self.folder / name).unlink()
        else:
            self._output = self._run(block, [sys.executable, "-W", "error", "-c", block.text])

    def _text(self, block: Block) -> None:
        """What the block before it has written."""
        if "not run" in block.marks:
            return
        assert self._output is not None, f"{block}: the output of what?"
        _compare(block, self._output, block.text)
        self._output = None

    def _console(self, block: Block) -> None:
        """Commands behind dollars, each with what it writes."""
        for command, shown in _session(block):
            if "not run" in block.marks or " ..." in command:
                _must_parse(block, command)
                continue
            done = self._run(block, command)
            if shown.strip():
                _compare(block, done, shown)

    def _sh(self, block: Block) -> None:
        """A script, or its lines one by one if they are many commands."""
        # Dots in place of arguments: a pattern, and no command yet.
        if "not run" in block.marks or " ..." in block.text:
            for line in _lines(block.text):
                _must_parse(block, line)
            return
        for line in _lines(block.text):
            if made := re.fullmatch(r"make ([\w-]+).*", line):
                assert f"\n{made[1]}:" in (ROOT / "Makefile").read_text(), f"{block}: {line}"
        script = "\n".join(line for line in _lines(block.text) if not line.startswith("make "))
        if script and block.file is None:
            self._output = self._run(block, script)

    _bash = _sh

    def _yaml(self, block: Block) -> None:
        """Read; a workflow's commands are run."""
        found = yaml.safe_load(block.text)
        assert isinstance(found, dict | list), f"{block}: no YAML worth the name"
        for script in _scripts(found) if isinstance(found, dict) else ():
            if "not run" not in block.marks:
                self._run_in_ci(block, script)
                continue
            for line in _lines(script):
                _must_parse(block, line)

    def _toml(self, block: Block) -> None:
        """Read; pytest takes its options."""
        found = tomllib.loads(block.text)
        if "pytest" in found.get("tool", {}):
            self._configure(block, "pyproject.toml")

    def _ini(self, block: Block) -> None:
        """Read; pytest takes its options."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(block.text)
        if parser.has_section("pytest"):
            self._configure(block, "pytest.ini")

    def _configure(self, block: Block, name: str) -> None:
        with tempfile.TemporaryDirectory() as alone:
            Path(alone, name).write_text(block.text, encoding="utf-8")
            Path(alone, "test_it.py").write_text("def test_it(): ...\n", encoding="utf-8")
            self._run(block, "pytest -q --collect-only", folder=Path(alone))

    def _json(self, block: Block) -> None:
        json.loads(block.text)

    def _mermaid(self, block: Block) -> None:
        assert block.text.strip() == _states.diagram(), f"{block}: draws another table"

    def _source(self, block: Block) -> None:
        """A file in a language that is compiled: some later command uses it."""
        assert block.file is not None, f"{block}: let its first line be a comment with its name"

    # --- a command ------------------------------------------------------------------------------

    def _run_in_ci(self, block: Block, script: str) -> None:
        """As a CI's machine does, but that what is to be installed must be here already."""
        rest = []
        for line in script.splitlines():
            if found := _INSTALLS.fullmatch(line.strip()):
                _must_be_installed(block, found[1], found[2])
            elif line.strip() not in _DONE:
                rest.append(line)
        if rest:
            self._run(block, "\n".join(rest))

    def _run(self, block: Block, command: str | Sequence[str], folder: Path | None = None) -> str:
        """Run it, and return all that it wrote; its status must be the one that is said."""
        if isinstance(command, str) and "docker compose" in command:
            need.program("docker-compose")  # what Debian calls it
            command = command.replace("docker compose", "docker-compose")
        words = ["bash", "-euc", command] if isinstance(command, str) else list(command)
        if "anywhere" not in self.page.marks:
            words = netns_command(words)
        done = subprocess.run(
            words,
            cwd=folder or self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment(),
            timeout=_HANG_S,
            check=False,
        )
        said = int(block.marks.get("status", "0"))
        assert done.returncode == said, f"{block}: status {done.returncode}\n{done.stdout}"
        self._used += f" {command}"
        return done.stdout

    def _environment(self) -> dict[str, str]:
        plugins = self.page.marks.get("plugins", "").split()
        env = {name: text for name, text in environment().items() if not _is_pytests(name)}
        return {
            **env,
            "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
            "PYTEST_ADDOPTS": " ".join(f"-p {name}" for name in (*_PLUGINS, *plugins)),
            # In a user namespace pytest takes itself for root, whose /tmp/pytest-of-root may exist.
            "PYTEST_DEBUG_TEMPROOT": str(self.folder.parent),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "COLUMNS": "80",
        }

    # --- files ----------------------------------------------------------------------------------

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            path.chmod(0o755)

    def _run_what_was_not_run(self) -> None:
        """Files of tests that no command of the page has run; every other must have been used."""
        tests = []
        for name, block in self._files.items():
            path = Path(name)
            by_pytest = re.search(r"\bpytest\b", self._used)
            if path.name.startswith("test_") and path.suffix == ".py":
                if not by_pytest and "not run" not in block.marks:
                    tests.append((name, block))
                continue
            used = path.stem in self._used or path.name in _FOUND or path.parts[0][0] == "."
            used |= path.suffix == ".go" and "go test" in self._used
            assert used or "not run" in block.marks, f"{block}: nothing on the page uses {name}"
        if tests:
            self._run(tests[0][1], "pytest -q " + " ".join(shlex.quote(name) for name, _ in tests))


# Files that programs find by themselves.
_FOUND: Final = {"conftest.py", "pytest.ini", "pyproject.toml", "go.mod", "compose.yaml", "pom.xml"}


def _is_pytests(name: str) -> bool:
    return name.startswith(("PYTEST_", "COV_CORE_", "PORTLEASE_"))


def _lines(text: str) -> list[str]:
    """The commands, without comments and with continued lines joined."""
    joined = text.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s+)# .*", "", line).rstrip() for line in joined.splitlines())
    return [line for line in lines if line.strip()]


def _session(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console, and what is shown below it."""
    first, *found = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not first.strip(), f"{block}: a console begins with `$ COMMAND`"
    assert found, f"{block}: no command"
    for each in found:
        lines = each.splitlines(keepends=True)
        command = lines.pop(0)
        while command.endswith("\\\n") or (lines and lines[0].startswith("> ")):
            command += lines.pop(0).removeprefix("> ")
        yield command, "".join(lines)


def _must_parse(block: Block, line: str) -> None:
    """Every call of portlease in the line is one that portlease takes, whatever it would run."""
    for words in _calls(line):
        context = click.Context(app, info_name="portlease", **app.context_settings)
        if words[:1] == [] or words[0].startswith("-"):
            continue
        command = app.get_command(context, words[0])
        assert command is not None, f"{block}: {line}"
        try:
            command.make_context(words[0], words[1:], context).close()
        except click.UsageError as error:
            raise AssertionError(f"{block}: {line}: {error.format_message()}") from error


def _calls(line: str) -> Iterator[list[str]]:
    """The arguments of each `portlease ARGS...` in a shell's line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] | None = None
    first = True
    for word in [*lexer, ";"]:
        if word in _REDIRECTIONS and words is not None:
            words = _Redirected(words)
        elif set(word) <= set("();|&"):
            if words is not None:
                yield list(words)
            words, first = None, True
        elif words is not None and not isinstance(words, _Redirected):
            words.append(re.sub(r"\$(\$|\w+)", "1", word))  # a shell's variable: a number, mostly
        elif first and word == "portlease":
            words = []
        else:
            first = first and ("=" in word or word in {"do", "then", "if", "until", "while"})


_REDIRECTIONS: Final = {"<", ">", ">>", "<&", ">&", "2>"}


class _Redirected(list[str]):
    """The words of a call whose files come now."""


def _scripts(workflow: dict[object, object]) -> Iterator[str]:
    """The commands of a workflow of GitHub's (jobs: steps: run:) or GitLab's (script:)."""
    jobs = workflow.get("jobs", workflow)
    for job in jobs.values() if isinstance(jobs, dict) else ():
        if not isinstance(job, dict):
            continue
        for step in job.get("steps", ()):
            if "run" in step:
                yield str(step["run"])
        for part in ("before_script", "script"):
            if part in job:
                yield "\n".join(map(str, job[part]))


def _must_be_installed(block: Block, by: str, names: str) -> None:
    for name in shlex.split(names):
        if name.startswith("-"):
            continue
        if by == "apt-get":
            wanted = (ROOT / ".ci" / "install").read_text(encoding="utf-8")
            assert re.search(rf"[:,]{re.escape(name)}\b", wanted), f"{block}: {name}"
        else:
            found = {one.name for one in importlib.metadata.distributions()}
            assert re.sub(r"\[.*", "", name) in found, f"{block}: {name} is not installed"


def _compare(block: Block, written: str, shown: str) -> None:
    """Numbers, rulers and widths differ from run to run; a line of dots stands for any lines."""
    if "some of" in block.marks:
        missing = set(normal(shown).splitlines()) - set(normal(written).splitlines())
        assert not missing, f"{block}: {missing} not in\n{written}"
        return
    pattern = "\n".join(
        ".*" if line == "..." else re.escape(line) for line in normal(shown).splitlines()
    )
    assert re.fullmatch(pattern, normal(written), re.DOTALL), (
        f"{block} shows\n{normal(shown)}\nand was\n{normal(written)}\n--- as it is:\n{written}"
    )


def normal(text: str) -> str:
    """The text without what differs from run to run."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"\d+\.\d+(ms|s)?\b", "N", text)
    text = re.sub(r"\b[0-9a-f]{16}\b", "HEX", text)
    text = re.sub(r"\d+(\.\d+)?(ms|s)?\b", "N", text)
    # Known only where it was tried before the test was over.
    text = re.sub(r", bound at \S+(?=;)", "", text)
    text = re.sub(r"\bN (\w+?)s\b", r"N \1", text)  # 1 round, 2 rounds
    text = re.sub(r"([=_-])\1{2,}", r"\1\1\1", text)
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)
