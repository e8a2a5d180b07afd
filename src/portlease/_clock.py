"""Seconds on a clock that goes on, whatever a test does to the time.

freezegun and the like put a function of theirs in the place of ``time.monotonic``: what is waited
for until a deadline would then be waited for without end.
"""

from __future__ import annotations

import sys
import time

if sys.platform == "win32":
    now_s = time.monotonic
else:

    def now_s() -> float:
        """As time.monotonic(), which reads this very clock (clock_gettime(2))."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)
