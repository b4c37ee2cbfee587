"""More requests than the process can serve: the order of waiting, and its end.

Law: back-pressure first.  While the event loop keeps up nothing is held.  Once it runs late (`LATE`), a request whose
head has been read waits for its turn, first come, first served, and its connection is read no further than its inbox;
a turn of the loop begins what fits into `SLICE` and leaves the rest of the turn to requests in flight.  While those
in front have waited for a good part of `max_wait` no new connection is accepted: the kernel keeps them.  What has
waited longer than `max_wait` gets a fast 503, for almost nothing.  The clock is the loop's own: how late a timer runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic_ns
from typing import Final, Protocol

#: Nanoseconds between two looks at the loop's punctuality, and how late is too late.
LOOK: Final = 25_000_000
LATE: Final = 50_000_000
#: How much of a turn of the loop is spent on beginning what has waited, in nanoseconds.
SLICE: Final = 5_000_000


class Held(Protocol):
    """A connection whose request waits for its turn; `now` in nanoseconds."""

    def take_turn(self, now: int) -> None:
        """Begin."""
        ...

    def shed(self, now: int) -> None:
        """It has waited too long."""
        ...


class Gate(Protocol):
    """Where connections come in."""

    def pause(self) -> None:
        """Accept none for now; the kernel keeps them."""
        ...

    def resume(self) -> None:
        """Accept again."""
        ...


class Overload:
    """See the module.  `max_wait` in nanoseconds; `gates` are closed while too much waits."""

    __slots__ = ("_due", "_loop", "_queue", "_shut", "_timer", "_turning", "crowded", "gates", "max_wait")

    def __init__(self, loop: asyncio.AbstractEventLoop, max_wait: int) -> None:
        self._loop = loop
        self.max_wait = max_wait
        self.gates: list[Gate] = []
        #: True while requests wait for their turn.
        self.crowded = False
        self._queue: deque[tuple[int, Held]] = deque()
        self._turning = False
        self._shut = False
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look at the loop's punctuality."""
        self._due = monotonic_ns() + LOOK
        self._timer = self._loop.call_later(LOOK * 1e-9, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def hold(self, held: Held) -> None:
        """This connection's request waits for its turn."""
        self._queue.append((monotonic_ns(), held))
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _look(self) -> None:
        now = monotonic_ns()
        late = now - self._due
        self._due = now + LOOK
        self._timer = self._loop.call_later(LOOK * 1e-9, self._look)
        if late > LATE:
            self.crowded = True
        elif not self._queue:
            self.crowded = False
        self._mind_the_gates(now)

    def _mind_the_gates(self, now: int) -> None:
        waited = now - self._queue[0][0] if self._queue else 0
        if not self._shut and waited > self.max_wait // 4:
            self._shut = True
            for gate in self.gates:
                gate.pause()
        elif self._shut and waited < self.max_wait // 8:
            self._shut = False
            for gate in self.gates:
                gate.resume()

    def _turn(self) -> None:
        """Begin what fits into a slice; the loop goes on in between."""
        queue = self._queue
        now = monotonic_ns()
        until = now + SLICE
        try:
            while queue and now < until:
                since, held = queue.popleft()
                if now - since > self.max_wait:
                    held.shed(now)
                else:
                    held.take_turn(now)
                now = monotonic_ns()
        finally:  # whatever one of them broke, the others' turn must come
            self._turning = bool(queue)
            if queue:
                self._loop.call_soon(self._turn)
