"""Which cache a configuration means, opened when it is first wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.cache.memory import MemoryResponses
    from gateway.cache.redis import RedisResponses


class ResponseCaches:
    """The one cache of a process: `backend` is `memory://` or a Redis URL, `size` the bytes of all that is kept in
    memory, `largest` those of one response."""

    def __init__(self, backend: str, size: int, largest: int) -> None:
        self._backend = backend
        self._size = size
        self._largest = largest
        self._opened: MemoryResponses | RedisResponses | None = None
        self._on_drop: Callable[[str], None] | None = None

    def on_drop(self, tell: Callable[[str], None]) -> None:
        """Tell of each resource that is dropped here and may still be stored in the memory of other processes."""
        self._on_drop = tell
        if self._opened is not None:
            self._opened.on_drop = tell

    def dropped_elsewhere(self, resource: str) -> None:
        """Another process has dropped this resource (`on_drop` is not told)."""
        if self._opened is not None:
            self._opened.forget(resource)

    def open(self) -> MemoryResponses | RedisResponses:
        """The cache, the same each time; its libraries are imported when it is first asked for."""
        if self._opened is None:
            if self._backend == "memory://":
                from gateway.cache.memory import MemoryResponses

                self._opened = MemoryResponses(self._size, min(self._largest, self._size))
            else:
                from gateway.cache.redis import RedisResponses

                self._opened = RedisResponses(self._backend, self._largest, max(self._size // 4, self._largest))
            self._opened.on_drop = self._on_drop
        return self._opened

    def tally(self) -> dict[tuple[str, str], float]:
        """Answers so far, by route and result."""
        return {} if self._opened is None else self._opened.tally

    async def close(self) -> None:
        """Close what was opened."""
        if self._opened is not None:
            await self._opened.close()
