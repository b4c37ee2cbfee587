"""From a configuration to a snapshot: the compiler.  Runs off the loop; touches nothing that is in force (law 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from gateway.config.loader import Loaded
from gateway.config.model import Config
from gateway.config.policies import effective
from gateway.config.services import Health as HealthConfig
from gateway.config.services import Route as RouteConfig
from gateway.config.services import Service as ServiceConfig
from gateway.core.errors import ConfigError
from gateway.core.garbage import collector_off
from gateway.core.path import PathRules
from gateway.core.policy import Environment, Policy
from gateway.core.ports import NO_ACCESS_TOKENS
from gateway.proxy.http1 import Limits
from gateway.proxy.lines import keep_secret
from gateway.registry import policies as installed_policies
from gateway.routing.router import RouteError, Router, RouteSpec
from gateway.snapshot import (
    SECOND,
    UNWATCHED,
    ActiveHealth,
    Health,
    Origin,
    PassiveHealth,
    Route,
    Service,
    Snapshot,
    Stats,
    Target,
    Timeouts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.ports import AccessTokens, Authenticator, Clock, Counters, ResponseCache


@dataclass(frozen=True, slots=True)
class Ports:
    """What outlives a configuration and is lent to its policies; `stats` counts for a (service, route),
    `response_cache` opens the cache of responses when a policy first wants it (None: there is none)."""

    clock: Clock
    counters: Counters
    authenticator: Authenticator
    stats: Callable[[str, str], Stats]
    access_tokens: AccessTokens = NO_ACCESS_TOKENS
    response_cache: Callable[[], ResponseCache] | None = None


def build(loaded: Loaded, ports: Ports, registry: Mapping[str, type[Policy]] | None = None) -> Snapshot:
    """Compile a configuration.  Raises `ConfigError` for what only compiling finds."""
    with collector_off():
        return _build(loaded, ports, installed_policies() if registry is None else registry)


def _build(loaded: Loaded, ports: Ports, known: Mapping[str, type[Policy]]) -> Snapshot:
    config = loaded.config
    specs: list[RouteSpec[Route]] = []
    services: list[Service] = []
    for service_config in config.services:
        service = _service(service_config)
        services.append(service)
        for route_config in service_config.routes:
            route = _route(config, service_config, service, route_config, ports, known)
            specs.append(
                RouteSpec(
                    name=route.name,
                    target=route,
                    hosts=route_config.hosts,
                    methods=frozenset(route_config.methods),
                    paths=route_config.paths,
                    headers=route_config.headers,
                    regex_priority=route_config.regex_priority,
                )
            )
    rules = PathRules(config.paths.encoded_slash, config.paths.merge_slashes)
    try:
        router = Router(specs, rules)
    except RouteError as error:
        raise ConfigError([f"{loaded.files[0]}: {error}"]) from error
    routes = tuple(spec.target for spec in specs)
    limits = config.limits
    return Snapshot(
        hash=loaded.hash,
        match=router.match,
        routes=routes,
        services=tuple(services),
        limits=Limits(limits.header_bytes, limits.headers, limits.target_bytes),
        unrouted=ports.stats("", ""),
        timeouts=Timeouts(_ns(limits.header_timeout), _ns(limits.body_timeout), _ns(limits.idle_timeout)),
        connections=limits.connections,
        paths=rules,
        trusted=config.trusted_proxies,
        preflights=any(route.answers_preflight for route in routes),
    )


def _ns(seconds: float) -> int:
    return int(seconds * SECOND)


def _service(config: ServiceConfig) -> Service:
    origin, host, base_path = _upstream(config.address)
    return Service(
        name=config.name,
        origin=origin,
        host_header=host,
        targets=tuple(_target(url, weight) for url, weight in config.upstreams),
        balance=config.balance,
        health=_health(config.health) if config.health is not None else UNWATCHED,
        base_path=base_path,
        connect_timeout=_ns(config.connect_timeout),
        read_timeout=_ns(config.read_timeout),
        write_timeout=_ns(config.write_timeout),
        retries=config.retries,
        tunnel_idle=_ns(config.websockets.idle_timeout),
        tunnel_total=_ns(config.websockets.total_timeout),
        address=str(origin),
    )


def _target(url: str, weight: int) -> Target:
    origin, host, _ = _upstream(url)
    return Target(url, origin, host, weight)


def _health(config: HealthConfig) -> Health:
    active, passive = config.active, config.passive
    return Health(
        active=None
        if active is None
        else ActiveHealth(
            active.path.encode("ascii"),
            _ns(active.interval),
            _ns(active.timeout),
            active.healthy,
            active.unhealthy,
            frozenset(active.expect),
        ),
        passive=None
        if passive is None
        else PassiveHealth(passive.failures, _ns(passive.cooldown), frozenset(passive.statuses)),
        slow_start=_ns(config.slow_start),
    )


def _upstream(url: str) -> tuple[Origin, bytes, str]:
    """`(origin, Host, base path)` of an upstream's URL."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return Origin(path=unquote(parts.path)), b"localhost", "/"
    port = parts.port or 80
    host = parts.hostname or ""
    return Origin(host=host, port=port), parts.netloc.encode("ascii"), parts.path or "/"


def _route(
    config: Config,
    service_config: ServiceConfig,
    service: Service,
    route: RouteConfig,
    ports: Ports,
    known: Mapping[str, type[Policy]],
) -> Route:
    environment = Environment(
        route=route.name,
        service=service.name,
        clock=ports.clock,
        counters=ports.counters,
        authenticator=ports.authenticator,
        access_tokens=ports.access_tokens,
        response_cache=ports.response_cache,
    )
    policies: list[Policy] = []
    for name, entries in effective(config.levels(service_config, route)).items():
        policies += known[name].assemble(entries, environment)
        for entry in entries:
            keep_secret(frozenset(key.lower().encode("ascii") for key in getattr(entry.config, "key_names", ())))
    policies.sort(key=lambda policy: policy.phase)
    preserve = route.preserve_host
    return Route(
        name=route.name,
        service=service,
        policies=tuple(policies),
        checks=tuple(policy.check for policy in policies),
        stats=ports.stats(service.name, route.name),
        strip_path=route.strip_path,
        preserve_host=service_config.preserve_host if preserve is None else preserve,
        answers_preflight=any(policy.answers_preflight for policy in policies),
        response_hooks=tuple(policy.on_response_head for policy in policies if hasattr(policy, "on_response_head")),
        end_hooks=tuple(policy.on_end for policy in policies if hasattr(policy, "on_end")),
        plain_path=service.base_path == "/" and not route.strip_path,
    )
