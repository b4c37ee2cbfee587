"""`upstream-credential`: what the LMS itself wants, in place of what the client showed to the gateway.

Settings here; what is done with them stands in `_upstream_credential_ways`.  Law: no secret is in a repr, a dump, a
log or an answer.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema, model_validator

from gateway.config.types import HeaderName, Patience, Secret, Settings
from gateway.core.context import Context
from gateway.core.decision import Decision, Pending
from gateway.core.http import Kind, classify
from gateway.core.policy import Environment, Phase, Policy
from gateway.core.ports import ClientCredentialsGrant
from policies._upstream_credential_ways import FetchedToken, FixedHeader, FixedParameter

_LINE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
#: Written by the gateway, or about the gateway itself.
_OURS = frozenset({"via", "traceparent"})
#: Fields of the form that have settings of their own.
_SET_ELSEWHERE = frozenset({"grant_type", "client_id", "client_secret", "scope", "audience"})


# ── the settings ────────────────────────────────────────────────────────────────────────────────


def _free(name: str) -> str:
    lower = name.lower()
    if lower in _OURS or classify(lower.encode("ascii")) not in (Kind.FORWARD, Kind.CREDENTIAL):
        raise ValueError("is a header that the gateway writes or removes; choose another, such as Authorization")
    return name


def _line(value: SecretStr) -> SecretStr:
    if _LINE.fullmatch(value.get_secret_value()) is None:
        raise ValueError("must be one line of visible ASCII, with no white space at its ends")
    return value


def _filled(value: SecretStr) -> SecretStr:
    if not value.get_secret_value() or _CONTROL.search(value.get_secret_value()):
        raise ValueError("must be text without control characters, and not empty")
    return value


def _username(value: str) -> str:
    if ":" in value or _CONTROL.search(value):
        raise ValueError("must hold neither a colon nor control characters")
    return value


def _identifier(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must hold no control characters")
    return value


def _parameter(value: str) -> str:
    if _VISIBLE.fullmatch(value) is None or re.search(r"[\[\]&;=#%+]", value):
        raise ValueError("must be the plain name of a query parameter, such as wstoken")
    return value


def _endpoint(value: str) -> str:
    wanted = "must be the URL of a token endpoint, such as https://lms.example.org/oauth2/access_token"
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or _VISIBLE.fullmatch(value) is None or parts.scheme not in ("http", "https"):
        raise ValueError(wanted)
    if "@" in parts.netloc or "#" in value:
        raise ValueError("must hold neither a user nor a fragment; the client's id and secret have settings")
    return value


def _form(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name in value:
        if name in _SET_ELSEWHERE:
            raise ValueError(f"names {name}, which is not set here")
    return value


CredentialHeader = Annotated[
    HeaderName,
    AfterValidator(_free),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Header name",
            "description": "The name of a header that the gateway does not write for another purpose.",
            "examples": ["Authorization", "X-LMS-Token"],
        }
    ),
]
TokenUrl = Annotated[
    str,
    AfterValidator(_endpoint),
    WithJsonSchema(
        {"type": "string", "title": "URL", "examples": ["https://lms.example.org/oauth2/access_token"]},
    ),
]


class Header(Settings):
    """A header with a fixed value."""

    name: CredentialHeader = Field("Authorization", description="The header that the LMS gets.")
    value: Annotated[Secret, AfterValidator(_line)] = Field(description="Its value, the scheme included.")


class Basic(Settings):
    """HTTP's own authentication (RFC 7617), as WordPress' application passwords use it."""

    username: Annotated[str, Field(min_length=1), AfterValidator(_username)] = Field(description="The user.")
    password: Annotated[Secret, AfterValidator(_filled)] = Field(description="The password.")


class Query(Settings):
    """A parameter of the query, as Moodle's web services want it."""

    name: Annotated[str, AfterValidator(_parameter)] = Field(
        "wstoken",
        description="The parameter; whatever a client sends under this name, in any spelling, is replaced. "
        "Parameters in bodies are not looked at.",
    )
    value: Annotated[Secret, AfterValidator(_filled)] = Field(description="Its value, not yet encoded.")


