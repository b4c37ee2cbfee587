"""Which counters a configuration means.  The `redis` package is imported only where they are in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.core.counters_url import parse_counters_url
from gateway.core.ports import Counters
from gateway.counters.memory import MemoryCounters


class OwnCounters(Counters, Protocol):
    """Counters that a process has for itself."""

    @property
    def up(self) -> bool:
        """Whether they can be asked."""
        ...

    def sweep(self, now_ns: int) -> object:
        """Forget what counts no more."""
        ...

    async def opened(self) -> None:
        """Wait until they can be asked, or are known not to be: about a second at most."""
        ...

    async def close(self) -> None:
        """Close every connection; what waits fails."""
        ...


def counters_of(url: str, clock: Callable[[], int] | None = None) -> OwnCounters:
    """The counters of the setting `counters`, not opened yet; for Redis it takes a running event loop.

    A Redis that cannot be reached, or refuses us, raises nothing: it is logged, `up` is False, and it is tried until
    it can.  `clock` (nanoseconds, for tests) counts in place of Redis' own time.  Raises ValueError: such a URL means
    nothing.
    """
    location = parse_counters_url(url)
    if location is None:
        return MemoryCounters()
    if location.kind == "cluster":
        from gateway.counters.redis.cluster import ClusterCounters

        return ClusterCounters(location, clock)
    from gateway.counters.redis.single import RedisCounters

    return RedisCounters(location, clock)


async def open_counters(url: str, clock: Callable[[], int] | None = None) -> OwnCounters:
    """The counters of the setting `counters`, opened; see `counters_of`."""
    counters = counters_of(url, clock)
    await counters.opened()
    return counters
