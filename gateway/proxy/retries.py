"""How many requests may be sent again: a budget, so that a failing upstream is not stormed by retries.

Law: over a window, at most a fifth of a service's requests are retries (Finagle's and Linkerd's retry budget), or
`RESERVE` where there is hardly any traffic.  Pure; the window is moved by whoever has the clock.
"""

from __future__ import annotations

from typing import Final

#: At most one request in so many is sent again.
ONE_IN: Final = 5
#: Retries that may always be made in a window.
RESERVE: Final = 3
#: The length of half a window, in nanoseconds.
HALF: Final = 5_000_000_000

#: RFC 9110 §9.2.2: sent twice they do what they do once.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class RetryBudget:
    """One service's budget.  `asked` is counted up with each request, by who forwards it."""

    __slots__ = ("_asked_before", "_moves", "_spent", "_spent_before", "asked")

    def __init__(self) -> None:
        self.asked = 0
        self._asked_before = 0
        self._spent = 0
        self._spent_before = 0
        self._moves = 0

    def spend(self) -> bool:
        """May one more request be sent again?  If so, it is counted."""
        allowed = max(RESERVE, (self.asked + self._asked_before) // ONE_IN)
        if self._spent + self._spent_before >= allowed:
            return False
        self._spent += 1
        return True

    def move(self, now: int) -> None:
        """Let the window follow the clock; `now` in nanoseconds."""
        if now < self._moves:
            return
        if not self._moves:  # the first window begins
            self._moves = now + HALF
            return
        if now >= self._moves + HALF:  # nobody has looked for longer than a window
            self._asked_before = self._spent_before = 0
        else:
            self._asked_before, self._spent_before = self.asked, self._spent
        self.asked = self._spent = 0
        self._moves = now + HALF
