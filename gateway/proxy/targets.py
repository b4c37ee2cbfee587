"""The upstream side of the plane: pools, the balancers of all services, what names resolve to, and who is probed.

A shell (law 1): it starts resolutions and probes when the sweep finds that they are due, and tells `balancer`, `health`
and `resolver.Name` what came of them; those decide.  All of it outlives a reload (law 4): an endpoint is told by its
service, its target's URL and its address, and keeps its health, its pool and its place in the rotation.  A balancer
whose service the new configuration does not have any more, or with other targets, is kept for requests in flight.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from gateway.proxy.balancer import UNIT, Balancer, Endpoint
from gateway.proxy.health import HEALTHY, SLOW_START
from gateway.proxy.pool import Pool
from gateway.proxy.probe import probe
from gateway.proxy.resolver import Name, ResolveError, Resolver, is_name
from gateway.telemetry.states import AddressStatus, TargetStatus

if TYPE_CHECKING:
    from gateway.snapshot import ActiveHealth, Origin, Service, Target

_log = logging.getLogger("postern.proxy")

#: How long a balancer that no configuration names is kept, in nanoseconds: longer than a request waits for its turn.
RETIREMENT: Final = 300_000_000_000


class Targets:
    """See the module."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: Resolver | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        jitter: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        """`clock` tells nanoseconds; `jitter(n)` a number below n, for the moment of a first probe."""
        self.pools: dict[Origin, Pool] = {}
        self._loop = loop
        self._resolver = resolver if resolver is not None else Resolver(loop)
        self._clock = clock
        self._jitter = jitter
        self._balancers: dict[str, Balancer] = {}
        self._names: dict[str, Name] = {}
        self._retired: list[tuple[int, Balancer]] = []
        self._asking: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False

    # ── what the exchange asks ───────────────────────────────────────────────────────────────

    def balancer(self, service: Service) -> Balancer:
        """The balancer of a service of the snapshot in force, or of an earlier one."""
        found = self._balancers.get(service.name)
        if found is not None and found.service is service:
            return found
        return self._earlier(service, found)

    def _earlier(self, service: Service, found: Balancer | None) -> Balancer:
        """For a request that was decided on an earlier snapshot."""
        if found is not None and found.service.targets == service.targets:
            return found
        for _, balancer in self._retired:
            if balancer.service.name == service.name and balancer.service.targets == service.targets:
                return balancer
        balancer = Balancer(service)
        self._retired.append((self._clock() + RETIREMENT, balancer))
        self._fill(balancer, {}, slowly=False)
        return balancer

    def pool(self, origin: Origin) -> Pool:
        """The pool of an origin."""
        pool = self.pools.get(origin)
        if pool is None:
            pool = self.pools[origin] = Pool(origin, self._loop)
        return pool

    # ── life ─────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to resolve; whatever is due later starts with a `sweep`."""
        self._running = True
        self._resolve_due(self._clock())

    def adopt(self, services: Sequence[Service]) -> None:
        """These are the services from now on; what is still named keeps its state, the rest is closed."""
        now = self._clock()
        before, self._balancers = self._balancers, {}
        self._name_hosts(services)
        for service in services:
            known = before.pop(service.name, None)
            if known is None:
                balancer = Balancer(service)
                self._balancers[service.name] = balancer
                self._fill(balancer, {}, slowly=False)
                continue
            if known.service.targets == service.targets:
                balancer = known
                balancer.configure(service)
            else:
                balancer = Balancer(service)
                self._retired.append((now + RETIREMENT, known))
            self._balancers[service.name] = balancer
            self._fill(balancer, _kept(known), slowly=True)
        self._retired += [(now + RETIREMENT, balancer) for balancer in before.values()]
        self._close_unnamed()
        if self._running:
            self._resolve_due(now)

    def sweep(self, now: int) -> None:
        """Close what was idle too long; resolve and probe what is due.  `now` in nanoseconds."""
        for pool in list(self.pools.values()):
            pool.sweep(now)
        for balancer in [*self._balancers.values(), *(balancer for _, balancer in self._retired)]:
            balancer.budget.move(now)
            if balancer.queue:
                balancer.wake()
        if not self._running:
            return
        self._resolve_due(now)
        for balancer in self._balancers.values():
            active = balancer.service.health.active
            if active is None:
                continue
            for endpoint in balancer.endpoints:
                if endpoint.probe_at <= now and not endpoint.probing:
                    endpoint.probing = True
                    endpoint.probe_at = now + active.interval
                    self._spawn(self._probe(endpoint, active))
        if self._retired and self._retired[0][0] <= now:
            self._retired = [entry for entry in self._retired if entry[0] > now]
            self._close_unnamed()

    def close(self) -> None:
        """End every probe and resolution, and every idle connection; busy ones close when they are given back."""
        self._running = False
        for task in self._tasks:
            task.cancel()
        self._resolver.close()
        for pool in self.pools.values():
            pool.close()

    # ── endpoints ────────────────────────────────────────────────────────────────────────────

    def _fill(self, balancer: Balancer, kept: dict[tuple[str, Origin], Endpoint], slowly: bool) -> None:
        """Give a balancer its endpoints: those of `kept` that are still named, and new ones (slowly, where asked)."""
        now = self._clock()
        service = balancer.service
        active = service.health.active
        endpoints: list[Endpoint] = []
        new: list[Endpoint] = []
        resolving = False
        for target in service.targets:
            origins, unknown = self._origins(target)
            resolving = resolving or unknown
            for origin in origins:
                endpoint = kept.get((target.name, origin))
                if endpoint is None:
                    endpoint = Endpoint(service.name, target, self.pool(origin))
                    new.append(endpoint)
                endpoint.target = target
                endpoint.pool = self.pool(origin)
                endpoint.weight = target.weight * UNIT // len(origins)
                if active is None:
                    endpoint.probe_at = 0
                elif endpoint.probe_at:
                    endpoint.probe_at = min(endpoint.probe_at, now + active.interval)
                else:
                    endpoint.probe_at = now + self._jitter(active.interval)
                endpoints.append(endpoint)
        balancer.replace(endpoints, resolving)
        if slowly:
            for endpoint in new:
                endpoint.watch.begin_slowly(now)

    def _origins(self, target: Target) -> tuple[list[Origin], bool]:
        """Where a target is reached now, and whether its name has never been resolved yet."""
        origin = target.origin
        if origin.path or not is_name(origin.host):
            return [origin], False
        name = self._names.get(origin.host)
        if name is None:
            return [], False
        return [replace(origin, host=address) for address in name.addresses], not name.asked

    def _close_unnamed(self) -> None:
        """Close the pools of origins that nobody names; requests of a retired balancer go on with them as they are."""
        named = {endpoint.pool for balancer in self._balancers.values() for endpoint in balancer.endpoints}
        for origin, pool in list(self.pools.items()):
            if pool not in named:
                self.pools.pop(origin).close()

    # ── names ────────────────────────────────────────────────────────────────────────────────

    def _name_hosts(self, services: Sequence[Service]) -> None:
        hosts = {target.origin.host for service in services for target in service.targets if not target.origin.path}
        self._names = {host: self._names.get(host) or Name(host) for host in sorted(hosts) if is_name(host)}

    def _resolve_due(self, now: int) -> None:
        for name in self._names.values():
            if name.due <= now and name.host not in self._asking:
                self._asking.add(name.host)
                self._spawn(self._resolve(name.host))

    async def _resolve(self, host: str) -> None:
        answer = None
        why = ""
        try:
            answer = await self._resolver.resolve(host)
        except ResolveError as error:
            why = str(error)
        finally:
            self._asking.discard(host)
        name = self._names.get(host)
        if name is None:
            return  # a reload has dropped it meanwhile
        now = self._clock()
        first_time = not name.asked
        if answer is not None:
            if name.error:
                _log.info("%s resolves again", host)
            changed = name.answered(answer, now)
        else:
            changed = False
            if name.failed(why, now):
                kept = "; its last addresses go on to hold" if name.addresses else ""
                _log.warning("%s does not resolve: %s%s", host, why, kept)
        if changed or first_time:
            self._readdress(host, slowly=not first_time)

    def _readdress(self, host: str, slowly: bool) -> None:
        """A name's addresses have changed."""
        for balancer in self._balancers.values():
            if any(target.origin.host == host for target in balancer.service.targets):
                self._fill(balancer, _kept(balancer), slowly)
        self._close_unnamed()

    # ── probes ───────────────────────────────────────────────────────────────────────────────

    async def _probe(self, endpoint: Endpoint, active: ActiveHealth) -> None:
        try:
            why = await probe(endpoint.pool, endpoint.target.host_header, active)
        finally:
            endpoint.probing = False
        balancer = self._balancers.get(endpoint.service)
        if balancer is not None and endpoint in balancer.endpoints:
            endpoint.probed(self._clock(), why)

    # ── tasks, and what is shown ─────────────────────────────────────────────────────────────

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("watching upstream targets failed", exc_info=error)

    def states(self) -> list[TargetStatus]:
        """Every target of every service with its addresses, for `/status` and metrics."""
        now = self._clock()
        return [
            self._state(balancer, target, now)
            for balancer in self._balancers.values()
            for target in balancer.service.targets
        ]

    def _state(self, balancer: Balancer, target: Target, now: int) -> TargetStatus:
        addresses = [
            AddressStatus(each.address, each.watch.state(now), each.watch.reason(), each.pool.busy)
            for each in balancer.endpoints
            if each.target.name == target.name
        ]
        reason = ""
        name = self._names.get(target.origin.host)
        if name is not None and (name.error or not name.asked):
            reason = f"{name.host} does not resolve: {name.error}" if name.error else f"{name.host} is being resolved"
        elif addresses and all(address.reason for address in addresses):
            reason = addresses[0].reason
        healthy = any(address.state in (HEALTHY, SLOW_START) for address in addresses)
        return TargetStatus(balancer.service.name, target.name, healthy, target.weight, reason, tuple(addresses))


def _kept(balancer: Balancer) -> dict[tuple[str, Origin], Endpoint]:
    return {(each.target.name, each.pool.origin): each for each in balancer.endpoints}
