"""What lasts: an exchange becomes a tunnel, and tunnels and streams are judged again while they go on (see `exchange`).

Law: revoking a credential ends its WebSockets (1008) and its streams within a second.
"""

from __future__ import annotations

import logging
from time import monotonic_ns, time
from typing import TYPE_CHECKING

from gateway import pipeline
from gateway.core import answers
from gateway.core.decision import ALLOW, Decision, Deny, Pending
from gateway.proxy import attempt, messages
from gateway.proxy.record import record
from gateway.proxy.states import DONE, FORWARDING, RESPONDING, TUNNELLING
from gateway.proxy.tunnel import POLICY_VIOLATION, Tunnel

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.http1 import ResponseHead

_log = logging.getLogger("postern.proxy")


def switched(exchange: Exchange, response: ResponseHead, rest: bytes) -> None:
    """A 101: if it answers the handshake, both connections become a tunnel; `rest` is what came behind it."""
    context, route, connection, downstream = exchange.context, exchange.route, exchange.upstream, exchange.downstream
    if route is None or connection is None or not messages.answers_upgrade(response, exchange.head):
        attempt.broke(exchange, "a 101 that nobody asked for")
        return
    if exchange.endpoint is not None and exchange.endpoint.failing:
        attempt.judge(exchange, exchange.endpoint, 101)
    if route.response_hooks and not exchange.hooked(route, response):
        return
    context.answer_lines.append(messages.UPGRADE)
    try:
        out = messages.response_head(response, context, False, False, 1)
    except Exception as error:  # noqa: BLE001 - as in `respond`
        exchange.crashed(error)
        return
    blocked, waiting = downstream.blocked(), downstream.take_inbox()
    client = downstream.hand_over()
    if client is None:
        exchange.abort("the client left")
        return
    exchange.upstream = None
    exchange.state = TUNNELLING
    exchange.status = 101
    exchange.deadline = 0
    exchange.upstream_ns = monotonic_ns() - exchange.sent_at
    service = route.service
    tunnel = exchange.tunnel = Tunnel(
        exchange, client, connection.hand_over(), service.tunnel_idle, service.tunnel_total
    )
    exchange.carrier = connection
    exchange.plane.tunnels.add(tunnel)
    client.write(out)
    tunnel.begin(waiting, rest, blocked, connection.paused)


def tunnel_ended(exchange: Exchange, sent: int) -> None:
    """The WebSocket is over; `sent` bytes went to the client."""
    if exchange.state == DONE:
        return
    exchange.sent = sent
    pending, exchange.pending = exchange.pending, None
    if pending is not None:
        pending.cancel()
    record(exchange, monotonic_ns())
    exchange.over()


def tunnel_forgotten(exchange: Exchange) -> None:
    """Both of its connections are gone."""
    if exchange.tunnel is not None:
        exchange.plane.tunnels.discard(exchange.tunnel)
        exchange.tunnel = None
    exchange.downstream.forgotten()
    exchange.carrier.pool.forget(exchange.carrier)
    if exchange.balancer.queue:
        exchange.balancer.wake()


def recheck(exchange: Exchange) -> None:
    """Judge a tunnel, a stream or a request in a queue again: its credential may have been revoked since it began."""
    route = exchange.route
    if route is None or exchange.pending is not None:
        return
    uploading = exchange.state == FORWARDING and exchange.reader is not None and not exchange.reader.done
    if not (uploading or exchange.state == RESPONDING or exchange.state == TUNNELLING or exchange.waits()):
        return
    decision = judged_again(exchange)
    if isinstance(decision, Pending):
        judging = exchange.pending = decision

        def judged(again: Decision) -> None:
            if exchange.pending is judging:  # a queued request may wait for its connection by now
                exchange.pending = None
            _rechecked(exchange, again)

        judging.then(judged, lambda error: judged(_fault(exchange, error)))
    elif decision is not ALLOW:
        _rechecked(exchange, decision)


def judged_again(exchange: Exchange) -> Decision | Pending[Decision]:
    """What the policies of its route say of it by now."""
    context, route = exchange.context, exchange.route
    assert route is not None  # noqa: S101 - only what has matched was let in
    began, context.now = context.now, time()
    try:
        decision = pipeline.recheck(context, route)
    except pipeline.BROKEN as error:  # a policy is foreign code; what cannot be judged does not go on
        decision = _fault(exchange, error)
    context.now = began
    return decision


def _rechecked(exchange: Exchange, decision: Decision) -> None:
    if exchange.state == DONE or not isinstance(decision, Deny) or decision.answer is answers.OVERLOADED:
        return  # what nobody has time to judge now is judged at the next round
    exchange.reason = decision.reason
    if exchange.tunnel is not None:
        exchange.tunnel.close(POLICY_VIOLATION)
    elif exchange.state < RESPONDING:
        exchange.refuse(decision)
    else:
        exchange.abort(f"ended, since {decision.answer.text}")


def _fault(exchange: Exchange, error: BaseException) -> Deny:
    """A policy is foreign code: what it cannot judge does not go on."""
    _log.error("judging request %s again failed", exchange.context.request_id, exc_info=error)
    return Deny(answers.INTERNAL_ERROR)
