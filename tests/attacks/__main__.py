"""``python tests/attacks`` and ``make attacks``: see tests/_attacks.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _attacks import main

if __name__ == "__main__":
    sys.exit(main())
