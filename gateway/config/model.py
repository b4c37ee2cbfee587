"""The whole of `config.yaml` (contract §2): strict, frozen, and every setting described.

The JSON Schema and `docs/CONFIGURATION.md` are generated from these models.  What concerns several settings
at once is checked in `checks.py`, on the plain data, so that it is reported together with everything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.config.authority import Issuer, OAuth
from gateway.config.identities import Client, Consumer, Organization
from gateway.config.policies import Policies
from gateway.config.services import RequestTest, Route, Service
from gateway.config.transport import Tls, files_of
from gateway.config.types import Duration, Group, Network, Patience, RateText, Room, Secret, Settings, Size
from gateway.core import counters_url
from gateway.core.units import parse_rate

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.\-_]*)):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True where nobody outside this machine can connect."""
        return self.host in {"::1", "localhost"} or self.host.startswith("127.")


def parse_address(value: Any) -> Address:
    """`0.0.0.0:8000`, `[::1]:8001` or `:8000` (every address) as an `Address`.  Raises ValueError."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match["port"]) > 65535:
        raise ValueError("must be ADDRESS:PORT, such as 127.0.0.1:8000 or [::1]:8000")
    return Address(match["v6"] or match["host"] or "0.0.0.0", int(match["port"]))


ListenAddress = Annotated[
    Address,
    PlainValidator(parse_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Address",
            "description": "ADDRESS:PORT; port 0 lets the system choose.",
            "pattern": r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.\-_]*):\d{1,5}$",
            "examples": ["0.0.0.0:8000", "127.0.0.1:8001", "[::1]:8000"],
        }
    ),
]


def _beginning(pattern: str, wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        if re.match(pattern, value) is None:
            raise ValueError(wanted)
        return value

    return AfterValidator(check)


def _counters_url(value: str) -> str:
    counters_url.parse_counters_url(value)
    return value


_STORE = r"^(sqlite:///.|postgresql://)"
_CACHE = r"^(memory://$|rediss?://[^/])"

StoreUrl = Annotated[
    str,
    _beginning(_STORE, "must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"),
    WithJsonSchema({"type": "string", "title": "Store", "pattern": _STORE, "examples": ["sqlite:///data/postern.db"]}),
]
CountersUrl = Annotated[
    str,
    AfterValidator(_counters_url),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Counters",
            "pattern": counters_url.PATTERN,
            "examples": ["memory://", "redis://localhost:6379/0"],
        }
    ),
]
CacheUrl = Annotated[
    str,
    _beginning(_CACHE, "must be memory:// or redis://HOST:6379/0"),
    WithJsonSchema({"type": "string", "title": "Cache", "pattern": _CACHE, "examples": ["memory://"]}),
]
KeyPrefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,32}$")]


class Listen(Settings):
    """The three listeners. A change needs a restart."""

    proxy: ListenAddress = Field(default=Address("0.0.0.0", 8000), description="The proxied routes.")
    admin: ListenAddress = Field(default=Address("127.0.0.1", 8001), description="The admin API (not served yet).")
    status: ListenAddress = Field(
        default=Address("127.0.0.1", 8007), description="`/metrics`, `/status`, `/status/ready`."
    )
    proxy_protocol: Literal["off", "on"] = Field(
        default="off",
        description="Whether every connection to `proxy` must begin with a header of the PROXY protocol (version 1 or "
        "2), whose source address is then the client's. One without it is closed.",
    )
    proxy_protocol_from: tuple[Network, ...] = Field(
        default=(), description="The load balancers that may connect then; empty: any. Others are closed."
    )

    @model_validator(mode="after")
    def _spoken(self) -> Listen:
        if self.proxy_protocol_from and self.proxy_protocol == "off":
            raise ValueError("must say proxy_protocol: on, where there is a proxy_protocol_from")
        return self


class Credentials(Settings):
    """How API keys look and how hard their hashes are."""

    public_prefix: KeyPrefix = Field(default="pnpub_", description="Begins the public part of every key.")
    secret_prefix: KeyPrefix = Field(default="pnsec_", description="Begins the secret part of every key.")
    bcrypt_rounds: int = Field(default=10, ge=4, le=14, description="The cost of a new key's hash.")


class Cache(Settings):
    """Where `proxy-cache` stores responses: an address alone, or a mapping. A change needs a restart."""

    backend: CacheUrl = Field(
        default="memory://",
        repr=False,
        description="`memory://`: each process has its own; or `redis://HOST:6379/0` (`rediss:` for TLS), shared by "
        "all that name it. While it cannot be asked, upstreams are.",
    )
    size: Room = Field(
        default=64 * 1024 * 1024,
        description="All that is kept in memory; what was used least recently leaves first. Workers divide it. Redis "
        "has limits of its own (`maxmemory`).",
    )
    max_object: Room = Field(default=1024 * 1024, description="The largest response that is stored.")

    @model_validator(mode="after")
    def _one_must_fit(self) -> Self:
        if self.backend == "memory://" and self.max_object > self.size:
            raise ValueError("max_object is larger than size: such a response could never be stored")
        return self


class Guesses(Settings):
    """How many wrong credentials are borne."""

    failures: RateText = Field(
        default=parse_rate("20/minute"),
        description="Failed authentications an address, and a (public part, address); past it 429.",
    )


class PathSettings(Settings):
    """Relaxations of the canonical path, for an LMS that needs them."""

    encoded_slash: Literal["refuse", "keep"] = Field(
        default="refuse", description="`%2F` in a path: 400, or kept as an ordinary character of its segment."
    )
    merge_slashes: bool = Field(default=True, description="Read `//` as `/`; otherwise empty segments stay.")


class Audit(Settings):
    """The audit log."""

    requests: Literal["all", "denied", "none"] = Field(default="all", description="Which requests are written.")
    retention: Duration = Field(default=90 * 86400.0, description="How long they are kept.")


class Limits(Settings):
    """What a client may send and how long it may take."""

    header_bytes: Room = Field(default=32 * 1024, description="All request headers together; past it 431.")
    headers: int = Field(default=100, ge=1, le=10_000, description="How many request headers; past it 431.")
    target_bytes: Room = Field(default=8 * 1024, description="The request target; past it 414.")
    header_timeout: Patience = Field(default=10.0, description="How long a request's head may take; past it 408.")
    body_timeout: Patience = Field(default=60.0, description="How long a client may be silent in a body; past it 408.")
    body_rate: Size = Field(
        default=256,
        description="How many bytes a second a client must send of its body, and take of an answer's, averaged over "
        "`body_timeout`; 0: any that it likes, as long as it is not silent.",
    )
    idle_timeout: Duration = Field(default=75.0, description="How long a kept-alive connection may be idle.")
    connections: int = Field(
        default=10_000,
        ge=1,
        description="How many client connections at once, WebSockets and TLS handshakes included; past it 503. Workers "
        "divide them.",
    )
    connections_per_client: int = Field(
        default=0,
        ge=0,
        description="How many of them from one address (IPv6: one /64) that is no trusted proxy; past it 503; 0: any. "
        "Each worker counts its own.",
    )
    requests_per_connection: int = Field(
        default=10_000, ge=1, description="After so many requests the answer says that the connection closes."
    )


class Overload(Settings):
    """What happens when more comes than can be served: requests wait, connections are not accepted, and what has waited
    too long is answered 503."""

    max_wait: Patience = Field(
        default=2.0, description="How long a request may wait for its turn, here or for an upstream's; past it 503."
    )


class Drain(Settings):
    """How the gateway ends at SIGTERM and SIGINT."""

    delay: Duration = Field(default=0.0, description="How long it still accepts connections, while not ready.")
    timeout: Duration = Field(default=30.0, description="How long requests in flight may take to finish.")
    idle_timeout: Duration = Field(
        default=1.0,
        description="How long an idle connection is kept for a request that is on its way; its answer, as every answer "
        "by then, says that the connection closes.",
    )


class SelfService(Settings):
    """A consumer's own credential endpoints, on the proxy listener."""

    prefix: str = Field(default="/postern", pattern="^/[A-Za-z0-9_/-]+$", description="Where they lie.")


