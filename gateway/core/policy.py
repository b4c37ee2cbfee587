"""The contract of every policy, and its life.

**Declared.**  A policy is a class in a package of anybody's, named by an entry point in the group
`postern.policies` (`acl = "policies.acl:Acl"`).  Its class attributes say what it is: `name` as in YAML,
`phase` (its place in the fixed order), `Config` (a strict pydantic model; its docstring and field
descriptions become the documentation), and optionally `bare`, the plain YAML values that stand for a
whole mapping (`auth: none`).

**Configured.**  The loader validates what the file says under the policy's name with `Config`, at three
levels: top, service, route.  `NAME: off` ends what outer levels said.

**Assembled.**  For each route, `assemble` gets the entries that hold there, outermost first, and returns
the instances that will judge its requests.  By default the innermost entry alone counts and makes one
instance.  `Environment` hands over everything that a policy may use; it imports nothing else of ours
than `gateway.core` and `gateway.config.types`.

**Asked.**  `check(context)` is called for each request in the order of `phase`.  It returns a `Decision`
in a plain call (law 2), or a `Pending` of one when it must go and ask.  A policy written as
`async def check` works too; it gets a task.  An exception means that the policy broke: the request is
answered 500, never let through.

**Asked again.**  After somebody had to wait, the pipeline calls `recheck(context)` of the policies that
have already passed: what they relied on may have been revoked meanwhile.  While a WebSocket or a long response
lasts, it is asked a few times a second.  Most have nothing to say; it may not count anything twice.

**Told.**  `on_response_head(context, status, fields)` may look at (never change) an upstream's response
head before it is relayed and add to `context.answer_lines`; who wants to see the body, too, sets `context.tap`
there.  `on_end(context, status)` is called once when the exchange is over.  Define them only where they are needed:
the hot path calls only those that exist.

**Forgotten.**  A reload makes new instances; what must outlive one (counts, caches) lives behind the
ports in `Environment`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from gateway.core.decision import ALLOW, Decision, Pending
from gateway.core.ports import NO_ACCESS_TOKENS

if TYPE_CHECKING:
    from gateway.core.context import Context
    from gateway.core.ports import AccessTokens, Authenticator, Clock, Counters, ResponseCache


class Phase(IntEnum):
    """The fixed order of policies (contract §2).  A third party's policy may take any number between."""

    CORRELATION_ID = 100
    CORS = 200
    IP_RESTRICTION = 300
    RATE_LIMITING_BY_IP = 400
    REQUEST_SIZE_LIMITING = 500
    AUTH = 600
    SCOPES = 700
    ORGANIZATION = 800
    ACL = 900
    RATE_LIMITING = 1000
    REQUEST_TRANSFORMER = 1100
    UPSTREAM_CREDENTIAL = 1200
    PROXY_CACHE = 1300
    REQUEST_TERMINATION = 1400


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy as written at one level of the file.

    `config` is an instance of the policy's `Config`, `level` is "top", "service" or "route", and `scope`
    names the place: "*", "service:lms", "route:content-read".
    """

    config: Any
    level: str
    scope: str


@dataclass(frozen=True, slots=True)
class Environment:
    """What a policy may use, handed to it when it is assembled for the route `route` of the service `service`.

    `response_cache` opens the cache of responses when it is first called; None: there is none.
    """

    route: str
    service: str
    clock: Clock
    counters: Counters
    authenticator: Authenticator
    access_tokens: AccessTokens = NO_ACCESS_TOKENS
    response_cache: Callable[[], ResponseCache] | None = None


class Policy(ABC):
    """The base of every policy; see the module's docstring for its life."""

    name: ClassVar[str]
    phase: int
    Config: ClassVar[type[Any]]
    #: Plain YAML scalars that stand for a mapping: `{"none": {"none": True}}`.
    bare: ClassVar[dict[str, dict[str, Any]]] = {}
    #: True: a CORS preflight on the route is matched as the method that it asks about, and shown to this policy.
    answers_preflight: ClassVar[bool] = False
    #: True: this policy decides who the caller is; a route with none of these does not load (closed by default).
    authenticates: ClassVar[bool] = False

    @classmethod
    def assemble(cls, entries: Sequence[Entry], environment: Environment) -> Sequence[Policy]:
        """The instances that judge a route's requests, from the entries that hold there, outermost first."""
        return [cls(entries[-1].config, environment)]

    @abstractmethod
    def __init__(self, config: Any, environment: Environment) -> None:
        """Keep what `check` needs, computed once: this runs when a configuration is compiled, not per request."""

    @abstractmethod
    def check(self, context: Context) -> Decision | Pending[Decision] | Awaitable[Decision]:
        """Judge one request.  Takes its context, returns `ALLOW`, a `Deny`, a `Reply`, or a `Pending` of one."""

    def recheck(self, context: Context) -> Decision | Pending[Decision]:
        """Judge again, after time has gone by: `ALLOW`, a `Deny`, or a `Pending` of one."""
        return ALLOW
