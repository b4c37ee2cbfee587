"""From a configuration to a snapshot: the compiler.  Runs off the loop; touches nothing that is in force (law 4)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from gateway.config.loader import Loaded
from gateway.config.model import Config
from gateway.config.policies import effective
from gateway.config.problems import Problem
from gateway.config.services import Health as HealthConfig
from gateway.config.services import Route as RouteConfig
from gateway.config.services import Service as ServiceConfig
from gateway.config.transport import Tls, UpstreamTls
from gateway.control.share import WHOLE, Share
from gateway.core.errors import ConfigError
from gateway.core.garbage import collector_off
from gateway.core.path import PathRules
from gateway.core.policy import Environment, Policy
from gateway.core.ports import NO_ACCESS_TOKENS
from gateway.proxy.http1 import Limits
from gateway.proxy.lines import keep_secret
from gateway.proxy.tls import ClientSettings, KeyPair, TlsFilesError, client_tls, server_context
from gateway.registry import policies as installed_policies
from gateway.routing.router import RouteError, Router, RouteSpec
from gateway.snapshot import (
    SECOND,
    UNWATCHED,
    ActiveHealth,
    ClientTls,
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
    from gateway.core.ports import AccessTokens, Authenticator, Clock, Counters, ResponseCache


#: From a URL's host to the TLS that is spoken with it.
Speaks = Callable[[str], ClientTls | None]


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


def build(
    loaded: Loaded, ports: Ports, registry: Mapping[str, type[Policy]] | None = None, share: Share = WHOLE
) -> Snapshot:
    """Compile a configuration for one process, which has its `share` of the limits of the whole node.

    Raises `ConfigError` for what only compiling finds.
    """
    with collector_off():
        try:
            return _build(loaded, ports, installed_policies() if registry is None else registry, share)
        except ConfigError as error:
            error.files = loaded.files[1:]
            raise


def _build(loaded: Loaded, ports: Ports, known: Mapping[str, type[Policy]], share: Share) -> Snapshot:
    config = loaded.config
    specs: list[RouteSpec[Route]] = []
    services: list[Service] = []
    secured, speaks = _secured(loaded)
    for number, service_config in enumerate(config.services):
        service = _service(service_config, speaks.get(number, _plaintext), share)
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
        timeouts=Timeouts(
            _ns(limits.header_timeout),
            _ns(limits.body_timeout),
            _ns(limits.idle_timeout),
            max(1, int(limits.body_rate * limits.body_timeout)),
        ),
        connections=share.of(limits.connections),
        connections_per_client=limits.connections_per_client,
        requests_per_connection=limits.requests_per_connection,
        max_wait=_ns(config.overload.max_wait),
        paths=rules,
        trusted=config.trusted_proxies,
        preflights=any(route.answers_preflight for route in routes),
        tls=secured,
    )


def _ns(seconds: float) -> int:
    return int(seconds * SECOND)


def _secured(loaded: Loaded) -> tuple[ssl.SSLContext | None, dict[int, Speaks]]:
    """The listener's TLS, and by its number how each service with https URLs speaks it.

    Raises `ConfigError` with everything that is wrong with the files of either, by line and column.
    """
    config = loaded.config
    problems: list[Problem] = []
    context: ssl.SSLContext | None = None
    speaks: dict[int, Speaks] = {}
    if config.tls is not None:
        try:
            context = _listener_tls(config.tls, loaded.beside)
        except TlsFilesError as error:
            problems += [Problem(("tls", *setting), text, ours=True) for setting, text in error.problems]
    for number, service in enumerate(config.services):
        if not service.address.startswith("https:"):
            continue
        try:
            speaks[number] = _upstream_tls(service, loaded.beside)
        except TlsFilesError as error:
            place = ("services", number, "tls")
            problems += [Problem((*place, *setting), text, ours=True) for setting, text in error.problems]
    if problems:
        raise ConfigError(loaded.report(problems))
    return context, speaks


def _listener_tls(config: Tls, beside: Callable[[str], Path]) -> ssl.SSLContext:
    return server_context(
        [_pair(each.certificate, each.key, beside) for each in config.certificates],
        min_version=config.min_version,
        client_ca=beside(config.client_ca) if config.client_ca is not None else None,
        client_certificates=config.client_certificates,
    )


def _upstream_tls(service: ServiceConfig, beside: Callable[[str], Path]) -> Speaks:
    config = service.tls if service.tls is not None else UpstreamTls()
    settings = ClientSettings(
        verify=service.tls_verify,
        ca_file=beside(config.ca_file) if config.ca_file is not None else None,
        own=_pair(config.certificate, config.key, beside) if config.certificate is not None else None,
    )
    # Whatever can be wrong with the files is found here.
    client_tls(settings, config.server_name or "")
    return lambda host: client_tls(settings, config.server_name or host)


def _plaintext(_: str) -> None:
    """How a service without https URLs speaks TLS."""


def _pair(certificate: str, key: str | None, beside: Callable[[str], Path]) -> KeyPair:
    return KeyPair(beside(certificate), beside(key if key is not None else certificate))


def _service(config: ServiceConfig, speaks: Speaks, share: Share) -> Service:
    _, _, base_path = _upstream(config.address, speaks)
    return Service(
        name=config.name,
        targets=tuple(_target(url, weight, speaks) for url, weight in config.upstreams),
        balance=config.balance,
        health=_health(config.health) if config.health is not None else UNWATCHED,
        base_path=base_path,
        connect_timeout=_ns(config.connect_timeout),
        read_timeout=_ns(config.read_timeout),
        write_timeout=_ns(config.write_timeout),
        retries=config.retries,
        first_byte_timeout=_ns(config.first_byte_timeout or config.read_timeout),
        total_timeout=_ns(config.total_timeout),
        max_connections=share.of(config.max_connections),
        tunnel_idle=_ns(config.websockets.idle_timeout),
        tunnel_total=_ns(config.websockets.total_timeout),
    )


def _target(url: str, weight: int, speaks: Speaks) -> Target:
    origin, host, _ = _upstream(url, speaks)
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


def _upstream(url: str, speaks: Speaks) -> tuple[Origin, bytes, str]:
    """`(origin, Host, base path)` of an upstream's URL; `speaks` gives the TLS of a host."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return Origin(path=unquote(parts.path)), b"localhost", "/"
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return (
        Origin(host=host, port=port, tls=speaks(host.removesuffix("."))),
        parts.netloc.encode("ascii"),
        parts.path or "/",
    )


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
