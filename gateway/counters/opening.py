"""Which counters a configuration means, opened.  The `redis` package is imported only where they are in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.core.counters_url import parse_counters_url
from gateway.counters.memory import MemoryCounters

if TYPE_CHECKING:
    from gateway.counters.redis.cluster import ClusterCounters
    from gateway.counters.redis.single import RedisCounters


async def open_counters(
    url: str, clock: Callable[[], int] | None = None
) -> MemoryCounters | RedisCounters | ClusterCounters:
    """The counters of the setting `counters`, to be closed with `close()`.

    A Redis that cannot be reached, or refuses us, raises nothing: it is logged, `up` is False, and it is tried until it
    can; this returns once the first attempt has ended, within about a second.  `clock` (nanoseconds, for tests) counts
    in place of Redis' own time.  Raises ValueError: the URL means nothing.
    """
    location = parse_counters_url(url)
    if location is None:
        return MemoryCounters()
    opened: RedisCounters | ClusterCounters
    if location.kind == "cluster":
        from gateway.counters.redis.cluster import ClusterCounters

        opened = ClusterCounters(location, clock)
    else:
        from gateway.counters.redis.single import RedisCounters

        opened = RedisCounters(location, clock)
    await opened.opened()
    return opened
