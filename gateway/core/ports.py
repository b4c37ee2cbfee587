"""Ports: what the core asks of the outside, as protocols.  Adapters live in the rooms; tests bring their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.core.errors import IssuerError

# Read when the classes are made, not by type checkers alone: a compiled dataclass knows its fields' types.
from gateway.core.identity import Consumer, Credential, Identity
from gateway.core.units import Rate

if TYPE_CHECKING:
    from gateway.core.decision import Deny, Pending


class Clock(Protocol):
    """Time, injected.  `monotonic_ns` never goes back; `time` is Unix seconds and may be corrected."""

    def monotonic_ns(self) -> int: ...

    def time(self) -> float: ...


# ── counters ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Demand:
    """One rule's claim on one identity: every window of `rates` must have room.

    `key` names the rule's scope, the identity and the call type, and never holds the limit's numbers
    (law 4), so that changed limits go on from the counts that stand.  `algorithm` is "sliding-window",
    "fixed-window" or "token-bucket".  `subject`, where given, is the identity, with which `key` ends: what counts
    by the same identity is kept on one server of a cluster.
    """

    key: str
    rates: tuple[Rate, ...]
    algorithm: str = "sliding-window"
    subject: str = ""


#: `(remaining, reset_ns)` of one window after the decision: what is left, and in how many nanoseconds its
#: count next falls.  On a refusal the `reset_ns` of an exhausted window is the time until it would admit again.
WindowState = tuple[int, int]


class Verdict:
    """All windows of all demands admitted the request and counted it, or none did.

    `states` holds one `WindowState` a window: the demands in order, each one's rates in order.
    """

    __slots__ = ("admitted", "states")

    def __init__(self, admitted: bool, states: Sequence[WindowState]) -> None:
        self.admitted = admitted
        self.states = states


class Counters(Protocol):
    """Exact rate-limit counts."""

    def take(self, demands: Sequence[Demand], now_ns: int) -> Verdict | Pending[Verdict]:
        """Admit and count one request in all windows, or in none.  `now_ns` is the injected monotonic clock."""
        ...


# ── stored responses ────────────────────────────────────────────────────────────────────────────


class ResponseCache(Protocol):
    """Where responses are stored, as opaque bytes: a bounded place that may forget anything at any time.

    Each value has a key and belongs to a resource, so that all that is stored of a resource can be dropped at once.
    Nothing here raises: what cannot be asked has nothing, what cannot be written is not stored (and is logged).
    One instance serves all routes and outlives every reload; it belongs to the event loop's thread.
    """

    @property
    def largest(self) -> int:
        """The largest value that is taken, in bytes."""
        ...

    def find(self, resource: str, key: str) -> bytes | Pending[bytes | None] | None:
        """What was stored of this resource under this key, or None."""
        ...

    def moment(self, resource: str) -> int:
        """A number that changes whenever something of this resource is dropped (and sometimes without)."""
        ...

    def keep(self, resource: str, key: str, value: bytes, seconds: float, moment: int) -> Pending[None] | None:
        """Store a value for so long, unless something of its resource was dropped since `moment`.

        Returns None if it is done, else a `Pending` that is delivered once others can find the value, or cannot.
        """
        ...

    def drop(self, resource: str) -> None:
        """Forget all that is stored of a resource: from now on `find` has none of it."""
        ...

    def collect(self, size: int) -> bool:
        """Take room for so many bytes of responses that are still coming (less than 0: give it back); False if there
        is none left."""
        ...

    def count(self, route: str, result: str) -> None:
        """Count one answer of a route by what the cache did: "hit", "miss", "refresh" or "bypass"."""
        ...


# ── identity ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class KeyRecord:
    """A key of the store together with the consumer who holds it."""

    credential: Credential
    consumer: Consumer


class CredentialStore(Protocol):
    """Where credentials are looked up.  Raises `StoreError` when it cannot be asked."""

    async def find_key(self, public: str) -> KeyRecord | None:
        """The key of this public part, whatever its status, or None."""
        ...


class Authenticator(Protocol):
    """Verifies credentials; remembers what it verified."""

    def verify_key(self, token: bytes, client: str, now: float) -> Identity | Deny | Pending[Identity | Deny]:
        """Verify `<public>.<secret>` for a client at `client` (an address), at `now` (Unix seconds)."""
        ...

    def consumer(self, username: str) -> Consumer | None:
        """A declared consumer by name (for `anonymous:`)."""
        ...

    def still_valid(self, identity: Identity, now: float) -> bool:
        """False once the identity's credential, consumer or groups have changed since it was verified."""
        ...


