"""Where a worker counts: in the hub of the control process, or in Redis over connections of its own."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from gateway.counters.hub import HubCounters
from gateway.counters.memory import MemoryCounters
from gateway.counters.opening import open_counters
from gateway.data_plane import SweptCounters


class Counting:
    """The counters of one worker, opened once and let go of."""

    def __init__(self, url: str, hub: int | None, on_lost: Callable[[], None]) -> None:
        """The hub behind the descriptor `hub`, else what the setting `counters` says; `on_lost` is told when the hub is
        gone, which is for good."""
        self._url = url
        self._descriptor = hub
        self._hub = HubCounters(on_lost=on_lost)
        self._close: Callable[[], Awaitable[None]] | None = None

    async def open(self) -> SweptCounters:
        """The counters, whether they can be asked yet or not."""
        if self._descriptor is not None:
            await self._hub.connect(socket.socket(fileno=self._descriptor))
            return self._hub
        opened = await open_counters(self._url)
        if isinstance(opened, MemoryCounters):
            raise TypeError("a worker that counts for itself alone would make one limit many")
        self._close = opened.close
        return opened

    async def close(self) -> None:
        """Close the connections; what waits fails."""
        self._hub.close()
        if self._close is not None:
            await self._close()
