"""A compiled configuration: plain data, immutable, read on every request (law 4).

`build.py` makes a `Snapshot` from a configuration; the data plane takes the current one once a request
and keeps it until that request is over.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.core.decision import Decision, Pending
from gateway.core.path import DEFAULT, PathRules

if TYPE_CHECKING:
    from gateway.core.context import Context
    from gateway.core.policy import Policy
    from gateway.core.units import Network

Check = Callable[["Context"], "Decision | Pending[Decision] | Awaitable[Decision]"]

SECOND = 1_000_000_000


class Stats(Protocol):
    """Where a route's requests are counted; the same object over reloads."""

    def observe(self, method: str, status: int, seconds: float, upstream_seconds: float | None) -> None: ...

    def denied(self, policy: str, reason: str) -> None: ...


@dataclass(frozen=True)
class ClientTls:
    """How TLS is spoken to an upstream: `server_name` is asked for (SNI) and, where `verify`, must be in its
    certificate, which the authorities of `ca_file` vouch for (empty: the system's); `certificate` and `key` are ours.

    `fingerprint` changes with all of this and with the files' content, so that what was opened with other files is
    not taken for this; `context` is what OpenSSL made of them (`proxy.tls`).
    """

    verify: bool
    server_name: str
    ca_file: str = ""
    certificate: str = ""
    key: str = ""
    fingerprint: str = ""
    context: ssl.SSLContext | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Origin:
    """Where an upstream listens: `host` and `port`, or `path`, a Unix socket; and the TLS that it speaks.

    Connections are pooled by it.  The host may be an address that was found for the name; `tls` keeps the name.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    tls: ClientTls | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Target:
    """One of a service's upstreams: `name` is its URL as written, `host_header` what it is called, `weight` its
    share of the requests.  The origin's host may be a name, which stands for all its addresses."""

    name: str
    origin: Origin
    host_header: bytes
    weight: int = 1


@dataclass(frozen=True)
class ActiveHealth:
    """Probes: a GET of `path` every `interval`, answered within `timeout` (nanoseconds) by one of the statuses
    `expect` (empty: 200 to 399); so many in a row bring a target back, or put it out."""

    path: bytes
    interval: int
    timeout: int
    healthy: int
    unhealthy: int
    expect: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PassiveHealth:
    """The circuit breaker: so many `failures` in a row (`statuses` among them) open it for `cooldown` nanoseconds."""

    failures: int
    cooldown: int
    statuses: frozenset[int] = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Health:
    """How a service's targets are watched; over `slow_start` nanoseconds one that comes (back) gets its full share."""

    active: ActiveHealth | None = None
    passive: PassiveHealth | None = None
    slow_start: int = 0


UNWATCHED: Final = Health()


@dataclass(frozen=True)
class Service:
    """An upstream: `targets` are where it listens, and `balance` how requests are shared among them; `base_path` is
    what the path of its URLs puts before ours; timeouts in nanoseconds."""

    name: str
    targets: tuple[Target, ...]
    base_path: str = "/"
    connect_timeout: int = 5 * SECOND
    read_timeout: int = 60 * SECOND
    write_timeout: int = 60 * SECOND
    retries: int = 1
    first_byte_timeout: int = 60 * SECOND
    total_timeout: int = 0
    max_connections: int = 0
    tunnel_idle: int = 3600 * SECOND
    tunnel_total: int = 0
    balance: str = "round-robin"
    health: Health = UNWATCHED


@dataclass(frozen=True)
class Route:
    """What a request that matched gets: the policies in their order (`checks` are their bound `check`s),
    the hooks of those that have them, and how the upstream is asked.

    `plain_path` says that the canonical path is the upstream's path as it stands.
    """

    name: str
    service: Service
    policies: tuple[Policy, ...]
    checks: tuple[Check, ...]
    stats: Stats
    strip_path: bool = False
    preserve_host: bool = False
    answers_preflight: bool = False
    response_hooks: tuple[Callable[[Context, int, list[tuple[bytes, bytes]]], None], ...] = ()
    end_hooks: tuple[Callable[[Context, int], None], ...] = ()
    plain_path: bool = True


@dataclass(frozen=True)
class Timeouts:
    """The listener's patience with a client, in nanoseconds; `pace` is how many bytes it must send or take, in a body,
    within `body`."""

    header: int = 10 * SECOND
    body: int = 60 * SECOND
    idle: int = 75 * SECOND
    pace: int = 1


Match = tuple[Route, int, "dict[str, str] | None"]


@dataclass(frozen=True)
class Snapshot:
    """One configuration, compiled.

    `match(method, host, path, index)` is the router; `limits` what `http1` takes of heads;
    `trusted` the networks whose forwarding headers are believed; `max_wait` how long a request waits for its turn,
    in nanoseconds; `connections_per_client` 0 for any number; `hash` names the configuration.
    """

    hash: str
    match: Callable[[str, str, str, Mapping[bytes, bytes]], Match | None]
    routes: tuple[Route, ...]
    services: tuple[Service, ...]
    limits: Any
    unrouted: Stats
    timeouts: Timeouts = field(default_factory=Timeouts)
    connections: int = 10_000
    connections_per_client: int = 0
    requests_per_connection: int = 10_000
    max_wait: int = 2 * SECOND
    paths: PathRules = DEFAULT
    trusted: tuple[Network, ...] = ()
    preflights: bool = False
    #: What the proxy listener speaks to clients whose connections begin from now on; None: plain HTTP.
    tls: ssl.SSLContext | None = None
