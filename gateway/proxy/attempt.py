"""Finding an upstream for an exchange, and trying again: from `forward` to the request's last byte (see `exchange`).

Laws: what never left may go anywhere else; what may have been read is sent again only where the method is idempotent
and the whole of it is still held, so that a POST is never sent twice; retries have a budget (`retries`); nobody
overtakes who waits for room; an endpoint is told whatever a request says of its health; who has waited, for whatever it
was, is judged again when it has a connection and before anything is written on it.
"""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from gateway.core import answers
from gateway.core.decision import Decision, Deny, Pending, Reply
from gateway.proxy import messages
from gateway.proxy.http1 import CHUNKED
from gateway.proxy.retries import IDEMPOTENT
from gateway.proxy.states import CONNECTING, FORWARDING

if TYPE_CHECKING:
    from gateway.core.identity import Identity
    from gateway.proxy.balancer import Endpoint
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.upstream import Upstream

_log = logging.getLogger("postern.proxy")

#: How long after a request was written its kept connection may end by a close that crossed it, in nanoseconds.
_RACE: Final = 1_000_000_000


def forward(exchange: Exchange) -> None:
    """The request may pass: find a connection and write it."""
    context, route = exchange.context, exchange.route
    assert route is not None  # noqa: S101 - only what has matched is forwarded
    service = route.service
    exchange.retries = service.retries
    if exchange.reader is not None and context.body_limit is not None and exchange.received > context.body_limit:
        exchange.refuse(Deny(answers.BODY_TOO_LARGE, close=True))
        return
    if service.total_timeout:
        exchange.until = exchange.arrived + service.total_timeout
    balancer = exchange.balancer = exchange.plane.targets.balancer(service)
    balancer.budget.asked += 1
    endpoint = balancer.only
    if endpoint is not None:
        _use(exchange, endpoint)
    elif service.max_connections and balancer.queue:
        _wait_for_room(exchange)  # nobody overtakes
    else:
        choose(exchange)


def choose(exchange: Exchange, waited: bool = False) -> None:
    """Use the endpoint whose turn it is; wait where there is none yet, or none has room.  `waited`: it has already."""
    balancer = exchange.balancer
    now = monotonic_ns()
    endpoint = balancer.pick(_key(exchange), now)
    if endpoint is not None:
        _use(exchange, endpoint, waited)
    elif balancer.resolving:
        _resolve(exchange)
    elif balancer.full(now):
        _wait_for_room(exchange)
    else:
        _log.warning("request %s: service %s has no healthy target", exchange.context.request_id, balancer.service.name)
        _unavailable(exchange)


def _key(exchange: Exchange) -> str:
    """Who asks, for targets that are chosen by it."""
    identity = exchange.context.identity
    return exchange.context.client if identity is None else identity.consumer.id


def _resolve(exchange: Exchange) -> None:
    """The service's names are being resolved for the first time."""
    assert exchange.route is not None  # noqa: S101 - see `forward`
    exchange.state = CONNECTING
    exchange.queued = False
    exchange.deadline = monotonic_ns() + exchange.route.service.connect_timeout
    pending = exchange.pending = exchange.balancer.wait()
    pending.then(lambda _: _resolved(exchange), lambda error: unreachable(exchange, error))


def _resolved(exchange: Exchange) -> None:
    exchange.pending = None
    if exchange.state == CONNECTING:
        choose(exchange, waited=True)


def _wait_for_room(exchange: Exchange) -> None:
    """Every endpoint has as many connections as it may: wait for one."""
    exchange.state = CONNECTING
    exchange.queued = True
    exchange.deadline = monotonic_ns() + exchange.snapshot.max_wait
    exchange.balancer.queue.append(exchange)


def _use(exchange: Exchange, endpoint: Endpoint, waited: bool = False) -> None:
    """Send the request to this endpoint."""
    exchange.endpoint = endpoint
    _compose(exchange, endpoint)
    connection = endpoint.pool.take()
    if connection is None:
        _connect(exchange, endpoint)
    elif waited:
        _judge_again(exchange, connection)
    else:
        _send(exchange, connection)


