"""The command line's entry: ``portlease``, and ``python -m portlease``."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line, whose libraries take a while to load.

    Returns:
        The exit status, see :mod:`portlease.cli._status`.
    """
    # Ctrl-C meanwhile ends us as it ends most programs: by the signal, and without a traceback.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from portlease import cli

    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
