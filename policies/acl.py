"""`acl`: who may use a route, by group.

Closed (law 3): a request without an identity is refused by either list, so an `acl` on a public route
(`auth: none`) lets nobody in rather than everybody.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from gateway.config.types import Group, Settings
from gateway.core.answers import ACL_DENIED
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny
from gateway.core.policy import Environment, Phase, Policy


class Acl(Policy):
    """Admit consumers by their groups.

    `allow` admits a consumer who is in at least one of its groups; `deny` admits everybody who was
    authenticated, save those in one of its groups.  A route has one or the other.  Groups come from the
    consumer (in the file, or through the admin API) and take effect at once; they need not be declared.
    A request that nobody was authenticated for is refused with either list.
    Refused: 403 `You cannot consume this service`.
    """

    name = "acl"
    phase = Phase.ACL

    class Config(Settings):
        """Exactly one of `allow` and `deny`, and not empty."""

        allow: frozenset[Group] | None = Field(
            None, min_length=1, description="Groups that may use the route; a consumer needs one of them."
        )
        deny: frozenset[Group] | None = Field(
            None,
            min_length=1,
            description="Groups that may not use the route; anybody else who was authenticated may.",
        )

        @model_validator(mode="after")
        def _one_list(self) -> Self:
            if (self.allow is None) == (self.deny is None):
                raise ValueError("must have either `allow` or `deny`")
            return self

    def __init__(self, config: Config, environment: Environment) -> None:
        self._allows = config.allow is not None
        self._groups = config.allow or config.deny or frozenset[str]()

    def check(self, context: Context) -> Decision:
        """`ALLOW`, or the 403 of the contract; one set operation."""
        identity = context.identity
        if identity is not None and self._groups.isdisjoint(identity.groups) is not self._allows:
            return ALLOW
        facts = {
            "allow" if self._allows else "deny": sorted(self._groups),
            "groups": sorted(identity.groups) if identity is not None else None,
        }
        return Deny(ACL_DENIED, facts=facts)

    def recheck(self, context: Context) -> Decision:
        """The groups may have changed meanwhile."""
        return self.check(context)
