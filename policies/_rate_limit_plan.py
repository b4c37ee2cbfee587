"""What `rate-limiting` demands of a caller: rules and an identity in, demands on the counters out (pure, law 1).

A rule names what it counts by; who calls decides which of the caller's parts that is, and which numbers hold.
Both are fixed for one identity on one set of rules, so they become a plan that is remembered with the identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from gateway.core.units import Rate, parse_rate
from policies._rate_limit_claims import Claim, Plan, Rates

if TYPE_CHECKING:
    from gateway.core.identity import Identity
    from gateway.core.policy import Entry
    from policies.rate_limiting import Rule

#: Who lacks the one falls to the next; then to the address.
_FALLS_TO = {
    "organization": ("organization", "consumer", "credential"),
    "consumer": ("consumer", "credential"),
    "credential": ("credential",),
}

#: Plans one identity remembers.
_PLANS = 256


class Placed(NamedTuple):
    """A rule where it was written: `prefix` begins its counter keys and tells it from every other rule."""

    prefix: str
    rule: Rule


class Ruleset:
    """The rules of one phase that hold on a route.  Routes with the same ones share it, and what it made."""

    __slots__ = ("__weakref__", "_placed", "_route", "nobody")

    def __init__(self, placed: tuple[Placed, ...], route: str) -> None:
        self._placed = placed
        self._route = route
        #: The plan of a request that nobody was authenticated for.
        self.nobody = self._plan(None)

    def plan(self, identity: Identity) -> Plan:
        """What is demanded of `identity`, from now on remembered with it."""
        derived = identity.derived
        if len(derived) >= _PLANS:
            derived.clear()
        plan = derived[self] = self._plan(identity)
        return plan

    def _plan(self, identity: Identity | None) -> Plan:
        return Plan(tuple(self._claim(prefix, rule, identity) for prefix, rule in self._placed))

    def _claim(self, prefix: str, rule: Rule, identity: Identity | None) -> Claim:
        rates = rule.limits
        if identity is not None:
            member_of = [limits for group, limits in rule.groups.items() if group in identity.groups]
            rates = max(member_of, key=_generosity, default=rates)
        if rule.by == "route":
            return Claim(prefix, rule, rates, f"route {self._route}")
        if identity is not None:
            parts = {
                "organization": identity.consumer.organization,
                "consumer": identity.consumer,
                "credential": identity.credential,
            }
            for kind in _FALLS_TO.get(rule.by, ()):
                part = parts[kind]
                if part is not None:
                    own = _parse(part.rate_limits) if part.rate_limits else rates
                    return Claim(prefix, rule, own, f"{kind} {part.id}")
        return Claim(prefix, rule, rates, None)


_rulesets: WeakValueDictionary[tuple[str, ...], Ruleset] = WeakValueDictionary()


def ruleset(placed: tuple[Placed, ...], route: str) -> Ruleset:
    """The rules of one phase on `route`: one object wherever they demand the same, also after a reload."""
    route = route if any(item.rule.by == "route" for item in placed) else ""
    key = (route, *(text for item in placed for text in (item.prefix, item.rule.model_dump_json())))
    found = _rulesets.get(key)
    if found is None:
        found = _rulesets[key] = Ruleset(placed, route)
    return found


def place(entry: Entry) -> Iterable[Placed]:
    """The rules of one level with the beginnings of their counter keys; rules alike in name and `by` are numbered."""
    seen: dict[str, int] = {}
    for rule in entry.config.root:
        prefix = f"{entry.scope} {rule.name or '-'} {rule.by.lower()}"
        seen[prefix] = number = seen.get(prefix, 0) + 1
        yield Placed(prefix if number == 1 else f"{prefix} #{number}", rule)


def _generosity(rates: Rates) -> float:
    return min(rate.limit / rate.seconds for rate in rates)


@lru_cache(maxsize=4096)
def _parse(texts: tuple[str, ...]) -> Rates:
    """Limits as an identity carries them; of two for one length the lower holds."""
    rates: dict[int, Rate] = {}
    for rate in map(parse_rate, texts):
        if rate.seconds not in rates or rate.limit < rates[rate.seconds].limit:
            rates[rate.seconds] = rate
    return tuple(rates.values())
