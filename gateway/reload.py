"""Build, swap, clean: a new configuration takes the place of the old one, or changes nothing (law 4).

Reading and compiling run in a thread that gives way to the loop often, so requests are not stalled; the swap
is one call on the loop.  A signal, a watched file and (later) the admin API all end in `reload`; calls that
come while one is under way are served by one more.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gateway.config.loader import Loaded, load
from gateway.core.errors import ConfigError, PosternError
from gateway.telemetry.events import get_logger

_log = get_logger("postern.reload")

#: How often the compiling thread gives the interpreter back, in seconds (the default, 5 ms, stalls the loop).
_SWITCH_INTERVAL = 0.0002
#: Seconds between two looks at the files, and how long they must have been still to be read.
_WATCH_INTERVAL = 0.5
_STILL = 0.1
#: What needs a restart to take effect.
_RESTART = ("listen", "workers", "store", "counters", "secret_key")


class ReloadMetrics(Protocol):
    """Where the outcome of a reload is shown."""

    def config_loaded(self, config_hash: str) -> None: ...

    def config_refused(self) -> None: ...


class Reloader:
    """Loads, compiles and swaps configurations.

    `compile_` makes of a configuration whatever will be in force (in a thread), `swap` puts it in force (on
    the loop); both are the composition root's.
    """

    def __init__(
        self,
        path: Path,
        current: Loaded,
        compile_: Callable[[Loaded], object],
        swap: Callable[[Loaded, object], None],
        metrics: ReloadMetrics,
    ) -> None:
        self._path = path
        self._compile = compile_
        self._swap = swap
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        #: The configuration in force.
        self.current = current

    async def reload(self, cause: str) -> Loaded:
        """Take the file as it is now; returns what is in force then, raises `ConfigError` and keeps the old."""
        async with self._lock:
            interval = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_INTERVAL)
            try:
                loaded, compiled = await asyncio.to_thread(self._prepare)
            except PosternError as error:
                self._metrics.config_refused()
                problems = error.problems if isinstance(error, ConfigError) else [str(error)]
                _log.error("config_refused", cause=cause, problems=problems, still=self.current.hash)
                raise
            finally:
                sys.setswitchinterval(interval)
            self._tell(loaded, cause)
            self._swap(loaded, compiled)
            self.current = loaded
            self._metrics.config_loaded(loaded.hash)
            return loaded

    async def try_reload(self, cause: str) -> bool:
        """`reload` for who has nobody to report to; False if the old configuration stands."""
        try:
            await self.reload(cause)
        except PosternError:
            return False  # logged, and shown by the metric
        except Exception:  # noqa: BLE001 - a defect of ours changes nothing: the old configuration stands
            self._metrics.config_refused()
            _log.exception("config_reload_failed", cause=cause, still=self.current.hash)
            return False
        return True

    def _prepare(self) -> tuple[Loaded, object]:
        loaded = load(self._path)
        return loaded, self._compile(loaded)

    def _tell(self, loaded: Loaded, cause: str) -> None:
        before, after = self.current.config, loaded.config
        waiting = [name for name in _RESTART if getattr(before, name) != getattr(after, name)]
        for warning in loaded.warnings:
            _log.warning("config_warning", warning=warning)
        if waiting:
            _log.warning("config_needs_restart", settings=waiting)
        _log.info("config_loaded", cause=cause, hash=loaded.hash, before=self.current.hash)

    # ── watching ─────────────────────────────────────────────────────────────────────────────

    def watch(self) -> None:
        """Reload whenever a file of the configuration changes."""
        self._watching = asyncio.create_task(self._watch(), name="config-watch")

    async def stop(self) -> None:
        """End the watch."""
        task, self._watching = self._watching, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        seen = self._marks()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            now = self._marks()
            if now == seen:
                continue
            # Whoever writes the files may not be done: they are read once they have been still for a moment.
            await asyncio.sleep(_STILL)
            while (later := self._marks()) != now:
                now = later
                await asyncio.sleep(_STILL)
            seen = now
            await self.try_reload("file changed")
            # The new configuration may name other files.
            seen = {file: now.get(file, mark) for file, mark in self._marks().items()}

    def _marks(self) -> dict[Path, tuple[int, int, int] | None]:
        """What tells each file of the configuration from its next version, through symbolic links."""
        return {file: _mark(file) for file in (self._path, *self.current.files[1:])}


def _mark(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
