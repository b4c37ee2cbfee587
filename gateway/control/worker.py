"""A worker: the data plane alone, in a process that the nursery has forked.

It never opens the store, never hashes a secret and reads no configuration file: what it serves by it is sent, who
somebody is it asks.  Laws: it serves only when it is told to, and what it is told is done in the order in which it is
told.  When its link ends nobody can tell it of a revocation any more: it believes nothing that it remembers, accepts
nothing, finishes what is in flight for a few seconds, and ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, cast

import uvloop

from gateway.config.loader import Loaded
from gateway.config.package import unpack
from gateway.control.channel import Channel
from gateway.control.counting import Counting
from gateway.control.messages import (
    Ack,
    Answered,
    Ask,
    CancelAsk,
    Commit,
    Committed,
    Configure,
    Drain,
    Drained,
    Dropped,
    Failed,
    Feed,
    Forget,
    Invalidate,
    Package,
    Prepare,
    Prepared,
    Ready,
    Report,
    ReportNow,
    Serve,
    Settings,
    Stop,
)
from gateway.control.share import Share
from gateway.core.aside import aside
from gateway.core.errors import ConfigError, PosternError
from gateway.core.garbage import for_good, let_go
from gateway.credentials.delegated import DelegatedVerifier
from gateway.credentials.questions import Questions
from gateway.data_plane import Compiled, DataPlane, Lent
from gateway.registry import policies
from gateway.telemetry import events
from gateway.telemetry.deltas import Reporter
from gateway.telemetry.metrics import Metrics

_log = events.get_logger("postern.worker")

#: Seconds between two reports.
_TICK: Final = 0.25
#: Seconds that requests in flight get when the control process is gone.
_ORPHANED: Final = 5.0
#: Seconds that requests which began before a commit get to end, before what they ran on is freed.
_LAST_REQUESTS: Final = 0.5
_LISTEN: Final = re.compile(r"listen\.\d+")


class _Clock:
    """The real clock."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def time(self) -> float:
        return time.time()


