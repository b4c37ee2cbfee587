"""What one process serves with: a snapshot and the plane that runs on it, the listener, and what outlives a reload.

With `workers: 1` there is one in the gateway's own process; else each worker has one.  It decides nothing about
identities and counts: both are lent to it as ports, and whoever lends them also tells it of new configurations
(`control/`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.build import Ports, build
from gateway.cache.opening import ResponseCaches
from gateway.config.loader import Loaded
from gateway.config.model import Config
from gateway.control.share import WHOLE, Share
from gateway.core.ports import Authenticator, Clock, Counters
from gateway.issuers.opening import Issuers
from gateway.proxy.listener import Listener
from gateway.proxy.plane import Plane
from gateway.proxy.tls import ignore_unreadable_names
from gateway.snapshot import Snapshot
from gateway.telemetry.access import AccessLog
from gateway.telemetry.events import get_logger
from gateway.telemetry.redact import TextRedactor
from gateway.telemetry.states import TargetStatus

_log = get_logger("postern")

#: Seconds between two rounds of housekeeping: access lines written, idle counters forgotten.
TICK = 0.25
#: Seconds that the last access lines get to be written.
_LAST_LINES = 2.0


class Tally(Protocol):
    """How tokens were answered so far (`credentials.verify.Tally`)."""

    @property
    def hit(self) -> int: ...
    @property
    def miss(self) -> int: ...
    @property
    def wrong(self) -> int: ...
    @property
    def shared(self) -> int: ...


class TalliedAuthenticator(Authenticator, Protocol):
    """An authenticator that counts how it answered."""

    @property
    def tally(self) -> Tally: ...


class SweptCounters(Counters, Protocol):
    """Counters with a housekeeping of their own; `up` says whether they can be asked."""

    @property
    def up(self) -> bool: ...

    def sweep(self, now_ns: int) -> object: ...


class RouteMetrics(Protocol):
    """Where requests are counted, and what is shown beside them."""

    def route(self, service: str, route: str) -> Any: ...

    def gauge(self, name: str, labels: tuple[str, ...], source: Callable[[], Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Lent:
    """What a data plane is lent: time, counters, who verifies credentials, where it counts; `access` is the descriptor
    of the access lines (None: there are none), `access_lock` that of their lock where others write them, too
    (`telemetry.turns`); `share` is its part of the node's limits, `sockets` are its slot's (None: it binds its own)."""

    clock: Clock
    counters: SweptCounters
    authenticator: TalliedAuthenticator
    metrics: RouteMetrics
    access: int | None = None
    access_lock: int | None = None
    share: Share = WHOLE
    sockets: Sequence[socket.socket] | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """What is made of a configuration before it is in force."""

    snapshot: Snapshot
    secret_names: set[str]


class DataPlane:
    """See the module.  Made and used on the event loop's thread, save `compile`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, loaded: Loaded, lent: Lent) -> None:
        """Compile `loaded`, and serve nothing yet.  Raises `ConfigError`."""
        self._loop = loop
        self._lent = lent
        self._loaded = loaded
        self._stack = AsyncExitStack()
        self._timer: asyncio.TimerHandle | None = None
        config = loaded.config
        self._issuers = Issuers(lent.clock)
        self._access = _access_log(lent.access, lent.access_lock, config)
        cache = config.cache
        self.responses = ResponseCaches(cache.backend, lent.share.of(cache.size), cache.max_object)
        metrics = lent.metrics
        self._ports = Ports(
            lent.clock, lent.counters, lent.authenticator, metrics.route, self._issuers, self.responses.open
        )
        self.plane = Plane(build(loaded, self._ports, share=lent.share), loop, self._access)
        listen = config.listen
        self.listener = Listener(
            self.plane,
            listen.proxy.host,
            listen.proxy.port,
            listen.proxy_protocol == "on",
            listen.proxy_protocol_from,
            lent.sockets,
        )
        self._register_metrics()

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        return self.listener.port

    @property
    def loaded(self) -> Loaded:
        """The configuration in force."""
        return self._loaded

    # ── life ─────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Listen and serve.  Raises `StartError`."""
        self._stack.push_async_callback(self._issuers.close)
        if self._access is not None:
            self._stack.callback(self._access.close, _LAST_LINES)
        self._stack.push_async_callback(self.responses.close)
        self._stack.callback(self.plane.stop)
        ignore_unreadable_names()
        await self.listener.start()
        self._stack.callback(self.listener.stop_accepting)
        self.plane.overload.gates.append(self.listener)
        self.plane.start()
        self._timer = self._loop.call_later(TICK, self._tick)

    async def drain(self, seconds: float) -> bool:
        """Accept no more, finish what is in flight within `seconds`; False if something had to be cut."""
        self.listener.stop_accepting()
        return await self.plane.drain(seconds, self._loaded.config.drain.idle_timeout)

    def cut(self) -> None:
        """Drain no longer."""
        self.plane.cut()

    async def stop(self) -> None:
        """Close everything, the last access lines are written."""
        if self._timer is not None:
            self._timer.cancel()
        await self._stack.aclose()

    # ── reloading ────────────────────────────────────────────────────────────────────────────

    def compile(self, loaded: Loaded) -> Compiled:
        """What `adopt` puts in force; may run in a thread.  Raises `ConfigError`."""
        return Compiled(build(loaded, self._ports, share=self._lent.share), _secret_names(loaded.config))

    def adopt(self, loaded: Loaded, compiled: Compiled) -> list[object]:
        """Put in force what was compiled; returns the parts of what it replaces, to be freed one by one."""
        snapshot = self.plane.snapshot
        old = [*snapshot.routes, *self._loaded.config.parts(), snapshot]
        self._loaded = loaded
        if self._access is not None:
            self._access.set_secret_names(compiled.secret_names)
        self.plane.swap(compiled.snapshot)
        return old

    # ── what is told ─────────────────────────────────────────────────────────────────────────

    def targets(self) -> Sequence[TargetStatus]:
        """Every service's targets; without health checks each counts as well."""
        return self.plane.targets.states()

    def _register_metrics(self) -> None:
        metrics, lent = self._lent.metrics, self._lent
        metrics.gauge("postern_connections", ("side", "state"), self.plane.counts)
        metrics.gauge("postern_counters_up", (), lambda: lent.counters.up)
        metrics.gauge("postern_cache_total", ("route", "result"), self.responses.tally)
        metrics.gauge("postern_credential_cache_total", ("result",), lambda: _tally(lent.authenticator.tally))
        metrics.gauge(
            "postern_upstream_target_healthy",
            ("service", "target"),
            lambda: {(target.service, target.target): target.healthy for target in self.targets()},
        )

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        if self._access is not None:
            self._access.flush()
        self._lent.counters.sweep(time.monotonic_ns())


def _access_log(descriptor: int | None, lock: int | None, config: Config) -> AccessLog | None:
    if descriptor is None:
        return None
    return AccessLog(
        descriptor,
        report=lambda lost: _log.warning("access_lines_lost", lost=lost),
        redactor=TextRedactor(config.credentials.secret_prefix),
        secret_names=_secret_names(config),
        lock=lock,
    )


def _tally(tally: Tally) -> dict[str, float]:
    """How often credentials were answered in each way."""
    return {"hit": tally.hit, "miss": tally.miss, "wrong": tally.wrong, "shared": tally.shared}


def _secret_names(config: Config) -> set[str]:
    """Query parameters that carry keys on some route."""
    names: set[str] = set()
    for policies in (
        config.policies,
        *(service.policies for service in config.services),
        *(route.policies for service in config.services for route in service.routes),
    ):
        for settings in policies.values():
            names.update(getattr(settings, "key_names", ()))
    return names