def _compose(exchange: Exchange, endpoint: Endpoint) -> None:
    """Make the request's head for this endpoint, in the name of who is asking."""
    route = exchange.route
    assert route is not None  # noqa: S101 - see `forward`
    exchange.request_head = messages.request_head(
        exchange.head, exchange.context, route, exchange.matched, exchange.peer, endpoint.target.host_header
    )


def _connect(exchange: Exchange, endpoint: Endpoint) -> None:
    assert exchange.route is not None  # noqa: S101 - see `forward`
    exchange.state = CONNECTING
    exchange.queued = False
    exchange.sent_at = monotonic_ns()
    exchange.deadline = exchange.sent_at + exchange.route.service.connect_timeout
    pending = exchange.pending = endpoint.pool.connect()
    pending.then(lambda opened: _connected(exchange, opened), lambda error: unreachable(exchange, error))


def _connected(exchange: Exchange, connection: Upstream) -> None:
    exchange.pending = None
    if exchange.state != CONNECTING:
        connection.close()
        return
    _judge_again(exchange, connection)


def _judge_again(exchange: Exchange, connection: Upstream) -> None:
    """It has waited for this connection, or for its turn: it may have been revoked meanwhile."""
    exchange.upstream = connection  # held while somebody has to be asked; what ends the exchange ends it
    exchange.state = CONNECTING
    exchange.queued = False
    exchange.deadline = 0
    identity = exchange.context.identity
    decision = exchange.judged_again()
    if isinstance(decision, Pending):
        exchange.pending = decision
        # No closures: compiled, those of one function hold each other, and all that they hold, in a cycle.
        decision.then(
            partial(_judged, exchange, connection, identity), partial(_not_judged, exchange, connection, identity)
        )
    else:
        _judged(exchange, connection, identity, decision)


def _judged(exchange: Exchange, connection: Upstream, identity: Identity | None, again: Decision) -> None:
    """Send it in the name of who is asking now, if it may go on; `identity` is in whose name it was composed."""
    exchange.pending = exchange.upstream = None
    endpoint = exchange.endpoint
    if isinstance(again, (Deny, Reply)) or endpoint is None:
        connection.close()
        exchange.decided(again)
    elif not connection.usable():
        connection.close()
        _connect(exchange, endpoint)
    else:
        if exchange.context.identity is not identity:
            _compose(exchange, endpoint)
        _send(exchange, connection)


def _not_judged(exchange: Exchange, connection: Upstream, identity: Identity | None, _error: BaseException) -> None:
    """A policy broke: what cannot be judged does not go on."""
    _judged(exchange, connection, identity, Deny(answers.INTERNAL_ERROR))


def unreachable(exchange: Exchange, error: BaseException) -> None:
    """No connection: nothing of the request was sent, so that another endpoint may get it, whatever it is."""
    exchange.pending = None
    _log.warning("request %s: the upstream cannot be reached: %s", exchange.context.request_id, error)
    blame(exchange, str(error))
    if not retry(exchange, elsewhere=True):
        _unavailable(exchange)


def _unavailable(exchange: Exchange) -> None:
    exchange.refuse(Deny(answers.UPSTREAM_UNAVAILABLE, headers=((b"Retry-After", b"1"),)), "failed")


def blame(exchange: Exchange, why: str) -> None:
    """Tell the endpoint that it has failed this request."""
    if exchange.endpoint is not None:
        exchange.endpoint.failed(monotonic_ns(), why, exchange.sent_at)


