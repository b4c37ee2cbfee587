"""`rate-limiting`: how often somebody may call, counted exactly, all windows of all rules or none (contract §2).

What is counted follows from the rules of a route and from who calls (`_rate_limit_plan`); a request then costs
one question to the counters and one block of headers (`_rate_limit_decision`, `_rate_limit_headers`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from gateway.config.types import Group, Name, RateText, Settings, did_you_mean
from gateway.core.context import Context
from gateway.core.decision import Decision, Pending
from gateway.core.policy import Entry, Environment, Phase, Policy
from gateway.core.units import Rate
from policies._rate_limit_decision import decide
from policies._rate_limit_plan import Placed, place, ruleset

_BY = re.compile(r"credential|consumer|organization|ip|route|header\.[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,128}")


# ── the settings ────────────────────────────────────────────────────────────────────────────────


def _one_rate_a_window(rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
    lengths = [rate.seconds for rate in rates]
    if len(set(lengths)) < len(lengths):
        raise ValueError("has two limits for one length of window; the lower would always hold")
    return rates


def _by(value: str) -> str:
    if _BY.fullmatch(value) is None:
        hint = did_you_mean(value, ("credential", "consumer", "organization", "ip", "route"))
        raise ValueError(f"must be credential, consumer, organization, ip, route or header.NAME{hint}")
    return value


Limits = Annotated[tuple[RateText, ...], Field(min_length=1), AfterValidator(_one_rate_a_window)]
By = Annotated[
    str,
    AfterValidator(_by),
    WithJsonSchema(
        {"type": "string", "title": "By", "pattern": f"^({_BY.pattern})$", "examples": ["credential", "ip"]}
    ),
]


class Rule(Settings):
    """One rule: a budget, and for whom each has one."""

    name: Name | None = Field(
        None,
        description="A rule further in (on a route) replaces the one of the same name further out; all rules without a "
        "name share one. A name also stands in the headers: `NAME-minute`.",
    )
    limits: Limits = Field(description="How many requests in which window; all windows must have room.")
    by: By = Field(
        "credential",
        description="Who has a budget of their own: each credential, consumer, organization, ip (judged before "
        "authentication), route (all callers together) or header.NAME.",
    )
    separate_call_types: bool = Field(
        False,
        description="Three budgets in place of one: reads (GET, HEAD, OPTIONS), removals (DELETE), modifications "
        "(all else).",
    )
    algorithm: Literal["sliding-window", "fixed-window", "token-bucket"] = Field(
        "sliding-window",
        description="sliding-window: never more than the limit in any stretch of the window's length. fixed-window: "
        "a caller's first request opens a window, and all is forgotten when it closes. token-bucket: the limit at "
        "once, then evenly as it refills.",
    )
    groups: dict[Group, Limits] = Field(
        {},
        description="Other limits for consumers in these groups; of several groups the most generous holds, by what "
        "its tightest window allows a second.",
    )
    on_fault: Literal["allow", "deny"] = Field(
        "allow", description="What happens while the counters cannot be asked; deny answers 503."
    )
    headers: tuple[Literal["draft-03", "draft-10"], ...] = Field(
        ("draft-03", "draft-10"),
        description="Which headers show this rule: draft-03 `RateLimit-Limit`, `-Remaining`, `-Reset`; draft-10 "
        "`RateLimit-Policy` and `RateLimit`. An empty list hides the rule.",
    )

    @model_validator(mode="after")
    def _groups_need_somebody(self) -> Self:
        if self.groups and self.by == "ip":
            raise ValueError("a rule by ip is judged before authentication, so it cannot have limits for groups")
        return self


class _OneOrMany:
    """Read one rule as a list of one, where errors keep the place that the file has."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def _one_or_many(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> tuple[Rule, ...]:
    if not isinstance(value, dict | list | tuple):
        raise PydanticCustomError("rules_type", "must be a rule (a mapping) or a list of rules")
    rules: tuple[Rule, ...]
    rules = (Rule.model_validate(value, context=info.context),) if isinstance(value, dict) else handler(value)
    names = [rule.name for rule in rules if rule.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"has two rules called {name}")
    return rules


# ── the policy ──────────────────────────────────────────────────────────────────────────────────


class RateLimiting(Policy):
    """Limit how often a credential, a consumer, an organization, an address or anybody may call.

    Takes one rule or a list of rules. Rules of all three levels add up; a rule further in replaces the one of the
    same name further out, and all rules without a name share one. Where a rule is written is the scope of its
    count: all routes together, a service's together, or a route.

    All windows of all rules admit a request, or none counts it, and a refusal costs nothing. What another policy
    refused earlier does not count, save for rules `by: ip`, which run before authentication and are decided by
    themselves. Who lacks what a rule is `by` falls to the next of organization, consumer, credential, ip; so a
    request of the `anonymous` consumer, which has no credential, counts by its address where a rule is by
    credential, and a missing or empty header means the address. Callers choose a header's value themselves.
    IPv6 addresses count by their /64.

    `rate_limits` on a credential, consumer or organization replace the numbers of the rules that count by it;
    then come those of a group, then the rule's own. Limits that change go on from the counts that stand.

    Answers carry the headers of both drafts once a request was counted, whatever their status. They describe the
    window with the fewest left (of equals the shorter), on 429 the exhausted window that frees last.
    Refused: 429 `API rate limit exceeded` with `Retry-After`; with `on_fault: deny`, 503 `Service overloaded`.
    """

    name = "rate-limiting"
    phase: int = Phase.RATE_LIMITING

    class Config(
        RootModel[Annotated[tuple[Rule, ...], Field(min_length=1), WrapValidator(_one_or_many), _OneOrMany()]]
    ):
        """One rule, or a list of rules."""

    @classmethod
    def assemble(cls, entries: Sequence[Entry], environment: Environment) -> Sequence[Policy]:
        """One instance for the rules by address, before authentication, and one for all others, after it."""
        merged: dict[str | None, list[Placed]] = {}
        for entry in entries:
            placed = list(place(entry))
            for name in {item.rule.name for item in placed}:
                merged.pop(name, None)
            for item in placed:
                merged.setdefault(item.rule.name, []).append(item)
        rules = [item for items in merged.values() for item in items]
        phases = {
            Phase.RATE_LIMITING_BY_IP: [item for item in rules if item.rule.by == "ip"],
            Phase.RATE_LIMITING: [item for item in rules if item.rule.by != "ip"],
        }
        return [cls(tuple(items), environment, phase) for phase, items in phases.items() if items]

    def __init__(
        self, config: tuple[Placed, ...], environment: Environment, phase: Phase = Phase.RATE_LIMITING
    ) -> None:
        self.phase = phase
        self._take = environment.counters.take
        self._rules = ruleset(config, environment.route)

    def check(self, context: Context) -> Decision | Pending[Decision]:
        """Count the request, or refuse it."""
        return decide(self._rules, self._take, context)
