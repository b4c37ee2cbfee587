"""`scopes`: what a key or a token may be used for, beside who holds it.

Closed (law 3): a scope is had only where the credential lists it.  A key that was made without scopes, a stand-in
for nobody, and a caller whose kind of credential knows no scopes have none.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config.types import Scope, Settings
from gateway.core.answers import INSUFFICIENT_SCOPE
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny
from gateway.core.policy import Environment, Phase, Policy


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ValueError(f"holds {value!r} twice")
    return values


class Scopes(Policy):
    """Admit credentials by their scopes.

    The credential must grant every scope in `require`; case makes a difference.  A key's scopes are those that it was
    given when it was made (in the file, with `postern keys create --scope`, or through the admin API).  A key without
    scopes has none, and so has the stand-in of `auth: {anonymous: …}`: both are refused wherever a scope is required.
    Scopes narrow what a credential may do; whether its consumer may do it at all is for `acl` to say.
    Refused: 403 `Insufficient scope`, with a `WWW-Authenticate` that names what is required (RFC 6750 §3.1).
    """

    name = "scopes"
    phase = Phase.SCOPES

    class Config(Settings):
        """What the route requires."""

        require: Annotated[tuple[Scope, ...], AfterValidator(_unique)] = Field(
            min_length=1, description="Scopes that the credential must grant, all of them."
        )
        realm: str = Field(
            "postern",
            pattern=r'^[^"\\\x00-\x1f\x7f-\uffff]*$',
            description="The realm of the challenge in `WWW-Authenticate`; as `auth` has it.",
        )

    def __init__(self, config: Config, environment: Environment) -> None:
        self._require = frozenset(config.require)
        self._wanted = sorted(config.require)
        challenge = f'Bearer realm="{config.realm}", error="insufficient_scope", scope="{" ".join(config.require)}"'
        self._headers = ((b"WWW-Authenticate", challenge.encode("ascii")),)

    def check(self, context: Context) -> Decision:
        """`ALLOW`, or the 403 of the contract with its challenge."""
        identity = context.identity
        granted = None if identity is None or identity.anonymous else identity.scopes
        if granted is not None and self._require.issubset(granted):
            return ALLOW
        facts = {"require": self._wanted, "scopes": sorted(granted) if granted is not None else None}
        return Deny(INSUFFICIENT_SCOPE, headers=self._headers, facts=facts)

    def recheck(self, context: Context) -> Decision:
        """Judge again after a wait: the credential may have been given other scopes meanwhile."""
        return self.check(context)