def retry(exchange: Exchange, elsewhere: bool) -> bool:
    """Try once more, on another endpoint where there is one; `elsewhere`: there only.  False if nothing is left."""
    failed, balancer = exchange.endpoint, exchange.balancer
    if failed is None or exchange.retries <= 0:
        return False
    now = monotonic_ns()
    endpoint = balancer.pick(_key(exchange), now, failed)
    if endpoint is None:
        return False
    if (elsewhere and endpoint is failed) or not balancer.budget.spend():
        endpoint.abandoned(now)
        return False
    exchange.retries -= 1
    _use(exchange, endpoint, waited=True)
    if balancer.queue:
        balancer.wake()  # there is room again on the one that has failed
    return True


def _send(exchange: Exchange, connection: Upstream) -> None:
    assert exchange.route is not None  # noqa: S101 - see `forward`
    service = exchange.route.service
    exchange.upstream = connection
    exchange.state = FORWARDING
    exchange.sent_at = now = monotonic_ns()
    if exchange.reader is None:
        exchange.deadline = now + service.first_byte_timeout
        connection.send(exchange, exchange.request_head, b"", True, False)
        return
    hold = exchange.hold
    exchange.sink = connection
    body = hold.take()
    # A whole body that was held may be sent again, and one of which nothing has come yet (its client waits for a 100).
    exchange.replay = body if hold.last or not body else None
    exchange.deadline = now + service.first_byte_timeout if hold.last else 0
    connection.send(exchange, exchange.request_head, body, hold.last, exchange.head.framing == CHUNKED)


def broke(exchange: Exchange, why: str) -> None:
    """The upstream's connection broke, or what came on it is no response."""
    connection, exchange.upstream = exchange.upstream, None
    if connection is None:
        return
    connection.close()
    context = exchange.context
    if exchange.state != FORWARDING:
        blame(exchange, why)
        exchange.abort(why)
        return
    again = exchange.retries > 0 and not connection.answered and context.method in IDEMPOTENT and _again(exchange)
    if connection.stale() and monotonic_ns() - exchange.sent_at < _RACE:
        # It was closed as we began to write: nobody's fault, and no try.  The next connection is a fresh one.
        if again and exchange.endpoint is not None:
            _connect(exchange, exchange.endpoint)
            return
    else:
        blame(exchange, why)
        if again and retry(exchange, elsewhere=False):
            return
    _log.warning("request %s: %s", context.request_id, why)
    exchange.refuse(Deny(answers.BAD_GATEWAY), "failed")


def _again(exchange: Exchange) -> bool:
    """Put the held body back for another try; False if some of it is gone."""
    if exchange.reader is None:
        return True
    if exchange.replay is None or exchange.received != len(exchange.replay):
        return False
    exchange.sink = exchange.hold
    exchange.hold.write(exchange.replay, exchange.reader.done)
    return True


def judge(exchange: Exchange, endpoint: Endpoint, status: int) -> None:
    """What a status says about the endpoint."""
    if status in exchange.balancer.statuses:
        endpoint.failed(monotonic_ns(), f"it answered {status}", exchange.sent_at)
    elif endpoint.failing:
        endpoint.succeeded(monotonic_ns(), exchange.sent_at)


def out_of_time(exchange: Exchange, whole: bool) -> None:
    """Connecting, or the first byte of an answer, took too long; `whole`: the request in all."""
    if exchange.waits() and not whole:
        exchange.refuse(Deny(answers.OVERLOADED, headers=((b"Retry-After", b"1"),)), "failed")
        return
    if exchange.state == CONNECTING:
        pending, exchange.pending = exchange.pending, None
        if pending is not None:
            pending.cancel()
        blame(exchange, "it took too long to connect")
        if not whole and retry(exchange, elsewhere=True):
            return
    elif not _uploading(exchange):
        blame(exchange, "it did not answer in time")
    exchange.refuse(Deny(answers.UPSTREAM_TIMEOUT), "failed")


def _uploading(exchange: Exchange) -> bool:
    """Is the rest of the client's body waited for, and not the upstream?"""
    body, connection = exchange.reader, exchange.upstream
    return body is not None and not body.done and connection is not None and not connection.paused
