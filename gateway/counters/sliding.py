"""The sliding window: in no stretch of `length` nanoseconds are more than `limit` requests admitted.

An admitted request counts from its moment `t` until just before `t + length`.  All windows of an identity share
one log of these moments, each window with a cursor at its oldest moment that still counts; a cursor only moves
forward, so what a window holds is known in amortised constant time.  The log never holds a limit, so changed
limits go on from the counts that stand, and a new window finds its place by bisection.

An identity seen once is a bare number: its moment and, in the low bits, how long it must be remembered.  From
the second request on it is a `SlidingLog`, a ring that grows as it is used, up to the longest window's limit.
"""

from __future__ import annotations

from array import array

from gateway.core.ports import Verdict, WindowState
from gateway.core.units import MAX_WINDOW
from gateway.counters.windows import SECOND, States, Windows

#: Low bits of a bare number: whole seconds that it must be remembered.
_BITS = MAX_WINDOW.bit_length()
_MASK = (1 << _BITS) - 1

_FIRST_SIZE = 4
#: Moments that a cursor passes one by one before it bisects.
_STEPS = 8


class SlidingLog:
    """The moments of one identity.

    Positions are numbered on for ever; position `p` lies at `ring[p % size]`.  Those from `start` to before `end`
    are kept, every cursor lies between them.  `horizon` is the longest window asked about lately, in nanoseconds,
    and `aimed` when the set of windows last changed.  `source` is free for whoever makes `windows`: what they
    were made of, None once they have changed.
    """

    __slots__ = ("aimed", "cursors", "end", "horizon", "ring", "size", "source", "start", "windows")

    def __init__(self, moments: array[int], horizon: int) -> None:
        self.ring = moments
        self.size = len(moments)
        self.start = 0
        self.end = self.size
        self.horizon = horizon
        self.aimed = 0
        self.windows: Windows = ()
        self.source: object = None
        self.cursors: list[int] = []

    def take(self, windows: Windows, now: int) -> Verdict:
        """Count one request in every window, or in none."""
        if windows is not self.windows:
            self.aim(windows, now)
        ring, size, end, cursors = self.ring, self.size, self.end, self.cursors
        states: list[WindowState] = []
        index = 0
        for limit, length in windows:
            cursor = cursors[index]
            left = length
            if cursor < end:
                left += ring[cursor % size] - now
                if left <= 0:
                    # Mostly just one has gone since the last call; many may have after a pause.
                    cursor += 1
                    if cursor < end and ring[cursor % size] + length <= now:
                        cursor = self._advance(cursor, now - length)
                    cursors[index] = cursor
                    left = length + ring[cursor % size] - now if cursor < end else length
            room = limit - end + cursor
            if room <= 0:
                return Verdict(False, self.look(windows, now))
            states.append((room - 1, left))
            index += 1  # noqa: SIM113 - the hot path: enumerate makes a tuple a window
        if end - self.start >= size:
            self._make_room(now)
            ring, size, end = self.ring, self.size, self.end
        ring[end % size] = now
        self.end = end + 1
        return Verdict(True, states)

    def undo(self) -> None:
        """Take back the request that the last `take` counted."""
        self.end -= 1

    def admits(self, windows: Windows, now: int) -> bool:
        """Whether every window has room."""
        if windows is not self.windows:
            self.aim(windows, now)
        for index, (limit, length) in enumerate(windows):
            self.cursors[index] = cursor = self._advance(self.cursors[index], now - length)
            if self.end - cursor >= limit:
                return False
        return True

    def look(self, windows: Windows, now: int) -> States:
        """What every window has left, nothing counted."""
        if windows is not self.windows:
            self.aim(windows, now)
        states: list[WindowState] = []
        for index, (limit, length) in enumerate(windows):
            self.cursors[index] = cursor = self._advance(self.cursors[index], now - length)
            held = self.end - cursor
            if held >= limit:
                # Room comes when all but `limit - 1` of them are gone.
                states.append((0, self.ring[(self.end - limit) % self.size] + length - now))
            else:
                states.append((limit - held, self.ring[cursor % self.size] + length - now if held else 0))
        return tuple(states)

    def idle(self, now: int) -> bool:
        """Whether no window counts anything any more."""
        return self.start == self.end or self.ring[(self.end - 1) % self.size] + self.horizon <= now

    def copy(self) -> SlidingLog:
        """An independent copy."""
        return SlidingLog(self._moments(self.start), self.horizon)

    def aim(self, windows: Windows, now: int) -> None:
        """Point the cursors at another set of windows; mostly it is the old one with other limits, or none."""
        lengths = [length for _, length in windows]
        if lengths != [length for _, length in self.windows]:
            self.cursors = [self._advance(self.start, now - length) for length in lengths]
            self.horizon = max(self.horizon, *lengths)
            self.aimed = now
        self.windows = windows
        self.source = None

    def _advance(self, position: int, gone: int) -> int:
        """The first position from `position` on whose moment is later than `gone`."""
        ring, size, end = self.ring, self.size, self.end
        steps = min(position + _STEPS, end)
        while position < steps:
            if ring[position % size] > gone:
                return position
            position += 1
        above = end
        while position < above:
            middle = (position + above) >> 1
            if ring[middle % size] > gone:
                above = middle
            else:
                position = middle + 1
        return position

    def _moments(self, start: int) -> array[int]:
        """What is kept from position `start` on, in order."""
        if start == self.end:
            return array("q")
        low, high = start % self.size, self.end % self.size
        return self.ring[low:high] if low < high else self.ring[low:] + self.ring[:high]

    def _make_room(self, now: int) -> None:
        """Forget what no window counts any more; grow the ring if that frees nothing."""
        longest = max(length for _, length in self.windows)
        if now - self.aimed >= self.horizon:
            # The longer windows of an earlier set have not been asked about for as long as they last.
            self.horizon = longest
        self.start = start = self._advance(self.start, now - self.horizon)
        held = self.end - start
        if held < self.size:
            return
        limit = max(limit for limit, length in self.windows if length == longest)
        size = 2 * self.size if self.size >= limit else min(max(2 * self.size, _FIRST_SIZE), limit)
        ring = self._moments(start)
        ring.frombytes(bytes(ring.itemsize * (size - held)))
        self.ring, self.size = ring, size
        self.cursors = [cursor - start for cursor in self.cursors]
        self.start, self.end = 0, held


