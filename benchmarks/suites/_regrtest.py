"""CPython's own runner, with CPython's helpers or with portlease's.

    PYTHON _regrtest.py --helpers original|portlease --source SRC REGRTEST_ARGUMENTS...

Run by the interpreter whose `test` package is to be run; standard library only.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from pathlib import Path


def main() -> None:
    """Put the helpers in their place and hand over to regrtest, which exits."""
    parser = argparse.ArgumentParser(description="CPython's own tests, with either set of helpers.")
    parser.add_argument("--helpers", choices=("original", "portlease"), required=True)
    parser.add_argument("--source", type=Path, required=True, help="the directory with portlease")
    options, arguments = parser.parse_known_args()
    # A background job of a shell may have inherited that SIGINT is ignored; test_asyncio's tests
    # that interrupt themselves would then wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.helpers == "portlease":
        # How ours are put in place is known to the tests of the drop-in, which show it to be right.
        sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "dropin"))
        importlib.import_module("run_module").put_in_place(options.source)
    sys.argv = ["regrtest", *arguments]
    # By name: where the interpreter has no `test` package, nobody need know of it.
    importlib.import_module("test.libregrtest.main").main()


if __name__ == "__main__":
    main()