class ClientCredentials(Settings):
    """An access token that the gateway fetches (RFC 6749 §4.4), holds and renews, as for Open edX."""

    token_url: TokenUrl = Field(
        description="The token endpoint. Certificates are verified by the system's authorities; over plain `http` the "
        "secret can be read on the way."
    )
    client_id: Annotated[str, Field(min_length=1), AfterValidator(_identifier)] = Field(description="The client's id.")
    client_secret: Annotated[Secret, AfterValidator(_filled)] = Field(description="The client's secret.")
    scope: str = Field("", description="The scopes to ask for, separated by spaces; not sent where empty.")
    audience: str = Field("", description="The audience to ask for; not sent where empty.")
    auth: Literal["post", "basic"] = Field(
        "post", description="How the client authenticates: in the form, as Open edX wants it, or by `Authorization`."
    )
    header: CredentialHeader = Field("Authorization", description="The header that the LMS gets.")
    scheme: Literal["Bearer", "JWT"] = Field(
        "Bearer",
        description="What stands before the token. `JWT` is Open edX's: the form then says `token_type=jwt`, and the "
        "token must be one.",
    )
    form: Annotated[dict[str, Secret], AfterValidator(_form)] = Field({}, description="Further fields of the form.")
    timeout: Patience = Field(5.0, description="How long the endpoint may take for its whole answer.")


# ── the policy ──────────────────────────────────────────────────────────────────────────────────


class UpstreamCredential(Policy):
    """Send the LMS a credential of its own, in place of the client's.

    Takes exactly one of `header`, `basic`, `query` and `client-credentials`. What the client sent under the same
    name never reaches the LMS. Secrets belong into `${NAME}` or `${file:PATH}`; they appear in no log and no answer:
    where the LMS repeats the query parameter in a header (a redirect), the client gets it without its value.

    A token of `client-credentials` is fetched when a request first needs it, once however many wait, and shared by
    all routes with the same settings. It is renewed in the background once four fifths of its life are over, and
    given up a tenth of its life (at most a minute) before its end. While no token can be had, requests are refused
    at once, and the issuer is asked again after 0.5 s, then ever more seldom, every 30 s at the most. A token that
    the LMS answers with 401 is dropped, and the next request fetches another; that 401 itself passes to the client.
    A reload keeps the token unless something about the grant was changed.
    Refused: 503 `Identity provider unavailable` with `Retry-After`.
    """

    name = "upstream-credential"
    phase = Phase.UPSTREAM_CREDENTIAL

    class Config(Settings):
        """Exactly one of the four."""

        header: Header | None = Field(None, description="A header with a fixed value.")
        basic: Basic | None = Field(None, description="`Authorization: Basic`.")
        query: Query | None = Field(None, description="A parameter of the query.")
        client_credentials: ClientCredentials | None = Field(
            None, alias="client-credentials", description="A token that the gateway fetches and renews."
        )

        @model_validator(mode="after")
        def _exactly_one(self) -> Self:
            if sum(way is not None for way in (self.header, self.basic, self.query, self.client_credentials)) != 1:
                raise ValueError("must have exactly one of `header`, `basic`, `query` and `client-credentials`")
            return self

        @property
        def key_names(self) -> tuple[str, ...]:
            """The headers and parameters whose values are secrets, whoever sent them: no log keeps them."""
            names = (self.header and self.header.name, self.query and self.query.name)
            return tuple(name for name in names if name)

    def __init__(self, config: Config, environment: Environment) -> None:
        self._way = _way(config, environment)
        if not isinstance(self._way, FixedHeader):
            # There only where somebody listens: the data plane calls no other.
            self.on_response_head = self._way.on_response_head

    def check(self, context: Context) -> Decision | Pending[Decision]:
        """`ALLOW` with the credential in the context, or the 503 of the contract."""
        return self._way.check(context)


def _way(config: UpstreamCredential.Config, environment: Environment) -> FixedHeader | FixedParameter | FetchedToken:
    """The one way that the settings name."""
    if config.header is not None:
        return FixedHeader(config.header.name.encode("ascii"), config.header.value.get_secret_value().encode("ascii"))
    if config.basic is not None:
        pair = f"{config.basic.username}:{config.basic.password.get_secret_value()}"
        return FixedHeader(b"Authorization", b"Basic " + base64.b64encode(pair.encode("utf-8")))
    if config.query is not None:
        return FixedParameter(config.query.name, config.query.value.get_secret_value().encode("utf-8"))
    given = config.client_credentials
    assert given is not None  # noqa: S101 - the model has exactly one of the four
    grant = ClientCredentialsGrant(
        given.token_url,
        given.client_id,
        given.client_secret.get_secret_value(),
        given.scope,
        given.audience,
        given.auth,
        given.scheme,
        tuple((name, value.get_secret_value()) for name, value in given.form.items()),
        given.timeout,
    )
    source = environment.access_tokens.source(grant)
    return FetchedToken(given.header.encode("ascii"), given.scheme.encode("ascii"), source)