class Sunbird(Settings):
    """Sunbird's consumer API, on the admin listener."""

    require_token: bool = Field(
        default=True, description="Ask for an admin token; may be waived on a loopback listener only."
    )
    default_group: Group = Field(default="contentUser", description="The group of a consumer that is made there.")


class Admin(Settings):
    """The admin listener. It is not served yet."""

    allow_plaintext: bool = Field(
        default=False, description="Let it listen on another address than loopback without TLS."
    )
    sunbird: Sunbird | None = Field(default=None, description="Serve Sunbird's consumer API there.")


class _AddressAlone:
    """Read `cache: redis://…` as `cache: {backend: redis://…}`."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "title": "Cache", "pattern": _CACHE}, handler(schema)]}


def _address_alone(value: Any) -> Any:
    return {"backend": value} if isinstance(value, str) else value


OneCache = Annotated[Cache, BeforeValidator(_address_alone), _AddressAlone()]


#: What holds from the start to the end of the gateway, whatever a reload reads: a change needs a restart.
STANDING: Final = ("listen", "workers", "worker_affinity", "store", "counters", "cache", "secret_key")


class Config(Settings):
    """`config.yaml`: everything that Postern is told."""

    version: Literal[1] = Field(default=1, description="The version of this format.")
    listen: Listen = Field(default=Listen(), description="Where the gateway listens.")
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        default=1,
        description="Processes that serve; `auto`: one a core that may be used, and no more than a container is given "
        "time for. A change needs a restart.",
    )
    worker_affinity: Literal["off", "auto"] = Field(
        default="off",
        description="`auto` keeps each worker to a core of its own, of those that may be used (Linux). "
        "A change needs a restart.",
    )
    store: StoreUrl = Field(
        default="sqlite:///data/postern.db",
        repr=False,
        description="Where consumers, keys and changes are kept: `sqlite:///PATH` or "
        "`postgresql://USER:PASSWORD@HOST/DATABASE`. A change needs a restart.",
    )
    counters: CountersUrl = Field(
        default="memory://",
        repr=False,
        description="Where requests are counted. `memory://`: in this node. "
        "`redis://[[USER]:PASSWORD@]HOST[:6379][/0]` or `unix:///PATH`: in a Redis or Valkey, together with all "
        "gateways that name it; `redis+sentinel://HOST[:26379],…/SERVICE`: in the master that sentinels name; "
        "`redis+cluster://HOST[:6379],…`: in a cluster; `rediss` in place of `redis` for TLS. "
        "See [Counters](COUNTERS.md). A change needs a restart.",
    )
    cache: OneCache = Field(
        default=Cache(), description="Where `proxy-cache` stores responses. A change needs a restart."
    )
    secret_key: Secret = Field(
        default=SecretStr(""),
        description="Encrypts what must be recoverable and keys digests; at least 32 characters. "
        "Empty on SQLite: made once into `data/secret.key`.",
    )
    credentials: Credentials = Field(default=Credentials(), description="How API keys look.")
    guesses: Guesses = Field(default=Guesses(), description="How many wrong credentials are borne.")
    max_staleness: Duration = Field(
        default=300.0,
        description="How long remembered credentials are believed once the store's changes cannot be followed.",
    )
    tls: Tls | None = Field(default=None, description="TLS on the proxy listener.")
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        description="Peers whose `X-Forwarded-*` are believed. The client is the last address of `X-Forwarded-For` "
        "that is not itself in these networks; in lists of the other headers that member counts which stands as far "
        "from the right.",
    )
    paths: PathSettings = Field(default=PathSettings(), description="How paths are read.")
    limits: Limits = Field(default=Limits(), description="What a client may send.")
    overload: Overload = Field(default=Overload(), description="When more comes than can be served.")
    drain: Drain = Field(default=Drain(), description="How the gateway ends.")
    audit: Audit = Field(default=Audit(), description="The audit log.")
    admin: Admin = Field(default=Admin(), description="The admin listener.")
    self_service: SelfService | None = Field(default=None, description="A consumer's own credential endpoints.")
    oauth: OAuth | None = Field(default=None, description="Our own OAuth 2 server.")
    issuers: tuple[Issuer, ...] = Field(default=(), description="Others whose JWTs are believed.")
    policies: Policies = Field(default={}, description="Policies of every route.")
    services: tuple[Service, ...] = Field(default=(), description="What is proxied.")
    organizations: tuple[Organization, ...] = Field(default=(), description="Tenants.")
    consumers: tuple[Consumer, ...] = Field(default=(), description="Clients of the LMS that are declared here.")
    clients: tuple[Client, ...] = Field(default=(), description="OAuth clients that are declared here.")
    tests: tuple[RequestTest, ...] = Field(default=(), description="What `postern check` proves.")

    def levels(self, service: Service, route: Route) -> list[tuple[str, str, Mapping[str, Any]]]:
        """`(level, scope, policies)` from the outermost in, as `policies.effective` takes them."""
        return [
            ("top", "*", self.policies),
            ("service", f"service:{service.name}", service.policies),
            ("route", f"route:{route.name}", route.policies),
        ]

    def files(self) -> list[PurePath]:
        """Every file that the settings name, as written, without those that `${file:…}` fills in."""
        holders = [self.tls, *(service.tls for service in self.services)]
        return list(dict.fromkeys(file for holder in holders if holder is not None for file in files_of(holder)))

    def parts(self) -> list[object]:
        """What there may be thousands of."""
        return [*(route for service in self.services for route in service.routes), *self.consumers]
