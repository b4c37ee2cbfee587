"""A route with `rate-limiting` on it, callers, and counters that write down what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Pending
from gateway.core.errors import CountersError
from gateway.core.identity import Consumer, Credential, Identity, Organization
from gateway.core.policy import Entry, Phase, Policy
from gateway.core.ports import Counters, Demand, Verdict
from gateway.counters.memory import MemoryCounters
from policies.rate_limiting import RateLimiting
from tests.policies.helpers import make_context, make_environment

SECOND = 1_000_000_000
START = 1_000 * SECOND
SCOPES = {"top": "*", "service": "service:lms", "route": "route:content-read"}

SCHOOL = Organization("o-1", "springfield")
KEY = Credential("k-1", "api-key", "pnpub_1", "c-1")
CALLER = Identity(Consumer("c-1", "mobile_app", organization=SCHOOL, groups=("contentUser",)), KEY)


def assemble(counters: Counters, **levels: Any) -> list[Policy]:
    """The instances of the route, from what stands at `top`, `service` and `route`, in the order of phases."""
    entries = [
        Entry(RateLimiting.Config.model_validate(levels[level]), level, scope)
        for level, scope in SCOPES.items()
        if level in levels
    ]
    return sorted(RateLimiting.assemble(entries, make_environment(counters=counters)), key=lambda one: one.phase)


class Gateway:
    """The policy on a route, with counters of its own, and a clock that stands until told."""

    def __init__(self, counters: Counters | None = None, **levels: Any) -> None:
        self.counters = MemoryCounters() if counters is None else counters
        self.policies = assemble(self.counters, **levels)
        self.now = START

    def reload(self, **levels: Any) -> None:
        self.policies = assemble(self.counters, **levels)

    def ask(self, identity: Identity | None = CALLER, after: float = 0, **request: Any) -> tuple[Decision, Context]:
        """One request: addresses are judged first, then somebody is authenticated, then the others are judged."""
        self.now += int(after * SECOND)
        context = make_context(**request)
        context.arrived = self.now
        decision: Decision = ALLOW
        for policy in self.policies:
            if policy.phase > Phase.AUTH:
                context.identity = identity
            answer = policy.check(context)
            assert isinstance(answer, Decision)
            decision = answer
            if decision is not ALLOW:
                break
        return decision, context

    def admits(self, identity: Identity | None = CALLER, **request: Any) -> bool:
        return self.ask(identity, **request)[0] is ALLOW

    def left(self, identity: Identity | None = CALLER, **request: Any) -> list[int]:
        """Per window what is left after one more request that was admitted."""
        decision, context = self.ask(identity, **request)
        assert decision is ALLOW
        return [left for left, _ in context.counted[2]]


def caller(
    credential: str | None = "k-1",
    consumer: str = "c-1",
    organization: str | None = None,
    groups: tuple[str, ...] = (),
    own: dict[str, tuple[str, ...]] | None = None,
) -> Identity:
    """Somebody with these ids; `own` holds the `rate_limits` of each part."""
    limits = own or {}
    school = None
    if organization is not None:
        school = Organization(organization, organization, rate_limits=limits.get("organization", ()))
    whom = Consumer(consumer, consumer, organization=school, groups=groups, rate_limits=limits.get("consumer", ()))
    if credential is None:
        return Identity(whom, anonymous=True)
    key = Credential(credential, "api-key", "pnpub_1", consumer, rate_limits=limits.get("credential", ()))
    return Identity(whom, key)


class Recorder:
    """Counters that write down what is demanded."""

    def __init__(self, verdict: Verdict | Pending[Verdict] | CountersError | None = None) -> None:
        self.seen: list[Sequence[Demand]] = []
        self.verdict = verdict

    def take(self, demands: Sequence[Demand], now_ns: int) -> Verdict | Pending[Verdict]:
        self.seen.append(demands)
        if isinstance(self.verdict, CountersError):
            raise self.verdict
        return self.verdict or Verdict(True, [(1, SECOND) for demand in demands for _ in demand.rates])
