"""Concurrent misses of one key become one request to the upstream: who comes first leads, the others follow.

A flight begins with its leader's miss and ends in one of three ways: it *lands* (the response is stored, the followers
answer with it), it is *called off* (there will be nothing to share: every follower goes on by itself, at once and all
together), or it is *lost* with its leader's client (the followers look again, and one of them may lead).
What is not fit to be shared is remembered for a while, so that nobody waits for it again (Varnish's hit-for-miss).
A follower that leaves takes nobody with it.  Followers are told from the loop, never from the leader's call stack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from gateway.core.decision import Decision, Pending
from policies._cache_entry import Stored

#: Nanoseconds for which a key whose response could not be shared is not waited for.
MARK: Final = 10_000_000_000
#: Keys remembered so.
_MARKS: Final = 4096

T = TypeVar("T")


class Flight:
    """One request to the upstream, and who waits for what comes of it.

    `moment` is the resource's when it began; `stored` the response once it is there, and `vary` the request fields
    that it depends on; `followers` are told whether they may wait once more.
    """

    __slots__ = ("followers", "key", "moment", "over", "stored", "timer", "vary")

    def __init__(self, key: str, moment: int) -> None:
        self.key = key
        self.moment = moment
        self.followers: list[Pending[bool]] = []
        self.stored: Stored | None = None
        self.vary: tuple[bytes, ...] = ()
        self.over = False
        self.timer: asyncio.TimerHandle | None = None


class Flights:
    """The flights of one route; `patience` is how long anybody follows, in seconds (0: nobody does)."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._flights: dict[str, Flight] = {}
        #: Until when a key is not waited for, in nanoseconds of the monotonic clock.
        self._marks: dict[str, int] = {}

    def under_way(self, key: str, moment: int) -> Flight | None:
        """The flight of a key, or None; one that began before its resource was dropped is nobody's to follow."""
        flight = self._flights.get(key)
        if flight is not None and flight.moment != moment:
            self._end(flight)
            return None
        return flight

    def lead(self, key: str, moment: int, now_ns: int) -> Flight | None:
        """A new flight; None where nobody should wait for this key (it is marked, or another leads already)."""
        until = self._marks.get(key)
        if until is not None:
            if now_ns < until:
                return None
            del self._marks[key]
        if self._patience <= 0 or key in self._flights:
            return None
        flight = self._flights[key] = Flight(key, moment)
        return flight

    def follow(self, flight: Flight) -> Pending[bool]:
        """Wait for a flight, at most as long as its first follower may; to cancel is to wait no longer.

        Delivers False at a flight's end, True where its leader was lost and another may lead.
        """
        follower: Pending[bool] = Pending()
        flight.followers.append(follower)
        if flight.timer is None:
            flight.timer = asyncio.get_running_loop().call_later(self._patience, self.call_off, flight)
        return follower

    # ── how flights end ──────────────────────────────────────────────────────────────────────

    def land(self, flight: Flight, stored: Stored, vary: tuple[bytes, ...]) -> None:
        """The response is there.  The flight is still found under its key, until it is to be forgotten."""
        flight.stored = stored
        flight.vary = vary
        self._marks.pop(flight.key, None)
        _tell(flight, False)

    def forget(self, flight: Flight) -> None:
        """From now on the cache itself is asked for this key."""
        self._end(flight)

    def call_off(self, flight: Flight) -> None:
        """There is nothing to wait for: everybody goes on."""
        self._end(flight)
        _tell(flight, False)

    def mark(self, flight: Flight, now_ns: int) -> None:
        """As `call_off`, and nobody waits for this key for a while."""
        if len(self._marks) >= _MARKS:
            for key in [key for key, until in self._marks.items() if until <= now_ns]:
                del self._marks[key]
            if len(self._marks) >= _MARKS:
                del self._marks[next(iter(self._marks))]
        self._marks[flight.key] = now_ns + MARK
        self.call_off(flight)

    def lose(self, flight: Flight) -> None:
        """The leader is gone before its response was there: the followers look again."""
        self._end(flight)
        _tell(flight, True)

    def _end(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


def _tell(flight: Flight, again: bool) -> None:
    if flight.over:
        return
    flight.over = True
    if flight.timer is not None:
        flight.timer.cancel()
        flight.timer = None
    if flight.followers:
        asyncio.get_running_loop().call_soon(_deliver, flight, again)


def _deliver(flight: Flight, again: bool) -> None:
    followers, flight.followers = flight.followers, []
    for follower in followers:
        if not follower.done:
            follower.resolve(again)


def chain(inner: Pending[T], then: Callable[[T], Decision | Pending[Decision]]) -> Pending[Decision]:
    """What `then` makes of what `inner` delivers; to cancel it is to cancel whatever is being waited for."""
    waiting: list[Any] = [inner]
    outer: Pending[Decision] = Pending(on_cancel=lambda: waiting[0].cancel())  # noqa: PLW0108 - whichever waits then

    def delivered(value: T) -> None:
        try:
            result = then(value)
        except BaseException as error:  # noqa: BLE001 - the pipeline answers it: nobody else may be struck by it
            outer.fail(error)
            return
        if isinstance(result, Pending):
            waiting[0] = result
            result.then(outer.resolve, outer.fail)
        else:
            outer.resolve(result)

    inner.then(delivered, outer.fail)
    return outer
