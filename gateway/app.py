"""The composition root and the control side: builds everything, owns the order of starting and stopping.

Starting: settings, secret key, store (migrated), verifier, what serves, listeners, ready.  Stopping is the reverse:
not ready, the drain's delay, no more connections, requests in flight finish, the rest is closed.  What serves is behind
a `WorkerLink`: a data plane in this process, or workers.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from gateway.admin.app import ControlServer
from gateway.config.loader import Loaded, load
from gateway.config.model import Config
from gateway.control.cores import count
from gateway.control.local import LocalLink
from gateway.control.messages import Settings
from gateway.control.verification import Verification
from gateway.control.workers import Office, Workers
from gateway.core.counters_url import parse_counters_url
from gateway.core.errors import PosternError
from gateway.core.garbage import for_good
from gateway.core.ports import Redeclared, WorkerLink
from gateway.counters.hub_server import HubServer
from gateway.counters.memory import MemoryCounters
from gateway.counters.opening import OwnCounters, open_counters
from gateway.credentials.declared import Declaration
from gateway.credentials.hashing import Hasher
from gateway.credentials.parse import Prefixes
from gateway.credentials.secrets import load_secret_key
from gateway.credentials.verify import Rules, Verifier
from gateway.data_plane import Lent
from gateway.reload import Reloader, marks
from gateway.store.location import data_folder
from gateway.store.store import Store
from gateway.telemetry.events import flush, get_logger
from gateway.telemetry.metrics import Metrics, Reading
from gateway.telemetry.states import TargetStatus, WorkerStatus
from gateway.telemetry.status import Readings, StatusServer
from gateway.telemetry.turns import make_lock, same_stream

_log = get_logger("postern")

#: Seconds between two looks at how old the change feed is.
TICK = 0.25
_CONTROL_SOCKET = "control.sock"


class SystemClock:
    """The real clock."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def time(self) -> float:
        return time.time()


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says: the file, where access lines go (a descriptor, None for nowhere), how events are
    written (as `events.configure` was told, the lock included), and what is told once the gateway is ready."""

    config: Path
    access: int | None = 1
    log_format: str = "auto"
    log_level: str = "info"
    events_lock: int | None = None
    on_ready: Callable[[App], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What is made of a configuration before it is in force."""

    declaration: Declaration
    served: object


