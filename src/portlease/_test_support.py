"""What the drop-in helpers share with `test.support` where somebody has loaded it.

`test.support` is looked up in `sys.modules` at the moment of use and never imported: it may not be
installed, and to import it changes the process (it starts faulthandler's bookkeeping, reads the
build's configuration, costs some 30 ms).

The exceptions: `ResourceDenied` and `TestFailed` are ours. Where `test.support` is loaded, what is
raised is an instance of a class that derives from ours and from its namesake there, made once for
each, so that `except` on either name catches it.
"""

from __future__ import annotations

import sys
from unittest import SkipTest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _Error = TypeVar("_Error", "ResourceDenied", "TestFailed")

DEFAULT_INTERNET_TIMEOUT_S = 60.0
"""CPython's INTERNET_TIMEOUT where its test runner has not been told another."""


class ResourceDenied(SkipTest):
    """Something that the test needs and this machine does not have; the test is skipped."""


class TestFailed(Exception):  # noqa: N818 - the name is test.support's
    """The test itself is at fault: it did what no test may do.

    Attributes:
        msg: what it did.
        stats: None; the name is CPython's, whose test runner keeps its figures there.
    """

    __test__ = False  # pytest: no class of tests, whatever its name

    msg: str
    stats: object

    def __init__(self, msg: str, *args: object, stats: object = None) -> None:
        super().__init__(msg, *args)
        self.msg = msg
        self.stats = stats

    def __str__(self) -> str:
        return self.msg


def resource_denied(message: str) -> ResourceDenied:
    """Make the exception to raise: ours, and test.support's too if that is loaded."""
    return _of_both(ResourceDenied)(message)


def test_failed(message: str) -> TestFailed:
    """Make the exception to raise: ours, and test.support's too if that is loaded."""
    return _of_both(TestFailed)(message)


test_failed.__test__ = False  # type: ignore[attr-defined]  # pytest: no test, whatever its name


def verbose() -> int:
    """Tell test.support's verbosity: 0 is quiet; 1, its own default, if it is not loaded."""
    return int(_setting("verbose", 1))


def internet_timeout_s() -> float:
    """Tell test.support's INTERNET_TIMEOUT in seconds, or its default."""
    return float(_setting("INTERNET_TIMEOUT", DEFAULT_INTERNET_TIMEOUT_S))


def warn(message: str) -> None:
    """Tell the person who runs the tests something, whatever a test does to standard error."""
    print_warning = _setting("print_warning", None)
    if print_warning is not None:
        print_warning(message)
        return
    stream = sys.__stderr__ or sys.stderr
    if stream is not None:
        stream.write(f"Warning -- {message}\n")
        stream.flush()


def _setting(name: str, default: Any) -> Any:  # noqa: ANN401 - whatever test.support has there
    return getattr(sys.modules.get("test.support"), name, default)


_made: dict[tuple[type, type], Any] = {}


def _of_both(ours: type[_Error]) -> type[_Error]:
    """Give a class that derives from ours and from its namesake in test.support, if loaded."""
    theirs = _setting(ours.__name__, None)
    if theirs is None:
        return ours
    key = (ours, theirs)
    if key not in _made:
        # __reduce__: such a class has no importable name, and exceptions cross processes
        # (pytest-xdist, multiprocessing). It arrives as what fits where it arrives.
        namespace = {"__reduce__": _reduce, "__module__": __name__, "__doc__": ours.__doc__}
        _made[key] = type(ours.__name__, key, namespace)
    return _made[key]  # type: ignore[no-any-return]


_makers = {ResourceDenied: resource_denied, TestFailed: test_failed}


def _reduce(error: BaseException) -> tuple[Any, ...]:
    maker = next(maker for ours, maker in _makers.items() if isinstance(error, ours))
    return maker, error.args
