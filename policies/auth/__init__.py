"""auth: who is calling.  Each authenticator has its file beside this one; here they are asked in turn.

Closed by default: a credential that came is judged, and a bad one is refused even where the route names an
`anonymous` consumer for those who bring none.  `auth: none` says that a route is public: credentials then pass
to the upstream untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from gateway.config.types import ConsumerName, HeaderName, Settings
from gateway.core.answers import (
    BAD_REQUEST,
    MALFORMED_TOKEN,
    MISSING_CREDENTIAL,
    OVERLOADED,
    READ_ONLY_KEY,
    WRONG_SCHEME,
    Answer,
)
from gateway.core.decision import ALLOW, Abstain, Decision, Deny, Pending
from gateway.core.http import fold
from gateway.core.identity import Consumer, Identity
from gateway.core.policy import Environment, Phase, Policy
from policies.auth.api_key import ApiKey
from policies.auth.carriers import Carriers, Nothing, query_values

if TYPE_CHECKING:
    from gateway.core.context import Context

Kind = Literal["api-key", "jwt", "oauth2", "issuer"]
Carrier = Literal["bearer", "basic", "header", "query", "cookie"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OVERRIDE_PARAMETER = frozenset({b"_method"})
_OVERRIDE_HEADERS = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})

_NOTHING: dict[Nothing, Answer] = {
    Nothing.MISSING: MISSING_CREDENTIAL,
    Nothing.OTHER_SCHEME: WRONG_SCHEME,
    Nothing.MALFORMED: MALFORMED_TOKEN,
    Nothing.REPEATED: BAD_REQUEST,
}


class AuthConfig(Settings):
    """Who is calling: verifies the credential of a request and names its consumer to the policies after it."""

    none: bool = Field(
        False, description="`auth: none`: the route is public; credentials pass to the upstream untouched."
    )
    any_of: tuple[Kind, ...] = Field((), description="The kinds of credential that the route takes.")
    anonymous: ConsumerName | None = Field(
        None,
        description="The declared consumer that stands for a request without any credential.",
    )
    carriers: tuple[Carrier, ...] = Field(
        ("bearer", "basic", "header"),
        description="Where a key may stand; `query` is kept out of logs, audit and the upstream.",
    )
    key_names: tuple[HeaderName, ...] = Field(
        ("apikey", "x-api-key"),
        min_length=1,
        description="Names of the header, and of the query parameter, that carry a key.",
    )
    hide_credentials: bool = Field(True, description="Keep the header that carried the credential from the upstream.")
    realm: str = Field(
        "postern",
        pattern=r'^[^"\\\x00-\x1f\x7f-\uffff]*$',
        description="The realm of the challenges in `WWW-Authenticate`.",
    )

    @field_validator("any_of")
    @classmethod
    def _kinds_exist(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        for kind in kinds:
            if kind != "api-key":
                raise ValueError(f"{kind} is not available yet")
        return kinds

    @field_validator("carriers")
    @classmethod
    def _carriers_exist(cls, carriers: tuple[Carrier, ...]) -> tuple[Carrier, ...]:
        if "cookie" in carriers:
            raise ValueError("cookie is not available yet")
        if not carriers:
            raise ValueError("must name at least one carrier")
        return carriers

    @model_validator(mode="before")
    @classmethod
    def _jwt_exists(cls, data: Any) -> Any:
        if isinstance(data, dict) and "jwt" in data:
            raise ValueError("jwt is not available yet")
        return data

    @model_validator(mode="after")
    def _says_which(self) -> AuthConfig:
        if self.none and (self.any_of or self.anonymous):
            raise ValueError("a public route (none) takes no any_of and no anonymous")
        if not self.none and not self.any_of:
            raise ValueError("say which credentials the route takes (any_of), or that it is public (auth: none)")
        return self


class Auth(Policy):
    """Finds the credential, asks the authenticators, and settles what follows from the answer."""

    name: ClassVar[str] = "auth"
    phase = Phase.AUTH
    Config = AuthConfig
    bare: ClassVar[dict[str, dict[str, Any]]] = {"none": {"none": True}}
    authenticates: ClassVar[bool] = True

    def __init__(self, config: AuthConfig, environment: Environment) -> None:
        self._public = config.none
        self._port = environment.authenticator
        self._api_key = ApiKey(environment.authenticator)
        self._carriers = Carriers(config.carriers, config.key_names)
        self._find = self._carriers.find
        self._authenticate = self._api_key.authenticate
        self._hide = config.hide_credentials
        self._anonymous = config.anonymous
        self._stand_in: Identity | None = None
        self._challenge = _challenges(config)
        self._refusals = {
            answer: Deny(answer, headers=self._challenge if answer.status == 401 else ())
            for answer in _NOTHING.values()
        }

    def check(self, context: Context) -> Decision | Pending[Decision]:
        """Establish `context.identity`, or refuse."""
        if self._public:
            return ALLOW
        found = self._find(context)
        if isinstance(found, Nothing):
            return self._without(found, context)
        token, carried = found
        outcome = self._authenticate(token, context)
        if isinstance(outcome, Identity):
            return self._accept(outcome, token, carried, context)
        if isinstance(outcome, Pending):
            return self._later(outcome, token, carried, context)
        return self._refuse(outcome)

    def recheck(self, context: Context) -> Decision:
        """Judge again after a wait: what was verified may have been revoked meanwhile."""
        identity = context.identity
        if self._public or identity is None or self._port.still_valid(identity, context.now):
            return ALLOW
        granted = context.granted
        if not isinstance(granted, bytes):
            return self._without(Nothing.MISSING, context)
        outcome = self._authenticate(granted, context)
        if isinstance(outcome, Identity):
            context.identity = outcome
            return self._permit(outcome, context)
        if isinstance(outcome, Pending):
            # The change is being read from the store; who comes back in a moment gets the true answer.
            outcome.cancel()
            return Deny(OVERLOADED, headers=((b"Retry-After", b"1"),))
        return self._refuse(outcome)

    def _accept(self, identity: Identity, token: bytes, carried: tuple[bytes, ...], context: Context) -> Decision:
        context.identity = identity
        context.granted = token
        if self._hide:
            context.hidden += carried
        credential = identity.credential
        if credential is not None and credential.read_only:
            return self._permit(identity, context)
        return ALLOW

    def _permit(self, identity: Identity, context: Context) -> Decision:
        """A read-only key reads: no other method, and nothing that an LMS might take for another method."""
        credential = identity.credential
        if credential is None or not credential.read_only:
            return ALLOW
        if context.method not in _SAFE:
            return Deny(READ_ONLY_KEY)
        if b"_" in context.query or b"%" in context.query:
            values, _ = query_values(context.query, _OVERRIDE_PARAMETER)
            if values:
                return Deny(READ_ONLY_KEY)
        if any(fold(name) in _OVERRIDE_HEADERS for name in context.index):
            return Deny(READ_ONLY_KEY)
        return ALLOW

    def _later(
        self, outcome: Pending[Identity | Deny], token: bytes, carried: tuple[bytes, ...], context: Context
    ) -> Pending[Decision]:
        decision: Pending[Decision] = Pending(on_cancel=outcome.cancel)

        def settle(answer: Identity | Deny) -> None:
            if isinstance(answer, Identity):
                decision.resolve(self._accept(answer, token, carried, context))
            else:
                decision.resolve(self._refuse(answer))

        outcome.then(settle, decision.fail)
        return decision

    def _refuse(self, outcome: Deny | Abstain) -> Deny:
        if isinstance(outcome, Abstain):
            return self._refusals[MALFORMED_TOKEN]
        if outcome.answer.status == 401:
            return Deny(outcome.answer, headers=self._challenge + outcome.headers)
        return outcome

    def _without(self, nothing: Nothing, context: Context) -> Decision:
        if nothing is Nothing.MISSING and self._anonymous is not None:
            consumer = self._port.consumer(self._anonymous)
            if consumer is not None:
                context.identity = self._stand_in_for(consumer)
                return ALLOW
        return self._refusals[_NOTHING[nothing]]

    def _stand_in_for(self, consumer: Consumer) -> Identity:
        identity = self._stand_in
        if identity is None or identity.consumer is not consumer:
            identity = self._stand_in = Identity(consumer, anonymous=True)
        return identity


def _challenges(config: AuthConfig) -> tuple[tuple[bytes, bytes], ...]:
    """The `WWW-Authenticate` lines of a 401 (RFC 9110 §11.6.1): one a scheme that the route takes."""
    realm = config.realm.encode("ascii")
    lines = [(b"WWW-Authenticate", b'Bearer realm="' + realm + b'"')]
    if "basic" in config.carriers:
        lines.append((b"WWW-Authenticate", b'Basic realm="' + realm + b'", charset="UTF-8"'))
    return tuple(lines)
