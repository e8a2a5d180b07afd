"""``python -m benchmarks.lint``."""

import sys

from .run import main

sys.exit(main())
