"""How long others are waited for, and how soon what failed is tried again: arithmetic, on a clock that is fair.

Law: nobody is judged for time in which the judge himself stood still.  A machine that stalls for a second stalls the
control process and its workers alike; by the wall they would all be late, and be killed for it.
"""

from __future__ import annotations

from typing import Final


class AwakeClock:
    """Seconds in which this process was running, so far as it can tell by looking often."""

    def __init__(self, now: float) -> None:
        """`now` is a monotonic clock's seconds, here and below."""
        self._last = now
        self._awake = 0.0

    def read(self, now: float, most: float) -> float:
        """The seconds until now; what has passed since the last look counts `most` at the most."""
        self._awake += min(max(now - self._last, 0.0), most)
        self._last = now
        return self._awake


class Backoff:
    """How long to wait before what ended is begun again: not at all, 0.1 s, 0.2 s … 5 s as long as it ends young."""

    FIRST: Final = 0.1
    LONGEST: Final = 5.0
    #: Seconds of life after which an end is not held against the next beginning.
    GROWN: Final = 5.0

    def __init__(self) -> None:
        self._young = 0

    @property
    def failures(self) -> int:
        """How many ended young, one after another."""
        return self._young

    def delay(self, lived: float) -> float:
        """Seconds to wait after a life of `lived` seconds (0: it did not come to serve)."""
        self._young = 0 if lived >= self.GROWN else self._young + 1
        if self._young < 2:
            return 0.0
        return float(min(self.FIRST * 2 ** min(self._young - 2, 10), self.LONGEST))
