"""Rate-limit counters in this process's memory: exact, never waiting, bounded.

An identity is a counter key.  Up to `identities` of them are counted each for itself; idle ones are forgotten a
few at a time, on every tick and whenever a newcomer arrives, so nothing ever stalls on a clean-up.  While the
table is full, newcomers share windows by the hash of their key: stricter than their limits, never looser, and
who later gets a place of its own takes the shared counts along.  Hashes of text are seeded anew in each process,
so nobody outside can choose whom a key meets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from gateway.core.ports import Demand, Verdict, WindowState
from gateway.core.units import Rate
from gateway.counters.sliding import SlidingLog, SlidingWindow
from gateway.counters.windows import Algorithm, FixedWindow, TokenBucket, Windows, windows_of

#: Shared windows that newcomers fall into while the table is full.
_SHARED = 1024
#: Identities looked at for each newcomer, so that a flood of newcomers pays for its own clean-up.
_AMORTISED = 2
#: A tick looks at one identity in so many (all of them in 16 s at four ticks a second), within its budget.
_SHARE_OF_A_TICK = 64
#: Sets of rates whose windows are remembered.
_RATES = 4096

S = TypeVar("S")


class _Place(Generic[S]):
    """Where an identity is counted: `home[at]` is its state, `state` what stands there now (or what it inherits)."""

    __slots__ = ("at", "home", "queue", "state")

    def __init__(self, home: dict[Any, S], at: Any, state: S | None, queue: deque[str] | None) -> None:
        self.home = home
        self.at = at
        self.state = state
        self.queue = queue

    def store(self, state: S) -> None:
        """Keep `state`; a newcomer takes its place in the clean-up's round."""
        if self.queue is not None and self.at not in self.home:
            self.queue.append(self.at)
        self.home[self.at] = state


class _Table(Generic[S]):
    """The identities of one algorithm, and the round in which the clean-up looks at them."""

    __slots__ = ("algorithm", "queue", "shared", "states")

    def __init__(self, algorithm: Algorithm[S]) -> None:
        self.algorithm = algorithm
        self.states: dict[str, S] = {}
        self.queue: deque[str] = deque()
        self.shared: dict[int, S] = {}

    def place(self, key: str, full: bool, now: int) -> _Place[S]:
        """Where the newcomer `key` is to be counted."""
        slot = hash(key) % _SHARED
        shared = self.shared.get(slot)
        if full:
            return _Place(self.shared, slot, shared, None)
        if shared is not None:
            shared = None if self.algorithm.idle(shared, now) else self.algorithm.copy(shared)
        return _Place(self.states, key, shared, self.queue)

    def sweep(self, now: int, budget: int) -> int:
        """Look at up to `budget` identities, forget the idle ones; returns how many were looked at."""
        queue, states, idle = self.queue, self.states, self.algorithm.idle
        looked = min(budget, len(queue))
        for _ in range(looked):
            key = queue.popleft()
            if idle(states[key], now):
                del states[key]
            else:
                queue.append(key)
        return looked

    def sweep_shared(self, now: int) -> None:
        """Forget the shared windows that are idle."""
        for slot in [slot for slot, state in self.shared.items() if self.algorithm.idle(state, now)]:
            del self.shared[slot]


