"""``python -m benchmarks.soak``."""

import sys
from pathlib import Path

# For the modules that all benchmarks share.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from .run import main

sys.exit(main())
