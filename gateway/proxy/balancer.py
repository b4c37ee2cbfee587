"""Which endpoint of a service gets the next request.  Pure over its endpoints and an injected clock (law 1).

An endpoint is one address of one target; the addresses of a target share its weight.  Chosen is among those that take
requests (`health`), in one of three ways:

* round-robin: nginx's smooth weighted round-robin.  Each endpoint's `credit` grows by its weight a pick; the richest is
  taken and pays the sum of all weights.  Any run of as many picks as the weights add up to holds each exactly its
  weight's number of times, spread as evenly as can be.
* least-connections: the fewest requests in flight for its weight; equals are taken by round-robin.
* consumer-hash: consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with
  Bounded Loads", SODA 2018) with c = 1.25: a key goes to the first endpoint on the ring from the key's place that
  carries, this request included, at most ⌈c × its weight's share of all requests in flight⌉.  What is left out stays on
  the ring and is passed over, so only its own keys move, and they come home.

One whose circuit is half open is given the next request at once (a consumer-hash one: the next of its own keys), since
nothing else can close the circuit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, Protocol

from gateway.core.decision import Pending
from gateway.proxy.health import CLOSED, FULL_SHARE, JUST_NOW, PATIENCE, Watch
from gateway.proxy.retries import RetryBudget
from gateway.proxy.ring import Ring

if TYPE_CHECKING:
    from gateway.proxy.pool import Pool
    from gateway.snapshot import Service, Target

_log = logging.getLogger("postern.proxy")

#: A target's weight is so many units, so that up to 16 addresses share it without a remainder (and by hundredths).
UNIT: Final = 7_207_200

_ROUND_ROBIN: Final = 0
_LEAST_CONNECTIONS: Final = 1
_CONSUMER_HASH: Final = 2
_WAYS: Final = {
    "round-robin": _ROUND_ROBIN,
    "least-connections": _LEAST_CONNECTIONS,
    "consumer-hash": _CONSUMER_HASH,
}


class Endpoint:
    """One address of one target: its `target`, its `pool`, and its health.

    `failing` is True while a success must be told (`succeeded`): failures have been counted, or the circuit is half
    open.  `weight` in units (`UNIT`); `probing` and `probe_at` belong to whoever probes it.
    """

    __slots__ = ("credit", "failing", "pool", "probe_at", "probing", "service", "target", "watch", "weight")

    def __init__(self, service: str, target: Target, pool: Pool) -> None:
        self.service = service
        self.target = target
        self.pool = pool
        self.watch = Watch()
        self.weight = target.weight * UNIT
        self.credit = 0
        self.failing = False
        self.probing = False
        self.probe_at = 0

    @property
    def address(self) -> str:
        """Where it listens, as text: `192.0.2.7:80`, `[2001:db8::1]:80` or `unix:/path`."""
        origin = self.pool.origin
        return f"[{origin.host}]:{origin.port}" if ":" in origin.host else str(origin)

    def succeeded(self, now: int, sent: int = JUST_NOW) -> None:
        """A request that was sent at `sent` was answered well; both in nanoseconds.  Only needed while `failing`."""
        if self.watch.succeeded(now, sent):
            _log.info("service %s: %s is used again", self.service, self._named())
        self.failing = self.watch.failing

    def failed(self, now: int, why: str, sent: int = JUST_NOW) -> None:
        """A request failed because of it: no connection, a timeout, a broken response, a status that says so."""
        if self.watch.failed(now, why, sent):
            _log.warning("service %s: %s is left out: %s", self.service, self._named(), why)
        self.failing = self.watch.failing

    def abandoned(self, now: int, sent: int = JUST_NOW) -> None:
        """A request that it was given ended with no word of it: the client left, or the gateway refused."""
        self.watch.abandoned(now, sent)

    def probed(self, now: int, why: str) -> None:
        """A health probe ended; `why` is "" where it is well."""
        if not self.watch.probed(now, why):
            return
        if why:
            _log.warning("service %s: %s is left out: its health check failed: %s", self.service, self._named(), why)
        else:
            _log.info("service %s: %s is used again: its health check passed", self.service, self._named())

    def _named(self) -> str:
        name = self.target.name
        return f"target {name}" if self.address in name else f"target {name} at {self.address}"


class Waiter(Protocol):
    """A request that waits until an endpoint has room for it."""

    def waits(self) -> bool:
        """Does it still wait?"""
        ...

    def take_slot(self) -> None:
        """There is room for it, or nothing to wait for: it is to `pick` again."""
        ...


class Balancer:
    """The endpoints of one service, and whose turn it is.

    `only` is the endpoint to use without asking, where there is one address and nobody watches it.
    `endpoints` is not to be changed but by `replace`; `service` is the latest that named these targets.
    """

    __slots__ = ("_ring", "_waiting", "_way", "budget", "endpoints", "only", "queue", "resolving", "service",
                 "statuses")  # fmt: skip

    def __init__(self, service: Service) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        self.only: Endpoint | None = None
        #: True while there is no endpoint because names are being resolved for the first time.
        self.resolving = False
        self._waiting: list[Pending[None]] = []
        self._ring: Ring | None = None
        self.budget = RetryBudget()
        #: Requests that wait for room, first come, first served.
        self.queue: deque[Waiter] = deque()
        self.configure(service)

    def configure(self, service: Service) -> None:
        """Go on under a service's settings; its targets' endpoints are given by `replace`."""
        self.service = service
        self._way = _WAYS[service.balance]
        passive = service.health.passive
        #: The statuses that are failures of an endpoint.
        self.statuses: frozenset[int] = passive.statuses if passive is not None else frozenset()

    def replace(self, endpoints: Sequence[Endpoint], resolving: bool = False) -> None:
        """These are the endpoints from now on.  Who waits is told once there is one, or no name is left to resolve."""
        self.endpoints = tuple(endpoints)
        health = self.service.health
        patience = max(PATIENCE, 2 * (self.service.connect_timeout + self.service.read_timeout))
        for endpoint in endpoints:
            endpoint.watch.configure(health, patience)
            endpoint.failing = endpoint.watch.failing
        watched = health.active is not None or health.passive is not None
        alone = len(self.endpoints) == 1 and not watched and not self.service.max_connections
        self.only = self.endpoints[0] if alone else None
        self._ring = None
        if self._way == _CONSUMER_HASH and len(self.endpoints) > 1:
            self._ring = Ring([(f"{each.target.name}|{each.pool.origin}", each.weight) for each in self.endpoints])
        self.resolving = resolving and not self.endpoints
        if not self.resolving:
            waiting, self._waiting = self._waiting, []
            for pending in waiting:
                if not pending.done:
                    pending.resolve(None)

    def wait(self) -> Pending[None]:
        """Delivered once the first resolution has ended, well or not; ask `pick` again then."""
        pending: Pending[None] = Pending()
        if self.resolving:
            self._waiting = [each for each in self._waiting if not each.done]
            self._waiting.append(pending)
        else:
            pending.resolve(None)
        return pending

    def pick(self, key: str, now: int, avoid: Endpoint | None = None) -> Endpoint | None:
        """The endpoint for a request; None where none takes any.

        `key` names who asks (consumer-hash alone heeds it); `now` in nanoseconds; `avoid` has failed this request
        already, and is given again only where there is no other.
        """
        ready = [each for each in self.endpoints if each is not avoid and self._takes(each, now)]
        if not ready:
            if avoid is None or avoid not in self.endpoints or not self._takes(avoid, now):
                return None
            chosen = avoid
        elif len(ready) == 1:
            chosen = ready[0]
        elif self._way == _CONSUMER_HASH:
            chosen = self._hashed(key, ready, now)
        else:
            chosen = self._in_turn(ready, now)
        if chosen.watch.circuit != CLOSED:
            chosen.watch.admitted(now)
            chosen.failing = True
        return chosen

    def _takes(self, endpoint: Endpoint, now: int) -> bool:
        most = self.service.max_connections
        return endpoint.watch.takes(now) and (not most or endpoint.pool.busy < most)

    def full(self, now: int) -> bool:
        """Where `pick` finds none: is it for want of room alone?"""
        return any(each.watch.takes(now) for each in self.endpoints)

    def wake(self) -> None:
        """Let those who wait go on, as far as there is room; all of them where no endpoint is well any more."""
        queue = self.queue
        while queue:
            if queue[0].waits():
                now = monotonic_ns()
                if self.full(now) and not any(self._takes(each, now) for each in self.endpoints):
                    return
                queue.popleft().take_slot()
            else:
                queue.popleft()

    def _in_turn(self, ready: list[Endpoint], now: int) -> Endpoint:
        for each in ready:
            if each.watch.circuit != CLOSED:
                return each
        return _in_turn(ready if self._way == _ROUND_ROBIN else _least_busy(ready, now), now)

    def _hashed(self, key: str, ready: list[Endpoint], now: int) -> Endpoint:
        ring = self._ring
        weights = [_weight(each, now) for each in ready]
        whole = sum(weights)
        in_flight = 1 + sum(each.pool.busy for each in ready)
        eligible: dict[Endpoint, bool] = {}
        for each, weight in zip(ready, weights, strict=True):
            # busy + 1 ≤ ⌈5/4 × in_flight × weight / whole⌉, in whole numbers
            eligible[each] = 4 * each.pool.busy * whole < 5 * in_flight * weight
        assert ring is not None  # noqa: S101 - several endpoints: `replace` made one
        index = ring.first(key, [eligible.get(each, False) for each in self.endpoints])
        return self.endpoints[index]


def _weight(endpoint: Endpoint, now: int) -> int:
    watch = endpoint.watch
    return endpoint.weight * watch.share(now) // FULL_SHARE if watch.ramping else endpoint.weight


def _in_turn(ready: list[Endpoint], now: int) -> Endpoint:
    """Smooth weighted round-robin (nginx, `ngx_http_upstream_get_peer`)."""
    whole = 0
    chosen = ready[0]
    for each in ready:
        weight = _weight(each, now)
        whole += weight
        each.credit += weight
        if each.credit > chosen.credit:
            chosen = each
    chosen.credit -= whole
    return chosen


def _least_busy(ready: list[Endpoint], now: int) -> list[Endpoint]:
    """Those with the fewest requests in flight for their weight (nginx, `ngx_http_upstream_get_least_conn_peer`)."""
    least = [ready[0]]
    busy, weight = ready[0].pool.busy, _weight(ready[0], now)
    for each in ready[1:]:
        its_busy, its_weight = each.pool.busy, _weight(each, now)
        difference = its_busy * weight - busy * its_weight
        if difference < 0:
            least = [each]
            busy, weight = its_busy, its_weight
        elif difference == 0:
            least.append(each)
    return least
