"""auth: who is calling.  Each authenticator has its file beside this one; here they are asked in turn.

Closed by default: a credential that came is judged, and a bad one is refused even where the route names an
`anonymous` consumer for those who bring none.  `auth: none` says that a route is public: credentials then pass
to the upstream untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from gateway.config.types import ConsumerName, HeaderName, Settings
from gateway.core.decision import ALLOW, Decision, Pending
from gateway.core.policy import Environment, Phase, Policy
from policies.auth.carriers import Carriers
from policies.auth.establish import Establish

if TYPE_CHECKING:
    from gateway.core.context import Context

_LATER = frozenset({"jwt", "oauth2", "issuer", "cookie"})


def _is_there(word: str) -> str:
    if word in _LATER:
        raise ValueError(f"{word} is not available yet")
    return word


Kind = Annotated[Literal["api-key", "jwt", "oauth2", "issuer"], AfterValidator(_is_there)]
Carrier = Annotated[Literal["bearer", "basic", "header", "query", "cookie"], AfterValidator(_is_there)]


class AuthConfig(Settings):
    """Who is calling: verifies the credential of a request and names its consumer to the policies after it."""

    none: bool = Field(
        False, description="`auth: none`: the route is public; credentials pass to the upstream untouched."
    )
    any_of: tuple[Kind, ...] = Field(
        (),
        description="The kinds of credential that the route takes; `jwt`, `oauth2` and `issuer` are not available yet.",
    )
    anonymous: ConsumerName | None = Field(
        None,
        description="The declared consumer that stands for a request without any credential.",
    )
    carriers: tuple[Carrier, ...] = Field(
        ("bearer", "basic", "header"),
        description="Where a key may stand; `query` is kept out of logs, audit and the upstream, `cookie` is not "
        "available yet.",
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

    @field_validator("carriers")
    @classmethod
    def _carriers_exist(cls, carriers: tuple[Carrier, ...]) -> tuple[Carrier, ...]:
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
        self._establish = (
            None
            if config.none
            else Establish(
                environment.authenticator,
                Carriers(config.carriers, config.key_names),
                config.hide_credentials,
                config.anonymous,
                _challenges(config),
            )
        )

    def check(self, context: Context) -> Decision | Pending[Decision]:
        """Establish `context.identity`, or refuse."""
        return ALLOW if self._establish is None else self._establish.check(context)

    def recheck(self, context: Context) -> Decision | Pending[Decision]:
        """Judge again after a wait: what was verified may have been revoked meanwhile."""
        return ALLOW if self._establish is None else self._establish.recheck(context)


def _challenges(config: AuthConfig) -> tuple[tuple[bytes, bytes], ...]:
    """The `WWW-Authenticate` lines of a 401 (RFC 9110 §11.6.1): one a scheme that the route takes."""
    realm = config.realm.encode("ascii")
    lines = [(b"WWW-Authenticate", b'Bearer realm="' + realm + b'"')]
    if "basic" in config.carriers:
        lines.append((b"WWW-Authenticate", b'Basic realm="' + realm + b'", charset="UTF-8"'))
    return tuple(lines)
