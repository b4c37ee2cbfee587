"""Tokens: our own OAuth 2 server, and the issuers whose JWTs we also believe (contract §2, §7)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.types import Duration, Group, RateText, Scope, Settings
from gateway.core.units import parse_rate

HttpsUrl = Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$")]


class Lifetimes(Settings):
    """How long what the OAuth server gives is good."""

    code: Duration = Field(default=60.0, description="An authorization code.")
    access_token: Duration = Field(default=3600.0, description="An access token.")
    refresh_token: Duration = Field(default=30 * 86400.0, description="A family of refresh tokens, from the login on.")
    refresh_idle: Duration = Field(default=14 * 86400.0, description="A refresh token that nobody uses.")


class OAuthLimits(Settings):
    """How often a client and address may ask."""

    token: RateText = Field(default=parse_rate("60/minute"), description="Calls of `/oauth/token`.")
    login: RateText = Field(default=parse_rate("20/minute"), description="Logins.")


class Login(Settings):
    """Who tells us which learner it is."""

    kind: Literal["upstream-session", "oidc", "local"] = Field(
        default="upstream-session",
        description="The LMS's own session, an OpenID provider, or users of our store (demos).",
    )
    whoami: str | None = Field(
        default=None, description="`upstream-session`: the LMS's URL that says who holds the cookie."
    )
    user_id: str = Field(default="id", description="The member of its answer that holds the learner's id.")
    login_url: str | None = Field(
        default=None, description="Where a learner without a session goes, with `{return_to}`."
    )


class OAuth(Settings):
    """Our own OAuth 2 server."""

    issuer: HttpsUrl = Field(description="Our outside URL.")
    prefix: str = Field(default="/oauth", pattern="^/[A-Za-z0-9_/-]+$", description="Where its endpoints lie.")
    audience: str | None = Field(default=None, description="The audience of access tokens; left out: the issuer.")
    lifetimes: Lifetimes = Field(default=Lifetimes(), description="How long what it gives is good.")
    refresh_grace: Duration = Field(
        default=10.0, description="A rotated refresh token may be retried so long, until its successor has been used."
    )
    limits: OAuthLimits = Field(default=OAuthLimits(), description="How often a client and address may ask.")
    access_token_format: Literal["jwt", "opaque"] = Field(default="jwt", description="What an access token is.")
    scopes: dict[Scope, str] = Field(
        default={}, description="Scopes that can be asked for, with a sentence for people."
    )
    login: Login = Field(default=Login(), description="Who tells us which learner it is.")


class Issuer(Settings):
    """Somebody else whose JWTs are believed."""

    issuer: HttpsUrl = Field(description="The `iss` of its tokens.")
    audience: tuple[str, ...] = Field(min_length=1, description="Tokens for one of these are for us.")
    jwks_uri: HttpsUrl | None = Field(default=None, description="Its keys; left out: found through its metadata.")
    consumer_claim: str = Field(default="azp", description="The claim that names the consumer.")
    groups_claim: str | None = Field(default=None, description="The claim (dotted) that lists groups.")
    groups: dict[str, Group] = Field(default={}, description="Their groups to ours; what is not listed is dropped.")
    scope_claim: str = Field(default="scope", description="The claim that lists scopes.")
