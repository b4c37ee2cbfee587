"""The arithmetic of fixed windows and token buckets: plain functions over plain integers, time handed in (law 1).

Times and lengths are whole nanoseconds on a monotonic clock, so nothing is rounded or quantised.  The state of
one identity is a flat tuple `(length, a, b, length, a, b, …)`, one triple a window, found by its length alone:
a limit is never part of the state, so changed limits go on from the counts that stand.  States are never
changed in place: who wants to count takes the new state and stores it, who refuses stores nothing.

The sliding window keeps a log instead, in `gateway.counters.sliding`; all three answer to `Algorithm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from gateway.core.ports import WindowState
from gateway.core.units import Rate

SECOND = 1_000_000_000

#: `(limit, length)` of one window, the length in nanoseconds.
Window = tuple[int, int]
Windows = tuple[Window, ...]
States = tuple[WindowState, ...]

#: `(length, a, b, …)`: each algorithm says what `a` and `b` are.  No window counts at `a + length` or later.
FlatState = tuple[int, ...]

S = TypeVar("S")


class Algorithm(Protocol[S]):
    """One way of counting.  `state` is what is known of an identity (None: nothing), `now` never goes back.

    The windows of one call differ in length, and every limit is at least 1.
    """

    def admits(self, state: S | None, windows: Windows, now: int) -> bool:
        """Whether every window has room for one request at `now`."""
        ...

    def count(self, state: S | None, windows: Windows, now: int) -> tuple[S, States]:
        """Count one request, which `admits` let in: the state to store, and what each window then has left."""
        ...

    def look(self, state: S | None, windows: Windows, now: int) -> States:
        """What each window has left, nothing counted; see `gateway.core.ports.WindowState`."""
        ...

    def idle(self, state: S, now: int) -> bool:
        """Whether `state` can be forgotten: no window that was ever asked about counts anything any more."""
        ...

    def copy(self, state: S) -> S:
        """An independent copy."""
        ...


def windows_of(rates: Sequence[Rate]) -> Windows:
    """The windows of `rates`, in their order."""
    return tuple((rate.limit, rate.seconds * SECOND) for rate in rates)


def _find(state: FlatState | None, length: int) -> tuple[int, int] | None:
    if state is not None:
        for index in range(0, len(state), 3):
            if state[index] == length:
                return state[index + 1], state[index + 2]
    return None


def _carry(state: FlatState | None, changed: list[int], now: int) -> FlatState:
    """`changed`, and those windows of `state` that were not asked about but still count: their limits may come back."""
    if state is not None:
        asked = changed[::3]
        for index in range(0, len(state), 3):
            if state[index] not in asked and state[index + 1] + state[index] > now:
                changed += state[index : index + 3]
    return tuple(changed)


class _Flat:
    def idle(self, state: FlatState, now: int) -> bool:
        return all(state[index + 1] + state[index] <= now for index in range(0, len(state), 3))

    def copy(self, state: FlatState) -> FlatState:
        return state


class FixedWindow(_Flat):
    """The first request opens a window; when its length has passed, all that it held is forgotten at once.

    Of each triple, `a` is when the window opened and `b` how many requests it holds.
    """

    @staticmethod
    def _held(state: FlatState | None, length: int, now: int) -> tuple[int, int]:
        found = _find(state, length)
        return (now, 0) if found is None or found[0] + length <= now else found

    def admits(self, state: FlatState | None, windows: Windows, now: int) -> bool:
        return all(self._held(state, length, now)[1] < limit for limit, length in windows)

    def count(self, state: FlatState | None, windows: Windows, now: int) -> tuple[FlatState, States]:
        changed: list[int] = []
        seen: list[WindowState] = []
        for limit, length in windows:
            opened, held = self._held(state, length, now)
            changed += (length, opened, held + 1)
            seen.append((limit - held - 1, opened + length - now))
        return _carry(state, changed, now), tuple(seen)

    def look(self, state: FlatState | None, windows: Windows, now: int) -> States:
        seen: list[WindowState] = []
        for limit, length in windows:
            opened, held = self._held(state, length, now)
            seen.append((max(0, limit - held), opened + length - now if held else 0))
        return tuple(seen)


class TokenBucket(_Flat):
    """A bucket of `limit` tokens that refills evenly, `limit` tokens in each `length`; a request takes one.

    Of each triple, `a` is when a token was last taken, and `b` how much was missing then, in tokens times
    `length`: a nanosecond refills exactly `limit` of that unit, so everything stays a whole number.  No more
    than the whole bucket can be missing, also where a changed limit has made it smaller.
    """

    @staticmethod
    def _missing(state: FlatState | None, limit: int, length: int, now: int) -> int:
        found = _find(state, length)
        return 0 if found is None else max(0, min(found[1], limit * length) - (now - found[0]) * limit)

    @staticmethod
    def _left(missing: int, limit: int, length: int) -> WindowState:
        taken = -(-missing // length)
        return limit - taken, -(-(missing - (taken - 1) * length) // limit) if taken else 0

    def admits(self, state: FlatState | None, windows: Windows, now: int) -> bool:
        return all(self._missing(state, limit, length, now) <= (limit - 1) * length for limit, length in windows)

    def count(self, state: FlatState | None, windows: Windows, now: int) -> tuple[FlatState, States]:
        changed: list[int] = []
        seen: list[WindowState] = []
        for limit, length in windows:
            missing = self._missing(state, limit, length, now) + length
            changed += (length, now, missing)
            seen.append(self._left(missing, limit, length))
        return _carry(state, changed, now), tuple(seen)

    def look(self, state: FlatState | None, windows: Windows, now: int) -> States:
        return tuple(self._left(self._missing(state, limit, length, now), limit, length) for limit, length in windows)
