"""`proxy-cache`: responses stored and given again, as RFC 9111 has it of a shared cache (contract §2).

The settings, and what a key is made of by them; a request's course through the cache is `_cache_course`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.config.types import Duration, Settings, did_you_mean
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Pending
from gateway.core.policy import Environment, Phase, Policy
from policies._cache_course import Course
from policies._cache_keys import Recipe

_WHO = ("credential", "consumer", "groups", "organization")
_VARY_BY = re.compile(
    r"credential|consumer|groups|organization|none|header\.[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,128}|query\..{1,128}"
)
#: Parts of a response, or what has no meaning without one that the client has.
_NEVER_STORED = frozenset({206, 304})


def _vary_by(value: str) -> str:
    if _VARY_BY.fullmatch(value) is None:
        hint = did_you_mean(value, (*_WHO, "none"))
        raise ValueError(f"must be credential, consumer, groups, organization, none, header.NAME or query.NAME{hint}")
    return value


def _several(values: tuple[str, ...]) -> tuple[str, ...]:
    if "none" in values and not set(values).isdisjoint(_WHO):
        raise ValueError("none and who is calling cannot both be told apart")
    return values


def _status(value: int) -> int:
    if value in _NEVER_STORED:
        raise ValueError(f"a response of status {value} is never stored")
    return value


def _with_get(values: tuple[str, ...]) -> tuple[str, ...]:
    if "GET" not in values:
        raise ValueError("must hold GET: what a GET was answered is what is stored")
    return values


class _OneOrMany:
    """One word is read as a list of one."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


VaryBy = Annotated[
    str,
    AfterValidator(_vary_by),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Difference",
            "pattern": f"^({_VARY_BY.pattern})$",
            "examples": ["credential", "groups", "none", "header.Accept-Language", "query.page"],
        }
    ),
]
Status = Annotated[int, Field(ge=200, le=599), AfterValidator(_status)]


class ProxyCache(Policy):
    """Store the upstream's responses, and answer with them while they are fresh (RFC 9111, as a shared cache).

    **Whose.** By default a response is given to nobody but the credential that it was made for. `vary_by` says
    otherwise: `consumer`, `groups` or `organization` in place of the credential (who has no organization counts as
    a consumer), or `none`, which shares it with everybody who may call the route. Authentication, limits and all
    other policies come first, on hits too. `header.NAME` is a further difference. `query.NAME` means that only the
    parameters so named tell responses apart; without any, the query does, byte for byte. Both count as the client
    sent them and as the upstream gets them (after `request-transformer`), in any spelling that a server might take for
    theirs. A change of a consumer's groups makes other keys where the credential counts.

    Where the upstream sees a sign of a person beside that (`Cookie`, an `Authorization` that the gateway does not
    hide, `X-Authenticated-User-Token` and the like, also under another name), a response is only shared if it says
    `public`, `s-maxage` or `must-revalidate`; `vary_by: [credential, header.Cookie]` makes such a header part of the
    key instead.

    **What.** GET alone, of the `statuses`; a HEAD is answered from it. Never: `no-store`, `no-cache` and `private` (a
    credential may be an application's, and so many users'), `Set-Cookie`, `Vary: *`, event streams, requests with a
    body, `Range` or `Upgrade`, bodies that were cut or whose end only the end of the connection tells, and what is
    larger than `cache.max_object`. `Vary` is followed.

    **How long.** `s-maxage`, else `max-age`, else `Expires`; `ttl` is for responses that say nothing, and no limit
    for those that do. Nothing is validated with the upstream: what is stale is fetched anew. Requests' `no-cache`
    (and `Pragma`), `no-store`, `max-age`, `min-fresh`, `max-stale` and `only-if-cached` (504
    `No stored response fits the request`) are heeded. `If-None-Match` and `If-Modified-Since` are answered 304.
    A POST, PUT, PATCH, DELETE or unknown method that succeeds (or whose answer never came) drops what is stored of
    its path, of any query and caller, and of the paths in `Location` and `Content-Location`, if this policy holds for
    it, too.

    **Together.** Of concurrent requests that miss, one asks the upstream and the others wait for its response, for
    `lock_timeout` at most. If it cannot be shared they all go on, and for ten seconds nobody waits for it again.

    Every answer of the route that gets so far carries `X-Cache-Status`: `Hit`, `Miss`, `Refresh` (there was one, but
    not fresh enough) or `Bypass`; hits also `Age`. Where responses are kept is the setting `cache`.
    """

    name = "proxy-cache"
    phase = Phase.PROXY_CACHE

    class Config(Settings):
        """Everything has a default: `proxy-cache: {}` is enough."""

        ttl: Duration = Field(
            300.0, description="How long a response is fresh that does not say so; 0 stores none such."
        )
        methods: Annotated[tuple[Literal["GET", "HEAD"], ...], AfterValidator(_with_get)] = Field(
            ("GET", "HEAD"), description="Methods that are answered from the cache."
        )
        statuses: Annotated[tuple[Status, ...], Field(min_length=1)] = Field(
            (200, 301, 404), description="Statuses whose responses are stored."
        )
        vary_by: Annotated[
            tuple[VaryBy, ...],
            Field(min_length=1),
            BeforeValidator(_one_or_many),
            AfterValidator(_several),
            _OneOrMany(),
        ] = Field(
            ("credential",),
            description="What tells responses apart beside host, path, query and `Vary`: `credential` (also where none "
            "of these is named), `consumer`, `groups`, `organization` or `none`; `header.NAME`, `query.NAME`.",
        )
        lock_timeout: Duration = Field(
            10.0, description="How long a request waits for another's response to the same miss; 0: it never does."
        )

    def __init__(self, config: Config, environment: Environment) -> None:
        self._course: Course | None = None
        if environment.response_cache is not None:
            self._course = Course(
                environment.response_cache(),
                environment.clock,
                _recipe(config.vary_by, environment),
                environment.route,
                config.ttl,
                frozenset(config.methods),
                frozenset(config.statuses),
                config.lock_timeout,
            )

    def check(self, context: Context) -> Decision | Pending[Decision] | Awaitable[Decision]:
        """Answer from the cache, let the upstream be asked, or wait for who asks it already."""
        return ALLOW if self._course is None else self._course.check(context)

    def on_response_head(self, context: Context, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        """See what the upstream answers, to store it."""
        if self._course is not None:
            self._course.responded(context, status, fields)

    def on_end(self, context: Context, status: int) -> None:
        """Let nobody wait any longer for this request."""
        if self._course is not None:
            self._course.ended(context, status)


def _recipe(vary_by: tuple[str, ...], environment: Environment) -> Recipe:
    who = tuple(kind for kind in _WHO if kind in vary_by)
    if not who and "none" not in vary_by:
        who = ("credential",)
    parted = [value.partition(".") for value in vary_by]
    headers = {name.lower().encode("ascii") for kind, _, name in parted if kind == "header"}
    parameters = {name for kind, _, name in parted if kind == "query"}
    return Recipe(environment.service, environment.route, who, tuple(sorted(headers)), tuple(sorted(parameters)))