#: What is known of an identity: a bare number, or a log.
SlidingState = int | SlidingLog


class SlidingWindow:
    """The algorithm over either form; see `gateway.counters.windows.Algorithm`."""

    def admits(self, state: SlidingState | None, windows: Windows, now: int) -> bool:
        if isinstance(state, SlidingLog):
            return state.admits(windows, now)
        if state is None:
            return True
        return all(limit > 1 or (state >> _BITS) + length <= now for limit, length in windows)

    def count(self, state: SlidingState | None, windows: Windows, now: int) -> tuple[SlidingState, States]:
        if isinstance(state, int):
            if self.idle(state, now) and (state >> _BITS) + max(length for _, length in windows) <= now:
                state = None
            else:
                state = SlidingLog(array("q", (state >> _BITS,)), (state & _MASK) * SECOND)
        if state is None:
            longest = max(length for _, length in windows)
            return now << _BITS | longest // SECOND, tuple((limit - 1, length) for limit, length in windows)
        return state, tuple(state.take(windows, now).states)

    def look(self, state: SlidingState | None, windows: Windows, now: int) -> States:
        if isinstance(state, SlidingLog):
            return state.look(windows, now)
        states: list[WindowState] = []
        for limit, length in windows:
            left = 0 if state is None else (state >> _BITS) + length - now
            states.append((limit - 1, left) if left > 0 else (limit, 0))
        return tuple(states)

    def idle(self, state: SlidingState, now: int) -> bool:
        if isinstance(state, SlidingLog):
            return state.idle(now)
        return (state >> _BITS) + (state & _MASK) * SECOND <= now

    def copy(self, state: SlidingState) -> SlidingState:
        return state.copy() if isinstance(state, SlidingLog) else state
