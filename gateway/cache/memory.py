"""Responses in this process's memory: aiocache's cache, bounded by bytes.

aiocache's own is a plain dictionary with a timer an entry and no bound.  Here the least recently used leaves first
once the bytes are spent, an entry whose time is over is dropped when it is looked at, and a look is a plain call:
a hit costs no task and no future (law 2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from aiocache import SimpleMemoryCache

from gateway.cache.common import Common

#: What an entry costs beside its key and value, in bytes: its record, its places in both tables.
OVERHEAD: Final = 512


@dataclass(frozen=True, slots=True)
class _Entry:
    """`until` is a moment of the cache's clock (None: no end), `resource` what the value belongs to."""

    value: Any
    size: int
    until: float | None
    resource: str


class BoundedMemoryCache(SimpleMemoryCache):  # type: ignore[misc]  # aiocache ships no types
    """An aiocache cache of at most `size` bytes; values are bytes.  `look`, `put` and `remove` need no loop."""

    def __init__(self, size: int, clock: Callable[[], float] = monotonic, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._resources: dict[str, set[str]] = {}
        self._capacity = size
        self._clock = clock
        #: Bytes in use.
        self.used = 0

    def __len__(self) -> int:
        return len(self._entries)

    def look(self, key: str) -> Any:
        """The value of a key, or None; it counts as used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until is not None and entry.until <= self._clock():
            self.remove(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: str, value: Any, seconds: float | None, resource: str = "") -> bool:
        """Keep a value, at the expense of what was used least recently; False if it is larger than everything."""
        self.remove(key)
        size = len(key) + len(value) + OVERHEAD
        if size > self._capacity:
            return False
        while self.used + size > self._capacity:
            self.remove(next(iter(self._entries)))
        until = None if seconds is None else self._clock() + seconds
        self._entries[key] = _Entry(value, size, until, resource)
        self._resources.setdefault(resource, set()).add(key)
        self.used += size
        return True

    def remove(self, key: str) -> bool:
        """Forget a key; False if it was not there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.used -= entry.size
        keys = self._resources[entry.resource]
        keys.discard(key)
        if not keys:
            del self._resources[entry.resource]
        return True

    def remove_resource(self, resource: str) -> None:
        """Forget every key of a resource."""
        for key in list(self._resources.get(resource, ())):
            self.remove(key)

    # ── aiocache's side: the same, awaited ───────────────────────────────────────────────────

    async def _get(self, key: str, encoding: str | None = None, _conn: Any = None) -> Any:
        return self.look(key)

    async def _multi_get(self, keys: list[str], encoding: str | None = None, _conn: Any = None) -> list[Any]:
        return [self.look(key) for key in keys]

    async def _set(
        self, key: str, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        if _cas_token is not None and _cas_token != self.look(key):
            return False
        return self.put(key, value, ttl)

    async def _add(self, key: str, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if self.look(key) is not None:
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return self.put(key, value, ttl)

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return self.look(key) is not None

    async def _expire(self, key: str, ttl: float, _conn: Any = None) -> bool:
        entry = self._entries.get(key)
        return entry is not None and self.put(key, entry.value, ttl or None, entry.resource)

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(self.remove(key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        for key in [key for key in self._entries if key.startswith(namespace or "")]:
            self.remove(key)
        return True

    async def _increment(self, key: str, delta: int, _conn: Any = None) -> int:
        raise TypeError("values are responses, not numbers")

    async def _raw(self, command: str, *args: Any, encoding: str | None = None, _conn: Any = None, **kw: Any) -> Any:
        raise TypeError("there is no command below this cache")


class MemoryResponses(Common):
    """`ResponseCache` in memory: every answer is there at once."""

    def __init__(self, size: int, largest: int, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(largest, max(size // 4, largest))
        self.cache: Final = BoundedMemoryCache(size, clock)

    def find(self, resource: str, key: str) -> bytes | None:
        """What was stored under this key, or None."""
        value: bytes | None = self.cache.look(key)
        return value

    def keep(self, resource: str, key: str, value: bytes, seconds: float, moment: int) -> None:
        """Store a value, unless its resource was dropped since `moment`."""
        if moment == self.moment(resource):
            self.cache.put(key, value, seconds, resource)

    def forget(self, resource: str) -> None:
        """Forget all of a resource in this process."""
        self._note_drop(resource)
        self.cache.remove_resource(resource)

    async def close(self) -> None:
        """Nothing is left open."""
        await self.cache.close()