class MemoryCounters:
    """`gateway.core.ports.Counters` in memory; `take` always answers with a `Verdict`, at once.

    `identities` is how many are counted each for itself.  One instance outlives every reload (law 4); it belongs
    to one thread.
    """

    def __init__(self, identities: int = 1_000_000) -> None:
        self._limit = identities
        self._now = 0
        self._sliding: _Table[int | SlidingLog] = _Table(SlidingWindow())
        self._logs = self._sliding.states
        self._tables: dict[str, _Table[Any]] = {
            "sliding-window": self._sliding,
            "fixed-window": _Table(FixedWindow()),
            "token-bucket": _Table(TokenBucket()),
        }
        self._windows: dict[int, tuple[Sequence[Rate], Windows]] = {}

    @property
    def up(self) -> bool:
        """Whether it can be asked: always."""
        return True

    def take(self, demands: Sequence[Demand], now_ns: int) -> Verdict:
        """Admit and count one request in all windows of all demands, or in none.

        The keys of one call differ.  `now_ns` that lies before an earlier call's counts as that one's.
        """
        if now_ns > self._now:
            self._now = now_ns
        else:
            now_ns = self._now
        if len(demands) == 1:
            demand = demands[0]
            log = self._logs.get(demand.key)
            if type(log) is SlidingLog and demand.algorithm == "sliding-window":
                if log.source is not demand.rates:
                    self._point(log, demand.rates, now_ns)
                return log.take(log.windows, now_ns)
            return self._take(demands, now_ns)
        verdict = self._take_logs(demands, now_ns)
        return self._take(demands, now_ns) if verdict is None else verdict

    def sweep(self, now_ns: int, budget: int = 2000) -> int:
        """Forget idle identities: called from the gateway's tick, looks at up to `budget`; returns how many it saw."""
        self._now = now_ns = max(self._now, now_ns)
        looked = 0
        for table in self._tables.values():
            share = len(table.queue) // _SHARE_OF_A_TICK + 1
            looked += table.sweep(now_ns, min(share, budget - looked))
            if table.shared:
                table.sweep_shared(now_ns)
        return looked

    async def opened(self) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        """Nothing to close: the counts end with the process."""

    def __len__(self) -> int:
        """How many identities are counted each for itself."""
        return sum(len(table.states) for table in self._tables.values())

    def stats(self) -> dict[str, int]:
        """`identities` counted each for itself, their `capacity`, and the `shared` windows that newcomers fell into."""
        shared = sum(len(table.shared) for table in self._tables.values())
        return {"identities": len(self), "capacity": self._limit, "shared": shared}

    def _remember(self, rates: Sequence[Rate]) -> Windows:
        """The windows of `rates`, computed once for each object; keeping the object keeps its id from being reused."""
        known = self._windows.get(id(rates))
        if known is None:
            if len(self._windows) >= _RATES:
                self._windows.clear()
            known = self._windows[id(rates)] = (rates, windows_of(rates))
        return known[1]

    def _point(self, log: SlidingLog, rates: Sequence[Rate], now: int) -> None:
        log.aim(self._remember(rates), now)
        log.source = rates

    def _take_logs(self, demands: Sequence[Demand], now: int) -> Verdict | None:
        """The common case of several demands, in one pass: all are logs, and all admit; else None, nothing counted."""
        counted: list[SlidingLog] = []
        states: list[WindowState] = []
        for demand in demands:
            log = self._logs.get(demand.key)
            if type(log) is SlidingLog and demand.algorithm == "sliding-window":
                if log.source is not demand.rates:
                    self._point(log, demand.rates, now)
                verdict = log.take(log.windows, now)
                if verdict.admitted:
                    counted.append(log)
                    states += verdict.states
                    continue
            for earlier in counted:
                earlier.undo()
            return None
        return Verdict(True, states)

    def _take(self, demands: Sequence[Demand], now: int) -> Verdict:
        places: list[tuple[_Table[Any], _Place[Any], Windows]] = []
        admitted = True
        for demand in demands:
            table, windows = self._tables[demand.algorithm], self._remember(demand.rates)
            state = table.states.get(demand.key)
            if state is None:
                place = self._newcomer(table, demand.key, now)
            else:
                place = _Place(table.states, demand.key, state, None)
            places.append((table, place, windows))
            admitted = admitted and table.algorithm.admits(place.state, windows, now)
        states: list[WindowState] = []
        for table, place, windows in places:
            if admitted:
                state, seen = table.algorithm.count(place.state, windows, now)
                if state is not place.state or place.queue is not None:
                    place.store(state)
            else:
                seen = table.algorithm.look(place.state, windows, now)
            states += seen
        return Verdict(admitted, states)

    def _newcomer(self, table: _Table[Any], key: str, now: int) -> _Place[Any]:
        table.sweep(now, _AMORTISED)
        return table.place(key, len(self) >= self._limit, now)
