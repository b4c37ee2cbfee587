"""`workers: 1`: the data plane in the gateway's own process, reached by direct calls (`core.ports.WorkerLink`)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import cast

from gateway.config.loader import Loaded
from gateway.core.ports import Redeclared
from gateway.data_plane import Compiled, DataPlane, Lent
from gateway.telemetry.states import TargetStatus, WorkerStatus


class LocalLink:
    """See the module.  The verifier that is lent is the node's own: whatever it forgets is forgotten here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, loaded: Loaded, lent: Lent) -> None:
        """Compile `loaded`.  Raises `ConfigError`."""
        self._data_plane = DataPlane(loop, loaded, lent)
        self._born = time.monotonic()
        self._prepared: tuple[Loaded, Compiled] | None = None

    @property
    def port(self) -> int:
        """Where clients connect, once started."""
        return self._data_plane.port

    async def start(self) -> None:
        """Listen and serve.  Raises `StartError`."""
        await self._data_plane.start()

    def compile(self, loaded: Loaded) -> object:
        """What `prepare` takes; may run in a thread.  Raises `ConfigError`."""
        return self._data_plane.compile(loaded)

    async def prepare(self, loaded: Loaded, compiled: object) -> None:
        """Keep what was compiled, for `commit`."""
        self._prepared = loaded, cast(Compiled, compiled)

    async def commit(self, redeclared: Redeclared) -> list[object]:
        """Put in force what was prepared; returns the parts of what it replaces."""
        if self._prepared is None:
            raise RuntimeError("nothing was prepared")
        (loaded, compiled), self._prepared = self._prepared, None
        return self._data_plane.adopt(loaded, compiled)

    def invalidate(self, kind: str, name: str) -> None:
        """Nothing is remembered here but by the node's verifier, which has been told."""

    async def confirm(self) -> None:
        """What was invalidated is forgotten: it was when that call returned."""

    async def restart(self) -> None:
        """There is nobody to take over from."""

    def workers(self) -> Sequence[WorkerStatus]:
        """This process."""
        counts = self._data_plane.plane.counts()
        return [
            WorkerStatus(
                os.getpid(),
                self._data_plane.loaded.hash,
                uptime_seconds=round(time.monotonic() - self._born, 3),
                connections=sum(number for (side, _), number in counts.items() if side == "downstream"),
            )
        ]

    def targets(self) -> Sequence[TargetStatus]:
        """Every service's targets."""
        return self._data_plane.targets()

    def stop_accepting(self) -> None:
        """Take no more connections."""
        self._data_plane.listener.stop_accepting()

    async def drain(self, seconds: float) -> bool:
        """Finish what is in flight; False if something had to be cut."""
        return await self._data_plane.drain(seconds)

    def cut(self) -> None:
        """Drain no longer."""
        self._data_plane.cut()

    async def stop(self) -> None:
        """Close everything."""
        await self._data_plane.stop()