# ── what serves ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Redeclared:
    """What a new configuration says otherwise of identities: consumers by username, organizations by name, or
    `everything`."""

    usernames: frozenset[str] = frozenset()
    organizations: frozenset[str] = frozenset()
    everything: bool = False


class WorkerLink(Protocol):
    """The way from the control side to what serves: one data plane in this process, or all workers of the node.

    A reload is `compile` (in a thread), `prepare` (all have built it, or it is refused), `commit`.  A revocation is
    `invalidate`, then `confirm`: when that returns, nobody admits a request on the old state.
    """

    @property
    def port(self) -> int:
        """Where clients connect, once started."""
        ...

    async def start(self) -> None:
        """Listen and serve.  Raises `StartError`."""
        ...

    def compile(self, loaded: Any) -> object:
        """What `prepare` takes besides a configuration (`config.loader.Loaded`); runs in a thread.

        Raises `ConfigError`.
        """
        ...

    async def prepare(self, loaded: Any, compiled: object) -> None:
        """Have it built by all.  Raises `PosternError`, and then nothing has changed."""
        ...

    async def commit(self, redeclared: Redeclared) -> list[object]:
        """Put in force what was prepared last; returns what can be freed, piece by piece.  Whoever cannot follow is
        replaced."""
        ...

    def invalidate(self, kind: str, name: str) -> None:
        """Have a change of the store told to all: "key" or "consumer" with an id, "organization" with a name, else
        everything is meant."""
        ...

    async def confirm(self) -> None:
        """Return when all have forgotten what was invalidated so far; who does not say so is ended first."""
        ...

    async def restart(self) -> None:
        """Replace every worker by a fresh one, one after another, and lose no request."""
        ...

    def workers(self) -> Sequence[Any]:
        """The processes that serve (`telemetry.status.WorkerStatus`)."""
        ...

    def targets(self) -> Sequence[Any]:
        """Every service's targets (`telemetry.status.TargetStatus`)."""
        ...

    def stop_accepting(self) -> None:
        """Take no more connections."""
        ...

    async def drain(self, seconds: float) -> bool:
        """Finish what is in flight within so many seconds; False if something had to be cut."""
        ...

    def cut(self) -> None:
        """Drain no longer."""
        ...

    async def stop(self) -> None:
        """Close everything."""
        ...


# ── access tokens of other issuers ──────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ClientCredentialsGrant:
    """How the gateway itself gets an access token of another issuer (RFC 6749 §4.4).

    `auth` is "post" (id and secret in the form) or "basic" (RFC 6749 §2.3.1); `scheme` is what stands before the
    token, "Bearer" or "JWT"; `form` are further fields of the form; `timeout` is in seconds.
    """

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""
    audience: str = ""
    auth: str = "post"
    scheme: str = "Bearer"
    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = 5.0


class TokenSource(Protocol):
    """The access token of one grant: fetched when it is first needed, then held and renewed."""

    def token(self) -> bytes | Pending[bytes]:
        """A token that holds now: at once where one is held, else a `Pending`.

        Raises `IssuerError`, or fails with it: no token can be had for now.
        """
        ...

    def rejected(self, token: bytes) -> None:
        """The upstream answered 401 to this token; the next request may want another."""
        ...


class AccessTokens(Protocol):
    """Access tokens that the gateway itself has been issued; they outlive a reload."""

    def source(self, grant: ClientCredentialsGrant) -> TokenSource:
        """The source of a grant's tokens, one for equal grants; it ends when nobody holds it any more."""
        ...


class NoAccessTokens:
    """Where no issuer is ever asked: every token is refused."""

    def source(self, grant: ClientCredentialsGrant) -> TokenSource:
        """A source that gives nothing."""
        return NoTokenSource()


class NoTokenSource:
    """See `NoAccessTokens`."""

    def token(self) -> bytes | Pending[bytes]:
        """Raises `IssuerError`."""
        raise IssuerError("no issuer is asked here")

    def rejected(self, token: bytes) -> None:
        """Nothing was given that could be rejected."""


NO_ACCESS_TOKENS: Final = NoAccessTokens()