class App:
    """One gateway."""

    def __init__(self, options: Options) -> None:
        """Read the configuration; raises `ConfigError`."""
        self._options = options
        self._started = time.monotonic()
        self._reason: str | None = "starting"
        # What the imports left behind, before the rest is put out of the collector's sight.
        gc.collect()
        # A file that changes while it is read, or before it is watched, is read again then.
        self._seen = marks(options.config)
        with for_good():
            self.loaded: Loaded = load(options.config)
        self._seen = marks(*self.loaded.files) | self._seen
        self.metrics = Metrics()
        self._readings: Readings = self.metrics
        self.clock = SystemClock()
        self._memory = MemoryCounters()
        self.counters: OwnCounters = self._memory
        self._closing: asyncio.Event | None = None
        self._hurry = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.store: Store
        self.verifier: Verifier
        self.link: WorkerLink | None = None

    # ── the whole life ───────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Start, serve until a signal says stop, drain.  Raises `StartError` or `ConfigError` if it cannot start."""
        loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        async with AsyncExitStack() as stack:
            stack.callback(flush)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            # The file has been read; that it has changed since is seen once it is watched.
            loop.add_signal_handler(signal.SIGHUP, _ignore)
            loop.add_signal_handler(signal.SIGUSR2, _ignore)
            if not await self._started_before(self._closing, self._start(loop, stack)):
                return
            loop.add_signal_handler(signal.SIGHUP, self._hangup)
            loop.add_signal_handler(signal.SIGUSR2, self._restart)
            gc.collect()
            gc.freeze()
            # The hot path makes no cycles: young collections would find nothing, often.
            gc.set_threshold(50_000, 20, 50)
            self._reason = None
            self._tell_ready()
            if self._options.on_ready is not None:
                await self._options.on_ready(self)
            await self._closing.wait()
            await self._drain()
            self._reason = "stopped"

    def stop(self) -> None:
        """Begin to end; a second call cuts the drain short."""
        if self._closing is None:
            return
        if self._closing.is_set():
            self._hurry.set()
        self._closing.set()

    @staticmethod
    async def _started_before(closing: asyncio.Event, starting: Coroutine[None, None, None]) -> bool:
        """False if the end was wanted first; then the start is given up."""
        start, end = asyncio.create_task(starting), asyncio.create_task(closing.wait())
        await asyncio.wait({start, end}, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if start.done():
            await start
            return True
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        return False

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.loaded.config

    # ── starting ─────────────────────────────────────────────────────────────────────────────

    async def _start(self, loop: asyncio.AbstractEventLoop, stack: AsyncExitStack) -> None:
        """Start every part; what it takes to end each is pushed on the stack, so the reverse order is the stack's."""
        config = self.config
        for warning in self.loaded.warnings:
            _log.warning("config_warning", warning=warning)
        self._status = StatusServer(config.listen.status.host, config.listen.status.port, self, self)
        await self._status.start()
        stack.push_async_callback(self._status.stop)

        self.store = await Store.open(config.store)
        stack.push_async_callback(self.store.close)
        folder = data_folder(config.store)
        self.hasher = Hasher(loop)
        stack.callback(self.hasher.close)
        secret_key = load_secret_key(config.secret_key.get_secret_value(), folder)
        self.verifier = Verifier(self.store, self.hasher, self.clock, secret_key, _rules(config))

        slots = count(config.workers)
        if slots == 1:
            # Workers have counters of their own, or the hub's.
            self.counters = await open_counters(config.counters)
            stack.push_async_callback(self.counters.close)
        with for_good():
            self.verifier.declare(config.consumers, config.organizations)
            self.link = link = self._link(loop, slots)
        changes = self.store.changes
        changes.subscribe(self.verifier.forget)
        changes.subscribe(link.invalidate)
        changes.confirm = link.confirm
        self._register_metrics()
        self.metrics.config_loaded(self.loaded.hash)
        self.reloader = Reloader(self._options.config, self.loaded, self._compile, self._swap, self.metrics, self._seen)
        stack.push_async_callback(self.reloader.stop)

        control = ControlServer(folder / _CONTROL_SOCKET, self.store, self.verifier)
        await control.start()
        stack.push_async_callback(control.stop)
        stack.push_async_callback(link.stop)
        await link.start()
        stack.push_async_callback(self._end_background)
        self.reloader.watch()
        self._background.add(asyncio.create_task(self.store.changes.follow(), name="changes"))
        self._timer = loop.call_later(TICK, self._tick)

    def _link(self, loop: asyncio.AbstractEventLoop, slots: int) -> WorkerLink:
        """The way to what serves.  Raises `ConfigError`."""
        options = self._options
        if slots == 1:
            return LocalLink(
                loop,
                self.loaded,
                Lent(self.clock, self.counters, self.verifier, self.metrics, options.access, _shared_lock(options)),
            )
        settings = Settings(
            0, slots, None, options.log_format, options.log_level, self.config.credentials.secret_prefix
        )
        office = Office(
            self.clock,
            self.counters,
            Verification(self.verifier, self.clock.time),
            self.verifier,
            self.metrics,
            lambda: time.monotonic() - self.store.changes.heard,
            settings,
            self.config.worker_affinity == "auto",
            _log_descriptors(options),
            HubServer(self._memory) if parse_counters_url(self.config.counters) is None else None,
        )
        workers = Workers(loop, self.loaded, office)
        self._readings = workers.readings
        return workers

    def _tell_ready(self) -> None:
        listen = self.config.listen
        _log.info(
            "ready",
            pid=os.getpid(),
            proxy=f"{listen.proxy.host}:{self.port}",
            status=f"{listen.status.host}:{self._status.port}",
            hash=self.loaded.hash,
            seconds=round(self.uptime(), 2),
        )

    async def _end_background(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _register_metrics(self) -> None:
        metrics, verifier = self.metrics, self.verifier
        metrics.gauge("postern_workers", (), lambda: len(self.workers()))
        metrics.gauge("postern_bcrypt_queue", (), lambda: self.hasher.depth)
        # Of workers, too, who count what they answer themselves and ask for the rest.
        metrics.gauge("postern_credential_cache_total", ("result",), verifier.tally.counts)
        metrics.gauge("postern_store_up", (), lambda: verifier.store_up and self.store.changes.up)
        metrics.gauge("postern_revocation_lag_seconds", (), lambda: self.store.changes.lag)

    # ── reloading ────────────────────────────────────────────────────────────────────────────

    def _compile(self, loaded: Loaded) -> _Compiled:
        """All that takes longer the larger the file is; runs in a thread, beside what is in force."""
        config = loaded.config
        return _Compiled(
            self.verifier.declaration(config.consumers, config.organizations), self._serving.compile(loaded)
        )

    async def _swap(self, loaded: Loaded, compiled: object) -> list[object]:
        """Have it prepared by whoever serves (refused there, nothing has changed), then put it in force everywhere."""
        assert isinstance(compiled, _Compiled)  # noqa: S101 - it is what `_compile` made
        await self._serving.prepare(loaded, compiled.served)
        old: list[object] = [*self.loaded.config.parts(), *self.verifier.declared.records()]
        rules, declaration = _rules(loaded.config), compiled.declaration
        redeclared = Redeclared(
            declaration.usernames, declaration.organizations, rules.prefixes != self.verifier.rules.prefixes
        )
        self.loaded = loaded
        self.verifier.configure(rules)
        self.verifier.adopt(declaration)
        return old + await self._serving.commit(redeclared)

    def _hangup(self) -> None:
        # Whether it worked is in the log and in the metric.
        self._background.add(asyncio.create_task(self._reload("SIGHUP"), name="reload"))

    async def _reload(self, cause: str) -> None:
        await self.reloader.try_reload(cause)

    def _restart(self) -> None:
        self._background.add(asyncio.create_task(self._restart_workers(), name="restart"))

    async def _restart_workers(self) -> None:
        try:
            await self._serving.restart()
        except PosternError as error:
            _log.error("restart_failed", error=str(error))

    # ── stopping ─────────────────────────────────────────────────────────────────────────────

    async def _drain(self) -> None:
        drain = self.config.drain
        self._reason = "draining"
        _log.info("draining", delay=drain.delay, timeout=drain.timeout)
        hurrying = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({hurrying}, timeout=drain.delay)
        self._serving.stop_accepting()
        draining = asyncio.create_task(self._serving.drain(drain.timeout))
        await asyncio.wait({hurrying, draining}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            self._serving.cut()
        clean = await draining
        hurrying.cancel()
        _log.info("drained", clean=clean)

    # ── housekeeping and status ──────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
        self.counters.sweep(time.monotonic_ns())
        if time.monotonic() - self.store.changes.heard > self.config.max_staleness:
            # Nobody knows what was revoked meanwhile: every credential is asked for again, and the store answers or
            # the request is a 500.
            self.verifier.forget_all()
        self._background = {task for task in self._background if not task.done()}

    def not_ready(self) -> str | None:
        """Why no request should be sent here, None once they should.

        That is from when all workers serve for the first time; while some are replaced the others do.
        """
        if self._reason is None and self.link is not None and not self.link.workers():
            return "no worker serves"
        return self._reason

    async def fresh(self) -> None:
        """Return when `read` tells what is."""
        await self._readings.fresh()

    def read(self) -> Reading:
        """The node's metrics."""
        return self._readings.read()

    def uptime(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def config_hash(self) -> str:
        """The hash of the configuration in force."""
        return self.loaded.hash

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self._serving.port

    def workers(self) -> Sequence[WorkerStatus]:
        """The processes that serve."""
        return [] if self.link is None else self.link.workers()

    def targets(self) -> Sequence[TargetStatus]:
        """Every service's targets; without health checks each counts as well."""
        return [] if self.link is None else self.link.targets()

    @property
    def _serving(self) -> WorkerLink:
        """What serves, from the start on."""
        if self.link is None:
            raise RuntimeError("nothing serves yet")
        return self.link


def _log_descriptors(options: Options) -> dict[str, int]:
    """What workers inherit to write lines with."""
    found: dict[str, int | None] = {"access": options.access, "events_lock": options.events_lock}
    if options.access is not None:
        found["access_lock"] = _shared_lock(options) or make_lock()
    return {name: descriptor for name, descriptor in found.items() if descriptor is not None}


def _shared_lock(options: Options) -> int | None:
    """The lock of the events' stream, if access lines go there, too."""
    both = options.access is not None and same_stream(options.access, sys.stderr.fileno())
    return options.events_lock if both else None


def _ignore() -> None:
    """Hear a signal and do nothing."""


def _rules(config: Config) -> Rules:
    credentials = config.credentials
    return Rules(
        Prefixes(credentials.public_prefix, credentials.secret_prefix),
        credentials.bcrypt_rounds,
        config.guesses.failures,
    )