class Worker:
    """See the module.  Belongs to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings, descriptors: Mapping[str, int]) -> None:
        """`descriptors` are ours by name: `link`, `listen.0` …, and what else the control process lends."""
        self._loop = loop
        self._settings = settings
        self._sockets = [
            socket.socket(fileno=descriptor) for name, descriptor in descriptors.items() if _LISTEN.fullmatch(name)
        ]
        self._descriptors = descriptors
        self._clock = _Clock()
        self._metrics = Metrics()
        self._over = asyncio.Event()
        self._lost = False
        self._counting: Counting | None = None
        self._data_plane: DataPlane | None = None
        self._verifier: DelegatedVerifier | None = None
        self._reporter: Reporter | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: The reload that is to be prepared, or has been: what came of it.
        self._reload = 0
        self._prepared: tuple[Loaded, Compiled] | None = None
        self._draining = self._told_to_drain = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: dict[type, Callable[[Any], None]] = {
            Configure: self._configure,
            Serve: self._serve,
            Prepare: self._prepare,
            Forget: self._forget,
            Commit: self._commit,
            Invalidate: self._invalidate,
            Answered: self._answered,
            Feed: self._feed,
            ReportNow: self._report_now,
            Dropped: self._dropped,
            Drain: self._drain,
            Stop: self._stop,
        }
        self._channel = Channel(loop, socket.socket(fileno=descriptors["link"]), self._received, self._orphaned)
        send = self._channel.send
        self._questions = Questions(
            lambda number, token, client: send(Ask(number, token, client)), lambda number: send(CancelAsk(number))
        )

    async def run(self) -> None:
        """Do what one is told until it is over."""
        await self._over.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The link stays open until the process ends: its end is ours.

    def _received(self, message: object) -> None:
        self._orders[type(message)](message)

    # ── configurations ───────────────────────────────────────────────────────────────────────

    def _configure(self, order: Configure) -> None:
        self._begin(self._build_first(order.package))

    async def _build_first(self, package: Package) -> None:
        """Build it on the loop: nobody is being served."""
        try:
            with for_good():
                loaded = unpack(package.content)
            if self._data_plane is None:
                await self._open(loaded)
            else:
                with for_good():
                    self._adopt(loaded, self._data_plane.compile(loaded))
        except PosternError as error:
            self._fail(error)
            return
        gc.collect()
        gc.freeze()
        self._channel.send(Ready(os.getpid(), package.hash))

    async def _open(self, loaded: Loaded) -> None:
        """Make what outlives every reload, and build the first configuration."""
        config, settings, descriptors = loaded.config, self._settings, self._descriptors
        if self._counting is None:
            self._counting = Counting(config.counters, descriptors.get("hub"), self._hub_lost)
        counters = await self._counting.open()
        self._verifier = verifier = DelegatedVerifier(self._questions, self._clock, config.max_staleness)
        verifier.configure(config.max_staleness, config.consumers, config.organizations)
        lent = Lent(
            self._clock,
            counters,
            verifier,
            self._metrics,
            descriptors.get("access"),
            descriptors.get("access_lock"),
            Share(settings.slot, settings.slots),
            self._sockets,
        )
        with for_good():
            self._data_plane = data_plane = DataPlane(self._loop, loaded, lent)
        data_plane.responses.on_drop(lambda resource: self._channel.send(Dropped(resource)))
        self._reporter = Reporter(self._metrics, data_plane.targets)

    def _serve(self, _order: Serve) -> None:
        self._begin(self._start())

    async def _start(self) -> None:
        data_plane = self._serving
        try:
            await data_plane.start()
        except PosternError as error:
            self._fail(error)
            return
        # The hot path makes no cycles: young collections would find nothing, often.
        gc.set_threshold(50_000, 20, 50)
        self._timer = self._loop.call_later(_TICK, self._tick)
        _log.debug("serving", pid=os.getpid(), hash=data_plane.loaded.hash)

    def _prepare(self, order: Prepare) -> None:
        self._reload, self._prepared = order.number, None
        self._begin(self._build(order.number, order.package))

    async def _build(self, number: int, package: Package) -> None:
        """Build it beside what is in force, in a thread that gives way to the loop."""
        problems: tuple[str, ...] = ()
        prepared: tuple[Loaded, Compiled] | None = None
        try:
            prepared = await aside(self._compile, package)
        except ConfigError as error:
            problems = tuple(error.problems)
        except PosternError as error:
            problems = (str(error),)
        except Exception as error:  # noqa: BLE001 - a defect of ours changes nothing: the old configuration stands
            _log.exception("config_not_built", hash=package.hash)
            problems = (f"it could not be built: {type(error).__name__}",)
        if number == self._reload:
            self._prepared = prepared
        elif prepared is not None:
            self._begin(self._retire(list(prepared)))
        self._channel.send(Prepared(number, problems))

    def _compile(self, package: Package) -> tuple[Loaded, Compiled]:
        with for_good():
            loaded = unpack(package.content)
            return loaded, self._serving.compile(loaded)

    def _forget(self, order: Forget) -> None:
        if order.number == self._reload:
            dropped, self._reload, self._prepared = self._prepared, 0, None
            if dropped is not None:
                self._begin(self._retire(list(dropped)))

    def _commit(self, order: Commit) -> None:
        if self._prepared is None or order.number != self._reload:
            raise RuntimeError("told to commit what was not prepared")
        (loaded, compiled), self._prepared = self._prepared, None
        before = self._serving.loaded.config
        old = self._adopt(loaded, compiled)
        verifier = self._verifier
        assert verifier is not None  # noqa: S101 - it was made with the data plane
        if order.everything:
            verifier.forget_all()
        else:
            verifier.forget_declared(order.usernames, order.organizations)
        self._channel.send(Committed(order.number))
        self._begin(self._retire([*old, before]))

    def _adopt(self, loaded: Loaded, compiled: Compiled) -> list[object]:
        config = loaded.config
        if self._verifier is not None:
            self._verifier.configure(config.max_staleness, config.consumers, config.organizations)
        return self._serving.adopt(loaded, compiled)

    @staticmethod
    async def _retire(replaced: list[object]) -> None:
        """Free what was in force, once the requests that ran on it have ended."""
        await asyncio.sleep(_LAST_REQUESTS)
        await aside(let_go, replaced)

    # ── what is told ─────────────────────────────────────────────────────────────────────────

    def _invalidate(self, order: Invalidate) -> None:
        if self._verifier is not None:
            for kind, name in order.changes:
                self._verifier.forget(kind, name)
        self._channel.send(Ack(order.epoch))

    def _answered(self, order: Answered) -> None:
        self._questions.answered(order.number, order.judgement)

    def _feed(self, order: Feed) -> None:
        if self._verifier is not None:
            self._verifier.heard(order.age)

    def _report_now(self, order: ReportNow) -> None:
        self._report(order.number)

    def _dropped(self, order: Dropped) -> None:
        self._serving.responses.dropped_elsewhere(order.resource)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        if self._verifier is not None:
            self._verifier.check_staleness()
        self._report(0)

    def _report(self, number: int) -> None:
        reporter = self._reporter
        content = None if reporter is None else reporter.report(asked=number > 0)
        if content is not None:
            self._channel.send(Report(number, content))

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def _drain(self, order: Drain) -> None:
        self._told_to_drain = True
        self._begin(self._finish(order.timeout))

    def _stop(self, _order: Stop) -> None:
        self._serving.cut()

    def _orphaned(self) -> None:
        """The control process is gone."""
        self._lost = True
        _log.error("control_process_lost", pid=os.getpid())
        if self._verifier is not None:
            self._verifier.lose()
        self._questions.lost()
        if self._data_plane is None:
            self._over.set()
        else:
            self._begin(self._finish(_ORPHANED))
            # Also where a longer drain has begun already.
            self._loop.call_later(_ORPHANED, self._data_plane.cut)

    def _hub_lost(self) -> None:
        """The hub will never answer this process again, another one it will."""
        # If it went with the control process, that is what is to be told.
        self._channel.poll()
        if self._lost or self._draining:
            return
        _log.error("hub_lost", pid=os.getpid())
        if self._data_plane is None:
            self._over.set()
        else:
            self._begin(self._finish(_ORPHANED))

    def _fail(self, error: PosternError) -> None:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        self._channel.send(Failed(tuple(problems), isinstance(error, ConfigError)))
        self._over.set()

    async def _finish(self, seconds: float) -> None:
        """Accept no more, finish what is in flight, tell what was counted, end."""
        if self._draining:
            return
        self._draining = True
        data_plane = self._serving
        clean = await data_plane.drain(seconds)
        if self._timer is not None:
            self._timer.cancel()
        await data_plane.stop()
        if self._counting is not None:
            await self._counting.close()
        self._report(1)
        if self._told_to_drain:
            self._channel.send(Drained(clean))
        self._over.set()

    # ── small things ─────────────────────────────────────────────────────────────────────────

    @property
    def _serving(self) -> DataPlane:
        if self._data_plane is None:
            raise RuntimeError("nothing has been configured yet")
        return self._data_plane

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # What was begun here has not been done, and somebody relies on it.
            _log.error("worker_broke", exc_info=error)
            self._over.set()


def preload() -> None:
    """Import what a worker will need, in the nursery: what is imported there is shared by all."""
    known = policies()
    for name in known:
        known[name]


def name_process(name: str) -> None:
    """What `ps -o comm` and `top` show of this process, where the system can be told (15 letters at the most)."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, "ascii")


def main(settings: Settings, descriptors: Mapping[str, int]) -> int:
    """Be the worker of a slot; returns the exit status."""
    name_process(f"postern-{settings.slot}")
    events.configure(
        cast("Literal['json', 'console', 'auto']", settings.log_format),
        cast("Literal['debug', 'info', 'warning', 'error']", settings.log_level),
        secret_prefix=settings.secret_prefix,
        lock=descriptors.get("events_lock"),
        worker=settings.slot,
    )
    if settings.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {settings.core})

    async def work() -> None:
        await Worker(asyncio.get_running_loop(), settings, descriptors).run()

    uvloop.run(work())
    events.flush()
    sys.stdout.flush()
    return 0
