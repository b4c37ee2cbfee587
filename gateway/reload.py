"""Build, swap, clean: a new configuration takes the place of the old one, or changes nothing (law 4).

Reading and compiling run in a thread that gives way to the loop often, so requests are not stalled; the swap
is one call on the loop, and what it replaces is freed in the thread again.  A signal, a watched file and (later) the
admin API all end in `reload`; calls that come while one is under way are served by one more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gateway.config.loader import Loaded, load
from gateway.config.model import STANDING
from gateway.core.aside import aside
from gateway.core.errors import ConfigError, PosternError
from gateway.core.garbage import for_good, let_go
from gateway.telemetry.events import get_logger

_log = get_logger("postern.reload")

#: Seconds between two looks at the files, and how long they must have been still to be read.
_WATCH_INTERVAL = 0.5
_STILL = 0.1
#: Seconds that requests which began before a swap get to end, before what they ran on is freed.
_LAST_REQUESTS = 0.5
#: What tells a file from its next version, None where there is none.
Mark = tuple[int, int, int] | None


class ReloadMetrics(Protocol):
    """Where the outcome of a reload is shown."""

    def config_loaded(self, config_hash: str) -> None: ...

    def config_refused(self) -> None: ...


class Reloader:
    """Loads, compiles and swaps configurations.

    `compile_` makes of a configuration whatever will be in force (in a thread), `swap` puts it in force (on
    the loop) and returns the parts of what it replaced, or raises `PosternError` and has changed nothing; both are the
    composition root's.
    """

    def __init__(
        self,
        path: Path,
        current: Loaded,
        compile_: Callable[[Loaded], object],
        swap: Callable[[Loaded, object], Awaitable[list[object]]],
        metrics: ReloadMetrics,
        seen: Mapping[Path, Mark] | None = None,
    ) -> None:
        """`current` is in force; `seen` are its files as they were before they were read (`marks`), so that what has
        changed since is found by the watch."""
        self._path = path
        self._compile = compile_
        self._swap = swap
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._queued: asyncio.Task[Loaded] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        #: The configuration in force.
        self.current = current
        #: What holds until a restart.
        self._standing = {name: getattr(current.config, name) for name in STANDING}
        #: What a refused configuration named, too: it may be all that was missing.
        self._wanted: tuple[Path, ...] = ()
        #: The files as they were before they were last read.
        self._seen = self._marks() | dict(seen or {})

    async def reload(self, cause: str) -> Loaded:
        """Take the file as it is now; returns what is in force then, raises `ConfigError` and keeps the old."""
        if self._queued is None:
            self._queued = asyncio.create_task(self._reload(cause), name="config-reload")
            self._keep(self._queued)
        return await asyncio.shield(self._queued)

    async def _reload(self, cause: str) -> Loaded:
        async with self._lock:
            # Who asks from now on may want what is not in the file yet.
            self._queued = None
            self._seen = self._marks()
            before = self.current.hash
            try:
                loaded, compiled = await aside(self._prepare)
                self._retire(await self._swap(loaded, compiled))
            except PosternError as error:
                self._metrics.config_refused()
                problems = error.problems if isinstance(error, ConfigError) else [str(error)]
                _log.error("config_refused", cause=cause, problems=problems, still=self.current.hash)
                self._note_files(error.files if isinstance(error, ConfigError) else ())
                raise
            self.current = loaded
            self._note_files(())
            self._metrics.config_loaded(loaded.hash)
            self._tell(loaded, cause, before)
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
        # A pipe can be started with; to read it again would be to wait for a writer, perhaps for ever.
        if self._path.exists() and not (self._path.is_file() or self._path.is_dir()):
            raise ConfigError([f"{self._path}: cannot be read: it is not a regular file"])
        with for_good():
            loaded = load(self._path, pipes=False)
            return loaded, self._compile(loaded)

    def _retire(self, replaced: list[object]) -> None:
        """Free what was in force, once the requests that ran on it have ended."""

        async def retire() -> None:
            await asyncio.sleep(_LAST_REQUESTS)
            await aside(let_go, replaced)

        self._keep(asyncio.create_task(retire(), name="config-retire"))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a task until it ends, or this reloader does."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, loaded: Loaded, cause: str, before: str) -> None:
        waiting = [name for name, value in self._standing.items() if getattr(loaded.config, name) != value]
        for warning in loaded.warnings:
            _log.warning("config_warning", warning=warning)
        if waiting:
            _log.warning("config_needs_restart", settings=waiting)
        _log.info("config_loaded", cause=cause, hash=loaded.hash, before=before)

    # ── watching ─────────────────────────────────────────────────────────────────────────────

    def watch(self) -> None:
        """Reload whenever a file of the configuration changes."""
        self._keep(asyncio.create_task(self._watch(), name="config-watch"))

    async def stop(self) -> None:
        """End the watch, and what else is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            now = self._marks()
            if now == self._seen:
                continue
            # Whoever writes the files may not be done: they are read once they have been still for a moment.
            await asyncio.sleep(_STILL)
            while (later := self._marks()) != now:
                now = later
                await asyncio.sleep(_STILL)
            await self.try_reload("file changed")

    def _note_files(self, wanted: tuple[Path, ...]) -> None:
        """Watch the files that the configuration names now; those seen before the reading count as they were then."""
        self._wanted = wanted
        self._seen = {file: self._seen.get(file, mark) for file, mark in self._marks().items()}

    def _marks(self) -> dict[Path, Mark]:
        return marks(self._path, *self.current.files[1:], *self._wanted)


def marks(*files: Path) -> dict[Path, Mark]:
    """What tells each file from its next version, through symbolic links."""
    return {file: _mark(file) for file in files}


def _mark(file: Path) -> Mark:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
