"""What is recorded of an exchange at its end, once: policies' `on_end`, metrics, the access line (see `exchange`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gateway import pipeline

if TYPE_CHECKING:
    from gateway.core.context import Tap
    from gateway.proxy.exchange import Exchange

_log = logging.getLogger("postern.proxy")


def record(exchange: Exchange, now: int) -> None:
    """Record the exchange, once: hooks, metrics, access line."""
    context, route = exchange.context, exchange.route
    if context.tap is not None:
        _untap(exchange, context.tap)
    seconds = (now - exchange.arrived) * 1e-9
    upstream_seconds = exchange.upstream_ns * 1e-9 if exchange.upstream_ns >= 0 else None
    if route is None:
        stats, name, service = exchange.snapshot.unrouted, "", ""
    else:
        for hook in route.end_hooks:
            try:
                hook(context, exchange.status)
            except pipeline.BROKEN:  # a policy is foreign code: the exchange ends whatever breaks in it
                _log.exception("a policy broke at the end of request %s", context.request_id)
        stats, name, service = route.stats, route.name, route.service.name
    stats.observe(context.method, exchange.status, seconds, upstream_seconds)
    access = exchange.plane.access
    if access is not None:
        identity = context.identity
        access.record(
            context.now,
            context.request_id,
            context.client,
            context.method,
            context.path,
            context.query,
            exchange.status,
            exchange.sent,
            seconds,
            upstream_seconds,
            name,
            service,
            identity.username if identity is not None else "",
            identity.identifier if identity is not None else "",
            exchange.decision,
            exchange.reason,
            context.index.get(b"user-agent", b""),
            context.host,
        )


def _untap(exchange: Exchange, tap: Tap) -> None:
    exchange.context.tap = None
    try:
        tap.abort()
    except pipeline.BROKEN:  # a policy is foreign code: the exchange ends whatever breaks in it
        _log.exception("a policy broke on the body of request %s", exchange.context.request_id)
