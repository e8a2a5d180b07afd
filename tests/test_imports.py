"""What `import portlease` costs and offers."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import portlease

SOURCE = Path(portlease.__file__).parent


def in_bare_python(script: str) -> Any:  # noqa: ANN401 - as JSON has it
    """Run *script* without site and its packages; return what it prints, as JSON."""
    command = [sys.executable, "-I", "-S", "-W", "error", "-c"]
    first = f"import json, sys; sys.path.insert(0, {str(SOURCE.parent)!r})\n"
    done = subprocess.run([*command, first + script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def loaded_by(statement: str) -> set[str]:
    """The modules that *statement* loads, beyond those of `import socket`."""
    script = f"import socket; before = set(sys.modules); {statement}\n"
    return set(in_bare_python(script + "print(json.dumps(sorted(set(sys.modules) - before)))"))


def test_importing_it_loads_nothing_heavy() -> None:
    """A few small modules of the standard library, and none of the costly ones."""
    others = {name for name in loaded_by("import portlease") if not name.startswith("portlease")}
    assert others <= {
        "__future__",
        "_weakref",
        "array",
        "atexit",
        "_warnings",
        "_operator",
        "_thread",
        "collections.abc",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("asyncio", "click", "ctypes", "dataclasses", "filelock", "inspect", "json", "logging"),
        *("pathlib", "random", "rich", "signal", "subprocess", "tempfile", "threading", "typing"),
        *("unittest", "weakref"),
    ],
)
def test_a_lease_loads_nothing_heavy_either(name: str) -> None:
    """Nor do taking, every move, and giving back."""
    used = LOADED.setdefault(
        "lease",
        loaded_by(
            "import portlease\n"
            "with portlease.lease() as one:\n"
            "    one.withdraw(); one.step_aside(); one.take_back(); one.hand_over().close()\n"
            "portlease.lease_many(2, 'both').release(); portlease.lease_block(2).release()\n"
        ),
    )
    assert name not in used


LOADED: dict[str, set[str]] = {}


def test_all_of_it_is_of_the_standard_library() -> None:
    """Every public name can be used in a Python without any package installed."""
    script = (
        "import portlease; [getattr(portlease, name) for name in portlease.__all__]\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    # What the file system says is not of the standard library would have failed to import, as
    # there is no site-packages in that interpreter: this only names it.
    found = set(in_bare_python(script))
    assert found - {"portlease", "__main__"} <= set(sys.stdlib_module_names) | {
        name for name in found if name.startswith("_sysconfigdata")
    }


def test_every_public_name_is_there() -> None:
    """__all__ is sorted as ruff sorts, complete, and each name resolves, the lazy ones too."""
    assert len(set(portlease.__all__)) == len(portlease.__all__)
    for name in portlease.__all__:
        assert getattr(portlease, name) is not None
    promised = (
        "lease lease_many lease_block Lease LeaseGroup LeaseInfo State leases who Who serve Server "
        "find_unused_port bind_port HOST bind_unix_socket transient_internet ResourceDenied"
    )
    assert set(promised.split()) <= set(portlease.__all__)
    public = {
        name
        for name, value in vars(portlease).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public - {"annotations", "TYPE_CHECKING"} <= set(portlease.__all__)


def test_lazy_names_are_loaded_once_and_stay() -> None:
    """The first use loads the module, the second finds the name."""
    found = in_bare_python(
        "import portlease\n"
        "before = 'who' in vars(portlease), 'portlease._who' in sys.modules\n"
        "portlease.who\n"
        "print(json.dumps([before, 'who' in vars(portlease), 'portlease._who' in sys.modules]))"
    )
    assert found == [[False, False], True, True]


def test_dir_shows_the_lazy_names() -> None:
    """For people who look round in a shell."""
    assert set(portlease.__all__) <= set(dir(portlease))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        portlease.nonsense  # noqa: B018 - the look-up is the test


@pytest.mark.parametrize("module", ["socket_helper", "script_helper"])
def test_the_drop_ins_are_found_as_attributes(module: str) -> None:
    """`import portlease` and then portlease.socket_helper works, without loading it before."""
    found = in_bare_python(
        f"import portlease; early = 'portlease.{module}' in sys.modules\n"
        f"print(json.dumps([early, portlease.{module}.__name__]))"
    )
    assert found == [False, f"portlease.{module}"]


def test_a_star_import_gives_all() -> None:
    """And nothing else."""
    found = in_bare_python(
        "space = {}; exec('from portlease import *', space); space.pop('__builtins__')\n"
        "print(json.dumps(sorted(space)))"
    )
    assert found == sorted(portlease.__all__)


def test_it_says_that_it_is_typed() -> None:
    """PEP 561."""
    assert (SOURCE / "py.typed").is_file()


@pytest.mark.parametrize("name", portlease.__all__)
def test_every_public_callable_is_documented_and_annotated(name: str) -> None:
    """Every parameter and every return, methods included."""
    value = getattr(portlease, name)
    if not callable(value):
        return
    assert inspect.getdoc(value)
    if not getattr(value, "__module__", "").startswith("portlease"):
        return
    functions = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value) and not hasattr(value, "_fields"):
        functions += [
            member
            for member_name, member in vars(value).items()
            if inspect.isfunction(member) and not member_name.startswith("_")
        ]
    for function in functions:
        assert inspect.getdoc(function), function
        signature = inspect.signature(function)
        assert signature.return_annotation is not signature.empty, function
        for parameter in signature.parameters.values():
            if parameter.name not in {"self", "cls"}:
                assert parameter.annotation is not parameter.empty, (function, parameter)


@pytest.mark.parametrize("name", ["lease", "lease_many", "lease_block", "serve"])
def test_options_are_given_by_keyword(name: str) -> None:
    """Nobody has to count arguments, and new ones can be added anywhere."""
    kinds = [
        parameter.kind
        for parameter in inspect.signature(getattr(portlease, name)).parameters.values()
    ]
    positional = [kind for kind in kinds if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 2
    assert inspect.Parameter.KEYWORD_ONLY in kinds


def test_every_module_can_be_imported_alone() -> None:
    """No module rests on another having been imported before it."""
    if sys.platform != "linux":
        pytest.skip("the other systems' modules are not importable here")
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        for path in SOURCE.glob("_*.py")
        if path.stem not in {"__main__", "_keeper"}
    ]
    assert "portlease._lease" in modules
    failed = in_bare_python(
        "import os\n"
        f"failed = []\nfor name in {modules!r}:\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        try: __import__(name)\n"
        "        except BaseException as error: print(error, file=sys.stderr); os._exit(1)\n"
        "        os._exit(0)\n"
        "    if os.waitpid(pid, 0)[1]: failed.append(name)\n"
        "print(json.dumps(failed))"
    )
    assert failed == []


def test_it_can_be_imported_again() -> None:
    """importlib.reload() is what shells do."""
    assert importlib.import_module("portlease") is portlease
