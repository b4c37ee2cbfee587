"""A compiled configuration: plain data, immutable, read on every request (law 4).

`build.py` makes a `Snapshot` from a configuration; the data plane takes the current one once a request
and keeps it until that request is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
class Origin:
    """Where an upstream listens: `host` and `port`, or `path`, a Unix socket.  Connections are pooled by it."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Service:
    """An upstream: `address` is its origin as text, by which connections are pooled; `host_header` is what it is
    called, `base_path` what its URL's path puts before ours; timeouts in nanoseconds."""

    name: str
    origin: Origin
    host_header: bytes
    base_path: str = "/"
    connect_timeout: int = 5 * SECOND
    read_timeout: int = 60 * SECOND
    write_timeout: int = 60 * SECOND
    retries: int = 1
    address: str = ""


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
    """The listener's patience with a client, in nanoseconds."""

    header: int = 10 * SECOND
    body: int = 60 * SECOND
    idle: int = 75 * SECOND


Match = tuple[Route, int, "dict[str, str] | None"]


@dataclass(frozen=True)
class Snapshot:
    """One configuration, compiled.

    `match(method, host, path, index)` is the router; `limits` what `http1` takes of heads;
    `trusted` the networks whose forwarding headers are believed; `hash` names the configuration.
    """

    hash: str
    match: Callable[[str, str, str, Mapping[bytes, bytes]], Match | None]
    routes: tuple[Route, ...]
    services: tuple[Service, ...]
    limits: Any
    unrouted: Stats
    timeouts: Timeouts = field(default_factory=Timeouts)
    connections: int = 10_000
    paths: PathRules = DEFAULT
    trusted: tuple[Network, ...] = ()
    preflights: bool = False
