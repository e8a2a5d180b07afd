"""``python -m portlease``: the command line."""

import sys

from portlease.cli import main

if __name__ == "__main__":
    sys.exit(main())
